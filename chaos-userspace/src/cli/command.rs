//! The command of `exec`, born in its cgroup.
//!
//! A process that joins a cgroup by writing to `cgroup.procs` waits for a grace period (`cgroup_attach_lock`,
//! kernel/cgroup/cgroup.c); one that is made there (`CLONE_INTO_CGROUP`, 5.7) waits for nothing.

use crate::{
    host::{cgroup::Cgroup, kernel, process},
    inject::seccomp::{Filter, Handover},
};
use nix::{
    fcntl::OFlag,
    sys::{
        signal::{self, SigSet},
        wait,
    },
    unistd::{self, Pid},
};
use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    },
    process::ExitStatus,
};
use tokio::io::unix::AsyncFd;

/// `CLONE_PIDFD` and `CLONE_INTO_CGROUP` (include/uapi/linux/sched.h).
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a command is started behind.
pub struct Gate<'a> {
    /// The filter.
    pub filter: Filter,
    /// Called with its listener, before the command's exec: from its return on calls are answered.
    pub receive: &'a mut dyn FnMut(OwnedFd) -> io::Result<()>,
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's exec, or what comes before it.
    #[error(transparent)]
    Exec(#[from] io::Error),
    /// The filter could not be put in front of it.
    #[error("seccomp: the command cannot be started behind a filter: {0}{hint}", hint = hint(.0))]
    Filter(io::Error),
    /// Nobody can answer for its calls.
    #[error("seccomp: starting the receiver of the command's calls: {0}")]
    Receiver(io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            ": somebody else answers for calls of kchaos already, and there can be one only: start it outside of that \
             container or sandbox, or choose another --mechanism"
        }
        Some(libc::EACCES) => ": give kchaos CAP_SYS_ADMIN, or choose another --mechanism",
        _ => "",
    }
}

/// A command that has been started.
#[derive(Debug)]
pub struct Command {
    pid: Pid,
    /// Readable once the process has ended.
    end: AsyncFd<OwnedFd>,
}

impl Command {
    /// Starts a program, found as a shell finds it, in a cgroup. Descriptors, terminal, working directory and environment
    /// are the caller's; signals are blocked as `mask` says. The error is that of the program's exec. Must be called on a
    /// tokio runtime.
    pub fn start(
        program: &OsString,
        arguments: &[OsString],
        cgroup: &Cgroup,
        mask: &SigSet,
        gate: Option<Gate<'_>>,
    ) -> Result<Self, Error> {
        let words = std::iter::once(program).chain(arguments);
        let words = words
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::from)?;
        let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        let (told, tells) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        let gate = gate.map(|gate| Handover::new().map(|handover| (gate, handover))).transpose()?;
        // SAFETY: the child makes only system calls and execvp, on memory that was made ready here, and ends without
        // returning.
        let child = unsafe {
            let joins = || born_in(cgroup);
            match joins().or_else(|error| if is_final(&error) { Err(error) } else { forked_into(cgroup) })? {
                Some(child) => child,
                None => {
                    let gate = gate.as_ref().map(|(gate, handover)| (&gate.filter, handover));
                    let error = become_program(&pointers, mask, gate);
                    let number = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
                    libc::write(tells.as_raw_fd(), number.as_ptr().cast(), number.len());
                    libc::_exit(127)
                }
            }
        };
        drop(tells);
        // From here on its exec, too, may wait for an answer.
        let mut has_filter = true;
        if let Some((gate, handover)) = gate {
            let listener = handover.take(child.end.as_fd());
            let served = match listener {
                Ok(Some(listener)) => (gate.receive)(listener),
                Ok(None) => {
                    has_filter = false;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                let _ = signal::kill(child.pid, signal::Signal::SIGKILL);
                let _ = wait::waitpid(child.pid, None);
                return Err(Error::Receiver(error));
            }
        }
        let mut number = [0; 4];
        // The pipe closes with the exec.
        if File::from(told).read_exact(&mut number).is_ok() {
            wait::waitpid(child.pid, None).map_err(io::Error::from)?;
            let error = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
            return Err(if has_filter { Error::Exec(error) } else { Error::Filter(error) });
        }
        Ok(Self { pid: child.pid, end: watched(child.end)? })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end. May be dropped while it waits.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            let mut ready = self.end.readable().await?;
            let mut status = 0;
            // SAFETY: writes a status to a place of that size.
            match unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, libc::WNOHANG) } {
                0 => ready.clear_ready(),
                -1 => return Err(io::Error::last_os_error()),
                _ => return Ok(ExitStatus::from_raw(status)),
            }
        }
    }
}

fn watched(end: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor and keeps it open for as long as it is registered.
    unsafe { AsyncFd::register(end) }.map_err(io::Error::other)
}

struct Child {
    pid: Pid,
    end: OwnedFd,
}

/// Whether another way would fail as well. Sandboxes and kernels below 5.7 do not know the first one.
fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EBUSY | libc::ENODEV))
}

/// Makes a process in a cgroup; `None` in it.
///
/// # Safety
///
/// As after fork(2): the child has one thread, and whatever others have locked stays locked.
unsafe fn born_in(cgroup: &Cgroup) -> io::Result<Option<Child>> {
    let mut end: libc::c_int = -1;
    // SAFETY: plain integers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_PIDFD | CLONE_INTO_CGROUP;
    arguments.pidfd = std::ptr::from_mut(&mut end) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_fd().as_raw_fd() as u64;
    // SAFETY: without CLONE_VM and a stack of its own this is a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: a new descriptor (with O_CLOEXEC) that nobody else owns.
        _ => Ok(Some(Child { pid: Pid::from_raw(pid as i32), end: unsafe { OwnedFd::from_raw_fd(end) } })),
    }
}

/// The same in two steps.
///
/// # Safety
///
/// As above.
unsafe fn forked_into(cgroup: &Cgroup) -> io::Result<Option<Child>> {
    let processes = cgroup.open_processes().map_err(io::Error::other)?;
    let (joined, joins) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child makes system calls only.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: a constant string.
            let done = unsafe { libc::write(processes.as_raw_fd(), c"0".as_ptr().cast(), 1) } == 1;
            let byte = [u8::from(done)];
            // SAFETY: one byte of the stack.
            unsafe { libc::write(joins.as_raw_fd(), byte.as_ptr().cast(), 1) };
            if !done {
                // SAFETY: ends without returning.
                unsafe { libc::_exit(127) }
            }
            Ok(None)
        }
        pid => {
            drop(joins);
            let mut byte = [0];
            if !matches!(File::from(joined).read(&mut byte), Ok(1)) || byte != [1] {
                wait::waitpid(Pid::from_raw(pid), None)?;
                return Err(io::Error::other("it could not join its cgroup"));
            }
            let end = process::pidfd(Pid::from_raw(pid))?;
            Ok(Some(Child { pid: Pid::from_raw(pid), end }))
        }
    }
}

/// Replaces this process by the program; returns only with an error.
///
/// # Safety
///
/// `words` are pointers to strings, the last of them null.
unsafe fn become_program(
    words: &[*const libc::c_char],
    mask: &SigSet,
    gate: Option<(&Filter, &Handover)>,
) -> io::Error {
    kernel::restore_descriptors();
    // SAFETY: system calls, then what the caller promises. What is ignored is inherited: the standard library ignores SIGPIPE,
    // `cli::main` SIGXFSZ.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), std::ptr::null_mut());
        if let Some((filter, handover)) = gate
            && let Err(error) = filter.install(handover)
        {
            return error;
        }
        if let Some(program) = words.first() {
            libc::execvp(*program, words.as_ptr());
        }
    }
    io::Error::last_os_error()
}
