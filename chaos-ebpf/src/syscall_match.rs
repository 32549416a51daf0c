//! What a system call's rules may ask for.

use crate::{
    caller::{Registers, word},
    globals::{KC_ACCESS, KC_COMM, KC_KIND, KC_PATH, KC_PEER, KC_SIZE, KC_UID, KC_UID_OTHERS},
    judge::Match,
    maps::{KC_ARGUMENTS, KC_COMMS, KC_UIDS, KC_WANTED},
    path::{self, file_of, offset},
    peer,
    scratch::{self, CallScratch, get, set},
};
use aya_ebpf::{
    helpers::generated::{bpf_get_current_comm, bpf_get_current_uid_gid, bpf_probe_read_user},
    maps::lpm_trie::Key,
};
use chaos_common::{
    layout::{FILE_INODE, FILE_MODE, INODE_MODE},
    rule::{
        MATCH_ACCESS, MATCH_CALLER, MATCH_KIND, MATCH_PATH, MATCH_REMOTE, MATCH_REMOTE_PORT, MATCH_SIZE, Rule,
    },
    syscall_match::{
        ACCESS_READ, ACCESS_WRITE, Arguments, COMM_BYTES, FLAGS_BEHIND, FLAGS_WRITE, NO_REGISTER,
        SUBJECT_FILE, SUBJECT_HIDDEN, access, kind, path_matches, size_matches,
    },
};

/// What is known of a call. A plain record in which every field always has a value.
#[derive(Clone, Copy)]
pub struct Facts {
    /// Rules that the caller does not rule out, one bit each.
    caller: u64,
    /// What is known of its paths, and which patterns they match.
    path: u32,
    patterns: u64,
    /// Rules that the remote end belongs to, unless it could not be read.
    peer_unreadable: u32,
    address_rules: u64,
    port_rules: u64,
    /// Kind of the descriptor, 0 if there is none, [`UNREADABLE`] if it is not known.
    kind: u32,
    /// What a file is opened for, or [`UNREADABLE`].
    access: u32,
    /// Bytes asked for; [`SIZE_UNREADABLE`] if that is not known.
    size: u64,
}

const UNREADABLE: u32 = u32::MAX;
const SIZE_UNREADABLE: u64 = u64::MAX;

impl Facts {
    /// A call of which nothing is known, which is enough where no rule asks for anything.
    pub const NONE: Self = Self {
        caller: u64::MAX,
        path: path::UNREADABLE,
        patterns: 0,
        peer_unreadable: 1,
        address_rules: 0,
        port_rules: 0,
        kind: UNREADABLE,
        access: UNREADABLE,
        size: SIZE_UNREADABLE,
    };

    /// A call of the current task. `subject` is the hook's first argument.
    #[inline(always)]
    pub fn of_task(row: u32, registers: impl FnOnce() -> Registers, subject: impl FnOnce() -> u64) -> Self {
        let mut facts = Self::NONE;
        let asked = KC_PATH.load() | KC_KIND.load() | KC_SIZE.load() | KC_ACCESS.load() | KC_PEER.load();
        if asked != 0
            && let Some(arguments) = KC_ARGUMENTS.get(row)
            && let Some((scratch, slot)) = scratch::take()
        {
            let registers = registers();
            set!(scratch.subject = subject());
            set!(scratch.registers = registers.address);
            set!(scratch.row = row);
            look_at(scratch, arguments, &registers);
            if KC_PATH.load() == 1 {
                path::look_at(scratch, slot, arguments);
            }
            facts = Self {
                caller: u64::MAX,
                path: get!(scratch.all),
                patterns: get!(scratch.patterns),
                peer_unreadable: get!(scratch.peer_unreadable),
                address_rules: get!(scratch.address_rules),
                port_rules: get!(scratch.port_rules),
                kind: get!(scratch.kind),
                access: get!(scratch.access),
                size: get!(scratch.size),
            };
            if !scratch::is_own(scratch) {
                facts = Self::NONE;
            }
        }
        if KC_COMM.load() == 1 {
            facts.caller &= comm_rules();
        }
        if KC_UID.load() == 1 {
            // SAFETY: the helper has no preconditions.
            let uid = unsafe { bpf_get_current_uid_gid() } as u32;
            // SAFETY: of entries that are replaced, the old one is not used again before a grace period is over.
            facts.caller &= unsafe { KC_UIDS.get(uid) }.copied().unwrap_or(KC_UID_OTHERS.load());
        }
        facts
    }

    /// Whether the call is one that the rule asks for.
    #[inline(always)]
    pub fn matches(&self, index: u32, rule: &Rule) -> Match {
        let bit = 1 << index;
        if rule.matches & MATCH_CALLER != 0 && self.caller & bit == 0 {
            return Match::No;
        }
        if KC_PEER.load() == 1 && rule.matches & (MATCH_REMOTE | MATCH_REMOTE_PORT) != 0 {
            if self.peer_unreadable == 1 {
                return Match::Unreadable;
            }
            if rule.matches & MATCH_REMOTE != 0 && self.address_rules & bit == 0 {
                return Match::No;
            }
            if rule.matches & MATCH_REMOTE_PORT != 0 && self.port_rules & bit == 0 {
                return Match::No;
            }
        }
        if rule.matches & (MATCH_PATH | MATCH_KIND | MATCH_SIZE | MATCH_ACCESS) == 0 {
            return Match::Yes;
        }
        let Some(wanted) = KC_WANTED.get(index) else { return Match::No };
        if KC_KIND.load() == 1 && rule.matches & MATCH_KIND != 0 {
            if self.kind == UNREADABLE {
                return Match::Unreadable;
            }
            if self.kind & wanted.kinds == 0 {
                return Match::No;
            }
        }
        if KC_SIZE.load() == 1 && rule.matches & MATCH_SIZE != 0 {
            if self.size == SIZE_UNREADABLE {
                return Match::Unreadable;
            }
            if !size_matches(wanted, self.size) {
                return Match::No;
            }
        }
        if KC_ACCESS.load() == 1 && rule.matches & MATCH_ACCESS != 0 {
            if self.access == UNREADABLE {
                return Match::Unreadable;
            }
            if self.access & wanted.access == 0 {
                return Match::No;
            }
        }
        if KC_PATH.load() == 1 && rule.matches & MATCH_PATH != 0 {
            if self.path == path::UNREADABLE {
                return Match::Unreadable;
            }
            if self.path == path::NONE || !path_matches(wanted, self.patterns) {
                return Match::No;
            }
        }
        Match::Yes
    }
}

#[inline(always)]
fn look_at(scratch: *mut CallScratch, arguments: &Arguments, registers: &Registers) {
    if KC_KIND.load() == 1 {
        set!(scratch.kind = kind_of(arguments, registers, get!(scratch.subject)));
    }
    if KC_SIZE.load() == 1 {
        let known = arguments.size != NO_REGISTER;
        set!(scratch.size = if known { registers.get(arguments.size) } else { SIZE_UNREADABLE });
    }
    if KC_ACCESS.load() == 1 {
        set!(scratch.access = access_of(arguments, registers, get!(scratch.subject)));
    }
    if KC_PEER.load() == 1 {
        peer::look_at(scratch, arguments, registers);
    }
}

/// The kind of the file that the hook or the descriptor says.
#[inline(always)]
fn kind_of(arguments: &Arguments, registers: &Registers, subject: u64) -> u32 {
    if arguments.subject == SUBJECT_HIDDEN {
        return UNREADABLE;
    }
    let file = if arguments.subject == SUBJECT_FILE {
        subject
    } else if arguments.file != NO_REGISTER {
        file_of(registers.get(arguments.file) as i32)
    } else {
        0
    };
    if file == 0 {
        return 0;
    }
    let inode = word(file + offset(FILE_INODE)).unwrap_or(0);
    match word(inode + offset(INODE_MODE)) {
        Some(mode) => kind(u32::from(mode as u16)),
        None => UNREADABLE,
    }
}

/// What a file is opened for.
#[inline(always)]
fn access_of(arguments: &Arguments, registers: &Registers, subject: u64) -> u32 {
    /// `FMODE_WRITE` of include/linux/fs.h.
    const FMODE_WRITE: u64 = 2;
    if arguments.subject == SUBJECT_FILE {
        return match word(subject + offset(FILE_MODE)) {
            Some(mode) if mode & FMODE_WRITE != 0 => ACCESS_WRITE,
            Some(_) => ACCESS_READ,
            None => UNREADABLE,
        };
    }
    if arguments.flags_kind == FLAGS_WRITE {
        return ACCESS_WRITE;
    }
    if arguments.flags == NO_REGISTER {
        return UNREADABLE;
    }
    let value = registers.get(arguments.flags);
    if arguments.flags_kind != FLAGS_BEHIND {
        return access(value);
    }
    let mut flags = 0u64;
    // SAFETY: the buffer is as long as said.
    let read = unsafe { bpf_probe_read_user((&raw mut flags).cast(), 8, value as *const _) };
    if read == 0 { access(flags) } else { UNREADABLE }
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
