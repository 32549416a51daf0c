//! Per-CPU counters.

use crate::maps::{KC_COUNTERS, KC_EVENTS_LOST};
use chaos_common::counter::{OUTCOMES, Outcome};
use core::arch::asm;

/// How much one event counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Weight {
    /// Packets on the wire, or 1 for a system call.
    pub segments: u64,
    /// Bytes, or 0 for a system call.
    pub bytes: u64,
}

/// Adds one event to `outcome` of `rule`.
#[inline(always)]
pub fn count(rule: u32, outcome: Outcome, weight: &Weight) {
    let Some(counters) = KC_COUNTERS.get_ptr_mut(rule) else { return };
    // SAFETY: the pointer is the current CPU's value, valid for the program's run; the masked index is in range.
    let counter = unsafe { &raw mut (*counters).outcomes[outcome as usize & (OUTCOMES - 1)] };
    // SAFETY: the fields are aligned `u64`s of a map value and are only ever changed by `add` in the kernel.
    unsafe {
        add(&raw mut (*counter).events, 1);
        add(&raw mut (*counter).segments, weight.segments);
        add(&raw mut (*counter).bytes, weight.bytes);
    }
}

/// Takes an event back from `Injected` of `rule`, because it could not be carried out, and counts it as an error.
#[inline(always)]
pub fn recount_as_error(rule: u32, weight: &Weight) {
    let Some(counters) = KC_COUNTERS.get_ptr_mut(rule) else { return };
    // SAFETY: the pointer is the current CPU's value, valid for the program's run; the index is in range.
    let counter = unsafe { &raw mut (*counters).outcomes[Outcome::Injected as usize] };
    // SAFETY: as in `count`; adding the two's complement subtracts.
    unsafe {
        add(&raw mut (*counter).events, u64::MAX);
        add(&raw mut (*counter).segments, weight.segments.wrapping_neg());
        add(&raw mut (*counter).bytes, weight.bytes.wrapping_neg());
    }
    count(rule, Outcome::Error, weight);
}

/// Counts an event that could not be recorded.
#[inline(always)]
pub fn count_lost() {
    let Some(lost) = KC_EVENTS_LOST.get_ptr_mut(0) else { return };
    // SAFETY: as in `count`.
    unsafe { add(lost, 1) };
}

/// Atomic addition. A task inside a trampoline can be preempted by another one on the same CPU, so even per-CPU sums
/// need it. Written out because the target's `AtomicU64` has no additions (it is defined for processors without
/// compare-and-swap), and because 5.10 refuses the fetching form.
///
/// # Safety
///
/// `sum` is an aligned `u64` of a map value.
#[inline(always)]
pub unsafe fn add(sum: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) sum, in(reg) value) };
}
