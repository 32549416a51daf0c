//! Hears in which network namespaces the targets make sockets.

use aya::maps::{Map, MapData, RingBuf};
use chaos_common::namespace::Entered;
use std::{future::pending, io, os::fd::OwnedFd, time::Duration};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

/// Between two answers: where nobody is found who is still in a namespace, every socket made there tells of it again.
const PAUSE: Duration = Duration::from_millis(5);

/// What is listened to.
pub struct Namespaces {
    ring: Option<AsyncFd<RingBuf<MapData>>>,
    next: Instant,
}

impl Namespaces {
    /// Listens to the ring buffer of an engine, if it has one. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If it is none.
    pub fn listen(ring: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self { ring: ring.map(register).transpose()?, next: Instant::now() })
    }

    /// Who has made a socket in a namespace that was not known: one at least. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Vec<Entered> {
        let Some(ring) = &mut self.ring else { return pending().await };
        sleep_until(self.next).await;
        loop {
            let Ok(mut ready) = ring.readable_mut().await else { return pending().await };
            let ring = ready.get_inner_mut();
            let mut entered = vec![];
            while let Some(record) = ring.next() {
                entered.extend(read(&record));
            }
            if !entered.is_empty() {
                self.next = Instant::now() + PAUSE;
                return entered;
            }
            ready.clear_ready();
        }
    }
}

fn register(ring: OwnedFd) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    let map = MapData::from_fd(ring).map_err(io::Error::other)?;
    let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(io::Error::other)?;
    // SAFETY: the buffer owns its descriptor and keeps it open for as long as it is registered.
    unsafe { AsyncFd::register(ring) }.map_err(io::Error::other)
}

fn read(record: &[u8]) -> Option<Entered> {
    let (cookie, rest) = record.split_first_chunk::<8>()?;
    let (tid, _) = rest.split_first_chunk::<4>()?;
    Some(Entered { cookie: u64::from_ne_bytes(*cookie), tid: u32::from_ne_bytes(*tid), reserved: 0 })
}
