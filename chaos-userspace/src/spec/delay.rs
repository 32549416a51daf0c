//! Delay, jitter and rate, in netem's words.

use super::units::{Bytes, Percent, duration};
use std::{fmt, str::FromStr, time::Duration};

/// How packets are held back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delay {
    /// Mean time a packet is held back.
    pub latency: Duration,
    /// How far single packets differ from it: the half width of the uniform distribution, the standard deviation of the
    /// others.
    pub jitter: Duration,
    /// How they differ.
    pub distribution: Distribution,
    /// How much of a packet's jitter is that of the packet before it.
    pub correlation: Percent,
    /// Packets leave no faster than this.
    pub rate: Option<Rate>,
    /// So much leaves at once before the rest waits for the rate.
    pub burst: Option<Bytes>,
    /// Socket buffers the line holds at most; the default follows from a bound on memory.
    pub limit: Option<u32>,
}

impl Delay {
    /// As lines can do it: what a burst lets go at once has its delay all the same, so that its rate needs a line of its own
    /// behind that of the delay.
    pub fn lines(self) -> Vec<Self> {
        let rate_alone = self.latency.is_zero() && self.jitter.is_zero();
        if self.burst.is_none() || rate_alone {
            return vec![self];
        }
        let rate = Self { rate: self.rate, burst: self.burst, limit: self.limit, ..Self::default() };
        vec![Self { rate: None, burst: None, ..self }, rate]
    }
}

/// Longest delay and jitter that can be asked for.
pub const DELAY_MAX: Duration = Duration::from_secs(600);

/// How delays are spread around their mean.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// All within the jitter are equally likely.
    #[default]
    Uniform,
    /// The bell curve.
    Normal,
    /// Few, but long ones.
    Pareto,
    /// A quarter normal, three quarters Pareto.
    #[value(name = "paretonormal")]
    ParetoNormal,
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Normal => "normal",
            Self::Pareto => "pareto",
            Self::ParetoNormal => "paretonormal",
        })
    }
}

/// Reads a delay or a jitter.
pub fn time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time > DELAY_MAX {
        return Err(format!("'{text}' is above the limit of {}s", DELAY_MAX.as_secs()));
    }
    Ok(time)
}

/// Bits per second on the wire, link-layer headers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// As netem counts.
    pub fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 4] =
            [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("bit", 1)];
        let lower = text.to_ascii_lowercase();
        let (number, unit) =
            UNITS.iter().find_map(|(name, unit)| Some((lower.strip_suffix(name)?, *unit))).ok_or_else(
                || format!("'{text}' is not a rate: write the unit, as in 500kbit, 10mbit or 1gbit"),
            )?;
        let number: f64 = number
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number > 0.0)
            .ok_or_else(|| format!("'{text}' is not a rate: write a number above 0, as in 10mbit"))?;
        let bits = number * unit as f64;
        if !(8.0..=1e12).contains(&bits) {
            return Err(format!("'{text}' is not between the limits of 8bit and 1000gbit"));
        }
        Ok(Self(bits as u64))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000_000 == 0 => write!(f, "{}gbit", bits / 1_000_000_000),
            bits if bits % 1_000_000 == 0 => write!(f, "{}mbit", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{}kbit", bits / 1_000),
            bits => write!(f, "{bits}bit"),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.latency.is_zero() {
            write!(f, "by {:?}", self.latency)?;
        }
        if !self.jitter.is_zero() {
            write!(f, " +- {:?} ({}", self.jitter, self.distribution)?;
            if self.correlation.percent() > 0.0 {
                write!(f, ", correlation {}", self.correlation)?;
            }
            f.write_str(")")?;
        }
        if let Some(rate) = self.rate {
            let and = if self.latency.is_zero() { "" } else { ", " };
            write!(f, "{and}at no more than {rate}")?;
            if let Some(burst) = self.burst {
                write!(f, " behind the first {burst}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_need_their_unit_and_range() {
        assert_eq!("10mbit".parse::<Rate>().unwrap().bytes_per_second(), 1_250_000);
        assert_eq!("0.5Kbit".parse::<Rate>().unwrap().to_string(), "500bit");
        assert_eq!("1gbit".parse::<Rate>().unwrap().to_string(), "1gbit");
        for bad in ["10", "", "mbit", "-1mbit", "0kbit", "1bit", "2000gbit", "NaNbit", "10mbps"] {
            let error = bad.parse::<Rate>().unwrap_err();
            assert!(error.contains(bad), "{bad}: {error}");
        }
    }

    #[test]
    fn a_burst_does_not_let_go_of_the_delay() {
        let (rate, burst) = ("10mbit".parse().ok(), "32kb".parse().ok());
        let slow = Delay { latency: Duration::from_millis(5), limit: Some(9), ..Delay::default() };
        let thin = Delay { rate, burst, limit: Some(9), ..Delay::default() };
        let both = Delay { rate, burst, ..slow.clone() };
        assert_eq!(both.to_string(), "by 5ms, at no more than 10mbit behind the first 32kb");
        assert_eq!(both.lines(), [slow.clone(), thin.clone()]);
        assert_eq!(thin.clone().lines(), [thin]);
        let plain = Delay { rate, ..slow };
        assert_eq!(plain.clone().lines(), [plain]);
    }

    #[test]
    fn times_have_a_limit() {
        assert_eq!(time("100ms").unwrap(), Duration::from_millis(100));
        assert!(time("601s").unwrap_err().contains("600s"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = text.parse::<Rate>();
            let _ = time(&text);
        }
    }
}
