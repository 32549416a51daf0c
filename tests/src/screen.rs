//! A terminal that somebody looks at: what a program draws on it, and the keys that are pressed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

use crate::patience::wait_until;

/// A pseudo terminal of 120 columns and 40 rows.
pub struct Screen {
    keys: File,
    slave: OwnedFd,
    seen: Arc<Mutex<vt100::Parser>>,
}

/// How often it is looked whether anybody still looks.
const LOOK_MS: u8 = 50;
const ROWS: u16 = 40;
const COLUMNS: u16 = 120;

impl Screen {
    /// Switches one on.
    pub fn new() -> Result<Self> {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).context("opening a pseudo terminal")?;
        // A program that had this end as well would never hear of a terminal that has gone.
        fcntl(&pair.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("fcntl(F_SETFD)")?;
        let seen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let mut drawn = File::from(pair.master.try_clone()?);
        // Ends when nobody has the other end, or when nobody looks at this one: then the terminal hangs up.
        std::thread::spawn({
            let looked_at = Arc::downgrade(&seen);
            move || {
                let mut bytes = [0; 4096];
                while let Some(seen) = looked_at.upgrade() {
                    let mut ready = [PollFd::new(drawn.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut ready, LOOK_MS) {
                        Ok(0) | Err(Errno::EINTR) => continue,
                        _ => {}
                    }
                    let Ok(count @ 1..) = drawn.read(&mut bytes) else { return };
                    seen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
                }
            }
        });
        Ok(Self { keys: File::from(pair.master), slave: pair.slave, seen })
    }

    /// The end that a program is given.
    pub fn end(&self) -> Result<OwnedFd> {
        self.slave.try_clone().context("cloning a terminal")
    }

    /// What is on it.
    pub fn text(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Whether a program has switched to the second screen.
    pub fn is_switched(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).screen().alternate_screen()
    }

    /// Waits until something is on it.
    pub fn wait_for(&self, what: &str, is_there: impl Fn(&str) -> bool) -> Result<()> {
        wait_until(what, || is_there(&self.text()))
            .with_context(|| format!("on the screen:\n{}", self.text()))?;
        Ok(())
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).context("pressing a key")
    }

    /// How the terminal treats what is typed.
    pub fn modes(&self) -> Result<Termios> {
        Ok(tcgetattr(&self.slave)?)
    }
}
