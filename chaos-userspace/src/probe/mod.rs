//! What this kernel can do, decided by trying.

pub mod assembly;
pub mod facts;
pub mod felt;
pub mod kernel;
mod latency;
mod seccomp;
pub mod selftest;
mod syscall;

use crate::{
    host::users,
    plan::{EntryHook, Registers},
};
use std::{fmt, path::Path};

/// Why something cannot be done, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unable {
    /// The reason.
    pub why: String,
    /// The remedy.
    pub remedy: String,
}

impl Unable {
    /// Both in words.
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into() }
    }

    /// This and the next way both fail.
    pub fn and(self, next: Self) -> Self {
        Self {
            why: if self.why.contains(&next.why) { self.why } else { format!("{}; {}", self.why, next.why) },
            remedy: if self.remedy.contains(&next.remedy) {
                self.remedy
            } else {
                format!("{}, or {}", self.remedy, next.remedy)
            },
        }
    }
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (remedy: {})", self.why, self.remedy)
    }
}

/// What planning asks the host. Tests answer it with made-up hosts.
pub trait Abilities {
    /// tcx links: egress faults that go with their owner.
    fn tcx(&self) -> Result<(), Unable>;
    /// clsact filters.
    fn clsact(&self) -> Result<(), Unable>;
    /// Delay lines: veth pairs and netem.
    fn line(&self) -> Result<(), Unable>;
    /// Finding the target of an arriving packet at its device, on a tcx link.
    fn arrival(&self) -> Result<(), Unable>;
    /// cgroup_skb links.
    fn cgroup_skb(&self) -> Result<(), Unable>;
    /// Overriding the return value of this function by a kprobe.
    fn kprobe_override(&self, function: &str) -> Result<(), Unable>;
    /// The same by a kprobe.multi link.
    fn kprobe_multi(&self, function: &str) -> Result<(), Unable>;
    /// Replacing this system call function in a trampoline.
    fn fmod_ret_sys(&self, function: &str) -> Result<(), Unable>;
    /// Replacing this security function in a trampoline.
    fn fmod_ret_security(&self, function: &str) -> Result<(), Unable>;
    /// Looking on where this function begins, by a kprobe.
    fn kprobe(&self, function: &str) -> Result<(), Unable>;
    /// Looking on where this function begins and ends.
    fn fentry(&self, function: &str) -> Result<(), Unable>;
    /// A BPF LSM program on this hook that really fires.
    fn lsm(&self, hook: &str) -> Result<(), Unable>;
    /// A BPF LSM program that sleeps on this hook, until the sleeper answers.
    fn sleep(&self, hook: &str) -> Result<(), Unable>;
    /// Stopping processes behind their calls, and letting them go on.
    fn stop(&self) -> Result<(), Unable>;
    /// Asking a process before another one's calls, and taking its answer.
    fn seccomp(&self) -> Result<(), Unable>;
    /// Socket hooks of a cgroup that can set any errno.
    fn socket_hooks(&self) -> Result<(), Unable>;
    /// Claiming success in place of a call, with the value 0 (`zero`) or one above.
    fn claims_success(&self, by: EntryHook, zero: bool) -> Result<(), Unable>;
    /// Whether the kernel has this function.
    fn has_function(&self, function: &str) -> bool;
    /// Whether 32-bit programs run here.
    fn has_compat_callers(&self) -> bool {
        self.has_function("__ia32_sys_read")
    }
    /// Number of a user of this host.
    fn uid(&self, name: &str) -> Option<u32> {
        users::uid(Path::new("/"), name)
    }
    /// Where a task's registers are.
    fn registers(&self) -> Registers;
    /// Telling a process and what it starts from others of its cgroup.
    fn process_trees(&self) -> Result<(), Unable>;
    /// Whether tracing programs can ask for a task's ancestor cgroup (5.12).
    fn task_ancestor(&self) -> Result<bool, Unable>;
    /// Whether programs can count exactly across CPUs: atomic operations that return a value (5.12).
    fn exact_counting(&self) -> Result<bool, Unable>;
}
