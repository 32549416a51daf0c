//! Datagrams on lo, one at a time, and when one was lost: faults felt to some hundred microseconds.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use integration_tests::cgroup::Cgroup;
use integration_tests::netns::NetNs;
use integration_tests::patience::{monotonic_ns, wait_until};

use crate::bystander::while_in;

/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(50);

#[derive(Default)]
struct Seen {
    /// Sending times on `CLOCK_MONOTONIC`; 0 for none.
    last_lost_ns: AtomicU64,
    last_passed_ns: AtomicU64,
    /// The first lost one behind a passed one, and the other way round.
    began_ns: AtomicU64,
    ended_ns: AtomicU64,
    stop: AtomicBool,
}

/// A thread that sends itself datagrams from a socket of the target.
pub struct Stream {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// In this namespace; its socket is made in `target`, where this process is only meanwhile.
    pub fn start(netns: &NetNs, target: &Cgroup) -> Result<Self> {
        let sockets = || {
            let receiver = UdpSocket::bind("127.0.0.1:0")?;
            let sender = UdpSocket::bind("127.0.0.1:0")?;
            sender.connect(receiver.local_addr()?)?;
            receiver.set_nonblocking(true)?;
            Ok((sender, receiver))
        };
        let (sender, receiver) = while_in(target.path(), || netns.enter(sockets))?;
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let thread = std::thread::spawn(move || run(&sender, &receiver, &shared));
        Ok(Self { seen, thread: Some(thread) })
    }

    /// Waits until datagrams are lost; when the first one was.
    pub fn lost_since(&self, since_ns: u64) -> Result<u64> {
        wait_until("a datagram to be lost", || self.seen.began_ns.load(Acquire) > since_ns)?;
        Ok(self.seen.began_ns.load(Acquire))
    }

    /// Waits until they pass again; when the last one was lost.
    pub fn passing_since(&self, since_ns: u64) -> Result<u64> {
        wait_until("datagrams to pass", || {
            let ended_ns = self.seen.ended_ns.load(Acquire);
            ended_ns > since_ns && self.seen.last_passed_ns.load(Acquire) > ended_ns + 1_000_000
        })?;
        Ok(self.seen.last_lost_ns.load(Acquire))
    }
}

fn run(sender: &UdpSocket, receiver: &UdpSocket, seen: &Seen) {
    let mut losing = false;
    while !seen.stop.load(Acquire) {
        let now_ns = monotonic_ns();
        let _ignored = sender.send(&now_ns.to_ne_bytes());
        // lo delivers within the call, but for moments in which another processor does.
        let passed = (0..20).any(|_| receiver.recv(&mut [0; 8]).is_ok());
        let (last, turned) = if passed {
            (&seen.last_passed_ns, &seen.ended_ns)
        } else {
            (&seen.last_lost_ns, &seen.began_ns)
        };
        last.store(now_ns, Release);
        if losing == passed {
            turned.store(now_ns, Release);
            losing = !passed;
        }
        std::thread::sleep(PAUSE);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.seen.stop.store(true, Release);
        if let Some(thread) = self.thread.take() {
            let _ignored = thread.join();
        }
    }
}
