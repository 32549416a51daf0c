//! A bulk transfer, and what the connection and the host say about it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::errno::Errno;
use serde_json::json;

use super::Desk;
use crate::board::Role;
use crate::patience::monotonic_ns;

#[derive(Args)]
pub struct Send {
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// Bytes to send
    #[arg(long)]
    bytes: u64,
}

#[derive(Args)]
pub struct Receive {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
}

pub fn send(arguments: &Send, desk: &Desk) -> Result<i32> {
    while desk.shared && desk.board.ready.load(Acquire) == 0 && !desk.board.stopping() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = host_counters()?;
    let begin_ns = monotonic_ns();
    let mut stream =
        TcpStream::connect(arguments.to).with_context(|| format!("connecting to {}", arguments.to))?;
    let block = [0x5a_u8; 16 << 10];
    let mut left = arguments.bytes;
    while left > 0 {
        let part = left.min(block.len() as u64) as usize;
        stream.write_all(&block[..part]).context("sending")?;
        left -= part as u64;
    }
    stream.shutdown(Shutdown::Write).context("ending the stream")?;
    // The peer answers with its count once it has read everything.
    let mut count = [0u8; 8];
    stream.read_exact(&mut count).context("waiting for the receiver's count")?;
    let took_ms = (monotonic_ns() - begin_ns) / 1_000_000;
    let info = tcp_info(&stream)?;
    let changes: BTreeMap<String, i64> = host_counters()?
        .into_iter()
        .map(|(name, after)| (name.clone(), after - before.get(&name).copied().unwrap_or_default()))
        .filter(|(_, change)| *change != 0)
        .collect();
    desk.report(
        Role::First,
        &json!({
            "act": "tcp-send", "bytes": arguments.bytes, "delivered": u64::from_ne_bytes(count), "took_ms": took_ms,
            "total_retrans": info.tcpi_total_retrans, "lost": info.tcpi_lost, "retransmits": info.tcpi_retransmits,
            "snd_mss": info.tcpi_snd_mss, "snd_cwnd": info.tcpi_snd_cwnd, "rtt_us": info.tcpi_rtt,
            "host": changes,
        }),
    );
    Ok(0)
}

pub fn receive(arguments: &Receive, desk: &Desk) -> Result<i32> {
    let listener =
        TcpListener::bind(arguments.listen).with_context(|| format!("listening on {}", arguments.listen))?;
    desk.board.ready.store(1, Release);
    let (mut stream, _) = listener.accept().context("accepting")?;
    let mut block = vec![0u8; 256 << 10];
    let mut delivered = 0u64;
    loop {
        let bytes = stream.read(&mut block).context("receiving")?;
        if bytes == 0 {
            break;
        }
        ensure!(
            block[..bytes].iter().all(|byte| *byte == 0x5a),
            "the stream was damaged near byte {delivered}"
        );
        delivered += bytes as u64;
    }
    stream.write_all(&delivered.to_ne_bytes()).context("answering")?;
    desk.report(Role::Second, &json!({"act": "tcp-recv", "delivered": delivered}));
    Ok(0)
}

fn tcp_info(stream: &TcpStream) -> Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `info`.
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    Errno::result(status).context("asking for TCP_INFO")?;
    // SAFETY: plain integers, zeroed before the kernel filled them.
    Ok(unsafe { info.assume_init() })
}

/// The TCP counters of this network namespace.
fn host_counters() -> Result<BTreeMap<String, i64>> {
    let mut counters = BTreeMap::new();
    for path in ["/proc/self/net/snmp", "/proc/self/net/netstat"] {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        counters.extend(tcp_counters(&text));
    }
    Ok(counters)
}

/// Reads pairs of lines, names above values, of the groups that start with `Tcp`.
fn tcp_counters(text: &str) -> BTreeMap<String, i64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = BTreeMap::new();
    for [names, values] in lines.as_chunks::<2>().0 {
        if names.starts_with("Tcp") {
            let values = values.split_whitespace().map(|value| value.parse().unwrap_or_default());
            counters.extend(names.split_whitespace().map(str::to_owned).zip(values).skip(1));
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_pairs_of_lines() {
        let counters = tcp_counters(
            "Ip: A\nIp: 1\nTcp: MaxConn RetransSegs\nTcp: -1 12\nTcpExt: TCPTimeouts\nTcpExt: 3\n",
        );
        assert_eq!(counters.get("MaxConn"), Some(&-1));
        assert_eq!(counters.get("RetransSegs"), Some(&12));
        assert_eq!(counters.get("TCPTimeouts"), Some(&3));
        assert_eq!(counters.get("A"), None);
    }
}
