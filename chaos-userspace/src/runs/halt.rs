//! The lever that ends all runs of this host and keeps new ones from beginning: a file.

use crate::inject::journal;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::{fs, io, os::unix::fs::OpenOptionsExt, path::PathBuf};
use tokio::{io::unix::AsyncFd, sync::mpsc};

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

/// Tells when runs are halted, if that is from now on. Must be called on a tokio runtime.
pub fn listen() -> io::Result<mpsc::Receiver<()>> {
    journal::make_directory()?;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
    inotify.add_watch(journal::DIRECTORY, made)?;
    // SAFETY: the watch owns its descriptor and keeps it open for as long as it is registered.
    let mut inotify = unsafe { AsyncFd::register(Watch(inotify)) }.map_err(io::Error::other)?;
    let (halted, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(mut ready) = inotify.readable_mut().await {
            // What happened does not matter, only what is there.
            while ready.get_inner_mut().0.read_events().is_ok_and(|events| !events.is_empty()) {}
            ready.clear_ready();
            if path().exists() {
                let _ = halted.send(()).await;
                return;
            }
        }
    });
    Ok(receiver)
}

struct Watch(Inotify);

impl std::os::fd::AsRawFd for Watch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&self.0))
    }
}
