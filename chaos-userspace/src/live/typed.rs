//! Keys as they are typed, until the terminal goes.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};
use ratatui::crossterm::event::{self, Event, KeyEvent};
use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

/// How often it is looked whether anybody still listens, in milliseconds.
const LOOK_MS: u8 = 50;

/// What is typed on standard input. A thread of its own reads it: at the end of a terminal crossterm's reader neither waits nor
/// returns, which must not hold up whoever draws.
pub struct Typed {
    keys: Receiver<KeyEvent>,
    over: Arc<AtomicBool>,
}

impl Typed {
    /// Listens from now on. Signals that ask for an end must be blocked already.
    pub fn listen() -> Self {
        let (tell, keys) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        // Not waited for at the end: it reads, and nothing else.
        thread::spawn({
            let over = Arc::clone(&over);
            move || read(&tell, &over)
        });
        Self { keys, over }
    }

    /// The next key, if one is typed within this time.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub fn next(&self, within: Duration) -> io::Result<Option<KeyEvent>> {
        match self.keys.recv_timeout(within) {
            Ok(key) => Ok(Some(key)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

fn read(tell: &Sender<KeyEvent>, over: &AtomicBool) {
    while !over.load(Relaxed) {
        let stdin = io::stdin();
        let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, LOOK_MS) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if ready[0].revents().is_none_or(|events| events.intersects(gone)) {
            return;
        }
        match event::poll(Duration::ZERO)
            .and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) })
        {
            Ok(Some(Event::Key(key))) if tell.send(key).is_err() => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
