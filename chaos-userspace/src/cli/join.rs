//! A run that lives in the engine of this host, from the side of who has asked for it.

use super::{console, detach, engine, exit, failure::Failure, session::block_on, signals::Signals};
use crate::{
    report::event::Sink,
    runs::{
        self,
        message::{Interrupt, Request, Told},
    },
};
use serde::Deserialize;
use std::{ffi::OsString, os::unix::net::UnixStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// The engine that hosts runs of others on this host.
pub struct Host {
    stream: UnixStream,
    /// Its process.
    pub pid: i32,
}

/// The engine, if there is one for who asks: it sees the same processes and cgroups.
pub fn find() -> Option<Host> {
    let stream = runs::connect(&runs::socket_of_engine()).ok().flatten()?;
    let pid = runs::listener_of(&stream)?;
    engine::sees_the_same(pid).then_some(Host { stream, pid })
}

/// An event of which only one is looked into.
#[derive(Deserialize)]
struct Named {
    event: String,
    run: Option<String>,
}

/// Has the command line `words` done by the engine, says what it tells, and returns the run's exit code.
pub fn run(
    host: Host,
    words: &[OsString],
    detached: bool,
    json: bool,
    sink: &mut Sink,
) -> Result<u8, Failure> {
    let words = words.iter().skip(1).map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>();
    let words = words.ok_or_else(|| Failure::new(exit::USAGE, "the command line is not UTF-8"))?;
    let pid = host.pid;
    block_on(async {
        // Before anything is asked, so that no signal ends this process while its run goes on.
        let mut signals = Signals::take().map_err(Failure::internal)?;
        host.stream.set_nonblocking(true).map_err(Failure::internal)?;
        let stream = tokio::net::UnixStream::from_std(host.stream).map_err(Failure::internal)?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(&line(&Request::Join { words, detached })?).await.map_err(Failure::internal)?;
        let mut lines = BufReader::new(reader).lines();
        loop {
            tokio::select! {
                arrived = signals.next() => {
                    let signal = arrived.map_err(Failure::internal)?.signal as i32;
                    // If the engine has gone, its last words or their lack tell.
                    let _gone = writer.write_all(&line(&Interrupt { signal })?).await;
                }
                told = lines.next_line() => match told.ok().flatten() {
                    Some(told) => match serde_json::from_str(&told).map_err(Failure::internal)? {
                        Told::Say { text, at_length } => console::tell(sink, &text, at_length),
                        Told::Event { line } => {
                            sink.pass_on(&line);
                            leave_if_armed(&line, detached, json)?;
                        }
                        Told::End { code, failure: None } => return Ok(code),
                        Told::End { code, failure: Some(message) } => return Err(Failure::new(code, message)),
                    },
                    None => {
                        let message = format!("the engine, process {pid}, has died, and the run ended with it");
                        return Err(Failure::internal(message));
                    }
                }
            }
        }
    })
}

/// Who waits for a detached run is told of it, once.
fn leave_if_armed(line: &str, detached: bool, json: bool) -> Result<(), Failure> {
    if !detached {
        return Ok(());
    }
    match serde_json::from_str(line) {
        Ok(Named { event, run: Some(run) }) if event == "armed" => {
            detach::leave(&run, json).map_err(Failure::internal)
        }
        _ => Ok(()),
    }
}

fn line(said: &impl serde::Serialize) -> Result<Vec<u8>, Failure> {
    let mut line = serde_json::to_vec(said).map_err(Failure::internal)?;
    line.push(b'\n');
    Ok(line)
}
