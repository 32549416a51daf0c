//! What single calls of a victim return, in order.

use std::sync::atomic::Ordering::Release;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::board::{Role, SharedBoard};
use crate::kchaos::{Finished, Kchaos, Running};
use crate::spawn::{Place, Victim};

/// The results of a `results` victim, by process.
pub fn results(report: &Value) -> Result<Vec<Vec<i64>>> {
    serde_json::from_value(report["processes"].clone()).with_context(|| format!("reading {report}"))
}

/// Runs a `results` victim under faults from its first call on: its results by process, and how kchaos ended.
pub fn results_under(faults: &str, place: &Place, arguments: &str) -> Result<(Vec<Vec<i64>>, Finished)> {
    let board = SharedBoard::create()?;
    let scratch = tempfile::tempdir().context("making a scratch directory")?;
    let arguments = format!("results {arguments} --scratch {}", scratch.path().display());
    let finished = Kchaos::exec_victim(faults, &arguments, &board)?.at(place).run()?;
    finished.expect_status(0)?;
    let report = board.result(Role::First)?.context("the victim left no results")?;
    Ok((results(&report)?, finished))
}

/// Starts a victim and waits until it is prepared for its first call; see [`go`].
pub fn prepared(place: &Place, arguments: &str) -> Result<Victim> {
    let mut victim = Victim::start(place, &format!("results --wait {arguments}"))?;
    victim.ready()?;
    Ok(victim)
}

/// Lets a prepared victim make its calls.
pub fn go(mut victim: Victim) -> Result<Vec<Vec<i64>>> {
    victim.board.go.store(1, Release);
    results(&victim.finish(Role::First)?)
}

/// Starts an injection into a cgroup and waits until it acts.
pub fn inject(faults: &str, target: &std::path::Path, place: &Place) -> Result<Running> {
    let mut running = Kchaos::inject(faults, target).at(place).start()?;
    running.armed()?;
    Ok(running)
}
