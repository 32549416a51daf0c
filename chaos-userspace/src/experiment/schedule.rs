//! When a fault acts, and how much of it.

use crate::spec::units::Percent;
use std::{fmt, time::Duration};

/// How much of a fault acts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dose {
    /// Nothing of it.
    Rest,
    /// What the fault says itself.
    Own,
    /// This share of the events whose turn it is, in place of the fault's own.
    Share(Percent),
}

impl Dose {
    /// A share; none is rest.
    pub fn of(share: Percent) -> Self {
        if share == Percent::NONE { Self::Rest } else { Self::Share(share) }
    }
}

/// The shortest time between two changes of one fault: what is shorter than the exchange takes on a busy host would be
/// no change that anybody feels.
pub const STEP_MIN: Duration = Duration::from_millis(10);
/// Steps of a ramp if nothing is said.
pub const RAMP_STEPS: u32 = 20;

/// When a fault acts, and how much of it, from the beginning of its stage or experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// It rests for so long.
    pub after: Duration,
    /// And for a part of this that is drawn.
    pub within: Duration,
    /// What comes then.
    pub shape: Shape,
    /// How often; `None` is as often as there is time for.
    pub times: Option<u32>,
}

/// The course of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// It acts until the end.
    Steady,
    /// From one share to another.
    Ramp {
        /// The first.
        from: Percent,
        /// The last; it stays there.
        to: Percent,
        /// How long all steps take.
        over: Duration,
        /// How many: at least 2.
        steps: u32,
    },
    /// One share after the other; the last one may be without an end.
    Steps(Vec<(Percent, Option<Duration>)>),
    /// On and off in turn.
    Pulse {
        /// How long it acts.
        on: Duration,
        /// How long it rests.
        off: Duration,
    },
    /// On from each first time to its second, in order.
    Windows(Vec<(Duration, Duration)>),
}

impl Schedule {
    /// What is repeated: doses in order, each with its time. Empty if it only begins.
    pub fn period(&self) -> Vec<(Dose, Duration)> {
        match &self.shape {
            Shape::Steady => vec![],
            Shape::Ramp { from, to, over, steps } => {
                let end_of = |number: u32| over.mul_f64(f64::from(number) / f64::from(*steps));
                let step = |number: u32| {
                    let part = f64::from(number) / f64::from((steps - 1).max(1));
                    (Dose::of(from.towards(*to, part)), end_of(number + 1).saturating_sub(end_of(number)))
                };
                (0..*steps).map(step).collect()
            }
            Shape::Steps(steps) => {
                steps.iter().filter_map(|(share, lasts)| Some((Dose::of(*share), (*lasts)?))).collect()
            }
            Shape::Pulse { on, off } => vec![(Dose::Own, *on), (Dose::Rest, *off)],
            Shape::Windows(windows) => {
                let mut period = vec![];
                let mut at = Duration::ZERO;
                for (from, to) in windows {
                    if *from > at {
                        period.push((Dose::Rest, from.saturating_sub(at)));
                    }
                    period.push((Dose::Own, to.saturating_sub(*from)));
                    at = *to;
                }
                period
            }
        }
    }

    /// What comes when all is done so often as it is to be.
    pub fn afterwards(&self) -> Dose {
        match &self.shape {
            Shape::Steady => Dose::Own,
            Shape::Ramp { to, .. } => Dose::of(*to),
            Shape::Steps(steps) => match steps.last() {
                Some((share, None)) => Dose::of(*share),
                _ => Dose::Rest,
            },
            Shape::Pulse { .. } | Shape::Windows(_) => Dose::Rest,
        }
    }

    /// How long a stage has to be at least for all that is to be done. `None` if that is longer than can be said.
    pub fn needs(&self) -> Option<Duration> {
        let period = self.period();
        let lasts = |doses: &[(Dose, Duration)]| doses.iter().map(|(_, lasts)| *lasts).sum::<Duration>();
        let once = lasts(&period);
        // Who rests afterwards anyway needs no time for it.
        let acting = match period.split_last() {
            Some(((Dose::Rest, _), before)) if self.afterwards() == Dose::Rest => lasts(before),
            _ => once,
        };
        let repeated = once.checked_mul(self.times.unwrap_or(1).saturating_sub(1))?;
        self.after.checked_add(self.within)?.checked_add(repeated)?.checked_add(acting)
    }

    /// At most so many changes it makes in this time.
    pub fn changes(&self, length: Duration) -> u64 {
        let period = self.period();
        let once: Duration = period.iter().map(|(_, lasts)| *lasts).sum();
        if once.is_zero() {
            return 2;
        }
        let fitting = (length.as_nanos() / once.as_nanos()).saturating_add(1);
        let times = self.times.map_or(fitting, |times| fitting.min(u128::from(times)));
        let all = times.saturating_mul(period.len() as u128).saturating_add(2);
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

/// As in "rests 5s, then goes from 1% to 20% in 20 steps over 60s and stays there".
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.after.is_zero(), self.within.is_zero()) {
            (true, true) => {}
            (false, true) => write!(f, "rests for {:?}, then ", self.after)?,
            (true, false) => write!(f, "rests for a time drawn from up to {:?}, then ", self.within)?,
            (false, false) => {
                write!(f, "rests for {:?} and a time drawn from up to {:?}, then ", self.after, self.within)?;
            }
        }
        let times = match self.times {
            Some(times) if times > 1 => format!(", {times} times"),
            _ => String::new(),
        };
        match &self.shape {
            Shape::Steady => write!(f, "acts until the end"),
            Shape::Ramp { from, to, over, steps } => {
                write!(f, "goes from {from} to {to} in {steps} steps over {over:?}{times}, and stays there")
            }
            Shape::Steps(steps) => {
                let words: Vec<_> = steps
                    .iter()
                    .map(|(share, lasts)| match lasts {
                        Some(lasts) => format!("{share} for {lasts:?}"),
                        None => format!("{share} until the end"),
                    })
                    .collect();
                write!(f, "acts on {}{times}", words.join(", "))?;
                if self.afterwards() == Dose::Rest { write!(f, ", and rests") } else { Ok(()) }
            }
            Shape::Pulse { on, off } => {
                let times = if self.times.is_none() { ", again and again" } else { &times };
                write!(f, "acts for {on:?} and rests for {off:?}{times}")
            }
            Shape::Windows(windows) => {
                let words: Vec<_> =
                    windows.iter().map(|(from, to)| format!("from {from:?} to {to:?}")).collect();
                write!(f, "acts {}{times}, and rests otherwise", words.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(shape: Shape, times: Option<u32>) -> Schedule {
        Schedule { after: SECOND, within: SECOND, shape, times }
    }

    #[test]
    fn a_ramp_has_both_its_ends_and_takes_its_time() {
        let (from, to) = ("1%".parse().unwrap(), "20%".parse().unwrap());
        let ramp = of(Shape::Ramp { from, to, over: 60 * SECOND, steps: 20 }, Some(1));
        let period = ramp.period();
        assert_eq!(period.len(), 20);
        assert_eq!((period[0].0, period[19].0), (Dose::Share(from), Dose::Share(to)));
        assert_eq!(period.iter().map(|(_, lasts)| *lasts).sum::<Duration>(), 60 * SECOND);
        assert_eq!((ramp.afterwards(), ramp.needs()), (Dose::Share(to), Some(62 * SECOND)));
        assert!(ramp.to_string().contains("from 1% to 20% in 20 steps over 60s"), "{ramp}");
        let down = of(Shape::Ramp { from: to, to: Percent::NONE, over: SECOND, steps: 2 }, Some(1));
        assert_eq!(down.afterwards(), Dose::Rest);
    }

    #[test]
    fn the_last_rest_needs_no_time() {
        let pulse = of(Shape::Pulse { on: 5 * SECOND, off: 10 * SECOND }, Some(3));
        assert_eq!(pulse.needs(), Some((2 + 2 * 15 + 5) * SECOND));
        let windows = of(Shape::Windows(vec![(SECOND, 2 * SECOND), (4 * SECOND, 5 * SECOND)]), Some(2));
        assert_eq!(windows.needs(), Some(12 * SECOND));
        assert_eq!(windows.period().len(), 4);
    }
}
