//! Which security hook a call passes.

use chaos_common::syscall::{HOOK_FILE_PERMISSION, HOOK_SECURITY_FIRST, HOOKS_MAX};

/// The hook that every successful run of a call passes exactly once, before the call has an effect of its own, and a
/// second one for calls that pass either of two. Which rows a victim has felt is shown by
/// `tests/tests/syscall_mechanisms.rs`; the others follow include/linux/lsm_hook_defs.h.
///
/// Not quite so: `file_open` fires after O_CREAT has made the file, `file_mprotect` fires once per mapping in the range.
/// Calls that pass a hook twice (sendfile, splice, copy_file_range, socketpair's creation) or per message (sendmmsg,
/// recvmmsg) are left out.
pub fn of(call: &str) -> Option<(&'static str, Option<&'static str>)> {
    Some(match call {
        "unlinkat" => ("inode_unlink", Some("inode_rmdir")),
        "mknod" | "mknodat" => ("inode_mknod", Some("inode_create")),
        _ => (one(call)?, None),
    })
}

fn one(call: &str) -> Option<&'static str> {
    Some(match call {
        "open" | "openat" | "openat2" | "creat" => "file_open",
        "read" | "pread64" | "readv" | "preadv" | "preadv2" | "write" | "pwrite64" | "writev" | "pwritev"
        | "pwritev2" | "getdents" | "getdents64" | "fallocate" => "file_permission",
        "socket" => "socket_create",
        "socketpair" => "socket_socketpair",
        "bind" => "socket_bind",
        "connect" => "socket_connect",
        "listen" => "socket_listen",
        "accept" | "accept4" => "socket_accept",
        "sendto" | "sendmsg" => "socket_sendmsg",
        "recvfrom" | "recvmsg" => "socket_recvmsg",
        "shutdown" => "socket_shutdown",
        "getsockopt" => "socket_getsockopt",
        "setsockopt" => "socket_setsockopt",
        "getsockname" => "socket_getsockname",
        "getpeername" => "socket_getpeername",
        "mmap" => "mmap_file",
        "mprotect" | "pkey_mprotect" => "file_mprotect",
        "fork" | "vfork" | "clone" | "clone3" => "task_alloc",
        "execve" | "execveat" => "bprm_creds_for_exec",
        "kill" | "tkill" | "tgkill" => "task_kill",
        "unlink" => "inode_unlink",
        "mkdir" | "mkdirat" => "inode_mkdir",
        "rmdir" => "inode_rmdir",
        "rename" | "renameat" | "renameat2" => "inode_rename",
        "link" | "linkat" => "inode_link",
        "symlink" | "symlinkat" => "inode_symlink",
        "readlink" | "readlinkat" => "inode_readlink",
        "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => "inode_getattr",
        "chmod" | "fchmod" | "fchmodat" | "fchmodat2" | "chown" | "lchown" | "fchown" | "fchownat"
        | "truncate" | "ftruncate" | "utime" | "utimes" | "futimesat" | "utimensat" => "inode_setattr",
        "getxattr" | "lgetxattr" | "fgetxattr" => "inode_getxattr",
        "listxattr" | "llistxattr" | "flistxattr" => "inode_listxattr",
        "statfs" | "fstatfs" => "sb_statfs",
        "fcntl" => "file_fcntl",
        "ioctl" => "file_ioctl",
        "flock" => "file_lock",
        "mount" => "sb_mount",
        "umount2" => "sb_umount",
        "shmat" => "shm_shmat",
        "bpf" => "bpf",
        "perf_event_open" => "perf_event_open",
        _ => return None,
    })
}

/// Hooks in use. A hook's id is its place in this list plus [`HOOK_SECURITY_FIRST`], except `file_permission`, whose
/// id the kernel programs know.
const HOOKS: [&str; 42] = [
    "file_open",
    "socket_create",
    "socket_socketpair",
    "socket_bind",
    "socket_connect",
    "socket_listen",
    "socket_accept",
    "socket_sendmsg",
    "socket_recvmsg",
    "socket_shutdown",
    "socket_getsockopt",
    "socket_setsockopt",
    "socket_getsockname",
    "socket_getpeername",
    "mmap_file",
    "file_mprotect",
    "task_alloc",
    "bprm_creds_for_exec",
    "task_kill",
    "inode_unlink",
    "inode_mkdir",
    "inode_rmdir",
    "inode_rename",
    "inode_link",
    "inode_symlink",
    "inode_mknod",
    "inode_create",
    "inode_readlink",
    "inode_getattr",
    "inode_setattr",
    "inode_getxattr",
    "inode_listxattr",
    "sb_statfs",
    "file_fcntl",
    "file_ioctl",
    "file_lock",
    "sb_mount",
    "sb_umount",
    "shm_shmat",
    "bpf",
    "perf_event_open",
    "file_permission",
];

/// Id of a hook in the call table.
pub fn id(hook: &str) -> u32 {
    if hook == "file_permission" {
        return HOOK_FILE_PERMISSION;
    }
    let place = HOOKS.iter().position(|known| *known == hook);
    place.map_or(HOOKS_MAX - 1, |place| place as u32 + HOOK_SECURITY_FIRST)
}

/// Whether a call that passes `file_permission` asks to write.
pub fn writes(call: &str) -> bool {
    matches!(call, "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "fallocate")
}

/// Calls that io_uring can make too (include/uapi/linux/io_uring.h): there, the hook is all that tells them apart, so
/// one read is like another.
pub fn in_ring(call: &str) -> bool {
    matches!(
        call,
        "openat"
            | "openat2"
            | "read"
            | "readv"
            | "pread64"
            | "preadv"
            | "preadv2"
            | "write"
            | "writev"
            | "pwrite64"
            | "pwritev"
            | "pwritev2"
            | "fallocate"
            | "ftruncate"
            | "statx"
            | "socket"
            | "bind"
            | "listen"
            | "connect"
            | "accept"
            | "accept4"
            | "sendto"
            | "sendmsg"
            | "recvfrom"
            | "recvmsg"
            | "shutdown"
            | "unlinkat"
            | "renameat"
            | "renameat2"
            | "mkdirat"
            | "symlinkat"
            | "linkat"
            | "getxattr"
            | "fgetxattr"
    )
}

/// Whether io_uring can do what the call does, also without passing a security hook.
pub fn ring_does(call: &str) -> bool {
    in_ring(call)
        || matches!(
            call,
            "fsync"
                | "fdatasync"
                | "sync_file_range"
                | "close"
                | "fadvise64"
                | "madvise"
                | "epoll_ctl"
                | "epoll_wait"
                | "poll"
                | "splice"
                | "tee"
                | "setxattr"
                | "fsetxattr"
                | "waitid"
                | "futex"
                | "pipe2"
                | "getsockopt"
                | "setsockopt"
                | "ioctl"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use syscalls::x86_64::Sysno;

    #[test]
    fn every_hook_of_the_table_has_an_id_and_every_id_is_used() {
        let of_calls = Sysno::iter().filter_map(|call| of(call.name()));
        let mut used: Vec<_> = of_calls.flat_map(|(hook, other)| [Some(hook), other]).flatten().collect();
        used.sort_unstable();
        used.dedup();
        let mut known = HOOKS.to_vec();
        known.sort_unstable();
        assert_eq!(used, known);
        let mut ids: Vec<_> = used.iter().map(|hook| id(hook)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), used.len());
        assert!(ids.iter().all(|id| (HOOK_FILE_PERMISSION..HOOKS_MAX - 1).contains(id)));
    }
}
