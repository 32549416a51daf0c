//! What rules ask about a packet, and running it past them.

use crate::{
    corrupt,
    count::Weight,
    globals::{
        KC_CORRUPT, KC_FLOW, KC_LINE, KC_LOCAL_PORT, KC_PARSE, KC_REMOTE, KC_REMOTE_PORT, KC_RESET,
        KC_RULE_COUNT,
    },
    judge::{Event, Match, Verdict},
    line,
    maps::{KC_CONTROL, KC_LOCAL_PORTS, KC_PORTS, KC_REMOTE4, KC_REMOTE6, KC_SCRATCH, Scratch},
    reset,
    rewrite::HDR_START_NET,
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes_relative, maps::lpm_trie::Key};
use chaos_common::{
    control::Control,
    limits::RULES_MAX,
    packet::{
        self, Direction, FAMILY_UNKNOWN, FAMILY_V4, FAMILY_V6, Load, PORT_UNREADABLE, PROTOCOL_UNKNOWN,
        Packet,
    },
    rule::{
        ACTS_CORRUPTING, CORRUPT_PAYLOAD, KIND_CORRUPT_PAYLOAD, KIND_DELAY, KIND_REORDER, KIND_RESET,
        MATCH_FLOW, MATCH_LOCAL_PORT, MATCH_PROTOCOL, MATCH_REMOTE, MATCH_REMOTE_PORT, Rule, act,
    },
};
use core::arch::asm;

/// What all rules are told about a packet beside what is in it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Facts {
    /// When it happens and what it counts.
    pub event: Event,
    /// Rules whose remote prefixes contain the packet's remote end.
    remote_rules: u64,
    /// Rules for the packet's remote port.
    port_rules: u64,
    /// Rules for the packet's local port.
    local_rules: u64,
    /// Where the packet may take a line: the namespace of the device it is leaving.
    namespace: u32,
    /// The device it is leaving, or 0 for an arriving packet.
    pub device: u32,
    /// The device at whose hook lines begin, or 0 where the packet cannot be held back.
    line_device: u32,
    /// 1 if the packet's connection can be reset.
    resettable: u32,
    /// 1 if the packet has payload; known only where a rule asks for it.
    payload: u32,
    /// Explicit padding.
    reserved: u32,
}

/// Judges a packet at the hook of `device` (0: at its socket) by the rules in `candidates` (one bit each) in their order.
/// Verdict and packet are read back from the map, so that the verifier knows nothing of how they came about.
#[inline(always)]
pub fn judge(
    skb: *mut __sk_buff,
    control: &Control,
    candidates: u64,
    direction: Direction,
    device: u32,
) -> Option<&'static Scratch> {
    let mut scratch = KC_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the pointer is this CPU's value; here and below, nobody else uses it meanwhile.
    let packet = unsafe { &raw mut (*scratch).packet };
    let egress = direction == Direction::Egress;
    let (mut resettable, mut payload) = (false, false);
    if KC_PARSE.load() == 1 {
        // SAFETY: `skb` is the program's context.
        let ethertype = unsafe { u16::from_be((*skb).protocol as u16) };
        // SAFETY: as above.
        unsafe { packet.write(packet::parse(&Skb(skb), ethertype, direction)) };
        forget(&mut scratch);
        // SAFETY: as above.
        let packet = unsafe { &(*scratch).packet };
        resettable = egress && KC_RESET.load() == 1 && reset::is_resettable(packet, &Skb(skb));
        payload = egress && KC_CORRUPT.load() & CORRUPT_PAYLOAD != 0 && corrupt::has_payload(skb, packet);
    }
    // SAFETY: as above.
    let packet = unsafe { &(*scratch).packet };
    let facts = Facts {
        event: Event::new(
            control,
            weight_of(skb),
            if KC_FLOW.load() == 1 { packet::flow(packet) } else { 0 },
        ),
        remote_rules: if KC_REMOTE.load() == 1 { remote_rules(packet) } else { 0 },
        port_rules: if KC_REMOTE_PORT.load() == 1 { port_rules(packet) } else { 0 },
        local_rules: if KC_LOCAL_PORT.load() == 1 { local_rules(packet) } else { 0 },
        namespace: if device != 0 && KC_LINE.load() == 1 { line::namespace() } else { 0 },
        device: if egress { device } else { 0 },
        line_device: device,
        resettable: resettable.into(),
        payload: payload.into(),
        reserved: 0,
    };
    // SAFETY: as above.
    unsafe {
        (*scratch).facts = facts;
        (*scratch).verdict = Verdict::none(0);
    }
    for index in 0..RULES_MAX as u32 {
        if index >= KC_RULE_COUNT.load() {
            break;
        }
        if candidates & (1 << index) != 0 {
            kc_judge_packet(index);
        }
    }
    forget(&mut scratch);
    // SAFETY: as above; the fields that are written from here on are only used through pointers.
    Some(unsafe { &*scratch })
}

/// Runs the packet in the scratch past the rule of this number.
///
/// The verifier follows a global function once, whatever it is called with (5.6, `do_check_subprogs`,
/// kernel/bpf/verifier.c), and not anew for each rule, with all that the rules before may have led to.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kc_judge_packet(index: u32) -> u32 {
    let (Some(scratch), Some(control)) = (KC_SCRATCH.get_ptr_mut(0), KC_CONTROL.get(0)) else { return 0 };
    // SAFETY: the pointer is this CPU's value, which the caller has filled and does not use meanwhile.
    let Scratch { packet, facts, verdict, .. } = unsafe { &mut *scratch };
    facts.event.meet(control, index, verdict, |rule| asked_of(rule, index, packet, facts));
    1
}

#[inline(always)]
fn asked_of(rule: &Rule, index: u32, packet: &Packet, facts: &Facts) -> Match {
    if KC_RESET.load() == 1 && rule.kind == KIND_RESET && facts.resettable == 0 {
        return Match::No;
    }
    if KC_CORRUPT.load() != 0
        && act(rule.kind) & ACTS_CORRUPTING != 0
        && (packet.transport == 0 || packet::checksum_offset(packet.protocol).is_none())
    {
        return Match::Unparsable;
    }
    if KC_CORRUPT.load() & CORRUPT_PAYLOAD != 0 && rule.kind == KIND_CORRUPT_PAYLOAD && facts.payload == 0 {
        return Match::No;
    }
    let found = matches(rule, 1 << index, packet, facts);
    if KC_LINE.load() == 1
        && found == Match::Yes
        && (rule.kind == KIND_DELAY || rule.kind == KIND_REORDER)
        && (facts.line_device == 0
            || rule.kind == KIND_DELAY
                && line::entrance(facts.namespace, facts.line_device, 1 << index).is_none())
    {
        return Match::Impossible;
    }
    found
}

/// Keeps the compiler from remembering what it has written, so that it is read from the map.
#[inline(always)]
pub fn forget(scratch: &mut *mut Scratch) {
    // SAFETY: does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) * scratch) };
}

#[inline(always)]
fn weight_of(skb: *mut __sk_buff) -> Weight {
    // SAFETY: `skb` is the program's context.
    let (segments, bytes) = unsafe { ((*skb).gso_segs, (*skb).len) };
    Weight { segments: if segments == 0 { 1 } else { segments as u64 }, bytes: bytes as u64 }
}

#[inline(always)]
fn matches(rule: &Rule, bit: u64, packet: &Packet, facts: &Facts) -> Match {
    if rule.matches == 0 {
        return Match::Yes;
    }
    if packet.family == FAMILY_UNKNOWN {
        return Match::Unparsable;
    }
    if rule.matches & MATCH_REMOTE != 0 && facts.remote_rules & bit == 0 {
        return Match::No;
    }
    if rule.matches & MATCH_PROTOCOL != 0 && !packet::protocol_matches(rule.protocol, packet) {
        return if packet.protocol == PROTOCOL_UNKNOWN { Match::Unparsable } else { Match::No };
    }
    if rule.matches & MATCH_REMOTE_PORT != 0 && facts.port_rules & bit == 0 {
        return if packet.remote_port == PORT_UNREADABLE { Match::Unparsable } else { Match::No };
    }
    if rule.matches & MATCH_LOCAL_PORT != 0 && facts.local_rules & bit == 0 {
        return if packet.local_port == PORT_UNREADABLE { Match::Unparsable } else { Match::No };
    }
    if rule.matches & MATCH_FLOW != 0 && packet.remote_port == PORT_UNREADABLE {
        return Match::Unparsable;
    }
    Match::Yes
}

#[inline(always)]
fn local_rules(packet: &Packet) -> u64 {
    KC_LOCAL_PORTS.get(packet.local_port).copied().unwrap_or(0)
}

#[inline(always)]
fn remote_rules(packet: &Packet) -> u64 {
    let found = match packet.family {
        FAMILY_V4 => KC_REMOTE4.get(Key::new(32, packet.remote_v4())),
        FAMILY_V6 => KC_REMOTE6.get(Key::new(128, packet.remote)),
        _ => None,
    };
    found.copied().unwrap_or(0)
}

#[inline(always)]
fn port_rules(packet: &Packet) -> u64 {
    // PORT_NONE and PORT_UNREADABLE have no rules.
    KC_PORTS.get(packet.remote_port).copied().unwrap_or(0)
}

/// Reads a packet through the helper that works with and without a link-layer header and on non-linear buffers.
pub struct Skb(pub *mut __sk_buff);

impl Load for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        // SAFETY: the pointer is the program's context, `bytes` has room for `N` bytes.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
                HDR_START_NET,
            )
        };
        if result == 0 { Some(bytes) } else { None }
    }
}
