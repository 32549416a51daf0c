//! Tables of delays for netem: quantiles of a distribution, in units of the jitter.
//!
//! netem draws an entry at random and multiplies it with the jitter (`tabledist`, net/sched/sch_netem.c). The formulas
//! are those of iproute2's generators: `pareto` has the shape 3 and is shifted and scaled to a mean of 0,
//! `paretonormal` is a quarter normal and three quarters Pareto.

use crate::spec::delay::Distribution;
use std::f64::consts::TAU;

/// Entries of a table: as many as iproute2's have.
const ENTRIES: usize = 4096;
/// `NETEM_DIST_SCALE` (include/uapi/linux/pkt_sched.h): one jitter.
const SCALE: f64 = 8192.0;

/// The table of a distribution; none for the uniform one, which netem computes.
pub fn table(distribution: Distribution) -> Option<Vec<i16>> {
    let quantile: fn(f64) -> f64 = match distribution {
        Distribution::Uniform => return None,
        Distribution::Normal => normal,
        Distribution::Pareto => pareto,
        Distribution::ParetoNormal => |p| 0.25 * normal(p) + 0.75 * pareto(p),
    };
    let entry = |number: usize| {
        let p = (number as f64 + 0.5) / ENTRIES as f64;
        (quantile(p) * SCALE).round().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
    };
    Some((0..ENTRIES).map(entry).collect())
}

/// The uniform distribution as a table, for a line that has another one.
pub fn uniform() -> Vec<i16> {
    let entry = |number: usize| {
        let p = (number as f64 + 0.5) / ENTRIES as f64;
        ((2.0 * p - 1.0) * SCALE).round() as i16
    };
    (0..ENTRIES).map(entry).collect()
}

/// Quantile of the Pareto distribution with minimum 1 and shape 3, less its mean of 3/2, divided by its variance of
/// 3/4, as far as a table entry reaches.
fn pareto(p: f64) -> f64 {
    (((1.0 - p).powf(-1.0 / 3.0) - 1.5) * 4.0 / 3.0).min(f64::from(i16::MAX) / SCALE)
}

/// Quantile of the standard normal distribution, by bisection.
fn normal(p: f64) -> f64 {
    let (mut low, mut high) = (-6.0, 6.0);
    while high - low > 1e-9 {
        let middle = f64::midpoint(low, high);
        if normal_below(middle) < p { low = middle } else { high = middle }
    }
    low
}

/// Distribution function of the standard normal distribution: 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ...).
fn normal_below(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-12 {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(table: &[i16]) -> (f64, f64) {
        let n = table.len() as f64;
        let mean = table.iter().map(|entry| f64::from(*entry) / SCALE).sum::<f64>() / n;
        let square = table.iter().map(|entry| (f64::from(*entry) / SCALE - mean).powi(2)).sum::<f64>() / n;
        (mean, square.sqrt())
    }

    #[test]
    fn quantiles_of_the_normal_distribution_are_the_published_ones() {
        for (p, x) in [(0.5, 0.0), (0.841_344_746, 1.0), (0.975, 1.959_963_985), (0.999, 3.090_232_306)] {
            assert!((normal(p) - x).abs() < 1e-6, "{p}: {}", normal(p));
            assert!((normal(1.0 - p) + x).abs() < 1e-6, "{p}");
        }
    }

    #[test]
    fn tables_have_the_mean_0_and_the_jitter_as_deviation() {
        let (mean, deviation) = moments(&table(Distribution::Normal).unwrap());
        assert!(mean.abs() < 0.001 && (deviation - 1.0).abs() < 0.005, "{mean} {deviation}");
        // Deviation of the Pareto distribution: sqrt(3/4) times 4/3, less what the range of 16 bits cuts off.
        let (mean, deviation) = moments(&table(Distribution::Pareto).unwrap());
        assert!(mean.abs() < 0.04 && (0.7..1.155).contains(&deviation), "{mean} {deviation}");
        assert_eq!(table(Distribution::Uniform), None);
    }

    #[test]
    fn tables_grow_and_differ() {
        let tables: Vec<_> = [Distribution::Normal, Distribution::Pareto, Distribution::ParetoNormal]
            .into_iter()
            .filter_map(table)
            .collect();
        for table in &tables {
            assert_eq!(table.len(), ENTRIES);
            assert!(table.is_sorted());
        }
        // Median of paretonormal: three quarters of the Pareto's.
        let (pareto, both) = (f64::from(tables[1][ENTRIES / 2]), f64::from(tables[2][ENTRIES / 2]));
        assert!((both - 0.75 * pareto).abs() < 8.0, "{pareto} {both}");
        assert!(pareto < 0.0);
    }
}
