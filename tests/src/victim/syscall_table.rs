//! System calls a victim can make, each by its raw number and without any other faultable call on the way.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;

/// One system call of the table.
pub struct Call {
    /// The kernel's name of the call.
    pub name: &'static str,
    /// Makes it once; the result as the kernel gives it, negative for an error.
    pub make: fn(&Fixture) -> i64,
}

/// The table; add a line and a function for another call.
pub const TABLE: &[Call] = &[
    Call { name: "getppid", make: |_| raw(libc::SYS_getppid, [0; 6]) },
    Call { name: "getpid", make: |_| raw(libc::SYS_getpid, [0; 6]) },
    Call { name: "openat", make: openat },
    Call { name: "open", make: open },
    Call { name: "openat2", make: openat2 },
    Call { name: "read", make: read },
    Call { name: "write", make: write },
    Call { name: "fsync", make: |f| raw(libc::SYS_fsync, [f.file as usize, 0, 0, 0, 0, 0]) },
    Call { name: "getdents64", make: getdents64 },
    Call { name: "newfstatat", make: newfstatat },
    Call { name: "unlinkat", make: unlinkat },
    Call { name: "mkdirat", make: mkdirat },
    Call { name: "renameat2", make: renameat2 },
    Call { name: "socket", make: socket },
    Call { name: "connect", make: connect },
    Call { name: "bind", make: bind },
    Call { name: "sendto", make: sendto },
    Call {
        name: "fcntl",
        make: |f| raw(libc::SYS_fcntl, [f.file as usize, libc::F_GETFL as usize, 0, 0, 0, 0]),
    },
    Call { name: "mmap", make: mmap },
];

/// Calls that show whether a success was real. They are no controls.
pub const TELLING: &[Call] = &[
    // Changes the size of the file.
    Call {
        name: "pwrite64",
        make: |f| {
            let block = [7u8; 512];
            raw(libc::SYS_pwrite64, [f.file as usize, &raw const block as usize, block.len(), 0, 0, 0])
        },
    },
    // Of no file at all: fails by itself.
    Call { name: "fdatasync", make: |_| raw(libc::SYS_fdatasync, [usize::MAX, 0, 0, 0, 0, 0]) },
];

/// Calls that are only timed.
const TIMED: &[Call] = &[
    // Of a descriptor made for it.
    Call {
        name: "close",
        make: |f| {
            let copy = raw(libc::SYS_dup, [f.file as usize, 0, 0, 0, 0, 0]);
            if copy < 0 { copy } else { raw(libc::SYS_close, [copy as usize, 0, 0, 0, 0, 0]) }
        },
    },
    // Waits for 150 ms, and begins again where a signal interrupts it.
    Call { name: "readv", make: readv },
];

fn readv(_: &Fixture) -> i64 {
    let timer = raw(libc::SYS_timerfd_create, [libc::CLOCK_MONOTONIC as usize, 0, 0, 0, 0, 0]);
    if timer < 0 {
        return timer;
    }
    let mut expired = 0u64;
    let time = libc::timespec { tv_sec: 0, tv_nsec: 150_000_000 };
    let when = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
    let room = libc::iovec { iov_base: (&raw mut expired).cast(), iov_len: size_of::<u64>() };
    let set = raw(libc::SYS_timerfd_settime, [timer as usize, 0, &raw const when as usize, 0, 0, 0]);
    let result = if set < 0 {
        set
    } else {
        raw(libc::SYS_readv, [timer as usize, &raw const room as usize, 1, 0, 0, 0])
    };
    raw(libc::SYS_close, [timer as usize, 0, 0, 0, 0, 0]);
    result
}

/// Finds a call that can be timed.
pub fn timed(name: &str) -> Option<&'static Call> {
    TABLE.iter().chain(TIMED).find(|call| call.name == name)
}

/// Finds a call by the kernel's name of it.
pub fn by_name(name: &str) -> Option<usize> {
    TABLE.iter().position(|call| call.name == name)
}

/// What the calls work on, private to one thread.
pub struct Fixture {
    root: RawFd,
    scratch: RawFd,
    file: RawFd,
    zero: RawFd,
    null: RawFd,
    udp: RawFd,
    /// Opens without the call under fault.
    open: fn(&CStr, i32) -> i64,
    new_path: CString,
    new_name: CString,
    moved_name: CString,
    socket_address: libc::sockaddr_in,
}

impl Fixture {
    /// Prepares everything the table needs without making the call under fault, where there is another way.
    pub fn prepare(scratch: &str, fault: &str) -> Result<Self> {
        let open: fn(&CStr, i32) -> i64 = if fault == "open" { openat_path } else { open_path };
        let opened = |path: &CStr, flags: i32| -> Result<RawFd> {
            let fd = checked(open(path, flags)).with_context(|| format!("opening {path:?}"))?;
            Ok(fd as RawFd)
        };
        let thread = raw(libc::SYS_gettid, [0; 6]);
        let scratch_path = CString::new(scratch)?;
        let file_path = CString::new(format!("{scratch}/file-{thread}"))?;
        // The socket under fault may not come to be; connecting then fails with EBADF, which is no fault of ours.
        let udp = raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
        Ok(Self {
            root: opened(c"/", libc::O_RDONLY | libc::O_DIRECTORY)?,
            scratch: opened(&scratch_path, libc::O_RDONLY | libc::O_DIRECTORY)?,
            file: opened(&file_path, libc::O_RDWR | libc::O_CREAT)?,
            zero: opened(c"/dev/zero", libc::O_RDONLY)?,
            null: opened(c"/dev/null", libc::O_WRONLY)?,
            udp: udp as RawFd,
            open,
            new_path: CString::new(format!("{scratch}/new-{thread}"))?,
            new_name: CString::new(format!("new-{thread}"))?,
            moved_name: CString::new(format!("moved-{thread}"))?,
            socket_address: libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: 9u16.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
                sin_zero: [0; 8],
            },
        })
    }

    fn touch_new(&self) {
        let fd = (self.open)(&self.new_path, libc::O_RDWR | libc::O_CREAT);
        if fd >= 0 {
            raw(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
        }
    }
}

/// Makes a system call; the result as the kernel gives it, negative for an error.
pub(super) fn raw(number: libc::c_long, a: [usize; 6]) -> i64 {
    // SAFETY: callers pass descriptors, sizes, and pointers to values that live across the call.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result == -1 { -i64::from(Errno::last_raw()) } else { result }
}

fn checked(result: i64) -> Result<i64> {
    ensure!(result >= 0, "{:?}", Errno::from_raw(-result as i32));
    Ok(result)
}

fn pointer(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn open_path(path: &CStr, flags: i32) -> i64 {
    raw(libc::SYS_open, [pointer(path), (flags | libc::O_CLOEXEC) as usize, 0o600, 0, 0, 0])
}

fn openat_path(path: &CStr, flags: i32) -> i64 {
    let here = libc::AT_FDCWD as usize;
    raw(libc::SYS_openat, [here, pointer(path), (flags | libc::O_CLOEXEC) as usize, 0o600, 0, 0])
}

fn then_close(fd: i64) -> i64 {
    if fd >= 0 {
        raw(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
    }
    fd
}

fn openat(_: &Fixture) -> i64 {
    then_close(openat_path(c"/", libc::O_RDONLY | libc::O_DIRECTORY))
}

fn open(_: &Fixture) -> i64 {
    then_close(open_path(c"/", libc::O_RDONLY | libc::O_DIRECTORY))
}

fn openat2(fixture: &Fixture) -> i64 {
    // struct open_how {flags, mode, resolve}
    let how = [(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64, 0, 0];
    let arguments = [fixture.root as usize, pointer(c"."), how.as_ptr() as usize, size_of_val(&how), 0, 0];
    then_close(raw(libc::SYS_openat2, arguments))
}

fn read(fixture: &Fixture) -> i64 {
    let mut byte = 1u8;
    raw(libc::SYS_read, [fixture.zero as usize, &raw mut byte as usize, 1, 0, 0, 0])
}

fn write(fixture: &Fixture) -> i64 {
    let byte = 1u8;
    raw(libc::SYS_write, [fixture.null as usize, &raw const byte as usize, 1, 0, 0, 0])
}

fn getdents64(fixture: &Fixture) -> i64 {
    let mut entries = [0u64; 256];
    raw(libc::SYS_lseek, [fixture.root as usize, 0, libc::SEEK_SET as usize, 0, 0, 0]);
    raw(
        libc::SYS_getdents64,
        [fixture.root as usize, entries.as_mut_ptr() as usize, size_of_val(&entries), 0, 0, 0],
    )
}

fn newfstatat(_: &Fixture) -> i64 {
    // Larger than struct stat on every architecture.
    let mut stat = [0u64; 32];
    raw(libc::SYS_newfstatat, [libc::AT_FDCWD as usize, pointer(c"/"), stat.as_mut_ptr() as usize, 0, 0, 0])
}

fn unlinkat(fixture: &Fixture) -> i64 {
    fixture.touch_new();
    raw(libc::SYS_unlinkat, [fixture.scratch as usize, pointer(&fixture.new_name), 0, 0, 0, 0])
}

fn mkdirat(fixture: &Fixture) -> i64 {
    // Another call's leftover of that name would turn this into EEXIST.
    raw(libc::SYS_unlink, [pointer(&fixture.new_path), 0, 0, 0, 0, 0]);
    let made = raw(libc::SYS_mkdirat, [fixture.scratch as usize, pointer(&fixture.new_name), 0o700, 0, 0, 0]);
    raw(libc::SYS_rmdir, [pointer(&fixture.new_path), 0, 0, 0, 0, 0]);
    made
}

fn renameat2(fixture: &Fixture) -> i64 {
    fixture.touch_new();
    let scratch = fixture.scratch as usize;
    raw(
        libc::SYS_renameat2,
        [scratch, pointer(&fixture.new_name), scratch, pointer(&fixture.moved_name), 0, 0],
    )
}

fn socket(_: &Fixture) -> i64 {
    then_close(raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]))
}

fn bind(_: &Fixture) -> i64 {
    let udp = raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
    // SAFETY: all-zero is a valid address: any port of any address.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    let bound =
        raw(libc::SYS_bind, [udp as usize, &raw const address as usize, size_of_val(&address), 0, 0, 0]);
    then_close(udp);
    bound
}

fn connect(fixture: &Fixture) -> i64 {
    let address = &raw const fixture.socket_address as usize;
    raw(libc::SYS_connect, [fixture.udp as usize, address, size_of::<libc::sockaddr_in>(), 0, 0, 0])
}

fn sendto(fixture: &Fixture) -> i64 {
    let byte = 1u8;
    // Nobody listens on the discard port; only the local result counts, and a pending ICMP error is not reported to a
    // socket that is not connected, so each call uses a fresh one.
    let udp = raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
    let address = &raw const fixture.socket_address as usize;
    let bytes = size_of::<libc::sockaddr_in>();
    let sent = raw(libc::SYS_sendto, [udp as usize, &raw const byte as usize, 1, 0, address, bytes]);
    then_close(udp);
    sent
}

fn mmap(_: &Fixture) -> i64 {
    let (protection, flags) = (libc::PROT_READ as usize, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize);
    let address = raw(libc::SYS_mmap, [0, 4096, protection, flags, usize::MAX, 0]);
    if address >= 0 {
        raw(libc::SYS_munmap, [address as usize, 4096, 0, 0, 0, 0]);
    }
    address.min(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_succeeds_without_faults() {
        let scratch = tempfile::tempdir().unwrap();
        for fault in ["openat", "open"] {
            let fixture = Fixture::prepare(scratch.path().to_str().unwrap(), fault).unwrap();
            for round in 0..3 {
                for call in TABLE {
                    let result = (call.make)(&fixture);
                    // A build sandbox may lack a network; the harness checks these two on its bystanders.
                    if !matches!(call.name, "bind" | "connect" | "sendto") {
                        assert!(result >= 0, "{} in round {round} gives {result}", call.name);
                    }
                }
            }
        }
    }
}
