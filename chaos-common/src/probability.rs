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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_exact() {
        assert!(hits(ALWAYS, u32::MAX));
        assert!(!hits(NEVER, 0));
        assert!(hits(1, 0));
        assert!(!hits(1, 1));
    }
}
