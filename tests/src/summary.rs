//! What kchaos says about a run: its NDJSON events.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use serde::Deserialize;

/// Faults are live.
#[derive(Clone, Debug, Deserialize)]
pub struct Armed {
    /// Id of the run.
    pub run: String,
    /// CMD of `exec`.
    pub pid: Option<u32>,
    /// The target's cgroup.
    pub cgroup: String,
}

/// Something kchaos refused or failed at.
#[derive(Clone, Debug, Deserialize)]
pub struct ErrorEvent {
    /// Exit code of kchaos itself.
    pub code: i32,
    /// What and why, and the remedy.
    pub message: String,
}

/// How much of something.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Amount {
    /// Packets as the hook sees them, or calls.
    pub events: u64,
    /// Packets as the wire sees them.
    pub segments: u64,
    /// Bytes.
    pub bytes: u64,
}

type UnitOf = fn(&Amount) -> u64;

/// Calls that were held back.
#[derive(Clone, Debug, Deserialize)]
pub struct Held {
    /// How many.
    pub calls: u64,
    /// What was asked for on average.
    pub asked_ms: f64,
    /// What it took on average.
    pub took_ms: f64,
    /// The longest.
    pub longest_ms: f64,
    /// How many were let go early.
    pub cut_short: u64,
    /// How many were chosen and not held back to the end.
    pub missing: u64,
}

/// One rule's counts.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    /// Name of the fault.
    #[serde(default)]
    pub name: String,
    /// Family of the fault.
    pub fault: String,
    /// System call, for errors.
    #[serde(default)]
    pub call: Option<String>,
    /// The hooks that carried it.
    #[serde(default)]
    pub mechanisms: Vec<String>,
    /// Events of the target at the hooks.
    pub seen: Amount,
    /// Those the rule is about.
    pub matched: Amount,
    /// Those that were hit.
    pub injected: Amount,
    /// Calls of anybody that the kernel did not show to the programs.
    #[serde(default)]
    pub missed: u64,
    /// How long calls were held back.
    #[serde(default)]
    pub held: Option<Held>,
    /// Those that were not, by reason.
    #[serde(default)]
    pub spared: BTreeMap<String, Amount>,
}

/// What was taken away at the end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Undone {
    /// Links left.
    pub links: u64,
    /// Programs left.
    pub programs: u64,
    /// Whether the cgroup of `exec` is gone.
    pub cgroup_removed: Option<bool>,
    /// How long it took.
    pub took_ms: f64,
}

/// Packets that did not come out of their delay line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Queue {
    /// Lost because it was full.
    pub overflowed: u64,
    /// Left in it.
    pub undelivered: u64,
}

/// The account of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    /// Exit code of kchaos itself.
    pub code: i32,
    /// done, aborted, nothing_injected, ...
    pub outcome: String,
    /// CMD's exit status.
    pub exit_status: Option<i32>,
    /// Signal that ended CMD.
    pub signal: Option<i32>,
    /// The target's cgroup.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Counts.
    pub rules: Vec<Rule>,
    /// What became of packets in delay lines.
    #[serde(default)]
    pub queue: Option<Queue>,
    /// Packets that came to no egress hook, if leaving ones were judged.
    #[serde(default)]
    pub escaped: Option<u64>,
    /// If packets escaped: neighbours that do not answer.
    #[serde(default)]
    pub unanswered: Vec<IpAddr>,
    /// What a bystander felt, if asked for.
    #[serde(default)]
    pub bystander: Option<serde_json::Value>,
    /// What is left.
    #[serde(default)]
    pub undone: Undone,
}

/// How often a measurement is made whose owner was not run for a second.
const ATTEMPTS: usize = 3;

/// Measures until the lease did not lapse meanwhile. A machine that stands still for a second, as one that is emulated or
/// shared does at times, lets its victims go, which is no loss of precision and no measurement; three times in a row is.
///
/// # Errors
/// Those of the measurement.
pub fn with_its_lease<T>(summary: impl Fn(&T) -> &Summary, measure: impl Fn() -> Result<T>) -> Result<T> {
    let mut measured = measure()?;
    for _ in 1..ATTEMPTS {
        if summary(&measured).lapsed() == 0 {
            break;
        }
        measured = measure()?;
    }
    Ok(measured)
}

impl Summary {
    /// Events that were let through because the owner had not renewed its lease.
    pub fn lapsed(&self) -> u64 {
        let of_rule = |rule: &Rule| rule.spared.get("lease").map_or(0, |spared| spared.events);
        self.rules.iter().map(of_rule).sum()
    }

    /// The only rule.
    pub fn rule(&self) -> Result<&Rule> {
        ensure!(self.rules.len() == 1, "one rule was asked for, {} are reported", self.rules.len());
        Ok(&self.rules[0])
    }

    /// Checks that every event is accounted for and nothing is left.
    pub fn check_books(&self) -> Result<()> {
        for rule in &self.rules {
            let units: [(&str, UnitOf); 3] =
                [("events", |a| a.events), ("segments", |a| a.segments), ("bytes", |a| a.bytes)];
            for (unit, of) in units {
                let spared: u64 = rule.spared.values().map(of).sum();
                ensure!(
                    of(&rule.matched) == of(&rule.injected) + spared,
                    "rule {}: {} {unit} matched, but {} injected and {spared} spared",
                    rule.name,
                    of(&rule.matched),
                    of(&rule.injected),
                );
                ensure!(
                    of(&rule.seen) >= of(&rule.matched),
                    "rule {}: {} {unit} seen, but {} matched",
                    rule.name,
                    of(&rule.seen),
                    of(&rule.matched),
                );
            }
        }
        ensure!(self.undone.links == 0 && self.undone.programs == 0, "something is left: {:?}", self.undone);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(injected: u64) -> Summary {
        serde_json::from_value(serde_json::json!({
            "event": "summary", "run": "a", "code": 0, "outcome": "done", "exit_status": 0, "signal": null,
            "rules": [{"name": "loss", "fault": "loss", "call": null, "mechanisms": ["tcx"],
                "seen": {"events": 12, "segments": 12, "bytes": 120}, "matched": {"events": 10, "segments": 10, "bytes": 100},
                "injected": {"events": injected, "segments": 3, "bytes": 30},
                "spared": {"chance": {"events": 6, "segments": 6, "bytes": 60}, "error": {"events": 1, "segments": 1, "bytes": 10}}}],
            "bystander": null, "undone": {"links": 0, "programs": 0, "cgroup_removed": true, "took_ms": 1.5},
        }))
        .unwrap()
    }

    #[test]
    fn books_that_balance_pass() {
        summary(3).check_books().unwrap();
    }

    #[test]
    fn a_lost_event_is_noticed() {
        let error = summary(2).check_books().unwrap_err().to_string();
        assert!(error.contains("10 events matched"), "{error}");
    }
}
