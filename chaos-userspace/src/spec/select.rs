//! How many of the targets that fit are hit.

use super::units::Percent;
use std::{fmt, str::FromStr};

/// Millionths of a whole.
const WHOLE_PPM: u64 = 1_000_000;

/// How many of the targets that fit are hit; which ones is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// All of them.
    #[default]
    All,
    /// One.
    One,
    /// So many.
    Fixed(usize),
    /// This share of them in millionths, rounded down.
    Percent(u64),
    /// A share that is drawn: at least one, at most this share in millionths.
    RandomMaxPercent(u64),
}

impl FromStr for Select {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ppm = |share: Percent| (share.percent() * (WHOLE_PPM as f64 / 100.0)).round() as u64;
        let share = |text: &str| text.parse().map(ppm);
        match text {
            "all" => return Ok(Self::All),
            "one" => return Ok(Self::One),
            _ => {}
        }
        let chosen = match (text.strip_prefix("random-max:"), text.parse()) {
            (Some(most), _) => share(most).map(Self::RandomMaxPercent),
            (None, Ok(count)) => Ok(Self::Fixed(count)),
            (None, Err(_)) if text.ends_with('%') => share(text).map(Self::Percent),
            (None, Err(_)) => {
                Err(format!("{text:?} chooses no targets: write one, all, 3, 30% or random-max:30%"))
            }
        }?;
        match chosen {
            Self::Fixed(0) | Self::Percent(0) | Self::RandomMaxPercent(0) => {
                Err(format!("{text:?} chooses no target: choose one at least"))
            }
            chosen => Ok(chosen),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ppm: u64| ppm as f64 / (WHOLE_PPM as f64 / 100.0);
        match self {
            Self::All => write!(f, "all"),
            Self::One => write!(f, "one"),
            Self::Fixed(count) => write!(f, "{count}"),
            Self::Percent(ppm) => write!(f, "{}%", percent(*ppm)),
            Self::RandomMaxPercent(ppm) => write!(f, "random-max:{}%", percent(*ppm)),
        }
    }
}

impl Select {
    /// How many of `matching` targets it is. `draw` is uniform.
    ///
    /// Shares are rounded down, so that never more is hit than was meant; none, or more than there are, is an error.
    pub fn count(self, matching: usize, draw: u64) -> Result<usize, String> {
        let share = |ppm: u64| (matching as u128 * u128::from(ppm) / u128::from(WHOLE_PPM)) as usize;
        let count = match self {
            Self::All => matching,
            Self::One => 1,
            Self::Fixed(count) => count,
            Self::Percent(ppm) => share(ppm),
            Self::RandomMaxPercent(ppm) => match share(ppm) {
                0 => 0,
                most => 1 + (draw % most as u64) as usize,
            },
        };
        match count {
            0 => Err(format!(
                "--select {self}: of {matching} targets that fit that is none; choose a larger share, or one"
            )),
            count if count > matching => Err(format!(
                "--select {self}: only {matching} targets fit; choose {matching} or fewer, or all"
            )),
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_shown() {
        for text in ["one", "all", "3", "30%", "0.5%", "random-max:30%"] {
            assert_eq!(text.parse::<Select>().unwrap().to_string(), text);
        }
        for bad in
            ["", "0", "0%", "none", "-1", "101%", "random-max:30", "random-max:0%", "random:5%", "fixed 3"]
        {
            assert!(bad.parse::<Select>().is_err(), "{bad}");
        }
    }

    #[test]
    fn never_more_than_was_meant() {
        let count = |text: &str, matching| text.parse::<Select>().unwrap().count(matching, 12_345);
        assert_eq!(count("all", 7), Ok(7));
        assert_eq!(count("one", 7), Ok(1));
        assert_eq!(count("3", 7), Ok(3));
        assert_eq!(count("50%", 7), Ok(3));
        assert_eq!(count("100%", 7), Ok(7));
        assert!(count("8", 7).unwrap_err().contains("only 7"));
        assert!(count("10%", 7).unwrap_err().contains("none"));
        assert!(count("random-max:10%", 7).is_err());
        let most: Select = "random-max:50%".parse().unwrap();
        let drawn: std::collections::BTreeSet<_> =
            (0..100).map(|draw| most.count(10, draw).unwrap()).collect();
        assert_eq!(drawn, (1..=5).collect());
    }
}
