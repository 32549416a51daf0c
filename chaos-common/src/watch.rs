//! Times of system calls that are watched, for experiments that ask how long the target's own calls take.

/// Calls that are watched at most, each in a slot of its own.
pub const WATCHED_MAX: u32 = 16;

/// Calls of a target that may be under way at the same time, one per thread.
pub const UNDER_WAY_MAX: u32 = 16_384;

/// A call that is under way; the key of its map is the address of the thread's `task_struct`, which exec does not change
/// (`de_thread`, fs/exec.c, gives the caller another id).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// When it began (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Process (upper half) and thread.
    pub thread: u64,
    /// Slot of the call.
    pub slot: u64,
}

const _: () = assert!(size_of::<Begun>() == 24);

/// Buckets per doubling of the time: a time is known to a sixteenth of its power of two, 6.25% at most.
const PARTS_LOG2: u32 = 4;
/// Below 2^10 ns, buckets are 64 ns wide.
const FIRST_OCTAVE: u32 = 10;
/// From 2^40 ns (18 minutes) on, all times are in the last bucket.
const LAST_OCTAVE: u32 = 39;

/// Buckets of a histogram.
pub const BUCKETS: usize = ((LAST_OCTAVE - FIRST_OCTAVE + 2) << PARTS_LOG2) as usize;

/// What became of one call, by one processor; or of several, by all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Those that returned an error.
    pub failed: u64,
    /// Those that could not be timed: more than [`UNDER_WAY_MAX`] were under way.
    pub untimed: u64,
    /// Those that took as long as [`bucket`] says.
    pub buckets: [u64; BUCKETS],
}

const _: () = assert!(size_of::<Times>() == 16 + 8 * BUCKETS);

impl Default for Times {
    fn default() -> Self {
        Self { failed: 0, untimed: 0, buckets: [0; BUCKETS] }
    }
}

impl Times {
    /// These as well.
    pub fn add(&mut self, other: &Self) {
        self.failed += other.failed;
        self.untimed += other.untimed;
        for (total, part) in self.buckets.iter_mut().zip(&other.buckets) {
            *total += part;
        }
    }

    /// One more that has taken so long.
    pub fn add_time(&mut self, ns: u64) {
        self.buckets[bucket(ns) as usize] += 1;
    }

    /// What has come since. Counters of other processors may be read a little earlier or later than those of one's own.
    pub fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        since.failed = since.failed.saturating_sub(before.failed);
        since.untimed = since.untimed.saturating_sub(before.untimed);
        for (count, earlier) in since.buckets.iter_mut().zip(&before.buckets) {
            *count = count.saturating_sub(*earlier);
        }
        since
    }

    /// How many were timed.
    pub fn ended(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The bucket of a time in nanoseconds.
#[inline(always)]
pub const fn bucket(ns: u64) -> u32 {
    let mut octave = 0;
    let mut rest = ns;
    // Steps instead of `leading_zeros`, which BPF has no instruction for.
    let mut step = 32;
    while step > 0 {
        if rest >> step != 0 {
            octave += step;
            rest >>= step;
        }
        step /= 2;
    }
    if octave < FIRST_OCTAVE {
        return (ns >> (FIRST_OCTAVE - PARTS_LOG2)) as u32;
    }
    if octave > LAST_OCTAVE {
        return BUCKETS as u32 - 1;
    }
    let part = (ns >> (octave - PARTS_LOG2)) as u32 & ((1 << PARTS_LOG2) - 1);
    ((octave - FIRST_OCTAVE + 1) << PARTS_LOG2) + part
}

/// The longest time of a bucket, in nanoseconds; the last one has none and is said to end at 2^40.
pub const fn longest_ns(bucket: u32) -> u64 {
    let parts = 1 << PARTS_LOG2;
    let (row, part) = ((bucket >> PARTS_LOG2), (bucket % parts) as u64);
    if row == 0 {
        return ((part + 1) << (FIRST_OCTAVE - PARTS_LOG2)) - 1;
    }
    let octave = row - 1 + FIRST_OCTAVE;
    (1 << octave) + ((part + 1) << (octave - PARTS_LOG2)) - 1
}

/// Whether a call that returned this had failed. What the kernel starts again for a signal (`ERESTARTSYS` and its kin,
/// include/linux/errno.h) has neither failed nor ended for its caller.
#[inline(always)]
pub const fn is_error(value: i64) -> bool {
    value < 0 && value >= -4095 && !is_restarted(value)
}

/// Whether the kernel makes the call again, or hands `EINTR` to who caught the signal.
#[inline(always)]
pub const fn is_restarted(value: i64) -> bool {
    matches!(value, -516 | -514 | -513 | -512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_one_another() {
        for number in 0..BUCKETS as u32 {
            assert_eq!(bucket(longest_ns(number)), number);
            if number + 1 < BUCKETS as u32 {
                assert_eq!(bucket(longest_ns(number) + 1), number + 1);
            }
        }
        assert_eq!(longest_ns(BUCKETS as u32 - 1), (1 << 40) - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS as u32 - 1);
    }

    #[test]
    fn a_call_that_is_made_again_has_not_failed() {
        assert!(is_error(-5) && is_error(-4095) && is_error(-515));
        assert!(!is_error(-512) && !is_error(0) && !is_error(7) && !is_error(-4096));
    }

    proptest! {
        #[test]
        fn a_time_is_known_to_a_sixteenth(ns in 1024u64..1 << 40) {
            let told = longest_ns(bucket(ns));
            prop_assert!(told >= ns && (told - ns) as f64 <= ns as f64 / 16.0);
        }
    }
}
