//! The asking side.

use super::{
    MESSAGE_MAX, connect, listener_of,
    message::{Answer, Request},
    sockets,
};
use crate::host::process;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How often it is looked whether a silent owner is stopped.
const LOOK: Duration = Duration::from_secs(2);
/// A summary may be longer than what is asked.
const ANSWER_MAX: u64 = 64 * MESSAGE_MAX as u64;

/// Why a run could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such run.
    #[error("no run '{0}' is live on this host: kchaos list shows those that are")]
    Unknown(String),
    /// There is more than one.
    #[error("'{0}' is the beginning of several runs: {1}")]
    Ambiguous(String, String),
    /// It has ended before it answered.
    #[error("run {0} ended before it answered")]
    Ended(String),
    /// It does not answer in time.
    #[error("run {0} does not answer: its owner is busy")]
    Silent(String),
    /// It cannot answer.
    #[error(
        "run {run} does not answer: its owner, process {owner}, is stopped. Its faults have ended with its lease, and act again \
         when it goes on: kill -CONT {owner} lets it answer, kill -KILL {owner} has its guardian undo them"
    )]
    Stopped {
        /// The run.
        run: String,
        /// Its owner.
        owner: i32,
    },
    /// Something of the operating system.
    #[error("asking the runs in {}: {source}{}", crate::inject::journal::DIRECTORY, remedy(.source))]
    Io {
        /// What it said.
        #[from]
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { ": run as root" } else { "" }
}

/// A live run.
pub struct Run {
    /// Its id.
    pub id: String,
    stream: UnixStream,
}

/// Connects to all live runs, and sweeps those whose owner is gone.
pub fn all() -> Result<Vec<Run>, Error> {
    let mut runs = vec![];
    for (id, socket) in sockets()? {
        runs.extend(connect(&socket)?.map(|stream| Run { id, stream }));
    }
    Ok(runs)
}

/// Connects to the run with this id, or the only one whose id begins so.
pub fn find(id: &str) -> Result<Run, Error> {
    let fitting = |(known, _): &(String, PathBuf)| !id.is_empty() && known.starts_with(id);
    let found: Vec<_> = sockets()?.into_iter().filter(fitting).collect();
    let exact = found.iter().find(|(known, _)| known == id).cloned();
    let mut live = vec![];
    for (id, socket) in exact.map_or(found, |exact| vec![exact]) {
        live.extend(connect(&socket)?.map(|stream| Run { id, stream }));
    }
    let ids: Vec<_> = live.iter().map(|run| run.id.clone()).collect();
    match live.pop() {
        Some(run) if live.is_empty() => Ok(run),
        Some(_) => Err(Error::Ambiguous(id.to_owned(), ids.join(", "))),
        None => Err(Error::Unknown(id.to_owned())),
    }
}

impl Run {
    /// Asks and waits for the answer, for as long as `limit` says, but not for an owner that is stopped.
    pub fn ask(mut self, request: &Request, limit: Option<Duration>) -> Result<Answer, Error> {
        let Self { id, stream } = &mut self;
        stream.set_read_timeout(Some(limit.map_or(LOOK, |limit| limit.min(LOOK))))?;
        stream.set_write_timeout(limit)?;
        let owner = listener_of(stream);
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        let said = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent(id.clone()),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Ended(id.clone()),
            _ => error.into(),
        };
        // A refusal is there before anything is asked.
        let written = stream.write_all(&line);
        let (begin, mut answer) = (Instant::now(), vec![]);
        let mut reader = BufReader::new(Read::take(&*stream, ANSWER_MAX));
        while let Err(error) = reader.read_until(b'\n', &mut answer) {
            if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                return Err(said(error));
            }
            if let Some(owner) = owner.filter(|owner| process::is_stopped(*owner)) {
                return Err(Error::Stopped { run: id.clone(), owner });
            }
            if limit.is_some_and(|limit| begin.elapsed() >= limit) {
                return Err(Error::Silent(id.clone()));
            }
        }
        if answer.is_empty() {
            written.map_err(said)?;
            return Err(Error::Ended(id.clone()));
        }
        Ok(serde_json::from_slice(&answer).map_err(io::Error::from)?)
    }
}
