//! Notices in which network namespaces the targets make sockets: nothing else tells when a task enters one.

use crate::maps::{KC_ENTERED, KC_NAMESPACES, NOT_THERE_YET};
use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_netns_cookie},
    macros::cgroup_sock,
    programs::SockContext,
};
use chaos_common::namespace::Entered;

/// A task of the target makes an IP socket (`inet_create`, net/ipv4/af_inet.c; `inet6_create`): nobody else runs this. A
/// socket belongs to the namespace it was made in for ever, and an accepted one to its listener's, so that no packet
/// leaves a namespace in which there was no such call.
#[cgroup_sock(sock_create)]
pub fn kc_namespace(ctx: SockContext) -> i32 {
    const ALLOW: i32 = 1;
    // SAFETY: the pointer is the program's context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // Told once. Where it finds no room, the next socket tells it again.
    if KC_NAMESPACES.insert(cookie, 0u32, NOT_THERE_YET).is_ok() && !tell(cookie) {
        let _ = KC_NAMESPACES.remove(cookie);
    }
    ALLOW
}

#[inline(always)]
fn tell(cookie: u64) -> bool {
    let Some(mut room) = KC_ENTERED.reserve::<Entered>(0) else { return false };
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_pid_tgid() };
    room.write(Entered { cookie, tid: task as u32, reserved: 0 });
    room.submit(0);
    true
}
