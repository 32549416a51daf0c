//! A small web server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::Desk;

#[derive(Args)]
pub struct Web {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
}

/// Answers every request with 200 and `{"status": "up"}`. Live on the board: answers as `received`.
pub fn web(arguments: &Web, desk: &Desk) -> Result<i32> {
    let listener = TcpListener::bind(arguments.listen)?;
    listener.set_nonblocking(true)?;
    desk.board.ready.store(1, Release);
    std::thread::scope(|scope| {
        while !desk.board.stopping() {
            match listener.accept() {
                Ok((stream, _)) => {
                    scope.spawn(|| {
                        // Who goes away before the answer is none of the server's problems.
                        if answer(stream).is_ok() {
                            desk.board.datagrams.received.fetch_add(1, Release);
                        }
                    });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    Ok(0)
}

fn answer(stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).lines();
    while !lines.next().context("the request ended early")??.is_empty() {}
    let body = "{\"status\": \"up\"}";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    (&stream).write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
    Ok(())
}
