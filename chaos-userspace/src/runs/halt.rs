//! The lever that ends all runs of this host and keeps new ones from beginning: a file.

use crate::inject::journal;
use std::{fs, io, os::unix::fs::OpenOptionsExt, path::PathBuf};

/// The file; whoever may write there can make it by hand (`touch`), too. What is in it is told as the reason.
pub fn path() -> PathBuf {
    PathBuf::from(journal::DIRECTORY).join("halt")
}

/// Why runs are halted, if they are; empty if nobody gave a reason.
pub fn reason() -> Option<String> {
    /// More than that is no reason.
    const BYTES_MAX: usize = 1000;
    let file = fs::File::open(path()).ok()?;
    let mut text = vec![];
    // Unreadable or not, it is there.
    let _ = io::Read::read_to_end(&mut io::Read::take(file, BYTES_MAX as u64), &mut text);
    let text = String::from_utf8_lossy(&text).replace(char::is_control, " ");
    Some(text.trim().to_owned())
}

/// Keeps runs from beginning and ends those that run.
pub fn halt(reason: &str) -> io::Result<()> {
    journal::make_directory()?;
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path())?;
    io::Write::write_all(&mut file, reason.as_bytes())
}

/// Lets runs begin again. `false` if they were not halted.
pub fn resume() -> io::Result<bool> {
    match fs::remove_file(path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}
