//! Memory that the owner, the receiver and its stand-by share: what was counted, and who waits.

use chaos_common::{
    counter::{OUTCOMES, Outcome, RuleCounters},
    latency::Held,
    limits::RULES_MAX,
};
use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    mman::{MapFlags, ProtFlags, mmap, munmap},
};
use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// Words per rule: its outcomes, then calls, asked, took, longest and cut short of those held back.
const RULE_WORDS: usize = OUTCOMES + 5;
/// The words in front of the rules, in this order.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Word {
    /// 1 once no call is judged any more, and every count is final.
    Ended,
    /// 1 once a receiver has died: its successor lets everything pass.
    Failed,
    /// The lowest number under which a task may wait; 0 before the first one.
    Low,
    /// The highest one that was taken.
    High,
    /// When the receiver last said that it runs, in `CLOCK_MONOTONIC` nanoseconds.
    Beat,
}
const HEADER_WORDS: usize = 8;
const WORDS: usize = HEADER_WORDS + RULES_MAX * RULE_WORDS;
const BYTES: usize = WORDS * 8;

/// The mapping. Every access is one atomic load or store of a word; one process at a time writes.
#[derive(Debug)]
pub struct Ledger(NonNull<[AtomicU64; WORDS]>);

// SAFETY: the mapping lives as long as the value and is only accessed atomically.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

impl Ledger {
    /// Makes one, and the descriptor by which others map it.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let file = memfd_create("kchaos-ledger", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&file, BYTES as i64)?;
        Ok((Self::map(&file)?, file))
    }

    /// Maps one.
    pub fn map(file: &impl AsFd) -> io::Result<Self> {
        let length = NonZeroUsize::new(BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping of a file of that size, which nobody makes smaller.
        Ok(Self(unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }?.cast()))
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as `self` and is accessed atomically only.
        let words = unsafe { self.0.as_ref() };
        &words[place % WORDS]
    }

    /// One of the words in front.
    pub fn get(&self, word: Word) -> u64 {
        self.word(word as usize).load(Ordering::SeqCst)
    }

    /// Sets it.
    pub fn set(&self, word: Word, value: u64) {
        self.word(word as usize).store(value, Ordering::SeqCst);
    }

    fn of_rule(&self, rule: u32, place: usize) -> &AtomicU64 {
        self.word(HEADER_WORDS + rule as usize % RULES_MAX * RULE_WORDS + place)
    }

    /// Counts a call.
    pub fn count(&self, rule: u32, outcome: Outcome) {
        self.of_rule(rule, outcome as usize).fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a call that was held back for `took_ns` instead of `asked_ns`.
    pub fn held_back(&self, rule: u32, asked_ns: u64, took_ns: u64) {
        let cut_short = u64::from(took_ns < asked_ns);
        for (place, value) in [(0, 1), (1, asked_ns), (2, took_ns), (4, cut_short)] {
            self.of_rule(rule, OUTCOMES + place).fetch_add(value, Ordering::SeqCst);
        }
        self.of_rule(rule, OUTCOMES + 3).fetch_max(took_ns, Ordering::SeqCst);
    }

    /// Adds what was counted for a rule.
    pub fn add_to(&self, rule: u32, counters: &mut RuleCounters) {
        for (place, counter) in counters.outcomes.iter_mut().enumerate() {
            let events = self.of_rule(rule, place).load(Ordering::SeqCst);
            counter.events += events;
            counter.segments += events;
        }
    }

    /// What became of a rule's calls that were to be held back.
    pub fn held(&self, rule: u32) -> Held {
        let word = |place| self.of_rule(rule, OUTCOMES + place).load(Ordering::SeqCst);
        Held {
            calls: word(0),
            asked_ns: word(1),
            took_ns: word(2),
            longest_ns: word(3),
            cut_short: word(4),
            ..Held::default()
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`, to which no reference is left.
        let _ = unsafe { munmap(self.0.cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_see_the_same() {
        let (ours, file) = Ledger::create().unwrap();
        let theirs = Ledger::map(&file).unwrap();
        theirs.set(Word::High, 7);
        assert_eq!((ours.get(Word::High), ours.get(Word::Low)), (7, 0));
        theirs.count(63, Outcome::Injected);
        theirs.count(0, Outcome::Unreadable);
        theirs.held_back(63, 1000, 1100);
        theirs.held_back(63, 1000, 400);
        let mut counters = RuleCounters::default();
        ours.add_to(63, &mut counters);
        assert_eq!(counters.outcomes[Outcome::Injected as usize].events, 1);
        assert_eq!(counters.outcomes[Outcome::Unreadable as usize].events, 0);
        let held = Held {
            calls: 2,
            asked_ns: 2000,
            took_ns: 1500,
            longest_ns: 1100,
            cut_short: 1,
            ..Held::default()
        };
        assert_eq!((ours.held(63), ours.held(62)), (held, Held::default()));
    }
}
