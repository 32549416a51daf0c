//! Arms runs that wait for their command's exec.

use crate::{globals::KC_RUN_COUNT, maps::KC_CONTROL, target};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns, macros::raw_tracepoint, programs::RawTracePointContext,
};
use chaos_common::{
    control::{STATE_ARMED, STATE_AWAIT_EXEC},
    limits::RUNS_MAX,
};

/// `sched_process_exec` fires once per successful exec, after the new image is in place and before its first
/// instruction (`exec_binprm`, fs/exec.c): the command runs under the faults from its first system call on, and the
/// launching code never does.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn kc_exec(_ctx: RawTracePointContext) -> i32 {
    if let Some(target) = target::of_task() {
        arm(target.runs);
    }
    0
}

#[inline(always)]
fn arm(runs: u64) {
    let Some(control) = KC_CONTROL.get_ptr_mut(0) else { return };
    for index in 0..RUNS_MAX {
        if index as u32 >= KC_RUN_COUNT.load() {
            break;
        }
        if runs & (1 << index) == 0 {
            continue;
        }
        // SAFETY: the pointer is the map's value and `index` is below the number of slots.
        unsafe {
            let run = &raw mut (*control).runs[index];
            if (*run).state != STATE_AWAIT_EXEC {
                continue;
            }
            let now_ns = bpf_ktime_get_ns();
            if (*run).duration_ns != 0 {
                (*run).deadline_ns = now_ns + (*run).duration_ns;
            }
            (*run).armed_ns = now_ns;
            (&raw mut (*run).state).write_volatile(STATE_ARMED);
        }
    }
}
