//! The kernel functions that implement a call, for 64-bit and for 32-bit callers.

use chaos_common::{
    arch::native::{COMPAT_PREFIXES, SYSCALL_BODY_PREFIX, SYSCALL_PREFIX},
    limits::CALLS_MAX,
};
use std::str::FromStr;
use syscalls::x86;

/// Calls without arguments: one function serves all callers, under several names.
const WITHOUT_ARGUMENTS: [&str; 19] = [
    "fork",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "inotify_init",
    "munlockall",
    "pause",
    "restart_syscall",
    "rt_sigreturn",
    "sched_yield",
    "setsid",
    "sync",
    "vfork",
    "vhangup",
];

/// What the function of a call is called behind its prefix, where that is not the call's name
/// (arch/x86/entry/syscalls/syscall_64.tbl).
fn stem(call: &str) -> &str {
    match call {
        "stat" => "newstat",
        "fstat" => "newfstat",
        "lstat" => "newlstat",
        "uname" => "newuname",
        "umount2" => "umount",
        "sendfile" => "sendfile64",
        other => other,
    }
}

/// Whether the function of a call has no arguments, under the name it is traced by.
pub fn is_without_arguments(call: &str) -> bool {
    WITHOUT_ARGUMENTS.contains(&call)
}

/// The function to attach to, with a kprobe or (`traced`) with a trampoline.
pub fn function(call: &str, traced: bool) -> String {
    let prefix = if traced && is_without_arguments(call) { SYSCALL_BODY_PREFIX } else { SYSCALL_PREFIX };
    format!("{prefix}{}", stem(call))
}

/// Other names of what is the same call to a 32-bit caller (arch/x86/entry/syscalls/syscall_32.tbl).
const COMPAT_NAMES: [(&str, &[&str]); 46] = [
    ("mmap", &["mmap2"]),
    ("stat", &["stat64"]),
    ("lstat", &["lstat64"]),
    ("fstat", &["fstat64"]),
    ("newfstatat", &["fstatat64"]),
    ("fcntl", &["fcntl64"]),
    ("lseek", &["_llseek"]),
    ("truncate", &["truncate64"]),
    ("ftruncate", &["ftruncate64"]),
    ("sendfile", &["sendfile64"]),
    ("statfs", &["statfs64"]),
    ("fstatfs", &["fstatfs64"]),
    ("select", &["_newselect"]),
    ("getrlimit", &["ugetrlimit"]),
    ("wait4", &["waitpid"]),
    ("chown", &["chown32"]),
    ("lchown", &["lchown32"]),
    ("fchown", &["fchown32"]),
    ("getuid", &["getuid32"]),
    ("geteuid", &["geteuid32"]),
    ("getgid", &["getgid32"]),
    ("getegid", &["getegid32"]),
    ("setuid", &["setuid32"]),
    ("setgid", &["setgid32"]),
    ("setreuid", &["setreuid32"]),
    ("setregid", &["setregid32"]),
    ("setresuid", &["setresuid32"]),
    ("setresgid", &["setresgid32"]),
    ("getgroups", &["getgroups32"]),
    ("setgroups", &["setgroups32"]),
    ("fadvise64", &["fadvise64_64"]),
    ("futex", &["futex_time64"]),
    ("ppoll", &["ppoll_time64"]),
    ("pselect6", &["pselect6_time64"]),
    ("recvmmsg", &["recvmmsg_time64"]),
    ("utimensat", &["utimensat_time64"]),
    ("clock_gettime", &["clock_gettime64"]),
    ("clock_settime", &["clock_settime64"]),
    ("clock_getres", &["clock_getres_time64"]),
    ("clock_nanosleep", &["clock_nanosleep_time64"]),
    ("timerfd_settime", &["timerfd_settime64"]),
    ("timerfd_gettime", &["timerfd_gettime64"]),
    ("timer_settime", &["timer_settime64"]),
    ("mq_timedsend", &["mq_timedsend_time64"]),
    ("mq_timedreceive", &["mq_timedreceive_time64"]),
    ("rt_sigtimedwait", &["rt_sigtimedwait_time64"]),
];

/// The call through which 32-bit callers can also make this one, so that its number does not show.
pub fn multiplexer(call: &str) -> Option<&'static str> {
    Some(match call {
        "socket" | "socketpair" | "bind" | "connect" | "listen" | "accept" | "accept4" | "sendto"
        | "sendmsg" | "sendmmsg" | "recvfrom" | "recvmsg" | "recvmmsg" | "shutdown" | "getsockopt"
        | "setsockopt" | "getsockname" | "getpeername" => "socketcall",
        "shmat" | "shmdt" | "shmget" | "shmctl" | "semget" | "semop" | "semtimedop" | "semctl" | "msgget"
        | "msgsnd" | "msgrcv" | "msgctl" => "ipc",
        _ => return None,
    })
}

/// The call as 32-bit callers know it: name and number.
pub fn compat(call: &'static str) -> Vec<(&'static str, u32)> {
    let others = COMPAT_NAMES.iter().find(|(name, _)| *name == call).map_or(&[][..], |(_, others)| others);
    let names = std::iter::once(&call).chain(others);
    names
        .filter_map(|name| Some((*name, x86::Sysno::from_str(name).ok()?.id() as u32)))
        .filter(|(_, number)| *number < CALLS_MAX)
        .collect()
}

/// Names, behind a prefix, that the function of a 32-bit call may have, the likeliest first. They changed between 5.10
/// (`x86_`) and later kernels (`ia32_`).
fn compat_stems(name: &str) -> Vec<String> {
    let special = match name {
        "mmap2" => "mmap_pgoff",
        "stat" => "newstat",
        "fstat" => "newfstat",
        "lstat" => "newlstat",
        "uname" => "newuname",
        "umount2" => "umount",
        "select" => "old_select",
        "_newselect" => "select",
        "_llseek" => "llseek",
        "ugetrlimit" => "getrlimit",
        "getrlimit" => "old_getrlimit",
        "getdents" => "getdents",
        "futex" => "futex_time32",
        "futex_time64" => "futex",
        "nanosleep" => "nanosleep_time32",
        "clock_gettime" => "clock_gettime32",
        "clock_gettime64" => "clock_gettime",
        "clock_nanosleep" => "clock_nanosleep_time32",
        "clock_nanosleep_time64" => "clock_nanosleep",
        "utime" => "utime32",
        "utimes" => "utimes_time32",
        "futimesat" => "futimesat_time32",
        "utimensat" => "utimensat_time32",
        "utimensat_time64" => "utimensat",
        "chown" => "chown16",
        "lchown" => "lchown16",
        "fchown" => "fchown16",
        "chown32" => "chown",
        "lchown32" => "lchown",
        "fchown32" => "fchown",
        other => other,
    };
    let short = special.strip_suffix("32").filter(|_| name.ends_with("32")).unwrap_or(special);
    vec![format!("ia32_{special}"), format!("x86_{special}"), special.to_owned(), short.to_owned()]
}

/// The functions that implement a call for 32-bit callers, as far as the kernel `has` them, and the names of those that
/// were not found.
pub fn compat_functions(call: &'static str, has: impl Fn(&str) -> bool) -> (Vec<String>, Vec<&'static str>) {
    let mut found = vec![];
    let mut missing = vec![];
    if is_without_arguments(call) {
        return (found, missing);
    }
    for (name, _) in compat(call) {
        let stems = compat_stems(name);
        let candidates =
            stems.iter().flat_map(|stem| COMPAT_PREFIXES.map(|prefix| format!("{prefix}{stem}")));
        let kernel_name = |candidate: &String| has(candidate);
        match candidates.into_iter().find(kernel_name) {
            Some(function) if !found.contains(&function) => found.push(function),
            Some(_) => {}
            None => missing.push(name),
        }
    }
    (found, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syscalls::x86_64::Sysno;

    #[test]
    fn names_of_the_tables_are_calls() {
        let calls: Vec<_> = Sysno::iter().map(|call| call.name()).collect();
        for (call, others) in COMPAT_NAMES {
            assert!(calls.contains(&call), "{call}");
            assert_eq!(
                compat(call).len(),
                1 + others.len() - usize::from(x86::Sysno::from_str(call).is_err())
            );
        }
        assert!(WITHOUT_ARGUMENTS.iter().all(|call| calls.contains(call)));
    }

    #[test]
    fn functions_of_32_bit_callers() {
        let kernel = ["__ia32_compat_sys_ia32_mmap", "__ia32_sys_mmap_pgoff", "__ia32_compat_sys_openat"];
        let has = |name: &str| kernel.contains(&name);
        assert_eq!(compat_functions("mmap", has), (vec![kernel[0].to_owned(), kernel[1].to_owned()], vec![]));
        assert_eq!(compat_functions("openat", has), (vec![kernel[2].to_owned()], vec![]));
        assert_eq!(compat_functions("fsync", has), (vec![], vec!["fsync"]));
        assert_eq!(compat("openat"), [("openat", 295)]);
        assert_eq!(function("getpid", true), "__do_sys_getpid");
        assert_eq!(function("getpid", false), "__x64_sys_getpid");
        assert_eq!(function("fstat", true), "__x64_sys_newfstat");
    }
}
