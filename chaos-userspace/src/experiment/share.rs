//! A share that was asked for against the share that came about.

use serde::Serialize;

/// A share with its interval of confidence, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Achieved {
    /// Hits of all that could have been hit.
    pub percent: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// Two-sided 95 % of the normal distribution.
const Z_95: f64 = 1.959_964;

impl Achieved {
    /// Wilson's interval of 95 %. `None` without events.
    pub fn of(hits: u64, events: u64) -> Option<Self> {
        if events == 0 {
            return None;
        }
        let (n, p) = (events as f64, hits as f64 / events as f64);
        let z2 = Z_95 * Z_95;
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z_95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let low = if hits == 0 { 0.0 } else { (middle - half).max(0.0) };
        let high = if hits == events { 1.0 } else { (middle + half).min(1.0) };
        Some(Self { percent: p * 100.0, low: low * 100.0, high: high * 100.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_what_was_hit() {
        assert_eq!(Achieved::of(0, 0), None);
        let half = Achieved::of(50, 100).unwrap();
        assert!(
            (half.percent - 50.0).abs() < 1e-9
                && (half.low - 40.38).abs() < 0.01
                && (half.high - 59.62).abs() < 0.01
        );
        let all = Achieved::of(10, 10).unwrap();
        assert_eq!((all.percent, all.high), (100.0, 100.0));
        assert!(all.low > 60.0);
        assert_eq!(Achieved::of(0, 10).unwrap().low, 0.0);
    }
}
