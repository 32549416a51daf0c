//! What a system call's rules may ask for.

use crate::{
    globals::{KC_COMM, KC_UID, KC_UID_OTHERS},
    judge::Match,
    maps::{KC_COMMS, KC_UIDS},
};
use aya_ebpf::{
    helpers::generated::{bpf_get_current_comm, bpf_get_current_uid_gid},
    maps::lpm_trie::Key,
};
use chaos_common::{rule::Rule, syscall_match::COMM_BYTES};

/// What is known of a call, one bit per rule. A plain record in which every field always has a value.
#[derive(Clone, Copy)]
pub struct Facts {
    /// Rules that what is known does not rule out.
    rules: u64,
}

impl Facts {
    /// A call that no rule asks anything of.
    pub const NONE: Self = Self { rules: u64::MAX };

    /// A call of the current task.
    #[inline(always)]
    pub fn of_task() -> Self {
        let mut rules = u64::MAX;
        if KC_COMM.load() == 1 {
            rules &= comm_rules();
        }
        if KC_UID.load() == 1 {
            // SAFETY: the helper has no preconditions.
            let uid = unsafe { bpf_get_current_uid_gid() } as u32;
            // SAFETY: entries are never replaced while programs run.
            rules &= unsafe { KC_UIDS.get(uid) }.copied().unwrap_or(KC_UID_OTHERS.load());
        }
        Self { rules }
    }

    /// Whether the call is one that the rule asks for.
    #[inline(always)]
    pub fn matches(&self, index: u32, _rule: &Rule) -> Match {
        if self.rules & (1 << index) == 0 { Match::No } else { Match::Yes }
    }
}

/// Rules that the current task's name does not rule out.
#[inline(always)]
fn comm_rules() -> u64 {
    let mut key = Key::new(8 * COMM_BYTES as u32, [0u8; COMM_BYTES]);
    // SAFETY: the buffer is as long as said. The rest of it behind the name is zero.
    unsafe { bpf_get_current_comm((&raw mut key.data).cast(), COMM_BYTES as u32) };
    // An entry for what no other one begins is always there.
    KC_COMMS.get(&key).copied().unwrap_or(0)
}
