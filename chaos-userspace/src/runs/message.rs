//! What is said on an owner's socket: one JSON object per line, a request and its answer.

use super::progress::Progress;
use crate::{
    plan::explain::shown,
    report::{
        restarts::Restarts,
        summary::{Count, RuleSummary},
    },
    spec::{Fault, network::Effect},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is it going?
    Status,
    /// End; the answer comes after the rollback.
    Stop,
    /// Host a run, asked of an engine: the run's course comes as [`Told`], one after another.
    Join {
        /// The words behind `kchaos`, read by the engine as its own were.
        words: Vec<String>,
        /// The run goes on without who asks for it.
        detached: bool,
    },
    /// Go on with other rates.
    Set {
        /// The words behind `kchaos`, read by the owner as its own were.
        words: Vec<String>,
    },
}

/// What an engine tells of a run to who asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// For people, as it stands.
    Say {
        /// Whole lines.
        text: String,
        /// Too much for a view.
        at_length: bool,
    },
    /// For machines: an event.
    Event {
        /// A JSON object.
        line: String,
    },
    /// It is over.
    End {
        /// Exit code by its meaning (see [`crate::cli::exit`]).
        code: u8,
        /// Why there was no summary.
        failure: Option<String>,
    },
}

/// What who asked for a run says while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interrupt {
    /// The signal that asks for its end.
    pub signal: i32,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// How it is going.
    Status(Status),
    /// It has ended.
    Stopped {
        /// Exit code by its meaning (see [`crate::cli::exit`]).
        code: u8,
        /// The code in words.
        outcome: String,
        /// The run's own summary.
        summary: serde_json::Value,
    },
    /// The run goes on with these faults.
    Set {
        /// In words.
        faults: Vec<String>,
    },
    /// Not done.
    Refused {
        /// Exit code by its meaning (see [`crate::cli::exit`]).
        code: u8,
        /// Why.
        message: String,
    },
}

/// How a run is going.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run.
    pub run: String,
    /// `exec`, `inject` or `run`.
    pub command: String,
    /// The owner.
    pub pid: u32,
    /// Where it is.
    pub state: State,
    /// The target, or the first of several.
    pub cgroup: PathBuf,
    /// How many there are.
    pub targets: usize,
    /// Counts only.
    pub observe: bool,
    /// Seconds since the faults are live.
    pub armed_s: Option<f64>,
    /// Seconds until they end by themselves.
    pub remaining_s: Option<f64>,
    /// In the order of the plan.
    pub rules: Vec<RuleStatus>,
    /// The first [`CHOSEN_MAX`] targets.
    #[serde(default)]
    pub chosen: Vec<PathBuf>,
    /// Targets that went, and came again: the first [`CHOSEN_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarted: Vec<Restarts>,
    /// The experiment that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Box<Progress>>,
}

impl Status {
    /// The first target and how many more there are, for people.
    pub fn target_in_words(&self) -> String {
        let first = shown(&self.cgroup);
        if self.targets > 1 { format!("{first} and {} more", self.targets - 1) } else { first }
    }
}

/// Targets that a status names.
pub const CHOSEN_MAX: usize = 20;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attached, not live yet.
    Starting,
    /// The faults are live.
    Armed,
    /// The faults have ended.
    Ended,
}

impl State {
    /// Its name, as in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Armed => "armed",
            Self::Ended => "ended",
        }
    }
}

/// One rule so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// What it does, in words.
    pub fault: String,
    /// Target events that reached its hooks.
    pub seen: Count,
    /// Of those, matched.
    pub matched: Count,
    /// Of the matched, inflicted.
    pub injected: Count,
    /// The share that is asked for, in percent; `None` of a model of loss, which has none to compare with.
    #[serde(default)]
    pub asked_percent: Option<f64>,
    /// Events whose turn it was and which only the draw has spared.
    #[serde(default)]
    pub spared_by_draw: u64,
    /// What of these was drawn before the present share was asked for: by `kchaos set`, or by a schedule.
    #[serde(default)]
    pub drawn_before: Drawn,
}

/// What draws have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Events that were inflicted.
    pub injected: u64,
    /// Those that only the draw has spared.
    pub spared: u64,
}

impl RuleStatus {
    /// From the rule's account so far.
    pub fn new(fault: &Fault, summary: &RuleSummary, drawn_before: Drawn) -> Self {
        let is_model = matches!(fault, Fault::Network(fault) if matches!(fault.effect, Effect::LossModel(_)));
        Self {
            name: summary.name.clone(),
            fault: fault.to_string(),
            asked_percent: (!is_model).then(|| fault.when().probability.percent()),
            spared_by_draw: summary.spared_by_draw(),
            seen: summary.seen,
            matched: summary.matched,
            injected: summary.injected,
            drawn_before,
        }
    }

    /// What was drawn since the present share is asked for.
    pub fn drawn(&self) -> Drawn {
        Drawn {
            injected: self.injected.events.saturating_sub(self.drawn_before.injected),
            spared: self.spared_by_draw.saturating_sub(self.drawn_before.spared),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_one_line_and_strict() {
        let set = Request::Set { words: vec!["set".into(), "a\nb".into()] };
        let text = serde_json::to_string(&set).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), set);
        for bad in ["", "{}", "[]", r#"{"ask":"halt"}"#, r#"{"ask":"set"}"#, r#"{"ask":"set","words":[1]}"#] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
