//! How long calls were held back.

use chaos_common::latency::Held;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What was asked for and what came of it, in milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeldBack {
    /// Calls that were held back and let go.
    pub calls: u64,
    /// What was asked for on average.
    pub asked_ms: f64,
    /// What it took on average.
    pub took_ms: f64,
    /// The longest.
    pub longest_ms: f64,
    /// Calls that were let go early: killed, or the run ended.
    pub cut_short: u64,
    /// Calls that were chosen and not held back to the end: they wait while this is read, or whatever was to hold them did
    /// not run.
    #[serde(default)]
    pub missing: u64,
}

impl HeldBack {
    /// Of a rule that chose so many calls; `None` if there was none.
    pub fn of(held: &Held, chosen: u64) -> Option<Self> {
        let mean = |sum: u64| if held.calls == 0 { 0.0 } else { sum as f64 / 1e6 / held.calls as f64 };
        (chosen.max(held.calls) > 0).then(|| Self {
            calls: held.calls,
            asked_ms: mean(held.asked_ns),
            took_ms: mean(held.took_ns),
            longest_ms: held.longest_ns as f64 / 1e6,
            cut_short: held.cut_short,
            missing: chosen.saturating_sub(held.calls),
        })
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, asked_ms, took_ms, longest_ms, cut_short, missing } = self;
        write!(
            f,
            "{calls} held back for {took_ms:.3} ms on average, {asked_ms:.3} ms asked for, {longest_ms:.3} ms at most"
        )?;
        if *cut_short > 0 {
            write!(f, ", {cut_short} let go early")?;
        }
        if *missing > 0 { write!(f, ", {missing} not held back to the end") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_per_call() {
        assert_eq!(HeldBack::of(&Held::default(), 0), None);
        let held = Held {
            calls: 4,
            asked_ns: 80_000_000,
            took_ns: 82_000_000,
            longest_ns: 21_000_000,
            ..Held::default()
        };
        let text = HeldBack::of(&held, 4).unwrap().to_string();
        assert_eq!(text, "4 held back for 20.500 ms on average, 20.000 ms asked for, 21.000 ms at most");
        let none = HeldBack::of(&Held::default(), 3).unwrap();
        assert!(none.took_ms == 0.0 && none.to_string().ends_with("3 not held back to the end"), "{none}");
    }
}
