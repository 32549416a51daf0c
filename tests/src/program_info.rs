//! What the kernel says of loaded programs.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};

/// `BPF_OBJ_GET_INFO_BY_FD` (include/uapi/linux/bpf.h).
const OBJ_GET_INFO_BY_FD: i32 = 15;

/// What the kernel says of a loaded program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Instructions after the verifier's removals, in bytes of 8.
    pub translated: u32,
    /// Bytes of machine code.
    pub jited: u32,
    /// Nanoseconds in it, while statistics are on.
    pub run_time_ns: u64,
    /// Runs of it, while statistics are on.
    pub runs: u64,
    /// Instructions the verifier has followed (5.16).
    pub verified: u32,
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to `verified_insns`.
pub fn info(program: BorrowedFd<'_>) -> Result<Info> {
    let mut info = [0u32; 56];
    let mut attributes = GetInfo {
        fd: program.as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attributes mirror the head of `union bpf_attr` for this command, and `info` outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, &raw mut attributes, size_of_val(&attributes))
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("asking about a program");
    }
    let wide = |at: usize| u64::from(info[at]) | u64::from(info[at + 1]) << 32;
    Ok(Info {
        jited: info[4],
        translated: info[5] / 8,
        run_time_ns: wide(48),
        runs: wide(50),
        verified: info[54],
    })
}
