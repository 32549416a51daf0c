//! An experiment in sentences.

use super::{
    Experiment,
    schedule::Dose,
    timetable::{Timetable, Turn},
};
use std::fmt::Write as _;

/// So many moments of a timetable are told.
const MOMENTS_MAX: usize = 40;

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
            let stage = probe.stage.and_then(|number| self.script.stages.get(number));
            let stage = stage.map(|stage| format!(" in stage {}", stage.name)).unwrap_or_default();
            format!(
                "{}: {} is {}{stage} (asked {}, every {:?}{budget})",
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

    /// When its faults act, one sentence for each that does not act all the time; by stages, if there are any.
    pub fn courses(&self) -> Vec<String> {
        let intervals = self.script.intervals();
        let faults = |stage: Option<usize>| {
            let of_stage = self.script.roles.iter().zip(&self.fault_names);
            of_stage.filter(move |(role, _)| role.stage == stage).map(|(role, name)| {
                let schedule = role.schedule.and_then(|number| self.script.schedules.get(number));
                match schedule {
                    Some(schedule) => format!("{name} {schedule}"),
                    None => format!("{name} acts until the end"),
                }
            })
        };
        if self.script.is_plain() {
            return vec![];
        }
        if self.script.stages.is_empty() {
            return faults(None).collect();
        }
        let stages = self.script.stages.iter().zip(intervals).enumerate();
        stages
            .map(|(number, (stage, (from, to)))| {
                let faults: Vec<_> = faults(Some(number)).collect();
                format!("stage {}, from {from:?} to {to:?}: {}", stage.name, faults.join("; "))
            })
            .collect()
    }

    /// All changes. `None` if faults act all the time, or if moments are drawn anew by every run.
    pub fn timetable(&self) -> Option<Timetable> {
        let is_known = !self.script.is_plain() && (self.spec.seed.is_some() || !self.script.draws());
        let length = self.spec.duration.unwrap_or_default();
        is_known.then(|| self.script.timetable(length, self.spec.seed.unwrap_or_default()))
    }

    /// A change in words.
    fn change_in_words(&self, turn: &Turn) -> String {
        let name = self.fault_names.get(turn.fault).map_or("", String::as_str);
        match turn.dose {
            Dose::Rest => format!("{name} rests"),
            Dose::Own => format!("{name} acts"),
            Dose::Share(share) => format!("{name} at {share}"),
        }
    }

    fn explain_schedule(&self, text: &mut String) {
        let courses = self.courses();
        if courses.is_empty() {
            return;
        }
        *text += "Schedule:\n";
        for course in courses {
            let _ = writeln!(text, "   {course}.");
        }
        let Some(Timetable { turns, .. }) = self.timetable() else {
            *text += "   Beginnings are drawn by every run anew: add seed: 42, for example, to draw the same ones again.\n";
            return;
        };
        let mut moments: Vec<_> = turns.chunk_by(|one, other| one.at == other.at).collect();
        let all = moments.len();
        moments.truncate(MOMENTS_MAX);
        for moment in moments {
            let changes: Vec<_> = moment.iter().map(|turn| self.change_in_words(turn)).collect();
            let at = moment.first().map(|turn| turn.at).unwrap_or_default();
            let _ = writeln!(text, "   {:>9.3} s  {}", at.as_secs_f64(), changes.join(", "));
        }
        if all > MOMENTS_MAX {
            let _ = writeln!(text, "   and {} more changes.", all - MOMENTS_MAX);
        }
    }

    /// What is more than faults.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        self.explain_schedule(&mut text);
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
