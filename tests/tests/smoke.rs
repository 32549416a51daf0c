//! The virtual machine is what the other tests take for granted: root, cgroup v2, BTF, the network tools.

use std::path::Path;
use std::process::Command;

fn runs(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn is_root() {
    assert!(nix::unistd::geteuid().is_root());
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn cgroup2_is_mounted() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")), "{mounts}");
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn kernel_has_btf() {
    assert!(Path::new("/sys/kernel/btf/vmlinux").is_file());
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn network_tools_are_there() {
    for (program, args) in [("ip", ["link", "show"]), ("tc", ["qdisc", "show"]), ("ss", ["-t", "-n"])] {
        assert!(runs(program, &args), "{program} {args:?}");
    }
}
