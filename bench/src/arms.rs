//! Arms that are measured in turns, and what to tell of them.

use anyhow::Result;
use serde_json::{Value, json};

/// What is compared with each other, in one run.
pub struct Arms {
    names: Vec<String>,
    /// By arm, one figure per round.
    figures: Vec<Vec<f64>>,
}

impl Arms {
    /// Measures every arm once per round, beginning with another one each time. The first arm is what the others are
    /// compared with, and the second has to be the same as it: the difference of the two is noise.
    pub fn measure(
        names: &[&str],
        rounds: usize,
        mut round: impl FnMut(usize) -> Result<f64>,
    ) -> Result<Self> {
        let mut figures = vec![vec![]; names.len()];
        for turn in 0..rounds {
            for place in 0..names.len() {
                let arm = (place + turn) % names.len();
                figures[arm].push(round(arm)?);
            }
        }
        Ok(Self { names: names.iter().map(|name| (*name).to_owned()).collect(), figures })
    }

    /// Arms that were measured together: one row of figures per round.
    pub fn of_rounds(names: &[&str], rounds: &[Vec<f64>]) -> Self {
        let column = |arm: usize| rounds.iter().filter_map(|round| round.get(arm).copied()).collect();
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            figures: (0..names.len()).map(column).collect(),
        }
    }

    /// By arm: the least, the median, and the median of the differences to the first arm with their quartiles, round by
    /// round.
    pub fn told(&self) -> Value {
        let Some(base) = self.figures.first() else { return json!([]) };
        let told = |(name, figures): (&String, &Vec<f64>)| {
            let differences: Vec<f64> = figures.iter().zip(base).map(|(own, base)| own - base).collect();
            let ratios: Vec<f64> = figures.iter().zip(base).map(|(own, base)| own / base).collect();
            json!({
                "arm": name,
                "rounds": figures.len(),
                "min": rounded(quantile(figures, 0.0)),
                "median": rounded(quantile(figures, 0.5)),
                "added": rounded(quantile(&differences, 0.5)),
                "added_quartiles": [rounded(quantile(&differences, 0.25)), rounded(quantile(&differences, 0.75))],
                "ratio": rounded(quantile(&ratios, 0.5)),
            })
        };
        self.names.iter().zip(&self.figures).map(told).collect()
    }
}

/// What a share of the values lies below. 0 for none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

/// A distribution: some of its quantiles and every value, in its order.
pub fn distribution(values: &[f64]) -> Value {
    json!({
        "n": values.len(),
        "min": rounded(quantile(values, 0.0)),
        "p50": rounded(quantile(values, 0.5)),
        "p90": rounded(quantile(values, 0.9)),
        "p99": rounded(quantile(values, 0.99)),
        "max": rounded(quantile(values, 1.0)),
        "values": values.iter().map(|value| rounded(*value)).collect::<Vec<_>>(),
    })
}

/// To three places, which is more than any of these figures is good for.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_taken_round_by_round() {
        // A drift that hits all arms of a round alike is no difference.
        let rounds = [vec![10.0, 10.5, 30.0], vec![110.0, 109.5, 130.0], vec![10.0, 10.0, 31.0]];
        let told = Arms::of_rounds(&["empty", "empty again", "ours"], &rounds).told();
        assert_eq!(told[2]["added"], 20.0);
        assert_eq!(told[1]["added"], 0.0);
        assert_eq!(told[2]["min"], 30.0);
        assert_eq!(told[0]["ratio"], 1.0);
    }

    #[test]
    fn every_arm_has_its_turn_in_every_place() {
        let mut course = vec![];
        let arms = Arms::measure(&["a", "b"], 2, |arm| {
            course.push(arm);
            Ok(arm as f64)
        });
        assert_eq!(course, [0, 1, 1, 0]);
        assert_eq!(arms.unwrap().told()[1]["added"], 1.0);
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(distribution(&[1.0, 2.0])["max"], 2.0);
    }
}
