//! What came of an experiment, in a code, a word and a sentence.

use super::record::{ProbeRecord, Recovery, StageOutcome, StageRecord};
use crate::cli::exit;
use serde::Serialize;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Exit code by its meaning (see [`crate::cli::exit`]).
    pub code: u8,
    /// `held`, `deviated`, `aborted`, `not_met`, `nothing_injected`, `rollback_incomplete`, `interrupted` or what else
    /// the code means.
    pub outcome: &'static str,
    /// For people.
    pub sentence: String,
    /// What did not hold.
    pub deviations: Vec<String>,
}

/// What a verdict follows from.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// What the experiment is called.
    pub name: &'a str,
    /// What was not met before the faults.
    pub not_met: Vec<String>,
    /// Signal that ended it.
    pub interrupted: Option<i32>,
    /// Why it was given up.
    pub aborted: Option<String>,
    /// What could not be undone.
    pub left: Vec<String>,
    /// Why it could not be begun or ended, with the code.
    pub failed: Option<(u8, String)>,
    /// Faults that were inflicted; `None` if it did not come to that.
    pub injected: Option<u64>,
    /// Whether nothing was to be inflicted.
    pub observe: bool,
    /// What did not hold.
    pub deviations: Vec<String>,
    /// Probes there are.
    pub probes: usize,
}

/// The worst comes first: what is left behind, then who ended it, then what was found out.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let name = facts.name;
    let verdict = |code, outcome, sentence: String| Verdict {
        code,
        outcome,
        sentence,
        deviations: facts.deviations.clone(),
    };
    if !facts.left.is_empty() {
        let left = facts.left.join("; ");
        let sentence = format!("Not everything could be undone: {left}. Run kchaos clean.");
        return verdict(exit::ROLLBACK_INCOMPLETE, "rollback_incomplete", sentence);
    }
    if let Some((code, why)) = &facts.failed {
        return verdict(*code, exit::name(*code), format!("The experiment could not be run: {why}"));
    }
    if let Some(signal) = facts.interrupted {
        let what = if facts.injected.is_some() {
            "and everything was taken away"
        } else {
            "before anything was injected"
        };
        let sentence = format!("The experiment was interrupted by signal {signal}, {what}.");
        return verdict(exit::SIGNAL_BASE + signal as u8, "interrupted", sentence);
    }
    if !facts.not_met.is_empty() {
        let sentence = format!(
            "The steady state was not met before the faults, so nothing was injected: {}.",
            facts.not_met.join("; ")
        );
        return Verdict { deviations: facts.not_met.clone(), ..verdict(exit::NOT_MET, "not_met", sentence) };
    }
    if let Some(why) = &facts.aborted {
        return verdict(exit::ABORTED, "aborted", format!("The experiment was given up, because {why}."));
    }
    if facts.injected == Some(0) && !facts.observe {
        let sentence = "Nothing was injected, so nothing was found out: the target did nothing that the faults are about.";
        return verdict(exit::NOTHING_INJECTED, "nothing_injected", sentence.to_owned());
    }
    if !facts.deviations.is_empty() {
        let sentence = format!("The hypothesis of {name} is refuted: {}.", facts.deviations.join("; "));
        return verdict(exit::DEVIATED, "deviated", sentence);
    }
    let sentence = match facts.probes {
        0 if facts.observe => "Nothing was inflicted (mode: observe), and nothing was watched.".to_owned(),
        _ if facts.observe => format!(
            "Nothing was inflicted (mode: observe), so the hypothesis of {name} was not tried; the steady state held meanwhile."
        ),
        0 => "The faults were inflicted and taken away; nothing was watched.".to_owned(),
        1 => format!(
            "The hypothesis of {name} held: the one thing that was watched did not leave its tolerance."
        ),
        count => format!(
            "The hypothesis of {name} held: none of the {count} things that were watched left its tolerance."
        ),
    };
    verdict(exit::DONE, "held", sentence)
}

/// What did not hold under fault, and what did not return. `asked` says which probes had to answer under fault.
pub fn deviations(probes: &[ProbeRecord], asked: &[bool], recovery: Option<Recovery>) -> Vec<String> {
    let mut all: Vec<_> =
        probes.iter().zip(asked).filter_map(|(probe, asked)| deviation(probe, *asked)).collect();
    if let Some(Recovery { limit_s, took_s: None }) = recovery {
        let late: Vec<_> = probes
            .iter()
            .filter(|probe| probe.after.last().is_some_and(|answer| !answer.holds))
            .map(|probe| probe.name.as_str())
            .collect();
        all.push(format!("the steady state did not return within {limit_s} s ({})", late.join(", ")));
    }
    all
}

/// What of a probe did not hold under fault.
fn deviation(probe: &ProbeRecord, asked: bool) -> Option<String> {
    let tally = probe.tally;
    if asked && tally.answers == 0 {
        let when = match &probe.stage {
            Some(stage) => format!("in stage {stage}"),
            None => "while the faults acted".to_owned(),
        };
        return Some(format!("{} gave no answer {when}", probe.name));
    }
    if tally.failed_percent() <= probe.error_budget {
        return None;
    }
    let first = probe.during.iter().find(|answer| !answer.holds);
    let first = first.and_then(|answer| answer.problem.clone()).unwrap_or_default();
    let stage = probe.stage.as_ref().map(|stage| format!(" in stage {stage}")).unwrap_or_default();
    let budget = match probe.error_budget {
        0.0 => String::new(),
        percent => format!(", of which {percent}% are tolerated"),
    };
    Some(format!(
        "{} failed {} of {} times under fault{stage}{budget} (first: {first})",
        probe.name, tally.failures, tally.answers
    ))
}

/// What did not hold in each stage. What an interrupted stage has found out before stays with it, but it was cut.
pub fn judge_stages(stages: &mut [StageRecord], probes: &[ProbeRecord], asked: &[bool]) {
    for stage in stages {
        let own = probes.iter().zip(asked).filter(|(probe, _)| probe.stage.as_ref() == Some(&stage.name));
        stage.deviations = own.filter_map(|(probe, asked)| deviation(probe, *asked)).collect();
        if stage.outcome == StageOutcome::Held && !stage.deviations.is_empty() {
            stage.outcome = StageOutcome::Deviated;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts { name: "x", injected: Some(5), probes: 1, ..Facts::default() }
    }

    #[test]
    fn the_worst_comes_first() {
        let mut facts = facts();
        assert_eq!(judge(&facts).code, 0);
        facts.deviations = vec!["a failed".into()];
        assert_eq!(judge(&facts).code, 4);
        assert!(judge(&facts).sentence.contains("a failed"));
        facts.injected = Some(0);
        assert_eq!(judge(&facts).code, 9);
        facts.observe = true;
        assert_eq!(judge(&facts).code, 4);
        let observed = judge(&Facts { deviations: vec![], ..facts.clone() });
        assert!(observed.code == 0 && observed.sentence.contains("was not tried"), "{observed:?}");
        facts.aborted = Some("b".into());
        assert_eq!(judge(&facts).code, 5);
        facts.not_met = vec!["c".into()];
        assert_eq!(judge(&facts).code, 3);
        facts.interrupted = Some(2);
        assert_eq!(judge(&facts).code, 130);
        facts.failed = Some((8, "d".into()));
        assert_eq!(judge(&facts).code, 8);
        facts.left = vec!["e".into()];
        assert_eq!(judge(&facts).code, 7);
    }
}
