//! An experiment file: a spec, and what has to hold around it.
//!
//! The types in [`document`] are the format. Their schema is published, and a file is read by it, so that no two
//! descriptions of the format can differ.

pub mod document;
pub mod document_fault;
pub mod document_schedule;
pub mod document_steady;
mod explain;
pub mod findings;
mod read;
pub mod record;
pub mod schedule;
pub mod share;
pub(crate) mod structure;
pub mod text;
pub mod timetable;
pub mod verdict;
pub mod yaml;

use crate::{
    plan::Plan,
    spec::{Spec, syscall::Call},
    steady::{Ask, Probe, abort::Condition},
};
use findings::{Findings, Problem};
use std::{collections::BTreeMap, fmt, time::Duration};

/// An experiment: legal, but not looked at on any host.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// What it is called.
    pub name: String,
    /// What is believed.
    pub hypothesis: String,
    /// The author's labels.
    pub labels: BTreeMap<String, String>,
    /// The author's notes.
    pub annotations: BTreeMap<String, String>,
    /// Who is hit with what, as flags say it too.
    pub spec: Spec,
    /// Names of the spec's faults, in order.
    pub fault_names: Vec<String>,
    /// When they act.
    pub script: timetable::Script,
    /// Whether somebody is watched who must feel nothing.
    pub with_bystander: bool,
    /// What has to hold.
    pub probes: Vec<Probe>,
    /// When it is given up.
    pub abort: Vec<Condition>,
    /// How long the steady state may take to return.
    pub recovery: Duration,
}

/// Everything that is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub struct Unreadable {
    /// Its name.
    pub file: String,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.problems.iter().map(|problem| format!("{}:{problem}", self.file)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Experiment {
    /// The calls that probes ask about, each once.
    pub fn watched_calls(&self) -> impl Iterator<Item = Call> {
        watched_calls(&self.probes)
    }

    /// The plan of its faults with the names of the file.
    #[must_use]
    pub fn named(&self, mut plan: Plan) -> Plan {
        for (rule, name) in plan.rules.iter_mut().zip(&self.fault_names) {
            rule.name.clone_from(name);
        }
        plan
    }
}

fn watched_calls(probes: &[Probe]) -> impl Iterator<Item = Call> {
    let of = probes.iter().filter_map(|probe| match &probe.ask {
        Ask::Calls { of, .. } => Some(of),
        _ => None,
    });
    let all: BTreeMap<_, _> = of.flatten().map(|call| (call.number(), *call)).collect();
    all.into_values()
}

/// The JSON Schema of experiment files.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(document::Document).to_value();
    schema["title"] = "kchaos experiment".into();
    schema["$id"] = format!("https://{}/experiment.schema.json", document::API_VERSION).into();
    schema
}

/// Reads an experiment; `file` is its name in messages.
pub fn read(file: &str, text: &str) -> Result<Experiment, Unreadable> {
    let unreadable = |problems| Unreadable { file: file.to_owned(), problems };
    let documents = yaml::read(text)
        .map_err(|error| unreadable(vec![Problem { at: error.at, path: String::new(), text: error.text }]))?;
    let mut findings = Findings::default();
    let (Some(node), 1) = (documents.first(), documents.len()) else {
        let at = documents.get(1).map_or(yaml::Mark { line: 1, column: 1 }, |second| second.at);
        let text = format!("{} documents stand in the file: write one experiment in a file", documents.len());
        return Err(unreadable(vec![Problem { at, path: String::new(), text }]));
    };
    let value = structure::read(node, &schema(), &mut findings);
    let read = match serde_json::from_value::<document::Document>(value) {
        Ok(document) => read::experiment(document, &mut findings),
        Err(error) => {
            // The structure was checked: nothing that is fine so far comes here.
            findings.add("", format!("it cannot be read: {error}"));
            None
        }
    };
    match read {
        Some(experiment) if findings.is_fine() => Ok(experiment),
        _ => {
            if findings.is_fine() {
                findings.add("", "it is incomplete");
            }
            Err(unreadable(findings.into_problems()))
        }
    }
}

#[cfg(test)]
mod tests;
