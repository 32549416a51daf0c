//! Writes what the kernel programs record, one line of JSON each, on a thread of its own: a slow disk must hold up
//! nothing but itself. What finds no room in the ring buffer meanwhile is lost, and counted by the kernel programs.

use crate::{host::kernel, report::record::Context};
use aya::maps::{Map, MapData, RingBuf};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long the last events may take: whoever reads them, if they go into a pipe, must not hold up the end.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// A thread that writes.
pub struct Recorder {
    stop: Arc<EventFd>,
    /// Events written so far.
    events: Arc<AtomicU64>,
    written: mpsc::Receiver<Written>,
}

/// What it did.
#[derive(Debug, Default)]
pub struct Written {
    /// Events it has written.
    pub events: u64,
    /// Events it could not write, or not read.
    pub failed: u64,
    /// Why.
    pub problem: Option<String>,
}

/// Where events go: a file made anew, or standard error.
pub fn open(path: &Path) -> io::Result<Box<dyn Write + Send>> {
    if path == Path::new("-") { Ok(Box::new(io::stderr())) } else { Ok(Box::new(File::create(path)?)) }
}

impl Recorder {
    /// Starts to write what comes through the ring buffer `ring`.
    pub fn start(ring: OwnedFd, out: Box<dyn Write + Send>, run: &str) -> io::Result<Self> {
        let map = MapData::from_fd(ring).map_err(io::Error::other)?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(io::Error::other)?;
        let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        let unix_minus_monotonic_ns = unix_ns.wrapping_sub(kernel::monotonic_ns());
        let context = Context { run: run.to_owned(), unix_minus_monotonic_ns };
        let (stop, events) = (Arc::new(EventFd::new()?), Arc::new(AtomicU64::new(0)));
        let (done, written) = mpsc::channel();
        std::thread::Builder::new().name("events".to_owned()).spawn({
            let (stop, events) = (Arc::clone(&stop), Arc::clone(&events));
            // Nobody listens any more if it took too long.
            move || drop(done.send(write(ring, &stop, &events, out, &context)))
        })?;
        Ok(Self { stop, events, written })
    }

    /// Writes what is left and ends.
    pub fn finish(self) -> Written {
        let stopped = self.stop.write(1);
        let written = stopped.ok().and_then(|_| self.written.recv_timeout(LAST_EVENTS).ok());
        written.unwrap_or_else(|| Written {
            events: self.events.load(Relaxed),
            failed: 0,
            problem: Some(format!("the last ones were not taken within {LAST_EVENTS:?}")),
        })
    }
}

fn write(
    mut ring: RingBuf<MapData>,
    stop: &EventFd,
    events: &AtomicU64,
    out: Box<dyn Write + Send>,
    context: &Context,
) -> Written {
    let mut out = BufWriter::with_capacity(64 << 10, out);
    let mut written = Written::default();
    loop {
        // Looked at first: what was recorded before it was asked for is drained below.
        let over = wait(&ring, stop);
        while let Some(bytes) = ring.next() {
            match context.read(&bytes).map(|record| line(&mut out, &record)) {
                Some(Ok(())) => {
                    written.events += 1;
                    events.store(written.events, Relaxed);
                }
                Some(Err(error)) => {
                    written.failed += 1;
                    written.problem.get_or_insert_with(|| error.to_string());
                }
                None => written.failed += 1,
            }
        }
        if let Err(error) = out.flush() {
            written.problem.get_or_insert_with(|| error.to_string());
        }
        if over {
            return written;
        }
    }
}

fn line(out: &mut impl Write, record: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Waits for events. `true` if these are the last.
fn wait(ring: &RingBuf<MapData>, stop: &EventFd) -> bool {
    let mut watched =
        [PollFd::new(ring.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    // An error would be one of memory; the loop then looks again.
    let _ = poll(&mut watched, PollTimeout::NONE);
    watched[1].any().unwrap_or(false)
}
