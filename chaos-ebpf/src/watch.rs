//! How long a target's own calls take. Nothing is changed, and nothing is asked of who is not the target.

use crate::{
    count::add,
    maps::{KC_TIMES, KC_UNDER_WAY},
    syscall::patched,
    target,
};
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns};
use chaos_common::{
    syscall::{HOOK_MAGIC, SLOT_MAGIC},
    watch::{Begun, Times, bucket, is_error, is_restarted},
};
use core::{arch::asm, hint::black_box};

/// Before the function of a call (`fentry`), one copy for each; the loader writes the call's slot over [`SLOT_MAGIC`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/kc_watch_begin")]
pub extern "C" fn kc_watch_begin(_ctx: *const u64) -> i32 {
    if target::of_task().is_some() {
        begin();
    }
    0
}

/// Behind it (`fexit`), also where a fault has replaced it. The result stands behind the arguments, whose number the
/// loader writes over [`HOOK_MAGIC`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "fexit/kc_watch_end")]
pub extern "C" fn kc_watch_end(ctx: *const u64) -> i32 {
    if target::of_task().is_some() {
        end(result(ctx));
    }
    0
}

/// The function's result. Loads are written out: the compiler would make them one, from a context that was added to, which
/// the verifier refuses.
#[inline(always)]
pub fn result(ctx: *const u64) -> i64 {
    let value: i64;
    // SAFETY: the verifier follows one of both and checks it by the function's own type.
    unsafe {
        if patched::<HOOK_MAGIC>() == 0 {
            asm!("{0} = *(u64 *)({1} + 0)", out(reg) value, in(reg) ctx);
        } else {
            asm!("{0} = *(u64 *)({1} + 8)", out(reg) value, in(reg) ctx);
        }
    }
    value
}

#[inline(always)]
fn begin() {
    let slot = patched::<SLOT_MAGIC>();
    // SAFETY: the helpers have no preconditions.
    let (task, begun) = unsafe {
        let begun =
            Begun { at_ns: bpf_ktime_get_ns(), thread: bpf_get_current_pid_tgid(), slot: u64::from(slot) };
        (bpf_get_current_task(), begun)
    };
    if KC_UNDER_WAY.insert(task, begun, 0).is_err()
        && let Some(times) = times(slot)
    {
        // SAFETY: the pointer is the current CPU's value, a map value that is never moved.
        unsafe { add(&raw mut (*times).untimed, 1) };
    }
}

#[inline(always)]
fn end(value: i64) {
    // SAFETY: the helpers have no preconditions.
    let (task, now) = unsafe { (bpf_get_current_task(), bpf_ktime_get_ns()) };
    // SAFETY: nobody but this thread writes this entry while it is in the call.
    let Some(begun) = (unsafe { KC_UNDER_WAY.get(task) }) else { return };
    let took = now.saturating_sub(begun.at_ns);
    let _gone_already = KC_UNDER_WAY.remove(task);
    if is_restarted(value) {
        return;
    }
    let Some(times) = times(patched::<SLOT_MAGIC>()) else { return };
    // The verifier wants to see that it is within the array; the compiler knows it already.
    let place = black_box(bucket(took)) as usize;
    // SAFETY: as above.
    unsafe {
        if let Some(bucket) = (*times).buckets.get_mut(place) {
            add(bucket, 1);
        }
        if is_error(value) {
            add(&raw mut (*times).failed, 1);
        }
    }
}

#[inline(always)]
fn times(slot: u32) -> Option<*mut Times> {
    KC_TIMES.get_ptr_mut(slot)
}
