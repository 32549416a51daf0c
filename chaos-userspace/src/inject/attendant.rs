//! Processes of kchaos that serve an engine beside its owner: guardian, sleeper and receiver.

use super::link::duplicate_from;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command},
};

/// Where the descriptors lie that the owner passes on.
const FIRST_FD: RawFd = 3;
/// What it says once it serves.
const READY: u8 = b'r';

/// Starts one, in a session of its own: signals of the owner's terminal are not for it. It finds `passed` by
/// [`received`].
pub fn spawn(command: &mut Command, passed: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let above = FIRST_FD + passed.len() as RawFd;
    let mut copies: Vec<OwnedFd> = vec![];
    // Nothing else may come to lie where they go, such as the pipe by which the library tells of a failed exec.
    if let Some(any) = passed.first() {
        while copies.last().is_none_or(|last| last.as_raw_fd() < above) {
            copies.push(duplicate_from(*any, FIRST_FD)?);
        }
    }
    let moved = passed.iter().map(|fd| duplicate_from(*fd, above)).collect::<io::Result<Vec<_>>>()?;
    let numbers: Vec<_> = moved.iter().map(|fd| fd.as_raw_fd()).collect();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            for (place, number) in (FIRST_FD..).zip(&numbers) {
                if libc::dup2(*number, place) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn()
}

/// What [`spawn`] passed to this process.
///
/// # Safety
///
/// To be called once, by a process that was passed so many, before it has opened anything.
pub unsafe fn received<const N: usize>() -> io::Result<[OwnedFd; N]> {
    // SAFETY: as the caller promises, they are open and nobody else's.
    let received: [_; N] =
        std::array::from_fn(|place| unsafe { OwnedFd::from_raw_fd(FIRST_FD + place as RawFd) });
    received.iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop))?;
    Ok(received)
}

/// Tells the owner, by standard output, that this process serves.
pub fn say_ready() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(&[READY])?;
    out.flush()
}

/// Waits until it serves. `false` if it will not, or was asked before.
pub fn is_ready(process: &mut Child) -> bool {
    let mut ready = [0];
    let said = process.stdout.take().map(|mut out| out.read(&mut ready));
    matches!(said, Some(Ok(1))) && ready[0] == READY
}
