//! Where a call's arguments are.

use chaos_common::{
    arch::native::{ARGUMENTS, ARGUMENTS_COMPAT},
    syscall_match::{
        Arguments, FLAGS_BEHIND, FLAGS_DIRECT, FLAGS_WRITE, NO_REGISTER, SUBJECT_BINPRM, SUBJECT_FILE,
        SUBJECT_NONE, SUBJECT_PATH,
    },
};

/// What a call works on, by the number of the argument, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Paths, each with the descriptor of the directory that a relative one starts from, if the call takes one.
    pub paths: [Option<(Option<usize>, usize)>; 2],
    /// A descriptor.
    pub file: Option<usize>,
    /// Whether that is one of a socket always.
    pub is_socket: bool,
}

/// Where the number of bytes of a call is.
pub fn size(call: &str) -> Option<usize> {
    match call {
        "read" | "write" | "pread64" | "pwrite64" | "sendto" | "recvfrom" | "getdents64" | "readahead" => {
            Some(2)
        }
        "mmap" | "getrandom" | "truncate" | "ftruncate" => Some(1),
        _ => None,
    }
}

/// Where a call says what a file is opened for, and how.
pub fn flags(call: &str) -> Option<(Option<usize>, u8)> {
    match call {
        "open" => Some((Some(1), FLAGS_DIRECT)),
        "openat" => Some((Some(2), FLAGS_DIRECT)),
        "openat2" => Some((Some(2), FLAGS_BEHIND)),
        "creat" => Some((None, FLAGS_WRITE)),
        _ => None,
    }
}

/// Where a call names its peer; `Some(None)` if only its socket knows.
pub fn peer(call: &str) -> Option<Option<usize>> {
    match call {
        "connect" => Some(Some(1)),
        "sendto" => Some(Some(4)),
        "read" | "readv" | "write" | "writev" | "recvfrom" | "shutdown" => Some(None),
        _ => None,
    }
}

/// Whether a 32-bit caller passes the address of its arguments instead of them.
pub fn are_behind(compat: &str) -> bool {
    // Of `struct mmap_arg_struct32` (arch/x86/kernel/sys_ia32.c).
    compat == "mmap"
}

/// The same as [`size`] for the call as a 32-bit caller names it.
fn compat_size(compat: &str) -> Option<usize> {
    match compat {
        // In two registers.
        "truncate64" | "ftruncate64" => None,
        // Behind an offset that is in two (arch/x86/kernel/sys_ia32.c).
        "readahead" => Some(3),
        other => size(other.trim_end_matches('2')),
    }
}

/// Where the arguments of a call are (the manual pages; 32-bit callers' are in the same order).
pub fn of(call: &str) -> Positions {
    let path =
        |directory, path| Positions { paths: [Some((directory, path)), None], file: None, is_socket: false };
    match call {
        "acct" | "swapon" | "swapoff" | "uselib" | "open" | "creat" | "unlink" | "rmdir" | "mkdir"
        | "readlink" | "mknod" | "stat" | "lstat" | "access" | "chmod" | "chown" | "lchown" | "truncate"
        | "utime" | "utimes" | "statfs" | "execve" | "chdir" | "chroot" | "umount2" | "getxattr"
        | "lgetxattr" | "setxattr" | "lsetxattr" | "listxattr" | "llistxattr" | "removexattr"
        | "lremovexattr" => path(None, 0),
        "openat" | "openat2" | "unlinkat" | "mkdirat" | "readlinkat" | "mknodat" | "newfstatat" | "statx"
        | "faccessat" | "faccessat2" | "fchmodat" | "fchmodat2" | "fchownat" | "futimesat" | "utimensat"
        | "execveat" | "open_tree" | "name_to_handle_at" | "fspick" | "mount_setattr" => path(Some(0), 1),
        "symlink" | "mount" | "quotactl" | "inotify_add_watch" => path(None, 1),
        "symlinkat" => path(Some(1), 2),
        "rename" | "link" | "pivot_root" => {
            Positions { paths: [Some((None, 0)), Some((None, 1))], ..Positions::default() }
        }
        "renameat" | "renameat2" | "linkat" | "move_mount" => {
            Positions { paths: [Some((Some(0), 1)), Some((Some(2), 3))], ..Positions::default() }
        }
        "read" | "pread64" | "readv" | "preadv" | "preadv2" | "write" | "pwrite64" | "writev" | "pwritev"
        | "pwritev2" | "fsync" | "fdatasync" | "syncfs" | "sync_file_range" | "close" | "fstat"
        | "fstatfs" | "ftruncate" | "fallocate" | "fadvise64" | "readahead" | "getdents" | "getdents64"
        | "lseek" | "ioctl" | "fcntl" | "flock" | "fchmod" | "fchown" | "fchdir" | "fgetxattr"
        | "fsetxattr" | "flistxattr" | "fremovexattr" | "dup" | "dup2" | "dup3" | "cachestat" => {
            Positions { file: Some(0), ..Positions::default() }
        }
        "connect" | "bind" | "listen" | "accept" | "accept4" | "sendto" | "sendmsg" | "recvfrom"
        | "recvmsg" | "shutdown" | "getsockopt" | "setsockopt" | "getsockname" | "getpeername" => {
            Positions { file: Some(0), is_socket: true, ..Positions::default() }
        }
        "mmap" => Positions { file: Some(4), ..Positions::default() },
        _ => Positions::default(),
    }
}

impl Positions {
    /// Whether the call works on something that has a path.
    pub fn has_path(&self) -> bool {
        self.paths[0].is_some() || (self.file.is_some() && !self.is_socket)
    }

    /// The same as registers of a caller; of a 32-bit one, with the name it has for the call.
    pub fn registers(&self, call: &str, compat: Option<&str>) -> Arguments {
        let (table, size) = match compat {
            Some(name) => (ARGUMENTS_COMPAT, compat_size(name)),
            None => (ARGUMENTS, size(call)),
        };
        let register = |position: Option<usize>| position.map_or(NO_REGISTER, |position| table[position]);
        Arguments {
            subject: SUBJECT_NONE,
            paths: self.paths.map(|path| register(path.map(|(_, path)| path))),
            directories: self.paths.map(|path| register(path.and_then(|(directory, _)| directory))),
            file: register(self.file),
            size: register(size),
            flags: register(flags(call).and_then(|(position, _)| position)),
            flags_kind: flags(call).map_or(FLAGS_DIRECT, |(_, kind)| kind),
            peer: register(peer(call).flatten()),
            reserved: [0; 6],
        }
    }
}

/// What the first argument of a security hook is (include/linux/lsm_hook_defs.h).
pub fn subject(hook: &str) -> u8 {
    match hook {
        "file_open" | "file_permission" | "file_ioctl" | "file_fcntl" | "file_lock" | "mmap_file" => {
            SUBJECT_FILE
        }
        "inode_getattr" => SUBJECT_PATH,
        "bprm_creds_for_exec" => SUBJECT_BINPRM,
        _ => SUBJECT_NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::syscall::hooks,
        spec::{call_class::Class, syscall::Call},
    };
    use syscalls::x86_64::Sysno;

    #[test]
    fn calls_on_files_are_known() {
        for call in Sysno::iter().map(|call| call.name()) {
            if let Some((hook, _)) = hooks::of(call)
                && subject(hook) != SUBJECT_NONE
            {
                assert!(of(call).has_path(), "{call} passes {hook}, which says what it works on");
            }
        }
    }

    #[test]
    fn calls_with_paths_are_known() {
        let unknown: Vec<_> =
            Class::File.calls().into_iter().map(Call::name).filter(|call| !of(call).has_path()).collect();
        // Of a file system that is being made, of no file, and with a place that differs between callers.
        assert_eq!(unknown, ["getcwd", "fanotify_mark", "fsconfig"]);
    }

    #[test]
    fn registers_follow_the_calling_convention() {
        let renameat = of("renameat").registers("renameat", None);
        // di, si, dx, r10 (arch/x86/entry/entry_64.S) as places in struct pt_regs.
        assert_eq!((renameat.directories, renameat.paths), ([15, 13], [14, 8]));
        // bx, cx, dx, si.
        let renameat = of("renameat").registers("renameat", Some("renameat"));
        assert_eq!((renameat.directories, renameat.paths), ([6, 13], [12, 14]));
        assert_eq!(of("getpid").registers("getpid", None), Arguments::default());
        // Lengths of files take two registers of a 32-bit caller; offsets too, before the size of a read-ahead.
        let size = |call: &str, compat| of(call).registers(call, compat).size;
        assert_eq!((size("truncate", None), size("truncate", Some("truncate"))), (14, 12));
        assert_eq!((size("truncate", Some("truncate64")), size("readahead", Some("readahead"))), (0, 14));
        assert_eq!((size("mmap", Some("mmap2")), size("read", Some("read"))), (12, 13));
    }
}
