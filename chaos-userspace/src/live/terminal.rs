//! The terminal, lent for the time of the view.

use ratatui::DefaultTerminal;
use std::io;

/// A terminal in raw mode, on its second screen. It is given back when this is dropped, and when the process panics.
pub struct Lent(pub DefaultTerminal);

impl Lent {
    /// Takes it over.
    ///
    /// # Errors
    /// If standard output is no terminal that can be switched.
    pub fn take() -> io::Result<Self> {
        Ok(Self(ratatui::try_init()?))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Says on standard error what it could not do.
        ratatui::restore();
    }
}
