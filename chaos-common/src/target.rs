//! Who is hit.

/// What a target cgroup is subject to: the value of the target table, whose key is the cgroup id (the inode number of
/// the cgroup directory, `cgroup_id()` of include/linux/cgroup.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Rules, one bit each. Written last when a target is added, cleared first when it is removed.
    pub rules: u64,
    /// Runs, one bit each.
    pub runs: u64,
}

const _: () = assert!(size_of::<Target>() == 16);

/// Compare one ancestor of the event's cgroup with up to [`crate::limits::FAST_TARGETS_MAX`] read-only ids.
pub const SELECT_FAST: u32 = 0;
/// Look up the ancestor at every level in use in the target table.
pub const SELECT_LEVELS: u32 = 1;
/// Ask the kernel for each target whether the task is below it (`bpf_current_task_under_cgroup`): the only way for
/// tracing programs before 5.12, which brought `bpf_get_current_ancestor_cgroup_id` to them.
pub const SELECT_WALK: u32 = 2;
