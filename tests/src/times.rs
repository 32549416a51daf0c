//! What a `timed` victim measured.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::board::{Role, SharedBoard};
use crate::spawn::Victim;

/// Its times in microseconds, in the order of its calls, thread by thread.
#[derive(Debug, Deserialize)]
pub struct Times {
    /// Of everything.
    pub took_us: u64,
    /// Of the calls it is about.
    pub own_us: Vec<u64>,
    /// Of the others between them.
    pub control_us: Vec<u64>,
    /// What calls it is about failed with.
    pub errnos: Vec<i64>,
}

impl Times {
    /// Waits for the victim's end.
    pub fn of(victim: &mut Victim) -> Result<Self> {
        Ok(serde_json::from_value(victim.finish(Role::First)?)?)
    }

    /// Of a victim that has reported.
    pub fn on(board: &SharedBoard) -> Result<Self> {
        Ok(serde_json::from_value(board.result(Role::First)?.context("the victim left no times")?)?)
    }
}

/// The one in the middle; of none the longest there can be.
pub fn median(times: &[u64]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(u64::MAX)
}
