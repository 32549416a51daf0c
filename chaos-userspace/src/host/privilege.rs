//! Privileges that injecting needs.

use std::fs;

/// A capability kchaos needs, with its bit in `CapEff` (include/uapi/linux/capability.h) and what for.
pub const NEEDED: [(&str, u32, &str); 4] = [
    ("CAP_BPF", 39, "load programs and make maps"),
    ("CAP_PERFMON", 38, "attach to kernel functions and read kernel memory in programs"),
    ("CAP_NET_ADMIN", 12, "attach to network devices and cgroups"),
    ("CAP_SYS_ADMIN", 21, "enter network namespaces and write to cgroups"),
];

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
