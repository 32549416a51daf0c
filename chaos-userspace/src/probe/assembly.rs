//! The few instructions that probe programs are made of (Documentation/bpf/standardization/instruction-set.rst).

/// Helper numbers (include/uapi/linux/bpf.h).
pub const GET_CURRENT_CGROUP_ID: u32 = 80;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const GET_CURRENT_PID_TGID: u32 = 14;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const GET_CURRENT_TASK_BTF: u32 = 158;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const TASK_PT_REGS: u32 = 175;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const SET_RETVAL: u32 = 187;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const SEND_SIGNAL: u32 = 109;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const OVERRIDE_RETURN: u32 = 58;
/// See [`GET_CURRENT_CGROUP_ID`].
pub const GET_CURRENT_ANCESTOR_CGROUP_ID: u32 = 123;

/// See [`GET_CURRENT_CGROUP_ID`].
pub const PROBE_READ_KERNEL: u32 = 113;

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u64) << 32
}

/// `dst = immediate`
pub const fn mov(dst: u8, immediate: i32) -> u64 {
    instruction(0xb7, dst, 0, 0, immediate as u32)
}

/// `dst = src`
pub const fn copy(dst: u8, src: u8) -> u64 {
    instruction(0xbf, dst, src, 0, 0)
}

/// `dst += immediate`
pub const fn add(dst: u8, immediate: i32) -> u64 {
    instruction(0x07, dst, 0, 0, immediate as u32)
}

/// `dst >>= bits`
pub const fn shift_right(dst: u8, bits: u32) -> u64 {
    instruction(0x77, dst, 0, 0, bits)
}

/// `dst = value`, two slots.
pub const fn load(dst: u8, value: u64) -> [u64; 2] {
    [instruction(0x18, dst, 0, 0, value as u32), instruction(0, 0, 0, 0, (value >> 32) as u32)]
}

/// `r0 = helper(r1, ...)`
pub const fn call(helper: u32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

/// Skips `offset` instructions unless `a == b`.
pub const fn jump_unless_equal(a: u8, b: u8, offset: i16) -> u64 {
    instruction(0x5d, a, b, offset, 0)
}

/// Returns r0.
pub const fn exit() -> u64 {
    instruction(0x95, 0, 0, 0, 0)
}

/// `*(u64 *)(r10 + offset) = immediate`
pub const fn store_stack(offset: i16, immediate: u32) -> u64 {
    instruction(0x7a, 10, 0, offset, immediate)
}

/// `src = atomic_fetch_add((u64 *)(r10 + offset), src)`
pub const fn fetch_add_stack(offset: i16, src: u8) -> u64 {
    const ATOMIC64: u8 = 0xdb;
    const FETCH: u32 = 1;
    instruction(ATOMIC64, 10, src, offset, FETCH)
}
