//! Resets the TCP connection that a packet of the target belongs to: each end gets a reset in the other's name.

use crate::{
    corrupt::Change,
    rewrite::{Frame, fold},
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::generated::bpf_clone_redirect,
};
use chaos_common::packet::{FAMILY_V4, Load, PROTOCOL_TCP, Packet};

const FLAGS: u32 = 13;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
/// Bytes of a TCP header without options.
const HEADER: u32 = 20;
/// `LOOPBACK_IFINDEX` (include/net/net_namespace.h) of every network namespace.
const LOOPBACK: u32 = 1;

/// What becomes of the packet itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It goes on, as a reset for the peer.
    Sent,
    /// It is lost: the peer does not know of the connection yet.
    Refused,
}

/// Whether a reset can answer the packet: one of a TCP connection, and none itself.
#[inline(always)]
pub fn is_resettable(packet: &Packet, bytes: &impl Load) -> bool {
    if packet.protocol != PROTOCOL_TCP || packet.transport == 0 || packet.fragment != 0 {
        return false;
    }
    let flags: Option<[u8; 1]> = bytes.load(packet.transport + FLAGS);
    matches!(flags, Some([flags]) if flags & RST == 0)
}

/// Resets both ends. The packet is turned into the peer's reset first, a copy of it goes to the target, then into the
/// target's, which goes on in its place.
#[inline(always)]
pub fn reset(skb: *mut __sk_buff, packet: &Packet) -> Result<Reset, Change> {
    let frame = Frame::of(skb, packet).ok_or(Change::Undone)?;
    let header = frame.load::<14>(frame.transport).ok_or(Change::Undone)?;
    // The first thing that needs memory.
    frame.cut(frame.transport + HEADER, packet).ok_or(Change::Undone)?;
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, _, flags] = header;
    let (sequence, acknowledged) = ([q0, q1, q2, q3], [a0, a1, a2, a3]);
    let opening = flags & (SYN | ACK) == SYN;
    let number = u32::from_be_bytes(sequence);
    // To the target, which is where it has acknowledged to. A connection attempt is answered by naming it.
    let answer = if opening {
        segment([d0, d1, s0, s1], [0; 4], number.wrapping_add(1).to_be_bytes(), RST | ACK)
    } else {
        segment([d0, d1, s0, s1], acknowledged, [0; 4], RST)
    };
    // As TCP itself leaves it: the sum over the pseudo header, the rest is computed or taken as right by the device
    // (`tcp_v4_send_check`, net/ipv4/tcp_ipv4.c).
    let sum = fold(frame.pseudo_sum(packet, HEADER).ok_or(Change::Broken)?).to_ne_bytes();
    write(&frame, &answer, sum)?;
    turn(&frame, packet)?;
    // SAFETY: `skb` is the program's context.
    let device = unsafe { (*skb).ifindex };
    // What leaves loopback arrives there, with the route that IPv4 insists on (`ip_route_input_slow`, net/ipv4/route.c).
    let flags_in = if device == LOOPBACK { 0 } else { BPF_F_INGRESS as u64 };
    // SAFETY: `skb` is the program's context; no pointers into the packet are held.
    unsafe { bpf_clone_redirect(skb, device, flags_in) };
    if opening {
        return Ok(Reset::Refused);
    }
    turn(&frame, packet)?;
    write(&frame, &segment([s0, s1, d0, d1], sequence, acknowledged, RST | (flags & ACK)), sum)?;
    Ok(Reset::Sent)
}

/// A header up to its window.
#[inline(always)]
fn segment(ports: [u8; 4], sequence: [u8; 4], acknowledged: [u8; 4], flags: u8) -> [u8; 16] {
    let [p0, p1, p2, p3] = ports;
    let [q0, q1, q2, q3] = sequence;
    let [a0, a1, a2, a3] = acknowledged;
    [p0, p1, p2, p3, q0, q1, q2, q3, a0, a1, a2, a3, (HEADER as u8 / 4) << 4, flags, 0, 0]
}

#[inline(always)]
fn write(frame: &Frame, header: &[u8; 16], sum: [u8; 2]) -> Result<(), Change> {
    frame.store(frame.transport, header).ok_or(Change::Broken)?;
    frame.store(frame.transport + 16, &[sum[0], sum[1], 0, 0]).ok_or(Change::Broken)
}

/// Exchanges the ends' addresses.
#[inline(always)]
fn turn(frame: &Frame, packet: &Packet) -> Result<(), Change> {
    let swapped = if packet.family == FAMILY_V4 {
        frame.swap::<4>(frame.network + 12)
    } else {
        frame.swap::<16>(frame.network + 8)
    };
    swapped.ok_or(Change::Broken)?;
    if frame.network == 0 { Ok(()) } else { frame.swap::<6>(0).ok_or(Change::Broken) }
}
