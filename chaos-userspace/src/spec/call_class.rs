//! strace's classes of system calls.

use super::syscall::Call;
use std::{fmt, str::FromStr};

/// A class of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Class {
    /// `%file`: calls that take a path
    #[value(name = "%file")]
    File,
    /// `%desc`: calls that take or make a file descriptor
    #[value(name = "%desc")]
    Desc,
    /// `%network`: calls on sockets
    #[value(name = "%network", alias = "%net")]
    Network,
    /// `%process`: calls that start, await, signal or end processes
    #[value(name = "%process")]
    Process,
    /// `%memory`: calls that map memory or say how it is used
    #[value(name = "%memory")]
    Memory,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::File, Self::Desc, Self::Network, Self::Process, Self::Memory];

    /// The name, as strace has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "%file",
            Self::Desc => "%desc",
            Self::Network => "%network",
            Self::Process => "%process",
            Self::Memory => "%memory",
        }
    }

    /// The calls of the class, by number.
    pub fn calls(self) -> Vec<Call> {
        Call::all().filter(|call| self.contains(*call)).collect()
    }

    /// Whether it holds this call.
    pub fn contains(self, call: Call) -> bool {
        self.members().split_ascii_whitespace().any(|name| name == call.name())
    }

    /// As marked in strace 6.13 (src/linux/x86_64/syscallent.h and src/linux/generic/syscallent-common.h: TF, TD, TN, TP,
    /// TM), as far as the calls are known by name.
    fn members(self) -> &'static str {
        match self {
            Self::File => FILE,
            Self::Desc => DESC,
            Self::Network => NETWORK,
            Self::Process => PROCESS,
            Self::Memory => MEMORY,
        }
    }
}

impl FromStr for Class {
    type Err = String;

    /// Reads `%file`; strace's short form `%net` too.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = if text == "%net" { "%network" } else { text };
        Self::ALL.into_iter().find(|class| class.name() == name).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("'{text}' is not a class of system calls: write one of {}", all.join(", "))
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const FILE: &str = "access acct chdir chmod chown chroot creat execve execveat faccessat faccessat2 fanotify_mark fchmodat \
     fchmodat2 fchownat fsconfig fspick futimesat getcwd getxattr inotify_add_watch lchown lgetxattr link \
     linkat listxattr llistxattr lremovexattr lsetxattr lstat mkdir mkdirat mknod mknodat mount mount_setattr \
     move_mount name_to_handle_at newfstatat open open_tree openat openat2 pivot_root quotactl readlink \
     readlinkat removexattr rename renameat renameat2 rmdir setxattr stat statfs statx swapoff swapon symlink \
     symlinkat truncate umount2 unlink unlinkat uselib utime utimensat utimes";

const DESC: &str = "bpf cachestat close copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait \
     epoll_pwait2 epoll_wait eventfd eventfd2 execveat faccessat faccessat2 fadvise64 fallocate fanotify_init \
     fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr finit_module \
     flistxattr flock fremovexattr fsconfig fsetxattr fsmount fsopen fspick fstat fstatfs fsync ftruncate \
     futimesat getdents getdents64 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_uring_enter \
     io_uring_register io_uring_setup ioctl kexec_file_load landlock_add_rule landlock_create_ruleset \
     landlock_restrict_self linkat lseek memfd_create memfd_secret mkdirat mknodat mmap mount_setattr \
     move_mount mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend name_to_handle_at newfstatat open \
     open_by_handle_at open_tree openat openat2 perf_event_open pidfd_getfd pidfd_open pidfd_send_signal pipe \
     pipe2 poll ppoll pread64 preadv preadv2 process_madvise process_mrelease pselect6 pwrite64 pwritev \
     pwritev2 quotactl_fd read readahead readlinkat readv renameat renameat2 select sendfile setns signalfd \
     signalfd4 splice statx symlinkat sync_file_range syncfs tee timerfd_create timerfd_gettime timerfd_settime \
     unlinkat userfaultfd utimensat vmsplice write writev";

const NETWORK: &str = "accept accept4 bind connect getpeername getpmsg getsockname getsockopt listen putpmsg recvfrom recvmmsg \
     recvmsg sendfile sendmmsg sendmsg sendto setsockopt shutdown socket socketpair";

const PROCESS: &str = "clone clone3 execve execveat exit exit_group fork kill pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo \
     tgkill tkill vfork wait4 waitid";

const MEMORY: &str = "brk get_mempolicy io_destroy io_setup io_uring_register madvise map_shadow_stack mbind migrate_pages \
     mincore mlock mlock2 mlockall mmap move_pages mprotect mremap msync munlock munlockall munmap \
     pkey_mprotect remap_file_pages set_mempolicy set_mempolicy_home_node shmat shmdt";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_and_hold_what_they_say() {
        for class in Class::ALL {
            assert_eq!(class.name().parse(), Ok(class));
            let calls = class.calls();
            let names: Vec<_> = class.members().split_ascii_whitespace().collect();
            assert_eq!(calls.len(), names.len(), "{class}: every name is a call, and is there once");
            assert!(names.is_sorted(), "{class}");
        }
        assert_eq!("%net".parse(), Ok(Class::Network));
        assert!("%files".parse::<Class>().unwrap_err().contains("%file, %desc"));
        let is_in = |call: &str, class: Class| class.contains(call.parse().unwrap());
        assert!(is_in("openat", Class::File) && is_in("openat", Class::Desc));
        assert!(is_in("close", Class::Desc) && !is_in("close", Class::File));
        assert!(is_in("getcwd", Class::File) && is_in("fstat", Class::Desc) && !is_in("fstat", Class::File));
    }
}
