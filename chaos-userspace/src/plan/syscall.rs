//! Which hook carries a system call fault.

use super::{Mechanism, PlannedRule};
use crate::{
    probe::{Abilities, Unable},
    spec::{
        Fault as SpecFault,
        syscall::{Call, Fault, Mechanism as Wanted},
    },
};
use chaos_common::arch::native::SYSCALL_PREFIX;

/// LSM hooks in use. A hook's id is its place in this list plus one; 0 is the entry of the call itself.
const HOOKS: [&str; 19] = [
    "file_open",
    "file_permission",
    "socket_create",
    "socket_bind",
    "socket_connect",
    "socket_listen",
    "socket_accept",
    "socket_sendmsg",
    "socket_recvmsg",
    "socket_shutdown",
    "mmap_file",
    "file_mprotect",
    "task_alloc",
    "bprm_check_security",
    "inode_unlink",
    "inode_mkdir",
    "inode_rmdir",
    "inode_rename",
    "inode_getattr",
];

/// The LSM hook that every successful run of a call passes exactly once, before the call has an effect of its own
/// (read in Linux 6.12: fs/open.c, fs/read_write.c, fs/namei.c, fs/stat.c, fs/exec.c, kernel/fork.c, mm/util.c,
/// mm/mprotect.c, net/socket.c). One exception: `file_open` fires after O_CREAT has made the file.
fn lsm_hook(call: &str) -> Option<&'static str> {
    Some(match call {
        "open" | "openat" | "openat2" | "creat" => "file_open",
        "read" | "pread64" | "readv" | "preadv" | "preadv2" | "write" | "pwrite64" | "writev" | "pwritev"
        | "pwritev2" | "getdents" | "getdents64" => "file_permission",
        "socket" => "socket_create",
        "bind" => "socket_bind",
        "connect" => "socket_connect",
        "listen" => "socket_listen",
        "accept" | "accept4" => "socket_accept",
        "sendto" | "sendmsg" => "socket_sendmsg",
        "recvfrom" | "recvmsg" => "socket_recvmsg",
        "shutdown" => "socket_shutdown",
        "mmap" => "mmap_file",
        "mprotect" => "file_mprotect",
        "fork" | "vfork" | "clone" | "clone3" => "task_alloc",
        "execve" | "execveat" => "bprm_check_security",
        "unlink" => "inode_unlink",
        "mkdir" | "mkdirat" => "inode_mkdir",
        "rmdir" => "inode_rmdir",
        "rename" | "renameat" | "renameat2" => "inode_rename",
        "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => "inode_getattr",
        _ => return None,
    })
}

/// Id of a hook in the call table.
fn hook_id(hook: &str) -> u32 {
    HOOKS.iter().position(|known| *known == hook).map_or(u32::MAX, |place| place as u32 + 1)
}

/// Chooses the hook: the call's own entry where the kernel can override it, else the LSM hook the call passes.
pub fn mechanism(
    fault: &Fault,
    wanted: Option<Wanted>,
    abilities: &impl Abilities,
) -> Result<Mechanism, Unable> {
    match wanted {
        Some(Wanted::Kprobe) => kprobe(fault.call, abilities),
        Some(Wanted::Lsm) => lsm(fault.call, abilities),
        None => kprobe(fault.call, abilities)
            .or_else(|no_kprobe| lsm(fault.call, abilities).map_err(|no_lsm| no_kprobe.and(no_lsm))),
    }
}

fn kprobe(call: Call, abilities: &impl Abilities) -> Result<Mechanism, Unable> {
    let function = format!("{SYSCALL_PREFIX}{}", call.name());
    abilities.kprobe_override(&function)?;
    Ok(Mechanism::Kprobe { function })
}

fn lsm(call: Call, abilities: &impl Abilities) -> Result<Mechanism, Unable> {
    let Some(hook) = lsm_hook(call.name()) else {
        return Err(Unable::new(
            format!("lsm: no LSM hook is passed exactly once by {}", call.name()),
            "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE",
        ));
    };
    abilities.lsm(hook)?;
    Ok(Mechanism::Lsm { hook, id: hook_id(hook) })
}

/// A call is judged at one hook. Two rules for one call always choose the same one, unless a later change breaks that.
pub fn conflict(rules: &[PlannedRule]) -> Option<String> {
    let calls: Vec<_> = rules
        .iter()
        .filter_map(|rule| match &rule.fault {
            SpecFault::Syscall(fault) => Some((fault.call, &rule.mechanisms)),
            SpecFault::Network(_) => None,
        })
        .collect();
    let (call, _) = calls
        .iter()
        .find(|(call, ours)| calls.iter().any(|(other, theirs)| call == other && ours != theirs))?;
    Some(format!("{} would be judged at two hooks: choose one with --mechanism", call.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syscalls::x86_64::Sysno;

    #[test]
    fn every_hook_of_the_table_has_an_id_and_every_id_is_used() {
        let mut used: Vec<_> = Sysno::iter().filter_map(|call| lsm_hook(call.name())).collect();
        used.sort_unstable();
        used.dedup();
        let mut known = HOOKS.to_vec();
        known.sort_unstable();
        assert_eq!(used, known);
        assert!(used.iter().all(|hook| (1..=HOOKS.len() as u32).contains(&hook_id(hook))));
    }
}
