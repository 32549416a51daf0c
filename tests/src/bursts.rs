//! Losses in a row: whether they are independent, and whether their lengths are those of a model.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::binomial::ALPHA;

/// Standard errors that a correct injector exceeds less than once in a million judgements.
const SIGMAS: f64 = 5.0;

/// Runs by their length: how many there are, and how many losses are in them.
pub fn runs_and_losses(bursts: &BTreeMap<u64, u64>) -> (u64, u64) {
    (bursts.values().sum(), bursts.iter().map(|(length, count)| length * count).sum())
}

/// The mean length.
pub fn mean(bursts: &BTreeMap<u64, u64>) -> f64 {
    let (runs, losses) = runs_and_losses(bursts);
    losses as f64 / runs as f64
}

/// Judges by the number of runs of losses (Wald and Wolfowitz) whether `n` verdicts were independent of each other, given how
/// many were losses. Samples too small for its approximation by a normal distribution are not judged.
pub fn check_independent(what: &str, bursts: &BTreeMap<u64, u64>, n: u64) -> Result<()> {
    let (runs, losses) = runs_and_losses(bursts);
    let (runs, hit, n) = (runs as f64, losses as f64, n as f64);
    let spared = n - hit;
    let expected = hit * (spared + 1.0) / n;
    let error = (hit * (hit - 1.0) * spared * (spared + 1.0) / (n * n * (n - 1.0))).sqrt();
    if error < 10.0 {
        return Ok(());
    }
    ensure!(
        (runs - expected).abs() < SIGMAS * error,
        "{what}: {losses} losses of {n} came in {runs} runs, where independent ones come in {expected:.0} +- {error:.0}"
    );
    Ok(())
}

/// Judges whether lengths of runs, independent of each other, are distributed as asked: `longer(k)` is the probability that
/// one has more than `k` losses. By the bound of Dvoretzky, Kiefer and Wolfowitz; returns the distance and its bound.
pub fn check_lengths(
    what: &str,
    bursts: &BTreeMap<u64, u64>,
    longer: impl Fn(u64) -> f64,
) -> Result<(f64, f64)> {
    let (runs, _) = runs_and_losses(bursts);
    ensure!(runs > 0, "{what}: no losses at all");
    let longest = bursts.keys().last().copied().unwrap_or_default();
    let distance = |k: u64| {
        let measured = bursts.range(k + 1..).map(|(_, count)| count).sum::<u64>() as f64 / runs as f64;
        (measured - longer(k)).abs()
    };
    let distance = (0..=longest).map(distance).fold(0.0, f64::max);
    let bound = ((2.0 / ALPHA).ln() / (2.0 * runs as f64)).sqrt();
    ensure!(
        distance <= bound,
        "{what}: lengths of {runs} runs are {distance:.4} from their distribution, {bound:.4} is allowed: {bursts:?}"
    );
    Ok((distance, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verdicts of a chain that goes on losing with `stay` and begins to with `begin`.
    fn chain(n: u64, begin: f64, stay: f64) -> BTreeMap<u64, u64> {
        let (mut state, mut length) = (0x9e37_79b9_7f4a_7c15u64, 0);
        let mut bursts = BTreeMap::new();
        for _ in 0..n {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let draw = (state >> 11) as f64 / (1u64 << 53) as f64;
            if draw < if length > 0 { stay } else { begin } {
                length += 1;
            } else if length > 0 {
                *bursts.entry(length).or_default() += 1;
                length = 0;
            }
        }
        bursts
    }

    #[test]
    fn independence_is_told_from_a_chain() {
        assert!(check_independent("loss", &chain(100_000, 0.3, 0.3), 100_000).is_ok());
        assert!(check_independent("loss", &chain(100_000, 0.3, 0.35), 100_000).is_err());
        assert!(check_independent("total", &[(500, 1)].into(), 500).is_ok());
    }

    #[test]
    fn lengths_are_told_from_others() {
        let bursts = chain(400_000, 0.02, 0.75);
        assert!((mean(&bursts) - 4.0).abs() < 0.2, "{}", mean(&bursts));
        assert!(check_lengths("chain", &bursts, |k| 0.75f64.powi(k as i32)).is_ok());
        assert!(check_lengths("chain", &bursts, |k| 0.65f64.powi(k as i32)).is_err());
    }
}
