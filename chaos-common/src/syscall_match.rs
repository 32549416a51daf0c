//! Which of a target's calls a rule applies to.

/// Bytes of a task's name with its end (`TASK_COMM_LEN` of include/linux/sched.h).
pub const COMM_BYTES: usize = 16;
