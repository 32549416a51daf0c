//! The terminal, lent for the time of the view.

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use ratatui::DefaultTerminal;
use std::io;

/// A terminal in raw mode, on its second screen. It is given back when this is dropped, and when the process panics.
pub struct Lent {
    /// What is drawn on.
    pub terminal: DefaultTerminal,
    ends: SignalFd,
}

impl Lent {
    /// Takes it over. From now on the signals that ask for an end are heard by [`Lent::is_over`]; must be called before
    /// other threads are started, which would die of them otherwise.
    ///
    /// # Errors
    /// If standard output is no terminal that can be switched.
    pub fn take() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            set.add(signal);
        }
        set.thread_block()?;
        let ends = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { terminal: ratatui::try_init()?, ends })
    }

    /// Whether somebody asked for the end of this process.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn is_over(&self) -> io::Result<bool> {
        Ok(self.ends.read_signal()?.is_some())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Says on standard error what it could not do.
        ratatui::restore();
    }
}
