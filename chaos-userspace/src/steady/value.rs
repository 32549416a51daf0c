//! What probes measure, and in what.

use crate::spec::units;
use serde::Serialize;
use std::fmt;

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number: of seconds, percent or bytes where the unit says so.
    Number(f64),
    /// A text.
    Text(String),
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nothing in particular.
    Number,
    /// Seconds.
    Time,
    /// Percent.
    Percent,
    /// Bytes.
    Bytes,
    /// It is a text.
    Text,
}

/// Which of so many values, the least first and counted from 1, is this quantile of them by the nearest rank; `percentile` in
/// thousandths of a percent.
pub fn rank(count: u64, percentile: u32) -> u64 {
    (u128::from(count) * u128::from(percentile)).div_ceil(100_000).max(1) as u64
}

/// Units of bytes, the longest first.
const BYTES: [(&str, f64); 7] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

impl Unit {
    /// Reads a number with its unit.
    pub fn number(self, text: &str) -> Result<f64, String> {
        let plain = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        match self {
            Self::Time => units::duration(text).map(|time| time.as_secs_f64()),
            Self::Percent => text.strip_suffix('%').and_then(plain).ok_or_else(|| {
                format!("'{text}' is not a share: write the unit, as in 5% (100% is one processor, or all the time)")
            }),
            Self::Bytes => BYTES
                .iter()
                .find_map(|(unit, bytes)| Some(plain(text.strip_suffix(unit)?)? * bytes))
                .ok_or_else(|| format!("'{text}' is no size: write the unit, as in 512MiB, 1GB or 100B")),
            Self::Number | Self::Text => {
                plain(text).ok_or_else(|| format!("'{text}' is not a number, which it is compared with"))
            }
        }
    }

    /// A number with its unit, for people.
    pub fn show(self, number: f64) -> String {
        let round = |number: f64| {
            let text = format!("{number:.3}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            text.to_owned()
        };
        match self {
            Self::Time if number == 0.0 => "0 s".to_owned(),
            Self::Time if number.abs() < 1e-3 => format!("{} us", round(number * 1e6)),
            Self::Time if number.abs() < 1.0 => format!("{} ms", round(number * 1e3)),
            Self::Time => format!("{} s", round(number)),
            Self::Percent => format!("{}%", round(number)),
            Self::Bytes => {
                let unit = BYTES.iter().take(3).rev().find(|(_, bytes)| number.abs() >= *bytes);
                match unit {
                    Some((unit, bytes)) => format!("{} {unit}", round(number / bytes)),
                    None => format!("{} B", round(number)),
                }
            }
            Self::Number | Self::Text => round(number),
        }
    }
}

/// Characters of an answer that are shown; a body can be long.
const SHOWN_MAX: usize = 120;

impl Value {
    /// The answer with its unit, for people.
    pub fn show(&self, unit: Unit) -> String {
        match self {
            Self::Number(number) => unit.show(*number),
            Self::Text(text) => {
                let shown: String =
                    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect();
                if text.chars().count() > SHOWN_MAX { format!("'{shown}...'") } else { format!("'{shown}'") }
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show(Unit::Number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_the_unit_of_what_they_are_compared_with() {
        assert_eq!(Unit::Time.number("200ms"), Ok(0.2));
        assert_eq!(Unit::Percent.number("150%"), Ok(150.0));
        assert_eq!(Unit::Bytes.number("2MiB"), Ok(2_097_152.0));
        assert_eq!(Unit::Number.number("200"), Ok(200.0));
        for (unit, bad) in [
            (Unit::Time, "200"),
            (Unit::Percent, "5"),
            (Unit::Bytes, "512"),
            (Unit::Number, "5%"),
            (Unit::Number, "inf"),
        ] {
            assert!(unit.number(bad).unwrap_err().contains(bad), "{bad}");
        }
        assert_eq!(Unit::Time.show(0.0125), "12.5 ms");
        assert_eq!(Unit::Bytes.show(1536.0), "1.5 KiB");
        assert_eq!(Unit::Percent.show(3.0), "3%");
    }
}
