//! What is told and recorded of schedules and stages.

use super::{
    course::Course,
    follow::{Change, Follower},
};
use crate::{
    experiment::record::{FaultRecord, StageOutcome},
    report::event::{Event, Sink, Step},
    runs::message::Drawn,
};
use std::time::Instant;

impl Course<'_> {
    /// Tells which stage begins and which shares act from now on.
    pub(super) fn tell_change(&mut self, change: Change, sink: &mut Sink) {
        let at_s = change.at.saturating_duration_since(self.start).as_secs_f64();
        if let Some(number) = change.stage {
            self.progress.stage = self.record.stages.get(number).map(|stage| stage.name.clone());
            self.end_stage(number, at_s);
            if let Some(stage) = self.record.stages.get_mut(number) {
                (stage.from_s, stage.to_s) = (Some(at_s), Some(at_s));
                // Until its end is there.
                stage.outcome = StageOutcome::Cut;
                let name = stage.name.clone();
                sink.write(&Event::Stage { run: &self.plan.run, stage: &name, number, at_s });
                self.note(sink, format!("stage {name} begins"));
            }
        }
        if change.shares.is_empty() {
            return;
        }
        let step = |(name, share): &(String, f64)| match *share {
            0.0 => format!("{name} rests"),
            share => format!("{name} at {share}%"),
        };
        let words: Vec<_> = change.shares.iter().map(step).collect();
        self.say(sink, format!("step: {}", words.join(", ")));
        let faults: Vec<_> = change
            .shares
            .iter()
            .map(|(name, share_percent)| Step { name, share_percent: *share_percent })
            .collect();
        sink.write(&Event::Step { run: &self.plan.run, at_s, faults: &faults });
    }

    /// The stages before this one have been gone through.
    fn end_stage(&mut self, next: usize, at_s: f64) {
        for stage in self.record.stages.iter_mut().take(next) {
            if stage.outcome == StageOutcome::Cut {
                stage.to_s = Some(at_s);
                stage.outcome = StageOutcome::Held;
            }
        }
    }

    /// The faults are over, or were cut.
    pub(super) fn close_stages(&mut self, last: Option<usize>, is_over: bool, at: Instant, sink: &Sink) {
        let at_s = at.saturating_duration_since(self.start).as_secs_f64();
        if let Some(stage) = last.and_then(|last| self.record.stages.get_mut(last)) {
            stage.to_s = Some(at_s);
            if is_over {
                stage.outcome = StageOutcome::Held;
            }
        }
        let of = |outcome| -> Vec<String> {
            let stages = self.record.stages.iter().filter(|stage| stage.outcome == outcome);
            stages.map(|stage| stage.name.clone()).collect()
        };
        let (cut, missed) = (of(StageOutcome::Cut), of(StageOutcome::NotReached));
        if !cut.is_empty() {
            self.note(sink, format!("cut: stage {}", cut.join(", ")));
        }
        if !missed.is_empty() {
            self.note(sink, format!("not reached: stage {}", missed.join(", ")));
        }
    }

    /// Records which shares acted when.
    pub(super) fn close_courses(&mut self, follower: Follower, armed: Instant, disarmed: Instant) {
        let offset = armed.saturating_duration_since(self.start).as_secs_f64();
        let drawn = |fault: &FaultRecord| Drawn { injected: fault.injected, spared: fault.spared_by_draw };
        let last: Vec<_> = self.record.faults.iter().map(drawn).collect();
        let courses = follower.end(disarmed, &last);
        let script = &self.experiment.script;
        let roles = script.roles.iter().copied().chain(std::iter::repeat_with(Default::default));
        for ((fault, mut course), role) in self.record.faults.iter_mut().zip(courses).zip(roles) {
            for dose in &mut course {
                dose.from_s += offset;
                dose.to_s += offset;
            }
            let stage = role.stage.and_then(|stage| script.stages.get(stage));
            fault.follow(stage.map(|stage| stage.name.clone()), course);
        }
    }
}
