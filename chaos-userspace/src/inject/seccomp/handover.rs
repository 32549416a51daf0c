//! How the listener of a filter comes from the process that is about to become the command to its owner.
//!
//! It cannot be sent: sending may be one of the calls that wait for the receiver. So its number lies in a page that both
//! share, and the owner takes it out of the other's table (`pidfd_getfd`, 5.6).

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

/// How often each of both looks.
const LOOK: Duration = Duration::from_micros(100);
/// How often in all: 10 s and more.
const LOOKS: u32 = 100_000;
const PAGE_BYTES: usize = 4096;

/// A page of two words: the number of the listener plus one, then whether it was taken.
#[derive(Debug)]
pub struct Handover(NonNull<[AtomicI32; 2]>);

impl Handover {
    /// Makes one. It is to be shared by a fork.
    pub fn new() -> io::Result<Self> {
        let length = NonZeroUsize::new(PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of its own, of bytes that are 0.
        let page = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_SHARED) }?;
        Ok(Self(page.cast()))
    }

    fn words(&self) -> &[AtomicI32; 2] {
        // SAFETY: the page lives as long as `self` and is accessed atomically only.
        unsafe { self.0.as_ref() }
    }

    /// In the child: offers the listener and waits until it was taken. Makes only system calls.
    pub(super) fn offer(&self, listener: i32) -> io::Result<()> {
        let [offered, taken] = self.words();
        offered.store(listener + 1, Ordering::SeqCst);
        let pause = libc::timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        for _ in 0..LOOKS {
            if taken.load(Ordering::SeqCst) != 0 {
                return Ok(());
            }
            // SAFETY: waits; nobody asks for the time that is left.
            unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
        }
        Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
    }

    /// In the owner: takes the listener out of the table of the process of `child` (a pidfd). `None` if it has ended
    /// before it offered one.
    pub fn take(&self, child: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let [offered, taken] = self.words();
        for _ in 0..LOOKS {
            let number = offered.load(Ordering::SeqCst);
            if number != 0 {
                // SAFETY: plain numbers.
                let listener =
                    unsafe { libc::syscall(libc::SYS_pidfd_getfd, child.as_raw_fd(), number - 1, 0) };
                if listener < 0 {
                    return Err(io::Error::last_os_error());
                }
                // SAFETY: a new descriptor (with O_CLOEXEC) that nobody else owns.
                let listener = unsafe { OwnedFd::from_raw_fd(listener as i32) };
                taken.store(1, Ordering::SeqCst);
                return Ok(Some(listener));
            }
            let mut end = [PollFd::new(child, PollFlags::POLLIN)];
            if poll(&mut end, PollTimeout::ZERO).unwrap_or(0) > 0 {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
        Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, to which no reference is left.
        let _ = unsafe { munmap(self.0.cast(), PAGE_BYTES) };
    }
}
