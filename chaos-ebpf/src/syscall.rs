//! System calls of a target.

use crate::{
    count::Weight,
    judge::{Match, armed, judge},
    maps::KC_CALLS,
    target,
};
use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_task_btf, bpf_override_return, bpf_probe_read_kernel, bpf_task_pt_regs,
    },
    macros::kprobe,
    programs::ProbeContext,
};
use chaos_common::{
    arch::native,
    limits::ERRNO_MAX,
    syscall::{HOOK_ENTRY, HOOK_MAGIC},
};

const ONE_CALL: Weight = Weight { segments: 1, bytes: 0 };

/// Entry of a system call function; needs CONFIG_BPF_KPROBE_OVERRIDE. The outer registers' first argument points to
/// the caller's registers (arch/x86/include/asm/syscall_wrapper.h).
#[kprobe]
pub fn kc_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(errno) = kprobe_errno(&ctx) {
        // SAFETY: the context of a kprobe is the registers of the probed function.
        unsafe { bpf_override_return(ctx.regs, errno as i64 as u64) };
    }
    0
}

#[inline(always)]
fn kprobe_errno(ctx: &ProbeContext) -> Option<i32> {
    let target = target::of_task()?;
    let caller: *const u8 = ctx.arg::<*const u8>(0)?;
    let mut number = 0u64;
    // SAFETY: the helper reads fault-tolerantly and `number` has room for 8 bytes.
    let result = unsafe {
        bpf_probe_read_kernel(
            (&raw mut number).cast(),
            8,
            caller.wrapping_add(native::PT_REGS_ORIG_AX).cast(),
        )
    };
    if result != 0 {
        return None;
    }
    errno_for(target.rules, number as u32, HOOK_ENTRY)
}

/// A BPF LSM hook. One body for all hooks: the loader writes the hook's id over [`HOOK_MAGIC`] in each copy.
///
/// Security hooks also serve calls nobody named (`file_open` serves execve), so the call is looked up by the number
/// the caller entered the kernel with.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/kc_hook")]
pub extern "C" fn kc_hook(_ctx: *const u64) -> i64 {
    // The verifier wants to see that this is in -4095..0 (kernel/bpf/bpf_lsm.c, `bpf_lsm_get_retval_range`); the
    // compiler knows it already and would leave the comparison out.
    let value = core::hint::black_box(hook_errno().unwrap_or(0) as i64);
    if value < -(ERRNO_MAX as i64) || value > 0 { 0 } else { value }
}

#[inline(always)]
fn hook_errno() -> Option<i32> {
    let target = target::of_task()?;
    let number = entered_by()?;
    errno_for(target.rules, number, core::hint::black_box(HOOK_MAGIC))
}

/// The 64-bit system call the current task is in. `None` for 32-bit callers, whose numbers mean other calls.
#[inline(always)]
fn entered_by() -> Option<u32> {
    // SAFETY: the helpers return trusted pointers to the current task and to its registers; both loads are checked by
    // the verifier against the kernel's own type information.
    unsafe {
        let task = bpf_get_current_task_btf();
        let status = task.cast::<u8>().add(native::TASK_STATUS).cast::<u32>().read_volatile();
        if status & native::TS_COMPAT != 0 {
            return None;
        }
        let registers = bpf_task_pt_regs(task) as *const u8;
        Some(registers.add(native::PT_REGS_ORIG_AX).cast::<u64>().read_volatile() as u32)
    }
}

/// Judges a call. Returns a negative errno.
#[inline(always)]
fn errno_for(target_rules: u64, number: u32, hook: u32) -> Option<i32> {
    let call = KC_CALLS.get(number & !native::X32_BIT)?;
    let rules = target_rules & call.rules;
    if rules == 0 || call.hook != hook {
        return None;
    }
    // An event that no rule has ended has no errno.
    let errno = judge(armed()?, rules, &ONE_CALL, 0, |_, _| Match::Yes).errno;
    if errno == 0 || errno > ERRNO_MAX { None } else { Some(-(errno as i32)) }
}
