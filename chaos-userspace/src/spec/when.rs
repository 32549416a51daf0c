//! Which of the matched events are hit.

use super::{Problems, units::Percent};
use chaos_common::rule::{Rule, WHEN_COUNTED, WHEN_LIMITED};
use std::fmt;

/// Which of the matched events are hit. The default is all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct When {
    /// Share of the events whose turn it is.
    pub probability: Percent,
    /// Only every n-th event.
    pub every: Option<u64>,
    /// Only events behind the first n.
    pub after: Option<u64>,
    /// At most n hits.
    pub limit: Option<u64>,
}

impl Default for When {
    fn default() -> Self {
        Self { probability: Percent::ALL, every: None, after: None, limit: None }
    }
}

impl When {
    /// Reads `10%`, `every=7`, `after=100`, `limit=1000` or several of them.
    pub fn from_parts<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Self, Problems> {
        let mut when = Self::default();
        let mut problems = Problems::default();
        for part in parts {
            let slot = match part.split_once('=') {
                Some(("every", number)) => Some((&mut when.every, number)),
                Some(("after", number)) => Some((&mut when.after, number)),
                Some(("limit", number)) => Some((&mut when.limit, number)),
                Some(_) => None,
                None => {
                    when.probability = problems.take(part.parse()).unwrap_or(Percent::ALL);
                    continue;
                }
            };
            match slot.map(|(slot, number)| (slot, number.parse::<u64>())) {
                Some((slot, Ok(number))) if number > 0 => *slot = Some(number),
                Some(_) => problems.0.push(format!("'{part}' needs a whole number of at least 1")),
                None => problems.0.push(format!(
                    "'{part}' is not known: write every=N, after=N or limit=N, for calls also comm=NAME or uid=USER"
                )),
            }
        }
        problems.or(|| when)
    }

    /// Whether the kernel has to count across CPUs, which needs fetching atomics (5.12).
    pub fn is_exact(&self) -> bool {
        self.every.is_some() || self.after.is_some() || self.limit.is_some()
    }

    /// Writes it into a rule.
    pub fn encode(&self, rule: &mut Rule) {
        rule.probability_q32 = self.probability.q32();
        if self.every.is_some() || self.after.is_some() {
            rule.when |= WHEN_COUNTED;
            rule.every = self.every.unwrap_or(1);
            rule.after = self.after.unwrap_or(0);
        }
        if let Some(limit) = self.limit {
            rule.when |= WHEN_LIMITED;
            rule.limit = limit;
        }
    }
}

/// As in "10% of".
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.probability)?;
        if let Some(every) = self.every {
            write!(f, " of every {every}th")?;
        }
        if let Some(after) = self.after {
            write!(f, " after the first {after}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " up to {limit} times")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_read() {
        let when = When::from_parts("10%,every=7,after=100,limit=1000".split(',')).unwrap();
        assert_eq!(
            (when.probability.percent(), when.every, when.after, when.limit),
            (10.0, Some(7), Some(100), Some(1000))
        );
        let mut rule = Rule::default();
        when.encode(&mut rule);
        assert_eq!(
            (rule.when, rule.every, rule.after, rule.limit),
            (WHEN_COUNTED | WHEN_LIMITED, 7, 100, 1000)
        );
        let problems = When::from_parts("every=0,never=1,10".split(',')).unwrap_err();
        assert_eq!(problems.0.len(), 3, "{problems}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,32}") {
            let _ = When::from_parts(text.split(','));
        }
    }
}
