//! Privileges that injecting needs, and where they must not come from.

use nix::unistd::{getegid, geteuid, getgid, getuid};
use std::fs;

/// A capability kchaos needs, with its bit in `CapEff` (include/uapi/linux/capability.h) and what for.
pub const NEEDED: [(&str, u32, &str); 5] = [
    ("CAP_BPF", 39, "load programs and make maps"),
    ("CAP_PERFMON", 38, "attach to kernel functions and read kernel memory in programs"),
    ("CAP_NET_ADMIN", 12, "attach to network devices and cgroups"),
    ("CAP_SYS_ADMIN", 21, "enter network namespaces and write to cgroups"),
    // `ptrace_may_access` for /proc/PID/ns/net, from `proc_ns_get_link`, fs/proc/namespaces.c.
    ("CAP_SYS_PTRACE", 19, "see the network namespaces of processes that have other capabilities"),
];

/// Whether this program has more rights than whoever started it: its file is set-user-ID, set-group-ID or has capabilities.
/// Then anybody who may run it could harm any process of the host. `AT_SECURE` alone may also be a security module's doing
/// (`bprm->secureexec`, security/security.c), which for root does not matter.
pub fn is_lent() -> bool {
    // SAFETY: takes a plain number.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    getuid() != geteuid() || getgid() != getegid() || is_secure && !getuid().is_root()
}

/// The capabilities that are missing, as `NAME (what for)`.
pub fn missing() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_in(&status)
}

/// The same from the text of /proc/PID/status.
pub fn missing_in(status: &str) -> Vec<String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED
        .iter()
        .filter(|(_, bit, _)| effective & (1 << bit) == 0)
        .map(|(name, _, why)| format!("{name} ({why})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert!(missing_in("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_in("CapEff:\t0000000000000000\n").len(), NEEDED.len());
        let without_bpf = missing_in(&format!("CapEff:\t{:016x}\n", 0x1ff_ffff_ffffu64 & !(1 << 39)));
        assert_eq!(without_bpf.len(), 1);
        assert!(without_bpf[0].starts_with("CAP_BPF"));
    }
}
