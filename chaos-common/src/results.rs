//! Several results of one rule, drawn by weight.

use crate::{limits::RESULTS_MAX, probability::ALWAYS};

/// What a call may return, with the bounds of a uniform 32-bit draw. Unused places repeat the last result.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// A draw below its bound and not below the one before gives the result of the same place. 2^32 is above every draw.
    pub bounds_q32: [u64; RESULTS_MAX],
    /// As in [`crate::rule::Rule::result`].
    pub values: [i64; RESULTS_MAX],
}

impl Results {
    /// Shares the draws by weight: each bound is the exact share rounded down to 2^-32, so no result's share is off by
    /// more than that. `None` for no results, too many of them, or weights that are all 0.
    pub fn new(weighted: impl ExactSizeIterator<Item = (i64, u32)> + Clone) -> Option<Self> {
        let total: u64 = weighted.clone().map(|(_, weight)| u64::from(weight)).sum();
        if total == 0 || weighted.len() > RESULTS_MAX {
            return None;
        }
        let mut results = Self { bounds_q32: [ALWAYS; RESULTS_MAX], values: [0; RESULTS_MAX] };
        let (mut below, mut last) = (0u64, 0);
        for (index, (value, weight)) in weighted.enumerate() {
            below += u64::from(weight);
            results.bounds_q32[index] = (u128::from(below) * u128::from(ALWAYS) / u128::from(total)) as u64;
            results.values[index] = value;
            last = index;
        }
        let value = results.values[last];
        results.values[last + 1..].fill(value);
        Some(results)
    }

    /// The place of the result for a draw. Without branches: eight bounds by way of jumps would be eight times the paths
    /// for the kernel's verifier.
    #[inline(always)]
    pub fn place(&self, draw: u32) -> usize {
        let mut place = 0;
        for bound in &self.bounds_q32[..RESULTS_MAX - 1] {
            // 1 where the bound is not above the draw: the subtraction wraps below 0.
            place += bound.wrapping_sub(1).wrapping_sub(u64::from(draw)) >> 63;
        }
        place as usize & (RESULTS_MAX - 1)
    }
}

const _: () = assert!(size_of::<Results>() == 128 && RESULTS_MAX.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_share_the_draws() {
        let results = Results::new([(-28, 3), (-5, 1)].into_iter()).unwrap();
        assert_eq!(&results.bounds_q32[..3], [3 << 30, ALWAYS, ALWAYS]);
        let of = |draw| results.values[results.place(draw)];
        assert_eq!([of(0), of((3 << 30) - 1), of(3 << 30), of(u32::MAX)], [-28, -28, -5, -5]);
        assert!(Results::new([].into_iter()).is_none());
        assert!(Results::new([(0, 0)].into_iter()).is_none());
        assert!(Results::new([(0, 1); RESULTS_MAX + 1].into_iter()).is_none());
        assert!(Results::new([(0, 1); RESULTS_MAX].into_iter()).is_some());
    }

    proptest! {
        /// Every draw gives the result whose share it lies in, and no share is off by more than one draw.
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(1u32.., 1..=RESULTS_MAX), draw in any::<u32>()) {
            let results = Results::new(weights.iter().enumerate().map(|(i, weight)| (i as i64, *weight))).unwrap();
            let place = results.place(draw);
            prop_assert!(place < weights.len());
            prop_assert!(u64::from(draw) < results.bounds_q32[place]);
            prop_assert!(place == 0 || u64::from(draw) >= results.bounds_q32[place - 1]);
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut low = 0;
            for (weight, bound) in weights.iter().zip(results.bounds_q32) {
                let share = (bound - low) as f64;
                prop_assert!((share - f64::from(*weight) / total * ALWAYS as f64).abs() <= 1.5);
                low = bound;
            }
        }
    }
}
