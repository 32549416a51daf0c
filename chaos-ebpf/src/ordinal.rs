//! Numbers that are handed out once each across all CPUs.

use crate::{globals::KC_EXACT, maps::KC_ORDINALS};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use chaos_common::decide::Source;
use core::arch::asm;

/// The kernel's answer to what a decision may need.
pub struct Kernel {
    /// The rule that decides.
    pub rule: u32,
}

impl Source for Kernel {
    #[inline(always)]
    fn next_ordinal(&mut self) -> Option<u64> {
        if KC_EXACT.load() == 0 {
            return None;
        }
        let ordinal = KC_ORDINALS.get_ptr_mut(self.rule)?;
        // SAFETY: an aligned `u64` of a map value that is only ever changed by `fetch_increment` in the kernel.
        Some(unsafe { fetch_increment(&raw mut (*ordinal).decided) } + 1)
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn next_hit(&mut self) -> Option<u64> {
        if KC_EXACT.load() == 0 {
            return None;
        }
        let ordinal = KC_ORDINALS.get_ptr_mut(self.rule)?;
        // SAFETY: as above.
        Some(unsafe { fetch_increment(&raw mut (*ordinal).asked) } + 1)
    }
}

/// Adds 1 and returns what was there before (5.12).
///
/// # Safety
///
/// `counter` is an aligned `u64` of a map value.
#[inline(always)]
unsafe fn fetch_increment(counter: *mut u64) -> u64 {
    let mut value = 1u64;
    // SAFETY: the caller's.
    unsafe {
        asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) value, in(reg) counter);
    }
    value
}
