//! The owner's side: who may ask, and what is asked.

use super::{
    MESSAGE_MAX,
    message::{Answer, Request},
    socket_of,
};
use crate::{cli::exit, inject::journal};
use nix::unistd::Uid;
use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Callers that are listened to at the same time.
const CALLERS_MAX: usize = 16;
/// How long a caller may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody who has asked and waits for the answer.
pub struct Caller {
    stream: UnixStream,
    /// Its process, if it can be seen from here.
    pub pid: Option<i32>,
    /// What is asked.
    pub request: Request,
}

/// The listening socket of a run; it goes with this value.
pub struct Server {
    callers: mpsc::Receiver<Caller>,
    socket: PathBuf,
}

impl Server {
    /// Listens for this run. Must be called on a tokio runtime.
    pub fn start(run: &str) -> io::Result<Self> {
        Self::listen(socket_of(run))
    }

    /// Listens on this socket, in place of one on which nobody does any more. Must be called on a tokio runtime.
    pub fn listen(socket: PathBuf) -> io::Result<Self> {
        journal::make_directory()?;
        // Under another name until somebody listens: a socket without a listener is swept.
        let new = socket.with_extension(super::EXTENSION_UNFINISHED);
        let _ = fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, &socket)?;
        let (sender, callers) = mpsc::channel(CALLERS_MAX);
        tokio::spawn(accept(listener, sender));
        Ok(Self { callers, socket })
    }

    /// The next caller. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Caller> {
        self.callers.recv().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

async fn accept(listener: UnixListener, callers: mpsc::Sender<Caller>) {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, for example: it may pass.
                log::warn!("accepting a caller: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let callers = callers.clone();
        tokio::spawn(async move {
            let _place = place;
            match timeout(PATIENCE, hear(stream)).await {
                Ok(Some(caller)) => drop(callers.send(caller).await),
                Ok(None) => {}
                Err(_) => log::debug!("a caller said nothing for {PATIENCE:?}"),
            }
        });
    }
}

/// Reads what is asked, if the caller may ask.
async fn hear(mut stream: UnixStream) -> Option<Caller> {
    let own = Uid::effective().as_raw();
    // SO_PEERCRED: who they were when they connected.
    let credentials = stream.peer_cred().ok()?;
    let (caller, pid) = (credentials.uid(), credentials.pid().filter(|pid| *pid > 0));
    if caller != 0 && caller != own {
        let message =
            format!("uid {caller} may not ask: only root and uid {own}, which started the run, may");
        refuse(stream, exit::UNABLE, message).await;
        return None;
    }
    let mut line = String::new();
    let read = BufReader::new((&mut stream).take(MESSAGE_MAX as u64)).read_line(&mut line).await;
    let problem = match read {
        // Who only looks whether somebody listens says nothing.
        Ok(0) => return None,
        Ok(_) if !line.ends_with('\n') => {
            format!("a request of more than {MESSAGE_MAX} bytes, or without an end")
        }
        Ok(_) => match serde_json::from_str(&line) {
            Ok(request) => return Some(Caller { stream, pid, request }),
            Err(error) => format!("the request cannot be read: {error}; use the kchaos that started the run"),
        },
        Err(error) => error.to_string(),
    };
    refuse(stream, exit::USAGE, problem).await;
    None
}

async fn refuse(stream: UnixStream, code: u8, message: String) {
    write(stream, &Answer::Refused { code, message }).await;
}

async fn write(mut stream: UnixStream, answer: &Answer) {
    let Ok(mut line) = serde_json::to_vec(answer) else { return };
    line.push(b'\n');
    // A caller that has gone, or takes nothing, does not stop the run.
    if !matches!(timeout(PATIENCE, stream.write_all(&line)).await, Ok(Ok(()))) {
        log::debug!("a caller did not take its answer");
    }
}

impl Caller {
    /// The connection, for more than an answer.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Answers.
    pub async fn answer(self, answer: &Answer) {
        write(self.stream, answer).await;
    }
}
