//! A fault as the kernel sees it.

use crate::limits::{RULE_BANKS, RULES_MAX};

/// One fault of one run. 128 bytes: two cache lines of the rule table, the second one only for chains.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// One of the `KIND_*` values.
    pub kind: u32,
    /// Index of the run in [`crate::control::Control::runs`].
    pub run: u32,
    /// Set of the `MATCH_*` bits.
    pub matches: u32,
    /// IP protocol number this rule is restricted to, with [`MATCH_PROTOCOL`].
    pub protocol: u32,
    /// With [`WHEN_COUNTED`]: events behind this one, counted from 1, are let through; 0 means none are.
    pub last: u32,
    /// Set of the `WHEN_*` bits.
    pub when: u32,
    /// How often a matched event is hit.
    pub probability_q32: crate::probability::Q32,
    /// With [`WHEN_COUNTED`]: only every n-th event is hit, counted behind the first [`Rule::after`] ones; 0 and 1 mean
    /// all of them.
    pub every: u64,
    /// With [`WHEN_COUNTED`]: the first ones are let through.
    pub after: u64,
    /// With [`WHEN_LIMITED`]: so many are hit at most.
    pub limit: u64,
    /// With [`WHEN_SEEDED`]: makes every draw the same again. With [`WHEN_PER_FLOW`]: which flows are hit.
    pub seed: u64,
    /// One of `CHAIN_*` of [`crate::chain`]: decides in place of the probability.
    pub chain: u32,
    /// The rule's own number: a value from the table, so that the verifier does not tell apart by it what is the same.
    pub number: u32,
    /// The chain's probabilities.
    pub chain_q32: crate::chain::Probabilities,
    /// What the call returns, for [`KIND_RESULT`]: a negative errno or, where it claims success, a value of 0 and more. For
    /// [`KIND_LATENCY`]: for how long the call is held back, in nanoseconds.
    pub result: i64,
    /// For [`KIND_LATENCY`]: how far single times differ from that, in nanoseconds.
    pub jitter_ns: u64,
}

/// An unused slot.
pub const KIND_NONE: u32 = 0;
/// The packet is lost.
pub const KIND_LOSS: u32 = 1;
/// The system call does nothing and returns [`Rule::result`].
pub const KIND_RESULT: u32 = 2;
/// The system call does nothing and returns one of the rule's [`crate::results::Results`], drawn by weight.
pub const KIND_RESULTS: u32 = 3;
/// The system call is held back for [`Rule::result`] nanoseconds, then goes on.
pub const KIND_LATENCY: u32 = 4;

/// The packet takes a detour through the rule's line, where it is held back.
pub const KIND_DELAY: u32 = 16;
/// The packet goes out twice.
pub const KIND_DUPLICATE: u32 = 17;
/// The packet takes no line, and so overtakes those that do.
pub const KIND_REORDER: u32 = 18;
/// One bit of the packet is flipped, so that its checksum is wrong.
pub const KIND_CORRUPT: u32 = 19;
/// One bit of the payload is flipped, and the checksum says that all is well.
pub const KIND_CORRUPT_PAYLOAD: u32 = 20;
/// The packet's TCP connection is reset at both ends.
pub const KIND_RESET: u32 = 21;

/// Some rule is of [`KIND_CORRUPT`].
pub const CORRUPT_CHECKSUM: u32 = 1;
/// Some rule is of [`KIND_CORRUPT_PAYLOAD`].
pub const CORRUPT_PAYLOAD: u32 = 2;

/// What a rule of this kind does to an event, as one bit of a set.
#[inline(always)]
pub const fn act(kind: u32) -> u32 {
    1 << (kind & 31)
}

/// The event ends: it is lost or fails, and there is nothing left for other rules.
pub const ACTS_ENDING: u32 = act(KIND_LOSS) | act(KIND_RESULT) | act(KIND_RESULTS) | act(KIND_RESET);
/// The packet is changed, which happens once.
pub const ACTS_CORRUPTING: u32 = act(KIND_CORRUPT) | act(KIND_CORRUPT_PAYLOAD);

/// Whether behind these acts there is nothing left to do for a rule of this kind. Delays add up.
#[inline(always)]
pub const fn leaves_nothing_to(acts: u32, kind: u32) -> bool {
    let mut done = ACTS_ENDING;
    done |= if kind == KIND_DELAY { act(KIND_REORDER) } else { act(kind) };
    if act(kind) & ACTS_CORRUPTING != 0 {
        done |= ACTS_CORRUPTING;
    }
    acts & done != 0
}

/// Only packets of [`Rule::protocol`].
pub const MATCH_PROTOCOL: u32 = 1 << 0;
/// Only packets whose remote address has the rule's bit in the prefix tables.
pub const MATCH_REMOTE: u32 = 1 << 1;
/// Only packets whose remote port has the rule's bit in the port table.
pub const MATCH_REMOTE_PORT: u32 = 1 << 2;
/// Only packets whose local port has the rule's bit in its port table.
pub const MATCH_LOCAL_PORT: u32 = 1 << 3;
/// Only packets that show which flow they belong to.
pub const MATCH_FLOW: u32 = 1 << 4;

/// Only calls of tasks that have the rule's bit in the tables of names and users.
pub const MATCH_CALLER: u32 = 1 << 8;
/// Only calls on a path that the rule wants ([`crate::syscall_match::Wanted`]).
pub const MATCH_PATH: u32 = 1 << 9;
/// Only calls on a descriptor of a kind that the rule wants.
pub const MATCH_KIND: u32 = 1 << 10;
/// Only calls for a number of bytes that the rule wants.
pub const MATCH_SIZE: u32 = 1 << 11;
/// Only calls that open for what the rule wants.
pub const MATCH_ACCESS: u32 = 1 << 12;

/// [`Rule::every`], [`Rule::after`] and [`Rule::last`] apply.
pub const WHEN_COUNTED: u32 = 1 << 0;
/// [`Rule::limit`] applies.
pub const WHEN_LIMITED: u32 = 1 << 1;
/// [`Rule::seed`] applies.
pub const WHEN_SEEDED: u32 = 1 << 2;
/// The draw is made once per flow: all its packets are hit or none.
pub const WHEN_PER_FLOW: u32 = 1 << 3;
/// With [`WHEN_COUNTED`]: the first event behind [`Rule::after`] is hit and every n-th from there on, instead of the
/// n-th and every n-th.
pub const WHEN_FIRST: u32 = 1 << 4;
/// Every process (thread group) counts for itself.
pub const WHEN_PER_PROCESS: u32 = 1 << 5;

/// What a rule has to remember across CPUs: one cache line, touched only by rules that count or have a chain.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ordinal {
    /// Matched events that came to a decision.
    pub decided: u64,
    /// Hits that were asked of the budget, granted or not.
    pub asked: u64,
    /// State of the rule's chain, replaced by compare-and-exchange.
    pub state: u64,
    /// Explicit padding.
    pub reserved: [u64; 5],
}

/// Who counts for itself, for rules with [`WHEN_PER_PROCESS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessKey {
    /// The rule.
    pub rule: u32,
    /// The thread group id, as in the initial pid namespace.
    pub tgid: u32,
}

/// What is remembered of one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCount {
    /// As [`Ordinal::decided`].
    pub decided: u64,
    /// As [`Ordinal::asked`].
    pub asked: u64,
}

/// Entries of the rule table.
pub const TABLE_LEN: usize = RULE_BANKS * RULES_MAX;

/// Index of rule `rule` of `bank` in the rule table. Always in range.
#[inline(always)]
pub fn table_index(bank: u32, rule: u32) -> u32 {
    (bank & 1) * RULES_MAX as u32 + (rule & (RULES_MAX as u32 - 1))
}

const _: () = {
    assert!(size_of::<Rule>() == 128);
    assert!(core::mem::offset_of!(Rule, probability_q32) == 24);
    assert!(core::mem::offset_of!(Rule, seed) == 56);
    assert!(core::mem::offset_of!(Rule, chain_q32) == 72);
    assert!(core::mem::offset_of!(Rule, result) == 112);
    assert!(size_of::<ProcessKey>() == 8 && size_of::<ProcessCount>() == 16);
    assert!(size_of::<Ordinal>() == 64);
    assert!(RULES_MAX == 64 && RULE_BANKS == 2);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_leaves_nothing_and_the_rest_is_done_once() {
        const KINDS: [u32; 10] = [
            KIND_LATENCY,
            KIND_LOSS,
            KIND_RESULT,
            KIND_RESULTS,
            KIND_DELAY,
            KIND_DUPLICATE,
            KIND_REORDER,
            KIND_CORRUPT,
            KIND_CORRUPT_PAYLOAD,
            KIND_RESET,
        ];
        for kind in KINDS {
            assert!(!leaves_nothing_to(0, kind));
            assert_eq!(leaves_nothing_to(act(kind), kind), kind != KIND_DELAY, "{kind}");
            for end in [KIND_LOSS, KIND_RESULT, KIND_RESULTS, KIND_RESET] {
                assert!(leaves_nothing_to(act(end), kind), "{kind} behind {end}");
            }
        }
        assert!(leaves_nothing_to(act(KIND_REORDER), KIND_DELAY));
        assert!(leaves_nothing_to(act(KIND_CORRUPT), KIND_CORRUPT_PAYLOAD));
        assert!(!leaves_nothing_to(act(KIND_DELAY) | act(KIND_DUPLICATE), KIND_CORRUPT));
        assert!(!leaves_nothing_to(act(KIND_CORRUPT), KIND_DELAY));
    }
}
