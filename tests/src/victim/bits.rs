//! A known pattern sent to oneself: which bits arrive wrong, and what the receiving kernel threw away.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

use super::Desk;
use crate::board::{Board, Role};

const PATTERN: u8 = 0x5a;
/// Datagrams between two pauses of the sender.
const BURST: u64 = 32;

#[derive(Args)]
pub struct Bits {
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// Over TCP instead of UDP
    #[arg(long)]
    tcp: bool,
    /// Datagrams to send, or bytes over TCP
    #[arg(short)]
    n: u64,
    /// Payload bytes of a datagram
    #[arg(long, default_value_t = 200)]
    size: usize,
    /// Network namespace of the receiver
    #[arg(long)]
    recv_netns: Option<PathBuf>,
    /// Silence after the sender's end that ends the receiver
    #[arg(long, default_value_t = 500)]
    idle_ms: u64,
}

/// What was received.
#[derive(Default)]
struct Received {
    /// Datagrams, or bytes over TCP.
    count: u64,
    /// Datagrams with so many wrong bits; over TCP all wrong bits under `1`.
    wrong: BTreeMap<u32, u64>,
}

pub fn run(arguments: &Bits, desk: &Desk) -> Result<i32> {
    let (received, host) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<(Received, BTreeMap<String, i64>)> {
            if let Some(path) = &arguments.recv_netns {
                let namespace =
                    std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering {}", path.display()))?;
            }
            let before = counters()?;
            let received = if arguments.tcp {
                receive_stream(arguments, &desk.board)?
            } else {
                receive_datagrams(arguments, &desk.board)?
            };
            let after = counters()?;
            let change = |(name, now): (String, i64)| {
                let change = now - before.get(&name).copied().unwrap_or_default();
                (name, change)
            };
            Ok((received, after.into_iter().map(change).collect()))
        });
        while desk.board.ready.load(Acquire) == 0 && !receiver.is_finished() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let sent = if arguments.tcp { send_stream(arguments) } else { send_datagrams(arguments) };
        desk.board.sender_done.store(1, Release);
        let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        sent.and(received)
    })?;
    let wrong: BTreeMap<String, u64> =
        received.wrong.iter().map(|(bits, count)| (bits.to_string(), *count)).collect();
    let result: Value =
        json!({"act": "bits", "sent": arguments.n, "received": received.count, "wrong": wrong, "host": host});
    desk.report(Role::First, &result);
    Ok(0)
}

fn send_datagrams(arguments: &Bits) -> Result<()> {
    let any: SocketAddr = match arguments.to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).context("binding the sender")?;
    let payload = vec![PATTERN; arguments.size];
    for number in 0..arguments.n {
        socket.send_to(&payload, arguments.to).context("sending")?;
        if number % BURST == 0 {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    Ok(())
}

fn receive_datagrams(arguments: &Bits, board: &Board) -> Result<Received> {
    let socket = UdpSocket::bind(arguments.to).with_context(|| format!("listening on {}", arguments.to))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).context("enlarging the receive buffer")?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    board.ready.store(1, Release);
    let mut received = Received::default();
    let mut buffer = vec![0u8; 65_536];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) => {
                ensure!(bytes == arguments.size, "a datagram of {bytes} bytes arrived");
                received.count += 1;
                *received.wrong.entry(wrong_bits(&buffer[..bytes])).or_default() += 1;
                last = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                let sent = board.sender_done.load(Acquire) != 0;
                if sent
                    && (received.count == arguments.n
                        || last.elapsed() > Duration::from_millis(arguments.idle_ms))
                {
                    return Ok(received);
                }
                if !sent {
                    last = Instant::now();
                }
            }
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

fn send_stream(arguments: &Bits) -> Result<()> {
    let mut stream =
        TcpStream::connect(arguments.to).with_context(|| format!("connecting to {}", arguments.to))?;
    let block = [PATTERN; 16 << 10];
    let mut left = arguments.n;
    while left > 0 {
        let part = left.min(block.len() as u64) as usize;
        stream.write_all(&block[..part]).context("sending")?;
        left -= part as u64;
    }
    stream.shutdown(Shutdown::Write).context("ending the stream")?;
    // Until the peer has read everything.
    let mut end = [0u8; 1];
    ensure!(stream.read(&mut end).context("waiting for the peer's end")? == 0, "the peer said something");
    Ok(())
}

fn receive_stream(arguments: &Bits, board: &Board) -> Result<Received> {
    let listener =
        TcpListener::bind(arguments.to).with_context(|| format!("listening on {}", arguments.to))?;
    board.ready.store(1, Release);
    let (mut stream, _) = listener.accept().context("accepting")?;
    let mut received = Received::default();
    let mut block = vec![0u8; 256 << 10];
    loop {
        let bytes = stream.read(&mut block).context("receiving")?;
        if bytes == 0 {
            return Ok(received);
        }
        received.count += bytes as u64;
        let wrong = wrong_bits(&block[..bytes]);
        if wrong > 0 {
            *received.wrong.entry(1).or_default() += u64::from(wrong);
        }
    }
}

fn wrong_bits(bytes: &[u8]) -> u32 {
    bytes.iter().map(|byte| (byte ^ PATTERN).count_ones()).sum()
}

/// What this thread's network namespace counts of wrong checksums and headers, by protocol.
fn counters() -> Result<BTreeMap<String, i64>> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let mut counters = BTreeMap::new();
    let snmp = read("/proc/thread-self/net/snmp")?;
    let lines: Vec<&str> = snmp.lines().collect();
    for [names, values] in lines.as_chunks::<2>().0 {
        let (Some((group, names)), Some((_, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            counters.insert(format!("{group}{name}"), value.parse().unwrap_or_default());
        }
    }
    for line in read("/proc/thread-self/net/snmp6")?.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace) {
            counters.insert(name.to_owned(), value.trim().parse().unwrap_or_default());
        }
    }
    counters.retain(|name, _| {
        ["UdpIn", "Udp6In", "TcpIn", "TcpRetrans"].iter().any(|prefix| name.starts_with(prefix))
    });
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_bits_are_counted() {
        assert_eq!(wrong_bits(&[PATTERN; 9]), 0);
        assert_eq!(wrong_bits(&[PATTERN, PATTERN ^ 0x80, !PATTERN]), 9);
    }
}
