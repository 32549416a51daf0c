//! Packets that leave or reach a target.

use crate::{
    corrupt::{self, Change},
    count::{Weight, recount_as_error},
    event,
    globals::{KC_CLSACT, KC_CORRUPT, KC_DUPLICATE, KC_LINE, KC_RESET},
    judge::{Verdict, armed},
    line,
    maps::Scratch,
    packet,
    reset::{self, Reset},
    target, witness,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_clone_redirect, bpf_redirect},
    macros::{cgroup_skb, classifier},
    programs::{SkBuffContext, TcContext},
};
use aya_log_ebpf::debug;
use chaos_common::{
    line::{JUDGED, is_judged},
    packet::Direction,
    rule::{
        CORRUPT_CHECKSUM, CORRUPT_PAYLOAD, KIND_CORRUPT, KIND_CORRUPT_PAYLOAD, KIND_DELAY, KIND_DUPLICATE,
        KIND_LOSS, KIND_RESET,
    },
};

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
    witness::met();
    // SAFETY: `skb` is the program's context.
    let device = unsafe { (*skb).ifindex };
    let Some(judged) = packet::judge(skb, control, rules, Direction::Egress, device) else { return NEXT };
    let done = carry_out(&ctx, judged);
    event::packet(judged, done.failed);
    done.action
}

/// What was done with a packet.
#[derive(Clone, Copy)]
struct Done {
    /// What the program returns.
    action: i32,
    /// Whether something could not be done.
    failed: bool,
}

#[inline(always)]
fn carry_out(ctx: &TcContext, judged: &Scratch) -> Done {
    let skb = ctx.skb.skb;
    let (verdict, packet, weight) = (&judged.verdict, &judged.packet, &judged.facts.event.weight);
    if verdict.has(KIND_LOSS) {
        debug!(ctx, "egress packet of {} bytes lost", ctx.len());
        return Done { action: lose(), failed: false };
    }
    if KC_RESET.load() == 1 && verdict.has(KIND_RESET) {
        debug!(ctx, "egress packet of {} bytes turned into a reset", ctx.len());
        return match reset::reset(skb, packet) {
            Ok(Reset::Sent) => Done { action: NEXT, failed: false },
            Ok(Reset::Refused) => Done { action: lose(), failed: false },
            Err(change) => undone(change, verdict, weight),
        };
    }
    let mut line = 0;
    if KC_LINE.load() == 1 && verdict.has(KIND_DELAY) {
        let copies = (KC_DUPLICATE.load() == 1 && verdict.has(KIND_DUPLICATE)).into();
        match line::address(skb, packet, verdict.lines, copies) {
            Ok(device) => line = device,
            Err(line::Full) => return Done { action: lose(), failed: false },
        }
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
    let mut failed = false;
    if KC_CORRUPT.load() != 0 && change != Change::Done {
        let done = undone(change, verdict, weight);
        if done.action != NEXT {
            return done;
        }
        failed = true;
    }
    if KC_LINE.load() == 1 && line != 0 {
        // SAFETY: the helper takes plain numbers.
        return Done { action: unsafe { bpf_redirect(line, 0) as i32 }, failed };
    }
    Done { action: NEXT, failed }
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
fn undone(change: Change, verdict: &Verdict, weight: &Weight) -> Done {
    recount_as_error(verdict.changing_rule, weight);
    Done { action: if change == Change::Broken { lose() } else { NEXT }, failed: true }
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
    if rules == 0 || !is_new(skb) {
        return PASS;
    }
    let Some(judged) = packet::judge(skb, control, rules, Direction::Ingress, 0) else { return PASS };
    event::packet(judged, false);
    if judged.verdict.has(KIND_LOSS) {
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
    let new = is_new(skb);
    if new {
        mark_judged(skb);
    }
    new
}

/// Whether the packet has not been judged yet.
#[inline(always)]
pub fn is_new(skb: *mut __sk_buff) -> bool {
    // SAFETY: `skb` is the program's context.
    unsafe { !is_judged((*skb).tc_index) }
}

/// Marks a packet as judged.
#[inline(always)]
pub fn mark_judged(skb: *mut __sk_buff) {
    // SAFETY: `skb` is the program's context and both fields are writable for tc programs.
    unsafe {
        (*skb).tc_index = JUDGED;
        if KC_CLSACT.load() == 1 {
            // Below 6.6 the classifier's class id overwrites tc_index after the program (`sch_handle_egress`,
            // net/core/dev.c).
            (*skb).tc_classid = JUDGED;
        }
    }
}
