//! Flags of the delay line, kept as text, so that all problems can be told at once.

use crate::spec::{
    Problems,
    delay::{self, Delay, Distribution, Rate},
    units::{Bytes, Percent},
    when::When,
};
use clap::Args;

/// Stands for the jitter of a delay that has none, before that of a later one.
const NO_JITTER: &str = "none";

/// How packets are held back.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct DelayFlags {
    /// Hold these packets back for so long, all or a share of them; repeat for more, whose times add up
    #[arg(long, value_name = "TIME[@PERCENT][,every=N][,after=N][,limit=N]", help_heading = "Faults")]
    delay: Vec<String>,

    /// Vary the delay by so much: half the width of the uniform distribution, the standard deviation of the others; the
    /// n-th belongs to the n-th --delay, as with all that follow
    #[arg(long, value_name = "TIME|none", help_heading = "Faults")]
    jitter: Vec<String>,

    /// How delays vary
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Faults")]
    distribution: Vec<Distribution>,

    /// How much the jitter of a packet depends on that of the one before
    #[arg(long, value_name = "PERCENT", help_heading = "Faults")]
    correlation: Vec<String>,

    /// Let these packets leave no faster than this, as in 10mbit; of several, the tightest wins
    #[arg(long, value_name = "RATE", help_heading = "Faults")]
    rate: Vec<String>,

    /// Let so much leave at once, as in 32kb, before the rest waits for the n-th --rate
    #[arg(long, value_name = "BYTES", help_heading = "Faults")]
    burst: Vec<String>,

    /// Hold back no more than so many packets; further ones are lost (default: as many as 64 MiB hold)
    #[arg(long, value_name = "PACKETS", help_heading = "Faults")]
    queue: Vec<String>,
}

impl DelayFlags {
    /// Whether packets are to be held back.
    pub fn is_given(&self) -> bool {
        self.count() > 0
    }

    /// How many delays there are: the n-th of each flag makes the n-th delay, and a rate may stand alone.
    fn count(&self) -> usize {
        self.delay.len().max(self.rate.len())
    }

    /// The delays these flags describe, and which packets they hit; none if there is a problem.
    pub fn read(&self, problems: &mut Problems) -> Vec<(Delay, When)> {
        let before = problems.0.len();
        let delays = (0..self.count()).map(|number| self.read_one(number, problems)).collect();
        let mut named = |flag: &str, problem: String| problems.0.push(format!("--{flag}: {problem}"));
        for text in self.jitter.iter().skip(self.delay.len()) {
            named("jitter", format!("'{text}' varies a delay: add --delay 100ms, for example"));
        }
        for (flag, count) in
            [("distribution", self.distribution.len()), ("correlation", self.correlation.len())]
        {
            if count > self.jitter.len() {
                named(flag, "it is the jitter's: add --jitter 10ms, for example".to_owned());
            }
        }
        if self.burst.len() > self.rate.len() {
            named("burst", "it is the rate's: add --rate 10mbit, for example".to_owned());
        }
        if self.queue.len() > self.count() {
            named("queue", "it is the delay's: add --delay 100ms, for example".to_owned());
        }
        if problems.0.len() == before { delays } else { vec![] }
    }

    fn read_one(&self, number: usize, problems: &mut Problems) -> (Delay, When) {
        let mut named = |flag: &str, problem: String| problems.0.push(format!("--{flag}: {problem}"));
        let mut delay = Delay {
            distribution: self.distribution.get(number).copied().unwrap_or_default(),
            ..Delay::default()
        };
        let mut when = When::default();
        if let Some(text) = self.delay.get(number) {
            let end = text.find(['@', ',']).unwrap_or(text.len());
            let (time, options) = text.split_at(end);
            match delay::time(time) {
                Ok(time) => delay.latency = time,
                Err(problem) => named("delay", problem),
            }
            if !options.is_empty() {
                match When::from_parts(options[1..].split(',')) {
                    Ok(given) => when = given,
                    Err(more) => more.0.into_iter().for_each(|problem| named("delay", problem)),
                }
            }
        }
        if let Some(text) = self.jitter.get(number).filter(|text| *text != NO_JITTER) {
            match delay::time(text) {
                Ok(time) => delay.jitter = time,
                Err(problem) => named("jitter", problem),
            }
        }
        if let Some(text) = self.correlation.get(number) {
            match text.parse::<Percent>() {
                Ok(percent) => delay.correlation = percent,
                Err(problem) => named("correlation", problem),
            }
        }
        if let Some(text) = self.rate.get(number) {
            match text.parse::<Rate>() {
                Ok(rate) => delay.rate = Some(rate),
                Err(problem) => named("rate", problem),
            }
        }
        if let Some(text) = self.burst.get(number) {
            match text.parse::<Bytes>() {
                Ok(bytes) => delay.burst = Some(bytes),
                Err(problem) => named("burst", problem),
            }
        }
        if let Some(text) = self.queue.get(number) {
            match text.parse::<u32>() {
                Ok(packets) if packets > 0 => delay.limit = Some(packets),
                _ => named("queue", format!("'{text}' is not a number of packets of at least 1")),
            }
        }
        (delay, when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(flags: &DelayFlags) -> Result<Vec<(Delay, When)>, String> {
        let mut problems = Problems::default();
        let read = flags.read(&mut problems);
        if problems.0.is_empty() { Ok(read) } else { Err(problems.to_string()) }
    }

    #[test]
    fn a_delay_is_read() {
        let flags = DelayFlags {
            delay: vec!["100ms@10%,limit=7".into()],
            jitter: vec!["20ms".into()],
            distribution: vec![Distribution::Pareto],
            rate: vec!["10mbit".into()],
            ..DelayFlags::default()
        };
        let (delay, when) = read(&flags).unwrap().remove(0);
        assert_eq!((delay.latency, delay.jitter), (Duration::from_millis(100), Duration::from_millis(20)));
        assert_eq!((when.probability.percent(), when.limit), (10.0, Some(7)));
        assert_eq!(delay.to_string(), "by 100ms +- 20ms (pareto), at no more than 10mbit");
        assert_eq!(read(&DelayFlags::default()).unwrap(), []);
    }

    #[test]
    fn the_nth_of_each_flag_makes_the_nth_delay() {
        let flags = DelayFlags {
            delay: vec!["50ms".into(), "20ms@10%".into()],
            jitter: vec!["none".into(), "5ms".into()],
            rate: vec!["10mbit".into(), "8mbit".into(), "9mbit".into()],
            ..DelayFlags::default()
        };
        let shown: Vec<_> = read(&flags).unwrap().iter().map(|(delay, _)| delay.to_string()).collect();
        assert_eq!(
            shown,
            [
                "by 50ms, at no more than 10mbit",
                "by 20ms +- 5ms (uniform), at no more than 8mbit",
                "at no more than 9mbit"
            ]
        );
        let flags = DelayFlags { jitter: vec!["1ms".into(), "2ms".into(), "3ms".into()], ..flags };
        assert!(read(&flags).unwrap_err().contains("'3ms'"));
    }

    #[test]
    fn what_needs_something_else_says_so() {
        let flags = DelayFlags { jitter: vec!["20ms".into()], ..DelayFlags::default() };
        assert!(read(&flags).unwrap_err().contains("--delay"));
        let flags = DelayFlags {
            delay: vec!["1ms".into()],
            correlation: vec!["25".into()],
            distribution: vec![Distribution::Normal],
            burst: vec!["7kbit".into()],
            queue: vec!["0".into()],
            ..DelayFlags::default()
        };
        // The burst's rate is missing as well.
        assert_eq!(read(&flags).unwrap_err().lines().count(), 6);
    }
}
