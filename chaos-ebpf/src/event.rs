//! Records single packets and calls for whoever watches.

use crate::{
    count::count_lost,
    globals::{KC_EVENTS, KC_EVENTS_SHARE},
    judge::Verdict,
    maps::{KC_RING, Scratch},
};
use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
};
use chaos_common::{
    event::{CallEvent, EVENT_CALL, EVENT_PACKET, EVENTS_INJECTED, EVENTS_NONE, Head, PacketEvent},
    probability::{ALWAYS, hits},
};

/// Records a packet that has been judged, and what came of it.
#[inline(always)]
pub fn packet(judged: &Scratch, failed: bool) {
    if !is_wanted(&judged.verdict) {
        return;
    }
    put(PacketEvent {
        head: head(EVENT_PACKET, &judged.verdict, judged.facts.event.now_ns),
        segments: judged.facts.event.weight.segments,
        bytes: judged.facts.event.weight.bytes,
        packet: judged.packet,
        device: judged.facts.device,
        failed: failed.into(),
        reserved: 0,
    });
}

/// Records a call that has been judged; `task` as the kernel numbers it: thread group and thread.
#[inline(always)]
pub fn call(verdict: &Verdict, result: i64, row: u32, task: u64) {
    if !is_wanted(verdict) {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    put(CallEvent {
        head: head(EVENT_CALL, verdict, now_ns),
        result,
        row,
        tgid: (task >> 32) as u32,
        tid: task as u32,
        reserved: 0,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    });
}

/// Whether an event with this verdict is to be recorded.
#[inline(always)]
fn is_wanted(verdict: &Verdict) -> bool {
    let wanted = match KC_EVENTS.load() {
        EVENTS_NONE => false,
        EVENTS_INJECTED => verdict.acts != 0,
        _ => verdict.seen == 1,
    };
    if !wanted {
        return false;
    }
    // SAFETY: the helper has no preconditions.
    KC_EVENTS_SHARE.load() == ALWAYS || hits(KC_EVENTS_SHARE.load(), unsafe { bpf_get_prandom_u32() })
}

#[inline(always)]
fn head(kind: u32, verdict: &Verdict, monotonic_ns: u64) -> Head {
    Head { kind, acts: verdict.acts, rules: verdict.rules, monotonic_ns }
}

/// Puts a record into the ring buffer, or counts it as lost.
#[inline(always)]
fn put<T: 'static>(record: T) {
    match KC_RING.reserve::<T>(0) {
        Some(mut room) => {
            room.write(record);
            room.submit(0);
        }
        None => count_lost(),
    }
}
