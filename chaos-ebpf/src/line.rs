//! The delay line: in at a device's egress (for arriving packets: at its ingress, and out there), through the queueing discipline of one end of a veth pair, back at the
//! other end, and out of the device.
//!
//! ```text
//! device egress -> (redirect) end A egress: netem -> end B ingress -> (redirect to the peer) end A ingress -> device egress
//! ```
//!
//! End A lives in the target's network namespace, end B in one that only the owner's descriptor holds. A packet that several
//! rules delay goes from end A of one line into end A of the next, so that the delays add up.

use crate::{
    count::add,
    globals::KC_CHAINED,
    maps::{KC_EXITS, KC_LINES, KC_LOADS},
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_ktime_get_ns, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head,
        bpf_skb_change_type, bpf_skb_store_bytes,
    },
    macros::classifier,
    programs::TcContext,
};
use chaos_common::{
    line::{
        Entrance, LAYER_ARRIVAL, LAYER_LINE, LAYER_LOOPBACK, LAYER_NONE, LineKey, NAMESPACE_MAGIC,
        PACKET_HOST, mark, slot,
    },
    line_load::{Admission, Load},
    packet::{ETHERTYPE_IPV4, PROTOCOL_TCP, Packet},
};

/// `TC_ACT_SHOT` (include/uapi/linux/pkt_cls.h). What is not ours has no business in a line.
const DROP: i32 = 2;
/// `BPF_F_INGRESS` (include/uapi/linux/bpf.h).
const INGRESS: u64 = 1;

/// The network namespace of the device whose copy of the program this is.
#[inline(always)]
pub fn namespace() -> u32 {
    // The loader writes it over the placeholder in each copy.
    core::hint::black_box(NAMESPACE_MAGIC)
}

/// The first of the lines that `rules` (one bit each) have for a device.
#[inline(always)]
pub fn entrance(namespace: u32, device: u32, rules: u64) -> Option<Entrance> {
    let key = LineKey { namespace, device, rules };
    // SAFETY: entries are written as a whole before the device's program is attached, and not changed.
    unsafe { KC_LINES.get(key) }.copied()
}

/// There is no room in a line.
pub struct Full;

/// Addresses the packet to come out of the lines of `rules`, and as many `copies` of it as there are. Returns the first one's
/// device, or 0 if there is none.
#[inline(always)]
pub fn address(skb: *mut __sk_buff, packet: &Packet, rules: u64, copies: u32) -> Result<u32, Full> {
    // SAFETY: `skb` is the program's context.
    let (device, bytes) = unsafe { ((*skb).ifindex, (*skb).len) };
    let Some(mut way) = entrance(namespace(), device, rules) else { return Ok(0) };
    // What TCP sends stays with its socket until it is acknowledged, and takes no memory of its own in a line.
    let room = packet.protocol != PROTOCOL_TCP;
    match admit(way.load, bytes * (1 + copies), room) {
        Admission::Held => {}
        Admission::Full => return Err(Full),
        Admission::Burst => {
            let rate = KC_LOADS.get(way.load).map_or(0, |load| load.rate_rule);
            let Some(rest) = entrance(namespace(), device, rules & !(1 << (rate & 63))) else { return Ok(0) };
            way = rest;
        }
    }
    // SAFETY: as above; the field is writable for tc programs.
    unsafe { (*skb).tc_index = mark(way.slot) as _ };
    if way.layer == LAYER_NONE && !add_ethernet_header(skb) {
        return Ok(0);
    }
    Ok(way.device)
}

#[inline(always)]
fn admit(way: u32, bytes: u32, room: bool) -> Admission {
    let Some(load) = KC_LOADS.get_ptr_mut(way) else { return Admission::Held };
    // SAFETY: the helper has no preconditions; the pointer is a map's value, which programs change by `admit` alone.
    unsafe { Load::admit(load, bpf_ktime_get_ns(), bytes.into(), room, |sum, value| add(sum, value)) }
}

/// Puts an Ethernet header without addresses before a bare packet. Without one, no veth takes it
/// (`__bpf_redirect_common`, net/core/filter.c), and its type is read from there on arrival (`eth_type_trans`).
#[inline(always)]
fn add_ethernet_header(skb: *mut __sk_buff) -> bool {
    const BYTES: u32 = 14;
    const TYPE_AT: u32 = 12;
    // SAFETY: `skb` is the program's context, the bytes live through the call; no pointers into the packet are held.
    unsafe {
        let ethertype = ((*skb).protocol as u16).to_ne_bytes();
        bpf_skb_change_head(skb, BYTES, 0) == 0
            && bpf_skb_store_bytes(skb, TYPE_AT, ethertype.as_ptr().cast(), 2, 0) == 0
    }
}

/// Arriving at end B, delayed: back into the target's network namespace, without another queue.
#[classifier]
pub fn kc_line_b(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    unsafe { bpf_redirect_peer((*skb).ifindex, 0) as i32 }
}

/// Arriving at end A: into the next line, or to the device the packet was leaving or arriving at. Its mark says that it has
/// been judged.
#[classifier]
pub fn kc_line_a(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let (tc_index, ethertype) = unsafe { ((*skb).tc_index, u16::from_be((*skb).protocol as u16)) };
    let Some(exit) = KC_EXITS.get(slot(tc_index)) else { return DROP };
    // SAFETY: `skb` is the program's context; the other helpers take plain numbers.
    unsafe {
        // `eth_type_trans` (net/ethernet/eth.c) compares the destination with the line's own address and finds a packet
        // for somebody else, which the loopback device would drop for that.
        if bpf_skb_change_type(skb, PACKET_HOST) != 0 {
            return DROP;
        }
        if KC_CHAINED.load() == 1 && exit.layer == LAYER_LINE {
            (*skb).tc_index = mark(exit.next) as _;
        }
        if exit.layer == LAYER_LOOPBACK && ethertype == ETHERTYPE_IPV4 {
            // The crossing took the route away; without one, IPv4 arriving on loopback is a martian
            // (`ip_route_input_slow`, net/ipv4/route.c).
            return bpf_redirect_neigh(exit.device, core::ptr::null_mut(), 0, 0) as i32;
        }
        let flags = if exit.layer == LAYER_ARRIVAL { INGRESS } else { 0 };
        bpf_redirect(exit.device, flags) as i32
    }
}
