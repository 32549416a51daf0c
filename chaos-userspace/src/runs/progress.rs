//! How an experiment goes, beside its faults: what an owner tells and what a view shows.

use crate::{
    experiment::record::{ProbeRecord, Record},
    steady::{ask::Answer, value::Value},
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Probes that are told; an experiment may have more.
pub const PROBES_MAX: usize = 20;
/// Answers of each that are told, the last ones.
pub const ANSWERS_MAX: usize = 60;
/// Characters of an answer or of its problem.
const TEXT_MAX: usize = 120;

/// An experiment on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Its name.
    pub experiment: String,
    /// What is expected of the target.
    pub hypothesis: String,
    /// `before`, `faults` or `after`.
    pub phase: String,
    /// The stage that acts, if it has any.
    pub stage: Option<String>,
    /// The first [`PROBES_MAX`] probes, in the order of the file.
    pub probes: Vec<ProbeStatus>,
}

/// A probe so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Its name.
    pub name: String,
    /// What is tolerated, in words.
    pub tolerated: String,
    /// Answers so far, of all phases.
    pub answers: u64,
    /// Of those, the ones that were not tolerated.
    pub failed: u64,
    /// The last answer in words, or why it is not tolerated.
    pub last: Option<String>,
    /// The last [`ANSWERS_MAX`] answers, the newest last.
    pub course: VecDeque<Point>,
}

/// One answer of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What was measured, if it is a number.
    pub value: Option<f64>,
    /// Whether it is tolerated.
    pub holds: bool,
}

impl Progress {
    /// Of an experiment that has not begun.
    pub fn new(record: &Record) -> Self {
        Self {
            experiment: record.name.clone(),
            hypothesis: record.hypothesis.clone(),
            phase: String::new(),
            stage: None,
            probes: record.probes.iter().take(PROBES_MAX).map(ProbeStatus::new).collect(),
        }
    }

    /// Takes in an answer of the probe at this place.
    pub fn take(&mut self, place: usize, answer: &Answer) {
        if let Some(probe) = self.probes.get_mut(place) {
            probe.take(answer);
        }
    }
}

impl ProbeStatus {
    fn new(probe: &ProbeRecord) -> Self {
        Self {
            name: probe.name.clone(),
            tolerated: short(&probe.tolerated),
            answers: 0,
            failed: 0,
            last: None,
            course: VecDeque::new(),
        }
    }

    fn take(&mut self, answer: &Answer) {
        self.answers += 1;
        self.failed += u64::from(!answer.holds);
        self.last = Some(short(answer.problem.as_deref().unwrap_or(&answer.shown)));
        if self.course.len() == ANSWERS_MAX {
            self.course.pop_front();
        }
        let value = match answer.value {
            Some(Value::Number(value)) => Some(value),
            _ => None,
        };
        self.course.push_back(Point { value: value.filter(|value| value.is_finite()), holds: answer.holds });
    }
}

/// As much of a text as is told.
fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_tells_its_last_answers_and_all_counts() {
        let mut probe = ProbeStatus {
            name: "page".to_owned(),
            tolerated: "200".to_owned(),
            answers: 0,
            failed: 0,
            last: None,
            course: VecDeque::new(),
        };
        let mut answer = Answer {
            at_s: 0.0,
            took_s: 0.0,
            value: Some(Value::Number(1.0)),
            shown: "1".to_owned(),
            holds: true,
            problem: None,
            attempts: 1,
        };
        for _ in 0..ANSWERS_MAX + 5 {
            probe.take(&answer);
        }
        answer.value = Some(Value::Number(f64::NAN));
        (answer.holds, answer.problem) = (false, Some("é".repeat(TEXT_MAX + 1)));
        probe.take(&answer);
        assert_eq!(
            (probe.answers, probe.failed, probe.course.len()),
            (ANSWERS_MAX as u64 + 6, 1, ANSWERS_MAX)
        );
        assert_eq!(probe.course.back(), Some(&Point { value: None, holds: false }));
        assert_eq!(probe.last.unwrap().chars().count(), TEXT_MAX + 1);
    }
}
