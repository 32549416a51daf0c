//! What is said to people while something runs: on standard error, or in the view that has the terminal just then.

use crate::{report::event::Sink, runs::message::Told};
use anstream::adapter::strip_str;
use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc::Sender},
};

/// The view that has the terminal.
static VIEW: Mutex<Option<Held>> = Mutex::new(None);

struct Held {
    show: Sender<String>,
    /// Said meanwhile: comes to the terminal when it is free again.
    later: Vec<u8>,
}

/// Why a part of the result could not be written.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

/// Prints a line of the result.
pub fn out(line: fmt::Arguments<'_>) {
    out_text(&format!("{line}\n"));
}

/// Prints a text of the result, which has its ends of lines. What cannot be written must not stop what is still to be done: it is
/// told at the end by [`unwritten`].
pub fn out_text(text: &str) {
    if let Err(error) = print(text.as_bytes()) {
        let _ = UNWRITTEN.set(error);
    }
}

/// Prints a whole result, behind which there is nothing to do.
///
/// # Errors
/// If standard output takes no more; not if its reader has gone, as head(1), which has read enough.
pub fn print(result: &[u8]) -> io::Result<()> {
    let mut out = io::stdout();
    match out.write_all(result).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Why a part of the result could not be written, if it could not.
pub fn unwritten() -> Option<&'static io::Error> {
    UNWRITTEN.get()
}

/// Says a line.
pub fn err(line: fmt::Arguments<'_>) {
    say(&format!("{line}\n"));
}

/// Says whole lines to who has started the run, unless a machine reads them.
pub fn tell(sink: &Sink, text: &str, at_length: bool) {
    match sink {
        Sink::Client(client) => {
            let _gone = client.send(Told::Say { text: text.to_owned(), at_length });
        }
        Sink::Stderr => {}
        Sink::None | Sink::File(_) => put(text, !at_length),
    }
}

/// Says whole lines. A terminal that has gone must not stop the rest, so nothing is told of its errors.
pub fn say(text: &str) {
    put(text, true);
}

fn put(text: &str, is_shown: bool) {
    let mut view = view();
    let Some(held) = &mut *view else {
        let _ = io::stderr().write_all(text.as_bytes());
        return;
    };
    if is_shown {
        for line in text.lines() {
            // A view that has ended shows nothing any more.
            let _ = held.show.send(strip_str(line).to_string());
        }
    }
    if io::stderr().is_terminal() {
        held.later.extend_from_slice(text.as_bytes());
    } else {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// A view takes the terminal: it is sent every line from now on.
pub fn lend(show: Sender<String>) {
    *view() = Some(Held { show, later: vec![] });
}

/// The terminal is free again, and what was said meanwhile appears on it.
pub fn take_back() {
    if let Some(held) = view().take() {
        let _ = io::stderr().write_all(&held.later);
    }
}

fn view() -> MutexGuard<'static, Option<Held>> {
    VIEW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the log goes.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn while_a_view_has_the_terminal_it_hears_line_by_line() {
        let (show, shown) = mpsc::channel();
        lend(show);
        say("one\n\u{1b}[33mtwo\u{1b}[0m\n");
        put("a table\n", false);
        let _ = Log.write_all(b"a warning\n");
        take_back();
        assert_eq!(shown.iter().collect::<Vec<_>>(), ["one", "two", "a warning"]);
    }
}
