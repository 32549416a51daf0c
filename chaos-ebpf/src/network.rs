//! Packets that leave or reach a target.

use crate::{
    corrupt::{self, Change},
    count::{Weight, recount_as_error},
    globals::{
        KC_CLSACT, KC_CORRUPT, KC_DUPLICATE, KC_FLOW, KC_LINE, KC_LOCAL_PORT, KC_PARSE, KC_REMOTE,
        KC_REMOTE_PORT, KC_RESET,
    },
    judge::{Match, Verdict, armed, judge},
    line,
    maps::{KC_LOCAL_PORTS, KC_PORTS, KC_REMOTE4, KC_REMOTE6, KC_SCRATCH, Scratch},
    reset::{self, Reset},
    rewrite::HDR_START_NET,
    target,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_clone_redirect, bpf_redirect, bpf_skb_load_bytes_relative},
    macros::{cgroup_skb, classifier},
    maps::lpm_trie::Key,
    programs::{SkBuffContext, TcContext},
};
use aya_log_ebpf::debug;
use chaos_common::{
    control::Control,
    line::{JUDGED, is_judged},
    packet::{
        self, Direction, FAMILY_UNKNOWN, FAMILY_V4, FAMILY_V6, Load, PORT_UNREADABLE, PROTOCOL_UNKNOWN,
        Packet,
    },
    rule::{
        ACTS_CORRUPTING, CORRUPT_CHECKSUM, CORRUPT_PAYLOAD, KIND_CORRUPT, KIND_CORRUPT_PAYLOAD, KIND_DELAY,
        KIND_DUPLICATE, KIND_LOSS, KIND_RESET, MATCH_FLOW, MATCH_LOCAL_PORT, MATCH_PROTOCOL, MATCH_REMOTE,
        MATCH_REMOTE_PORT, Rule, act,
    },
};
use core::arch::asm;

/// `TCX_NEXT` (include/uapi/linux/bpf.h) and `TC_ACT_UNSPEC`: on with the next program or filter.
pub const NEXT: i32 = -1;

/// Leaving a device, on tcx (6.6) or as a clsact filter.
#[classifier]
pub fn kc_net_egress(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(target) = target::of_packet(skb) else { return NEXT };
    let Some(control) = armed() else { return NEXT };
    let rules = target.rules & control.header.egress_rules;
    if rules == 0 || !judge_once(skb) {
        return NEXT;
    }
    let Some(packet) = read(skb, Direction::Egress) else { return NEXT };
    let weight = weight_of(skb);
    let verdict = verdict_on(skb, control, rules, Direction::Egress, &weight, packet);
    let packet = &packet.packet;
    if verdict.has(KIND_LOSS) {
        debug!(&ctx, "egress packet of {} bytes lost", ctx.len());
        return lose();
    }
    if KC_RESET.load() == 1 && verdict.has(KIND_RESET) {
        debug!(&ctx, "egress packet of {} bytes turned into a reset", ctx.len());
        return match reset::reset(skb, packet) {
            Ok(Reset::Sent) => NEXT,
            Ok(Reset::Refused) => lose(),
            Err(change) => undone(change, &verdict, &weight),
        };
    }
    let mut line = 0;
    if KC_LINE.load() == 1 && verdict.has(KIND_DELAY) {
        line = line::address(skb, verdict.line_rule);
    }
    if KC_DUPLICATE.load() == 1 && verdict.has(KIND_DUPLICATE) {
        // SAFETY: `skb` is the program's context.
        duplicate(skb, if line == 0 { unsafe { (*skb).ifindex } } else { line });
    }
    // Behind the copy, which stays as it is.
    let mut change = Change::Done;
    if KC_CORRUPT.load() & CORRUPT_CHECKSUM != 0 && verdict.has(KIND_CORRUPT) {
        change = corrupt::checksum_wrong(skb, packet, verdict.choice);
    } else if KC_CORRUPT.load() & CORRUPT_PAYLOAD != 0 && verdict.has(KIND_CORRUPT_PAYLOAD) {
        change = corrupt::payload_wrong(skb, packet, verdict.choice);
    }
    if KC_CORRUPT.load() != 0 && change != Change::Done && undone(change, &verdict, &weight) != NEXT {
        return lose();
    }
    if KC_LINE.load() == 1 && line != 0 {
        // SAFETY: the helper takes plain numbers.
        return unsafe { bpf_redirect(line, 0) as i32 };
    }
    NEXT
}

/// Takes the packet away and reports success to its sender.
#[inline(always)]
fn lose() -> i32 {
    // A redirect to a device that does not exist frees the packet (`skb_do_redirect`, net/core/filter.c). TC_ACT_SHOT
    // would show up as a local congestion signal.
    // SAFETY: the helper takes plain numbers and does not look the device up.
    unsafe { bpf_redirect(0, 0) as i32 }
}

/// A change that could not be made, for want of memory mostly, is no injection. What is broken is lost.
#[inline(always)]
fn undone(change: Change, verdict: &Verdict, weight: &Weight) -> i32 {
    recount_as_error(verdict.changing_rule, weight);
    if change == Change::Broken { lose() } else { NEXT }
}

/// Arriving at a socket of the target: the hook is attached to the target's cgroup, nobody else runs it.
#[cgroup_skb(ingress)]
pub fn kc_net_ingress(ctx: SkBuffContext) -> i32 {
    const PASS: i32 = 1;
    const DROP: i32 = 0;
    let skb = ctx.skb.skb;
    let Some(target) = target::of_packet(skb) else { return PASS };
    let Some(control) = armed() else { return PASS };
    let rules = target.rules & control.header.ingress_rules;
    // SAFETY: `skb` is the program's context.
    if rules == 0 || unsafe { is_judged((*skb).tc_index) } {
        return PASS;
    }
    let Some(packet) = read(skb, Direction::Ingress) else { return PASS };
    if verdict_on(skb, control, rules, Direction::Ingress, &weight_of(skb), packet).has(KIND_LOSS) {
        debug!(&ctx, "ingress packet of {} bytes lost", ctx.len());
        DROP
    } else {
        PASS
    }
}

/// Sends a copy out of a device. It has no socket, so that it belongs to no target, and it carries the mark.
#[inline(always)]
pub fn duplicate(skb: *mut __sk_buff, device: u32) {
    // Without memory for the copy there is none, as with netem.
    // SAFETY: `skb` is the program's context; no pointers into the packet are held.
    unsafe { bpf_clone_redirect(skb, device, 0) };
}

/// Marks a packet as judged. `false` if it already was.
#[inline(always)]
fn judge_once(skb: *mut __sk_buff) -> bool {
    // SAFETY: `skb` is the program's context and both fields are writable for tc programs.
    unsafe {
        if is_judged((*skb).tc_index) {
            return false;
        }
        (*skb).tc_index = JUDGED;
        if KC_CLSACT.load() == 1 {
            // Below 6.6 the classifier's class id overwrites tc_index after the program (`sch_handle_egress`,
            // net/core/dev.c).
            (*skb).tc_classid = JUDGED;
        }
    }
    true
}

#[inline(always)]
fn weight_of(skb: *mut __sk_buff) -> Weight {
    // SAFETY: `skb` is the program's context.
    let (segments, bytes) = unsafe { ((*skb).gso_segs, (*skb).len) };
    Weight { segments: if segments == 0 { 1 } else { segments as u64 }, bytes: bytes as u64 }
}

/// Reads what the rules ask about a packet.
#[inline(always)]
fn read(skb: *mut __sk_buff, direction: Direction) -> Option<&'static Scratch> {
    let mut scratch = KC_SCRATCH.get_ptr_mut(0)?;
    if KC_PARSE.load() == 1 {
        // SAFETY: `skb` is the program's context.
        let ethertype = unsafe { u16::from_be((*skb).protocol as u16) };
        // SAFETY: the pointer is this CPU's value.
        unsafe { (*scratch).packet = packet::parse(&Skb(skb), ethertype, direction) };
        forget(&mut scratch);
        // SAFETY: as above.
        let packet = unsafe { &(*scratch).packet };
        let egress = direction == Direction::Egress;
        let resettable = egress && KC_RESET.load() == 1 && reset::is_resettable(packet, &Skb(skb));
        let payload = egress && KC_CORRUPT.load() & CORRUPT_PAYLOAD != 0 && corrupt::has_payload(skb, packet);
        // SAFETY: as above.
        unsafe {
            (*scratch).resettable = resettable.into();
            (*scratch).payload = payload.into();
        }
        forget(&mut scratch);
    }
    // SAFETY: as above; the fields that are written from here on are only used through pointers.
    Some(unsafe { &*scratch })
}

/// Keeps the compiler from remembering what it has written, so that it is read from the map.
#[inline(always)]
fn forget(scratch: &mut *mut Scratch) {
    // SAFETY: does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) * scratch) };
}

/// Judges a packet.
#[inline(always)]
fn verdict_on(
    skb: *mut __sk_buff,
    control: &Control,
    rules: u64,
    direction: Direction,
    weight: &Weight,
    known: &Scratch,
) -> Verdict {
    let packet = &known.packet;
    let remote_rules = if KC_REMOTE.load() == 1 { remote_rules(packet) } else { 0 };
    let port_rules = if KC_REMOTE_PORT.load() == 1 { port_rules(packet) } else { 0 };
    let local_rules = if KC_LOCAL_PORT.load() == 1 { local_rules(packet) } else { 0 };
    let flow = if KC_FLOW.load() == 1 { packet::flow(packet) } else { 0 };
    judge(control, rules, weight, flow, |index, rule| {
        if KC_RESET.load() == 1 && rule.kind == KIND_RESET && known.resettable == 0 {
            return Match::No;
        }
        if KC_CORRUPT.load() != 0
            && act(rule.kind) & ACTS_CORRUPTING != 0
            && (packet.transport == 0 || packet::checksum_offset(packet.protocol).is_none())
        {
            return Match::Unparsable;
        }
        if KC_CORRUPT.load() & CORRUPT_PAYLOAD != 0 && rule.kind == KIND_CORRUPT_PAYLOAD && known.payload == 0
        {
            return Match::No;
        }
        if KC_LINE.load() == 1
            && direction == Direction::Egress
            && rule.kind == KIND_DELAY
            && line::entrance(skb, index).is_none()
        {
            return Match::Impossible;
        }
        matches(rule, 1 << index, packet, remote_rules, port_rules, local_rules)
    })
}

#[inline(always)]
fn matches(
    rule: &Rule,
    bit: u64,
    packet: &Packet,
    remote_rules: u64,
    port_rules: u64,
    local_rules: u64,
) -> Match {
    if rule.matches == 0 {
        return Match::Yes;
    }
    if packet.family == FAMILY_UNKNOWN {
        return Match::Unparsable;
    }
    if rule.matches & MATCH_REMOTE != 0 && remote_rules & bit == 0 {
        return Match::No;
    }
    if rule.matches & MATCH_PROTOCOL != 0 && !packet::protocol_matches(rule.protocol, packet) {
        return if packet.protocol == PROTOCOL_UNKNOWN { Match::Unparsable } else { Match::No };
    }
    if rule.matches & MATCH_REMOTE_PORT != 0 && port_rules & bit == 0 {
        return if packet.remote_port == PORT_UNREADABLE { Match::Unparsable } else { Match::No };
    }
    if rule.matches & MATCH_LOCAL_PORT != 0 && local_rules & bit == 0 {
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
