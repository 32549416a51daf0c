//! Which system call the current task is in.

use crate::globals::{KC_TASK_CRED, KC_TASK_REAL_CRED, KC_TASK_STACK, KC_TASK_STATUS};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs,
};
use chaos_common::{
    arch::native,
    syscall::{REGISTERS_ON_STACK, ROW_COMPAT, call_row, ring_row},
};

/// What a task entered the kernel with. A plain record in which every field always has a value.
struct Entry {
    /// [`UNREADABLE`] lies outside every table.
    number: u32,
    compat: bool,
    /// io_uring's own threads start with a copy of their creator's registers, without its place in user space
    /// (`copy_thread`, arch/x86/kernel/process.c).
    is_ring_worker: bool,
}

const UNREADABLE: u32 = !native::X32_BIT;

/// The row of the call table for the current task at `hook`. `registers` is one of `REGISTERS_*`.
#[inline(always)]
pub fn row(registers: u32, hook: u32, write: bool) -> Option<u32> {
    let entry = if registers == REGISTERS_ON_STACK { on_stack() } else { asked() };
    if entry.is_ring_worker || native::RING_CALLS.contains(&entry.number) {
        return Some(ring_row(hook, write));
    }
    call_row(entry.number & !native::X32_BIT, entry.compat)
}

/// The row of a call by its number, for the current task: 32-bit callers have numbers of their own.
#[inline(always)]
pub fn entry_row(number: u32) -> Option<u32> {
    call_row(number & !native::X32_BIT, is_compat()?)
}

/// Whether the current system call came through the 32-bit table.
#[inline(always)]
fn is_compat() -> Option<bool> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    Some(word(task + u64::from(KC_TASK_STATUS.load()))? as u32 & native::TS_COMPAT != 0)
}

#[inline(always)]
fn asked() -> Entry {
    // SAFETY: the helpers return trusted pointers to the current task and to its registers; all loads are checked by
    // the verifier against the kernel's own type information.
    unsafe {
        let task = bpf_get_current_task_btf();
        let status = task.cast::<u8>().add(native::TASK_STATUS).cast::<u32>().read_volatile();
        let registers = bpf_task_pt_regs(task) as *const u8;
        Entry {
            number: registers.add(native::PT_REGS_ORIG_AX).cast::<u64>().read_volatile() as u32,
            compat: status & native::TS_COMPAT != 0,
            is_ring_worker: registers.add(native::PT_REGS_IP).cast::<u64>().read_volatile() == 0,
        }
    }
}

#[inline(always)]
fn on_stack() -> Entry {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let status = word(task + u64::from(KC_TASK_STATUS.load())).unwrap_or(0);
    let registers = stack_registers();
    let number = word(registers + native::PT_REGS_ORIG_AX as u64).unwrap_or(UNREADABLE as u64);
    let place = word(registers + native::PT_REGS_IP as u64).unwrap_or(1);
    Entry {
        number: number as u32,
        compat: status as u32 & native::TS_COMPAT != 0,
        is_ring_worker: place == 0,
    }
}

/// Where the current task's registers lie at the top of its kernel stack.
#[inline(always)]
fn stack_registers() -> u64 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let stack = word(task + u64::from(KC_TASK_STACK.load())).unwrap_or(0);
    stack + (native::STACK_SIZE - native::PT_REGS_SIZE) as u64
}

/// Whether the task acts under other credentials than its own: a stacked file system (overlayfs) works on the files
/// below it so (`ovl_override_creds`, fs/overlayfs/util.c), and passes the hooks again that the call has passed before.
#[inline(always)]
pub fn acts_for_another() -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let acting = word(task + u64::from(KC_TASK_CRED.load())).unwrap_or(0);
    let own = word(task + u64::from(KC_TASK_REAL_CRED.load())).unwrap_or(0);
    acting != own
}

/// A call's arguments, as its caller left them in its registers.
pub struct Registers {
    /// Where they are.
    pub address: u64,
    compat: bool,
}

impl Registers {
    /// Those at `address`, of a call in `row`.
    #[inline(always)]
    pub fn at(address: u64, row: u32) -> Self {
        Self { address, compat: row >= ROW_COMPAT }
    }

    /// Those of the current task, at a hook; `registers` is one of `REGISTERS_*`.
    #[inline(always)]
    pub fn of_task(registers: u32, row: u32) -> Self {
        let address = if registers == REGISTERS_ON_STACK {
            stack_registers()
        } else {
            // SAFETY: the helpers return trusted pointers to the current task and to its registers.
            unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as u64 }
        };
        Self::at(address, row)
    }

    /// One register by its place (see `Arguments`); 32 bits of it where the caller has no more.
    #[inline(always)]
    pub fn get(&self, place: u8) -> u64 {
        let value = word(self.address + 8 * (u64::from(place) - 1)).unwrap_or(0);
        if self.compat { value as u32 as u64 } else { value }
    }
}

/// Reads 16 bytes of kernel memory, fault-tolerantly: zeros where that fails.
#[inline(always)]
pub fn words(address: u64) -> [u64; 2] {
    let mut values = [0u64; 2];
    // SAFETY: `values` has room for 16 bytes.
    let result = unsafe { bpf_probe_read_kernel((&raw mut values).cast(), 16, address as *const _) };
    if result == 0 { values } else { [0; 2] }
}

/// Reads 8 bytes of kernel memory, fault-tolerantly.
#[inline(always)]
pub fn word(address: u64) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: `value` has room for 8 bytes.
    let result = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    if result == 0 { Some(value) } else { None }
}
