//! Everything that depends on the processor: registers at system call entry, symbol prefixes, number spaces.

/// x86-64 (arch/x86/include/asm/ptrace.h, arch/x86/include/asm/syscall_wrapper.h).
pub mod x86_64 {
    /// Prefix of the function that implements a 64-bit system call.
    pub const SYSCALL_PREFIX: &str = "__x64_sys_";
    /// Offset of `orig_ax` in `struct pt_regs`: the number the caller asked for.
    pub const PT_REGS_ORIG_AX: usize = 120;
    /// Offset of `thread_info.status` in `struct task_struct` (thread_info comes first; since 5.11 it is flags,
    /// syscall_work, status: arch/x86/include/asm/thread_info.h).
    pub const TASK_STATUS: usize = 16;
    /// Bit of `thread_info.status`: the current system call uses the 32-bit table.
    pub const TS_COMPAT: u32 = 0x0002;
    /// Bit of a number: the caller uses the x32 table (`__X32_SYSCALL_BIT`).
    pub const X32_BIT: u32 = 0x4000_0000;
}

#[cfg(any(target_arch = "x86_64", target_arch = "bpf"))]
pub use x86_64 as native;
