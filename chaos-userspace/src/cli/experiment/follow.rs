//! Following a timetable: other shares at their time, each with its own account.

use crate::{
    cli::{failure::Failure, session::Session},
    experiment::{
        record::DoseRecord,
        schedule::Dose,
        share::Achieved,
        timetable::{Timetable, Turn},
    },
    plan::Plan,
    runs::message::Drawn,
    spec::{Fault, loss_model::Model, network::Effect, units::Percent},
};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What happens next.
pub(super) enum Moment {
    /// It is time for a change.
    Due,
    /// The last change has come about everywhere.
    Settled,
}

/// What has changed.
pub(super) struct Change {
    /// When the new shares took the place of the old ones.
    pub at: Instant,
    /// Faults with their new shares in percent.
    pub shares: Vec<(String, f64)>,
    /// The stage that has begun.
    pub stage: Option<usize>,
}

/// One share of a fault that acts now.
struct Open {
    from: Instant,
    share_percent: f64,
    /// What was drawn before; not known before the exchange is over.
    before: Option<Drawn>,
}

/// A run on its way through a timetable.
pub(super) struct Follower {
    base: Plan,
    timetable: Timetable,
    /// Moments that are still to come, the next one last.
    moments: Vec<Duration>,
    doses: Vec<Dose>,
    begun: Option<usize>,
    armed: Option<Instant>,
    grace: Option<JoinHandle<()>>,
    open: Vec<Option<Open>>,
    courses: Vec<Vec<DoseRecord>>,
}

impl Follower {
    /// Before its beginning.
    pub fn new(base: &Plan, timetable: &Timetable) -> Self {
        let count = base.rules.len();
        let mut moments: Vec<Duration> = timetable
            .turns
            .iter()
            .map(|turn| turn.at)
            .chain(timetable.stages.iter().map(|(from, _)| *from))
            .filter(|at| !at.is_zero())
            .collect();
        moments.sort_unstable_by(|one, other| other.cmp(one));
        moments.dedup();
        let mut follower = Self {
            base: base.clone(),
            timetable: timetable.clone(),
            moments,
            doses: vec![Dose::Rest; count],
            begun: None,
            armed: None,
            grace: None,
            open: (0..count).map(|_| None).collect(),
            courses: vec![vec![]; count],
        };
        follower.doses = follower.doses_at(Duration::ZERO);
        follower
    }

    /// The plan with the shares that act now.
    pub fn plan(&self) -> Plan {
        let mut plan = self.base.clone();
        for (rule, dose) in plan.rules.iter_mut().zip(&self.doses) {
            apply(&mut rule.fault, *dose);
        }
        plan
    }

    /// The plan as it was written.
    pub fn base(&self) -> &Plan {
        &self.base
    }

    /// The doses at a time since the arming.
    fn doses_at(&self, at: Duration) -> Vec<Dose> {
        let mut doses = vec![Dose::Rest; self.base.rules.len()];
        for Turn { fault, dose, .. } in self.timetable.turns.iter().take_while(|turn| turn.at <= at) {
            if let Some(place) = doses.get_mut(*fault) {
                *place = *dose;
            }
        }
        doses
    }

    /// The stage that a time since the arming lies in.
    fn stage_at(&self, at: Duration) -> Option<usize> {
        self.timetable.stages.iter().rposition(|(from, _)| *from <= at)
    }

    fn share_percent(&self, fault: usize, dose: Dose) -> f64 {
        match dose {
            Dose::Rest => 0.0,
            Dose::Share(share) => share.percent(),
            Dose::Own => {
                self.base.rules.get(fault).map_or(0.0, |rule| rule.fault.when().probability.percent())
            }
        }
    }

    /// The run is armed with the first shares.
    pub fn begin(&mut self, at: Instant) -> Change {
        self.armed = Some(at);
        self.begun = self.stage_at(Duration::ZERO);
        let all: Vec<_> = (0..self.doses.len()).collect();
        let shares = self.open_all(&all, at, Some(&vec![Drawn::default(); all.len()]));
        Change { at, shares, stage: self.begun }
    }

    fn open_all(&mut self, faults: &[usize], at: Instant, before: Option<&[Drawn]>) -> Vec<(String, f64)> {
        let mut shares = vec![];
        for fault in faults {
            let share_percent = self.share_percent(*fault, self.doses[*fault]);
            let before = before.and_then(|before| before.get(*fault).copied());
            self.open[*fault] = Some(Open { from: at, share_percent, before });
            let name = self.base.rules.get(*fault).map(|rule| rule.name.clone());
            shares.push((name.unwrap_or_default(), share_percent));
        }
        shares
    }

    /// The next thing that happens; nothing, if all is done. May be dropped while it waits.
    pub async fn next(&mut self) -> Moment {
        if let Some(grace) = &mut self.grace {
            // A thread that has died has nothing to tell; the next exchange waits itself.
            let _ = grace.await;
            self.grace = None;
            return Moment::Settled;
        }
        match self.armed.zip(self.moments.last()) {
            Some((armed, at)) => {
                tokio::time::sleep_until((armed + *at).into()).await;
                Moment::Due
            }
            None => std::future::pending().await,
        }
    }

    /// Goes on with the shares that are due. `None` if nothing has changed.
    pub fn turn(&mut self, session: &mut Session<'_>) -> Result<Option<Change>, Failure> {
        let since = self.armed.map_or(Duration::ZERO, |armed| armed.elapsed());
        // A timer never fires too early, but for what its clock rounds.
        let since = self.moments.last().map_or(since, |at| since.max(*at));
        while self.moments.last().is_some_and(|at| *at <= since) {
            self.moments.pop();
        }
        let stage = self.stage_at(since).filter(|stage| Some(*stage) != self.begun);
        self.begun = stage.or(self.begun);
        let wanted = self.doses_at(since);
        let changed: Vec<_> =
            (0..wanted.len()).filter(|fault| wanted[*fault] != self.doses[*fault]).collect();
        if changed.is_empty() {
            return Ok(stage.map(|stage| Change { at: Instant::now(), shares: vec![], stage: Some(stage) }));
        }
        let until = session.drawn()?;
        self.doses = wanted;
        let grace = session.follow(&self.plan())?;
        let at = Instant::now();
        self.grace = Some(tokio::task::spawn_blocking(move || grace.wait()));
        for fault in &changed {
            let until = until.get(*fault).copied();
            self.close(*fault, at, until);
            // Until it is known better, when the last change has come about everywhere.
            session.share_begins(*fault, until.unwrap_or_default());
        }
        let shares = self.open_all(&changed, at, None);
        Ok(Some(Change { at, shares, stage }))
    }

    /// What is counted from now on belongs to the new shares.
    pub fn settle(&mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        let now = session.drawn()?;
        for (rule, (open, now)) in self.open.iter_mut().zip(now).enumerate() {
            if let Some(open @ Open { before: None, .. }) = open {
                open.before = Some(now);
                session.share_begins(rule, now);
            }
        }
        Ok(())
    }

    fn close(&mut self, fault: usize, at: Instant, until: Option<Drawn>) {
        let Some(open) = self.open[fault].take() else { return };
        let (before, until) = match (open.before, until) {
            (Some(before), Some(until)) => (before, until),
            // It was over before it was everywhere.
            _ => Default::default(),
        };
        let injected = until.injected.saturating_sub(before.injected);
        let drawn = injected + until.spared.saturating_sub(before.spared);
        let armed = self.armed.unwrap_or(at);
        self.courses[fault].push(DoseRecord {
            from_s: open.from.saturating_duration_since(armed).as_secs_f64(),
            to_s: at.saturating_duration_since(armed).as_secs_f64(),
            share_percent: open.share_percent,
            injected,
            drawn,
            achieved: Achieved::of(injected, drawn),
        });
    }

    /// What it has come to, by fault, in seconds since the arming. `last` is what was drawn at the end.
    pub fn end(mut self, at: Instant, last: &[Drawn]) -> Vec<Vec<DoseRecord>> {
        for fault in 0..self.open.len() {
            self.close(fault, at, last.get(fault).copied());
        }
        self.courses
    }

    /// The stage that was begun last.
    pub fn stage(&self) -> Option<usize> {
        self.begun
    }
}

/// A fault with another share. At rest it is judged and counted as ever, and nothing is hit.
fn apply(fault: &mut Fault, dose: Dose) {
    let share = match dose {
        Dose::Own => return,
        Dose::Rest => Percent::NONE,
        Dose::Share(share) => share,
    };
    match fault {
        Fault::Network(fault) => {
            // A model draws for itself, whatever share is asked for.
            if let Effect::LossModel(model) = &mut fault.effect {
                *model = Model::GilbertElliott {
                    p: Percent::NONE,
                    r: Percent::ALL,
                    lost_in_bad: Percent::NONE,
                    lost_in_good: Percent::NONE,
                };
            }
            fault.when.probability = share;
        }
        Fault::Syscall(fault) => fault.when.probability = share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment;
    use chaos_common::chain;

    fn faults(fields: &str) -> Vec<Fault> {
        let text = format!(
            "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: x}}\nspec:\n  hypothesis: h\n  duration: \
             10s\n  targets: [{{cgroup: /x}}]\n  faults: [{fields}]\n"
        );
        experiment::read("f", &text).unwrap().spec.faults
    }

    #[test]
    fn a_resting_fault_hits_nothing() {
        for fault in faults(
            "{network: {loss: {every: 2}}}, {network: {delay: 10ms, rate: 1mbit}}, {syscall: {calls: [write], error: EIO}}, \
             {network: {reset: 5%, perFlow: true}}",
        ) {
            let mut resting = fault.clone();
            apply(&mut resting, Dose::Rest);
            assert_eq!(resting.when().probability, Percent::NONE);
            let mut own = fault.clone();
            apply(&mut own, Dose::Own);
            assert_eq!(own, fault);
        }
    }

    #[test]
    fn a_resting_model_loses_nothing_in_whatever_state_it_is() {
        for fault in faults(
            "{network: {loss: {model: gemodel, p: 50%, r: 10%, k: 0%}}}, {network: {loss: {model: state, p13: 50%, p31: 1%}}}",
        ) {
            let model = |fault: &Fault| match fault {
                Fault::Network(fault) => match fault.effect {
                    Effect::LossModel(model) => model.chain(),
                    _ => panic!("no model"),
                },
                Fault::Syscall(_) => panic!("no packets"),
            };
            let mut resting = fault.clone();
            apply(&mut resting, Dose::Rest);
            let (acts, rests) = (model(&fault), model(&resting));
            let (mut state, mut lost) = (0, 0);
            for draw in (0..=u32::MAX).step_by(1 << 20) {
                let step = chain::step(acts.0, &acts.1, state, draw.wrapping_mul(0x9e37_79b9), draw);
                state = step.state;
                lost += step.lost;
                for transition in [0, draw, u32::MAX] {
                    assert_eq!(chain::step(rests.0, &rests.1, state, transition, draw).lost, 0);
                }
            }
            assert!(lost > 100, "{lost}");
        }
    }
}
