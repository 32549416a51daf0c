//! Read-only globals, set by the loader before the programs are loaded and frozen then: the verifier knows their
//! values and removes what the plan does not use.

use aya_ebpf::Global;
#[cfg(doc)]
use chaos_common::rule::{CORRUPT_CHECKSUM, CORRUPT_PAYLOAD};
use chaos_common::{
    control::FIRST_SET,
    layout::{MEMBERS_COUNT, SIGNAL_MEMBERS},
    limits::FAST_TARGETS_MAX,
};

/// [`chaos_common::ABI_VERSION`] of this object; the loader reads it back from the file.
#[unsafe(no_mangle)]
static KC_ABI: Global<u32> = Global::new(chaos_common::ABI_VERSION);

/// The set of programs that this one belongs to, one bit.
#[unsafe(no_mangle)]
pub static KC_SET: Global<u32> = Global::new(FIRST_SET);

/// How packets find their target: `SELECT_FAST` or `SELECT_LEVELS`.
#[unsafe(no_mangle)]
pub static KC_SELECT_SKB: Global<u32> = Global::new(0);

/// How tasks find their target: one of `SELECT_*`.
#[unsafe(no_mangle)]
pub static KC_SELECT_TASK: Global<u32> = Global::new(0);

/// Level of all targets with `SELECT_FAST`.
#[unsafe(no_mangle)]
pub static KC_FAST_LEVEL: Global<u32> = Global::new(0);

/// How many of [`KC_FAST_IDS`] are in use, with `SELECT_FAST`.
#[unsafe(no_mangle)]
pub static KC_FAST_COUNT: Global<u32> = Global::new(0);

/// Targets with `SELECT_FAST`. The only global that is not frozen: a target that is made anew has another id. What is
/// frozen is read from memory all the same, so that this costs nobody more.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
pub static KC_FAST_IDS: [Global<u64>; FAST_TARGETS_MAX] = [const { Global::new(0) }; FAST_TARGETS_MAX];

/// Levels at which there are targets, one bit each, with `SELECT_LEVELS`.
#[unsafe(no_mangle)]
pub static KC_LEVELS: Global<u32> = Global::new(0);

/// The first of those levels, and the last: the verifier removes code that is never reached, not turns of a loop that do
/// nothing.
#[unsafe(no_mangle)]
pub static KC_LEVEL_FIRST: Global<u32> = Global::new(0);
/// See [`KC_LEVEL_FIRST`].
#[unsafe(no_mangle)]
pub static KC_LEVEL_LAST: Global<u32> = Global::new(0);

/// [`chaos_common::target::filter_shift`] of the filter of targets, with `SELECT_LEVELS`.
#[unsafe(no_mangle)]
pub static KC_FILTER_SHIFT: Global<u32> = Global::new(63);

/// Runs in use.
#[unsafe(no_mangle)]
pub static KC_RUN_COUNT: Global<u32> = Global::new(0);

/// Targets in the walk table, with `SELECT_WALK`.
#[unsafe(no_mangle)]
pub static KC_WALK_COUNT: Global<u32> = Global::new(0);

/// One more than the highest rule in use.
#[unsafe(no_mangle)]
pub static KC_RULE_COUNT: Global<u32> = Global::new(0);

/// Whether any rule looks into the packet.
#[unsafe(no_mangle)]
pub static KC_PARSE: Global<u32> = Global::new(0);

/// Whether any rule asks for the remote address.
#[unsafe(no_mangle)]
pub static KC_REMOTE: Global<u32> = Global::new(0);

/// Whether any rule asks for the remote port.
#[unsafe(no_mangle)]
pub static KC_REMOTE_PORT: Global<u32> = Global::new(0);

/// Whether the egress program runs as a clsact filter (below 6.6) instead of on a tcx link.
#[unsafe(no_mangle)]
pub static KC_CLSACT: Global<u32> = Global::new(0);

/// Whether any rule asks for the local port.
#[unsafe(no_mangle)]
pub static KC_LOCAL_PORT: Global<u32> = Global::new(0);

/// Whether any rule hits whole flows.
#[unsafe(no_mangle)]
pub static KC_FLOW: Global<u32> = Global::new(0);

/// Whether any rule has a chain.
#[unsafe(no_mangle)]
pub static KC_CHAIN: Global<u32> = Global::new(0);

/// Rules of which every process counts for itself, one bit each.
#[unsafe(no_mangle)]
pub static KC_PROCESS_RULES: Global<u64> = Global::new(0);

/// Whether any rule has several results.
#[unsafe(no_mangle)]
pub static KC_DRAWN_RESULTS: Global<u32> = Global::new(0);

/// Whether any rule duplicates packets.
#[unsafe(no_mangle)]
pub static KC_DUPLICATE: Global<u32> = Global::new(0);

/// How rules corrupt packets: set of [`CORRUPT_CHECKSUM`] and [`CORRUPT_PAYLOAD`].
#[unsafe(no_mangle)]
pub static KC_CORRUPT: Global<u32> = Global::new(0);

/// Whether any rule resets connections.
#[unsafe(no_mangle)]
pub static KC_RESET: Global<u32> = Global::new(0);

/// How calls are held back, if any are: one of `LATENCY_*`.
#[unsafe(no_mangle)]
pub static KC_LATENCY: Global<u32> = Global::new(0);

/// Whether any rule diverts packets into a line.
#[unsafe(no_mangle)]
pub static KC_LINE: Global<u32> = Global::new(0);

/// Whether packets may pass several lines, one after another.
#[unsafe(no_mangle)]
pub static KC_CHAINED: Global<u32> = Global::new(0);

/// Whether any rule counts across CPUs. 0 on kernels without fetching atomics (below 5.12), where the loader replaces
/// the then unreachable instructions.
#[unsafe(no_mangle)]
pub static KC_EXACT: Global<u32> = Global::new(0);

/// Whether any rule asks for the task's name.
#[unsafe(no_mangle)]
pub static KC_COMM: Global<u32> = Global::new(0);

/// Whether any rule asks for the task's user.
#[unsafe(no_mangle)]
pub static KC_UID: Global<u32> = Global::new(0);

/// Rules that users who are in no table entry may be hit by.
#[unsafe(no_mangle)]
pub static KC_UID_OTHERS: Global<u64> = Global::new(0);

/// Which events are recorded: one of `EVENTS_*`.
#[unsafe(no_mangle)]
pub static KC_EVENTS: Global<u32> = Global::new(0);

/// Share of them that is, drawn for each.
#[unsafe(no_mangle)]
pub static KC_EVENTS_SHARE: Global<u64> = Global::new(0);

/// Whether any rule asks for a path.
#[unsafe(no_mangle)]
pub static KC_PATH: Global<u32> = Global::new(0);

/// Whether any pattern says how a path ends.
#[unsafe(no_mangle)]
pub static KC_PATH_ENDS: Global<u32> = Global::new(0);

/// Whether any rule asks for the kind of a descriptor, for a number of bytes, for how a file is opened.
#[unsafe(no_mangle)]
pub static KC_KIND: Global<u32> = Global::new(0);
/// See [`KC_KIND`].
#[unsafe(no_mangle)]
pub static KC_SIZE: Global<u32> = Global::new(0);
/// See [`KC_KIND`].
#[unsafe(no_mangle)]
pub static KC_ACCESS: Global<u32> = Global::new(0);

/// Whether any call's rule asks for the remote address or port.
#[unsafe(no_mangle)]
pub static KC_PEER: Global<u32> = Global::new(0);

/// Offsets of [`chaos_common::layout::MEMBERS`].
#[unsafe(no_mangle)]
pub static KC_LAYOUT: [Global<u32>; MEMBERS_COUNT] = [const { Global::new(0) }; MEMBERS_COUNT];

/// Offsets of [`chaos_common::layout::SIGNAL_MEMBERS`].
#[unsafe(no_mangle)]
pub static KC_SIGNAL_LAYOUT: [Global<u32>; SIGNAL_MEMBERS.len()] =
    [const { Global::new(0) }; SIGNAL_MEMBERS.len()];

/// How tracing programs find a task's registers: one of `REGISTERS_*`.
#[unsafe(no_mangle)]
pub static KC_REGISTERS: Global<u32> = Global::new(0);

/// The same for socket hooks.
#[unsafe(no_mangle)]
pub static KC_SOCKET_REGISTERS: Global<u32> = Global::new(0);

/// Offset of `stack` in `struct task_struct`, with `REGISTERS_ON_STACK`.
#[unsafe(no_mangle)]
pub static KC_TASK_STACK: Global<u32> = Global::new(0);

/// Offset of `thread_info.status` in `struct task_struct`.
#[unsafe(no_mangle)]
pub static KC_TASK_STATUS: Global<u32> = Global::new(0);

/// Offsets of `cred` and `real_cred` in `struct task_struct`; equal where they are not known.
#[unsafe(no_mangle)]
pub static KC_TASK_CRED: Global<u32> = Global::new(0);
/// See [`KC_TASK_CRED`].
#[unsafe(no_mangle)]
pub static KC_TASK_REAL_CRED: Global<u32> = Global::new(0);

/// 1 if only processes of [`crate::maps::KC_TREE_MEMBERS`] are hit, and not all of the targets.
#[unsafe(no_mangle)]
pub static KC_TREE: Global<u32> = Global::new(0);
/// Offset of `tgid` in `struct task_struct`.
#[unsafe(no_mangle)]
pub static KC_TASK_TGID: Global<u32> = Global::new(0);

/// Offset of `signal` in `struct task_struct`, with [`KC_PROCESS_RULES`] and [`KC_TREE`].
#[unsafe(no_mangle)]
pub static KC_TASK_SIGNAL: Global<u32> = Global::new(0);
/// Offset of `live` in `struct signal_struct`: threads of the process that have not begun to exit.
#[unsafe(no_mangle)]
pub static KC_SIGNAL_LIVE: Global<u32> = Global::new(0);
