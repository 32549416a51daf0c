//! The receiver's work: it answers tasks that wait, at once or when their time has come.

use super::{
    judge::Judge,
    ledger::{Ledger, Word},
    listener::{Answer, Asked, Listener},
};
use crate::host::kernel::monotonic_ns;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

/// How often it says that it runs, and looks whether anybody may still be held.
const BEAT: Duration = Duration::from_millis(50);
/// How long a call that a signal has ended is expected to begin again; its handler runs meanwhile.
const AGAIN_NS: u64 = 50_000_000;

/// Why it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody is behind the filter any more.
    Unused,
    /// The process that would have taken its place is gone.
    Alone,
}

/// A task that is held back.
#[derive(Debug)]
struct Hold {
    asked: Asked,
    rule: u32,
    begin_ns: u64,
    asked_ns: u64,
    answer: Answer,
    /// When its time had come and nobody waited: a signal has ended its wait, or it is dead.
    away_ns: Option<u64>,
}

impl Hold {
    fn until_ns(&self) -> u64 {
        self.begin_ns.saturating_add(self.asked_ns)
    }

    /// When something is to be done about it.
    fn due_ns(&self) -> u64 {
        self.away_ns.map_or_else(|| self.until_ns(), |away| away.saturating_add(AGAIN_NS))
    }

    /// Whether that is the same call, begun again after a signal: below 5.19 any signal ends the wait.
    fn is_again(&self, asked: &Asked) -> bool {
        Asked { id: self.asked.id, ..*asked } == self.asked
    }
}

/// Everything that it knows. A fork of the process goes on where it was.
pub struct Server {
    listener: Listener,
    ledger: Ledger,
    /// `None` once nothing is judged any more.
    judge: Option<Judge>,
    held: BTreeMap<u64, Hold>,
    /// Thread -> number under which it is held.
    threads: HashMap<u32, u64>,
}

impl Server {
    /// Judges calls until the owner is done or dead, and from then on lets all pass.
    pub fn new(listener: Listener, ledger: Ledger, judge: Judge) -> Self {
        Self { listener, ledger, judge: Some(judge), held: BTreeMap::new(), threads: HashMap::new() }
    }

    /// What it shares with others.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Lets go of what belongs to the engine.
    pub fn forget(&mut self) {
        self.judge = None;
    }

    /// Takes the place of one that has died: whoever it held back goes on now, and nobody is judged any more.
    pub fn succeed(&mut self) -> io::Result<()> {
        self.forget();
        self.ledger.set(Word::Failed, 1);
        self.held.clear();
        self.threads.clear();
        let (low, high) = (self.ledger.get(Word::Low), self.ledger.get(Word::High));
        if low != 0 {
            // It may have died before it noted the last one.
            for id in low..=high.saturating_add(1) {
                self.listener.answer(id, Answer::GoOn)?;
            }
        }
        self.ledger.set(Word::Ended, 1);
        Ok(())
    }

    /// Serves until `owner` hangs up and the last task behind the filter has gone, or until `stand_by` (a pidfd) has ended.
    pub fn serve(&mut self, owner: BorrowedFd<'_>, stand_by: BorrowedFd<'_>) -> io::Result<End> {
        loop {
            let now = monotonic_ns();
            self.ledger.set(Word::Beat, now);
            self.release(now)?;
            let next = self.held.values().map(Hold::due_ns).min();
            let next = next.map_or(BEAT, |next| Duration::from_nanos(next.saturating_sub(now)).min(BEAT));
            let judges = self.judge.is_some();
            let mut polled = vec![
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(stand_by, PollFlags::POLLIN),
            ];
            // It says nothing: what counts is that it hangs up.
            polled.extend(judges.then(|| PollFd::new(owner, PollFlags::POLLIN)));
            match ppoll(&mut polled, Some(TimeSpec::from_duration(next)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let happened: Vec<_> =
                polled.iter().map(|polled| polled.revents().unwrap_or(PollFlags::empty())).collect();
            let of = |place: usize| happened.get(place).copied().unwrap_or(PollFlags::empty());
            if !of(2).is_empty() {
                self.let_all_go()?;
            }
            if of(0).contains(PollFlags::POLLIN) {
                self.take()?;
            } else if !of(0).is_empty() {
                self.let_all_go()?;
                return Ok(End::Unused);
            }
            if !of(1).is_empty() {
                return Ok(End::Alone);
            }
        }
    }

    /// The end of all judging.
    fn let_all_go(&mut self) -> io::Result<()> {
        self.forget();
        self.release(monotonic_ns())?;
        self.ledger.set(Word::Ended, 1);
        Ok(())
    }

    /// Takes the next task that waits.
    fn take(&mut self) -> io::Result<()> {
        let Some(asked) = self.listener.receive()? else { return Ok(()) };
        if self.ledger.get(Word::Low) == 0 {
            self.ledger.set(Word::Low, asked.id);
        }
        self.ledger.set(Word::High, asked.id);
        self.meet(asked)?;
        self.note_lowest();
        Ok(())
    }

    fn meet(&mut self, asked: Asked) -> io::Result<()> {
        let now = monotonic_ns();
        if let Some(hold) = self.threads.remove(&asked.thread).and_then(|id| self.held.remove(&id)) {
            if hold.is_again(&asked) {
                // What is left of its time, which may be nothing.
                self.hold(Hold { asked, away_ns: None, ..hold });
                return self.release(now);
            }
            // Its call has come to an end without us.
            self.end(&hold, now);
        }
        let verdict = match &mut self.judge {
            Some(judge) => judge.judge(&asked, now, &self.ledger),
            None => super::judge::Verdict::PASS,
        };
        match verdict.hold {
            Some((rule, asked_ns)) => {
                let answer = verdict.answer;
                self.hold(Hold { asked, rule, begin_ns: now, asked_ns, answer, away_ns: None });
            }
            None => {
                self.listener.answer(asked.id, verdict.answer)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, hold: Hold) {
        if hold.asked.thread != 0 {
            self.threads.insert(hold.asked.thread, hold.asked.id);
        }
        self.held.insert(hold.asked.id, hold);
    }

    /// Answers those whose time has come, or all once nobody may be held any more.
    fn release(&mut self, now_ns: u64) -> io::Result<()> {
        let all = self.judge.as_ref().is_none_or(|judge| !judge.may_act(now_ns));
        let due = |hold: &Hold| all || hold.due_ns() <= now_ns;
        let due: Vec<_> = self.held.iter().filter(|(_, hold)| due(hold)).map(|(id, _)| *id).collect();
        if due.is_empty() {
            return Ok(());
        }
        for id in due {
            let Some(mut hold) = self.held.remove(&id) else { continue };
            if hold.away_ns.is_none() && !self.listener.answer(id, hold.answer)? && !all {
                // It may be about to begin again, as the same call.
                hold.away_ns = Some(now_ns);
                self.held.insert(id, hold);
                continue;
            }
            if self.threads.get(&hold.asked.thread) == Some(&id) {
                self.threads.remove(&hold.asked.thread);
            }
            self.end(&hold, monotonic_ns());
        }
        self.note_lowest();
        Ok(())
    }

    /// Counts a call that is over, at the latest now.
    fn end(&self, hold: &Hold, now_ns: u64) {
        let end_ns = hold.away_ns.unwrap_or(now_ns);
        self.ledger.held_back(hold.rule, hold.asked_ns, end_ns.saturating_sub(hold.begin_ns));
    }

    /// Under which numbers anybody may wait.
    fn note_lowest(&self) {
        let behind = self.ledger.get(Word::High).saturating_add(1);
        self.ledger.set(Word::Low, self.held.keys().next().copied().unwrap_or(behind));
    }
}
