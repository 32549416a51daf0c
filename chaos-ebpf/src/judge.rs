//! Runs an event of a target past its rules.

use crate::{
    count::{Weight, count},
    globals::{
        KC_CORRUPT, KC_DRAWN_RESULTS, KC_EVENTS, KC_LATENCY, KC_LINE, KC_RESET, KC_RULE_COUNT, KC_SET,
    },
    maps::{KC_CONTROL, KC_RESULTS, KC_RULES},
    ordinal::Kernel,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use chaos_common::{
    control::Control,
    counter::Outcome,
    decide::{decide, is_live},
    event::EVENTS_NONE,
    latency::{LATENCY_NONE, drawn},
    limits::{RULES_MAX, RUNS_MAX},
    rule::{
        ACTS_CORRUPTING, ACTS_ENDING, KIND_DELAY, KIND_LATENCY, KIND_RESET, KIND_RESULTS, Rule, act,
        leaves_nothing_to, table_index,
    },
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
    /// What the match asks for could not be read.
    Unreadable,
    /// What the fault needs is not there for this event.
    Impossible,
}

/// What the rules want done with an event. A plain record in which every field always has a value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Verdict {
    /// What is done, one bit per kind of rule ([`act`]).
    pub acts: u32,
    /// The rule among whose results [`Verdict::choice`] chooses, if one has several.
    drawing_rule: u32,
    /// What a call that a rule has ended returns.
    result: i64,
    /// The rules whose lines the packet takes, one bit each.
    pub lines: u64,
    /// The draw that chooses a result, or the bit of the packet that is flipped.
    pub choice: u32,
    /// The rule that changes the packet or resets its connection, if one does.
    pub changing_rule: u32,
    /// The rules that act, one bit each; known only where events are recorded.
    pub rules: u64,
    /// 1 if any rule of a live run has seen the event; known only where events are recorded.
    pub seen: u32,
    /// The rule that holds the call back, if one does.
    pub latency_rule: u32,
    /// For how long, in nanoseconds.
    pub latency_ns: u64,
}

impl Verdict {
    /// The event goes through. `zero` is 0, which the verifier must not know where the verdict does not lie in a map: it
    /// would follow every combination of acts through all rules.
    #[inline(always)]
    pub fn none(zero: u32) -> Self {
        Self {
            acts: zero,
            drawing_rule: zero,
            result: 0,
            lines: u64::from(zero),
            choice: zero,
            changing_rule: zero,
            rules: u64::from(zero),
            seen: zero,
            latency_rule: zero,
            latency_ns: u64::from(zero),
        }
    }

    /// Whether a rule of this kind acts.
    #[inline(always)]
    pub fn has(&self, kind: u32) -> bool {
        self.acts & act(kind) != 0
    }

    /// What the call returns, if a rule has ended it.
    #[inline(always)]
    pub fn result(&self) -> Option<i64> {
        if self.acts & ACTS_ENDING == 0 {
            return None;
        }
        if KC_DRAWN_RESULTS.load() == 1 && self.has(KIND_RESULTS) {
            let results = KC_RESULTS.get(self.drawing_rule)?;
            return Some(results.values[results.place(self.choice)]);
        }
        Some(self.result)
    }

    #[inline(always)]
    fn add(&mut self, rule: &Rule, choice: u32) {
        let act = act(rule.kind);
        self.acts |= act;
        if KC_EVENTS.load() != EVENTS_NONE {
            self.rules |= 1 << (rule.number & 63);
        }
        if KC_LATENCY.load() != LATENCY_NONE && rule.kind == KIND_LATENCY {
            self.latency_rule = rule.number;
            self.latency_ns = drawn(rule.result as u64, rule.jitter_ns, choice);
            return;
        }
        // Behind a rule that has ended a call there is none that acts.
        self.result = rule.result;
        if KC_DRAWN_RESULTS.load() == 1 && rule.kind == KIND_RESULTS {
            self.drawing_rule = rule.number;
            self.choice = choice;
        }
        if KC_LINE.load() == 1 && rule.kind == KIND_DELAY {
            self.lines |= 1 << (rule.number & 63);
        }
        if KC_RESET.load() == 1 && rule.kind == KIND_RESET {
            self.changing_rule = rule.number;
        }
        if KC_CORRUPT.load() != 0 && act & ACTS_CORRUPTING != 0 {
            self.changing_rule = rule.number;
            self.choice = choice;
        }
    }
}

/// The control page, if the engine is armed.
#[inline(always)]
pub fn armed() -> Option<&'static Control> {
    let control = KC_CONTROL.get(0)?;
    if control.header.armed != 0 { Some(control) } else { None }
}

/// The same for programs of which two stand on a hook while one set of programs takes the place of another: only where the
/// set that this one belongs to acts.
#[inline(always)]
pub fn acting() -> Option<&'static Control> {
    let control = KC_CONTROL.get(0)?;
    if control.header.armed & KC_SET.load() != 0 { Some(control) } else { None }
}

/// An event that rules are to judge, and when.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    pub now_ns: u64,
    /// What all packets of a flow or all calls of a process share.
    flow: u64,
    /// How much it counts.
    pub weight: Weight,
    /// The bank of the rule table in force. Once per event: rules of two banks together could let through what either of
    /// them hits.
    bank: u32,
    reserved: u32,
}

impl Event {
    /// An event that happens now.
    #[inline(always)]
    pub fn new(control: &Control, weight: Weight, flow: u64) -> Self {
        // SAFETY: the helper has no preconditions; the field is one of the mapped page, aligned, which user space
        // replaces by single stores.
        let (now_ns, bank) =
            unsafe { (bpf_ktime_get_ns(), core::ptr::read_volatile(&raw const control.header.bank)) };
        Self { now_ns, flow, weight, bank, reserved: 0 }
    }

    /// Runs the event past the rule `index`, behind rules that have led to `verdict`.
    #[inline(always)]
    pub fn meet(
        &self,
        control: &Control,
        index: u32,
        verdict: &mut Verdict,
        matches: impl FnOnce(&Rule) -> Match,
    ) {
        let Some(rule) = KC_RULES.get(table_index(self.bank, index)) else { return };
        let run = rule.run as usize;
        if run >= RUNS_MAX {
            return;
        }
        let run = &control.runs[run];
        if !is_live(&control.header, run) {
            return;
        }
        count(index, Outcome::Seen, &self.weight);
        if KC_EVENTS.load() != EVENTS_NONE {
            verdict.seen = 1;
        }
        let mut kernel = Kernel { rule: index, flow: self.flow, per_process: false, choice: 0 };
        let outcome = match matches(rule) {
            Match::No => return,
            Match::Unparsable => Outcome::Unparsable,
            Match::Unreadable => Outcome::Unreadable,
            Match::Impossible => Outcome::Error,
            Match::Yes => {
                let ended = leaves_nothing_to(verdict.acts, rule.kind);
                decide(rule, &control.header, run, self.now_ns, ended, &mut kernel)
            }
        };
        count(index, outcome, &self.weight);
        if outcome == Outcome::Injected {
            verdict.add(rule, kernel.choice);
            if KC_LATENCY.load() != LATENCY_NONE && run.deadline_ns != 0 {
                // The deadline has not passed.
                verdict.latency_ns = verdict.latency_ns.min(run.deadline_ns.wrapping_sub(self.now_ns));
            }
        }
    }
}

/// Judges one call by the rules in `candidates` (one bit each) in their order. `process` is what all calls of a process
/// share.
#[inline(always)]
pub fn judge(
    control: &Control,
    candidates: u64,
    weight: &Weight,
    process: u64,
    matches: impl Fn(u32, &Rule) -> Match,
) -> Verdict {
    let event = Event::new(control, *weight, process);
    let mut verdict = Verdict::none(control.header.zero);
    for index in 0..RULES_MAX as u32 {
        if index >= KC_RULE_COUNT.load() {
            break;
        }
        if candidates & (1 << index) != 0 {
            event.meet(control, index, &mut verdict, |rule| matches(index, rule));
        }
    }
    verdict
}
