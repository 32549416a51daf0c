//! Who is hit.

use crate::limits::TARGETS_MAX;

/// What a target cgroup is subject to: the value of the target table, whose key is the cgroup id (the inode number of
/// the cgroup directory, `cgroup_id()` of include/linux/cgroup.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Rules, one bit each. Written last when a target is added, cleared first when it is removed.
    pub rules: u64,
    /// Runs, one bit each.
    pub runs: u64,
}

const _: () = assert!(size_of::<Target>() == 16);

/// 64-bit words of the filter of targets for so many of them: some sixteen bits each, so that of the cgroups that are none
/// one in sixteen at most is looked up in the target table.
pub const fn filter_words(targets: usize) -> usize {
    let words = (targets * FILTER_BITS_PER_TARGET).div_ceil(64).next_power_of_two();
    if words < 2 {
        2
    } else if words > FILTER_WORDS_MAX {
        FILTER_WORDS_MAX
    } else {
        words
    }
}

/// Bits of the filter per target, at least.
const FILTER_BITS_PER_TARGET: usize = 16;
/// Words of the largest filter.
pub const FILTER_WORDS_MAX: usize = TARGETS_MAX as usize * FILTER_BITS_PER_TARGET / 64;

/// The word of the filter that a cgroup's bit is in, and the bit. `shift` is [`filter_shift`] of its words. Ids are counted up
/// by the kernel, so that neighbours must not share a word: multiplied with the golden ratio they lie apart.
#[inline(always)]
pub const fn filter_place(id: u64, shift: u32) -> (u32, u64) {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = id.wrapping_mul(GOLDEN);
    ((mixed >> shift) as u32, 1 << (mixed >> (shift - 6) & 63))
}

/// How far a mixed id is shifted for a filter of so many words, which is a power of two of at least 2.
pub const fn filter_shift(words: usize) -> u32 {
    64 - words.trailing_zeros()
}

/// Compare one ancestor of the event's cgroup with up to [`crate::limits::FAST_TARGETS_MAX`] read-only ids.
pub const SELECT_FAST: u32 = 0;
/// Look up the ancestor at every level in use in the target table, behind a filter.
pub const SELECT_LEVELS: u32 = 1;
/// Ask the kernel for each target whether the task is below it (`bpf_current_task_under_cgroup`): the only way for
/// tracing programs before 5.12, which brought `bpf_get_current_ancestor_cgroup_id` to them.
pub const SELECT_WALK: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_strangers_pass_the_filter() {
        for targets in [1usize, 2, 9, 100, 1000, TARGETS_MAX as usize] {
            let words = filter_words(targets);
            assert!(words.is_power_of_two() && (2..=FILTER_WORDS_MAX).contains(&words));
            let shift = filter_shift(words);
            let mut filter = vec![0u64; words];
            // Every third cgroup of those made one after another is a target.
            let ids = |rest: u64| (0..targets as u64).map(move |number| 5000 + 3 * number + rest);
            for (word, bit) in ids(0).map(|id| filter_place(id, shift)) {
                filter[word as usize] |= bit;
            }
            let passes = |id: u64| {
                let (word, bit) = filter_place(id, shift);
                filter[word as usize] & bit != 0
            };
            assert!(ids(0).all(passes));
            let strangers = ids(1).filter(|id| passes(*id)).count();
            assert!(strangers <= targets / 8 + 1, "{strangers} of {targets}");
        }
    }
}
