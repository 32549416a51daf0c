//! The lines another process writes, as they come.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::{self, Receiver};
use std::thread;

/// Reads in a thread of its own; the channel closes at the end of the input.
pub fn read(from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if send.send(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}
