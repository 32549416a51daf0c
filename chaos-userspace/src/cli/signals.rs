//! Signals that ask for an end.

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use std::io;
use tokio::io::unix::AsyncFd;

/// A signal that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Which one.
    pub signal: Signal,
    /// Whether the terminal sent it, to the command as well as to us.
    pub from_terminal: bool,
}

/// Blocks the signals that ask for an end, for the calling thread and all threads it starts later, and returns where they
/// are read, without waiting.
pub fn block() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Reads the signals that ask for an end instead of dying of them. Unlike a handler it tells who sent them.
pub struct Signals {
    fd: AsyncFd<SignalFd>,
    mask_before: SigSet,
}

impl Signals {
    /// Blocks them for the calling thread and all threads it starts later. Must run on a tokio runtime.
    pub fn take() -> io::Result<Self> {
        let mask_before = SigSet::thread_get_mask()?;
        let fd = block()?;
        // SAFETY: the wrapped value owns the descriptor and keeps it open for as long as it is registered.
        Ok(Self { fd: unsafe { AsyncFd::register(fd) }?, mask_before })
    }

    /// What the caller of this process had blocked: a command we start gets it back.
    pub fn mask_before(&self) -> SigSet {
        self.mask_before
    }

    /// The next signal.
    pub async fn next(&mut self) -> io::Result<Arrived> {
        loop {
            let mut ready = self.fd.readable_mut().await?;
            match ready.get_inner_mut().read_signal()? {
                Some(info) => {
                    let signal = Signal::try_from(info.ssi_signo as i32).map_err(io::Error::from)?;
                    return Ok(Arrived { signal, from_terminal: info.ssi_code == libc::SI_KERNEL });
                }
                None => ready.clear_ready(),
            }
        }
    }
}
