//! Calls that are held back, by whatever mechanism: whose, and what victims measure.

use std::path::Path;
use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cgroup::{Cgroup, TestCgroup};
use crate::kchaos::{Kchaos, Running};
use crate::patience::{patience, wait_for};
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

/// Far below half a minute, and far above what the documentation promises of being let go.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits for the end of a victim that is let go: how long after `begin`.
pub fn goes_soon(victim: &mut Victim, begin: Instant) -> Result<Duration> {
    let times = Times::of(victim)?;
    let took = begin.elapsed();
    ensure!(took < SOON && times.errnos.is_empty(), "after {took:?}: {times:?}");
    Ok(took)
}

/// Waits until the process that holds calls back has followed its owner.
pub fn follows_its_owner(holder: u32, name: &str) -> Result<()> {
    let gone = || Ok((!Path::new(&format!("/proc/{holder}")).exists()).then_some(()));
    wait_for(&format!("the {name} to follow its owner"), gone).map(drop)
}

/// A run whose holder is gone goes on without holding anybody back, and says so in these words.
pub fn goes_on_without(scene: &Scene, running: Running, says: &str) -> Result<()> {
    let mut next = scene.victim("--call openat -n 3")?;
    go(&next);
    let times = Times::of(&mut next)?;
    ensure!(times.took_us < patience().as_micros() as u64 / 3, "{times:?}");
    let finished = running.interrupt()?;
    ensure!(finished.text().contains(says), "{}", finished.text());
    Ok(())
}

/// The process of this name that an owner has started.
pub fn holder_of(owner: u32, name: &str) -> Result<u32> {
    let parent = format!("PPid:\t{owner}");
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // Processes may end in between.
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let words = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if status.lines().any(|line| line == parent) && words.starts_with(name.as_bytes()) {
            let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
            return name.parse().context("its id");
        }
    }
    bail!("{owner} has no {name}")
}

/// Whether a process stands still, stopped by a signal.
pub fn is_stopped(pid: u32) -> Result<bool> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).context("reading the state of a process")?;
    let behind = stat.rsplit_once(')').context("no state")?.1;
    Ok(behind.trim_start().starts_with('T'))
}
