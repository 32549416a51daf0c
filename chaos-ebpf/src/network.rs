//! Packets that leave or reach a target.

use crate::{
    count::Weight,
    globals::{
        KC_CLSACT, KC_DUPLICATE, KC_FLOW, KC_LINE, KC_LOCAL_PORT, KC_PARSE, KC_REMOTE, KC_REMOTE_PORT,
    },
    judge::{Match, Verdict, armed, judge},
    line,
    maps::{KC_LOCAL_PORTS, KC_PORTS, KC_REMOTE4, KC_REMOTE6},
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
    line::{JUDGED, is_judged},
    packet::{
        self, Direction, FAMILY_UNKNOWN, FAMILY_V4, FAMILY_V6, Load, PORT_UNREADABLE, PROTOCOL_UNKNOWN,
        Packet,
    },
    rule::{KIND_DELAY, MATCH_FLOW, MATCH_LOCAL_PORT, MATCH_PROTOCOL, MATCH_REMOTE, MATCH_REMOTE_PORT, Rule},
};

/// `TCX_NEXT` (include/uapi/linux/bpf.h) and `TC_ACT_UNSPEC`: on with the next program or filter.
pub const NEXT: i32 = -1;
/// `BPF_HDR_START_NET`: offsets count from the network header, whatever the device puts before it.
const HDR_START_NET: u32 = 1;

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
    let verdict = verdict_on(skb, rules, Direction::Egress);
    if verdict.is_ended() {
        debug!(&ctx, "egress packet of {} bytes lost", ctx.len());
        // A redirect to a device that does not exist frees the packet and still reports success to the sender
        // (`skb_do_redirect`, net/core/filter.c). TC_ACT_SHOT would show up as a local congestion signal.
        // SAFETY: the helper takes plain numbers and does not look the device up.
        return unsafe { bpf_redirect(0, 0) as i32 };
    }
    if KC_LINE.load() == 1 && verdict.is_diverted() {
        return line::divert(skb, verdict.line_rule, verdict.duplicate == 1);
    }
    if KC_DUPLICATE.load() == 1 && verdict.duplicate == 1 {
        // SAFETY: `skb` is the program's context.
        duplicate(skb, unsafe { (*skb).ifindex });
    }
    NEXT
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
    if verdict_on(skb, rules, Direction::Ingress).is_ended() {
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
fn verdict_on(skb: *mut __sk_buff, rules: u64, direction: Direction) -> Verdict {
    let Some(control) = armed() else { return Verdict::NONE };
    // SAFETY: `skb` is the program's context.
    let (segments, bytes, ethertype) =
        unsafe { ((*skb).gso_segs, (*skb).len, u16::from_be((*skb).protocol as u16)) };
    let weight = Weight { segments: if segments == 0 { 1 } else { segments as u64 }, bytes: bytes as u64 };
    let packet =
        if KC_PARSE.load() == 1 { packet::parse(&Skb(skb), ethertype, direction) } else { Packet::UNKNOWN };
    let remote_rules = if KC_REMOTE.load() == 1 { remote_rules(&packet) } else { 0 };
    let port_rules = if KC_REMOTE_PORT.load() == 1 { port_rules(&packet) } else { 0 };
    let local_rules = if KC_LOCAL_PORT.load() == 1 { local_rules(&packet) } else { 0 };
    let flow = if KC_FLOW.load() == 1 { packet::flow(&packet) } else { 0 };
    judge(control, rules, &weight, flow, |index, rule| {
        if KC_LINE.load() == 1
            && direction == Direction::Egress
            && rule.kind == KIND_DELAY
            && line::entrance(skb, index).is_none()
        {
            return Match::Impossible;
        }
        matches(rule, 1 << index, &packet, remote_rules, port_rules, local_rules)
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
struct Skb(*mut __sk_buff);

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
