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
    /// How long its faults were to act, in seconds.
    pub planned_s: Option<f64>,
    /// What the random beginnings of its schedules were drawn by, if there are any: as the file's `seed` it draws the same
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_seed: Option<u64>,
    /// Phases in order.
    pub phases: Vec<Phase>,
    /// Stages in order, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageRecord>,
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

/// What came of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageOutcome {
    /// It was gone through, and nothing left its tolerance.
    Held,
    /// Something that it expects did not hold.
    Deviated,
    /// It was begun and not gone through.
    Cut,
    /// It was not begun.
    NotReached,
}

impl StageOutcome {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Deviated => "deviated",
            Self::Cut => "cut",
            Self::NotReached => "not reached",
        }
    }
}

/// A stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageRecord {
    /// What it is called.
    pub name: String,
    /// How long it was to last.
    pub planned_s: f64,
    /// When it began, if it did.
    pub from_s: Option<f64>,
    /// When it ended, if it began.
    pub to_s: Option<f64>,
    /// What came of it.
    pub outcome: StageOutcome,
    /// What did not hold in it.
    pub deviations: Vec<String>,
}

impl StageRecord {
    fn new(stage: &super::timetable::Stage) -> Self {
        Self {
            name: stage.name.clone(),
            planned_s: stage.lasts.as_secs_f64(),
            from_s: None,
            to_s: None,
            outcome: StageOutcome::NotReached,
            deviations: vec![],
        }
    }
}

/// A time in which a scheduled fault had one share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DoseRecord {
    /// When it began.
    pub from_s: f64,
    /// When it ended.
    pub to_s: f64,
    /// The share that was asked for, in percent; 0 at rest.
    pub share_percent: f64,
    /// Events that were inflicted. Those that were judged while one share took the place of the other count for neither.
    pub injected: u64,
    /// Events whose turn it was: inflicted, or spared by the draw.
    pub drawn: u64,
    /// The share that came about.
    pub achieved: Option<Achieved>,
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
    /// The stage whose expectation it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
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
    pub fn new(probe: &Probe, stages: &[super::timetable::Stage]) -> Self {
        let (at_least, at_most) = probe.tolerance.bounds();
        Self {
            name: probe.name.clone(),
            stage: probe.stage.and_then(|number| stages.get(number)).map(|stage| stage.name.clone()),
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
    /// Of the matched, those whose turn it was and which only the draw has spared.
    #[serde(skip)]
    pub spared_by_draw: u64,
    /// What is known.
    pub finding: Finding,
    /// The stage it acts in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Its shares over time, if they follow a schedule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub course: Vec<DoseRecord>,
}

impl FaultRecord {
    /// One for each rule.
    pub fn all(plan: &Plan, summary: &Summary) -> Vec<Self> {
        let escaped = summary.escaped.unwrap_or(0);
        let record = |(rule, sum): (&crate::plan::PlannedRule, &RuleSummary)| {
            let spared = sum.spared_by_draw();
            let is_packet = matches!(rule.fault, Fault::Network(_));
            let unseen = sum.missed > 0 || !sum.overtaken.is_empty() || (is_packet && escaped > 0);
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
                spared_by_draw: spared,
                finding,
                stage: None,
                course: vec![],
            }
        };
        plan.rules.iter().zip(&summary.rules).map(record).collect()
    }
}

impl FaultRecord {
    /// The share that was asked for, for people; of a schedule, the mean.
    pub fn asked_share(&self) -> String {
        match self.course.is_empty() {
            true => format!("{}%", self.asked_percent),
            false => format!("{:.2}% on average", self.asked_percent),
        }
    }

    /// Takes over what its schedule came to: asked for is then the mean of its shares over the events that they were drawn
    /// for, and achieved what came of these.
    pub fn follow(&mut self, stage: Option<String>, course: Vec<DoseRecord>) {
        let acting = course.iter().filter(|dose| dose.share_percent > 0.0);
        let (mut injected, mut drawn, mut asked) = (0, 0, 0.0);
        for dose in acting {
            injected += dose.injected;
            drawn += dose.drawn;
            asked += dose.share_percent * dose.drawn as f64;
        }
        if drawn > 0 {
            // For people: a mean has no end of decimals.
            self.asked_percent = (asked / drawn as f64 * 1e4).round() / 1e4;
        } else {
            self.asked_percent = course.iter().map(|dose| dose.share_percent).fold(0.0, f64::max);
        }
        self.achieved = Achieved::of(injected, drawn);
        self.asked.push_str("; its share follows the schedule");
        self.stage = stage;
        self.course = course;
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
            planned_s: plan.duration.map(|duration| duration.as_secs_f64()),
            schedule_seed: None,
            phases: vec![],
            stages: experiment.script.stages.iter().map(StageRecord::new).collect(),
            events: vec![],
            probes: {
                let stages = &experiment.script.stages;
                experiment.probes.iter().map(|probe| ProbeRecord::new(probe, stages)).collect()
            },
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

    /// When faults acted, and how strongly: from 0 to 1, compared with the largest share of the experiment.
    pub fn acting(&self) -> Vec<(f64, f64, f64)> {
        let Some((from, to)) = self.faults_interval() else { return vec![] };
        let doses = || self.faults.iter().flat_map(|fault| &fault.course);
        if doses().next().is_none() {
            return vec![(from, to, 1.0)];
        }
        let largest = doses().map(|dose| dose.share_percent).fold(f64::MIN_POSITIVE, f64::max);
        let mut moments: Vec<f64> = doses().flat_map(|dose| [dose.from_s, dose.to_s]).collect();
        moments.sort_by(f64::total_cmp);
        moments.dedup();
        let mut acting: Vec<(f64, f64, f64)> = vec![];
        for pair in moments.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let share = doses()
                .filter(|dose| dose.from_s <= from && to <= dose.to_s)
                .map(|dose| dose.share_percent)
                .fold(0.0, f64::max);
            match acting.last_mut() {
                _ if share <= 0.0 => {}
                Some(last) if last.1 >= from && (last.2 - share / largest).abs() < 1e-9 => last.1 = to,
                _ => acting.push((from, to, share / largest)),
            }
        }
        acting
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
