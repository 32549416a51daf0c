//! What is found out about one call, on the way to its judgement.

use crate::maps::KC_CALL_SCRATCH;
use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use chaos_common::syscall_match::PATTERN_BYTES;

/// Where the given part of a path begins: what the kernel resolved lies before it.
pub const GIVEN: u32 = 4096;
/// Room for the given part: `PATH_MAX` of include/uapi/linux/limits.h.
pub const GIVEN_BYTES: u32 = 4096;
/// Slots for tasks that are interrupted while they use theirs, per CPU.
pub const SLOTS: u32 = 4;
/// The bits of a slot's number.
pub const SLOT_BITS: u32 = SLOTS - 1;

/// A key of the prefix trees.
#[repr(C)]
pub struct Key {
    /// How many bits of it count.
    pub bits: u32,
    /// The bytes.
    pub bytes: [u8; PATTERN_BYTES],
}

/// Facts of one call, and what is needed to find them. What is read from here is nothing but a number to the verifier,
/// so that it need not follow every combination of what came before.
#[repr(C)]
pub struct CallScratch {
    /// Task that uses it.
    owner: u64,
    /// The hook's first argument.
    pub subject: u64,
    /// Where the caller's registers are.
    pub registers: u64,
    /// Address of the `struct path` to resolve; 0 for none.
    pub base: u64,
    /// Mount on the way from there to the root.
    pub mount: u64,
    /// Directory on that way.
    pub dentry: u64,
    /// Mount of the root.
    pub root_mount: u64,
    /// The root's directory.
    pub root_dentry: u64,
    /// Patterns that any path so far matches.
    pub patterns: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Rules that the remote address belongs to.
    pub address_rules: u64,
    /// Rules that the remote port belongs to.
    pub port_rules: u64,
    /// The call's row.
    pub row: u32,
    /// 1 if the remote end could not be read.
    pub peer_unreadable: u32,
    /// Kind of the descriptor.
    pub kind: u32,
    /// What a file is opened for.
    pub access: u32,
    /// What is known of all paths so far.
    pub all: u32,
    /// What is known of this one.
    pub state: u32,
    /// Where it begins.
    pub begin: u32,
    /// Where it ends.
    pub end: u32,
    /// Bytes given, with the final zero.
    pub given: u32,
    /// For the prefix trees.
    pub key: Key,
    /// The path, with room for a longest name behind the end.
    pub path: [u8; (GIVEN + GIVEN_BYTES) as usize + 256],
}

macro_rules! get {
    ($scratch:ident . $field:ident) => {{
        // SAFETY: a field of a map value.
        unsafe { (&raw const (*$scratch).$field).read_volatile() }
    }};
}

macro_rules! set {
    ($scratch:ident . $field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: a field of a map value.
        unsafe { (&raw mut (*$scratch).$field).write_volatile(value) }
    }};
}

pub(crate) use {get, set};

/// Takes the current task's; its number too.
#[inline(always)]
pub fn take() -> Option<(*mut CallScratch, u32)> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_pid_tgid() };
    let slot = task as u32 & SLOT_BITS;
    let scratch = of_slot(slot)?;
    set!(scratch.owner = task);
    Some((scratch, slot))
}

/// The one of this number.
#[inline(always)]
pub fn of_slot(slot: u32) -> Option<*mut CallScratch> {
    KC_CALL_SCRATCH.get_ptr_mut(slot & SLOT_BITS)
}

/// Whether nobody has come in between since it was taken. Otherwise what the other one has is not its own now.
#[inline(always)]
pub fn is_own(scratch: *mut CallScratch) -> bool {
    // SAFETY: the helper has no preconditions.
    let own = get!(scratch.owner) == unsafe { bpf_get_current_pid_tgid() };
    if !own {
        set!(scratch.owner = 0);
    }
    own
}
