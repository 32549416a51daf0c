//! The receiver's end of a filter: calls that wait, and answers to them (include/uapi/linux/seccomp.h).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

mod request {
    nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
    nix::ioctl_readwrite!(send, b'!', 1, libc::seccomp_notif_resp);
    nix::ioctl_write_int_bad!(set_flags, nix::request_code_write!(b'!', 4, size_of::<u64>()));
}

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: libc::c_int = 1;

/// A task that waits for an answer to its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Number of the notification. They follow each other.
    pub id: u64,
    /// The thread, as this process sees it; 0 if it cannot.
    pub thread: u32,
    /// `AUDIT_ARCH_*` of the call.
    pub arch: u32,
    /// The call's number in the table of that.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What a task that waits does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It makes its call.
    GoOn,
    /// The call does nothing and returns this: a negative errno, or a value.
    Return(i64),
}

/// A listener.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Of a descriptor that seccomp(2) gave out.
    pub fn new(fd: OwnedFd) -> Self {
        // Both sides take turns, so each runs where the other one did. Kernels below 6.6 do not know this.
        // SAFETY: a plain number.
        let _ = unsafe { request::set_flags(fd.as_raw_fd(), SYNC_WAKE_UP) };
        Self(fd)
    }

    /// Takes the next task that waits. `None` if the last one to be seen has gone meanwhile. Does not wait where poll(2)
    /// has said that there is one.
    pub fn receive(&self) -> io::Result<Option<Asked>> {
        // SAFETY: all bytes zero are a value of the plain structure, and what the kernel wants to see.
        let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: a place of the size that is part of the request's number.
        match unsafe { request::receive(self.0.as_raw_fd(), &raw mut notification) } {
            Ok(_) => {}
            // ENOTCONN: nobody is behind the filter any more (6.6).
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINTR | nix::errno::Errno::ENOTCONN) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        let libc::seccomp_notif { id, pid, data, .. } = notification;
        Ok(Some(Asked { id, thread: pid, arch: data.arch, number: data.nr as u32, arguments: data.args }))
    }

    /// Answers. `false` if nobody waits under that number: it was killed, or a signal has ended its wait.
    pub fn answer(&self, id: u64, answer: Answer) -> io::Result<bool> {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        match answer {
            Answer::GoOn => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Return(value) if value < 0 => response.error = value as i32,
            Answer::Return(value) => response.val = value,
        }
        // SAFETY: a place of the size that is part of the request's number.
        match unsafe { request::send(self.0.as_raw_fd(), &raw mut response) } {
            Ok(_) => Ok(true),
            // EINPROGRESS: it waits, and nobody has taken it yet; it will be taken.
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINPROGRESS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
