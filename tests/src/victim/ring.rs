//! A small io_uring by raw system calls: one request at a time.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};

use super::syscall_table::raw;

/// connect(2); numbers of include/uapi/linux/io_uring.h.
pub const OP_CONNECT: u8 = 16;
/// openat(2).
pub const OP_OPENAT: u8 = 18;
/// read(2).
pub const OP_READ: u8 = 22;
/// write(2).
pub const OP_WRITE: u8 = 23;

const SETUP_SQPOLL: u32 = 1 << 1;
const REQUEST_ASYNC: u8 = 1 << 4;
const ENTER_GETEVENTS: usize = 1;
const ENTER_SQ_WAKEUP: usize = 1 << 1;
const OFFSET_CQ_RING: usize = 0x800_0000;
const OFFSET_SQES: usize = 0x1000_0000;
const ENTRIES: u32 = 4;

/// Who carries a ring's requests out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The task that submits them, while it does.
    Submitter,
    /// A worker thread of the ring.
    Worker,
    /// The ring's thread that looks for requests (SQPOLL).
    Poller,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread: [u32; 2],
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}

/// `struct io_sqring_offsets`, and `struct io_cqring_offsets`, in which `last` is where completions are.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    other: [u32; 2],
    /// `array` of submissions.
    array: u32,
    reserved: [u32; 3],
}

/// `struct io_uring_sqe`, as far as it is used.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Request {
    /// One of `OP_*`.
    pub op: u8,
    /// Of the request itself; [`Ring::make`] sets them.
    pub flags: u8,
    /// Not used.
    pub ioprio: u16,
    /// Descriptor.
    pub fd: i32,
    /// Offset in a file; length of an address.
    pub off: u64,
    /// Address of bytes, of a path or of a socket address.
    pub address: u64,
    /// Bytes; mode of a new file.
    pub len: u32,
    /// Flags of open.
    pub op_flags: u32,
    /// Comes back with the result.
    pub user_data: u64,
    /// Not used.
    pub rest: [u64; 3],
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Parameters>() == 120);

/// A ring.
pub struct Ring {
    fd: usize,
    carrier: Carrier,
    parameters: Parameters,
    sq: usize,
    cq: usize,
    requests: usize,
}

impl Ring {
    /// Makes one.
    pub fn new(carrier: Carrier) -> Result<Self> {
        let flags = if carrier == Carrier::Poller { SETUP_SQPOLL } else { 0 };
        let mut parameters = Parameters { flags, ..Parameters::default() };
        let address = &raw mut parameters as usize;
        let fd = raw(libc::SYS_io_uring_setup, [ENTRIES as usize, address, 0, 0, 0, 0]);
        ensure!(fd >= 0, "io_uring_setup: {fd}");
        let fd = fd as usize;
        let map = |offset, length| {
            let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
            let flags = (libc::MAP_SHARED | libc::MAP_POPULATE) as usize;
            let address = raw(libc::SYS_mmap, [0, length, protection, flags, fd, offset]);
            ensure!(address >= 0, "mapping a ring: {address}");
            Ok(address as usize)
        };
        let sq = map(0, (parameters.sq.array + 4 * parameters.sq_entries) as usize)?;
        // Completions begin at `cqes`, where submissions have `other[1]`.
        let cq = map(OFFSET_CQ_RING, (parameters.cq.other[1] + 16 * parameters.cq_entries) as usize)?;
        let requests = map(OFFSET_SQES, 64 * parameters.sq_entries as usize)?;
        Ok(Self { fd, carrier, parameters, sq, cq, requests })
    }

    /// Carries out one request; its result as the kernel gives it.
    pub fn make(&self, request: Request) -> i64 {
        let word = |ring: usize, offset: u32| {
            // SAFETY: a word in a mapping that is never removed, at an offset the kernel gave for it.
            unsafe { &*((ring + offset as usize) as *const AtomicU32) }
        };
        let (sq, cq) = (&self.parameters.sq, &self.parameters.cq);
        let flags = if self.carrier == Carrier::Worker { REQUEST_ASYNC } else { 0 };
        // SAFETY: the first of the mapped requests; the one before it has been completed.
        unsafe { (self.requests as *mut Request).write_volatile(Request { flags, ..request }) };
        let tail = word(self.sq, sq.tail).load(Ordering::Relaxed);
        let mask = word(self.sq, sq.ring_mask).load(Ordering::Relaxed);
        word(self.sq, sq.array + 4 * (tail & mask)).store(0, Ordering::Relaxed);
        word(self.sq, sq.tail).store(tail.wrapping_add(1), Ordering::SeqCst);
        let head = word(self.cq, cq.head).load(Ordering::Relaxed);
        let wakeup = if self.carrier == Carrier::Poller { ENTER_SQ_WAKEUP } else { 0 };
        let mut submit = 1;
        while word(self.cq, cq.tail).load(Ordering::Acquire) == head {
            let arguments = [self.fd, submit, 1, ENTER_GETEVENTS | wakeup, 0, 0];
            let entered = raw(libc::SYS_io_uring_enter, arguments);
            if entered < 0 && entered != -i64::from(libc::EINTR) {
                return entered;
            }
            submit = 0;
        }
        let place = self.cq + cq.other[1] as usize + 16 * (head & (self.parameters.cq_entries - 1)) as usize;
        // SAFETY: a completion that the kernel has written: `user_data`, then the result.
        let result = unsafe { ((place + 8) as *const i32).read_volatile() };
        word(self.cq, cq.head).store(head.wrapping_add(1), Ordering::Release);
        result.into()
    }
}
