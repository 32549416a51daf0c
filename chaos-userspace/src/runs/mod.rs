//! The runs of this host: every owner listens on a socket of its own, so that they can be listed, asked and ended.

pub mod client;
pub mod halt;
pub mod message;
pub mod progress;
pub mod server;

use crate::inject::journal;
use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, net::UnixStream},
    path::{Path, PathBuf},
};

/// Bytes of one message at most, the line feed behind it included.
pub const MESSAGE_MAX: usize = 1 << 16;
/// What sockets are called behind the id of their run.
pub const EXTENSION: &str = "sock";

/// Where the engine listens that hosts runs of others, of which a host has one.
pub fn socket_of_engine() -> PathBuf {
    Path::new(journal::DIRECTORY).join("engine.hosts")
}

/// Where the owner of a run listens.
pub fn socket_of(run: &str) -> PathBuf {
    Path::new(journal::DIRECTORY).join(run).with_extension(EXTENSION)
}

/// The sockets there are, by run. Without a directory there has been no run yet.
fn sockets() -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(journal::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut sockets: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension.as_bytes() == EXTENSION.as_bytes()))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .collect();
    sockets.sort();
    Ok(sockets)
}

/// Connects to an owner. A socket on which nobody listens any more is removed.
pub(crate) fn connect(socket: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = fs::remove_file(socket);
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the sockets of owners that are gone. Returns the runs.
pub fn sweep() -> Vec<String> {
    let sockets = sockets().unwrap_or_default();
    sockets
        .into_iter()
        .filter(|(_, socket)| matches!(connect(socket), Ok(None)))
        .map(|(run, _)| run)
        .collect()
}
