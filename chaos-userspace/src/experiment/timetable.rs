//! From schedules to moments: a pure function, so that the same seed makes the same experiment again.

use super::schedule::{Dose, Schedule};
use chaos_common::probability::seeded_draw;
use std::time::Duration;

/// Changes that one experiment may make: more would fill its record.
pub const TURNS_MAX: u64 = 10_000;

/// Who acts when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// In order; empty if the experiment has one part without a name.
    pub stages: Vec<Stage>,
    /// Schedules in use. Faults that share one begin together.
    pub schedules: Vec<Schedule>,
    /// One for each fault of the experiment.
    pub roles: Vec<Role>,
}

/// A part of an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is called.
    pub name: String,
    /// How long it lasts.
    pub lasts: Duration,
}

/// When a fault acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// In this stage only.
    pub stage: Option<usize>,
    /// By this schedule; all the time without one.
    pub schedule: Option<usize>,
}

/// A change of one fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// When, from the arming on.
    pub at: Duration,
    /// Which fault.
    pub fault: usize,
    /// How much of it acts from then on.
    pub dose: Dose,
}

/// All changes of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timetable {
    /// In the order of time; each fault has one at zero, and none that changes nothing.
    pub turns: Vec<Turn>,
    /// When each stage begins and ends.
    pub stages: Vec<(Duration, Duration)>,
}

impl Script {
    /// Puts a schedule to the others; its place.
    pub fn add(&mut self, schedule: Schedule) -> usize {
        self.schedules.push(schedule);
        self.schedules.len() - 1
    }

    /// Whether all faults act all the time.
    pub fn is_plain(&self) -> bool {
        self.stages.is_empty() && self.schedules.is_empty()
    }

    /// Whether moments are drawn.
    pub fn draws(&self) -> bool {
        self.schedules.iter().any(|schedule| !schedule.within.is_zero())
    }

    /// When each stage begins and ends.
    pub fn intervals(&self) -> Vec<(Duration, Duration)> {
        let mut at = Duration::ZERO;
        let interval = |stage: &Stage| {
            let from = at;
            at = at.saturating_add(stage.lasts);
            (from, at)
        };
        self.stages.iter().map(interval).collect()
    }

    /// What is drawn of a schedule's `within`.
    fn drawn(&self, schedule: usize, seed: u64) -> Duration {
        let Some(within) = self.schedules.get(schedule).map(|schedule| schedule.within) else {
            return Duration::ZERO;
        };
        within.mul_f64(f64::from(seeded_draw(seed, schedule as u64)) / 2f64.powi(32))
    }

    /// The changes of an experiment of this length, with draws by this seed.
    pub fn timetable(&self, length: Duration, seed: u64) -> Timetable {
        let stages = self.intervals();
        let mut turns = vec![];
        for (fault, role) in self.roles.iter().enumerate() {
            let (from, to) = match role.stage {
                Some(stage) => stages.get(stage).copied().unwrap_or_default(),
                None => (Duration::ZERO, length),
            };
            let mut course = vec![(Duration::ZERO, Dose::Rest)];
            match role.schedule.and_then(|number| Some((number, self.schedules.get(number)?))) {
                None => course.push((from, Dose::Own)),
                Some((number, schedule)) => {
                    let begin = from + schedule.after + self.drawn(number, seed);
                    course.extend(doses(schedule, begin, to));
                }
            }
            if to < length {
                course.push((to, Dose::Rest));
            }
            turns.extend(changes(course).into_iter().map(|(at, dose)| Turn { at, fault, dose }));
        }
        turns.sort_by_key(|turn| turn.at);
        Timetable { turns, stages }
    }
}

/// The doses of a schedule that begins at `begin`, before `to`.
fn doses(schedule: &Schedule, begin: Duration, to: Duration) -> Vec<(Duration, Dose)> {
    let period = schedule.period();
    let mut course = vec![];
    let mut at = begin;
    let mut done = 0;
    while !period.is_empty() && schedule.times.is_none_or(|times| done < times) && at < to {
        for (dose, lasts) in &period {
            if at < to {
                course.push((at, *dose));
            }
            at = at.saturating_add(*lasts);
        }
        done += 1;
    }
    if at < to {
        course.push((at, schedule.afterwards()));
    }
    course
}

/// Of several doses at the same time the last one, and of the same dose twice the first.
fn changes(course: Vec<(Duration, Dose)>) -> Vec<(Duration, Dose)> {
    let mut kept: Vec<(Duration, Dose)> = vec![];
    for (at, dose) in course {
        if kept.last().is_some_and(|(last, _)| *last == at) {
            kept.pop();
        }
        if kept.last().is_none_or(|(_, before)| *before != dose) {
            kept.push((at, dose));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::schedule::Shape;
    use crate::spec::units::Percent;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn percent(value: u32) -> Percent {
        format!("{value}%").parse().unwrap()
    }

    fn script(schedule: Schedule) -> Script {
        let roles = vec![Role { stage: None, schedule: Some(0) }];
        Script { stages: vec![], schedules: vec![schedule], roles }
    }

    fn schedule(shape: Shape, times: Option<u32>) -> Schedule {
        Schedule { after: Duration::ZERO, within: Duration::ZERO, shape, times }
    }

    fn moments(timetable: &Timetable, fault: usize) -> Vec<(f64, Dose)> {
        let of_fault = timetable.turns.iter().filter(|turn| turn.fault == fault);
        of_fault.map(|turn| (turn.at.as_secs_f64(), turn.dose)).collect()
    }

    #[test]
    fn a_pulse_goes_on_until_the_end_or_so_often() {
        use Dose::{Own, Rest};
        let pulse = |times| script(schedule(Shape::Pulse { on: 2 * SECOND, off: 3 * SECOND }, times));
        let all = [(0.0, Own), (2.0, Rest), (5.0, Own), (7.0, Rest), (10.0, Own)];
        assert_eq!(moments(&pulse(None).timetable(11 * SECOND, 0), 0), all);
        assert_eq!(moments(&pulse(Some(2)).timetable(11 * SECOND, 0), 0), all[..4]);
    }

    #[test]
    fn steps_and_windows_follow_their_start() {
        use Dose::{Own, Rest, Share};
        let steps =
            Shape::Steps(vec![(percent(5), Some(SECOND)), (Percent::NONE, Some(SECOND)), (percent(9), None)]);
        let late = Schedule { after: 4 * SECOND, ..schedule(steps, Some(1)) };
        let wanted = [(0.0, Rest), (4.0, Share(percent(5))), (5.0, Rest), (6.0, Share(percent(9)))];
        assert_eq!(moments(&script(late).timetable(20 * SECOND, 0), 0), wanted);
        let windows = Shape::Windows(vec![(Duration::ZERO, SECOND), (3 * SECOND, 4 * SECOND)]);
        let twice = script(schedule(windows, Some(2)));
        // The end of the first round is the beginning of the second.
        let wanted = [(0.0, Own), (1.0, Rest), (3.0, Own), (5.0, Rest), (7.0, Own), (8.0, Rest)];
        assert_eq!(moments(&twice.timetable(20 * SECOND, 0), 0), wanted);
    }

    #[test]
    fn a_stage_holds_its_faults() {
        use Dose::{Own, Rest};
        let stage = |name: &str, seconds: u32| Stage { name: name.into(), lasts: seconds * SECOND };
        let script = Script {
            stages: vec![stage("a", 2), stage("b", 3)],
            schedules: vec![schedule(Shape::Pulse { on: SECOND, off: SECOND }, None)],
            roles: vec![
                Role { stage: Some(0), schedule: None },
                Role { stage: Some(1), schedule: Some(0) },
                Role { stage: Some(1), schedule: None },
            ],
        };
        let timetable = script.timetable(5 * SECOND, 0);
        assert_eq!(timetable.stages, [(Duration::ZERO, 2 * SECOND), (2 * SECOND, 5 * SECOND)]);
        assert_eq!(moments(&timetable, 0), [(0.0, Own), (2.0, Rest)]);
        assert_eq!(moments(&timetable, 1), [(0.0, Rest), (2.0, Own), (3.0, Rest), (4.0, Own)]);
        assert_eq!(moments(&timetable, 2), [(0.0, Rest), (2.0, Own)]);
    }

    #[test]
    fn the_seed_draws_the_start_evenly() {
        let drawn = Schedule { after: SECOND, within: 10 * SECOND, ..schedule(Shape::Steady, Some(1)) };
        let script = script(drawn);
        let start = |seed| moments(&script.timetable(60 * SECOND, seed), 0)[1].0;
        assert_eq!(start(7), start(7));
        let starts: Vec<f64> = (0..1000).map(start).collect();
        assert!(starts.iter().all(|at| (1.0..11.0).contains(at)));
        // Each fifth holds 200 of 1000, give or take five standard deviations of 12.6.
        for fifth in 0..5 {
            let low = 1.0 + 2.0 * f64::from(fifth);
            let count = starts.iter().filter(|at| (low..low + 2.0).contains(*at)).count();
            assert!((137..264).contains(&count), "{count} of 1000 from {low} on");
        }
    }

    fn shapes() -> impl Strategy<Value = (Shape, Option<u32>)> {
        let time = || (10u64..3000).prop_map(Duration::from_millis);
        let share = || (0u32..=100).prop_map(percent);
        prop_oneof![
            Just((Shape::Steady, Some(1))),
            (share(), share(), time(), 2u32..9, 1u32..4).prop_map(|(from, to, over, steps, times)| (
                Shape::Ramp { from, to, over, steps },
                Some(times)
            )),
            (proptest::collection::vec((share(), time()), 1..5), 1u32..4).prop_map(|(steps, times)| {
                let steps = steps.into_iter().map(|(share, lasts)| (share, Some(lasts))).collect();
                (Shape::Steps(steps), Some(times))
            }),
            (time(), time(), proptest::option::of(1u32..9))
                .prop_map(|(on, off, times)| (Shape::Pulse { on, off }, times)),
        ]
    }

    /// What a schedule gives at a time since its start, said in another way than the timetable does.
    fn expected(schedule: &Schedule, since: Duration) -> Dose {
        let once: u128 = schedule.period().iter().map(|(_, lasts)| lasts.as_nanos()).sum();
        let round = since.as_nanos().checked_div(once);
        match (round, schedule.times) {
            (None, _) => schedule.afterwards(),
            (Some(round), Some(times)) if round >= u128::from(times) => schedule.afterwards(),
            (Some(round), _) => {
                let mut left = since.as_nanos() - round * once;
                for (dose, lasts) in schedule.period() {
                    if left < lasts.as_nanos() {
                        return dose;
                    }
                    left -= lasts.as_nanos();
                }
                schedule.afterwards()
            }
        }
    }

    proptest! {
        #[test]
        fn turns_are_ordered_and_each_changes_something(
            (shape, times) in shapes(), after in 0u64..2000, within in 0u64..2000, seed in any::<u64>(),
            length in 1u64..20_000, looks in proptest::collection::vec(0.0f64..1.0, 20),
        ) {
            let milliseconds = Duration::from_millis;
            let schedule = Schedule { after: milliseconds(after), within: milliseconds(within), shape, times };
            let script = script(schedule.clone());
            let length = milliseconds(length);
            let timetable = script.timetable(length, seed);
            prop_assert_eq!(&timetable, &script.timetable(length, seed));
            prop_assert!(timetable.turns.len() as u64 <= schedule.changes(length) + 1);
            let turns = &timetable.turns;
            prop_assert_eq!(turns[0].at, Duration::ZERO);
            prop_assert!(turns.iter().all(|turn| turn.at < length));
            for pair in turns.windows(2) {
                prop_assert!(pair[0].at < pair[1].at && pair[0].dose != pair[1].dose, "{pair:?}");
            }
            let begin = schedule.after + script.drawn(0, seed);
            prop_assert!(script.drawn(0, seed) <= schedule.within);
            for look in looks {
                let at = length.mul_f64(look);
                let last = turns.iter().rev().find(|turn| turn.at <= at).unwrap();
                let wanted = match at.checked_sub(begin) {
                    Some(since) => expected(&schedule, since),
                    None => Dose::Rest,
                };
                prop_assert_eq!(last.dose, wanted, "at {:?} of {:?}", at, turns);
            }
        }
    }
}
