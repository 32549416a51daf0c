//! Loss with a memory: netem's two Markov chains, one step per packet (`loss_gilb_ell` and `loss_4state`,
//! net/sched/sch_netem.c). Pure: the hook keeps the state and draws.

use crate::probability::{Q32, hits};

/// No chain: losses are independent.
pub const CHAIN_NONE: u32 = 0;
/// Gilbert-Elliott: a good and a bad state, each with its share of losses.
pub const CHAIN_GILBERT_ELLIOTT: u32 = 1;
/// Four states: gaps with isolated losses, bursts with isolated receptions.
pub const CHAIN_FOUR_STATES: u32 = 2;

/// Probabilities of a chain.
///
/// Gilbert-Elliott: p (good to bad), r (bad to good), 1-h (loss in bad), 1-k (loss in good). Four states: p13, p31, p32,
/// p23, p14.
pub type Probabilities = [Q32; 5];

/// The state every chain begins in: nothing is lost, or little.
pub const GOOD: u64 = 0;
/// Gilbert-Elliott: the bad state. Four states: lost within a burst (netem's state 3).
pub const BAD: u64 = 1;
/// Four states: received within a burst (netem's state 2).
pub const BURST_RECEIVED: u64 = 2;
/// Four states: lost within a gap (netem's state 4).
pub const GAP_LOST: u64 = 3;

/// What a packet does to a chain. A plain record for the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state after the packet.
    pub state: u64,
    /// 1 if the packet is lost.
    pub lost: u32,
}

/// One packet: two uniform 32-bit draws decide.
#[inline(always)]
pub fn step(kind: u32, p: &Probabilities, state: u64, transition: u32, loss: u32) -> Step {
    if kind == CHAIN_GILBERT_ELLIOTT {
        gilbert_elliott(p, state, transition, loss)
    } else {
        four_states(p, state, transition)
    }
}

/// As in netem, the share of losses is that of the state before the step.
#[inline(always)]
fn gilbert_elliott(p: &Probabilities, state: u64, transition: u32, loss: u32) -> Step {
    let [to_bad, to_good, lost_in_bad, lost_in_good, _] = *p;
    let bad = state == BAD;
    let changes = hits(if bad { to_good } else { to_bad }, transition);
    let lost = hits(if bad { lost_in_bad } else { lost_in_good }, loss);
    Step { state: if bad != changes { BAD } else { GOOD }, lost: lost as u32 }
}

/// As in netem, the packet's fate is that of the state after the step.
#[inline(always)]
fn four_states(p: &Probabilities, state: u64, draw: u32) -> Step {
    let [p13, p31, p32, p23, p14] = *p;
    let next = if state == BURST_RECEIVED {
        if hits(p23, draw) { BAD } else { BURST_RECEIVED }
    } else if state == BAD {
        if hits(p32, draw) {
            BURST_RECEIVED
        } else if hits(p32 + p31, draw) {
            GOOD
        } else {
            BAD
        }
    } else if state == GAP_LOST {
        // An isolated loss is followed by a reception.
        GOOD
    } else if hits(p14, draw) {
        GAP_LOST
    } else if hits(p14 + p13, draw) {
        BAD
    } else {
        GOOD
    };
    Step { state: next, lost: (next == BAD || next == GAP_LOST) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probability::{ALWAYS, seeded_draw};

    fn q32(p: f64) -> Q32 {
        (p * ALWAYS as f64).round() as Q32
    }

    /// Losses of `n` packets.
    fn run(kind: u32, p: [f64; 5], n: u64, seed: u64) -> Vec<bool> {
        let p = p.map(q32);
        let mut state = GOOD;
        (0..n)
            .map(|packet| {
                let draws = (seeded_draw(seed, 2 * packet), seeded_draw(seed, 2 * packet + 1));
                let step = step(kind, &p, state, draws.0, draws.1);
                state = step.state;
                step.lost == 1
            })
            .collect()
    }

    fn share(losses: &[bool]) -> f64 {
        losses.iter().filter(|lost| **lost).count() as f64 / losses.len() as f64
    }

    /// Lengths of runs of losses: how many are longer than 0, 1, 2, ...
    fn bursts(losses: &[bool]) -> Vec<u64> {
        let mut longer = vec![0; 64];
        for burst in losses.split(|lost| !lost).filter(|burst| !burst.is_empty()) {
            for count in longer.iter_mut().take(burst.len()) {
                *count += 1;
            }
        }
        longer
    }

    const N: u64 = 1_000_000;

    #[test]
    fn gilbert_elliott_loses_its_mean() {
        // Share of time in bad is p / (p + r).
        for (p, r, in_bad, in_good) in
            [(0.01, 0.1, 1.0, 0.0), (0.05, 0.3, 0.7, 0.01), (0.2, 0.2, 0.5, 0.1), (1.0, 0.0, 1.0, 0.0)]
        {
            let bad = p / (p + r);
            let mean = bad * in_bad + (1.0 - bad) * in_good;
            let measured = share(&run(CHAIN_GILBERT_ELLIOTT, [p, r, in_bad, in_good, 0.0], N, 7));
            // Bursts correlate: the standard error of independent losses, times ten.
            let limit = 10.0 * (mean * (1.0 - mean) / N as f64).sqrt() + 2.0 / N as f64;
            assert!((measured - mean).abs() < limit, "{p} {r}: {measured} instead of {mean}");
        }
    }

    #[test]
    fn bursts_of_the_simple_gilbert_model_are_geometric() {
        let r = 0.25;
        let longer = bursts(&run(CHAIN_GILBERT_ELLIOTT, [0.02, r, 1.0, 0.0, 0.0], N, 8));
        for length in 1..8 {
            let (expected, n) = (f64::powi(1.0 - r, length), longer[0] as f64);
            let measured = longer[length as usize] as f64 / n;
            let limit = 6.0 * (expected * (1.0 - expected) / n).sqrt();
            assert!((measured - expected).abs() < limit, "longer than {length}: {measured}, {expected}");
        }
    }

    #[test]
    fn four_states_lose_their_mean_and_bursts() {
        let [p13, p31, p32, p23, p14] = [0.01, 0.2, 0.1, 0.5, 0.005];
        let losses = run(CHAIN_FOUR_STATES, [p13, p31, p32, p23, p14], N, 9);
        // Balance: pi1 p13 = pi3 p31, pi3 p32 = pi2 p23, pi1 p14 = pi4.
        let of_good = [1.0, p13 / p31 * p32 / p23, p13 / p31, p14];
        let sum: f64 = of_good.iter().sum();
        let mean = (of_good[2] + of_good[3]) / sum;
        assert!((share(&losses) - mean).abs() < 0.003, "{} instead of {mean}", share(&losses));
        // A run of losses goes on only within a burst: it begins in state 3 or is an isolated one.
        let begins = of_good[0] * p13 + of_good[1] * p23;
        let isolated = of_good[0] * p14;
        let stay = 1.0 - p31 - p32;
        let longer = bursts(&losses);
        for length in 1..6 {
            let expected = begins / (begins + isolated) * f64::powi(stay, length);
            let measured = longer[length as usize] as f64 / longer[0] as f64;
            let limit = 6.0 * (expected * (1.0 - expected) / longer[0] as f64).sqrt();
            assert!((measured - expected).abs() < limit, "longer than {length}: {measured}, {expected}");
        }
    }

    #[test]
    fn an_isolated_loss_is_followed_by_a_reception() {
        let losses = run(CHAIN_FOUR_STATES, [0.0, 1.0, 0.0, 1.0, 0.3], 100_000, 3);
        assert!((share(&losses) - 0.3 / 1.3).abs() < 0.01);
        assert!(losses.windows(2).all(|pair| !(pair[0] && pair[1])));
    }
}
