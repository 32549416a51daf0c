//! Measuring system call errors: what every task of a victim must have felt.

use anyhow::{Context as _, Result, ensure};

use crate::board::SharedBoard;
use crate::kchaos::Kchaos;
use crate::spawn::Place;
use crate::summary::Summary;
use crate::tasks::{TaskRecord, read_tasks};
use crate::victim::EXEC_EXIT_STATUS;

/// What the tasks felt and what kchaos says of it.
pub struct Suffered {
    /// The victim's tasks.
    pub tasks: Vec<TaskRecord>,
    /// What kchaos counted.
    pub summary: Summary,
}

/// Runs a `calls` victim under faults; `more` are further words of the victim.
pub fn suffer(faults: &str, place: &Place, call: &str, n: u64, more: &str) -> Result<Suffered> {
    let board = SharedBoard::create()?;
    let scratch = tempfile::tempdir().context("making a scratch directory")?;
    let arguments = format!("calls --call {call} -n {n} --scratch {} {more}", scratch.path().display());
    let finished = Kchaos::exec_victim(faults, &arguments, &board)?.at(place).run()?;
    finished.expect_status(0).with_context(|| format!("the tasks felt {:?}", read_tasks(&board)))?;
    Ok(Suffered { tasks: read_tasks(&board), summary: finished.summary()? })
}

impl Suffered {
    /// Calls of all tasks.
    pub fn calls(&self) -> u64 {
        self.tasks.iter().map(|task| task.calls).sum()
    }

    /// How often all tasks felt this errno.
    pub fn errno(&self, name: &str) -> u64 {
        self.tasks.iter().map(|task| task.errno(name)).sum()
    }

    /// Judges that all calls failed, except those the kernel did not show to the programs (`missed`).
    pub fn check_all_failed(&self, errno: &str) -> Result<()> {
        let missed = self.summary.rule()?.missed;
        let felt = self.errno(errno);
        ensure!(felt > 0 && felt + missed >= self.calls(), "some calls got through: {:?}", self.tasks);
        Ok(())
    }

    /// Judges that the number of tasks is right, that none felt another errno than `errno`, that every other call and
    /// exec worked, and that the kernel's count is the victim's.
    pub fn check(&self, tasks: usize, n: u64, errno: &str) -> Result<()> {
        ensure!(self.tasks.len() == tasks, "{} tasks reported instead of {tasks}", self.tasks.len());
        for task in &self.tasks {
            check_task(task, n, Some(errno))?;
        }
        let rule = self.summary.rule()?;
        ensure!(
            (self.calls().saturating_sub(rule.missed)..=self.calls()).contains(&rule.matched.events)
                && rule.injected.events == self.errno(errno),
            "the victim made {} calls and felt {errno} {} times, but kchaos says {} matched, {} injected, {} missed",
            self.calls(),
            self.errno(errno),
            rule.matched.events,
            rule.injected.events,
            rule.missed
        );
        Ok(())
    }
}

/// Judges one task: all calls made, no errno but the one allowed, nothing else disturbed.
pub fn check_task(task: &TaskRecord, n: u64, errno: Option<&str>) -> Result<()> {
    ensure!(task.done && task.calls == n, "a task did not end its {n} calls: {task:?}");
    let foreign: Vec<&String> = task.errnos.keys().filter(|name| Some(name.as_str()) != errno).collect();
    ensure!(foreign.is_empty(), "a task felt {foreign:?}: {task:?}");
    let felt: u64 = task.errnos.values().sum();
    ensure!(task.succeeded + felt == n, "calls are missing: {task:?}");
    ensure!(task.controls_made > 0 && task.controls_failed.is_empty(), "other calls failed: {task:?}");
    ensure!(task.exec_status == Some(EXEC_EXIT_STATUS), "exec of the victim itself failed: {task:?}");
    Ok(())
}
