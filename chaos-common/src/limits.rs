//! Named bounds of every map and loop.

/// Runs one engine hosts at most: one bit mask, one page of [`crate::control`] slots less the header.
pub const RUNS_MAX: usize = 63;
/// Rules one engine holds at most: one bit of a `u64` mask each.
pub const RULES_MAX: usize = 64;
/// Copies of the rule table; a live change writes the one not in use and flips.
pub const RULE_BANKS: usize = 2;
/// Target cgroups one engine holds at most.
pub const TARGETS_MAX: u32 = 16_384;
/// Targets that are compared with read-only globals instead of a hash look-up.
pub const FAST_TARGETS_MAX: usize = 8;
/// Deepest cgroup level (root is 0) a target may have: one bit of the level mask each.
pub const LEVELS_MAX: u32 = 32;
/// Target cgroups where the kernel has no ancestor helper for tracing programs (below 5.12): one comparison each.
pub const WALK_TARGETS_MAX: u32 = 64;
/// Remote prefixes per address family.
pub const CIDRS_MAX: u32 = 131_072;
/// Entries of the port table: every port and one for packets that have none.
pub const PORTS_MAX: u32 = 65_537;
/// Index of the port table for packets without ports (ICMP and the like).
pub const PORT_NONE: u32 = 65_536;
/// System call numbers the call table covers (the highest on x86-64 is 470 in Linux 6.18).
pub const CALLS_MAX: u32 = 512;
/// Entries of the table of task names and of that of users, per engine.
pub const CALLERS_MAX: u32 = 1024;
/// Directories and mount points between a file and its root; deeper paths count as unreadable.
pub const PATH_COMPONENTS_MAX: u32 = 64;
/// IPv6 extension headers that are stepped over before a packet counts as unparsable.
pub const IPV6_EXTENSIONS_MAX: usize = 4;
/// Devices that packets may be diverted from, in all network namespaces of one engine.
pub const LINE_SLOTS_MAX: usize = 4095;
/// Lines that one packet passes at most, one after another: each doubles the slots a device takes.
pub const LINES_PER_PACKET_MAX: usize = 4;
/// Entrances of lines: one per device and set of rules that may delay the same packet.
pub const LINE_ENTRANCES_MAX: u32 = 16_384;
/// Longest time a program spins for one call, in nanoseconds: the processor does nothing else meanwhile, also for others.
pub const SPIN_MAX_NS: u64 = 1_000_000;
/// Shortest time a process is stopped for, in nanoseconds: stopping it and letting it go on take about as long.
pub const STOP_MIN_NS: u64 = 1_000_000;
/// Results one system call rule draws from.
pub const RESULTS_MAX: usize = 8;
/// Pairs of a process and a rule that counts per process, at one time.
pub const PROCESSES_MAX: u32 = 4096;
/// Processes at a time that are hit without the others of their cgroup.
pub const TREE_MAX: u32 = 16_384;
/// The id of no process, under which those are counted that found no room.
pub const TREE_NOBODY: u32 = 0;
/// Highest errno: `MAX_ERRNO` of include/linux/err.h.
pub const ERRNO_MAX: u32 = 4095;
/// How far ahead the owner keeps the lease, in nanoseconds.
pub const LEASE_NS: u64 = 1_000_000_000;
/// How often the owner renews the lease, in nanoseconds.
pub const LEASE_RENEW_NS: u64 = 100_000_000;
