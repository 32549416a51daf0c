//! Whether the kernel asks before calls of a process, and takes an answer.

use super::{Unable, felt::TELLTALE};
use crate::{
    host::process::pidfd,
    inject::seccomp::{Answer, Filter, Handover, Listener},
};
use chaos_common::syscall::call_row;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use std::{io, os::fd::AsFd as _};

/// How long an answer may take, in milliseconds.
const PATIENCE_MS: u16 = 5000;
/// What the child ends with if it did not feel the errno: none of them.
const NOT_FELT: i32 = 255;

/// Has a child feel an errno that its call never returns by itself.
pub fn try_notification() -> Result<(), Unable> {
    let unable = |why: String| {
        Unable::new(
            format!("seccomp: {why}"),
            "use Linux 5.10 or later with CONFIG_SECCOMP_FILTER, outside of other supervisors, with CAP_SYS_ADMIN",
        )
    };
    match felt() {
        Ok(0) => Ok(()),
        Ok(NOT_FELT) => Err(unable("a child did not feel the answer to its call".to_owned())),
        Ok(errno) => Err(unable(format!(
            "a filter with a listener cannot be put in front of a process: {}",
            io::Error::from_raw_os_error(errno)
        ))),
        Err(error) => Err(unable(error.to_string())),
    }
}

/// What the child ends with: 0 if it felt it, or the errno of its filter.
fn felt() -> io::Result<i32> {
    let handover = Handover::new()?;
    let filter = Filter::new(call_row(libc::SYS_getsid as u32, false).into_iter());
    // SAFETY: the child makes system calls only and ends without returning.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: as above.
            unsafe {
                if filter.install(&handover).is_err() {
                    libc::_exit(*libc::__errno_location());
                }
                let result = libc::syscall(libc::SYS_getsid, 0);
                let is_felt = result == -1 && *libc::__errno_location() == TELLTALE;
                libc::_exit(if is_felt { 0 } else { NOT_FELT })
            }
        }
        ForkResult::Parent { child } => {
            let answered = answer(child, &handover);
            if answered.is_err() {
                kill(child, Signal::SIGKILL)?;
            }
            let status = waitpid(child, None)?;
            answered?;
            match status {
                WaitStatus::Exited(_, code) => Ok(code),
                other => Err(io::Error::other(format!("the child ended as {other:?}"))),
            }
        }
    }
}

fn answer(child: Pid, handover: &Handover) -> io::Result<()> {
    let end = pidfd(child)?;
    // Without one the child says why.
    let Some(listener) = handover.take(end.as_fd())? else { return Ok(()) };
    let listener = Listener::new(listener);
    loop {
        let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(PATIENCE_MS)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if polled[0].revents().is_some_and(|happened| happened.contains(PollFlags::POLLHUP)) {
            return Ok(());
        }
        if let Some(asked) = listener.receive()? {
            return listener.answer(asked.id, Answer::Return(-i64::from(TELLTALE))).map(drop);
        }
    }
}
