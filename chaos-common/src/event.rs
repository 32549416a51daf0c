//! Records of single packets and calls, as the kernel programs put them into the ring buffer.

use crate::packet::Packet;

/// Nothing is recorded.
pub const EVENTS_NONE: u32 = 0;
/// What a fault was inflicted on.
pub const EVENTS_INJECTED: u32 = 1;
/// Everything of the target that reached a hook.
pub const EVENTS_SEEN: u32 = 2;

/// [`Head::kind`] of a [`PacketEvent`].
pub const EVENT_PACKET: u32 = 1;
/// [`Head::kind`] of a [`CallEvent`].
pub const EVENT_CALL: u32 = 2;

/// Bytes of the ring buffer, where events are recorded: a power of two and whole pages.
pub const RING_BYTES: u32 = 1 << 20;
/// Bytes of one that is not used.
pub const RING_BYTES_MIN: u32 = 4096;

/// What begins every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// One of `EVENT_*`.
    pub kind: u32,
    /// What was done, one bit per kind of rule ([`crate::rule::act`]).
    pub acts: u32,
    /// The rules that did it, one bit each.
    pub rules: u64,
    /// When, on `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
}

/// A packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketEvent {
    /// See [`Head`].
    pub head: Head,
    /// Packets on the wire.
    pub segments: u64,
    /// Bytes, as the hook sees them.
    pub bytes: u64,
    /// What could be read of it.
    pub packet: Packet,
    /// Index of the device it was leaving, or 0 for an arriving one.
    pub device: u32,
    /// 1 if what was to be done could not be done.
    pub failed: u32,
    /// Explicit padding.
    pub reserved: u32,
}

/// A system call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEvent {
    /// See [`Head`].
    pub head: Head,
    /// What it returns, if a fault was inflicted on it.
    pub result: i64,
    /// Its row of the call table ([`crate::syscall::ROWS`]).
    pub row: u32,
    /// Thread group, seen from the first pid namespace.
    pub tgid: u32,
    /// Thread, likewise.
    pub tid: u32,
    /// Explicit padding.
    pub reserved: u32,
    /// The thread's name, ended by 0.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<PacketEvent>() == 112 && size_of::<CallEvent>() == 64);
