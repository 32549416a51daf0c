//! A process by which calls are held back, as its owner sees it: watched, sent home in the end, and killed if it says nothing.

use super::{attendant, control::ControlPage};
use crate::host::kernel::monotonic_ns;
use std::{
    io,
    os::{fd::BorrowedFd, unix::process::CommandExt as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How often it says that it runs and looks whether anybody may still be held.
pub const BEAT: Duration = Duration::from_millis(50);
/// How often the owner looks after it.
const WATCH: Duration = Duration::from_millis(200);
/// One that has not said anything for so long is stopped or stuck, and killed. Above the lease, so that on a machine that
/// stands still as a whole the lease ends first.
const SILENCE_NS: u64 = 3_000_000_000;

/// Which one.
#[derive(Debug)]
pub struct Role {
    /// Its name among the processes.
    pub process: &'static str,
    /// The command of `kchaos` that it is.
    pub command: &'static str,
    /// What it means that it is gone, in words.
    pub gone: &'static str,
}

/// The owner's end.
#[derive(Debug)]
pub struct Holder {
    /// Dropped to send it home.
    stdin: Option<ChildStdin>,
    stop: Option<Sender<()>>,
    watch: Option<JoinHandle<()>>,
}

impl Holder {
    /// Starts one, with these descriptors, and waits until it serves. `program` is `kchaos`. Should it be gone before its
    /// time, `let_go` is done, and again and again until the end of the engine.
    pub fn start(
        program: &Path,
        role: &'static Role,
        passed: &[BorrowedFd<'_>],
        page: Arc<ControlPage>,
        mut let_go: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0(role.process).arg(role.command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = attendant::spawn(&mut command, passed)?;
        let stdin = process.stdin.take();
        if !attendant::is_ready(&mut process) {
            let _ = process.kill();
            let _ = process.wait();
            return Err(io::Error::other(format!("the process {} did not start", role.process)));
        }
        let (stop, stopped) = mpsc::channel();
        let watch = std::thread::Builder::new().name(role.command.to_owned()).spawn(move || {
            let mut gone = false;
            while stopped.recv_timeout(WATCH) == Err(RecvTimeoutError::Timeout) {
                if gone {
                    let_go();
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
                    let_go();
                    log::warn!("{}", role.gone);
                }
            }
            if gone {
                let_go();
            } else if !end(process) {
                // It may have died since it was last looked at.
                page.set_handle(0);
                let_go();
                log::warn!("{}", role.gone);
            }
        })?;
        Ok(Self { stdin, stop: Some(stop), watch: Some(watch) })
    }
}

impl Drop for Holder {
    /// Lets everybody go and sends it home.
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.stop.take());
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

/// Waits for a process whose standard input is closed; kills it if it does not answer. Whether it served to the end.
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
