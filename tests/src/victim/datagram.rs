//! Numbered datagrams: what was sent, what arrived, and what the sender was told.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{sock_extended_err, sockaddr_in6};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use serde_json::json;

use super::Desk;
use crate::board::{Board, Role};
use crate::patience::monotonic_ns;

/// Sequence number, time sent, time the datagram before was sent.
const HEADER_BYTES: usize = 24;
/// How far the sender may run ahead of the receiver: far below every queue on the way.
const WINDOW: u64 = 128;
/// How long the sender waits for the receiver to catch up: under total loss it never does.
const PATIENCE_WITH_RECEIVER: Duration = Duration::from_millis(20);
const RECEIVE_BUFFER_BYTES: usize = 256 << 20;
const SK_MEMINFO_DROPS: usize = 8;
const SO_MEMINFO: libc::c_int = 55;

#[derive(Args)]
pub struct Send {
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// Datagrams to send; without, send until told to stop
    #[arg(short)]
    n: Option<u64>,
    /// Payload bytes
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Upper limit of the rate
    #[arg(long)]
    rate_per_ms: Option<u64>,
    /// Connect the socket first
    #[arg(long)]
    connected: bool,
    /// Send from this address
    #[arg(long)]
    from: Option<SocketAddr>,
    /// Do not wait for a receiver on the same board
    #[arg(long)]
    alone: bool,
}

#[derive(Args)]
pub struct Receive {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Silence after the sender's end that ends the receiver
    #[arg(long, default_value_t = 500)]
    idle_ms: u64,
}

#[derive(Args)]
pub struct Pair {
    #[command(flatten)]
    send: Send,
    /// Network namespace of the receiver
    #[arg(long)]
    recv_netns: Option<PathBuf>,
    /// Silence after the sender's end that ends the receiver
    #[arg(long, default_value_t = 500)]
    idle_ms: u64,
}

pub fn send(arguments: &Send, desk: &Desk) -> Result<i32> {
    let result = run_sender(arguments, &desk.board);
    // The receiver ends even if the sender could not do its work.
    desk.board.sender_done.store(1, Release);
    desk.report(Role::First, &result?);
    Ok(0)
}

pub fn receive(arguments: &Receive, desk: &Desk) -> Result<i32> {
    let socket = bind(arguments.listen)?;
    desk.board.ready.store(1, Release);
    let result = run_receiver(&socket, Duration::from_millis(arguments.idle_ms), &desk.board)?;
    desk.report(Role::Second, &result);
    Ok(0)
}

pub fn pair(arguments: &Pair, desk: &Desk) -> Result<i32> {
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<i32> {
            if let Some(path) = &arguments.recv_netns {
                let namespace =
                    std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering {}", path.display()))?;
            }
            receive(&Receive { listen: arguments.send.to, idle_ms: arguments.idle_ms }, desk)
        });
        while desk.board.ready.load(Acquire) == 0 && !receiver.is_finished() {
            std::thread::sleep(Duration::from_micros(200));
        }
        let sent = send(&arguments.send, desk);
        let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        sent.and(received)
    })
}

fn run_sender(arguments: &Send, board: &Board) -> Result<serde_json::Value> {
    ensure!(arguments.size >= HEADER_BYTES, "--size {} is below {HEADER_BYTES}", arguments.size);
    let any: SocketAddr = match arguments.to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(arguments.from.unwrap_or(any)).context("binding the sender")?;
    match arguments.to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    }
    .context("asking for errors (IP_RECVERR)")?;
    if arguments.connected {
        socket.connect(arguments.to).context("connecting the sender")?;
    }
    while !arguments.alone && board.ready.load(Acquire) == 0 && !board.stopping() {
        std::thread::sleep(Duration::from_micros(200));
    }

    let mut send_errors = BTreeMap::<i32, u64>::new();
    let mut queue_errors = BTreeMap::<i32, u64>::new();
    let mut payload = vec![0u8; arguments.size];
    let (mut sequence, mut attempts, mut previous_ns) = (0u64, 0u64, 0u64);
    let begin_ns = monotonic_ns();
    while arguments.n.is_none_or(|n| attempts < n) && !board.stopping() {
        if !arguments.alone {
            keep_within_window(sequence, board);
        }
        if let Some(rate) = arguments.rate_per_ms {
            let due_ns = begin_ns + attempts * 1_000_000 / rate.max(1);
            while monotonic_ns() < due_ns {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        let now_ns = monotonic_ns();
        payload[..8].copy_from_slice(&sequence.to_ne_bytes());
        payload[8..16].copy_from_slice(&now_ns.to_ne_bytes());
        payload[16..24].copy_from_slice(&previous_ns.to_ne_bytes());
        let sent =
            if arguments.connected { socket.send(&payload) } else { socket.send_to(&payload, arguments.to) };
        attempts += 1;
        match sent {
            Ok(_) => {
                sequence += 1;
                previous_ns = now_ns;
                board.datagrams.sent.store(sequence, Release);
            }
            Err(error) => {
                *send_errors.entry(error.raw_os_error().unwrap_or_default()).or_default() += 1;
                board.datagrams.send_errors.fetch_add(1, Relaxed);
            }
        }
        drain_error_queue(&socket, &mut queue_errors, board)?;
    }
    drain_error_queue(&socket, &mut queue_errors, board)?;
    Ok(json!({
        "act": "udp-send", "attempts": attempts, "sent": sequence, "send_errors": by_name(&send_errors),
        "queue_errors": by_name(&queue_errors), "took_ms": (monotonic_ns() - begin_ns) / 1_000_000,
    }))
}

fn by_name(errors: &BTreeMap<i32, u64>) -> BTreeMap<String, u64> {
    errors.iter().map(|(errno, count)| (format!("{:?}", Errno::from_raw(*errno)), *count)).collect()
}

/// Waits while the receiver is far behind, but not for datagrams that will never come.
fn keep_within_window(sequence: u64, board: &Board) {
    let behind = |board: &Board| sequence.saturating_sub(board.datagrams.highest.load(Acquire)) >= WINDOW;
    // Once nothing moves, one wait per window is enough.
    if !behind(board) || !sequence.is_multiple_of(WINDOW / 2) {
        return;
    }
    let begin = Instant::now();
    while behind(board) && begin.elapsed() < PATIENCE_WITH_RECEIVER && !board.stopping() {
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn drain_error_queue(socket: &UdpSocket, errors: &mut BTreeMap<i32, u64>, board: &Board) -> Result<()> {
    let mut space = cmsg_space!(sock_extended_err, sockaddr_in6);
    loop {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut space), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(errno) => return Err(errno).context("reading the error queue"),
        };
        for control in message.cmsgs().context("reading a control message")? {
            if let ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) =
                control
            {
                *errors.entry(error.ee_errno as i32).or_default() += 1;
                board.datagrams.queue_errors.fetch_add(1, Relaxed);
            }
        }
    }
}

fn bind(listen: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("listening on {listen}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .context("enlarging the receive buffer")?;
    Ok(socket)
}

fn run_receiver(socket: &UdpSocket, idle: Duration, board: &Board) -> Result<serde_json::Value> {
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let overflows_before = overflows()?;
    let counts = &board.datagrams;
    let mut seen = Bitmap::default();
    let mut delays_us = vec![];
    let mut absent = Absent::default();
    let (mut received, mut duplicates, mut out_of_order, mut expected) = (0u64, 0u64, 0u64, 0u64);
    let mut last_sent_ns = 0;
    let mut buffer = [0u8; 65_536];
    let mut last_arrival = Instant::now();
    loop {
        let bytes = match socket.recv(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                let complete = || received + counts.known_lost.load(Acquire) == counts.sent.load(Acquire);
                if board.sender_done.load(Acquire) != 0 && (complete() || last_arrival.elapsed() > idle) {
                    break;
                }
                if board.sender_done.load(Acquire) == 0 {
                    last_arrival = Instant::now();
                }
                continue;
            }
            Err(error) => return Err(error).context("receiving"),
        };
        last_arrival = Instant::now();
        ensure!(bytes >= HEADER_BYTES, "a datagram of {bytes} bytes is none of ours");
        let [sequence, sent_ns, previous_ns] = header(&buffer);
        let delay_us = monotonic_ns().saturating_sub(sent_ns) / 1_000;
        if !seen.insert(sequence) {
            duplicates += 1;
            continue;
        }
        received += 1;
        delays_us.push(delay_us);
        if sequence < expected {
            out_of_order += 1;
            absent.came_late(sequence);
        } else if sequence > expected {
            let gap = Gap {
                count: sequence - expected,
                before_ns: last_sent_ns,
                last_ns: previous_ns,
                behind_ns: sent_ns,
            };
            absent.0.insert(sequence - 1, gap);
        }
        expected = expected.max(sequence + 1);
        counts.lost.store(expected - received, Relaxed);
        counts.last_lost_sent_ns.store(absent.last_sent_ns(), Release);
        last_sent_ns = sent_ns;
        counts.last_received_sent_ns.store(sent_ns, Release);
        counts.received.store(received, Release);
        counts.highest.store(expected, Release);
    }
    Ok(json!({
        "act": "udp-recv", "gaps": absent.gaps(), "received": received, "duplicates": duplicates, "out_of_order": out_of_order,
        "delays_us": percentiles(&mut delays_us), "missing": seen.missing(expected), "bursts": seen.bursts(expected), "socket_drops": drops_of(socket)?, "overflows": overflows()? - overflows_before,
    }))
}

fn header(buffer: &[u8]) -> [u64; 3] {
    let mut words = [0u64; 3];
    for (word, bytes) in words.iter_mut().zip(buffer.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Datagrams that found a full receive buffer in this thread's network namespace: any makes a measurement worthless.
fn overflows() -> Result<u64> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let (snmp, snmp6) = (read("/proc/thread-self/net/snmp")?, read("/proc/thread-self/net/snmp6")?);
    Ok(rcvbuf_errors(&snmp) + rcvbuf_errors6(&snmp6))
}

fn rcvbuf_errors(snmp: &str) -> u64 {
    let mut rows = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "RcvbufErrors").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

fn rcvbuf_errors6(snmp6: &str) -> u64 {
    let value = snmp6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Datagrams this socket did not take: of a full buffer, or because a program on its ingress said so.
fn drops_of(socket: &UdpSocket) -> Result<u32> {
    let mut info = [0u32; 16];
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `info`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    Errno::result(status).context("asking for the socket's drops (SO_MEMINFO)")?;
    Ok(info[SK_MEMINFO_DROPS])
}

/// Numbers of missing datagrams that a report holds.
const MISSING_MAX: usize = 4_000;
/// Gaps that a report holds: when the last datagram before each was sent, when the first behind it, and how many are missing.
const GAPS_MAX: usize = 200;

/// The 0th to the 100th percentile, or nothing of nothing.
fn percentiles(values: &mut [u64]) -> Vec<u64> {
    values.sort_unstable();
    let Some(last) = values.len().checked_sub(1) else { return vec![] };
    (0..=100).map(|percent| values[last * percent / 100]).collect()
}

/// Datagrams that later ones have overtaken: lost, until they come after all (a sender that changes its processor is enough).
/// By the last of each gap.
#[derive(Default)]
struct Absent(BTreeMap<u64, Gap>);

/// Datagrams of which none has come: how many, and when the one before them, their last and the one behind them were sent.
struct Gap {
    count: u64,
    before_ns: u64,
    last_ns: u64,
    behind_ns: u64,
}

impl Absent {
    fn came_late(&mut self, sequence: u64) {
        let Some((&last, gap)) = self.0.range_mut(sequence..).next() else { return };
        gap.count = gap.count.saturating_sub(1);
        if gap.count == 0 {
            self.0.remove(&last);
        }
    }

    /// The first gaps, as a report holds them.
    fn gaps(&self) -> Vec<[u64; 3]> {
        self.0.values().take(GAPS_MAX).map(|gap| [gap.before_ns, gap.behind_ns, gap.count]).collect()
    }

    /// When the last of those still absent was sent (at the latest); 0 if there are none.
    fn last_sent_ns(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, gap)| gap.last_ns)
    }
}

#[derive(Default)]
struct Bitmap(Vec<u64>);

impl Bitmap {
    /// Those below `end` that are no members, the first of them.
    fn missing(&self, end: u64) -> Vec<u64> {
        (0..end).filter(|n| !self.has(*n)).take(MISSING_MAX).collect()
    }

    /// How many runs of non-members there are below `end`, by their length.
    fn bursts(&self, end: u64) -> BTreeMap<u64, u64> {
        let (mut bursts, mut length) = (BTreeMap::new(), 0);
        for n in 0..end {
            if !self.has(n) {
                length += 1;
            } else if length > 0 {
                *bursts.entry(length).or_default() += 1;
                length = 0;
            }
        }
        if length > 0 {
            *bursts.entry(length).or_default() += 1;
        }
        bursts
    }

    fn has(&self, n: u64) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }

    /// Adds a member; false if it was there already.
    fn insert(&mut self, member: u64) -> bool {
        let (word, bit) = ((member / 64) as usize, 1u64 << (member % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_knows_its_members() {
        let mut bitmap = Bitmap::default();
        assert!(bitmap.insert(0) && bitmap.insert(64) && bitmap.insert(63) && bitmap.insert(1_000));
        assert!(!bitmap.insert(64) && !bitmap.insert(0));
        assert_eq!(bitmap.missing(4), [1, 2, 3]);
        assert_eq!(bitmap.missing(1_001).len(), 1_001 - 4);
        assert_eq!(bitmap.bursts(1_001), [(62, 1), (935, 1)].into());
        assert_eq!(bitmap.bursts(70), [(5, 1), (62, 1)].into());
        assert_eq!(bitmap.bursts(1), [].into());
    }

    #[test]
    fn what_comes_late_is_not_absent() {
        let mut absent = Absent::default();
        assert_eq!(absent.last_sent_ns(), 0);
        absent.0.insert(4, Gap { count: 2, before_ns: 20, last_ns: 40, behind_ns: 50 });
        absent.0.insert(9, Gap { count: 1, before_ns: 80, last_ns: 90, behind_ns: 100 });
        assert_eq!(absent.gaps(), [[20, 50, 2], [80, 100, 1]]);
        absent.came_late(9);
        assert_eq!(absent.last_sent_ns(), 40);
        absent.came_late(3);
        assert_eq!(absent.last_sent_ns(), 40);
        absent.came_late(4);
        assert_eq!(absent.last_sent_ns(), 0);
    }

    #[test]
    fn percentiles_go_from_the_least_to_the_most() {
        let of = percentiles(&mut (0..=200).rev().collect::<Vec<_>>());
        assert_eq!((of.len(), of[0], of[50], of[100]), (101, 0, 100, 200));
        assert!(percentiles(&mut []).is_empty());
    }

    #[test]
    fn overflows_are_read_by_name() {
        assert_eq!(
            rcvbuf_errors("Udp: InDatagrams RcvbufErrors\nUdp: 7 3\nUdpLite: InDatagrams\nUdpLite: 0\n"),
            3
        );
        assert_eq!(rcvbuf_errors6("Udp6InDatagrams 7\nUdp6RcvbufErrors                \t4\n"), 4);
    }

    #[test]
    fn header_is_read_as_written() {
        let mut buffer = [0u8; 64];
        buffer[8..16].copy_from_slice(&7u64.to_ne_bytes());
        buffer[16..24].copy_from_slice(&9u64.to_ne_bytes());
        assert_eq!(header(&buffer), [0, 7, 9]);
    }
}
