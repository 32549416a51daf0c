//! Calls that are held back, by whatever mechanism: whose, and what victims measure.

use std::sync::atomic::Ordering::Release;

use anyhow::Result;

use crate::cgroup::{Cgroup, TestCgroup};
use crate::kchaos::{Kchaos, Running};
use crate::spawn::{Place, Victim};
use crate::summary::Summary;
use crate::times::Times;

/// A target, a place beside it, and a place for kchaos.
pub struct Scene {
    by: String,
    _cgroup: TestCgroup,
    /// The target.
    pub target_cgroup: Cgroup,
    /// A place in it.
    pub target: Place,
    /// A place beside it.
    pub beside: Place,
    /// A place for kchaos.
    pub runner: Place,
}

impl Scene {
    /// One in which calls are held back by this mechanism.
    pub fn new(mechanism: &str) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target_cgroup = cgroup.child("target")?;
        let target = Place::default().in_cgroup(&target_cgroup);
        let beside = Place::default().in_cgroup(&cgroup.child("beside")?);
        let runner = Place::default().in_cgroup(&cgroup.child("runner")?);
        let by = format!("--mechanism {mechanism}");
        Ok(Self { by, _cgroup: cgroup, target_cgroup, target, beside, runner })
    }

    /// Starts kchaos on the target.
    pub fn start(&self, faults: &str) -> Result<Running> {
        let mut running = Kchaos::inject(&format!("{} {faults}", self.by), self.target_cgroup.path())
            .at(&self.runner)
            .start()?;
        running.armed()?;
        Ok(running)
    }

    /// A victim in the target that does not begin yet.
    pub fn victim(&self, words: &str) -> Result<Victim> {
        let mut victim = Victim::start(&self.target, &format!("timed --wait {words}"))?;
        victim.ready()?;
        Ok(victim)
    }

    /// What victims in the target and beside it measure under faults.
    pub fn under(&self, faults: &str, words: &str) -> Result<(Times, Times, Summary)> {
        let mut victim = self.victim(words)?;
        let mut other = Victim::start(&self.beside, &format!("timed --wait {words}"))?;
        other.ready()?;
        let running = self.start(faults)?;
        go(&victim);
        go(&other);
        let times = Times::of(&mut victim)?;
        let beside = Times::of(&mut other)?;
        let finished = running.interrupt()?;
        let summary = finished.summary()?;
        // Shown with a test that fails.
        println!("{faults}: {}", finished.text());
        Ok((times, beside, summary))
    }
}

/// Lets a victim begin.
pub fn go(victim: &Victim) {
    victim.board.go.store(1, Release);
}
