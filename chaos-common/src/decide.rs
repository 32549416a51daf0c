//! What happens to an event that a rule matches. Pure: the hook gathers the facts, this decides, the hook acts.

use crate::{
    control::{Header, MODE_OBSERVE, Run, STATE_ARMED},
    counter::Outcome,
    probability,
    rule::Rule,
};

/// Whether a run takes part at all. Events of a run that is not armed are not even counted as seen.
#[inline(always)]
pub fn is_live(header: &Header, run: &Run) -> bool {
    header.armed == 1 && run.state == STATE_ARMED
}

/// Decides one matched event of a live run. `now_ns` is `CLOCK_MONOTONIC`, `draw` is uniform over all 32-bit values,
/// `ended` says that an earlier rule already ended the event (dropped the packet, gave an errno).
///
/// Only [`Outcome::Injected`] asks the hook to act.
#[inline(always)]
pub fn decide(rule: &Rule, header: &Header, run: &Run, now_ns: u64, draw: u32, ended: bool) -> Outcome {
    if now_ns > header.lease_ns {
        Outcome::Lease
    } else if run.deadline_ns != 0 && now_ns > run.deadline_ns {
        Outcome::Deadline
    } else if ended {
        Outcome::Superseded
    } else if !probability::hits(rule.probability_q32, draw) {
        Outcome::Chance
    } else if run.mode == MODE_OBSERVE {
        Outcome::Observe
    } else {
        Outcome::Injected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::MODE_ENFORCE, probability::ALWAYS};
    use proptest::prelude::*;

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
        assert_eq!(decide(&rule, &header, &run, 500, 7, false), Outcome::Injected);
        assert_eq!(decide(&rule, &header, &run, 501, 7, false), Outcome::Deadline);
        assert_eq!(decide(&rule, &header, &run, 1001, 7, false), Outcome::Lease);
        assert_eq!(decide(&rule, &header, &run, 1, 7, true), Outcome::Superseded);
        let rare = Rule { probability_q32: 7, ..rule };
        assert_eq!(decide(&rare, &header, &run, 1, 7, false), Outcome::Chance);
        assert_eq!(decide(&rare, &header, &run, 1, 6, false), Outcome::Injected);
        let observe = Run { mode: MODE_OBSERVE, ..run };
        assert_eq!(decide(&rule, &header, &observe, 1, 7, false), Outcome::Observe);
        let endless = Run { deadline_ns: 0, ..run };
        assert_eq!(decide(&rule, &header, &endless, 1000, 7, false), Outcome::Injected);
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
                                 draw in any::<u32>(), p in 0..=ALWAYS, ended in any::<bool>()) {
            let (rule, header, run) = case();
            let outcome = decide(&Rule { probability_q32: p, ..rule }, &Header { lease_ns: lease, ..header },
                                 &Run { deadline_ns: deadline, ..run }, now, draw, ended);
            if now > lease || now > deadline {
                prop_assert_ne!(outcome, Outcome::Injected);
            }
        }
    }
}
