//! System calls of a target.

use crate::{
    caller::{self, Registers},
    count::Weight,
    event,
    globals::{KC_REGISTERS, KC_SOCKET_REGISTERS},
    judge::{acting, judge},
    latency,
    maps::KC_CALLS,
    syscall_match::Facts,
    target, tree,
};
use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_override_return},
    macros::{cgroup_sock_addr, kprobe},
    programs::{ProbeContext, SockAddrContext},
};
use chaos_common::{
    arch::native,
    limits::ERRNO_MAX,
    syscall::{HOOK_ENTRY, HOOK_FILE_PERMISSION, HOOK_MAGIC, HOOK_SOCKET, ROW_RING, SLOT_MAGIC},
};
use core::{arch::asm, hint::black_box};

/// Number of the helper (include/uapi/linux/bpf.h).
const BPF_SET_RETVAL: usize = 187;

const ONE_CALL: Weight = Weight { segments: 1, bytes: 0 };

/// Entry of system call functions, as a kprobe on each or as one kprobe.multi link on all; needs
/// CONFIG_BPF_KPROBE_OVERRIDE. The outer registers' first argument points to the caller's registers
/// (arch/x86/include/asm/syscall_wrapper.h).
#[kprobe]
pub fn kc_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(result) = kprobe_result(&ctx) {
        // SAFETY: the context of a kprobe is the registers of the probed function.
        unsafe { bpf_override_return(ctx.regs, result as u64) };
    }
    0
}

/// The same without a result, for calls that are held back and do not fail: nothing is overridden, so that it needs
/// neither of the kernel's options for that and reaches every function.
#[kprobe]
pub fn kc_slow(ctx: ProbeContext) -> u32 {
    let _goes_on = kprobe_result(&ctx);
    0
}

#[inline(always)]
fn kprobe_result(ctx: &ProbeContext) -> Option<i64> {
    let target = target::of_task()?;
    let caller = ctx.arg::<u64>(0)?;
    let number = caller::word(caller + native::PT_REGS_ORIG_AX as u64)?;
    entry_result(target.rules, number as u32, caller)
}

/// Entry of system call functions in a trampoline (`fmod_ret`); needs CONFIG_FUNCTION_ERROR_INJECTION. Anything but 0
/// is returned in place of the call; with 0 the call goes on, so that success of 0 cannot be claimed here. A full 64
/// bits: the system call's caller reads them all.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/kc_entry")]
pub extern "C" fn kc_entry(ctx: *const u64) -> i64 {
    let Some(target) = target::of_task() else { return 0 };
    // SAFETY: the first argument is a trusted pointer to the caller's registers; the verifier checks both loads.
    let number = unsafe { (*ctx as *const u8).add(native::PT_REGS_ORIG_AX).cast::<u64>().read_volatile() };
    let caller = caller::word(ctx as u64).unwrap_or(0);
    entry_result(target.rules, number as u32, caller).unwrap_or(0)
}

#[inline(always)]
fn entry_result(rules: u64, number: u32, caller: u64) -> Option<i64> {
    let row = caller::entry_row(number)?;
    result_for(rules, row, HOOK_ENTRY, || Facts::of_task(row, || Registers::at(caller, row), || 0))
}

/// A security hook, as a BPF LSM program or in a trampoline (`fmod_ret`) of the kernel's `security_*` function. One
/// body for all hooks: the loader writes the hook's id over [`HOOK_MAGIC`] in each copy.
///
/// Security hooks also serve calls nobody named (`file_open` serves execve), so the call is looked up by the number
/// the caller entered the kernel with.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/kc_hook")]
pub extern "C" fn kc_hook(ctx: *const u64) -> i64 {
    // The verifier wants to see that this is in -4095..0 (kernel/bpf/bpf_lsm.c, `bpf_lsm_get_retval_range`); the
    // compiler knows it already and would leave the comparison out.
    let value = black_box(hook_errno(ctx).unwrap_or(0));
    if value < -(ERRNO_MAX as i64) || value > 0 { 0 } else { value }
}

#[inline(always)]
fn hook_errno(ctx: *const u64) -> Option<i64> {
    /// `MAY_WRITE` of include/linux/fs.h.
    const MAY_WRITE: u64 = 2;
    let target = target::of_task()?;
    let hook = patched::<HOOK_MAGIC>();
    // SAFETY: `file_permission` has two arguments, the second is the mask; the verifier does not follow the branch in
    // copies for other hooks.
    let write = hook == HOOK_FILE_PERMISSION && unsafe { ctx.add(1).read_volatile() } & MAY_WRITE != 0;
    let row = caller::row(KC_REGISTERS.load(), hook, write)?;
    if row < ROW_RING && caller::acts_for_another() {
        return None;
    }
    // Read as memory: what kind of pointer it is differs from hook to hook.
    let subject = || caller::word(ctx as u64).unwrap_or(0);
    result_for(target.rules, row, hook, || {
        Facts::of_task(row, || Registers::of_task(KC_REGISTERS.load(), row), subject)
    })
}

/// A socket hook of a target's cgroup (connect, bind, unconnected UDP send): the socket belongs to the target. 0 with a
/// value set is that error (5.18).
#[cgroup_sock_addr(connect4)]
pub fn kc_socket(_ctx: SockAddrContext) -> i32 {
    const PASS: i32 = 1;
    const FAIL: i32 = 0;
    let value = black_box(socket_errno().unwrap_or(0));
    if value < -(ERRNO_MAX as i64) || value >= 0 {
        return PASS;
    }
    // SAFETY: the helper takes a plain number. Passed in 64 bits, because the verifier wants to see its range and does
    // not follow the compiler's sign extension of 32 (Linux 7).
    unsafe {
        let set: unsafe extern "C" fn(i64) -> i64 = core::mem::transmute(BPF_SET_RETVAL);
        set(value);
    }
    FAIL
}

#[inline(always)]
fn socket_errno() -> Option<i64> {
    let target = target::in_slot(patched::<SLOT_MAGIC>())?;
    let row = caller::row(KC_SOCKET_REGISTERS.load(), HOOK_SOCKET, true)?;
    result_for(target.rules, row, HOOK_SOCKET, || Facts::NONE)
}

/// What the loader writes over `MAGIC` in this copy: unknown to the compiler, a constant for the verifier.
#[inline(always)]
pub fn patched<const MAGIC: u32>() -> u32 {
    let value: u64;
    // SAFETY: loads an immediate.
    unsafe { asm!("{0} = {1}", out(reg) value, const MAGIC, options(pure, nomem)) };
    value as u32
}

/// Judges a call; `facts` gathers what its rules may ask for. What it returns in place of the call: a negative errno or
/// a value that claims success.
#[inline(always)]
fn result_for(target_rules: u64, row: u32, hook: u32, facts: impl FnOnce() -> Facts) -> Option<i64> {
    let call = KC_CALLS.get(row)?;
    let rules = target_rules & call.rules;
    if rules == 0 || (call.hook != hook && call.other_hook != hook) {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_pid_tgid() };
    let tgid = (task >> 32) as u32;
    if !tree::is_meant(tgid) {
        return None;
    }
    let control = acting()?;
    if control.header.own.contains(&tgid) {
        return None;
    }
    let facts = facts();
    let matches = |index, rule: &_| facts.matches(index, rule);
    let verdict = judge(control, rules, &ONE_CALL, u64::from(tgid), matches);
    let result = verdict.result();
    let fails = result.is_some();
    // A value on every path, which the verifier wants to see and the compiler would leave out where the call goes on.
    let value = black_box(result.unwrap_or(0));
    event::call(&verdict, value, row, task);
    let waits = latency::note(&verdict, task, value, row);
    if fails && !waits { Some(value) } else { None }
}
