//! Flips one bit of a packet.

use crate::{
    packet::Skb,
    rewrite::{Frame, SUMMED_MAX, fold},
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_l4_csum_replace};
use chaos_common::packet::{self, PROTOCOL_TCP, PROTOCOL_UDP, Packet};

/// What has become of a packet that was to be changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was changed.
    Done,
    /// It is as it was.
    Undone,
    /// It is no packet any more.
    Broken,
}

/// `BPF_F_MARK_MANGLED_0`: a checksum of 0 means that there is none (UDP).
const MARK_MANGLED_0: u64 = 1 << 5;
/// Bytes that [`Frame::own_checksum`] can hold: all headers before the transport's.
const HEADERS_MAX: u32 = 100;

/// Whether the packet has payload that can be found.
#[inline(always)]
pub fn has_payload(skb: *mut __sk_buff, packet: &Packet) -> bool {
    let Some(frame) = Frame::of(skb, packet) else { return false };
    let Some(header) = packet::header_bytes(&Skb(skb), packet) else { return false };
    frame.transport + header < frame.end()
}

/// Flips a bit somewhere from the transport header on, with a checksum that is right for what it was before.
///
/// The rest of a super-packet behind its first wire segment is lost: its segments are computed later, with right checksums.
#[inline(always)]
pub fn checksum_wrong(skb: *mut __sk_buff, packet: &Packet, place: u32) -> Change {
    let Some(frame) = Frame::of(skb, packet) else { return Change::Undone };
    // Fragments were summed up before they were cut, other protocols are not left to the device.
    let summed = matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP) && packet.fragment == 0;
    if summed {
        if frame.transport > HEADERS_MAX || first_segment(skb, &frame, packet).is_none() {
            return Change::Undone;
        }
        if sum_up(&frame, packet).is_none() || !frame.own_checksum() {
            return Change::Broken;
        }
    }
    let bytes = frame.end().wrapping_sub(frame.transport);
    let (mut offset, bit) = choose(place, bytes);
    if packet.protocol == PROTOCOL_UDP && (6..8).contains(&offset) {
        // The checksum's own bits: it must not become 0, which would mean that there is none.
        offset -= 6;
    }
    let Some([byte]) = frame.load::<1>(frame.transport + offset) else { return Change::Broken };
    match frame.store(frame.transport + offset, &[byte ^ bit]) {
        Some(()) => Change::Done,
        None => Change::Broken,
    }
}

/// Leaves only the first wire segment of a super-packet, and no more of a packet than the kernel lets a program handle
/// (`BPF_SKB_MAX_LEN`, net/core/filter.c: 16 KiB). The receiver throws it away, so that its length does not matter.
#[inline(always)]
fn first_segment(skb: *mut __sk_buff, frame: &Frame, packet: &Packet) -> Option<()> {
    // SAFETY: `skb` is the program's context.
    let segment = unsafe { (*skb).gso_size };
    let mut end = frame.transport + SUMMED_MAX;
    if segment != 0 {
        end = end.min(frame.transport + packet::header_bytes(&Skb(skb), packet)? + segment);
    }
    if end < frame.end() {
        frame.cut(end, packet)?;
        if packet.protocol == PROTOCOL_UDP {
            let bytes = end.wrapping_sub(frame.transport);
            frame.store(frame.transport + 4, &(bytes as u16).to_be_bytes())?;
        }
    }
    Some(())
}

/// Computes the checksum of the packet as it is.
#[inline(always)]
fn sum_up(frame: &Frame, packet: &Packet) -> Option<()> {
    let field = frame.transport + packet::checksum_offset(packet.protocol)?;
    frame.store(field, &[0, 0])?;
    let sum = frame.pseudo_sum(packet, frame.end().wrapping_sub(frame.transport))?;
    let sum = !fold(frame.sum(sum)?);
    let sum = if sum == 0 { 0xffff } else { sum };
    frame.store(field, &sum.to_ne_bytes())
}

/// Flips a bit of the payload and makes the checksum right for it. Of a super-packet, a bit of the first wire segment.
#[inline(always)]
pub fn payload_wrong(skb: *mut __sk_buff, packet: &Packet, place: u32) -> Change {
    match try_payload_wrong(skb, packet, place) {
        Some(()) => Change::Done,
        None => Change::Undone,
    }
}

#[inline(always)]
fn try_payload_wrong(skb: *mut __sk_buff, packet: &Packet, place: u32) -> Option<()> {
    let frame = Frame::of(skb, packet)?;
    let header = packet::header_bytes(&Skb(skb), packet)?;
    let mut bytes = frame.end().checked_sub(frame.transport + header)?;
    // SAFETY: `skb` is the program's context.
    let segment = unsafe { (*skb).gso_size };
    if segment != 0 && segment < bytes {
        bytes = segment;
    }
    if bytes == 0 {
        return None;
    }
    let (offset, bit) = choose(place, bytes);
    // Checksums are over words of two bytes; header lengths are even.
    let word = frame.transport + header + (offset & !1);
    let last = frame.load::<1>(word)?;
    let old = frame.load::<2>(word).unwrap_or([last[0], 0]);
    let new = if offset & 1 == 0 { [old[0] ^ bit, old[1]] } else { [old[0], old[1] ^ bit] };
    let field = frame.transport + packet::checksum_offset(packet.protocol)?;
    let [from, to] = [old, new].map(|word| u16::from_ne_bytes(word) as u64);
    let flags = 2 | if packet.protocol == PROTOCOL_UDP { MARK_MANGLED_0 } else { 0 };
    // The byte first: should there be no memory to write to, nothing has happened.
    let changed = if offset & 1 == 0 { [new[0]] } else { [new[1]] };
    frame.store(word + (offset & 1), &changed)?;
    // Does nothing where the device computes the checksum (`inet_proto_csum_replace2`, net/core/utils.c).
    // SAFETY: the pointer is the program's context.
    if unsafe { bpf_l4_csum_replace(skb, field, from, to, flags) } == 0 { Some(()) } else { None }
}

/// A byte below `bytes` and a bit of it, by a uniform number.
#[inline(always)]
fn choose(place: u32, bytes: u32) -> (u32, u8) {
    let at = (place as u64 * (bytes as u64 * 8)) >> 32;
    ((at >> 3) as u32, 1 << (at & 7))
}
