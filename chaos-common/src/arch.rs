//! Everything that depends on the processor: registers at system call entry, symbol prefixes, number spaces.

/// x86-64 (arch/x86/include/asm/ptrace.h, arch/x86/include/asm/syscall_wrapper.h).
pub mod x86_64 {
    /// Prefix of the function that implements a 64-bit system call.
    pub const SYSCALL_PREFIX: &str = "__x64_sys_";
    /// Prefix under which a call without arguments is in the kernel's type information (its other names are aliases).
    pub const SYSCALL_BODY_PREFIX: &str = "__do_sys_";
    /// Prefixes of functions that implement a call for 32-bit callers, in the order in which the kernel prefers them.
    pub const COMPAT_PREFIXES: [&str; 2] = ["__ia32_compat_sys_", "__ia32_sys_"];
    /// `io_uring_setup` and `io_uring_enter`: what such a caller asked for is in the ring. Same numbers for 32 bit.
    pub const RING_CALLS: [u32; 2] = [425, 426];
    /// Offset of `orig_ax` in `struct pt_regs`: the number the caller asked for.
    pub const PT_REGS_ORIG_AX: usize = 120;
    /// Offset of `ip` in `struct pt_regs`.
    pub const PT_REGS_IP: usize = 128;
    /// Places of a system call's arguments in `struct pt_regs`, counted in registers from 1: di, si, dx, r10, r8, r9.
    pub const ARGUMENTS: [u8; 6] = [15, 14, 13, 8, 10, 9];
    /// The same for 32-bit callers: bx, cx, dx, si, di, bp.
    pub const ARGUMENTS_COMPAT: [u8; 6] = [6, 12, 13, 14, 15, 5];
    /// Size of `struct pt_regs`.
    pub const PT_REGS_SIZE: usize = 168;
    /// Size of a kernel stack (`THREAD_SIZE` without KASAN); on kernels without `bpf_task_pt_regs` the registers end
    /// where it ends.
    pub const STACK_SIZE: usize = 16384;
    /// Offset of `thread_info.status` in `struct task_struct` (thread_info comes first; since 5.11 it is flags,
    /// syscall_work, status: arch/x86/include/asm/thread_info.h).
    pub const TASK_STATUS: usize = 16;
    /// The same before 5.11: flags, status.
    pub const TASK_STATUS_OLD: usize = 8;
    /// Bit of `thread_info.status`: the current system call uses the 32-bit table.
    pub const TS_COMPAT: u32 = 0x0002;
    /// `AUDIT_ARCH_X86_64` (include/uapi/linux/audit.h): the caller made a 64-bit call.
    pub const AUDIT_ARCH: u32 = 0xc000_003e;
    /// `AUDIT_ARCH_I386`: the caller made a 32-bit call.
    pub const AUDIT_ARCH_COMPAT: u32 = 0x4000_0003;
    /// Bit of a number: the caller uses the x32 table (`__X32_SYSCALL_BIT`).
    pub const X32_BIT: u32 = 0x4000_0000;
}

#[cfg(any(target_arch = "x86_64", target_arch = "bpf"))]
pub use x86_64 as native;
