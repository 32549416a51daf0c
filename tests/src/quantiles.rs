//! Distances of distributions that are known by their percentiles, or by a table of tc.

use anyhow::{Context as _, Result, ensure};

/// Units of netem's tables in one jitter (`NETEM_DIST_SCALE`, include/uapi/linux/pkt_sched.h).
const SCALE: f64 = 8192.0;

/// Where tc has its tables: Debian's, and as it is built from source.
const DIRECTORIES: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu/tc", "/usr/lib/aarch64-linux-gnu/tc", "/usr/lib/tc"];

/// A distribution by its quantiles, from the 0th to the last in equal steps.
#[derive(Clone, Debug)]
pub struct Quantiles(Vec<f64>);

impl Quantiles {
    /// From sorted quantiles in equal steps, two at least.
    pub fn new(sorted: Vec<f64>) -> Result<Self> {
        ensure!(sorted.len() >= 2 && sorted.is_sorted(), "no quantiles: {sorted:?}");
        Ok(Self(sorted))
    }

    /// What netem is told by `delay MEAN JITTER [distribution NAME]`: from the file that tc reads, or uniform without a name.
    pub fn of_netem(mean: f64, jitter: f64, name: Option<&str>) -> Result<Self> {
        let Some(name) = name else { return Self::new(vec![mean - jitter, mean + jitter]) };
        let path = DIRECTORIES.map(|directory| format!("{directory}/{name}.dist"));
        let path = path.into_iter().find(|path| std::path::Path::new(path).exists());
        let path = path.with_context(|| format!("tc has no table of {name}"))?;
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let words = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        let table: Vec<f64> =
            words.map(str::parse).collect::<Result<_, _>>().with_context(|| format!("{path} is no table"))?;
        let mut sorted: Vec<f64> = table.into_iter().map(|entry| mean + jitter * entry / SCALE).collect();
        sorted.sort_by(f64::total_cmp);
        Self::new(sorted)
    }

    /// What this share of the values is not above, 0 to 1.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = share.clamp(0.0, 1.0) * (self.0.len() - 1) as f64;
        let (low, high) = (self.0[place.floor() as usize], self.0[place.ceil() as usize]);
        low + (high - low) * place.fract()
    }

    /// The share that is not above `value`.
    fn share(&self, value: f64) -> f64 {
        let steps = (self.0.len() - 1) as f64;
        let above = self.0.partition_point(|quantile| *quantile <= value);
        let (Some(below), Some(next)) = (above.checked_sub(1), self.0.get(above)) else {
            return if above == 0 { 0.0 } else { 1.0 };
        };
        (below as f64 + (value - self.0[below]) / (next - self.0[below])) / steps
    }

    /// The largest difference of the shares below a value (Kolmogorov and Smirnov), looked at where `self` has its quantiles.
    pub fn distance(&self, other: &Self) -> f64 {
        let steps = (self.0.len() - 1) as f64;
        let differences =
            self.0.iter().enumerate().map(|(i, value)| (i as f64 / steps - other.share(*value)).abs());
        differences.fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(low: f64, high: f64) -> Quantiles {
        Quantiles::new((0..=100).map(|i| low + (high - low) * f64::from(i) / 100.0).collect()).unwrap()
    }

    #[test]
    fn a_shift_is_its_share_of_the_width() {
        let distance = uniform(51.0, 71.0).distance(&Quantiles::of_netem(60.0, 10.0, None).unwrap());
        assert!((distance - 0.05).abs() < 1e-9, "{distance}");
        assert!(uniform(50.0, 70.0).distance(&uniform(50.0, 70.0)) < 1e-9);
        assert!(uniform(0.0, 1.0).distance(&uniform(2.0, 3.0)) > 0.999);
    }

    #[test]
    fn quantiles_lie_between_those_that_are_known() {
        let known = Quantiles::new(vec![1.0, 2.0, 4.0]).unwrap();
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|share| known.quantile(share)), [1.0, 1.5, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn disorder_and_a_single_value_are_refused() {
        assert!(Quantiles::new(vec![1.0]).is_err());
        assert!(Quantiles::new(vec![2.0, 1.0]).is_err());
    }
}
