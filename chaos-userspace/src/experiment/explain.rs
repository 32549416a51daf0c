//! An experiment in sentences.

use super::Experiment;
use std::fmt::Write as _;

impl Experiment {
    /// What has to hold, one sentence for each probe.
    pub fn promises(&self) -> Vec<String> {
        let promise = |probe: &crate::steady::Probe| {
            let when: Vec<_> = [
                (probe.is_asked_before(), "before"),
                (probe.is_asked_during(), "while the faults act"),
                (probe.is_asked_after(), "afterwards"),
            ]
            .into_iter()
            .filter_map(|(asked, when)| asked.then_some(when))
            .collect();
            let budget = if probe.error_budget > 0.0 {
                format!(", of which {}% may fail under fault", probe.error_budget)
            } else {
                String::new()
            };
            format!(
                "{}: {} is {} (asked {}, every {:?}{budget})",
                probe.name,
                probe.ask,
                probe.tolerance,
                when.join(", "),
                probe.interval
            )
        };
        self.probes.iter().map(promise).collect()
    }

    /// When it is given up.
    pub fn ends(&self) -> Vec<String> {
        self.abort.iter().map(ToString::to_string).collect()
    }

    /// What is more than faults.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        let promises = self.promises();
        if promises.is_empty() {
            text += "Steady state: nothing is watched; the verdict is about the faults alone.\n";
        } else {
            text += "Steady state, or nothing is injected; it may take ";
            let _ = writeln!(text, "{:?} to return:", self.recovery);
        }
        for promise in promises {
            let _ = writeln!(text, "   {promise}.");
        }
        for end in self.ends() {
            let _ = writeln!(text, "Given up when {end}.");
        }
        text += "Given up as well on Ctrl-C, SIGTERM and kchaos halt; everything is taken away on every way out.\n";
        if self.with_bystander {
            text += "A bystander in a sibling cgroup is watched, who must feel nothing.\n";
        }
        text
    }
}
