//! Is this event the target's? The only code that runs for everybody else.

use crate::{
    caller::word,
    globals::{
        KC_FAST_COUNT, KC_FAST_IDS, KC_FAST_LEVEL, KC_FILTER_SHIFT, KC_LEVEL_FIRST, KC_LEVEL_LAST, KC_LEVELS,
        KC_SELECT_SKB, KC_SELECT_TASK, KC_WALK_COUNT,
    },
    maps::{KC_TARGET_BITS, KC_TARGETS, KC_WALK, KC_WALK_TARGETS},
    path::offset,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id},
};
use chaos_common::{
    layout::{CGROUP_ANCESTORS, CGROUP_LEVEL, CGROUP_NODE, NODE_ID},
    limits::{FAST_TARGETS_MAX, LEVELS_MAX, WALK_TARGETS_MAX},
    target::{SELECT_FAST, SELECT_WALK, Target, filter_place},
};

/// The target a packet's socket belongs to.
///
/// The socket's cgroup is that of the task that created it (`sk_alloc`, net/core/sock.c); packets without a full
/// socket (forwarded ones, answers of the kernel's control sockets, TIME_WAIT) have none.
#[inline(always)]
pub fn of_packet(skb: *mut __sk_buff) -> Option<Target> {
    // SAFETY: `skb` is the program's context.
    let ancestor = |level: u32| unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) };
    if KC_SELECT_SKB.load() == SELECT_FAST { fast(ancestor) } else { levels(ancestor) }
}

/// The target that the cgroup at this address belongs to, as [`of_packet`] finds it.
#[inline(always)]
pub fn of_cgroup(cgroup: u64) -> Option<Target> {
    // `cgroup_ancestor` (include/linux/cgroup.h).
    let deepest = word(cgroup + offset(CGROUP_LEVEL))? as u32;
    let ancestor = |level: u32| {
        if level > deepest {
            return 0;
        }
        let ancestor = word(cgroup + offset(CGROUP_ANCESTORS) + 8 * u64::from(level)).unwrap_or(0);
        let node = word(ancestor + offset(CGROUP_NODE)).unwrap_or(0);
        word(node + offset(NODE_ID)).unwrap_or(0)
    };
    if KC_SELECT_SKB.load() == SELECT_FAST { fast(ancestor) } else { levels(ancestor) }
}

/// The target the current task belongs to.
#[inline(always)]
pub fn of_task() -> Option<Target> {
    let select = KC_SELECT_TASK.load();
    if select == SELECT_WALK { walk() } else { of_task_by_ancestor() }
}

/// The same without walking, for programs that may sleep: they may not even mention an array of cgroups
/// (`check_map_prog_compatibility`, kernel/bpf/verifier.c), and kernels on which they are used need none.
#[inline(always)]
pub fn of_task_by_ancestor() -> Option<Target> {
    let select = KC_SELECT_TASK.load();
    // SAFETY: the helper takes a plain number and is available to all program types that call this.
    let ancestor = |level: u32| unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    if select == SELECT_FAST { fast(ancestor) } else { levels(ancestor) }
}

/// The target in `slot`: of a program that is attached to that target's cgroup and runs for nobody else.
#[inline(always)]
pub fn in_slot(slot: u32) -> Option<Target> {
    KC_WALK_TARGETS.get(slot).copied()
}

const _: () = assert!(FAST_TARGETS_MAX == 8);

#[inline(always)]
fn fast(ancestor: impl Fn(u32) -> u64) -> Option<Target> {
    let id = ancestor(KC_FAST_LEVEL.load());
    let count = KC_FAST_COUNT.load() as usize;
    let is = |place: usize| place < count && KC_FAST_IDS[place].load() == id;
    // Written out, since the verifier removes what is never reached, but not the counting of a loop.
    let any = is(0) || is(1) || is(2) || is(3) || is(4) || is(5) || is(6) || is(7);
    if any { found(id) } else { None }
}

#[inline(always)]
fn levels(ancestor: impl Fn(u32) -> u64) -> Option<Target> {
    let in_use = KC_LEVELS.load();
    let mut all = Target { rules: 0, runs: 0 };
    for further in 0..LEVELS_MAX {
        let level = KC_LEVEL_FIRST.load() + further;
        if level > KC_LEVEL_LAST.load() {
            break;
        }
        if in_use & 1u32.wrapping_shl(level) == 0 {
            continue;
        }
        let id = ancestor(level);
        if passes_filter(id)
            && let Some(target) = found(id)
        {
            all.rules |= target.rules;
            all.runs |= target.runs;
        }
    }
    if all.rules == 0 { None } else { Some(all) }
}

/// Whether the cgroup may be a target. A word of an array is read without a call, where a hash look-up costs everybody
/// else more than the whole rest of the program.
#[inline(always)]
fn passes_filter(id: u64) -> bool {
    let (word, bit) = filter_place(id, KC_FILTER_SHIFT.load());
    KC_TARGET_BITS.get(word).is_some_and(|word| word & bit != 0)
}

#[inline(always)]
fn walk() -> Option<Target> {
    let mut all = Target { rules: 0, runs: 0 };
    for slot in 0..WALK_TARGETS_MAX {
        if slot >= KC_WALK_COUNT.load() {
            break;
        }
        if KC_WALK.current_task_under_cgroup(slot) == Ok(true)
            && let Some(target) = KC_WALK_TARGETS.get(slot)
        {
            all.rules |= target.rules;
            all.runs |= target.runs;
        }
    }
    if all.rules == 0 { None } else { Some(all) }
}

#[inline(always)]
fn found(id: u64) -> Option<Target> {
    // SAFETY: of values that are replaced, the old one is not used again before a grace period is over, which programs run
    // under.
    let target = unsafe { KC_TARGETS.get(id) }?;
    Some(*target)
}
