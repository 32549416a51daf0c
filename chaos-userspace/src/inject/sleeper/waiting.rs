//! Who is held back, and until when.

use std::{collections::BTreeMap, time::Duration};

/// How often tasks are looked at that were interrupted by a signal, whether one has killed them since: the kernel tells of
/// the first one only (`request_wait_answer`, fs/fuse/dev.c).
const LOOK_NS: u64 = 5_000_000;

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Request {
    until_ns: u64,
    /// The thread, as this process sees it.
    thread: u32,
    /// Once interrupted: when to look at it next.
    look_ns: Option<u64>,
}

/// Requests by the number that the kernel gave them.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<u64, Request>);

impl Waiting {
    /// A thread is held back until `until_ns`.
    pub fn add(&mut self, unique: u64, thread: u32, until_ns: u64) {
        self.0.insert(unique, Request { until_ns, thread, look_ns: None });
    }

    /// A signal is there for the thread of a request.
    pub fn interrupt(&mut self, unique: u64) {
        if let Some(request) = self.0.get_mut(&unique) {
            request.look_ns = Some(0);
        }
    }

    /// How long until the next one is due.
    pub fn next(&self, now_ns: u64) -> Option<Duration> {
        let times = self.0.values().map(|request| request.until_ns.min(request.look_ns.unwrap_or(u64::MAX)));
        times.min().map(|time| Duration::from_nanos(time.saturating_sub(now_ns)))
    }

    /// Takes out those whose time has come or whose thread is being killed, or all.
    pub fn due(&mut self, now_ns: u64, all: bool) -> Vec<u64> {
        self.due_if(now_ns, all, is_killed)
    }

    fn due_if(&mut self, now_ns: u64, all: bool, is_killed: impl Fn(u32) -> bool) -> Vec<u64> {
        let mut due = vec![];
        self.0.retain(|unique, request| {
            let mut over = all || request.until_ns <= now_ns;
            if !over && request.look_ns.is_some_and(|look_ns| look_ns <= now_ns) {
                over = is_killed(request.thread);
                request.look_ns = Some(now_ns + LOOK_NS);
            }
            if over {
                due.push(*unique);
            }
            !over
        });
        due
    }
}

/// Whether SIGKILL waits for a thread, which every fatal signal becomes (`complete_signal`, kernel/signal.c). One that
/// cannot be looked at counts as killed.
fn is_killed(thread: u32) -> bool {
    const SIGKILL: u64 = 1 << 8;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else { return true };
    let pending = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX)
    };
    (pending("SigPnd:") | pending("ShdPnd:")) & SIGKILL != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_when_its_time_has_come() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.next(0), None);
        waiting.add(1, 10, 500);
        waiting.add(2, 11, 300);
        assert_eq!(waiting.next(100), Some(Duration::from_nanos(200)));
        let alive = |_| false;
        assert!(waiting.due_if(299, false, alive).is_empty());
        assert_eq!(waiting.due_if(300, false, alive), [2]);
        assert_eq!(waiting.due_if(301, true, alive), [1]);
        assert_eq!(waiting.next(0), None);
    }

    #[test]
    fn only_a_killed_one_goes_early() {
        let mut waiting = Waiting::default();
        let hour = 3_600_000_000_000;
        waiting.add(1, 10, hour);
        waiting.add(2, 11, hour);
        waiting.interrupt(1);
        waiting.interrupt(3);
        assert!(waiting.due_if(1, false, |_| false).is_empty());
        // It is looked at again, the other one never.
        assert!(waiting.due_if(2, false, |_| true).is_empty());
        assert_eq!(waiting.due_if(1 + LOOK_NS, false, |_| true), [1]);
    }

    #[test]
    fn this_thread_is_not_being_killed() {
        assert!(!is_killed(std::process::id()));
        assert!(is_killed(u32::MAX));
    }
}
