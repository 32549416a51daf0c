//! Processes that are hit without the others of their cgroup, and what they start.

use crate::{
    caller::word,
    count::add,
    globals::{KC_TASK_TGID, KC_TREE},
    maps::KC_TREE_MEMBERS,
};
use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use chaos_common::limits::TREE_NOBODY;

/// Whether the process is meant, among those of its cgroup.
#[inline(always)]
pub fn is_meant(tgid: u32) -> bool {
    KC_TREE.load() == 0 || is_member(tgid)
}

#[inline(always)]
fn is_member(tgid: u32) -> bool {
    KC_TREE_MEMBERS.get_ptr(tgid).is_some()
}

/// `sched_process_fork` fires in the parent before the child runs for the first time (`kernel_clone`, kernel/fork.c; `_do_fork`
/// before 5.10): no call of the child escapes. Whoever calls counts as parent, also with CLONE_PARENT. Threads have the id of
/// their process.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn kc_fork(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    let parent = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    if is_member(parent) {
        let child: u64 = ctx.arg(1);
        if let Some(tgid) = word(child + u64::from(KC_TASK_TGID.load())) {
            take_in(tgid as u32, parent);
        }
    }
    0
}

#[inline(always)]
fn take_in(child: u32, parent: u32) {
    if child == parent || KC_TREE_MEMBERS.insert(child, 0, 0).is_ok() {
        return;
    }
    if let Some(left_out) = KC_TREE_MEMBERS.get_ptr_mut(TREE_NOBODY) {
        // SAFETY: the pointer is the map's value.
        unsafe { add(left_out, 1) };
    }
}

/// Its id may be another one's from now on.
#[inline(always)]
pub fn forget(tgid: u32) {
    if KC_TREE.load() != 0 {
        let _most_are_none = KC_TREE_MEMBERS.remove(tgid);
    }
}
