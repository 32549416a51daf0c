//! Privileges that injecting needs, and where they must not come from.

use nix::unistd::{getegid, geteuid, getgid, getuid};
use std::fs;

/// A capability that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Its name.
    pub name: &'static str,
    /// Its bit in `CapEff` (include/uapi/linux/capability.h).
    pub bit: u32,
    /// What for.
    pub why: &'static str,
    /// Whether faults of packets alone need it.
    pub for_packets: bool,
}

/// The least that kchaos does its work with. `CAP_SYS_ADMIN` has what `CAP_BPF` and `CAP_PERFMON` allow (`bpf_capable`,
/// `perfmon_capable`, include/linux/capability.h), but not the other way round: entering a namespace (`netns_install`,
/// net/core/net_namespace.c) and moving a process to another cgroup need it.
pub const NEEDED: [Needed; 3] = [
    Needed {
        name: "CAP_SYS_ADMIN",
        bit: 21,
        why: "load and attach programs, and enter network namespaces",
        for_packets: false,
    },
    Needed {
        name: "CAP_NET_ADMIN",
        bit: 12,
        why: "make delay lines, and filters of devices below Linux 6.6",
        for_packets: true,
    },
    // `ptrace_may_access` for /proc/PID/ns/net, from `proc_ns_get_link`, fs/proc/namespaces.c.
    Needed {
        name: "CAP_SYS_PTRACE",
        bit: 19,
        why: "see the network namespaces of processes that have other capabilities",
        for_packets: true,
    },
];

/// `CAP_BPF` and `CAP_PERFMON`: with both, faults of calls need nothing else.
pub const INSTEAD: [u32; 2] = [39, 38];

/// Whether this program has more rights than whoever started it: its file is set-user-ID, set-group-ID or has capabilities.
/// Then anybody who may run it could harm any process of the host. `AT_SECURE` alone may also be a security module's doing
/// (`bprm->secureexec`, security/security.c), which for root does not matter.
pub fn is_lent() -> bool {
    // SAFETY: takes a plain number.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    getuid() != geteuid() || getgid() != getegid() || is_secure && !getuid().is_root()
}

/// The capabilities that are missing, as `NAME (what for)`; those for faults of packets among them if there are such.
pub fn missing(packets: bool) -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_in(&status, packets)
}

/// The same from the text of /proc/PID/status.
pub fn missing_in(status: &str, packets: bool) -> Vec<String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: &u32| effective & (1 << bit) != 0;
    if !packets && INSTEAD.iter().all(has) {
        return vec![];
    }
    NEEDED
        .iter()
        .filter(|needed| effective & (1 << needed.bit) == 0 && (packets || !needed.for_packets))
        .map(|Needed { name, why, .. }| format!("{name} ({why})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert!(missing_in("Name:\tx\nCapEff:\t000001ffffffffff\n", true).is_empty());
        assert_eq!(missing_in("CapEff:\t0000000000000000\n", true).len(), NEEDED.len());
        assert_eq!(missing_in("CapEff:\t0000000000000000\n", false).len(), 1);
        let without_admin = missing_in(&format!("CapEff:\t{:016x}\n", 0x1ff_ffff_ffffu64 & !(1 << 21)), true);
        assert_eq!(without_admin.len(), 1);
        assert!(without_admin[0].starts_with("CAP_SYS_ADMIN"));
        assert!(missing_in("CapEff:\t0000000000200000\n", false).is_empty());
        assert!(missing_in("CapEff:\t000000c000000000\n", false).is_empty());
        assert_eq!(missing_in("CapEff:\t000000c000000000\n", true).len(), NEEDED.len());
        assert_eq!(missing_in("CapEff:\t0000008000000000\n", false).len(), 1);
    }
}
