//! From a plan that runs to another one that can take its place without attaching anything.

use super::{Mechanism, Plan, PlannedRule};
use crate::spec::{Fault, network::Effect, syscall};

/// What stands in the way, in words; nothing if only rates, probabilities, errors and delays differ.
pub fn obstacles(running: &Plan, wanted: &Plan) -> Vec<String> {
    let list = |plan: &Plan| plan.rules.iter().map(kind).collect::<Vec<_>>().join(", ");
    let (old, new) = (list(running), list(wanted));
    if old != new {
        return vec![format!(
            "the run's faults are {old}, and not {new}: name exactly these, in this order, each with its new rates, or \
             stop the run and start another"
        )];
    }
    let mut problems = vec![];
    if wanted.observe && !running.observe {
        problems.push("--observe: the run acts; use 0% instead, or stop it and start another".to_owned());
    }
    // Programs below 5.12 and those of runs that count nothing do without atomic operations.
    let exact = |plan: &Plan| plan.seed.is_some() || plan.rules.iter().any(|rule| rule.fault.is_exact());
    if exact(wanted) && !exact(running) {
        problems.push(
            "every=, after=, limit=, when= and --seed: the run was started without any of them, and its programs do not \
             count; stop it and start another"
                .to_owned(),
        );
    }
    for (old, new) in running.rules.iter().zip(&wanted.rules) {
        if let (Fault::Network(was), Fault::Network(is)) = (&old.fault, &new.fault)
            && (was.matches != is.matches || was.per_flow != is.per_flow || was.direction != is.direction)
        {
            problems.push(format!(
                "{}: it hits other packets ({was}, and not {is}): repeat the flags that choose them, or stop the run \
                 and start another",
                kind(new)
            ));
        } else if let Some(problem) = other_results(old, new) {
            problems.push(problem);
        } else if old.mechanisms != new.mechanisms {
            problems.push(format!(
                "{}: it runs by {}, and not by {}: add --mechanism, or stop the run and start another",
                kind(new),
                Mechanism::names(&old.mechanisms).join(" + "),
                Mechanism::names(&new.mechanisms).join(" + "),
            ));
        }
    }
    problems
}

/// What of a call's results cannot be replaced without a gap: tables that have no second copy.
fn other_results(old: &PlannedRule, new: &PlannedRule) -> Option<String> {
    let (Fault::Syscall(was), Fault::Syscall(is)) = (&old.fault, &new.fault) else { return None };
    if was.effect.name() != is.effect.name() {
        return Some(format!(
            "{}: --{} cannot become --{}: stop the run and start another",
            kind(new),
            was.effect.name(),
            is.effect.name()
        ));
    }
    let single = |fault: &syscall::Fault| fault.returns().is_none_or(|returns| returns.only().is_some());
    if !(single(was) && single(is)) && was.effect != is.effect {
        return Some(format!(
            "{}: it draws from {}, and not from {}: one result can be replaced by another one, a list cannot; stop the run \
             and start another",
            kind(new),
            was.effect,
            is.effect
        ));
    }
    (was.when.per_process != is.when.per_process).then(|| {
        format!("{}: per=process cannot begin or end in a run: stop it and start another", kind(new))
    })
}

fn kind(rule: &PlannedRule) -> &'static str {
    match &rule.fault {
        Fault::Network(fault) => match fault.effect {
            Effect::LossModel(_) => "loss-model",
            _ => fault.effect.name(),
        },
        Fault::Syscall(fault) => fault.calls.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::Registers,
        spec::{network, when::When},
    };

    fn loss(percent: &str, every: Option<u64>, direction: network::Direction) -> PlannedRule {
        let fault = network::Fault {
            direction,
            matches: network::Match::default(),
            effect: Effect::Loss,
            when: When { probability: percent.parse().unwrap(), every, ..When::default() },
            per_flow: false,
        };
        PlannedRule {
            name: "loss".into(),
            fault: Fault::Network(Box::new(fault)),
            mechanisms: vec![Mechanism::Tcx],
            calls: vec![],
            limits: vec![],
        }
    }

    fn plan(rules: Vec<PlannedRule>) -> Plan {
        Plan {
            run: "x".into(),
            rules,
            duration: None,
            observe: false,
            seed: None,
            task_ancestor: true,
            registers: Registers::default(),
            trees: vec![],
        }
    }

    fn call(text: &str) -> PlannedRule {
        let fault = Fault::Syscall(Box::new(text.parse().unwrap()));
        PlannedRule { name: "x".into(), fault, mechanisms: vec![], calls: vec![], limits: vec![] }
    }

    #[test]
    fn single_results_change_and_lists_do_not() {
        let problems = |old, new| obstacles(&plan(vec![call(old)]), &plan(vec![call(new)]));
        assert!(problems("write=EIO", "write=ENOSPC@10%").is_empty());
        assert!(problems("write=EIO:2,ENOSPC:1", "write=EIO:2,ENOSPC:1@10%").is_empty());
        assert!(problems("write=EIO", "write=EIO,ENOSPC")[0].contains("EIO:1,ENOSPC:1"));
        assert!(problems("write=EIO,limit=1", "write=EIO,limit=1,per=process")[0].contains("per=process"));
    }

    #[test]
    fn rates_change_freely() {
        let egress = network::Direction::Egress;
        let (old, new) = (plan(vec![loss("10%", None, egress)]), plan(vec![loss("50%", None, egress)]));
        assert!(obstacles(&old, &new).is_empty());
    }

    #[test]
    fn whatever_needs_something_else_is_told_at_once() {
        let egress = network::Direction::Egress;
        let old = plan(vec![loss("10%", None, egress)]);
        let two = plan(vec![loss("10%", None, egress), loss("10%", None, egress)]);
        assert!(obstacles(&old, &two)[0].contains("loss, loss"));
        let mut new = plan(vec![loss("10%", Some(3), network::Direction::Both)]);
        new.observe = true;
        let problems = obstacles(&old, &new);
        assert_eq!(problems.len(), 3, "{problems:?}");
        // What counts already goes on counting.
        let counting = plan(vec![loss("10%", Some(2), egress)]);
        assert!(obstacles(&counting, &plan(vec![loss("10%", Some(3), egress)])).is_empty());
        assert!(obstacles(&counting, &old).is_empty());
    }
}
