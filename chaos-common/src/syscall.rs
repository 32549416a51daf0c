//! System calls as the kernel programs look them up.

/// What the call table says about one system call number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Rules for this call, one bit each.
    pub rules: u64,
    /// The hook that judges this call ([`HOOK_ENTRY`] or the id of a security hook). Every other hook that fires
    /// during the call leaves it alone, so that a call is judged at one place.
    pub hook: u32,
    /// Explicit padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Call>() == 16);

/// The entry function of the system call itself.
pub const HOOK_ENTRY: u32 = 0;

/// Placeholder that the loader replaces with the hook's id in each loaded copy of a program: one body serves many
/// hooks, also on kernels without attach cookies (5.15).
pub const HOOK_MAGIC: u32 = 0x6b63_0001;
