//! How often targets went and came again.

use crate::plan::explain::shown;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// Moments that are remembered of one target.
pub const MOMENTS_MAX: usize = 20;

/// Of one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restarts {
    /// Its path.
    pub cgroup: PathBuf,
    /// How often it came again and was hit from then on.
    pub times: u64,
    /// When, in seconds since the run was armed: the last [`MOMENTS_MAX`] times.
    pub back_at_s: Vec<f64>,
    /// Since when it is gone, if it is.
    pub gone_since_s: Option<f64>,
    /// Why it is not hit any more, or not everywhere, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Restarts {
    /// Of a target that has never gone.
    pub fn of(cgroup: PathBuf) -> Self {
        Self { cgroup, ..Self::default() }
    }

    /// It has gone, or has come again, `at_s` seconds after the run was armed.
    pub fn note(&mut self, gone: bool, at_s: f64) {
        self.gone_since_s = gone.then_some(at_s);
        if !gone {
            self.times += 1;
            if self.back_at_s.len() == MOMENTS_MAX {
                self.back_at_s.remove(0);
            }
            self.back_at_s.push(at_s);
        }
    }

    /// The present state behind the target's name: `, restarted 3 times, gone`.
    pub fn note_in_words(&self) -> String {
        let times = match self.times {
            0 => String::new(),
            1 => ", restarted once".to_owned(),
            times => format!(", restarted {times} times"),
        };
        let gone = if self.gone_since_s.is_some() { ", gone" } else { "" };
        let problem = if self.problem.is_some() { ", not hit everywhere" } else { "" };
        format!("{times}{gone}{problem}")
    }

    /// Whether there is anything to tell.
    pub fn has_any(&self) -> bool {
        self.times > 0 || self.gone_since_s.is_some() || self.problem.is_some()
    }
}

/// For people: one line without its end.
impl fmt::Display for Restarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "restarted: {}", shown(&self.cgroup))?;
        if self.times > 0 {
            let moments: Vec<_> = self.back_at_s.iter().map(|at_s| format!("{at_s:.1} s")).collect();
            let (times, last) = (if self.times == 1 { "time" } else { "times" }, self.back_at_s.len() as u64);
            let last = if self.times > last { format!("the last {last} ") } else { String::new() };
            write!(f, " came again {} {times}, {last}after {}", self.times, moments.join(", "))?;
        }
        if let Some(since) = self.gone_since_s {
            write!(f, "{} is gone since {since:.1} s", if self.times > 0 { ", and" } else { "" })?;
        }
        if let Some(problem) = &self.problem {
            write!(f, "; it {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_told_and_bounded() {
        let mut restarts = Restarts::of("/a/web".into());
        assert!(!restarts.has_any());
        restarts.note(true, 1.0);
        assert_eq!(restarts.to_string(), "restarted: /a/web is gone since 1.0 s");
        assert_eq!(restarts.note_in_words(), ", gone");
        restarts.note(false, 1.5);
        assert_eq!(restarts.note_in_words(), ", restarted once");
        assert_eq!(restarts.to_string(), "restarted: /a/web came again 1 time, after 1.5 s");
        for at_s in 2..40 {
            restarts.note(true, f64::from(at_s));
            restarts.note(false, f64::from(at_s) + 0.25);
        }
        assert_eq!((restarts.times, restarts.back_at_s.len()), (39, MOMENTS_MAX));
        restarts.note(true, 41.0);
        assert_eq!(restarts.note_in_words(), ", restarted 39 times, gone");
        let text = restarts.to_string();
        assert!(
            text.contains("39 times, the last 20 after 20.2 s, ")
                && text.ends_with(", and is gone since 41.0 s")
        );
    }
}
