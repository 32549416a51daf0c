//! The sleeper: a process that lets calls go that are held back, when their time has come.
//!
//! A kernel program can sleep only by asking for something that takes long. It asks for an attribute of a file on a FUSE
//! file system of the sleeper, which is mounted nowhere, and the sleeper answers later. Whoever waits goes on at once when
//! the descriptor of the file system is closed, so nothing outlives the sleeper. That leaves one that is stopped: the owner
//! watches the sleeper and kills it, and the sleeper watches the owner's lease.

mod fuse;
mod mount;
mod waiting;

use super::{attendant, control::ControlPage, identity};
use crate::host::kernel::monotonic_ns;
pub use mount::try_mount;
use mount::{Handle, Mount};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};
use waiting::Waiting;

/// How often the sleeper says that it runs and looks whether anybody may still be held.
const BEAT: Duration = Duration::from_millis(50);
/// How often the owner looks after the sleeper.
const WATCH: Duration = Duration::from_millis(200);
/// A sleeper that has not said anything for so long is stopped or stuck, and killed. Above the lease, so that on a machine
/// that stands still as a whole the lease ends first.
const SILENCE_NS: u64 = 3_000_000_000;
const GONE: &str = "the sleeper is gone: no calls are held back any more, those that were go on";

/// The owner's end.
#[derive(Debug)]
pub struct Sleeper {
    /// Dropped to send it home.
    stdin: Option<ChildStdin>,
    stop: Option<Sender<()>>,
    watch: Option<JoinHandle<()>>,
}

impl Sleeper {
    /// Starts one for the engine with this control map and waits until it serves. `program` is `kchaos`.
    pub fn start(program: &Path, control_map: BorrowedFd<'_>, page: Arc<ControlPage>) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0("kchaos-sleeper").arg("sleeper");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = attendant::spawn(&mut command, &[control_map])?;
        let stdin = process.stdin.take();
        if !attendant::is_ready(&mut process) {
            let _ = process.kill();
            let _ = process.wait();
            return Err(io::Error::other("the sleeper process did not start"));
        }
        let (stop, stopped) = mpsc::channel();
        let watch = std::thread::Builder::new().name("sleeper".to_owned()).spawn(move || {
            let mut gone = false;
            while stopped.recv_timeout(WATCH) == Err(RecvTimeoutError::Timeout) {
                if gone {
                    continue;
                }
                gone = if monotonic_ns().saturating_sub(page.sleeper_ns()) > SILENCE_NS {
                    let _ = process.kill();
                    let _ = process.wait();
                    true
                } else {
                    !matches!(process.try_wait(), Ok(None))
                };
                if gone {
                    page.set_handle(0);
                    log::warn!("{GONE}");
                }
            }
            // It may have died since it was last looked at.
            if !gone && !end(process) {
                log::warn!("{GONE}");
            }
        })?;
        Ok(Self { stdin, stop: Some(stop), watch: Some(watch) })
    }
}

impl Drop for Sleeper {
    /// Lets everybody go and sends it home.
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.stop.take());
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

/// Waits for the sleeper, whose standard input is closed; kills it if it does not answer. Whether it served to the end.
fn end(mut process: Child) -> bool {
    for _ in 0..SILENCE_NS / 1_000_000 {
        match process.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(status)) => return status.success(),
            Err(_) => return false,
        }
    }
    let _ = process.kill();
    let _ = process.wait();
    false
}

/// The sleeper's whole life.
pub fn live() -> io::Result<()> {
    // SAFETY: the owner passes the control map, and this process has opened nothing.
    let [control_map] = unsafe { attendant::received() }?;
    let page = ControlPage::map(&control_map)?;
    drop(control_map);
    page.set_own_tgid(2, identity::thread_group_id());
    page.set_sleeper_ns(monotonic_ns());
    let mount = Mount::make()?;
    let mut handle = Some(Handle::start(&mount)?);
    let (mut waiting, mut buffer) = (Waiting::default(), vec![0; fuse::REQUEST_BYTES]);
    let owner = io::stdin();
    loop {
        let next = waiting.next(monotonic_ns()).unwrap_or(BEAT).min(BEAT);
        let started = handle.as_ref().map(|handle| handle.started.as_fd());
        let mut polled = vec![
            PollFd::new(owner.as_fd(), PollFlags::POLLIN),
            PollFd::new(mount.device.as_fd(), PollFlags::POLLIN),
        ];
        // What it says comes before it has started; what counts is that it says no more.
        polled.extend(started.map(|started| PollFd::new(started, PollFlags::empty())));
        match ppoll(&mut polled, Some(TimeSpec::from_duration(next)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |place: usize| polled.get(place).and_then(PollFd::any).unwrap_or(false);
        let (ended, has_started) = (happened(0), happened(2));
        if ended {
            // The owner is done or dead. Closing the device lets everybody go.
            page.set_handle(0);
            return Ok(());
        }
        if has_started && let Some(handle) = handle.take() {
            // Its program lies on our file system now.
            page.set_handle(handle.tgid()?);
            attendant::say_ready()?;
        }
        fuse::serve(&mount.device, &mut buffer, &mut waiting)?;
        let now = monotonic_ns();
        page.set_sleeper_ns(now);
        let all = !page.may_act(now);
        for unique in waiting.due(now, all) {
            fuse::answer(&mount.device, unique)?;
        }
    }
}
