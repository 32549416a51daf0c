//! Flags of the delay line, kept as text, so that all problems can be told at once.

use crate::spec::{
    Problems,
    delay::{self, Delay, Distribution, Rate},
    units::Percent,
    when::When,
};
use clap::Args;
use std::time::Duration;

/// How packets are held back.
#[derive(Args, Clone, Debug, Default)]
pub struct DelayFlags {
    /// Hold these packets back for so long, all or a share of them
    #[arg(long, value_name = "TIME[@PERCENT][,every=N][,after=N][,limit=N]", help_heading = "Faults")]
    delay: Option<String>,

    /// Vary the delay by so much: half the width of the uniform distribution, the standard deviation of the others
    #[arg(long, value_name = "TIME", help_heading = "Faults")]
    jitter: Option<String>,

    /// How delays vary
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Faults")]
    distribution: Option<Distribution>,

    /// How much the jitter of a packet depends on that of the one before
    #[arg(long, value_name = "PERCENT", help_heading = "Faults")]
    correlation: Option<String>,

    /// Let these packets leave no faster than this, as in 10mbit
    #[arg(long, value_name = "RATE", help_heading = "Faults")]
    rate: Option<String>,

    /// Hold back no more than so many packets; further ones are lost (default: as many as 64 MiB hold)
    #[arg(long, value_name = "PACKETS", help_heading = "Faults")]
    queue: Option<String>,
}

impl DelayFlags {
    /// Whether packets are to be held back.
    pub fn is_given(&self) -> bool {
        self.delay.is_some() || self.rate.is_some()
    }

    /// The delay these flags describe, if they do, and which packets it hits.
    pub fn read(&self, problems: &mut Problems) -> Option<(Delay, When)> {
        let before = problems.0.len();
        let mut named = |flag: &str, problem: String| problems.0.push(format!("--{flag}: {problem}"));
        let mut when = When::default();
        let mut latency = Duration::ZERO;
        if let Some(text) = &self.delay {
            let end = text.find(['@', ',']).unwrap_or(text.len());
            let (time, options) = text.split_at(end);
            match delay::time(time) {
                Ok(time) => latency = time,
                Err(problem) => named("delay", problem),
            }
            if !options.is_empty() {
                match When::from_parts(options[1..].split(',')) {
                    Ok(given) => when = given,
                    Err(more) => more.0.into_iter().for_each(|problem| named("delay", problem)),
                }
            }
        }
        let mut jitter = Duration::ZERO;
        if let Some(text) = &self.jitter {
            match delay::time(text) {
                Ok(time) => jitter = time,
                Err(problem) => named("jitter", problem),
            }
            if self.delay.is_none() {
                named("jitter", format!("'{text}' varies a delay: add --delay 100ms, for example"));
            }
        }
        let mut correlation = Percent::NONE;
        if let Some(text) = &self.correlation {
            match text.parse::<Percent>() {
                Ok(percent) => correlation = percent,
                Err(problem) => named("correlation", problem),
            }
        }
        for (flag, given) in
            [("distribution", self.distribution.is_some()), ("correlation", self.correlation.is_some())]
        {
            if given && self.jitter.is_none() {
                named(flag, "it is the jitter's: add --jitter 10ms, for example".to_owned());
            }
        }
        let mut rate = None;
        if let Some(text) = &self.rate {
            match text.parse::<Rate>() {
                Ok(read) => rate = Some(read),
                Err(problem) => named("rate", problem),
            }
        }
        let mut limit = None;
        if let Some(text) = &self.queue {
            match text.parse::<u32>() {
                Ok(packets) if packets > 0 => limit = Some(packets),
                _ => named("queue", format!("'{text}' is not a number of packets of at least 1")),
            }
            if !self.is_given() {
                named("queue", "it is the delay's: add --delay 100ms, for example".to_owned());
            }
        }
        let distribution = self.distribution.unwrap_or_default();
        let fine = problems.0.len() == before && self.is_given();
        fine.then_some((Delay { latency, jitter, distribution, correlation, rate, limit }, when))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &DelayFlags) -> Result<Option<(Delay, When)>, String> {
        let mut problems = Problems::default();
        let read = flags.read(&mut problems);
        if problems.0.is_empty() { Ok(read) } else { Err(problems.to_string()) }
    }

    #[test]
    fn a_delay_is_read() {
        let flags = DelayFlags {
            delay: Some("100ms@10%,limit=7".into()),
            jitter: Some("20ms".into()),
            distribution: Some(Distribution::Pareto),
            rate: Some("10mbit".into()),
            ..DelayFlags::default()
        };
        let (delay, when) = read(&flags).unwrap().unwrap();
        assert_eq!((delay.latency, delay.jitter), (Duration::from_millis(100), Duration::from_millis(20)));
        assert_eq!((when.probability.percent(), when.limit), (10.0, Some(7)));
        assert_eq!(delay.to_string(), "by 100ms +- 20ms (pareto), at no more than 10mbit");
        assert_eq!(read(&DelayFlags::default()).unwrap(), None);
    }

    #[test]
    fn what_needs_something_else_says_so() {
        let flags = DelayFlags { jitter: Some("20ms".into()), ..DelayFlags::default() };
        assert!(read(&flags).unwrap_err().contains("--delay"));
        let flags = DelayFlags {
            delay: Some("1ms".into()),
            correlation: Some("25".into()),
            distribution: Some(Distribution::Normal),
            queue: Some("0".into()),
            ..DelayFlags::default()
        };
        assert_eq!(read(&flags).unwrap_err().lines().count(), 4);
    }
}
