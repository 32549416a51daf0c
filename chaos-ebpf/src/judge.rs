//! Runs an event of a target past its rules.

use crate::{
    count::{Weight, count},
    globals::{KC_DRAWN_RESULTS, KC_DUPLICATE, KC_LINE, KC_RULE_COUNT},
    maps::{KC_CONTROL, KC_RESULTS, KC_RULES},
    ordinal::Kernel,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use chaos_common::{
    control::Control,
    counter::Outcome,
    decide::{decide, is_live},
    limits::{RULES_MAX, RUNS_MAX},
    rule::{KIND_DELAY, KIND_DUPLICATE, KIND_REORDER, KIND_RESULTS, Rule, table_index},
};

/// Whether a rule's match applies to an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// The event does not show what the match asks for.
    Unparsable,
    /// What the fault needs is not there for this event.
    Impossible,
}

/// What the rules want done with an event. A plain record in which every field always has a value.
#[derive(Clone, Copy)]
pub struct Verdict {
    /// 1 once a rule has ended the event: the packet is lost, the call fails.
    ended: u32,
    /// What a call that a rule has ended returns.
    result: i64,
    /// The rule among whose results [`Verdict::choice`] chooses, or [`NO_RULE`].
    drawing_rule: u32,
    /// The draw that chooses.
    choice: u32,
    /// The rule whose line the packet takes, or [`NO_RULE`].
    pub line_rule: u32,
    /// 1 if the packet takes no line.
    straight: u32,
    /// 1 if the packet goes out twice.
    pub duplicate: u32,
}

const NO_RULE: u32 = u32::MAX;

impl Verdict {
    /// The event goes through.
    pub const NONE: Self = Self {
        ended: 0,
        result: 0,
        drawing_rule: NO_RULE,
        choice: 0,
        line_rule: NO_RULE,
        straight: 0,
        duplicate: 0,
    };

    /// Whether a rule has ended the event.
    #[inline(always)]
    pub fn is_ended(&self) -> bool {
        self.ended == 1
    }

    /// Whether the packet takes a line.
    #[inline(always)]
    pub fn is_diverted(&self) -> bool {
        self.line_rule != NO_RULE
    }

    /// Whether a rule of this kind has nothing left to do.
    #[inline(always)]
    fn leaves_nothing_to(&self, kind: u32) -> bool {
        self.is_ended()
            || (KC_LINE.load() == 1 && kind == KIND_DELAY && (self.is_diverted() || self.straight == 1))
            || (KC_DUPLICATE.load() == 1 && kind == KIND_DUPLICATE && self.duplicate == 1)
    }

    /// What the call returns, if a rule has ended it.
    #[inline(always)]
    pub fn result(&self) -> Option<i64> {
        if !self.is_ended() {
            return None;
        }
        if KC_DRAWN_RESULTS.load() == 1 && self.drawing_rule != NO_RULE {
            let results = KC_RESULTS.get(self.drawing_rule)?;
            return Some(results.values[results.place(self.choice)]);
        }
        Some(self.result)
    }

    #[inline(always)]
    fn add(&mut self, rule: &Rule, choice: u32) {
        // The globals keep the verifier from following what no rule does.
        if KC_LINE.load() == 1 && rule.kind == KIND_DELAY {
            self.line_rule = rule.number;
        } else if KC_LINE.load() == 1 && rule.kind == KIND_REORDER {
            self.straight = 1;
        } else if KC_DUPLICATE.load() == 1 && rule.kind == KIND_DUPLICATE {
            self.duplicate = 1;
        } else {
            self.ended = 1;
            self.result = rule.result;
            if KC_DRAWN_RESULTS.load() == 1 && rule.kind == KIND_RESULTS {
                self.drawing_rule = rule.number;
                self.choice = choice;
            }
        }
    }
}

/// The control page, if the engine is armed.
#[inline(always)]
pub fn armed() -> Option<&'static Control> {
    let control = KC_CONTROL.get(0)?;
    if control.header.armed == 1 { Some(control) } else { None }
}

/// Judges one event by the rules in `candidates` (one bit each) in their order. `flow` is what all packets of a flow
/// or all calls of a process share.
#[inline(always)]
pub fn judge(
    control: &Control,
    candidates: u64,
    weight: &Weight,
    flow: u64,
    matches: impl Fn(u32, &Rule) -> Match,
) -> Verdict {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // Once per event: rules of two banks together could let through what either of them hits.
    // SAFETY: a field of the mapped page, aligned, which user space replaces by single stores.
    let bank = unsafe { core::ptr::read_volatile(&raw const control.header.bank) };
    let mut verdict = Verdict::NONE;
    for index in 0..RULES_MAX as u32 {
        if index >= KC_RULE_COUNT.load() {
            break;
        }
        if candidates & (1 << index) == 0 {
            continue;
        }
        let Some(rule) = KC_RULES.get(table_index(bank, index)) else { continue };
        let run = rule.run as usize;
        if run >= RUNS_MAX {
            continue;
        }
        let run = &control.runs[run];
        if !is_live(&control.header, run) {
            continue;
        }
        count(index, Outcome::Seen, weight);
        let mut kernel = Kernel { rule: index, flow, per_process: false, choice: 0 };
        let outcome = match matches(index, rule) {
            Match::No => continue,
            Match::Unparsable => Outcome::Unparsable,
            Match::Impossible => Outcome::Error,
            Match::Yes => {
                let ended = verdict.leaves_nothing_to(rule.kind);
                decide(rule, &control.header, run, now_ns, ended, &mut kernel)
            }
        };
        count(index, outcome, weight);
        if outcome == Outcome::Injected {
            verdict.add(rule, kernel.choice);
        }
    }
    verdict
}
