//! What happens to an event that a rule matches. Pure: the hook gathers the facts, this decides, the hook acts.

use crate::{
    chain::CHAIN_NONE,
    control::{Header, MODE_OBSERVE, Run, STATE_ARMED},
    counter::Outcome,
    probability::{self, ALWAYS, NEVER},
    rule::{
        ACTS_CORRUPTING, KIND_LATENCY, KIND_RESULTS, Rule, WHEN_COUNTED, WHEN_FIRST, WHEN_LIMITED,
        WHEN_PER_FLOW, WHEN_PER_PROCESS, WHEN_SEEDED, act,
    },
};

/// Whether a run takes part at all. Events of a run that is not armed are not even counted as seen.
#[inline(always)]
pub fn is_live(header: &Header, run: &Run) -> bool {
    header.armed != 0 && run.state == STATE_ARMED
}

/// What a decision may need beyond the event: asked for only when it is needed.
pub trait Source {
    /// Whether any rule has a chain.
    fn has_chains(&self) -> bool {
        true
    }
    /// Whether any rule hits whole flows.
    fn has_flows(&self) -> bool {
        true
    }
    /// Whether any rule counts per process.
    fn has_processes(&self) -> bool {
        true
    }
    /// Whether any rule has several results, several places in a packet, or a time to draw.
    fn has_results(&self) -> bool {
        true
    }
    /// Makes the process of the event count for itself in what follows. `false` if there is no room for it.
    fn count_process(&mut self) -> bool;
    /// Takes the next number of the rule's decisions, from 1. `None` if the kernel cannot count.
    fn next_ordinal(&mut self) -> Option<u64>;
    /// Moves the rule's chain on by one packet, with two draws. `None` if the kernel cannot, or if other CPUs moved it
    /// all the time.
    fn step(&mut self, rule: &Rule, draws: [u32; 2]) -> Option<bool>;
    /// A number that all packets of the event's flow share.
    fn flow(&mut self) -> u64;
    /// A uniform 32-bit number.
    fn random(&mut self) -> u32;
    /// Takes the next number of the rule's hits, from 1. `None` if the kernel cannot count.
    fn next_hit(&mut self) -> Option<u64>;
    /// Keeps the draw that says which of several results the event gets, which bit of it is flipped, or how long it takes.
    fn choose(&mut self, draw: u32);
}

/// Whether it is the turn of the `ordinal`-th event (from 1).
#[inline(always)]
fn is_turn(rule: &Rule, ordinal: u64) -> bool {
    if ordinal <= rule.after || (rule.last != 0 && ordinal > u64::from(rule.last)) {
        return false;
    }
    let behind = ordinal - rule.after - u64::from(rule.when & WHEN_FIRST != 0);
    rule.every <= 1 || behind.is_multiple_of(rule.every)
}

/// Decides one matched event of a live run at `now_ns` (`CLOCK_MONOTONIC`). `ended` says that an earlier rule already
/// ended the event (dropped the packet, gave an errno).
///
/// Only [`Outcome::Injected`] asks the hook to act.
#[inline(always)]
pub fn decide(
    rule: &Rule,
    header: &Header,
    run: &Run,
    now_ns: u64,
    ended: bool,
    source: &mut impl Source,
) -> Outcome {
    if now_ns > header.lease_ns {
        return Outcome::Lease;
    }
    if run.deadline_ns != 0 && now_ns > run.deadline_ns {
        return Outcome::Deadline;
    }
    if ended {
        return Outcome::Superseded;
    }
    if source.has_processes() && rule.when & WHEN_PER_PROCESS != 0 && !source.count_process() {
        return Outcome::Untracked;
    }
    let mut ordinal = 0;
    if rule.when & (WHEN_COUNTED | WHEN_SEEDED) != 0 {
        let Some(next) = source.next_ordinal() else { return Outcome::Error };
        ordinal = next;
    }
    if rule.when & WHEN_COUNTED != 0 && !is_turn(rule, ordinal) {
        return Outcome::Turn;
    }
    if source.has_chains() && rule.chain != CHAIN_NONE {
        let draws = if rule.when & WHEN_SEEDED != 0 {
            let first = ordinal.wrapping_mul(2);
            [probability::seeded_draw(rule.seed, first), probability::seeded_draw(rule.seed, first + 1)]
        } else {
            [source.random(), source.random()]
        };
        match source.step(rule, draws) {
            Some(true) => {}
            Some(false) => return Outcome::Chance,
            None => return Outcome::Error,
        }
    } else if rule.probability_q32 < ALWAYS {
        let draw = if source.has_flows() && rule.when & WHEN_PER_FLOW != 0 {
            probability::seeded_draw(rule.seed, source.flow())
        } else if rule.when & WHEN_SEEDED != 0 {
            probability::seeded_draw(rule.seed, ordinal)
        } else {
            source.random()
        };
        if rule.probability_q32 == NEVER || !probability::hits(rule.probability_q32, draw) {
            return Outcome::Chance;
        }
    }
    if run.mode == MODE_OBSERVE {
        return Outcome::Observe;
    }
    if rule.when & WHEN_LIMITED != 0 {
        match source.next_hit() {
            Some(hit) if hit <= rule.limit => {}
            Some(_) => return Outcome::Budget,
            None => return Outcome::Error,
        }
    }
    if source.has_results() && act(rule.kind) & (act(KIND_RESULTS) | act(KIND_LATENCY) | ACTS_CORRUPTING) != 0
    {
        let draw = if rule.when & WHEN_SEEDED != 0 {
            probability::second_draw(rule.seed, ordinal)
        } else {
            source.random()
        };
        source.choose(draw);
    }
    Outcome::Injected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{self, CHAIN_GILBERT_ELLIOTT},
        control::MODE_ENFORCE,
    };
    use proptest::prelude::*;

    #[derive(Default)]
    struct Fake {
        decisions: u64,
        hits: u64,
        random: u32,
        state: u64,
        flow: u64,
        full: bool,
        chosen: Option<u32>,
    }

    impl Source for Fake {
        fn count_process(&mut self) -> bool {
            !self.full
        }
        fn choose(&mut self, draw: u32) {
            self.chosen = Some(draw);
        }
        fn next_ordinal(&mut self) -> Option<u64> {
            self.decisions += 1;
            Some(self.decisions)
        }
        fn step(&mut self, rule: &Rule, [transition, loss]: [u32; 2]) -> Option<bool> {
            let step = chain::step(rule.chain, &rule.chain_q32, self.state, transition, loss);
            self.state = step.state;
            Some(step.lost == 1)
        }
        fn flow(&mut self) -> u64 {
            self.flow
        }
        fn random(&mut self) -> u32 {
            self.random
        }
        fn next_hit(&mut self) -> Option<u64> {
            self.hits += 1;
            Some(self.hits)
        }
    }

    fn case() -> (Rule, Header, Run) {
        (
            Rule { probability_q32: ALWAYS, ..Rule::default() },
            Header { armed: 1, lease_ns: 1000, ..Header::default() },
            Run { state: STATE_ARMED, mode: MODE_ENFORCE, deadline_ns: 500, ..Run::default() },
        )
    }

    #[test]
    fn every_outcome_has_its_cause() {
        let (rule, header, run) = case();
        let of = |rule: &Rule, run: &Run, now, ended, random| {
            decide(rule, &header, run, now, ended, &mut Fake { random, ..Fake::default() })
        };
        assert_eq!(of(&rule, &run, 500, false, 7), Outcome::Injected);
        assert_eq!(of(&rule, &run, 501, false, 7), Outcome::Deadline);
        assert_eq!(of(&rule, &run, 1001, false, 7), Outcome::Lease);
        assert_eq!(of(&rule, &run, 1, true, 7), Outcome::Superseded);
        let rare = Rule { probability_q32: 7, ..rule };
        assert_eq!(of(&rare, &run, 1, false, 7), Outcome::Chance);
        assert_eq!(of(&rare, &run, 1, false, 6), Outcome::Injected);
        let observe = Run { mode: MODE_OBSERVE, ..run };
        assert_eq!(of(&rule, &observe, 1, false, 7), Outcome::Observe);
        let endless = Run { deadline_ns: 0, ..run };
        assert_eq!(of(&rule, &endless, 1000, false, 7), Outcome::Injected);
    }

    /// Numbers (from 1) of the events out of `n` that are hit.
    fn hit_by(rule: Rule, n: u64) -> Vec<u64> {
        let (_, header, run) = case();
        let mut source = Fake::default();
        (1..=n).filter(|_| decide(&rule, &header, &run, 1, false, &mut source) == Outcome::Injected).collect()
    }

    #[test]
    fn turns_and_budgets_are_exact() {
        let (rule, _, _) = case();
        let counted = Rule { when: WHEN_COUNTED, ..rule };
        assert_eq!(hit_by(Rule { every: 3, ..counted }, 10), [3, 6, 9]);
        assert_eq!(hit_by(Rule { after: 7, ..counted }, 10), [8, 9, 10]);
        assert_eq!(hit_by(Rule { every: 2, after: 3, ..counted }, 10), [5, 7, 9]);
        assert_eq!(hit_by(Rule { when: WHEN_LIMITED, limit: 2, ..rule }, 10), [1, 2]);
        let both = Rule { when: WHEN_COUNTED | WHEN_LIMITED, every: 4, limit: 1, ..rule };
        assert_eq!(hit_by(both, 12), [4]);
        let seeded = Rule { when: WHEN_SEEDED, seed: 42, probability_q32: ALWAYS / 3, ..rule };
        assert_eq!(hit_by(seeded, 1000), hit_by(seeded, 1000));
        assert_ne!(hit_by(seeded, 1000), hit_by(Rule { seed: 43, ..seeded }, 1000));
    }

    #[test]
    fn turns_from_a_first_one_are_exact() {
        let (rule, _, _) = case();
        let from = |first: u64, last, every| Rule {
            when: WHEN_COUNTED | WHEN_FIRST,
            after: first - 1,
            last,
            every,
            ..rule
        };
        assert_eq!(hit_by(from(3, 3, 1), 10), [3]);
        assert_eq!(hit_by(from(3, 5, 1), 10), [3, 4, 5]);
        assert_eq!(hit_by(from(8, 0, 1), 10), [8, 9, 10]);
        assert_eq!(hit_by(from(1, 0, 4), 10), [1, 5, 9]);
        assert_eq!(hit_by(from(2, 9, 3), 20), [2, 5, 8]);
    }

    #[test]
    fn a_process_that_cannot_be_counted_is_spared() {
        let (rule, header, run) = case();
        let rule = Rule { when: WHEN_PER_PROCESS | WHEN_COUNTED, every: 2, ..rule };
        let mut full = Fake { full: true, ..Fake::default() };
        for _ in 0..4 {
            assert_eq!(decide(&rule, &header, &run, 1, false, &mut full), Outcome::Untracked);
        }
        assert_eq!(hit_by(rule, 4), [2, 4]);
    }

    #[test]
    fn results_are_drawn_from_the_seed_beside_the_hits() {
        let (rule, header, run) = case();
        let rule =
            Rule { kind: KIND_RESULTS, when: WHEN_SEEDED, seed: 42, probability_q32: ALWAYS / 2, ..rule };
        let draws = |rule: &Rule| -> Vec<Option<u32>> {
            let mut source = Fake::default();
            (0..1000)
                .map(|_| {
                    source.chosen = None;
                    decide(rule, &header, &run, 1, false, &mut source);
                    source.chosen
                })
                .collect()
        };
        let chosen = draws(&rule);
        assert_eq!(chosen, draws(&rule));
        assert_ne!(chosen, draws(&Rule { seed: 43, ..rule }));
        // Which result says nothing about which events: the draws of hit events lie in both halves.
        let hit: Vec<u32> = chosen.iter().flatten().copied().collect();
        assert!((400..600).contains(&hit.len()), "{}", hit.len());
        let low = hit.iter().filter(|draw| **draw < 1 << 31).count();
        assert!((hit.len() / 2 - 60..hit.len() / 2 + 60).contains(&low), "{low} of {}", hit.len());
        assert!(draws(&Rule { kind: crate::rule::KIND_RESULT, ..rule }).iter().all(Option::is_none));
    }

    proptest! {
        /// strace's `when=first..last+step`.
        #[test]
        fn turns_are_straces(first in 1u64..20, length in 0u32..30, bounded in any::<bool>(), step in 1u64..7) {
            let last = if bounded { first as u32 + length } else { 0 };
            let rule = Rule { when: WHEN_COUNTED | WHEN_FIRST, after: first - 1, last, every: step, ..case().0 };
            let end = if bounded { u64::from(last) } else { u64::MAX };
            let expected: Vec<u64> =
                (1..=60).filter(|n| *n >= first && *n <= end && (n - first) % step == 0).collect();
            prop_assert_eq!(hit_by(rule, 60), expected);
        }
    }

    #[test]
    fn a_seeded_chain_repeats_itself() {
        let (rule, _, _) = case();
        let chain_q32 = [ALWAYS / 20, ALWAYS / 4, ALWAYS, 0, 0];
        let chain = Rule { when: WHEN_SEEDED, chain: CHAIN_GILBERT_ELLIOTT, chain_q32, seed: 42, ..rule };
        let hit = hit_by(chain, 10_000);
        assert_eq!(hit, hit_by(chain, 10_000));
        assert_ne!(hit, hit_by(Rule { seed: 43, ..chain }, 10_000));
        assert!((1_200..2_200).contains(&hit.len()), "{}", hit.len());
    }

    #[test]
    fn a_flow_is_always_or_never_hit() {
        let (rule, header, run) = case();
        let per_flow = Rule { when: WHEN_PER_FLOW, seed: 9, probability_q32: ALWAYS / 4, ..rule };
        let is_hit = |flow, random| {
            let mut source = Fake { flow, random, ..Fake::default() };
            decide(&per_flow, &header, &run, 1, false, &mut source) == Outcome::Injected
        };
        for flow in 0..100 {
            assert_eq!(is_hit(flow, 0), is_hit(flow, u32::MAX));
        }
        let hit = (0..10_000).filter(|flow| is_hit(*flow, 0)).count();
        assert!((2_250..2_750).contains(&hit), "{hit}");
    }

    #[test]
    fn only_an_armed_run_of_an_armed_engine_is_live() {
        let (_, header, run) = case();
        assert!(is_live(&header, &run));
        assert!(!is_live(&Header { armed: 0, ..header }, &run));
        assert!(!is_live(&header, &Run { state: crate::control::STATE_AWAIT_EXEC, ..run }));
    }

    proptest! {
        /// Nothing is ever inflicted after the lease or the deadline, whatever else holds.
        #[test]
        fn nothing_after_the_end(now in any::<u64>(), lease in any::<u64>(), deadline in 1..u64::MAX,
                                 random in any::<u32>(), p in 0..=ALWAYS, when in 0u32..64, ended in any::<bool>()) {
            let (rule, header, run) = case();
            let outcome = decide(&Rule { probability_q32: p, when, ..rule }, &Header { lease_ns: lease, ..header },
                                 &Run { deadline_ns: deadline, ..run }, now, ended,
                                 &mut Fake { random, ..Fake::default() });
            if now > lease || now > deadline {
                prop_assert_ne!(outcome, Outcome::Injected);
            }
        }
    }
}
