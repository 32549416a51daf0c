//! Exact binomial statistics: is a measured share compatible with the probability that was asked for?

/// Error probability of one judgement: a correct injector is called wrong once in a million judgements.
pub const ALPHA: f64 = 1e-6;

/// The exact (Clopper-Pearson) confidence interval for a probability, from `hits` of `n` trials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower bound of the probability.
    pub low: f64,
    /// Upper bound of the probability.
    pub high: f64,
}

impl Interval {
    /// Whether the asked probability is compatible with what was measured.
    pub fn contains(&self, probability: f64) -> bool {
        self.low <= probability && probability <= self.high
    }
}

/// Computes the Clopper-Pearson interval with error probability `alpha`.
pub fn clopper_pearson(hits: u64, n: u64, alpha: f64) -> Interval {
    assert!(hits <= n && n > 0, "{hits} hits of {n} trials");
    let factorials = LnFactorials::up_to(n);
    let low = if hits == 0 { 0.0 } else { bisect(|p| factorials.upper_tail(hits, n, p) < alpha / 2.0) };
    let high = if hits == n { 1.0 } else { bisect(|p| factorials.lower_tail(hits, n, p) >= alpha / 2.0) };
    Interval { low, high }
}

/// Fails with a readable reason unless `hits` of `n` is compatible with `probability` at [`ALPHA`].
pub fn check_share(what: &str, hits: u64, n: u64, probability: f64) -> anyhow::Result<Interval> {
    anyhow::ensure!(n > 0, "{what}: no trials at all");
    let interval = clopper_pearson(hits, n, ALPHA);
    anyhow::ensure!(
        interval.contains(probability),
        "{what}: {hits} of {n} = {:.3} %, whose exact interval at alpha {ALPHA:e} is {:.3} % to {:.3} %, without the \
         {:.3} % that were asked for",
        100.0 * hits as f64 / n as f64,
        100.0 * interval.low,
        100.0 * interval.high,
        100.0 * probability,
    );
    Ok(interval)
}

/// The largest p in [0, 1] for which `below` holds, given that it holds up to some p and not after it.
fn bisect(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if below(middle) { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

struct LnFactorials(Vec<f64>);

impl LnFactorials {
    fn up_to(n: u64) -> Self {
        let mut sum = 0.0;
        let mut table = vec![0.0];
        table.extend((1..=n).map(|i| {
            sum += (i as f64).ln();
            sum
        }));
        Self(table)
    }

    fn ln_choose(&self, n: u64, k: u64) -> f64 {
        self.0[n as usize] - self.0[k as usize] - self.0[(n - k) as usize]
    }

    fn pmf(&self, k: u64, n: u64, p: f64) -> f64 {
        if p <= 0.0 {
            return if k == 0 { 1.0 } else { 0.0 };
        }
        if p >= 1.0 {
            return if k == n { 1.0 } else { 0.0 };
        }
        (self.ln_choose(n, k) + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
    }

    fn lower_tail(&self, k: u64, n: u64, p: f64) -> f64 {
        (0..=k).map(|i| self.pmf(i, n, p)).sum()
    }

    fn upper_tail(&self, k: u64, n: u64, p: f64) -> f64 {
        (k..=n).map(|i| self.pmf(i, n, p)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) -> bool {
        (got - want).abs() < 1e-6
    }

    #[test]
    fn agrees_with_published_intervals() {
        // R: binom.test(4, 20)$conf.int, binom.test(10, 100)$conf.int
        let interval = clopper_pearson(4, 20, 0.05);
        assert!(close(interval.low, 0.057334) && close(interval.high, 0.436614), "{interval:?}");
        let interval = clopper_pearson(10, 100, 0.05);
        assert!(close(interval.low, 0.0490047) && close(interval.high, 0.1762226), "{interval:?}");
    }

    #[test]
    fn ends_have_a_closed_form() {
        // With no hit the upper bound is 1 - (alpha/2)^(1/n), with all hits the mirror image.
        let n = 500;
        let expected = 1.0 - (ALPHA / 2.0).powf(1.0 / n as f64);
        let none = clopper_pearson(0, n, ALPHA);
        assert!(none.low == 0.0 && close(none.high, expected), "{none:?}");
        let all = clopper_pearson(n, n, ALPHA);
        assert!(all.high == 1.0 && close(all.low, 1.0 - expected), "{all:?}");
    }

    #[test]
    fn tells_one_judgement_from_two() {
        let twice = 1.0 - (1.0f64 - 0.3).powi(2);
        for n in [2_000u64, 20_000] {
            let once = clopper_pearson(n * 3 / 10, n, ALPHA);
            assert!(once.contains(0.3) && !once.contains(twice), "{n}: {once:?}");
        }
    }

    #[test]
    fn tails_sum_to_one() {
        let factorials = LnFactorials::up_to(20_000);
        for (k, p) in [(0, 0.001), (6_000, 0.3), (10_000, 0.5), (19_999, 0.999)] {
            let sum = factorials.lower_tail(k, 20_000, p) + factorials.upper_tail(k + 1, 20_000, p);
            assert!((sum - 1.0).abs() < 1e-9, "{k} {p} {sum}");
        }
    }

    #[test]
    fn a_wrong_share_is_refused_in_words() {
        let error = check_share("loss", 400, 1_000, 0.3).unwrap_err().to_string();
        assert!(error.contains("40.000 %") && error.contains("30.000 %"), "{error}");
        assert!(check_share("loss", 310, 1_000, 0.3).is_ok());
    }
}
