//! Programs for packets that leave, as the engine loads them for strangers.

use std::os::fd::OwnedFd;

use anyhow::Result;
use chaos_userspace::encode::Job;
use chaos_userspace::inject::bpf::{AttachType, ProgramType};
use chaos_userspace::inject::program::Kind;
use integration_tests::loaded::{Loaded, loss, plan, strangers};

use crate::kernel::empty;

/// What an egress program is for: strangers spread over levels of the hierarchy, and rules, both of so many runs.
#[derive(Clone)]
pub struct Leaving {
    /// Cgroups.
    pub targets: u64,
    /// Levels they are at, one above the other.
    pub levels: u32,
    /// Losses of 1 %, shared out evenly to the runs.
    pub rules: usize,
    /// Runs that share the program; the targets are shared out among them.
    pub runs: usize,
}

impl Leaving {
    /// One run of one rule.
    pub const fn of(targets: u64) -> Self {
        Self { targets, levels: 1, rules: 1, runs: 1 }
    }

    /// Fills maps and loads the program; the lowest of the levels is `level`.
    pub fn load(&self, level: u32) -> Result<(Loaded, OwnedFd)> {
        let spread = strangers(self.targets, level).into_iter().zip(0u32..);
        let spread: Vec<_> = spread.map(|((id, level), number)| (id, level - number % self.levels)).collect();
        let rules = || (0..self.rules / self.runs).map(|_| loss("1%")).collect::<Result<_>>();
        let plans = (0..self.runs).map(|_| plan(rules()?)).collect::<Result<Vec<_>>>()?;
        let shares = spread.chunks(spread.len() / self.runs);
        let job = |(plan, targets)| Job { plan, targets, await_exec: false };
        let mut loaded = Loaded::of_jobs(&plans.iter().zip(shares).map(job).collect::<Vec<_>>())?;
        let program = loaded.load(&Kind::NetEgress)?;
        Ok((loaded, program))
    }
}

/// A program that does nothing, for devices.
pub fn classifier() -> Result<OwnedFd> {
    empty(ProgramType::SchedCls, AttachType::CgroupInetIngress, 0)
}
