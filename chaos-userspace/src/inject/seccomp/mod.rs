//! Calls of a command that wait for an answer from user space: seccomp user notification.
//!
//! The command is started behind a filter that lets the kernel ask before named calls. The receiver answers. It has to be
//! there for as long as anybody is behind the filter, which cannot be taken away: a call whose receiver is gone fails with
//! ENOSYS. So the receiver is two processes, and if one dies the other one forks a new one. It judges by the engine's own
//! tables as the kernel programs do, while the owner lives and renews its lease; then it lets every call pass.

mod filter;
mod handover;
mod judge;
mod ledger;
mod listener;
mod serve;

use super::{attendant, control::ControlPage};
use crate::host::{kernel::monotonic_ns, process::pidfd};
use chaos_common::{counter::RuleCounters, latency::Held};
pub use filter::Filter;
pub use handover::Handover;
use judge::Judge;
use ledger::{Ledger, Word};
pub use listener::{Answer, Listener};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use serve::{End, Server};
use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

/// A receiver that has not said anything for so long is stopped or stuck, and replaced. Above the lease, so that on a machine
/// that stands still as a whole the lease ends first.
const SILENCE: Duration = Duration::from_secs(3);
/// How often that is looked at.
const WATCH: Duration = Duration::from_millis(200);
const GONE: &str = "the receiver died: calls of the command are neither held back nor failed any more";

/// The owner's end.
#[derive(Debug)]
pub struct Receiver {
    /// Closed to end all judging.
    stdin: Option<ChildStdin>,
    process: Child,
    ledger: Ledger,
}

impl Receiver {
    /// Starts one for an engine with these maps (control page, rules, results) and waits until it serves `listener`. `rows`
    /// are the calls' rows with their rules. `program` is `kchaos`.
    pub fn start(
        program: &Path,
        maps: [BorrowedFd<'_>; 3],
        listener: OwnedFd,
        rows: &BTreeMap<u32, u64>,
    ) -> io::Result<Self> {
        let (ledger, file) = Ledger::create()?;
        let [page, rules, results] = maps;
        let mut command = Command::new(program);
        command.arg0("kchaos-receiver").arg("receiver").args(judge::words(rows));
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let passed = [page, rules, results, listener.as_fd(), file.as_fd()];
        let mut process = attendant::spawn(&mut command, &passed)?;
        let stdin = process.stdin.take();
        if !attendant::is_ready(&mut process) {
            let _ = process.kill();
            let _ = process.wait();
            return Err(io::Error::other("the receiver process did not start"));
        }
        Ok(Self { stdin, process, ledger })
    }

    /// Adds what was counted for a rule.
    pub fn add_to(&self, rule: u32, counters: &mut RuleCounters) {
        self.ledger.add_to(rule, counters);
    }

    /// What became of a rule's calls that were to be held back.
    pub fn held(&self, rule: u32) -> Held {
        self.ledger.held(rule)
    }

    /// Ends all judging: whoever is held back goes on, and counts are final. It goes itself with the last task behind the
    /// filter. The error says what did not work.
    pub fn end(&mut self) -> Result<(), String> {
        drop(self.stdin.take());
        let start = Instant::now();
        while self.ledger.get(Word::Ended) == 0 {
            // Its successor comes after a silence.
            if start.elapsed() > 2 * SILENCE {
                return Err("the receiver does not answer: named calls of the command may hang".to_owned());
            }
            if matches!(self.process.try_wait(), Ok(Some(_))) && self.ledger.get(Word::Ended) == 0 {
                return Err("the receiver was killed: named calls of the command fail with ENOSYS".to_owned());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if self.ledger.get(Word::Failed) == 1 {
            log::warn!("{GONE}");
        }
        // Else it would be a zombie until the owner goes.
        let _ = self.process.try_wait();
        Ok(())
    }
}

/// The receiver's whole life, on both sides of its fork. `rows` are those of [`Receiver::start`].
pub fn live(rows: &[String]) -> io::Result<()> {
    // SAFETY: the owner passes them, and this process has opened nothing.
    let [page, rules, results, listener, ledger] = unsafe { attendant::received() }?;
    let page = ControlPage::map(page)?;
    let judge = Judge::new(page, [rules, results], judge::read_rows(rows)?).map_err(io::Error::other)?;
    let mut server = Server::new(Listener::new(listener), Ledger::map(&ledger)?, judge);
    server.ledger().set(Word::Beat, monotonic_ns());
    drop(ledger);
    let mut is_first = true;
    loop {
        let before = pidfd(nix::unistd::getpid())?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                if std::mem::take(&mut is_first) {
                    attendant::say_ready()?;
                }
                match server.serve(io::stdin().as_fd(), before.as_fd())? {
                    End::Unused => return Ok(()),
                    // Now this is the one that stands by.
                    End::Alone => {}
                }
            }
            ForkResult::Parent { child } => {
                is_first = false;
                server.forget();
                if stands_by(child, server.ledger())? {
                    return Ok(());
                }
                server.succeed()?;
            }
        }
    }
}

/// Waits for the end of the process that serves, and kills it if it is silent. Whether it has served to the end.
fn stands_by(child: Pid, ledger: &Ledger) -> io::Result<bool> {
    let end = pidfd(child)?;
    loop {
        let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        let watch = PollTimeout::try_from(WATCH).unwrap_or(PollTimeout::ZERO);
        match poll(&mut polled, watch) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(waitpid(child, None)? == WaitStatus::Exited(child, 0)),
            Err(error) => return Err(error.into()),
        }
        let silence = Duration::from_nanos(monotonic_ns().saturating_sub(ledger.get(Word::Beat)));
        if silence > SILENCE {
            kill(child, Signal::SIGKILL)?;
        }
    }
}
