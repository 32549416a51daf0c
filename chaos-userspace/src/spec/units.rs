//! Percentages and durations. A unit is required: a bare number is ambiguous and therefore an error.

use chaos_common::probability::{ALWAYS, Q32};
use std::{fmt, str::FromStr, time::Duration};

/// A share of events, 0 % to 100 %, kept as the user wrote it and as the kernel compares it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percent(f64);

/// Smallest percentage above 0 that the kernel can draw: one in 2^32.
const PERCENT_MIN: f64 = 100.0 / ALWAYS as f64;

impl Percent {
    /// Every event.
    pub const ALL: Self = Self(100.0);
    /// No event.
    pub const NONE: Self = Self(0.0);

    /// All the others.
    pub fn rest(self) -> Self {
        Self(100.0 - self.0)
    }

    /// The share that lies `part` of the way to another one: 0 is this one, 1 the other.
    pub fn towards(self, other: Self, part: f64) -> Self {
        let part = part.clamp(0.0, 1.0);
        let value = self.0 * (1.0 - part) + other.0 * part;
        // Sums of binary fractions are shown, and nobody draws a millionth of a percent on purpose.
        let value = (value * 1e9).round() / 1e9;
        // What cannot be drawn is nothing.
        if value < PERCENT_MIN { Self::NONE } else { Self(value.min(100.0)) }
    }

    /// The share in percent.
    pub fn percent(self) -> f64 {
        self.0
    }

    /// The share as the kernel compares it.
    pub fn q32(self) -> Q32 {
        // Exact for 0 and 100; otherwise off by at most half of 2^-32.
        (self.0 / 100.0 * ALWAYS as f64).round() as Q32
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix('%') else {
            return Err(format!("'{text}' is not a percentage: write the unit, as in 5% or 0.1%"));
        };
        let value: f64 = match number.parse::<f64>() {
            Ok(value) if value.is_finite() && !number.starts_with(['+', '-']) => value,
            _ => return Err(format!("'{text}' is not a percentage: write a number from 0% to 100%")),
        };
        if value > 100.0 {
            return Err(format!("'{text}' is above the limit of 100%"));
        }
        if value > 0.0 && value < PERCENT_MIN {
            return Err(format!("'{text}' is below the smallest share that can be drawn, {PERCENT_MIN:e}%"));
        }
        Ok(Self(value))
    }
}

/// A number of bytes, in the units of tc: `b`, `kb` and `mb`, of 1024 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(u64);

/// Most bytes that can be asked for.
const BYTES_MAX: u64 = 1 << 30;

impl Bytes {
    /// How many.
    pub fn count(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 3] = [("kb", 1 << 10), ("mb", 1 << 20), ("b", 1)];
        let lower = text.to_ascii_lowercase();
        let (number, unit) =
            UNITS.iter().find_map(|(name, unit)| Some((lower.strip_suffix(name)?, *unit))).ok_or_else(
                || format!("'{text}' is not a number of bytes: write the unit, as in 1500b, 32kb or 1mb"),
            )?;
        let is_plain = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        let number: Option<u64> = if is_plain { number.parse().ok() } else { None };
        match number.and_then(|number| number.checked_mul(unit)) {
            Some(bytes) if (1..=BYTES_MAX).contains(&bytes) => Ok(Self(bytes)),
            Some(_) => Err(format!("'{text}' is not between the limits of 1b and 1024mb")),
            None if is_plain => Err(format!("'{text}' is not between the limits of 1b and 1024mb")),
            None => Err(format!("'{text}' is not a number of bytes: write a whole number, as in 32kb")),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}mb", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}kb", bytes >> 10),
            bytes => write!(f, "{bytes}b"),
        }
    }
}

/// Longest run that can be asked for.
pub const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads `500ms`, `60s`, `5m`, `1h`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let not_one =
        || format!("'{text}' is not a duration: write a number and its unit, as in 500ms, 60s or 5m");
    let mut rest = text;
    let mut total_ns = 0u64;
    if rest.is_empty() {
        return Err(not_one());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: f64 = number.parse().map_err(|_| not_one())?;
        let (_, unit_ns) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(not_one)?;
        let part_ns = number * *unit_ns as f64;
        if part_ns > DURATION_MAX.as_nanos() as f64 {
            return Err(format!("'{text}' is above the limit of 168h (7 days)"));
        }
        total_ns = total_ns.saturating_add(part_ns as u64);
        rest = tail;
    }
    let duration = Duration::from_nanos(total_ns);
    if duration > DURATION_MAX {
        return Err(format!("'{text}' is above the limit of 168h (7 days)"));
    }
    if duration.is_zero() {
        return Err(format!("'{text}' is no time at all: the shortest duration is 1ns"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_need_their_unit_and_range() {
        let shown = ["1500b", "32KB", "1mb", "1024mb"].map(|text| text.parse::<Bytes>().unwrap().to_string());
        assert_eq!(shown, ["1500b", "32kb", "1mb", "1024mb"]);
        for bad in ["32", "", "kb", "-1kb", "0b", "1.5kb", "1025mb", "99999999999999999999b", "1kbit"] {
            let error = bad.parse::<Bytes>().unwrap_err();
            assert!(error.contains(&format!("'{bad}'")), "{bad}: {error}");
        }
    }

    #[test]
    fn percentages_need_their_unit_and_range() {
        assert_eq!("100%".parse::<Percent>().unwrap().q32(), ALWAYS);
        assert_eq!("0%".parse::<Percent>().unwrap().q32(), 0);
        assert_eq!("50%".parse::<Percent>().unwrap().q32(), 1 << 31);
        assert_eq!("0.1%".parse::<Percent>().unwrap().q32(), 4_294_967);
        for (bad, says) in [
            ("5", "unit"),
            ("", "unit"),
            ("100.1%", "above the limit of 100%"),
            ("-1%", "from 0% to 100%"),
            ("NaN%", "from 0% to 100%"),
            ("inf%", "from 0% to 100%"),
            ("x%", "from 0% to 100%"),
            ("1e-9%", "smallest"),
        ] {
            let error = bad.parse::<Percent>().unwrap_err();
            assert!(error.contains(says) && error.contains(bad), "{bad}: {error}");
        }
    }

    #[test]
    fn durations_need_their_unit_and_range() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("0.5s").unwrap(), Duration::from_millis(500));
        for bad in ["5", "", "s", "5 s", "5x", "-5s", "1.2.3s", "0s", "169h", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = text.parse::<Percent>();
            let _ = duration(&text);
        }

        #[test]
        fn a_percentage_is_drawn_as_asked(ppm in 0u32..=1_000_000) {
            let percent: Percent = format!("{}%", f64::from(ppm) / 10_000.0).parse().unwrap();
            let drawn = percent.q32() as f64 / ALWAYS as f64;
            prop_assert!((drawn - f64::from(ppm) / 1e6).abs() <= 1.0 / ALWAYS as f64);
        }
    }
}
