//! Forgets processes that counted for themselves, or that were hit alone.

use crate::{
    caller::word,
    globals::{KC_PROCESS_RULES, KC_SIGNAL_LIVE, KC_TASK_SIGNAL},
    maps::KC_PROCESSES,
    tree,
};
use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use chaos_common::{limits::RULES_MAX, rule::ProcessKey};

/// `sched_process_exit` fires for every thread, behind the point where it no longer counts as live (`do_exit`,
/// kernel/exit.c): for the last one, 0 are left, and none of the process will make another call. Its id is not used
/// again before its last thread is gone. exec keeps the id, and the count.
///
/// Processes that have left the target meanwhile are forgotten too, so this looks at no cgroup.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn kc_exit(_ctx: RawTracePointContext) -> i32 {
    if is_last_thread() == Some(true) {
        // SAFETY: the helper has no preconditions.
        let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
        forget(tgid);
        tree::forget(tgid);
    }
    0
}

#[inline(always)]
fn is_last_thread() -> Option<bool> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let signal = word(task + u64::from(KC_TASK_SIGNAL.load()))?;
    // An `atomic_t`.
    Some(word(signal + u64::from(KC_SIGNAL_LIVE.load()))? as u32 == 0)
}

#[inline(always)]
fn forget(tgid: u32) {
    let counting = KC_PROCESS_RULES.load();
    for rule in 0..RULES_MAX as u32 {
        if counting & (1 << rule) != 0 {
            let _most_have_no_entry = KC_PROCESSES.remove(ProcessKey { rule, tgid });
        }
    }
}
