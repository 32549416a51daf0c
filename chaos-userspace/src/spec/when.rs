//! Which of the matched events are hit.

use super::{Problems, units::Percent};
use chaos_common::rule::{Rule, WHEN_COUNTED, WHEN_FIRST, WHEN_LIMITED, WHEN_PER_PROCESS};
use std::{fmt, str::FromStr};

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
    /// Only these, by number; in place of `every` and `after`.
    pub turns: Option<Turns>,
    /// Every process (thread group) counts for itself.
    pub per_process: bool,
}

/// Events by number, counted from 1: strace's `when=first[..last][+[step]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// The first one.
    pub first: u64,
    /// None behind this one.
    pub last: Option<u32>,
    /// From one to the next.
    pub step: u64,
}

impl FromStr for Turns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || -> Option<Self> {
            let at_least_1 = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
            let (range, step) = match text.split_once('+') {
                Some((range, "")) => (range, Some(1)),
                Some((range, step)) => (range, Some(at_least_1(step)?)),
                None => (text, None),
            };
            let (first, last) = match range.split_once("..") {
                Some((first, last)) => (at_least_1(first)?, Some(at_least_1(last)?)),
                // A first one alone is the last one too.
                None => (at_least_1(range)?, step.is_none().then(|| at_least_1(range)).flatten()),
            };
            if last.is_some_and(|last| last < first) {
                return None;
            }
            let last = last.map(u32::try_from).transpose().ok()?;
            Some(Self { first, last, step: step.unwrap_or(1) })
        };
        read().ok_or_else(|| {
            format!(
                "'{text}' is not FIRST[..LAST][+[STEP]] in whole numbers from 1, LAST not below FIRST and at most {}",
                u32::MAX
            )
        })
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) if u64::from(last) == self.first => return write!(f, "number {last}"),
            Some(last) => write!(f, "numbers {} to {last}", self.first)?,
            None => write!(f, "numbers from {} on", self.first)?,
        }
        if self.step > 1 { write!(f, " in steps of {}", self.step) } else { Ok(()) }
    }
}

impl Default for When {
    fn default() -> Self {
        Self {
            probability: Percent::ALL,
            every: None,
            after: None,
            limit: None,
            turns: None,
            per_process: false,
        }
    }
}

impl When {
    /// Reads `10%`, `every=7`, `after=100`, `limit=1000`, `when=3..9+2`, `per=process` or several of them.
    pub fn from_parts<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Self, Problems> {
        let mut when = Self::default();
        let mut problems = Problems::default();
        for part in parts {
            let slot = match part.split_once('=') {
                Some(("every", number)) => Some((&mut when.every, number)),
                Some(("after", number)) => Some((&mut when.after, number)),
                Some(("limit", number)) => Some((&mut when.limit, number)),
                Some(("when", turns)) => {
                    when.turns = problems.take(turns.parse()).or(when.turns);
                    continue;
                }
                Some(("per", "process")) => {
                    when.per_process = true;
                    continue;
                }
                Some(("per", "target")) => {
                    when.per_process = false;
                    continue;
                }
                Some(("per", _)) => {
                    problems.0.push(format!("'{part}' is not known: write per=target or per=process"));
                    continue;
                }
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
                    "'{part}' is not known: write every=N, after=N, limit=N or when=FIRST[..LAST][+[STEP]], for calls also \
                     per=process, comm=, uid=, path=, fd=, size>=, access=, remote= or remote-port="
                )),
            }
        }
        if when.turns.is_some() && (when.every.is_some() || when.after.is_some()) {
            problems.0.push("when= says all that every= and after= say: leave them out".to_owned());
        }
        if when.per_process && problems.0.is_empty() && !when.is_exact() {
            problems.0.push("per=process says who counts: add every=, after=, limit= or when=".to_owned());
        }
        problems.or(|| when)
    }

    /// Whether the kernel has to count across CPUs, which needs fetching atomics (5.12).
    pub fn is_exact(&self) -> bool {
        self.every.is_some() || self.after.is_some() || self.limit.is_some() || self.turns.is_some()
    }

    /// Writes it into a rule.
    pub fn encode(&self, rule: &mut Rule) {
        rule.probability_q32 = self.probability.q32();
        if self.every.is_some() || self.after.is_some() {
            rule.when |= WHEN_COUNTED;
            rule.every = self.every.unwrap_or(1);
            rule.after = self.after.unwrap_or(0);
        }
        if let Some(turns) = self.turns {
            rule.when |= WHEN_COUNTED | WHEN_FIRST;
            rule.after = turns.first - 1;
            rule.last = turns.last.unwrap_or(0);
            rule.every = turns.step;
        }
        if self.per_process {
            rule.when |= WHEN_PER_PROCESS;
        }
        if let Some(limit) = self.limit {
            rule.when |= WHEN_LIMITED;
            rule.limit = limit;
        }
    }
}

/// What stands behind a number of a place, as in 2nd.
fn ordinal(number: u64) -> &'static str {
    match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

/// As in "10% of".
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.probability)?;
        if let Some(every) = self.every {
            write!(f, " of every {every}{}", ordinal(every))?;
        }
        if let Some(after) = self.after {
            write!(f, " after the first {after}")?;
        }
        if let Some(turns) = self.turns {
            write!(f, " of {turns}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " up to {limit} times")?;
        }
        if self.per_process {
            write!(f, ", counted in each process,")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_counted_as_people_do() {
        let shown =
            [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(|number| format!("{number}{}", ordinal(number)));
        assert_eq!(shown.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th");
    }

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

    #[test]
    fn straces_expressions_are_read() {
        let turns = |text: &str| {
            let turns: Turns = text.parse().unwrap();
            (turns.first, turns.last, turns.step)
        };
        assert_eq!(turns("3"), (3, Some(3), 1));
        assert_eq!(turns("3..5"), (3, Some(5), 1));
        assert_eq!(turns("3+"), (3, None, 1));
        assert_eq!(turns("3..5+"), (3, Some(5), 1));
        assert_eq!(turns("3+2"), (3, None, 2));
        assert_eq!(turns("3..9+2"), (3, Some(9), 2));
        for bad in
            ["", "0", "+", "+2", "3+0", "3..2", "3..", "..3", "3+2+", "3...5", "a", "-1", "1..4294967296"]
        {
            let problem = When::from_parts(std::iter::once(format!("when={bad}").as_str())).unwrap_err();
            assert!(problem.to_string().contains("FIRST"), "{bad}: {problem}");
        }
        let problem = When::from_parts("when=3,every=2".split(',')).unwrap_err().to_string();
        assert!(problem.contains("leave them out"), "{problem}");
        let problem = When::from_parts("per=process".split(',')).unwrap_err().to_string();
        assert!(problem.contains("add every="), "{problem}");
        assert!(When::from_parts("per=thread".split(',')).unwrap_err().to_string().contains("per=process"));
        let mut rule = Rule::default();
        When::from_parts("when=3..9+2,per=process".split(',')).unwrap().encode(&mut rule);
        assert_eq!((rule.after, rule.last, rule.every), (2, 9, 2));
        assert_eq!(rule.when, WHEN_COUNTED | WHEN_FIRST | WHEN_PER_PROCESS);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,32}") {
            let _ = When::from_parts(text.split(','));
        }
    }
}
