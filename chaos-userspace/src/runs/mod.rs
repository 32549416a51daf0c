//! The runs of this host: every owner listens on a socket of its own, so that they can be listed, asked and ended.

pub mod client;
pub mod halt;
pub mod message;
pub mod progress;
pub mod server;

use crate::inject::journal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes of one message at most, the line feed behind it included.
pub const MESSAGE_MAX: usize = 1 << 16;
/// What sockets are called behind the id of their run.
pub const EXTENSION: &str = "sock";

/// What a socket is called on which nobody listens yet.
pub const EXTENSION_UNFINISHED: &str = "new-sock";
/// What is unfinished for so long belongs to an owner that was killed meanwhile: finishing takes a moment.
const UNFINISHED_FOR: Duration = Duration::from_secs(10);

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

/// The process that listens on the other side, if this one can see it.
pub(crate) fn listener_of(stream: &UnixStream) -> Option<i32> {
    let pid = getsockopt(stream, PeerCredentials).ok()?.pid();
    (pid > 0).then_some(pid)
}

/// Removes what owners were making in `directory` when they were killed, and their guardians with them. Returns the files.
pub fn sweep_unfinished(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return vec![] };
    let is_over = |path: &PathBuf| {
        let unfinished = [EXTENSION_UNFINISHED, journal::EXTENSION_UNFINISHED];
        let extension = path.extension().and_then(|extension| extension.to_str());
        let age = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
        extension.is_some_and(|extension| unfinished.contains(&extension))
            && matches!(age, Ok(Ok(age)) if age > UNFINISHED_FOR)
    };
    let paths = entries.flatten().map(|entry| entry.path()).filter(is_over);
    paths.filter(|path| fs::remove_file(path).is_ok()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn what_has_been_unfinished_for_long_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - 2 * UNFINISHED_FOR;
        for (name, age) in [
            ("a.new", long_ago),
            ("b.new-sock", long_ago),
            ("c.new", SystemTime::now()),
            ("d.json", long_ago),
            ("e.sock", long_ago),
        ] {
            let file = fs::File::create(directory.path().join(name)).unwrap();
            file.set_modified(age).unwrap();
        }
        let mut swept = sweep_unfinished(directory.path());
        swept.sort();
        assert_eq!(swept, ["a.new", "b.new-sock"].map(|name| directory.path().join(name)));
        assert!(["c.new", "d.json", "e.sock"].iter().all(|name| directory.path().join(name).exists()));
        assert!(sweep_unfinished(Path::new("/nowhere")).is_empty());
    }
}
