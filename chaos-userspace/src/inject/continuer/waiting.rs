//! Who stands still, and until when.

use super::{
    STANDS_WITHIN,
    standing::{Standing, State, Stop},
};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

/// How soon a process is looked at again that has not come to stand still yet.
const LOOK_NS: u64 = 200_000;

/// A process that was stopped.
#[derive(Debug)]
pub struct Stopped {
    /// What is known of it.
    pub stopped: Stop,
    /// The process; `None` if there is none any more.
    pub process: Option<Standing>,
    /// Until when it stands still; `None` while it has not come to.
    until_ns: Option<u64>,
    /// When to look at it next.
    look_ns: u64,
}

/// What is to be done with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let it go on.
    GoOn,
    /// Nothing: its time is over, and somebody else has stopped it as well.
    LeaveStopped,
    /// Nothing: it has ended, or somebody else has let it go on.
    Over,
}

/// By process.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<u32, Stopped>);

impl Waiting {
    /// One was stopped; nothing changes for one that is known.
    pub fn add(&mut self, stop: Stop) {
        let one = self.0.get(&stop.process);
        if one.is_none_or(|one| one.stopped.since_ns != stop.since_ns) {
            let process = Standing::find(&stop);
            self.0.insert(stop.process, Stopped { stopped: stop, process, until_ns: None, look_ns: 0 });
        }
    }

    /// How long until one has to be looked at.
    pub fn next(&self, now_ns: u64) -> Option<Duration> {
        let next = self.0.values().map(|one| one.look_ns).min()?;
        Some(Duration::from_nanos(next.saturating_sub(now_ns)))
    }

    /// Of those who live.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().filter_map(|one| Some(one.process.as_ref()?.descriptor.as_fd()))
    }

    /// Takes out those whose time has come, or `all` who stand still; `killed` says that somebody has ended.
    pub fn due(&mut self, now_ns: u64, all: bool, killed: bool) -> Vec<(Stopped, Step)> {
        let mut due = vec![];
        for (process, one) in &mut self.0 {
            if all || killed || one.look_ns <= now_ns {
                let state = one.process.as_ref().map_or(State::Gone, Standing::state);
                if let Some(step) = one.step(state, now_ns, all) {
                    due.push((*process, step));
                }
            }
        }
        due.into_iter().filter_map(|(process, step)| Some((self.0.remove(&process)?, step))).collect()
    }
}

impl Stopped {
    /// What is to be done with one that is so now.
    fn step(&mut self, state: State, now_ns: u64, all: bool) -> Option<Step> {
        let give_up_ns = self.stopped.since_ns + self.stopped.asked_ns + STANDS_WITHIN.as_nanos() as u64;
        let until_ns = match (state, self.until_ns) {
            (State::Gone, _) | (State::Runs, Some(_)) => return Some(Step::Over),
            // It may yet come to stand still.
            (State::Runs, None) if now_ns >= give_up_ns => return Some(Step::GoOn),
            (State::Runs, None) => {
                self.look_ns = now_ns + LOOK_NS;
                return None;
            }
            (_, Some(until_ns)) => until_ns,
            // From when it is seen to stand still: never too short.
            (_, None) => now_ns + self.stopped.asked_ns,
        };
        self.until_ns = Some(until_ns);
        self.look_ns = until_ns;
        if !all && now_ns < until_ns {
            return None;
        }
        Some(if state == State::StoppedByAnother { Step::LeaveStopped } else { Step::GoOn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Stopped {
        let stopped = Stop { process: 7, thread: 8, since_ns: 100, asked_ns: 50_000, rule: 0 };
        Stopped { stopped, process: None, until_ns: None, look_ns: 0 }
    }

    #[test]
    fn the_time_begins_when_it_stands_still() {
        let mut one = one();
        assert_eq!(one.step(State::Runs, 200, false), None);
        assert_eq!(one.look_ns, 200 + LOOK_NS);
        assert_eq!(one.step(State::Stopped, 1000, false), None);
        assert_eq!(one.step(State::Stopped, 50_999, false), None);
        assert_eq!(one.step(State::Stopped, 51_000, false), Some(Step::GoOn));
        assert_eq!(one.step(State::StoppedByAnother, 51_000, false), Some(Step::LeaveStopped));
        // Somebody else has let it go on.
        assert_eq!(one.step(State::Runs, 2000, false), Some(Step::Over));
    }

    #[test]
    fn nobody_is_left_who_does_not_come_to_stand_still() {
        let mut one = one();
        assert_eq!(one.step(State::Runs, 200, true), None);
        assert_eq!(one.step(State::Runs, STANDS_WITHIN.as_nanos() as u64 + 50_100, false), Some(Step::GoOn));
        assert_eq!(one.step(State::Gone, 200, false), Some(Step::Over));
    }

    #[test]
    fn all_go_on_early_but_for_who_was_stopped_by_another() {
        assert_eq!(one().step(State::Stopped, 200, true), Some(Step::GoOn));
        assert_eq!(one().step(State::StoppedByAnother, 200, true), Some(Step::LeaveStopped));
    }

    #[test]
    fn a_process_that_there_is_not_is_over_at_once() {
        let mut waiting = Waiting::default();
        let stop = Stop { process: u32::MAX >> 1, thread: 1, since_ns: 1, asked_ns: 1 << 40, rule: 0 };
        waiting.add(stop);
        waiting.add(stop);
        assert_eq!(waiting.next(0), Some(Duration::ZERO));
        let due: Vec<_> = waiting.due(1, false, false).into_iter().map(|(_, step)| step).collect();
        assert_eq!(due, [Step::Over]);
        assert_eq!(waiting.next(0), None);
    }
}
