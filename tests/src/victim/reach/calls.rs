//! The list: each call with harmless arguments with which it comes as far as its security hook, if it has one.

use super::super::syscall_table::raw;
use super::fixture::Fixture;

/// One system call of the list.
pub struct Call {
    /// The kernel's name of the call.
    pub name: &'static str,
    /// Its number.
    pub number: i64,
    arguments: fn(&Fixture, usize) -> [usize; 6],
    then: Then,
}

/// What is to be done when a call succeeded.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    /// It returned a descriptor.
    Close,
    /// It stored two descriptors.
    CloseBoth,
    /// It mapped a page.
    Unmap,
    /// It attached a segment.
    Detach,
    /// It returns in a child as well, which must end at once.
    EndChild,
}

impl Call {
    /// Makes it once; the result as the kernel gives it, negative for an error.
    pub fn make(&self, fixture: &Fixture, round: usize) -> i64 {
        let arguments = (self.arguments)(fixture, round);
        let result = match self.then {
            Then::EndChild => start_child(self.number, arguments),
            _ => raw(self.number, arguments),
        };
        let done = result as usize;
        match self.then {
            _ if result < 0 => {}
            Then::Nothing | Then::EndChild => {}
            Then::Close => close(done),
            Then::CloseBoth => {
                // SAFETY: the kernel has stored two descriptors there.
                for fd in unsafe { *(fixture.made as *const [i32; 2]) } {
                    close(fd as usize);
                }
            }
            Then::Unmap => _ = raw(libc::SYS_munmap, [done, 4096, 0, 0, 0, 0]),
            Then::Detach => _ = raw(libc::SYS_shmdt, [done, 0, 0, 0, 0, 0]),
        }
        result
    }
}

fn close(fd: usize) {
    // It may be under fault itself; then a few descriptors stay open.
    raw(libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
}

/// Makes a call that returns twice; the child ends before it touches memory, which it may share with us (vfork).
fn start_child(number: i64, a: [usize; 6]) -> i64 {
    let result;
    // SAFETY: the child makes one more system call, exit, and never leaves this block.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") number => result,
            in("rdi") a[0],
            in("rsi") a[1],
            in("rdx") a[2],
            in("r10") a[3],
            in("r8") a[4],
            in("r9") a[5],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

const HERE: usize = libc::AT_FDCWD as usize;
const NONE: usize = usize::MAX;
const ADDRESS: usize = size_of::<libc::sockaddr_in>();
const NO_WAIT: usize = libc::MSG_DONTWAIT as usize;
const MODE: usize = 0o600;
const FIFO: usize = libc::S_IFIFO as usize | MODE;
const REGULAR: usize = libc::S_IFREG as usize | MODE;
const DIRECTORY: usize = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
const INET: usize = libc::AF_INET as usize;
const UNIX: usize = libc::AF_UNIX as usize;
const DATAGRAM: usize = libc::SOCK_DGRAM as usize;
const STREAM: usize = libc::SOCK_STREAM as usize;
const SOCKET: usize = libc::SOL_SOCKET as usize;
const CHILD: usize = libc::SIGCHLD as usize;
const READ_WRITE: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const ANONYMOUS: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
const MONOTONIC: usize = libc::CLOCK_MONOTONIC as usize;

/// Fills up with zeros.
const fn six<const N: usize>(some: [usize; N]) -> [usize; 6] {
    let mut all = [0; 6];
    let mut at = 0;
    while at < N {
        all[at] = some[at];
        at += 1;
    }
    all
}

macro_rules! calls {
    ($($name:literal $number:ident $then:ident $arguments:expr;)*) => {
        &[$(Call { name: $name, number: libc::$number, then: Then::$then, arguments: $arguments },)*]
    };
}

/// The list. Left out are calls that end the process or never return.
#[rustfmt::skip]
pub const CALLS: &[Call] = calls! {
    "open" SYS_open Close |f, _| six([f.root, DIRECTORY, 0]);
    "openat" SYS_openat Close |f, _| six([HERE, f.root, DIRECTORY, 0]);
    "openat2" SYS_openat2 Close |f, _| six([HERE, f.root, f.open_how, 24]);
    "creat" SYS_creat Close |f, r| six([f.name("creat", r), MODE]);
    "read" SYS_read Nothing |f, _| six([f.zero, f.memory, 1]);
    "pread64" SYS_pread64 Nothing |f, _| six([f.file, f.memory, 1, 0]);
    "readv" SYS_readv Nothing |f, _| six([f.zero, f.iovec, 1]);
    "preadv" SYS_preadv Nothing |f, _| six([f.file, f.iovec, 1, 0, 0]);
    "preadv2" SYS_preadv2 Nothing |f, _| six([f.file, f.iovec, 1, 0, 0, 0]);
    "write" SYS_write Nothing |f, _| six([f.null, f.memory, 1]);
    "pwrite64" SYS_pwrite64 Nothing |f, _| six([f.file, f.memory, 1, 0]);
    "writev" SYS_writev Nothing |f, _| six([f.null, f.iovec, 1]);
    "pwritev" SYS_pwritev Nothing |f, _| six([f.file, f.iovec, 1, 0, 0]);
    "pwritev2" SYS_pwritev2 Nothing |f, _| six([f.file, f.iovec, 1, 0, 0, 0]);
    "sendfile" SYS_sendfile Nothing |f, _| six([f.other_file, f.file, 0, 1]);
    "splice" SYS_splice Nothing |f, _| six([f.pipe, 0, f.null, 0, 1, libc::SPLICE_F_NONBLOCK as usize]);
    "copy_file_range" SYS_copy_file_range Nothing |f, _| six([f.file, 0, f.other_file, 0, 1, 0]);
    "lseek" SYS_lseek Nothing |f, _| six([f.file, 0, libc::SEEK_SET as usize]);
    "fsync" SYS_fsync Nothing |f, _| six([f.file]);
    "fdatasync" SYS_fdatasync Nothing |f, _| six([f.file]);
    "sync_file_range" SYS_sync_file_range Nothing |f, _| six([f.file, 0, 0, 0]);
    "fadvise64" SYS_fadvise64 Nothing |f, _| six([f.file, 0, 0, 0]);
    "truncate" SYS_truncate Nothing |f, _| six([f.file_path, 4096]);
    "ftruncate" SYS_ftruncate Nothing |f, _| six([f.file, 4096]);
    "fallocate" SYS_fallocate Nothing |f, _| six([f.file, 0, 0, 4096]);
    "getdents" SYS_getdents Nothing |f, _| six([f.directory, f.memory, 4096]);
    "getdents64" SYS_getdents64 Nothing |f, _| six([f.directory, f.memory, 4096]);
    "close" SYS_close Nothing |f, r| six([f.doomed[r]]);
    "dup" SYS_dup Close |f, _| six([f.null]);
    "dup2" SYS_dup2 Close |f, _| six([f.null, f.spare]);
    "dup3" SYS_dup3 Close |f, _| six([f.null, f.spare, libc::O_CLOEXEC as usize]);
    "pipe" SYS_pipe CloseBoth |f, _| six([f.made]);
    "pipe2" SYS_pipe2 CloseBoth |f, _| six([f.made, 0]);
    "ioctl" SYS_ioctl Nothing |f, _| six([f.file, libc::FIONREAD as usize, f.memory]);
    "fcntl" SYS_fcntl Nothing |f, _| six([f.file, libc::F_GETFL as usize]);
    "flock" SYS_flock Nothing |f, _| six([f.file, (libc::LOCK_SH | libc::LOCK_NB) as usize]);
    "poll" SYS_poll Nothing |f, _| six([f.poll, 1, 0]);
    "select" SYS_select Nothing |f, _| six([0, 0, 0, 0, f.zero_time]);
    "epoll_create1" SYS_epoll_create1 Close |_, _| six([0]);
    "epoll_ctl" SYS_epoll_ctl Nothing |f, _| six([f.epoll, libc::EPOLL_CTL_MOD as usize, f.pipe, f.event]);
    "epoll_wait" SYS_epoll_wait Nothing |f, _| six([f.epoll, f.memory, 1, 0]);
    "epoll_pwait" SYS_epoll_pwait Nothing |f, _| six([f.epoll, f.memory, 1, 0, 0, 8]);
    "eventfd2" SYS_eventfd2 Close |_, _| six([0, 0]);
    "signalfd4" SYS_signalfd4 Close |f, _| six([NONE, f.signals, 8, 0]);
    "timerfd_create" SYS_timerfd_create Close |_, _| six([MONOTONIC, 0]);
    "inotify_init1" SYS_inotify_init1 Close |_, _| six([0]);
    "memfd_create" SYS_memfd_create Close |f, _| six([f.attribute, 0]);
    "socket" SYS_socket Close |_, _| six([INET, DATAGRAM, 0]);
    "socketpair" SYS_socketpair CloseBoth |f, _| six([UNIX, STREAM, 0, f.made]);
    "bind" SYS_bind Nothing |f, r| six([f.unbound[r], f.any_address, ADDRESS]);
    "connect" SYS_connect Nothing |f, _| six([f.udp_connected, f.address, ADDRESS]);
    "listen" SYS_listen Nothing |f, _| six([f.listeners[0], 64]);
    "accept" SYS_accept Close |f, _| six([f.listeners[0], 0, 0]);
    "accept4" SYS_accept4 Close |f, _| six([f.listeners[1], 0, 0, 0]);
    "sendto" SYS_sendto Nothing |f, _| six([f.udp_sender, f.memory, 1, 0, f.address, ADDRESS]);
    "sendmsg" SYS_sendmsg Nothing |f, _| six([f.udp_sender, f.message, 0]);
    "sendmmsg" SYS_sendmmsg Nothing |f, _| six([f.udp_sender, f.messages, 1, 0]);
    "recvfrom" SYS_recvfrom Nothing |f, _| six([f.udp_receiver, f.memory, 1, NO_WAIT, 0, 0]);
    "recvmsg" SYS_recvmsg Nothing |f, _| six([f.udp_receiver, f.received, NO_WAIT]);
    "recvmmsg" SYS_recvmmsg Nothing |f, _| six([f.udp_receiver, f.received_many, 1, NO_WAIT, 0]);
    "shutdown" SYS_shutdown Nothing |f, _| six([f.pair, libc::SHUT_WR as usize]);
    "getsockopt" SYS_getsockopt Nothing |f, _| six([f.udp_sender, SOCKET, libc::SO_TYPE as usize, f.memory, f.length]);
    "setsockopt" SYS_setsockopt Nothing |f, _| six([f.udp_sender, SOCKET, libc::SO_REUSEADDR as usize, f.one, 4]);
    "getsockname" SYS_getsockname Nothing |f, _| six([f.udp_receiver, f.memory, f.length]);
    "getpeername" SYS_getpeername Nothing |f, _| six([f.pair, f.memory, f.length]);
    "mmap" SYS_mmap Unmap |_, _| six([0, 4096, READ_WRITE, ANONYMOUS, NONE, 0]);
    "munmap" SYS_munmap Nothing |f, r| six([f.page_of(r), 4096]);
    "mprotect" SYS_mprotect Nothing |f, _| six([f.page, 4096, READ_WRITE]);
    "pkey_mprotect" SYS_pkey_mprotect Nothing |f, _| six([f.page, 4096, READ_WRITE, NONE]);
    "brk" SYS_brk Nothing |_, _| six([0]);
    "mremap" SYS_mremap Nothing |f, _| six([f.page, 4096, 4096, 0]);
    "madvise" SYS_madvise Nothing |f, _| six([f.page, 4096, 0]);
    "mlock" SYS_mlock Nothing |f, _| six([f.page, 4096]);
    "munlock" SYS_munlock Nothing |f, _| six([f.page, 4096]);
    "msync" SYS_msync Nothing |f, _| six([f.page, 4096, libc::MS_ASYNC as usize]);
    "shmat" SYS_shmat Detach |f, _| six([f.segment, 0, 0]);
    "fork" SYS_fork EndChild |_, _| six::<0>([]);
    "vfork" SYS_vfork EndChild |_, _| six::<0>([]);
    "clone" SYS_clone EndChild |_, _| six([CHILD]);
    "clone3" SYS_clone3 EndChild |f, _| six([f.clone_args, 88]);
    "execve" SYS_execve Nothing |f, _| six([f.program_path, f.arguments, 0]);
    "execveat" SYS_execveat Nothing |f, _| six([HERE, f.program_path, f.arguments, 0, 0]);
    "wait4" SYS_wait4 Nothing |_, _| six([NONE, 0, libc::WNOHANG as usize, 0]);
    "kill" SYS_kill Nothing |_, _| six([pid(), 0]);
    "tkill" SYS_tkill Nothing |_, _| six([pid(), 0]);
    "tgkill" SYS_tgkill Nothing |_, _| six([pid(), pid(), 0]);
    "getuid" SYS_getuid Nothing |_, _| six::<0>([]);
    "gettid" SYS_gettid Nothing |_, _| six::<0>([]);
    "setuid" SYS_setuid Nothing |_, _| six([0]);
    "prctl" SYS_prctl Nothing |_, _| six([libc::PR_GET_DUMPABLE as usize]);
    "prlimit64" SYS_prlimit64 Nothing |f, _| six([0, libc::RLIMIT_NOFILE as usize, 0, f.memory]);
    "sched_yield" SYS_sched_yield Nothing |_, _| six::<0>([]);
    "sched_getaffinity" SYS_sched_getaffinity Nothing |f, _| six([0, 128, f.memory]);
    "unlink" SYS_unlink Nothing |f, r| six([f.name("unlink", r)]);
    "unlinkat" SYS_unlinkat Nothing |f, r| six([HERE, f.name("unlinkat", r), 0]);
    "rmdir" SYS_rmdir Nothing |f, r| six([f.name("rmdir", r)]);
    "mkdir" SYS_mkdir Nothing |f, r| six([f.name("mkdir", r), 0o700]);
    "mkdirat" SYS_mkdirat Nothing |f, r| six([HERE, f.name("mkdirat", r), 0o700]);
    "mknod" SYS_mknod Nothing |f, r| six([f.name("mknod", r), FIFO, 0]);
    "mknodat" SYS_mknodat Nothing |f, r| six([HERE, f.name("mknodat", r), REGULAR, 0]);
    "rename" SYS_rename Nothing |f, r| six([f.name("rename", r), f.name("rename-to", r)]);
    "renameat" SYS_renameat Nothing |f, r| six([HERE, f.name("renameat", r), HERE, f.name("renameat-to", r)]);
    "renameat2" SYS_renameat2 Nothing |f, r| six([HERE, f.name("renameat2", r), HERE, f.name("renameat2-to", r), 0]);
    "link" SYS_link Nothing |f, r| six([f.file_path, f.name("link", r)]);
    "linkat" SYS_linkat Nothing |f, r| six([HERE, f.file_path, HERE, f.name("linkat", r), 0]);
    "symlink" SYS_symlink Nothing |f, r| six([f.file_path, f.name("symlink", r)]);
    "symlinkat" SYS_symlinkat Nothing |f, r| six([f.file_path, HERE, f.name("symlinkat", r)]);
    "readlink" SYS_readlink Nothing |f, _| six([f.symlink_path, f.memory, 256]);
    "readlinkat" SYS_readlinkat Nothing |f, _| six([HERE, f.symlink_path, f.memory, 256]);
    "stat" SYS_stat Nothing |f, _| six([f.root, f.memory]);
    "lstat" SYS_lstat Nothing |f, _| six([f.root, f.memory]);
    "fstat" SYS_fstat Nothing |f, _| six([f.file, f.memory]);
    "newfstatat" SYS_newfstatat Nothing |f, _| six([HERE, f.root, f.memory, 0]);
    "statx" SYS_statx Nothing |f, _| six([HERE, f.root, 0, 0x7ff, f.memory]);
    "statfs" SYS_statfs Nothing |f, _| six([f.root, f.memory]);
    "fstatfs" SYS_fstatfs Nothing |f, _| six([f.file, f.memory]);
    "access" SYS_access Nothing |f, _| six([f.root, 0]);
    "faccessat" SYS_faccessat Nothing |f, _| six([HERE, f.root, 0]);
    "faccessat2" SYS_faccessat2 Nothing |f, _| six([HERE, f.root, 0, 0]);
    "chmod" SYS_chmod Nothing |f, _| six([f.file_path, MODE]);
    "fchmod" SYS_fchmod Nothing |f, _| six([f.file, MODE]);
    "fchmodat" SYS_fchmodat Nothing |f, _| six([HERE, f.file_path, MODE]);
    "fchmodat2" SYS_fchmodat2 Nothing |f, _| six([HERE, f.file_path, MODE, 0]);
    "chown" SYS_chown Nothing |f, _| six([f.file_path, 0, 0]);
    "lchown" SYS_lchown Nothing |f, _| six([f.file_path, 0, 0]);
    "fchown" SYS_fchown Nothing |f, _| six([f.file, 0, 0]);
    "fchownat" SYS_fchownat Nothing |f, _| six([HERE, f.file_path, 0, 0, 0]);
    "utime" SYS_utime Nothing |f, _| six([f.file_path, 0]);
    "utimes" SYS_utimes Nothing |f, _| six([f.file_path, 0]);
    "futimesat" SYS_futimesat Nothing |f, _| six([HERE, f.file_path, 0]);
    "utimensat" SYS_utimensat Nothing |f, _| six([HERE, f.file_path, 0, 0]);
    "getxattr" SYS_getxattr Nothing |f, _| six([f.file_path, f.attribute, f.memory, 64]);
    "lgetxattr" SYS_lgetxattr Nothing |f, _| six([f.file_path, f.attribute, f.memory, 64]);
    "fgetxattr" SYS_fgetxattr Nothing |f, _| six([f.file, f.attribute, f.memory, 64]);
    "setxattr" SYS_setxattr Nothing |f, _| six([f.file_path, f.attribute, f.memory, 1, 0]);
    "listxattr" SYS_listxattr Nothing |f, _| six([f.file_path, f.memory, 256]);
    "llistxattr" SYS_llistxattr Nothing |f, _| six([f.file_path, f.memory, 256]);
    "flistxattr" SYS_flistxattr Nothing |f, _| six([f.file, f.memory, 256]);
    "chdir" SYS_chdir Nothing |f, _| six([f.root]);
    "getcwd" SYS_getcwd Nothing |f, _| six([f.memory, 4096]);
    "umask" SYS_umask Nothing |_, _| six([0o22]);
    "mount" SYS_mount Nothing |f, _| six([f.root, f.scratch, 0, libc::MS_REMOUNT as usize, 0]);
    "umount2" SYS_umount2 Nothing |f, _| six([f.root, libc::MNT_EXPIRE as usize]);
    "futex" SYS_futex Nothing |f, _| six([f.signals, (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize, 1]);
    "nanosleep" SYS_nanosleep Nothing |f, _| six([f.moment, 0]);
    "clock_nanosleep" SYS_clock_nanosleep Nothing |f, _| six([MONOTONIC, 0, f.moment, 0]);
    "clock_gettime" SYS_clock_gettime Nothing |f, _| six([MONOTONIC, f.memory]);
    "clock_getres" SYS_clock_getres Nothing |f, _| six([MONOTONIC, f.memory]);
    "gettimeofday" SYS_gettimeofday Nothing |f, _| six([f.memory, 0]);
    "getitimer" SYS_getitimer Nothing |f, _| six([libc::ITIMER_REAL as usize, f.memory]);
    "getrandom" SYS_getrandom Nothing |f, _| six([f.memory, 8, 0]);
    "uname" SYS_uname Nothing |f, _| six([f.memory]);
    "sysinfo" SYS_sysinfo Nothing |f, _| six([f.memory]);
    "io_uring_setup" SYS_io_uring_setup Close |f, _| six([1, f.ring_parameters]);
    "io_uring_enter" SYS_io_uring_enter Nothing |f, _| six([f.ring, 0, 0, 0, 0, 0]);
    "io_uring_register" SYS_io_uring_register Nothing |f, _| six([f.ring, 1, 0, 0]);
    "bpf" SYS_bpf Nothing |f, _| six([11, f.bpf_attribute, 16]);
    "perf_event_open" SYS_perf_event_open Close |f, _| six([f.perf_attribute, 0, NONE, NONE, 0]);
};

/// This process and its only thread.
fn pid() -> usize {
    std::process::id() as usize
}
