//! Probabilities as the kernel compares them.

/// A probability as a 32-bit fixed-point number: an event is hit when a uniform 32-bit draw is below it. [`ALWAYS`]
/// (2^32) is above every draw.
pub type Q32 = u64;

/// Every event.
pub const ALWAYS: Q32 = 1 << 32;
/// No event.
pub const NEVER: Q32 = 0;

/// Whether a uniform 32-bit `draw` hits.
#[inline(always)]
pub fn hits(probability_q32: Q32, draw: u32) -> bool {
    (draw as u64) < probability_q32
}

/// The step of SplitMix64.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The draw for the `ordinal`-th decision of a rule with this seed: SplitMix64 (Steele, Lea, Flood 2014), whose output
/// is uniform for consecutive ordinals.
#[inline(always)]
pub fn seeded_draw(seed: u64, ordinal: u64) -> u32 {
    (mix(seed.wrapping_add(ordinal.wrapping_mul(GOLDEN_GAMMA))) >> 32) as u32
}

/// A second draw for the same decision, independent of [`seeded_draw`]: the other half of the generator's 64 bits.
#[inline(always)]
pub fn second_draw(seed: u64, ordinal: u64) -> u32 {
    mix(seed.wrapping_add(ordinal.wrapping_mul(GOLDEN_GAMMA))) as u32
}

/// The output function of SplitMix64: spreads the bits of a number over all 64.
#[inline(always)]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_draws_repeat_and_are_uniform() {
        let hits_of = |seed| (1..=100_000).filter(|n| hits(ALWAYS / 10, seeded_draw(seed, *n))).count();
        // Five standard deviations of the binomial distribution with n = 100 000, p = 0.1.
        for seed in 0..20 {
            assert!((9_525..=10_475).contains(&hits_of(seed)), "seed {seed}: {}", hits_of(seed));
        }
        assert_eq!(seeded_draw(42, 7), seeded_draw(42, 7));
        assert_ne!(seeded_draw(42, 7), seeded_draw(43, 7));
        assert_ne!(seeded_draw(42, 7), seeded_draw(42, 8));
    }

    #[test]
    fn ends_are_exact() {
        assert!(hits(ALWAYS, u32::MAX));
        assert!(!hits(NEVER, 0));
        assert!(hits(1, 0));
        assert!(!hits(1, 1));
    }
}
