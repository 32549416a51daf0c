//! The terminal, lent for the time of the view.

use ratatui::{DefaultTerminal, Frame};
use std::{io, mem::ManuallyDrop};

/// A terminal in raw mode, on its second screen. It is given back when this is dropped, and when the process panics.
pub struct Lent(ManuallyDrop<DefaultTerminal>);

impl Lent {
    /// Takes it over.
    ///
    /// # Errors
    /// If standard output is no terminal that can be switched.
    pub fn take() -> io::Result<Self> {
        Ok(Self(ManuallyDrop::new(ratatui::try_init()?)))
    }
}

impl Lent {
    /// Draws a frame.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(frame).map(drop)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Its own drop would panic where neither the cursor can be shown nor anybody be told of it.
        if self.0.show_cursor().is_ok() {
            // SAFETY: it is not used again.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
        // A terminal that has gone is nobody's any more.
        if let Err(error) = ratatui::try_restore() {
            log::debug!("the terminal is not given back: {error}");
        }
    }
}
