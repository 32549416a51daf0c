//! Stopping a process behind one of its calls.
//!
//! The program that decides leaves a note ([`crate::latency::note`]); behind the call this one stops the process by SIGSTOP and
//! writes down whom. A process of kchaos lets it go on when the time is over, and whoever survives does if that one dies.
//! Behind the call: a signal before it would interrupt what waits, which then begins again and would be stopped again.

use crate::{
    caller::word,
    globals::{KC_SIGNAL_LAYOUT, KC_TASK_SIGNAL},
    judge::armed,
    maps::{KC_HOLDS, KC_STOPPED, KC_STOPS, NOT_THERE_YET},
    target, watch,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns, bpf_send_signal,
};
use chaos_common::{
    latency::{STOP_SIGNALS, Stopped},
    layout::{PENDING_SET, SIGNAL_PENDING, TASK_JOBCTL, TASK_PTRACE},
    watch::is_restarted,
};

const SIGSTOP: u32 = 19;
/// `JOBCTL_STOP_PENDING` of include/linux/sched/jobctl.h: the task takes part in a stop that has begun.
const STOP_PENDING: u64 = 1 << 17;

/// Behind the function of a call (`fexit`), also where a fault has replaced it; one copy for each.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fexit/kc_stop")]
pub extern "C" fn kc_stop(ctx: *const u64) -> i32 {
    if target::of_task().is_some() {
        stop(watch::result(ctx));
    }
    0
}

#[inline(always)]
fn stop(result: i64) -> Option<()> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_pid_tgid() };
    // SAFETY: nobody else writes the entry of this task.
    let hold = unsafe { *KC_HOLDS.get_ptr(task)? };
    let _ = KC_HOLDS.remove(task);
    // A call that begins again is judged again.
    if is_restarted(result) {
        return None;
    }
    let control = armed()?;
    // SAFETY: the helper has no preconditions.
    let since_ns = unsafe { bpf_ktime_get_ns() };
    if control.header.handle == 0 || since_ns > control.header.lease_ns || is_anothers()? {
        return None;
    }
    let process = (task >> 32) as u32;
    let stopped = Stopped { since_ns, asked_ns: hold.asked_ns, thread: task as u32, rule: hold.rule };
    // Before it is stopped: nobody may be stopped of whom nobody knows. One that is about to be is not stopped twice.
    KC_STOPPED.insert(process, stopped, NOT_THERE_YET).ok()?;
    // SAFETY: plain number.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        let _ = KC_STOPPED.remove(process);
        return None;
    }
    // Without room for it, it is found in the map.
    let _ = KC_STOPS.output::<u64>(u64::from(process), 0);
    Some(())
}

/// Whether the task is traced, or somebody else is stopping it: two stops cannot be told apart. `None` if that cannot be
/// read.
#[inline(always)]
fn is_anothers() -> Option<bool> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let traced = word(task + offset(TASK_PTRACE))? as u32;
    let stopping = word(task + offset(TASK_JOBCTL))? & STOP_PENDING;
    let signals = word(task + u64::from(KC_TASK_SIGNAL.load()))?;
    let pending = word(signals + offset(SIGNAL_PENDING) + offset(PENDING_SET))? & STOP_SIGNALS;
    Some(traced != 0 || stopping != 0 || pending != 0)
}

#[inline(always)]
fn offset(member: usize) -> u64 {
    u64::from(KC_SIGNAL_LAYOUT[member].load())
}
