//! System calls as the kernel programs look them up.

use crate::limits::CALLS_MAX;

/// What the call table says about one row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Rules for this call, one bit each.
    pub rules: u64,
    /// The hook that judges this call (one of the `HOOK_*` values or the id of a security hook). Every other hook that
    /// fires during the call leaves it alone, so that a call is judged at one place.
    pub hook: u32,
    /// A second hook for calls that pass either of two (unlinkat removes files and directories); else the same.
    pub other_hook: u32,
}

const _: () = assert!(size_of::<Call>() == 16);

/// The entry function of the call itself.
pub const HOOK_ENTRY: u32 = 0;
/// A cgroup's socket hook.
pub const HOOK_SOCKET: u32 = 1;
/// The security hook `file_permission`, which serves reading and writing.
pub const HOOK_FILE_PERMISSION: u32 = 2;
/// The first id of the other security hooks.
pub const HOOK_SECURITY_FIRST: u32 = 3;
/// One more than the highest hook id.
pub const HOOKS_MAX: u32 = 128;

/// Placeholder that the loader replaces with the hook's id in each loaded copy of a program: one body serves many
/// hooks, also on kernels without attach cookies (5.15).
pub const HOOK_MAGIC: u32 = 0x6b63_0001;
/// Placeholder for the slot of the target whose cgroup a copy is attached to.
pub const SLOT_MAGIC: u32 = 0x6b63_0002;

/// Row of the first call of 32-bit callers, who have numbers of their own.
pub const ROW_COMPAT: u32 = CALLS_MAX;
/// Row of the first hook as io_uring passes it: two rows per hook, for reading and for writing.
pub const ROW_RING: u32 = 2 * CALLS_MAX;
/// Rows of the call table.
pub const ROWS: u32 = ROW_RING + 2 * HOOKS_MAX;

/// The row of a call number. `None` where the number lies outside the table.
#[inline(always)]
pub fn call_row(number: u32, compat: bool) -> Option<u32> {
    if number >= CALLS_MAX {
        return None;
    }
    Some(if compat { ROW_COMPAT + number } else { number })
}

/// The row of a hook as io_uring passes it.
#[inline(always)]
pub fn ring_row(hook: u32, write: bool) -> u32 {
    ROW_RING + 2 * (hook & (HOOKS_MAX - 1)) + write as u32
}

/// Ask the kernel for a task's registers (`bpf_task_pt_regs`, 5.15).
pub const REGISTERS_ASKED: u32 = 0;
/// Find a task's registers at the top of its kernel stack.
pub const REGISTERS_ON_STACK: u32 = 1;
