//! Connections that are kept talking, and made anew when they end.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::Desk;
use crate::board::{Board, Role};

/// How long a call may wait, so that a stop is noticed. Dozens of these share one emulated processor.
const PATIENCE: Duration = Duration::from_millis(PATIENCE_MS as u64);
const PATIENCE_MS: u8 = 100;

#[derive(Args)]
pub struct Ask {
    /// Whom
    #[arg(long)]
    to: SocketAddr,
    /// Pause after each answer and each refusal
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
}

#[derive(Args)]
pub struct Answer {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
}

type Errors = Mutex<BTreeMap<String, u64>>;

fn note(errors: &Errors, error: &std::io::Error) {
    let name = format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or_default()));
    let mut errors = errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *errors.entry(name).or_default() += 1;
}

/// Asks over one connection after the other. Live on the board: answers as `received`, connections that broke as `lost`,
/// refused ones as `send_errors`.
pub fn ask(arguments: &Ask, desk: &Desk) -> Result<i32> {
    let (connecting, talking) = (Errors::default(), Errors::default());
    let pause = Duration::from_millis(arguments.pause_ms);
    let mut connections = 0u64;
    let counts = &desk.board.datagrams;
    desk.board.ready.store(1, Release);
    while !desk.board.stopping() {
        match TcpStream::connect(arguments.to) {
            Ok(stream) => {
                connections += 1;
                if let Err(error) = converse(stream, pause, &desk.board) {
                    note(&talking, &error);
                    counts.lost.fetch_add(1, Release);
                }
            }
            Err(error) => {
                note(&connecting, &error);
                counts.send_errors.fetch_add(1, Release);
            }
        }
        std::thread::sleep(pause);
    }
    desk.report(
        Role::First,
        &json!({"act": "ask", "connections": connections, "answers": counts.received.load(Acquire),
            "connect_errors": connecting, "talk_errors": talking}),
    );
    Ok(0)
}

fn converse(mut stream: TcpStream, pause: Duration, board: &Board) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = [0u8; 1];
    while !board.stopping() {
        stream.write_all(b"?")?;
        if stream.read(&mut answer)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        board.datagrams.received.fetch_add(1, Release);
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Answers every byte with one.
pub fn answer(arguments: &Answer, desk: &Desk) -> Result<i32> {
    let listener =
        TcpListener::bind(arguments.listen).with_context(|| format!("listening on {}", arguments.listen))?;
    listener.set_nonblocking(true)?;
    let errors = Errors::default();
    let mut connections = 0u64;
    desk.board.ready.store(1, Release);
    std::thread::scope(|scope| -> Result<()> {
        while !desk.board.stopping() {
            match listener.accept() {
                Ok((stream, _)) => {
                    connections += 1;
                    scope.spawn(|| {
                        if let Err(error) = serve(stream, &desk.board) {
                            note(&errors, &error);
                            desk.board.datagrams.lost.fetch_add(1, Relaxed);
                        }
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                    // Whatever it says, the loop looks again.
                    let _ = poll(&mut waited, PollTimeout::from(PATIENCE_MS));
                }
                // The connection went while it waited.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => note(&errors, &error),
                Err(error) => return Err(error).context("accepting"),
            }
        }
        Ok(())
    })?;
    desk.report(Role::First, &json!({"act": "answer", "connections": connections, "errors": errors}));
    Ok(0)
}

fn serve(mut stream: TcpStream, board: &Board) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0u8; 1];
    while !board.stopping() {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(()),
            Ok(_) => stream.write_all(&byte)?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
