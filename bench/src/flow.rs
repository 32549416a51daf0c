//! Real packets from one network namespace to another.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::topology::{FAR4, Pair};
use nix::errno::Errno;

use crate::kernel::counted;

/// Payload of a datagram.
const BYTES: usize = 64;

/// A sender in the near namespace of a pair, and the socket in the far one that its datagrams are for.
pub struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Flow {
    /// Of the calling thread's cgroup at both ends.
    pub fn between(pair: &Pair, port: u16) -> Result<Self> {
        let receiver =
            pair.far.enter(|| UdpSocket::bind((FAR4, port)).context("binding in the far namespace"))?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let sender = pair.near.enter(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).context("binding in the near namespace")?;
            socket.connect((FAR4, port)).context("connecting to the far namespace")?;
            Ok(socket)
        })?;
        Ok(Self { sender, receiver })
    }

    /// Sends so many datagrams. Those that find no room at the receiver are dropped there, behind everything that is measured.
    pub fn send(&self, count: usize) -> Result<()> {
        let payload = [0u8; BYTES];
        for _ in 0..count {
            match self.sender.send(&payload) {
                Ok(sent) => ensure!(sent == BYTES, "a datagram was cut"),
                // The neighbour's queue is full for a moment.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        Ok(())
    }

    /// Takes out what has arrived.
    pub fn drain(&self) -> Result<usize> {
        self.receiver.set_nonblocking(true)?;
        let mut count = 0;
        while self.receiver.recv(&mut [0; BYTES]).is_ok() {
            count += 1;
        }
        Ok(count)
    }

    /// What the processor counts per datagram sent: the least of many batches, which nothing else has interrupted.
    pub fn least_per_datagram(&self, batches: usize) -> Result<f64> {
        const BATCH: u16 = 50;
        let mut least = f64::INFINITY;
        for _ in 0..batches {
            let start = counted();
            self.send(BATCH.into())?;
            least = least.min((counted() - start) as f64 / f64::from(BATCH));
            self.drain()?;
        }
        Ok(least)
    }
}
