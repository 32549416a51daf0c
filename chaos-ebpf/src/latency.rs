//! Calls that are held back.
//!
//! Either by the program that decides, which spins until the time is over. Or by another one that sleeps: a program that
//! may sleep can neither look at prefix trees nor be skipped where it must not sleep, so there are two on a hook:
//! [`crate::syscall::kc_hook`] decides and leaves a note, [`kc_sleep`] runs behind it and sleeps. Or by one behind the call:
//! [`crate::stop::kc_stop`] finds such a note as well.

use crate::{
    count::add,
    globals::KC_LATENCY,
    judge::{Verdict, armed},
    maps::{KC_CODES, KC_HELD, KC_HOLDS},
    target,
};
use aya_ebpf::{
    bindings::bpf_dynptr,
    helpers::generated::{bpf_dynptr_from_mem, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use chaos_common::{
    latency::{
        CODES, Hold, KFUNC_MAGIC, LATENCY_NONE, LATENCY_SPIN, LATENCY_STOP, SPIN_LOOKS, SPIN_TURNS, code,
    },
    limits::{ERRNO_MAX, SPIN_MAX_NS},
    rule::KIND_LATENCY,
    syscall::ROW_RING,
};
use core::{ffi::c_void, hint::black_box, mem::MaybeUninit};

/// The attribute that is asked for. The kernel wants its name in read-only memory (`ARG_PTR_TO_CONST_STR`).
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.kc_name")]
static KC_NAME: [u8; 12] = *b"user.kchaos\0";

/// Holds the task's call back, if that is the verdict, or leaves a note that it is to be, and then returns `value`. Whether
/// the call goes on now, and fails only when it has been held back. `row` is the call's.
#[inline(always)]
pub fn note(verdict: &Verdict, task: u64, value: i64, row: u32) -> bool {
    if KC_LATENCY.load() == LATENCY_NONE || !verdict.has(KIND_LATENCY) {
        return false;
    }
    let hold = Hold { asked_ns: verdict.latency_ns, result: value, rule: verdict.latency_rule, reserved: 0 };
    if KC_LATENCY.load() == LATENCY_SPIN {
        account(&hold, kc_spin(hold.asked_ns.min(SPIN_MAX_NS) as u32).into());
        return false;
    }
    if KC_LATENCY.load() == LATENCY_STOP {
        // What a ring does has no function of its own, behind which the note would be found.
        if row < ROW_RING {
            let _ = KC_HOLDS.insert(task, hold, 0);
        }
        return false;
    }
    match KC_HOLDS.insert(task, hold, 0) {
        Ok(()) => true,
        // Without room for it, the call is counted as let go early.
        Err(_) => {
            account(&hold, 0);
            false
        }
    }
}

/// Spins for `asked_ns` and returns for how long it did. What it is bounded by is far longer ([`SPIN_TURNS`]).
///
/// A global function, as is what it calls, for the verifier's sake: it follows each once, where it would follow the turns of
/// their loops anew in every copy of a program and on every path to them. Where nothing spins, all it follows is their way out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kc_spin(asked_ns: u32) -> u32 {
    if KC_LATENCY.load() != LATENCY_SPIN {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let begin_ns = unsafe { bpf_ktime_get_ns() };
    let mut took_ns = 0;
    for _ in 0..SPIN_TURNS {
        // SAFETY: as above.
        took_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(begin_ns) as u32;
        if took_ns >= asked_ns {
            break;
        }
        kc_spin_turn(asked_ns - took_ns);
    }
    took_ns
}

/// Spins for `left_ns`, or [`SPIN_LOOKS`] looks at the clock if that is less.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kc_spin_turn(left_ns: u32) -> u32 {
    // Below Linux 6.8 the verifier follows global functions that nobody calls, too.
    if KC_LATENCY.load() != LATENCY_SPIN {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let begin_ns = unsafe { bpf_ktime_get_ns() };
    for _ in 0..SPIN_LOOKS {
        // SAFETY: as above.
        if unsafe { bpf_ktime_get_ns() }.wrapping_sub(begin_ns) >= u64::from(left_ns) {
            return 1;
        }
    }
    0
}

/// A security hook on which programs may sleep.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm.s/kc_sleep")]
pub extern "C" fn kc_sleep(_ctx: *const u64) -> i64 {
    // As in `kc_hook`.
    let value = black_box(hold_back().unwrap_or(0));
    if value < -(ERRNO_MAX as i64) || value > 0 { 0 } else { value }
}

#[inline(always)]
fn hold_back() -> Option<i64> {
    target::of_task_by_ancestor()?;
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_pid_tgid() };
    // SAFETY: nobody else writes the entry of this task.
    let hold = unsafe { *KC_HOLDS.get_ptr(task)? };
    let _ = KC_HOLDS.remove(task);
    let control = armed()?;
    // SAFETY: the helper has no preconditions.
    let begin_ns = unsafe { bpf_ktime_get_ns() };
    sleep(control.header.handle, code(hold.asked_ns));
    // SAFETY: as above.
    let took_ns = unsafe { bpf_ktime_get_ns() } - begin_ns;
    account(&hold, took_ns);
    Some(hold.result)
}

#[inline(always)]
fn account(hold: &Hold, took_ns: u64) {
    let Some(held) = KC_HELD.get_ptr_mut(hold.rule) else { return };
    // A code tells a time to a thousandth.
    let is_short = took_ns + hold.asked_ns / 512 < hold.asked_ns;
    // SAFETY: the fields are aligned `u64`s of a map value, changed by `add` alone but for the longest time: of two that
    // are noted at once one may be lost.
    unsafe {
        add(&raw mut (*held).calls, 1);
        add(&raw mut (*held).asked_ns, hold.asked_ns);
        add(&raw mut (*held).took_ns, took_ns);
        add(&raw mut (*held).cut_short, is_short.into());
        if (&raw const (*held).longest_ns).read_volatile() < took_ns {
            (&raw mut (*held).longest_ns).write_volatile(took_ns);
        }
    }
}

/// Asks for the attribute of the program of `handle`, which lies on the sleeper's file system; the answer takes as long
/// as the size of the buffer says. Returns at once if anything is missing.
#[inline(always)]
fn sleep(handle: u32, code: u32) {
    type Task = *mut c_void;
    type File = *mut c_void;
    // SAFETY: the loader makes these numbers calls of `chaos_common::latency::KFUNCS`, which have these signatures
    // (kernel/bpf/helpers.c, fs/bpf_fs_kfuncs.c); the verifier checks every use, and that both references are given back.
    unsafe {
        let task_from_pid: extern "C" fn(i32) -> Task = core::mem::transmute(KFUNC_MAGIC as usize);
        let task_release: extern "C" fn(Task) = core::mem::transmute(KFUNC_MAGIC as usize + 1);
        let get_exe_file: extern "C" fn(Task) -> File = core::mem::transmute(KFUNC_MAGIC as usize + 2);
        let put_file: extern "C" fn(File) = core::mem::transmute(KFUNC_MAGIC as usize + 3);
        let get_xattr: extern "C" fn(File, *const u8, *mut bpf_dynptr) -> i32 =
            core::mem::transmute(KFUNC_MAGIC as usize + 4);
        let Some(room) = KC_CODES.get_ptr_mut(0) else { return };
        let code = black_box(code);
        if code == 0 || code >= CODES as u32 || handle == 0 {
            return;
        }
        let mut buffer: MaybeUninit<bpf_dynptr> = MaybeUninit::uninit();
        if bpf_dynptr_from_mem(room.cast(), code, 0, buffer.as_mut_ptr()) != 0 {
            return;
        }
        let task = task_from_pid(handle as i32);
        if task.is_null() {
            return;
        }
        let file = get_exe_file(task);
        if !file.is_null() {
            get_xattr(file, KC_NAME.as_ptr(), buffer.as_mut_ptr());
            put_file(file);
        }
        task_release(task);
    }
}
