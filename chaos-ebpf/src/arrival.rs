//! Packets that arrive at a device and are to be held back: before their socket has them, which has to be looked up.

use crate::{
    caller::word,
    event,
    globals::KC_LINE,
    judge::armed,
    line,
    maps::{KC_SCRATCH, Scratch},
    network::{NEXT, is_new, mark_judged},
    packet::{self, Skb, forget},
    path::offset,
    target,
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup},
    helpers::generated::{
        bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
    },
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use chaos_common::{
    layout::{SOCK_CGROUP, SOCK_CGROUP_POINTER},
    limits::PORT_NONE,
    line::PACKET_HOST,
    packet::{Direction, FAMILY_V4, PROTOCOL_TCP, PROTOCOL_UDP, Packet},
    rule::{KIND_DELAY, KIND_LOSS},
};
use core::mem::size_of;

/// `TCX_DROP` (include/uapi/linux/bpf.h).
const DROP: i32 = 2;
/// `BPF_F_CURRENT_NETNS` (include/uapi/linux/bpf.h).
const CURRENT_NETNS: u64 = u64::MAX;
/// `AF_INET` and `AF_INET6`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_NOT_FWDED` and `BPF_FIB_LKUP_RET_FWD_DISABLED` (include/uapi/linux/bpf.h).
const NOT_FORWARDED: i64 = 4;
const FORWARDING_DISABLED: i64 = 5;

/// Arriving at a device, on tcx (6.6), before IP. Everybody's packets pay for the look-up of their socket.
#[classifier]
pub fn kc_net_arrival(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(control) = armed() else { return NEXT };
    // What has a tag comes again at the device of its VLAN, and what is for other hosts is nobody's here or comes again at
    // the bridge.
    // SAFETY: `skb` is the program's context.
    let is_ours = unsafe { (*skb).vlan_present == 0 && (*skb).pkt_type == PACKET_HOST };
    if !is_ours || !is_new(skb) {
        return NEXT;
    }
    let Some(scratch) = parse(skb) else { return NEXT };
    let Some(cgroup) = cgroup_of_socket(skb, scratch) else { return NEXT };
    let Some(target) = target::of_cgroup(cgroup) else { return NEXT };
    let rules = target.rules & control.header.ingress_rules;
    // SAFETY: the scratch is this CPU's.
    if rules == 0 || !is_for_this_host(skb, unsafe { &(*scratch).packet }) {
        return NEXT;
    }
    mark_judged(skb);
    // SAFETY: `skb` is the program's context.
    let device = unsafe { (*skb).ifindex };
    let Some(judged) = packet::judge(skb, control, rules, Direction::Ingress, device) else { return NEXT };
    event::packet(judged, false);
    if judged.verdict.has(KIND_LOSS) {
        debug!(&ctx, "ingress packet of {} bytes lost", ctx.len());
        return DROP;
    }
    if KC_LINE.load() == 1 && judged.verdict.has(KIND_DELAY) {
        return match line::address(skb, &judged.packet, judged.verdict.lines, 0) {
            Ok(0) => NEXT,
            // SAFETY: the helper takes plain numbers.
            Ok(line) => unsafe { bpf_redirect(line, 0) as i32 },
            Err(line::Full) => DROP,
        };
    }
    NEXT
}

/// Reads the packet into the scratch, without a past that the verifier would follow.
#[inline(always)]
fn parse(skb: *mut __sk_buff) -> Option<*mut Scratch> {
    let mut scratch = KC_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: `skb` is the program's context.
    let ethertype = unsafe { u16::from_be((*skb).protocol as u16) };
    // SAFETY: the pointer is this CPU's value, and nobody else uses it meanwhile.
    unsafe {
        (&raw mut (*scratch).packet).write(chaos_common::packet::parse(
            &Skb(skb),
            ethertype,
            Direction::Ingress,
        ));
    }
    forget(&mut scratch);
    Some(scratch)
}

/// Both ends of a packet as they are on the wire, `struct bpf_sock_tuple` (include/uapi/linux/bpf.h).
#[repr(C)]
struct Ends<const N: usize> {
    from: [u8; N],
    to: [u8; N],
    from_port: [u8; 2],
    to_port: [u8; 2],
}

impl<const N: usize> Ends<N> {
    #[inline(always)]
    fn new(packet: &Packet) -> Self {
        let (mut from, mut to) = ([0; N], [0; N]);
        let mut at = 0;
        while at < N {
            from[at] = packet.remote[at];
            to[at] = packet.local[at];
            at += 1;
        }
        Self {
            from,
            to,
            from_port: (packet.remote_port as u16).to_be_bytes(),
            to_port: (packet.local_port as u16).to_be_bytes(),
        }
    }
}

/// Address of the cgroup of the socket that the packet in the scratch is for. TCP and UDP only; what other programs of the
/// host have decided about the packet stays as it is, since the socket is not given to it.
#[inline(always)]
fn cgroup_of_socket(skb: *mut __sk_buff, scratch: *mut Scratch) -> Option<u64> {
    // SAFETY: the scratch is this CPU's.
    let packet = unsafe { &(*scratch).packet };
    if packet.remote_port >= PORT_NONE || packet.local_port >= PORT_NONE {
        return None;
    }
    let (mut v4, mut v6) = (Ends::<4>::new(packet), Ends::<16>::new(packet));
    let (ends, bytes) = if packet.family == FAMILY_V4 {
        ((&raw mut v4).cast(), size_of::<Ends<4>>() as u32)
    } else {
        ((&raw mut v6).cast(), size_of::<Ends<16>>() as u32)
    };
    // SAFETY: `skb` is the program's context; the ends live through the call.
    let socket = unsafe {
        match packet.protocol {
            PROTOCOL_TCP => bpf_sk_lookup_tcp(skb.cast(), ends, bytes, CURRENT_NETNS, 0),
            PROTOCOL_UDP => bpf_sk_lookup_udp(skb.cast(), ends, bytes, CURRENT_NETNS, 0),
            _ => return None,
        }
    };
    if socket.is_null() {
        return None;
    }
    // Through memory, behind which the verifier sees a number: it would allow neither the member nor arithmetic.
    // SAFETY: the scratch is this CPU's; the reference is given back once.
    let address = unsafe {
        core::ptr::write_volatile(&raw mut (*scratch).number, socket as u64);
        let address = core::ptr::read_volatile(&raw const (*scratch).number);
        bpf_sk_release(socket.cast());
        address
    };
    // Sockets and cgroups are freed after a grace period of RCU, which programs run under; a listener's or UDP socket's may
    // have gone to another owner, whose cgroup it is then.
    word(address + offset(SOCK_CGROUP) + offset(SOCK_CGROUP_POINTER))
}

/// Whether routing gives the packet to a socket. One that is only passed on may have the port of a socket that takes packets
/// for any address.
#[inline(always)]
fn is_for_this_host(skb: *mut __sk_buff, packet: &Packet) -> bool {
    // SAFETY: plain integers.
    let mut ask: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    ask.family = if packet.family == FAMILY_V4 { AF_INET } else { AF_INET6 };
    // SAFETY: `skb` is the program's context.
    ask.ifindex = unsafe { (*skb).ifindex };
    let word = |bytes: &[u8; 16], at: usize| {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let words = |bytes: &[u8; 16]| [word(bytes, 0), word(bytes, 4), word(bytes, 8), word(bytes, 12)];
    // The first word of both is the IPv4 address.
    ask.__bindgen_anon_3.ipv6_src = words(&packet.remote);
    ask.__bindgen_anon_4.ipv6_dst = words(&packet.local);
    // SAFETY: the structure lives through the call.
    let answer =
        unsafe { fib_lookup(skb.cast(), (&raw mut ask).cast(), size_of::<bpf_fib_lookup>() as i32, 0) };
    answer == NOT_FORWARDED || answer == FORWARDING_DISABLED
}
