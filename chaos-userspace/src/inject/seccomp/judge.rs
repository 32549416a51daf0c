//! What becomes of a call that waits: the rules as the kernel programs read them, and the same decision.

use super::{
    ledger::Ledger,
    listener::{Answer, Asked},
};
use crate::inject::control::ControlPage;
use aya::maps::{Array, Map, MapData, MapError};
use chaos_common::{
    arch::native::{AUDIT_ARCH, AUDIT_ARCH_COMPAT, X32_BIT},
    counter::Outcome,
    decide::{Source, decide, is_live},
    latency::drawn,
    limits::{PROCESSES_MAX, RULES_MAX},
    results::Results,
    rule::{KIND_LATENCY, KIND_RESULT, KIND_RESULTS, Rule, act, leaves_nothing_to, table_index},
    syscall::call_row,
};
use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::fd::OwnedFd,
    path::Path,
};

/// Where the rules are, and what has been counted for them.
pub struct Judge {
    page: ControlPage,
    rules: Array<MapData, Rule>,
    results: Array<MapData, Results>,
    /// Row of the call table -> its rules, one bit each.
    rows: BTreeMap<u32, u64>,
    numbers: Numbers,
}

/// What is to be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The rule that holds it back, and for how long, in nanoseconds.
    pub hold: Option<(u32, u64)>,
    /// What it is told then.
    pub answer: Answer,
}

impl Verdict {
    /// Nothing.
    pub const PASS: Self = Self { hold: None, answer: Answer::GoOn };
}

/// The row of a call in the call table.
pub fn row_of(asked: &Asked) -> Option<u32> {
    match asked.arch {
        AUDIT_ARCH => call_row(asked.number & !X32_BIT, false),
        AUDIT_ARCH_COMPAT => call_row(asked.number, true),
        _ => None,
    }
}

impl Judge {
    /// Of an engine's control page, its rule table and its table of results.
    pub fn new(
        page: ControlPage,
        [rules, results]: [OwnedFd; 2],
        rows: BTreeMap<u32, u64>,
    ) -> Result<Self, MapError> {
        let array = |fd| MapData::from_fd(fd).map(Map::Array);
        Ok(Self {
            page,
            rules: array(rules)?.try_into()?,
            results: array(results)?.try_into()?,
            rows,
            numbers: Numbers::default(),
        })
    }

    /// Whether any call may be judged at `now_ns`.
    pub fn may_act(&self, now_ns: u64) -> bool {
        self.page.may_act(now_ns)
    }

    /// Runs a call past its rules, and counts.
    pub fn judge(&mut self, asked: &Asked, now_ns: u64, ledger: &Ledger) -> Verdict {
        let rules = row_of(asked).and_then(|row| self.rows.get(&row)).copied().unwrap_or(0);
        let (mut verdict, mut acts) = (Verdict::PASS, 0);
        // One bank for all of them, as in the kernel.
        let bank = self.page.bank();
        for number in (0..RULES_MAX as u32).filter(|number| rules & 1 << number != 0) {
            let Ok(rule) = self.rules.get(&table_index(bank, number), 0) else { continue };
            let Some((header, run)) = self.page.run_now(rule.run as usize) else { continue };
            if !is_live(&header, &run) {
                continue;
            }
            ledger.count(number, Outcome::Seen);
            let mut source = OfCall {
                numbers: &mut self.numbers,
                rule: number,
                thread: asked.thread,
                process: 0,
                draw: 0,
            };
            let ended = leaves_nothing_to(acts, rule.kind);
            let outcome = decide(&rule, &header, &run, now_ns, ended, &mut source);
            let draw = source.draw;
            ledger.count(number, outcome);
            if outcome != Outcome::Injected {
                continue;
            }
            acts |= act(rule.kind);
            match rule.kind {
                KIND_LATENCY => {
                    verdict.hold = Some((number, drawn(rule.result as u64, rule.jitter_ns, draw)));
                }
                KIND_RESULT => verdict.answer = Answer::Return(rule.result),
                KIND_RESULTS => {
                    if let Ok(results) = self.results.get(&number, 0) {
                        verdict.answer = Answer::Return(results.values[results.place(draw)]);
                    }
                }
                _ => {}
            }
        }
        verdict
    }
}

/// Numbers of decisions and of hits, by rule and, where processes count for themselves, by process.
#[derive(Debug, Default)]
struct Numbers {
    decisions: HashMap<(u32, u32), u64>,
    hits: HashMap<(u32, u32), u64>,
    /// Processes that count for themselves.
    processes: HashMap<u32, ()>,
}

impl Numbers {
    /// Whether there is room for a process. Those that have ended make room.
    fn admit(&mut self, process: u32) -> bool {
        if self.processes.contains_key(&process) {
            return true;
        }
        if self.processes.len() >= PROCESSES_MAX as usize {
            self.processes.retain(|process, ()| Path::new(&format!("/proc/{process}")).exists());
            let known = &self.processes;
            let stays = |process: u32| process == 0 || known.contains_key(&process);
            self.decisions.retain(|(_, process), _| stays(*process));
            self.hits.retain(|(_, process), _| stays(*process));
        }
        let room = self.processes.len() < PROCESSES_MAX as usize;
        if room {
            self.processes.insert(process, ());
        }
        room
    }
}

/// What a decision about one call asks for.
struct OfCall<'a> {
    numbers: &'a mut Numbers,
    rule: u32,
    thread: u32,
    /// The process that counts for itself; 0: all count together.
    process: u32,
    draw: u32,
}

fn next(numbers: &mut HashMap<(u32, u32), u64>, of: (u32, u32)) -> u64 {
    let number = numbers.entry(of).or_insert(0);
    *number += 1;
    *number
}

impl Source for OfCall<'_> {
    fn has_chains(&self) -> bool {
        false
    }

    fn has_flows(&self) -> bool {
        false
    }

    fn count_process(&mut self) -> bool {
        let Some(process) = process_of(self.thread) else { return false };
        self.process = process;
        self.numbers.admit(process)
    }

    fn next_ordinal(&mut self) -> Option<u64> {
        Some(next(&mut self.numbers.decisions, (self.rule, self.process)))
    }

    fn step(&mut self, _: &Rule, _: [u32; 2]) -> Option<bool> {
        None
    }

    fn flow(&mut self) -> u64 {
        0
    }

    fn random(&mut self) -> u32 {
        let mut bytes = [0; 4];
        // SAFETY: a place of that size. A request this short is never cut (getrandom(2)).
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        u32::from_ne_bytes(bytes)
    }

    fn next_hit(&mut self) -> Option<u64> {
        Some(next(&mut self.numbers.hits, (self.rule, self.process)))
    }

    fn choose(&mut self, draw: u32) {
        self.draw = draw;
    }
}

/// The process of a thread. `None` if it has gone, or is in a pid namespace that this process does not see.
fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Reads rows as [`words`] writes them.
pub fn read_rows(words: &[String]) -> io::Result<BTreeMap<u32, u64>> {
    let read = |word: &String| {
        let (row, rules) = word.split_once(':')?;
        Some((row.parse().ok()?, u64::from_str_radix(rules, 16).ok()?))
    };
    let rows: Option<_> = words.iter().map(read).collect();
    rows.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Rows and their rules, for a command line.
pub fn words(rows: &BTreeMap<u32, u64>) -> Vec<String> {
    rows.iter().map(|(row, rules)| format!("{row}:{rules:x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_are_written() {
        let rows = BTreeMap::from([(0, 1), (1023, u64::MAX)]);
        assert_eq!(read_rows(&words(&rows)).unwrap(), rows);
        assert!(read_rows(&["1".to_owned()]).is_err() && read_rows(&["1:g".to_owned()]).is_err());
    }

    #[test]
    fn processes_that_have_ended_make_room() {
        let mut numbers = Numbers::default();
        let own = std::process::id();
        assert!(numbers.admit(own));
        // Above every pid there can be.
        for process in 0..PROCESSES_MAX - 1 {
            assert!(numbers.admit(u32::MAX - process));
        }
        numbers.hits.insert((0, own), 3);
        numbers.hits.insert((0, u32::MAX), 3);
        assert!(numbers.admit(u32::MAX / 2));
        assert_eq!((numbers.processes.len(), numbers.hits.len()), (2, 1));
    }

    #[test]
    fn a_thread_has_a_process() {
        // SAFETY: the call has no preconditions.
        let thread = unsafe { libc::gettid() } as u32;
        assert_eq!(process_of(thread), Some(std::process::id()));
        assert_eq!(process_of(u32::MAX), None);
    }
}
