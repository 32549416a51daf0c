//! An engine that hosts the runs of commands, with a place for their targets.

use std::sync::atomic::Ordering::Acquire;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroup;
use crate::control::ask;
use crate::ground::Ground;
use crate::kchaos::{Kchaos, Running};
use crate::patience::wait_until;
use crate::spawn::Victim;

/// Where the engine is joined.
pub const SOCKET: &str = "/run/kchaos/engine.hosts";

/// A host has one engine.
static ONE: Mutex<()> = Mutex::new(());

/// The engine and the places, which go with this value.
pub struct Scene {
    /// A target, and where commands run.
    pub ground: Ground,
    /// Another target.
    pub beside: Cgroup,
    /// `kchaos engine`.
    pub engine: Running,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// Starts an engine.
    pub fn new() -> Result<Self> {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let ground = Ground::new()?;
        let beside = ground.cgroup.child("beside")?;
        let engine = engine(&ground)?;
        Ok(Self { ground, beside, engine, _alone: alone })
    }

    /// A process that sends itself datagrams and notices what it lost.
    pub fn victim(&self, cgroup: &Cgroup, port: u16) -> Result<Victim> {
        let victim = Victim::talking_to_itself(cgroup, &self.ground.netns, port)?;
        wait_until("datagrams", || victim.board.datagrams.received.load(Acquire) > 10)?;
        Ok(victim)
    }

    /// A command for one of the targets.
    pub fn inject(&self, faults: &str, cgroup: &Cgroup) -> Kchaos {
        Kchaos::inject(faults, cgroup.path()).at(&self.ground.runner)
    }

    /// A live run and its id.
    pub fn join(&self, faults: &str, cgroup: &Cgroup) -> Result<(Running, String)> {
        let mut running = self.inject(faults, cgroup).start()?;
        let run = running.armed()?.run;
        ensure!(owner(&run)? == u64::from(self.engine.pid()), "the run {run} has not joined the engine");
        Ok((running, run))
    }

    /// Ends the engine, and finds everything as it was.
    pub fn end(self) -> Result<()> {
        let Self { ground, mut engine, .. } = self;
        engine.signal(Signal::SIGTERM)?;
        engine.finish()?.expect_status(0)?;
        ensure!(!std::path::Path::new(SOCKET).exists(), "the engine's socket is left");
        ground.check_clean()
    }
}

/// An engine that is ready.
pub fn engine(ground: &Ground) -> Result<Running> {
    let mut engine = Kchaos::new("engine --json").at(&ground.runner).start()?;
    engine.event("hosting", |_| true)?;
    Ok(engine)
}

/// The process that a run lives in.
pub fn owner(run: &str) -> Result<u64> {
    ask(&format!("status {run}"))?.fine()?.event()?["pid"].as_u64().context("no pid")
}
