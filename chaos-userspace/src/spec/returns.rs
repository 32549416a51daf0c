//! What a call that is hit returns.

use super::{Problems, syscall::Error, syscall_match::split_options};
use chaos_common::limits::RESULTS_MAX;
use std::{fmt, str::FromStr};

/// One result of a call that does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// It fails.
    Error(Error),
    /// It claims success: a value of 0 and more.
    Value(i64),
}

impl Return {
    /// As the kernel returns it.
    pub fn register(self) -> i64 {
        match self {
            Self::Error(error) => -i64::from(error.number()),
            Self::Value(value) => value,
        }
    }
}

impl FromStr for Return {
    type Err = String;

    /// Reads `EIO`, `5` or `return=0`.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(value) = text.strip_prefix("return=") else {
            return text.parse().map(Self::Error);
        };
        // Beyond i64 it would be an errno again.
        value.parse().ok().filter(|value| *value >= 0).map(Self::Value).ok_or_else(|| {
            format!(
                "'{text}' needs a whole number from 0 to {}: to fail a call name an errno, as in EIO",
                i64::MAX
            )
        })
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Value(value) => write!(f, "return={value}"),
        }
    }
}

/// One result, or several with their weights. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returns(Vec<(Return, u32)>);

impl Returns {
    /// The results with their weights.
    pub fn weighted(&self) -> &[(Return, u32)] {
        &self.0
    }

    /// The result, if there is but one.
    pub fn only(&self) -> Option<Return> {
        match self.0[..] {
            [(only, _)] => Some(only),
            _ => None,
        }
    }

    /// What the mechanism has to be able to do.
    pub fn needs(&self) -> Needs {
        let any = |test: fn(i64) -> bool| self.0.iter().any(|(result, _)| test(result.register()));
        Needs { zero: any(|value| value == 0), value: any(|value| value > 0) }
    }

    /// Reads the results at the start of what follows `SYSCALL=`, which is up to the first `@` or the first part that is
    /// no result. Returns the other parts too: a share, and options.
    pub fn split(text: &str) -> (Result<Self, Problems>, Vec<&str>) {
        let (mut results, mut options) = (vec![], vec![]);
        for (number, part) in split_options(text).into_iter().enumerate() {
            if !options.is_empty() {
                options.push(part);
                continue;
            }
            let (result, share) = match part.split_once('@') {
                Some((result, share)) => (result, Some(share)),
                None => (part, None),
            };
            let is_result = number == 0
                || result.starts_with("return=")
                || !(result.contains('=') || result.ends_with('%'));
            if is_result {
                results.push(result);
                options.extend(share);
            } else {
                options.push(part);
            }
        }
        (Self::read(&results), options)
    }

    /// Reads results with their weights: `EIO`, `EIO:3`, `return=0:1`.
    pub fn read(parts: &[&str]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut weighted = vec![];
        for part in parts {
            let (result, weight) = match part.split_once(':') {
                Some((result, weight)) => (result, Some(weight)),
                None => (*part, None),
            };
            if weight.is_none() && parts.len() > 1 && result.starts_with(|first: char| first.is_ascii_digit())
            {
                problems.0.push(format!(
                    "'{part}' may be a share or an errno: write {part}% or, for an errno of a list, {part}:1"
                ));
                continue;
            }
            let weight = match weight.map(|weight| (weight, weight.parse::<u32>())) {
                None => 1,
                Some((_, Ok(number))) if number > 0 => number,
                Some((text, _)) => {
                    problems
                        .0
                        .push(format!("'{text}' of '{part}' needs a whole number of at least 1 as weight"));
                    1
                }
            };
            if let Some(result) = problems.take(result.parse()) {
                weighted.push((result, weight));
            }
        }
        if parts.len() > RESULTS_MAX {
            problems.0.push(format!("{} results are above the limit of {RESULTS_MAX}", parts.len()));
        }
        problems.or(|| Self(weighted))
    }
}

impl From<Return> for Returns {
    fn from(only: Return) -> Self {
        Self(vec![(only, 1)])
    }
}

/// As on the command line, so that it can serve as a name.
impl fmt::Display for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(only) = self.only() {
            return only.fmt(f);
        }
        let all: Vec<_> = self.0.iter().map(|(result, weight)| format!("{result}:{weight}")).collect();
        f.write_str(&all.join(","))
    }
}

/// What results ask of a mechanism beyond errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Success with the value 0.
    pub zero: bool,
    /// Success with a value above 0.
    pub value: bool,
}

impl Needs {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self { zero: self.zero || other.zero, value: self.value || other.value }
    }

    /// Whether errors are all.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (String, Vec<&str>) {
        let (results, options) = Returns::split(text);
        (results.map_or_else(|problems| format!("? {problems}"), |results| results.to_string()), options)
    }

    #[test]
    fn results_end_where_options_begin() {
        let cases: [(&str, &str, &[&str]); 11] = [
            ("EIO", "EIO", &[]),
            ("EIO@10%", "EIO", &["10%"]),
            ("EIO,10%", "EIO", &["10%"]),
            ("EIO,every=2", "EIO", &["every=2"]),
            ("ENOSPC:3,EIO:1@10%,limit=4", "ENOSPC:3,EIO:1", &["10%", "limit=4"]),
            ("ENOSPC:3,5:1,limit=4,EIO", "ENOSPC:3,EIO:1", &["limit=4", "EIO"]),
            ("EIO,ENOSPC", "EIO:1,ENOSPC:1", &[]),
            ("EIO,comm=a@b\\,c,uid=1", "EIO", &["comm=a@b\\,c", "uid=1"]),
            ("return=0", "return=0", &[]),
            ("return=4096:2,EAGAIN@1%", "return=4096:2,EAGAIN:1", &["1%"]),
            ("EIO,return=7,after=1", "EIO:1,return=7:1", &["after=1"]),
        ];
        for (text, results, options) in cases {
            assert_eq!(read(text), (results.to_owned(), options.to_vec()), "{text}");
        }
    }

    #[test]
    fn bad_results_are_named() {
        for (text, word) in [
            ("EIOO", "did you mean EIO"),
            ("EIO:0", "weight"),
            ("EIO:x,ENOSPC", "'x'"),
            ("return=-1", "errno"),
            ("return=9223372036854775808", "9223372036854775807"),
            ("EIO,10", "10%"),
            ("EIO,,EIO", "''"),
            ("1:1,2:1,3:1,4:1,5:1,6:1,7:1,8:1,9:1", "limit of 8"),
        ] {
            assert!(
                read(text).0.starts_with("? ") && read(text).0.contains(word),
                "{text}: {}",
                read(text).0
            );
        }
    }

    #[test]
    fn what_a_mechanism_must_be_able_to_do() {
        let needs = |text| Returns::split(text).0.unwrap().needs();
        assert!(needs("EIO,ENOSPC").is_none());
        assert_eq!(needs("return=0"), Needs { zero: true, value: false });
        assert_eq!(needs("return=1,EIO"), Needs { zero: false, value: true });
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = Returns::split(&text);
        }

        /// What is shown can be read again.
        #[test]
        fn lists_are_read_back(list in prop::collection::vec((1u32..=4095, 1u32.., any::<bool>()), 2..=8)) {
            let words: Vec<_> = list
                .iter()
                .map(|(number, weight, lie)| format!("{}{number}:{weight}", if *lie { "return=" } else { "" }))
                .collect();
            let returns = Returns::split(&words.join(",")).0.unwrap();
            prop_assert_eq!(Returns::split(&returns.to_string()).0.unwrap(), returns.clone());
            prop_assert_eq!(returns.weighted().len(), list.len());
        }
    }
}
