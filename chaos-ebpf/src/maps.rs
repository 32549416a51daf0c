//! All maps. The loader shrinks those the plan does not use to one entry.

use crate::{
    judge::Verdict,
    packet::Facts,
    scratch::{CallScratch, SLOTS},
};
use aya_ebpf::{
    macros::map,
    maps::{Array, CgroupArray, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use chaos_common::{
    control::Control,
    counter::{LEAVING, RuleCounters},
    event::{RING_BYTES, RING_BYTES_MIN},
    latency::{CODES, Held, Hold, SLEEPERS_MAX, STOPPED_MAX, Stopped},
    limits::{
        CALLERS_MAX, CIDRS_MAX, LINE_ENTRANCES_MAX, LINE_SLOTS_MAX, PORTS_MAX, PROCESSES_MAX, RULES_MAX,
        TARGETS_MAX, TREE_MAX, WALK_TARGETS_MAX,
    },
    line::{Entrance, Exit, LineKey},
    line_load::{LOADS_MAX, Load},
    namespace::{ENTERED_BYTES, NAMESPACES_MAX},
    packet::Packet,
    results::Results,
    rule::{Ordinal, ProcessCount, ProcessKey, Rule, TABLE_LEN},
    syscall::{Call, ROWS},
    syscall_match::{Arguments, COMM_BYTES, LENGTHS_MAX, PATTERN_BYTES, PATTERNS_MAX, Wanted},
    target::{FILTER_WORDS_MAX, Target},
    watch::{Begun, Times, UNDER_WAY_MAX, WATCHED_MAX},
};

/// Bytes that bpf_csum_diff takes at most (net/core/filter.c).
pub const CHUNK_BYTES: usize = 512;
/// Bytes of a packet that are looked at or written at once.
pub const PIECE_BYTES: usize = 64;

/// Room for what does not fit on the stack, which has 512 bytes in all.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// What is known of the packet that is judged. It lies here for the verifier's sake: what it reads from a map has no
    /// past, so that all ways through the parser become one.
    pub packet: Packet,
    /// What else its rules are told.
    pub facts: Facts,
    /// What they want done with it.
    pub verdict: Verdict,
    /// A number that the verifier is to lose track of.
    pub number: u64,
    /// A piece of the packet.
    pub piece: [u8; PIECE_BYTES],
    /// A chunk of it that is summed up or moved.
    pub chunk: [u64; CHUNK_BYTES / 8],
}

/// `BPF_F_MMAPABLE` of include/uapi/linux/bpf.h (5.5).
const MMAPABLE: u32 = 1 << 10;
/// `BPF_NOEXIST` (include/uapi/linux/bpf.h): an entry is made, and not written over.
pub const NOT_THERE_YET: u64 = 1;
/// `BPF_F_NO_PREALLOC`, which prefix trees require.
const NO_PREALLOC: u32 = 1;

/// The control page, mapped by the owner and the guardian.
#[map]
pub static KC_CONTROL: Array<Control> = Array::with_max_entries(1, MMAPABLE);

/// Both banks of the rule table.
#[map]
pub static KC_RULES: Array<Rule> = Array::with_max_entries(TABLE_LEN as u32, MMAPABLE);

/// Cgroup id -> what the cgroup is subject to.
#[map]
pub static KC_TARGETS: HashMap<u64, Target> = HashMap::with_max_entries(TARGETS_MAX, 0);

/// The filter before [`KC_TARGETS`]: [`chaos_common::target::filter_place`].
#[map]
pub static KC_TARGET_BITS: Array<u64> = Array::with_max_entries(FILTER_WORDS_MAX as u32, 0);

/// Target cgroups by descriptor, with `SELECT_WALK`.
#[map]
pub static KC_WALK: CgroupArray = CgroupArray::with_max_entries(WALK_TARGETS_MAX, 0);

/// Targets by slot: what the cgroup of the same slot of [`KC_WALK`], or the one a socket hook is attached to, is
/// subject to.
#[map]
pub static KC_WALK_TARGETS: Array<Target> = Array::with_max_entries(WALK_TARGETS_MAX, 0);

/// IPv4 prefix -> rules it belongs to, shorter prefixes' rules included.
#[map]
pub static KC_REMOTE4: LpmTrie<[u8; 4], u64> = LpmTrie::with_max_entries(CIDRS_MAX, NO_PREALLOC);

/// IPv6 prefix -> rules it belongs to, shorter prefixes' rules included.
#[map]
pub static KC_REMOTE6: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(CIDRS_MAX, NO_PREALLOC);

/// Local port -> rules it belongs to.
#[map]
pub static KC_LOCAL_PORTS: Array<u64> = Array::with_max_entries(PORTS_MAX, MMAPABLE);

/// Remote port -> rules it belongs to.
#[map]
pub static KC_PORTS: Array<u64> = Array::with_max_entries(PORTS_MAX, MMAPABLE);

/// Namespace, device and delaying rules -> the entrance of their lines.
#[map]
pub static KC_LINES: HashMap<LineKey, Entrance> = HashMap::with_max_entries(LINE_ENTRANCES_MAX, 0);

/// Slot -> where a packet goes on behind a line.
#[map]
pub static KC_EXITS: Array<Exit> = Array::with_max_entries(LINE_SLOTS_MAX as u32, 0);

/// Row (system call number of 64-bit or 32-bit callers, hook of io_uring) -> rules, and the hook that judges it.
#[map]
pub static KC_CALLS: Array<Call> = Array::with_max_entries(ROWS, 0);

/// Beginning of a task's name -> rules it is not ruled out for, what shorter beginnings say included.
#[map]
pub static KC_COMMS: LpmTrie<[u8; COMM_BYTES], u64> = LpmTrie::with_max_entries(CALLERS_MAX, NO_PREALLOC);

/// User -> rules it is not ruled out for; see `KC_UID_OTHERS`.
#[map]
pub static KC_UIDS: HashMap<u32, u64> = HashMap::with_max_entries(CALLERS_MAX, 0);

/// Row of [`KC_CALLS`] -> where its call's arguments are.
#[map]
pub static KC_ARGUMENTS: Array<Arguments> = Array::with_max_entries(ROWS, 0);

/// Rule -> what it asks for.
#[map]
pub static KC_WANTED: Array<Wanted> = Array::with_max_entries(RULES_MAX as u32, 0);

/// Beginning of a path -> patterns it goes with, those of shorter beginnings included.
#[map]
pub static KC_PATH_BEGINNINGS: LpmTrie<[u8; PATTERN_BYTES], u64> =
    LpmTrie::with_max_entries(PATTERNS_MAX as u32 + 1, NO_PREALLOC);

/// End of a path, backwards -> patterns it goes with, those of shorter ends included.
#[map]
pub static KC_PATH_ENDINGS: LpmTrie<[u8; PATTERN_BYTES], u64> =
    LpmTrie::with_max_entries(PATTERNS_MAX as u32 + 1, NO_PREALLOC);

/// Length of a path -> patterns that have room in it.
#[map]
pub static KC_PATH_LENGTHS: Array<u64> = Array::with_max_entries(LENGTHS_MAX, 0);

/// Thread group and thread -> the call of it that is to be held back, from the program that decides so to the one that
/// does it.
#[map]
pub static KC_HOLDS: HashMap<u64, Hold> = HashMap::with_max_entries(SLEEPERS_MAX, 0);

/// Rule -> what became of its calls.
#[map]
pub static KC_HELD: Array<Held> = Array::with_max_entries(RULES_MAX as u32, 0);

/// Thread group -> since when and for how long it is stopped, from before it is until it is let go on; and, at 0, the one
/// that is just let go on, while there is a continuer.
#[map]
pub static KC_STOPPED: HashMap<u32, Stopped> = HashMap::with_max_entries(STOPPED_MAX + 1, 0);

/// The thread groups as they are stopped, so that the continuer need not look for them.
#[map]
pub static KC_STOPS: RingBuf = RingBuf::with_byte_size(RING_BYTES_MIN, 0);

/// The buffer whose size tells the sleeper a time. Nothing is ever written to it.
#[map]
pub static KC_CODES: Array<[u8; CODES]> = Array::with_max_entries(1, 0);

/// Room for the facts of calls.
#[map]
pub static KC_CALL_SCRATCH: PerCpuArray<CallScratch> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Rule -> what happened, per CPU.
#[map]
pub static KC_COUNTERS: PerCpuArray<RuleCounters> = PerCpuArray::with_max_entries(RULES_MAX as u32, 0);

/// For the packet that is being judged or changed, per CPU: soft interrupts are off meanwhile.
#[map]
pub static KC_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Recorded events: [`chaos_common::event`].
#[map]
pub static KC_RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Events that found no room in the ring buffer, per CPU.
#[map]
pub static KC_EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Rule -> what it remembers across CPUs.
#[map]
pub static KC_ORDINALS: Array<Ordinal> = Array::with_max_entries(RULES_MAX as u32, 0);

/// Rule -> the results it draws from.
#[map]
pub static KC_RESULTS: Array<Results> = Array::with_max_entries(RULES_MAX as u32, 0);

/// Rule and process -> what is remembered of the process until its last thread exits.
#[map]
pub static KC_PROCESSES: HashMap<ProcessKey, ProcessCount> = HashMap::with_max_entries(PROCESSES_MAX, 0);

/// Processes that are hit without the others of their cgroup -> nothing; [`TREE_NOBODY`] -> how many found no room.
#[map]
pub static KC_TREE_MEMBERS: HashMap<u32, u64> = HashMap::with_max_entries(TREE_MAX, 0);

/// Packets that left the targets' sockets and those of them the egress hooks met, per CPU: `LEAVING_*`.
#[map]
pub static KC_LEAVING: PerCpuArray<u64> = PerCpuArray::with_max_entries(LEAVING, 0);

/// Number of a way through lines -> the bytes on it.
#[map]
pub static KC_LOADS: Array<Load> = Array::with_max_entries(LOADS_MAX, 0);

/// Cookie of a network namespace in which the targets have made sockets -> nothing.
#[map]
pub static KC_NAMESPACES: HashMap<u64, u32> = HashMap::with_max_entries(NAMESPACES_MAX, NO_PREALLOC);

/// Network namespaces as they are entered.
#[map]
pub static KC_ENTERED: RingBuf = RingBuf::with_byte_size(ENTERED_BYTES, 0);

/// Thread -> the watched call it is in.
#[map]
pub static KC_UNDER_WAY: HashMap<u64, Begun> = HashMap::with_max_entries(UNDER_WAY_MAX, 0);

/// Slot of a watched call -> how long it took, per CPU.
#[map]
pub static KC_TIMES: PerCpuArray<Times> = PerCpuArray::with_max_entries(WATCHED_MAX, 0);
