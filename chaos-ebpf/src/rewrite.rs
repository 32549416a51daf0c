//! Changing a packet on its way out, below the transport's own hands.

use crate::maps::{CHUNK_BYTES, KC_SCRATCH, PIECE_BYTES, Scratch};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
    },
};
use chaos_common::packet::{FAMILY_V4, Packet};

/// `BPF_HDR_START_NET`: offsets count from the network header, whatever the device puts before it.
pub const HDR_START_NET: u32 = 1;
/// Bytes that bpf_csum_diff sums up at once.
const CHUNK: u32 = CHUNK_BYTES as u32;
/// Bytes from the transport header on that are summed up at most.
pub const SUMMED_MAX: u32 = 9_216;
const CHUNKS_MAX: u32 = SUMMED_MAX / CHUNK;

/// A packet that is being changed. Offsets count from the link-layer header, if the device has one.
#[derive(Clone, Copy)]
pub struct Frame {
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    /// Where the network header begins.
    pub network: u32,
    /// Where the transport header begins.
    pub transport: u32,
}

impl Frame {
    /// Finds the headers. `None` for a packet that shows no transport header.
    #[inline(always)]
    pub fn of(skb: *mut __sk_buff, packet: &Packet) -> Option<Self> {
        if packet.transport == 0 {
            return None;
        }
        let mut start = 0u64;
        // SAFETY: the pointer is the program's context, `start` has room.
        let result =
            unsafe { bpf_skb_load_bytes_relative(skb.cast(), 0, (&raw mut start).cast(), 8, HDR_START_NET) };
        if result != 0 {
            return None;
        }
        let probe = Self { skb, scratch: KC_SCRATCH.get_ptr_mut(0)?, network: 0, transport: 0 };
        // No field says how long the link-layer header is: Ethernet's, none, Ethernet's with a VLAN tag.
        let network = if probe.load::<8>(14).map(u64::from_ne_bytes) == Some(start) {
            14
        } else if probe.load::<8>(0).map(u64::from_ne_bytes) == Some(start) {
            0
        } else if probe.load::<8>(18).map(u64::from_ne_bytes) == Some(start) {
            18
        } else {
            return None;
        };
        let network = probe.forget(network);
        Some(Self { network, transport: network + packet.transport, ..probe })
    }

    /// The same number, of which the verifier knows nothing any more: it would follow what comes after once for every value
    /// and every way that led to it.
    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        // SAFETY: the pointer is this CPU's value.
        unsafe {
            let cell = &raw mut (*self.scratch).number;
            cell.write_volatile(number as u64);
            cell.read_volatile() as u32
        }
    }

    /// Where the packet ends.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb).len }
    }

    /// Reads `N` bytes.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        const { assert!(N <= PIECE_BYTES) };
        // SAFETY: the pointers are the program's context and this CPU's value, whose piece has room for `N` bytes.
        unsafe {
            let piece = (&raw mut (*self.scratch).piece).cast::<[u8; N]>();
            if bpf_skb_load_bytes(self.skb.cast(), offset, piece.cast(), N as u32) != 0 {
                return None;
            }
            Some(piece.read())
        }
    }

    /// Writes `N` bytes. What the packet shares with others (the copy that is kept for retransmission) is copied
    /// first (`skb_ensure_writable`, net/core/skbuff.c).
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        const { assert!(N <= PIECE_BYTES) };
        // SAFETY: as above.
        unsafe {
            let piece = (&raw mut (*self.scratch).piece).cast::<[u8; N]>();
            piece.write(*bytes);
            done(bpf_skb_store_bytes(self.skb, offset, piece.cast(), N as u32, 0))
        }
    }

    /// Exchanges two neighbours of `N` bytes.
    #[inline(always)]
    pub fn swap<const N: usize>(&self, offset: u32) -> Option<()> {
        const { assert!(2 * N <= PIECE_BYTES) };
        let bytes = N as u32;
        // SAFETY: as above, for both.
        unsafe {
            let piece = (&raw mut (*self.scratch).piece).cast::<u8>();
            done(bpf_skb_load_bytes(self.skb.cast(), offset, piece.cast(), 2 * bytes))?;
            done(bpf_skb_store_bytes(self.skb, offset, piece.add(N).cast(), bytes, 0))?;
            done(bpf_skb_store_bytes(self.skb, offset + bytes, piece.cast(), bytes, 0))
        }
    }

    /// Cuts the packet so that it ends at `end`, and says so in its IP header. A super-packet becomes an ordinary one.
    #[inline(always)]
    pub fn cut(&self, end: u32, packet: &Packet) -> Option<()> {
        self.resize(end)?;
        let bytes = end.wrapping_sub(self.network);
        if packet.family == FAMILY_V4 {
            let old = u16::from_ne_bytes(self.load::<2>(self.network + 2)?);
            let new = (bytes as u16).to_be();
            // SAFETY: the pointer is the program's context.
            done(unsafe { bpf_l3_csum_replace(self.skb, self.network + 10, old as u64, new as u64, 2) })?;
            self.store(self.network + 2, &new.to_ne_bytes())
        } else {
            self.store(self.network + 4, &(bytes.wrapping_sub(40) as u16).to_be_bytes())
        }
    }

    #[inline(always)]
    fn resize(&self, end: u32) -> Option<()> {
        // SAFETY: the pointer is the program's context; no pointers into the packet are held.
        done(unsafe { bpf_skb_change_tail(self.skb, end, 0) })
    }

    /// The sum over the pseudo header of a transport packet of `bytes` bytes. IPv4's sums up to the same as IPv6's with the
    /// same numbers in it.
    #[inline(always)]
    pub fn pseudo_sum(&self, packet: &Packet, bytes: u32) -> Option<u32> {
        // SAFETY: the pointer is this CPU's value, whose chunk has room for 40 bytes.
        let sum = unsafe {
            let chunk = &raw mut (*self.scratch).chunk;
            chunk.cast::<[u8; 16]>().write(packet.local);
            chunk.cast::<[u8; 16]>().add(1).write(packet.remote);
            (*chunk)[4] = (((bytes as u64) << 32) | packet.protocol as u64).to_be();
            bpf_csum_diff(core::ptr::null_mut(), 0, chunk.cast(), 40, 0)
        };
        if sum < 0 { None } else { Some(sum as u32) }
    }

    /// Adds everything from the transport header on to `sum`.
    #[inline(always)]
    pub fn sum(&self, sum: u32) -> Option<u32> {
        let end = self.end();
        let (mut offset, mut sum) = (self.transport, sum);
        for _ in 0..CHUNKS_MAX {
            if offset + CHUNK > end {
                break;
            }
            sum = self.sum_chunk(offset, CHUNK, sum)?;
            offset += CHUNK;
        }
        let rest = end.wrapping_sub(offset);
        if rest == 0 {
            return Some(sum);
        }
        if rest >= CHUNK {
            return None;
        }
        for word in 0..CHUNK_BYTES / 8 {
            // SAFETY: as in `pseudo_sum`.
            unsafe { (*self.scratch).chunk[word] = 0 };
        }
        // The verifier wants to see both bounds, which the compiler must not know and leave out.
        let rest = (self.forget(rest - 1) & (CHUNK - 1)) + 1;
        self.sum_chunk(offset, rest, sum)
    }

    /// Reads `bytes` bytes over the chunk and sums the whole chunk up.
    #[inline(always)]
    fn sum_chunk(&self, offset: u32, bytes: u32, sum: u32) -> Option<u32> {
        // SAFETY: `bytes` is no more than a chunk.
        unsafe {
            let chunk = &raw mut (*self.scratch).chunk;
            done(bpf_skb_load_bytes(self.skb.cast(), offset, chunk.cast(), bytes))?;
            let sum = bpf_csum_diff(core::ptr::null_mut(), 0, chunk.cast(), CHUNK, sum);
            if sum < 0 { None } else { Some(sum as u32) }
        }
    }

    /// Makes the packet carry the checksum that it holds, instead of leaving it to the device to compute one. `false` if
    /// that broke off and the packet is beyond repair.
    ///
    /// Packets of this host leave that to the device (`CHECKSUM_PARTIAL`): loopback and veth never compute it and the
    /// receiver takes it as right. A packet that is cut shorter in front than where the checksum begins loses that
    /// state (`skb_postpull_rcsum`, include/linux/skbuff.h), and does not get it back with the bytes. The cut is made in two
    /// steps: the kernel looked at the state before the cut until 5.10.163 and 6.1.4.
    #[inline(always)]
    pub fn own_checksum(&self) -> bool {
        self.try_own_checksum().is_some()
    }

    #[inline(always)]
    fn try_own_checksum(&self) -> Option<()> {
        /// Longer than all headers up to the transport's.
        const CUT: u32 = 128;
        /// More than the cut and an IP header.
        const LONG_ENOUGH: u32 = 256;
        const BPF_ADJ_ROOM_MAC: u32 = 1;
        let end = self.end();
        if end < LONG_ENOUGH {
            self.resize(LONG_ENOUGH)?;
        }
        // SAFETY: the pointers are the program's context and this CPU's value, whose chunk has room.
        unsafe {
            let chunk = &raw mut (*self.scratch).chunk;
            done(bpf_skb_load_bytes(self.skb.cast(), self.network, chunk.cast(), CUT))?;
            done(bpf_skb_adjust_room(self.skb, 8 - CUT as i32, BPF_ADJ_ROOM_MAC, 0))?;
            done(bpf_skb_adjust_room(self.skb, -8, BPF_ADJ_ROOM_MAC, 0))?;
            done(bpf_skb_adjust_room(self.skb, CUT as i32, BPF_ADJ_ROOM_MAC, 0))?;
            done(bpf_skb_store_bytes(self.skb, self.network, chunk.cast(), CUT, 0))?;
        }
        if end < LONG_ENOUGH { self.resize(end) } else { Some(()) }
    }
}

#[inline(always)]
fn done(result: i64) -> Option<()> {
    if result == 0 { Some(()) } else { None }
}

/// The 16 bits that a checksum field holds for a sum, not complemented.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
