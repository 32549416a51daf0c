//! Counts what leaves a target's sockets, whatever way it takes, beside what the egress hooks met of it: more of the first
//! than of the second is packets that escaped the hooks.

use crate::{count::add, judge::armed, maps::KC_LEAVING};
use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use chaos_common::{
    counter::{LEAVING_MET, LEAVING_SEEN},
    line::is_judged,
};

/// Leaving a socket of the target: the hook is attached to the target's cgroup, nobody else runs it. Before the packet is
/// cut into fragments (`ip_finish_output`, net/ipv4/ip_output.c). Copies for listeners on this host, as of multicast, have
/// no socket yet and are not seen (`ip_mc_output`, same file).
#[cgroup_skb(egress)]
pub fn kc_witness(ctx: SkBuffContext) -> i32 {
    const PASS: i32 = 1;
    // A device that hands packets back to IP, as ipvlan in its mode l3 does, shows them twice; a hook has met them then.
    // SAFETY: the pointer is the program's context.
    if armed().is_some() && unsafe { !is_judged((*ctx.skb.skb).tc_index) } {
        leaving(LEAVING_SEEN);
    }
    PASS
}

/// An egress hook meets a packet of a target for the first time.
#[inline(always)]
pub fn met() {
    leaving(LEAVING_MET);
}

#[inline(always)]
fn leaving(which: u32) {
    let Some(sum) = KC_LEAVING.get_ptr_mut(which) else { return };
    // SAFETY: the pointer is the current CPU's value, an aligned `u64` of a map value.
    unsafe { add(sum, 1) };
}
