//! Runs an event of a target past its rules.

use crate::{
    count::{Weight, count},
    globals::KC_RULE_COUNT,
    maps::{KC_CONTROL, KC_RULES},
    ordinal::Kernel,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use chaos_common::{
    control::Control,
    counter::Outcome,
    decide::{decide, is_live},
    limits::{RULES_MAX, RUNS_MAX},
    rule::{Rule, table_index},
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
}

/// The control page, if the engine is armed.
#[inline(always)]
pub fn armed() -> Option<&'static Control> {
    let control = KC_CONTROL.get(0)?;
    if control.header.armed == 1 { Some(control) } else { None }
}

/// Judges one event by the rules in `candidates` (one bit each) in their order. Returns what the first rule that ends
/// the event wants done: the errno of a system call rule, 0 for a packet rule. `None` lets the event through.
#[inline(always)]
pub fn judge(
    control: &Control,
    candidates: u64,
    weight: &Weight,
    matches: impl Fn(u32, &Rule) -> Match,
) -> Option<u32> {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let mut verdict = None;
    for index in 0..RULES_MAX as u32 {
        if index >= KC_RULE_COUNT.load() {
            break;
        }
        if candidates & (1 << index) == 0 {
            continue;
        }
        let Some(rule) = KC_RULES.get(table_index(control.header.bank, index)) else { continue };
        let run = rule.run as usize;
        if run >= RUNS_MAX {
            continue;
        }
        let run = &control.runs[run];
        if !is_live(&control.header, run) {
            continue;
        }
        count(index, Outcome::Seen, weight);
        let outcome = match matches(index, rule) {
            Match::No => continue,
            Match::Unparsable => Outcome::Unparsable,
            Match::Yes => {
                decide(rule, &control.header, run, now_ns, verdict.is_some(), &mut Kernel { rule: index })
            }
        };
        count(index, outcome, weight);
        if outcome == Outcome::Injected {
            verdict = Some(rule.errno);
        }
    }
    verdict
}
