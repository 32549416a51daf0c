//! Facts the kernel states about itself in files. What it can do is tried instead (see [`crate::probe`]).

use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
use std::{collections::HashSet, fs, path::Path, sync::OnceLock};

/// Where the kernel's type information lies.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Release, as `uname -r` prints it.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// Whether the kernel has type information, which finding the functions of hooks needs.
pub fn has_btf() -> bool {
    Path::new(BTF_PATH).exists()
}

/// The active security modules, where securityfs is mounted.
pub fn security_modules() -> Option<String> {
    fs::read_to_string("/sys/kernel/security/lsm").ok().map(|list| list.trim().to_owned())
}

/// The kernel's functions that a BPF trampoline is on: `fentry`, `fexit` or `fmod_ret` of anybody. None are known where
/// tracefs is not mounted.
pub fn functions_with_trampolines() -> HashSet<String> {
    let mut places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].iter();
    let all = places.find_map(|tracefs| fs::read_to_string(format!("{tracefs}/enabled_functions")).ok());
    with_trampolines(&all.unwrap_or_default())
}

/// A line names the function and how many look on; where a direct call goes stands behind it or on a line of its own
/// (`t_show`, kernel/trace/ftrace.c).
fn with_trampolines(enabled_functions: &str) -> HashSet<String> {
    let (mut found, mut last) = (HashSet::new(), None);
    for line in enabled_functions.lines() {
        if !line.starts_with(char::is_whitespace) {
            last = line.split_ascii_whitespace().next();
        }
        if line.contains("direct-->") {
            found.extend(last.map(str::to_owned));
        }
    }
    found
}

/// What the kernel keeps even from root, where that can be read: `[none] integrity confidentiality`, the active level in
/// brackets.
pub fn lockdown() -> Option<String> {
    fs::read_to_string("/sys/kernel/security/lockdown").ok()
}

/// While it lives, this process may lock as much memory as it is allowed to ask for: kernels before 5.11 charge maps
/// and programs to `RLIMIT_MEMLOCK`. Restored at the end, since a command we start inherits it.
#[derive(Debug)]
pub struct MemoryLockLimit(Option<(u64, u64)>);

impl MemoryLockLimit {
    /// Lifts it as far as possible. Where that is not far enough, the kernel refuses the map with its own reason.
    pub fn lift() -> Self {
        use nix::sys::resource::{RLIM_INFINITY, Resource::RLIMIT_MEMLOCK, getrlimit, setrlimit};
        let Ok((soft, hard)) = getrlimit(RLIMIT_MEMLOCK) else { return Self(None) };
        let lifted = setrlimit(RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
            .or_else(|_| setrlimit(RLIMIT_MEMLOCK, hard, hard));
        Self(lifted.is_ok().then_some((soft, hard)))
    }
}

impl Drop for MemoryLockLimit {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.0 {
            let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK, soft, hard);
        }
    }
}

/// Descriptors that everything but targets takes.
const DESCRIPTORS_BASE: u64 = 1024;
/// Descriptors per target: its directory, and links to its hooks, each twice while it is moved.
const DESCRIPTORS_PER_TARGET: u64 = 6;

/// How many descriptors this process was allowed when it was started, softly and at most.
static DESCRIPTORS_AT_START: OnceLock<(u64, u64)> = OnceLock::new();

/// Lets this process have as many descriptors as so many targets take. Where it may not, opening them fails with its own
/// reason.
pub fn allow_descriptors(targets: usize) {
    let wanted = DESCRIPTORS_BASE + DESCRIPTORS_PER_TARGET * targets as u64;
    let Ok((soft, hard)) = getrlimit(RLIMIT_NOFILE) else { return };
    let _kept = DESCRIPTORS_AT_START.set((soft, hard));
    if soft < wanted && setrlimit(RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
        let _ = setrlimit(RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

/// Takes back what [`allow_descriptors`] has allowed, for a program that takes this process's place. Makes a system call and
/// nothing else.
pub fn restore_descriptors() {
    if let Some((soft, hard)) = DESCRIPTORS_AT_START.get() {
        let _unchanged = setrlimit(RLIMIT_NOFILE, *soft, *hard);
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trampolines_are_direct_calls() {
        let text = "__x64_sys_openat (2) R I D   M \ttramp: ftrace_regs_caller+0x0/0x65 (ops)\n\tdirect-->bpf_trampoline_1+0x0/0x2f\n\
                    __x64_sys_read (1) R   D \tdirect-->bpf_trampoline_2+0x0/0x2f\nvfs_read (1) R I    \ttramp: 0xffffffffc0 (kprobe)\n";
        let found = with_trampolines(text);
        assert!(found.contains("__x64_sys_openat") && found.contains("__x64_sys_read"));
        assert_eq!(found.len(), 2);
    }
}
