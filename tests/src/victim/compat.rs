//! System calls as 32-bit programs make them (`int 0x80`), by this 64-bit one.

use std::arch::asm;

use anyhow::{Result, ensure};

use super::syscall_table::raw;

/// Numbers of arch/x86/entry/syscalls/syscall_32.tbl.
pub const READ: u32 = 3;
/// write(2).
pub const WRITE: u32 = 4;
/// fsync(2).
pub const FSYNC: u32 = 118;
/// openat(2).
pub const OPENAT: u32 = 295;
/// mkdirat(2).
pub const MKDIRAT: u32 = 296;
/// fstatat64, the 32-bit form of newfstatat.
pub const FSTATAT64: u32 = 300;
/// connect(2), not through socketcall.
pub const CONNECT: u32 = 362;

/// Makes a call; its result as the kernel gives it. Addresses among the arguments lie below 4 GiB.
pub fn call(number: u32, arguments: [u32; 5]) -> i64 {
    let mut result = u64::from(number);
    // SAFETY: the kernel keeps all registers but the result and those named; calls write only where `Low` is.
    unsafe {
        asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) u64::from(arguments[0]) => _,
            inout("rax") result,
            in("rcx") u64::from(arguments[1]),
            in("rdx") u64::from(arguments[2]),
            in("rsi") u64::from(arguments[3]),
            in("rdi") u64::from(arguments[4]),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from(result as i32)
}

/// Memory that 32-bit addresses reach. It is never given back.
pub struct Low {
    address: usize,
    used: usize,
}

const LOW_BYTES: usize = 1 << 16;

impl Low {
    /// Takes some.
    pub fn new() -> Result<Self> {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT) as usize;
        let address = raw(libc::SYS_mmap, [0, LOW_BYTES, protection, flags, usize::MAX, 0]);
        ensure!(address > 0, "mapping memory below 4 GiB: {address}");
        Ok(Self { address: address as usize, used: 0 })
    }

    /// Puts bytes there, with room for `room` in all; their address.
    pub fn put(&mut self, bytes: &[u8], room: usize) -> Result<u32> {
        let room = room.max(bytes.len()).next_multiple_of(16);
        ensure!(self.used + room <= LOW_BYTES, "no room for {room} bytes more");
        let place = self.address + self.used;
        self.used += room;
        // SAFETY: within the mapping, behind what was handed out before.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place as *mut u8, bytes.len()) };
        Ok(u32::try_from(place)?)
    }
}
