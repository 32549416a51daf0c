//! What the tasks of a `calls` victim felt, read from its board while it runs or after it ended.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use nix::errno::Errno;
use serde::Serialize;

use crate::board::{Board, Task};
use crate::victim::CALLS;

/// What one thread made and felt.
#[derive(Clone, Debug, Serialize)]
pub struct TaskRecord {
    /// Process (thread group) id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// 0 for the first process, 1 for its child, and so on.
    pub generation: u32,
    /// Whether it has made all its calls.
    pub done: bool,
    /// Calls made.
    pub calls: u64,
    /// Calls without error.
    pub succeeded: u64,
    /// Errors by name.
    pub errnos: BTreeMap<String, u64>,
    /// Other calls made.
    pub controls_made: u64,
    /// Other calls that failed: `name: errno (how often)`.
    pub controls_failed: Vec<String>,
    /// Exit status of the victim's exec of itself, if tried; negative is the errno of exec.
    pub exec_status: Option<i32>,
    /// When the last error was returned.
    pub last_error_ns: u64,
    /// When the last call that succeeded was begun.
    pub last_success_ns: u64,
}

impl TaskRecord {
    /// Reads one task's place on the board.
    pub fn read(task: &Task) -> Self {
        let errnos = task
            .errnos
            .iter()
            .zip(&task.errno_counts)
            .map(|(errno, count)| (errno.load(Acquire), count.load(Relaxed)))
            .take_while(|(errno, _)| *errno != 0)
            .map(|(errno, count)| (errno_name(errno as i32), count))
            .collect();
        let controls = &task.controls[..(task.controls_used.load(Acquire) as usize).min(task.controls.len())];
        let controls_failed = controls
            .iter()
            .filter(|control| control.failed.load(Relaxed) != 0)
            .map(|control| {
                let name = CALLS.get(control.call.load(Relaxed) as usize).map_or("?", |call| call.name);
                let errno = errno_name(control.errno.load(Relaxed) as i32);
                format!("{name}: {errno} ({} times)", control.failed.load(Relaxed))
            })
            .collect();
        let exec = task.exec_status.load(Relaxed);
        Self {
            tgid: task.tgid.load(Relaxed),
            tid: task.tid.load(Relaxed),
            generation: task.generation.load(Relaxed),
            done: task.done.load(Acquire) != 0,
            calls: task.calls.load(Acquire),
            succeeded: task.succeeded.load(Acquire),
            errnos,
            controls_made: controls.iter().map(|control| u64::from(control.made.load(Relaxed))).sum(),
            controls_failed,
            exec_status: (exec != 0).then(|| exec - 1),
            last_error_ns: task.last_error_ns.load(Acquire),
            last_success_ns: task.last_success_ns.load(Acquire),
        }
    }

    /// How often one errno was felt.
    pub fn errno(&self, name: &str) -> u64 {
        self.errnos.get(name).copied().unwrap_or_default()
    }
}

/// All tasks that reported.
pub fn read_tasks(board: &Board) -> Vec<TaskRecord> {
    board.tasks().iter().map(TaskRecord::read).collect()
}

fn errno_name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}
