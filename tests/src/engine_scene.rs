//! What tests of the library's engine share: cgroups, victims in a namespace with loopback alone, plans, and what is felt.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result};
use chaos_userspace::host::cgroup::{Cgroup as TargetCgroup, Hierarchy};
use chaos_userspace::inject::engine::{Options, Placement};
use chaos_userspace::plan::{self, Plan};
use chaos_userspace::probe::kernel::Kernel;
use chaos_userspace::spec::when::When;
use chaos_userspace::spec::{Fault, Spec, Target, network};

use crate::cgroup::{Cgroup, TestCgroup};
use crate::kernel_objects::KernelObjects;
use crate::netns::NetNs;
use crate::patience::wait_until;
use crate::spawn::Victim;

/// The places, which go with this value.
pub struct Scene {
    /// What all cgroups of the test are below.
    pub cgroup: TestCgroup,
    /// The namespace of the victims.
    pub netns: NetNs,
    /// What was loaded and attached before.
    pub objects: KernelObjects,
    /// `kchaos`.
    pub program: PathBuf,
}

impl Scene {
    /// Makes one.
    pub fn new() -> Result<Self> {
        let program = std::env::var_os("KCHAOS_BIN").context("KCHAOS_BIN names the kchaos program")?.into();
        Ok(Self {
            cgroup: TestCgroup::new()?,
            netns: NetNs::new()?.with_clsact_where_needed()?,
            objects: KernelObjects::now()?,
            program,
        })
    }

    /// How an engine is opened that hosts what it is opened with.
    pub fn options(&self) -> Options<'_> {
        Options { program: &self.program, ..Options::default() }
    }

    /// A process that sends itself datagrams and notices what it lost.
    pub fn victim(&self, cgroup: &Cgroup, port: u16) -> Result<Victim> {
        let victim = Victim::talking_to_itself(cgroup, &self.netns, port)?;
        wait_until("datagrams", || victim.board.datagrams.received.load(Acquire) > 10)?;
        Ok(victim)
    }
}

/// A cgroup as the library knows it.
///
/// # Errors
/// If it is none.
pub fn target(path: &Path) -> Result<TargetCgroup> {
    Ok(Hierarchy::find()?.open(path)?)
}

/// A run that loses each of these shares of leaving packets, one rule each.
pub fn losing(shares: &[&str]) -> Result<Plan> {
    let matches = network::Match::default;
    let faults = shares.iter().map(|share| fault(network::Effect::Loss, share, matches(), false));
    planned(faults.collect::<Result<_>>()?, None)
}

/// An effect on a share of leaving packets.
pub fn fault(
    effect: network::Effect,
    share: &str,
    matches: network::Match,
    per_flow: bool,
) -> Result<network::Fault> {
    let when = When::from_parts([share].into_iter())?;
    Ok(network::Fault { direction: network::Direction::Egress, matches, effect, per_flow, when })
}

/// A plan of packet faults.
pub fn planned(faults: Vec<network::Fault>, seed: Option<u64>) -> Result<Plan> {
    planned_of(faults.into_iter().map(|fault| Fault::Network(Box::new(fault))).collect(), seed)
}

/// A plan of any faults.
pub fn planned_of(faults: Vec<Fault>, seed: Option<u64>) -> Result<Plan> {
    let spec = Spec {
        targets: vec![Target::Fresh],
        select: Default::default(),
        select_seed: None,
        faults,
        duration: None,
        allowed: Default::default(),
        observe: false,
        seed,
        mechanism: None,
    };
    Ok(plan::make(&spec, &Kernel::default())?)
}

/// A run on one target.
pub fn place<'a>(plan: &'a Plan, cgroup: &'a TargetCgroup) -> Placement<'a> {
    Placement { plan, cgroups: vec![cgroup], await_exec: false, home: None }
}

/// Datagrams that did not come so far.
pub fn lost(victim: &Victim) -> u64 {
    victim.board.datagrams.lost.load(Acquire)
}

/// Waits for a victim to lose datagrams.
pub fn loses_more(victim: &Victim, who: &str) -> Result<()> {
    let before = lost(victim);
    wait_until(&format!("{who} to lose datagrams"), || lost(victim) > before + 20).map(|_| ())
}

/// Waits for a victim to receive, and to lose nothing meanwhile.
pub fn loses_nothing(victim: &Victim, who: &str) -> Result<()> {
    // What was on its way at the switch may still be counted; after that nothing is.
    let received = || victim.board.datagrams.received.load(Acquire);
    let from = received();
    wait_until(&format!("{who} to receive"), || received() > from + 20)?;
    let (before, from) = (lost(victim), received());
    wait_until(&format!("{who} to receive more"), || received() > from + 100)?;
    wait_until(&format!("{who} to lose no datagram"), || lost(victim) <= before).map(drop)
}
