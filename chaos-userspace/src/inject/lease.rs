//! Keeps the lease: a thread that does nothing else, so that no other work can delay it.

use super::control::ControlPage;
use crate::host::kernel::monotonic_ns;
use chaos_common::limits::{LEASE_NS, LEASE_RENEW_NS};
use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The running thread. Dropping it stops the renewal and lets the lease run out at once.
#[derive(Debug)]
pub struct Lease {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lease {
    /// Takes the lease and keeps it.
    pub fn keep(page: Arc<ControlPage>) -> io::Result<Self> {
        page.set_lease_ns(monotonic_ns() + LEASE_NS);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
            while stopped.recv_timeout(Duration::from_nanos(LEASE_RENEW_NS)) == Err(RecvTimeoutError::Timeout)
            {
                page.set_lease_ns(monotonic_ns() + LEASE_NS);
            }
            page.set_lease_ns(0);
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
