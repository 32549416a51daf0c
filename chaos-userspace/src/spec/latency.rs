//! How long calls are held back.

use super::{Problems, syscall_match::split_options, units::duration};
use chaos_common::latency::LATENCY_MAX_NS;
use std::{fmt, time::Duration};

/// Shortest time that can be asked for: the mechanisms cannot do less.
const LATENCY_MIN: Duration = Duration::from_micros(1);
const LATENCY_MAX: Duration = Duration::from_nanos(LATENCY_MAX_NS);

/// How long a call is held back before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Mean time.
    pub time: Duration,
    /// How far single times differ from it; all within are equally likely. Not above the time.
    pub jitter: Duration,
}

impl Latency {
    /// Reads the time at the start of what follows `SYSCALL=`, and `jitter=` among the options. Returns the other parts
    /// too: a share, and options.
    pub fn split(text: &str) -> (Result<Self, Problems>, Vec<&str>) {
        let mut problems = Problems::default();
        let mut parts = split_options(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let (time, share) = match first.split_once('@') {
            Some((time, share)) => (time, Some(share)),
            None => (first, None),
        };
        let mut options: Vec<_> = share.into_iter().collect();
        let mut jitter = Duration::ZERO;
        for part in parts {
            match part.strip_prefix("jitter=") {
                Some(text) => {
                    let read = duration(text).map_err(|problem| format!("jitter=: {problem}"));
                    jitter = problems.take(read).unwrap_or_default();
                }
                None => options.push(part),
            }
        }
        let latency = problems.take(duration(time)).map(|time| Self { time, jitter });
        if let Some(Self { time, jitter }) = latency {
            if !(LATENCY_MIN..=LATENCY_MAX).contains(&time) {
                problems.0.push(format!(
                    "'{}' is not between the limits of 1us and {}s",
                    first.split('@').next().unwrap_or_default(),
                    LATENCY_MAX.as_secs()
                ));
            }
            if jitter > time {
                problems.0.push(format!("a jitter of {jitter:?} is above the time of {time:?} itself"));
            }
        }
        match latency {
            Some(latency) => (problems.or(|| latency), options),
            None => (Err(problems), options),
        }
    }
}

/// As on the command line, so that it can serve as a name.
impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.time)?;
        if self.jitter.is_zero() { Ok(()) } else { write!(f, "+-{:?}", self.jitter) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problems(text: &str) -> String {
        Latency::split(text).0.unwrap_err().to_string()
    }

    #[test]
    fn times_with_their_options() {
        let (latency, options) = Latency::split("20ms@10%,jitter=5ms,path=/data/*");
        assert_eq!(latency.unwrap().to_string(), "20ms+-5ms");
        assert_eq!(options, ["10%", "path=/data/*"]);
        let (latency, options) = Latency::split("1s");
        assert_eq!((latency.unwrap().to_string(), options.len()), ("1s".to_owned(), 0));
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_limit() {
        assert!(problems("61s").contains("60s"));
        assert!(problems("0ms").contains("'0ms'"));
        assert!(problems("5ms,jitter=6ms").contains("6ms"));
        assert!(problems("20").contains("20"));
        assert_eq!(Latency::split("61s,jitter=x").0.unwrap_err().0.len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = Latency::split(&text);
        }
    }
}
