//! When an experiment is given up.

use std::{fmt, path::PathBuf};

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A probe fails so often in a row.
    Consecutive {
        /// The probe.
        probe: String,
        /// How often.
        count: u32,
    },
    /// A probe fails so often altogether.
    Failures {
        /// The probe.
        probe: String,
        /// How often.
        count: u32,
    },
    /// More than this share of a probe's answers fail.
    Budget {
        /// The probe.
        probe: String,
        /// In percent.
        percent: f64,
    },
    /// So many faults are inflicted.
    Injections(u64),
    /// A file appears.
    File(PathBuf),
}

/// So many answers there have to be before a share of them says something.
pub const BUDGET_ANSWERS_MIN: u32 = 10;

/// What a probe has answered under fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers.
    pub answers: u32,
    /// Failed ones.
    pub failures: u32,
    /// Failed ones since the last that held.
    pub in_a_row: u32,
}

impl Tally {
    /// Counts an answer.
    pub fn add(&mut self, holds: bool) {
        self.answers += 1;
        if holds {
            self.in_a_row = 0;
        } else {
            self.failures += 1;
            self.in_a_row += 1;
        }
    }

    /// Failed answers in percent of all.
    pub fn failed_percent(self) -> f64 {
        if self.answers == 0 { 0.0 } else { f64::from(self.failures) * 100.0 / f64::from(self.answers) }
    }
}

impl Condition {
    /// Whether a probe's answers meet it.
    pub fn is_met_by(&self, name: &str, tally: Tally) -> bool {
        match self {
            Self::Consecutive { probe, count } => probe == name && tally.in_a_row >= *count,
            Self::Failures { probe, count } => probe == name && tally.failures >= *count,
            Self::Budget { probe, percent } => {
                probe == name && tally.answers >= BUDGET_ANSWERS_MIN && tally.failed_percent() > *percent
            }
            Self::Injections(_) | Self::File(_) => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive { probe, count } => write!(f, "{probe} failed {count} times in a row"),
            Self::Failures { probe, count } => write!(f, "{probe} failed {count} times"),
            Self::Budget { probe, percent } => {
                write!(f, "more than {percent}% of the answers of {probe} failed")
            }
            Self::Injections(count) => write!(f, "{count} faults were inflicted"),
            Self::File(path) => write!(f, "{} appeared", crate::plan::explain::shown(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_met_by_their_own_probe_alone() {
        let mut tally = Tally::default();
        let row = Condition::Consecutive { probe: "a".into(), count: 2 };
        let all = Condition::Failures { probe: "a".into(), count: 3 };
        let budget = Condition::Budget { probe: "a".into(), percent: 30.0 };
        for holds in [false, true, false, false] {
            assert!(!row.is_met_by("a", tally) && !all.is_met_by("a", tally));
            tally.add(holds);
        }
        assert!(row.is_met_by("a", tally) && all.is_met_by("a", tally) && !row.is_met_by("b", tally));
        assert!(!budget.is_met_by("a", tally), "four answers are too few");
        (0..6).for_each(|_| tally.add(true));
        assert!(!budget.is_met_by("a", tally), "30% is not more than 30%");
        (0..2).for_each(|_| tally.add(false));
        assert!(budget.is_met_by("a", tally));
    }
}
