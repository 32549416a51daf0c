//! What happened in an experiment: the record that every report is made of.

use super::{Experiment, share::Achieved};
use crate::{
    plan::Plan,
    report::summary::{RuleSummary, Summary},
    spec::Fault,
    steady::{Probe, abort::Tally, ask::Answer, value::Unit},
};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

/// Version of the record's form.
pub const FORMAT: &str = "kchaos.dev/v1alpha1/record";

/// The whole experiment.
#[derive(Debug, Serialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: &'static str,
    /// Version of kchaos.
    pub version: &'static str,
    /// What the experiment is called.
    pub name: String,
    /// What was believed.
    pub hypothesis: String,
    /// The author's labels.
    pub labels: BTreeMap<String, String>,
    /// The author's notes.
    pub annotations: BTreeMap<String, String>,
    /// Id of the run.
    pub run: String,
    /// When it began, in milliseconds since 1970; all other times are seconds from here on.
    pub started_unix_ms: u64,
    /// How long it took.
    pub took_s: f64,
    /// What came of it.
    pub verdict: super::verdict::Verdict,
    /// What repeats it.
    pub command: Vec<String>,
    /// Makes the draws the same again.
    pub seed: Option<u64>,
    /// Where it was.
    pub environment: Environment,
    /// What was planned, in sentences.
    pub plan: Vec<String>,
    /// Phases in order.
    pub phases: Vec<Phase>,
    /// What was noteworthy, in order.
    pub events: Vec<Note>,
    /// What had to hold.
    pub probes: Vec<ProbeRecord>,
    /// What was inflicted.
    pub faults: Vec<FaultRecord>,
    /// Why and how quickly it was given up, if it was.
    pub abort: Option<AbortRecord>,
    /// How long the steady state took to return, if it was waited for.
    pub recovery: Option<Recovery>,
    /// The account of the run, if it came to one.
    pub summary: Option<serde_json::Value>,
}

/// A host.
#[derive(Debug, Default, Serialize)]
pub struct Environment {
    /// Its name.
    pub host: String,
    /// Its kernel.
    pub kernel: String,
    /// Its processors.
    pub processors: usize,
}

impl Environment {
    /// Of this host.
    pub fn here() -> Self {
        let uname = nix::sys::utsname::uname().ok();
        let text = |text: Option<&std::ffi::OsStr>| text.unwrap_or_default().to_string_lossy().into_owned();
        Self {
            host: text(uname.as_ref().map(|uname| uname.nodename())),
            kernel: text(uname.as_ref().map(|uname| uname.release())),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

/// A phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// `before`, `faults` or `after`.
    pub name: &'static str,
    /// When it began.
    pub from_s: f64,
    /// When it ended.
    pub to_s: f64,
}

/// Something noteworthy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    /// When.
    pub at_s: f64,
    /// What.
    pub text: String,
}

/// A probe and its answers.
#[derive(Debug, Serialize)]
pub struct ProbeRecord {
    /// Its name.
    pub name: String,
    /// Its kind, as in the file.
    pub kind: &'static str,
    /// What it asks, in words.
    pub asks: String,
    /// What it tolerates, in words.
    pub tolerated: String,
    /// What its numbers are measured in.
    pub unit: Unit,
    /// The smallest number that is tolerated.
    pub at_least: Option<f64>,
    /// The largest.
    pub at_most: Option<f64>,
    /// Failures under fault that are tolerated, in percent.
    pub error_budget: f64,
    /// Answers before the faults.
    pub before: Vec<Answer>,
    /// Answers while they acted.
    pub during: Vec<Answer>,
    /// Answers afterwards.
    pub after: Vec<Answer>,
    /// Those under fault, counted.
    #[serde(skip)]
    pub tally: Tally,
}

impl ProbeRecord {
    /// Nothing is answered yet.
    pub fn new(probe: &Probe) -> Self {
        let (at_least, at_most) = probe.tolerance.bounds();
        Self {
            name: probe.name.clone(),
            kind: probe.ask.kind(),
            asks: probe.ask.to_string(),
            tolerated: probe.tolerance.to_string(),
            unit: probe.ask.unit(),
            at_least,
            at_most,
            error_budget: probe.error_budget,
            before: vec![],
            during: vec![],
            after: vec![],
            tally: Tally::default(),
        }
    }

    /// All answers in order.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.before.iter().chain(&self.during).chain(&self.after)
    }
}

/// What is known of a fault's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It was inflicted.
    Confirmed,
    /// Nothing of the target was what it is about.
    NoMatch,
    /// It was not inflicted although it could have been, or something of the target was not seen.
    Inconclusive,
}

impl Finding {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::NoMatch => "no match",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A fault: asked for and achieved.
#[derive(Debug, Serialize)]
pub struct FaultRecord {
    /// Its name.
    pub name: String,
    /// What was asked for, in words.
    pub asked: String,
    /// The share that was asked for, in percent.
    pub asked_percent: f64,
    /// The share that came about, of the events whose turn it was.
    pub achieved: Option<Achieved>,
    /// The hooks, by short name.
    pub mechanisms: Vec<&'static str>,
    /// What they do not reach.
    pub limits: Vec<String>,
    /// Events of the target at the hooks.
    pub seen: u64,
    /// Of those, matched.
    pub matched: u64,
    /// Of those, inflicted.
    pub injected: u64,
    /// What is known.
    pub finding: Finding,
}

impl FaultRecord {
    /// One for each rule.
    pub fn all(plan: &Plan, summary: &Summary) -> Vec<Self> {
        let escaped = summary.escaped.unwrap_or(0);
        let record = |(rule, sum): (&crate::plan::PlannedRule, &RuleSummary)| {
            // Events whose turn it was and which only the draw has spared.
            let spared = sum.spared.get("chance").map_or(0, |count| count.events);
            let is_packet = matches!(rule.fault, Fault::Network(_));
            let unseen = sum.missed > 0 || (is_packet && escaped > 0);
            let finding = match (sum.matched.events, sum.injected.events) {
                (0, _) if !unseen => Finding::NoMatch,
                (_, 1..) if !unseen => Finding::Confirmed,
                _ => Finding::Inconclusive,
            };
            Self {
                name: rule.name.clone(),
                asked: rule.fault.to_string(),
                asked_percent: rule.fault.when().probability.percent(),
                achieved: Achieved::of(sum.injected.events, sum.injected.events + spared),
                mechanisms: sum.mechanisms.clone(),
                limits: rule.limits.clone(),
                seen: sum.seen.events,
                matched: sum.matched.events,
                injected: sum.injected.events,
                finding,
            }
        };
        plan.rules.iter().zip(&summary.rules).map(record).collect()
    }
}

/// How an experiment was given up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AbortRecord {
    /// Why.
    pub condition: String,
    /// When that came about.
    pub at_s: f64,
    /// Milliseconds from there until nothing acted any more.
    pub disarmed_ms: f64,
    /// The last fault was inflicted at most so many milliseconds after the condition came about: the counters read then
    /// have not changed since. `None` if they have.
    pub last_fault_within_ms: Option<f64>,
}

/// How the steady state came back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// Seconds it may take.
    pub limit_s: f64,
    /// Seconds it took from the end of the faults on, if it came back.
    pub took_s: Option<f64>,
}

impl Record {
    /// Nothing has happened yet.
    pub fn new(experiment: &Experiment, plan: &Plan, command: Vec<String>, sentences: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            name: experiment.name.clone(),
            hypothesis: experiment.hypothesis.clone(),
            labels: experiment.labels.clone(),
            annotations: experiment.annotations.clone(),
            run: plan.run.clone(),
            started_unix_ms: now.map_or(0, |now| now.as_millis() as u64),
            took_s: 0.0,
            verdict: super::verdict::Verdict::default(),
            command,
            seed: plan.seed,
            environment: Environment::here(),
            plan: sentences.lines().map(str::to_owned).collect(),
            phases: vec![],
            events: vec![],
            probes: experiment.probes.iter().map(ProbeRecord::new).collect(),
            faults: vec![],
            abort: None,
            recovery: None,
            summary: None,
        }
    }

    /// When faults acted.
    pub fn faults_interval(&self) -> Option<(f64, f64)> {
        self.phases.iter().find(|phase| phase.name == "faults").map(|phase| (phase.from_s, phase.to_s))
    }

    /// Cgroups that were hit and spared, of the run's account.
    pub fn targets(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let list = |name: &str| {
            let all = self.summary.as_ref().and_then(|summary| summary[name].as_array());
            all.into_iter().flatten().filter_map(|path| path.as_str().map(PathBuf::from)).collect()
        };
        (list("chosen"), list("spared"))
    }
}
