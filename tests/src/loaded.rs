//! The kernel programs as the engine loads them for a plan, one at a time and attached to nothing.

use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use chaos_common::control::STATE_ARMED;
use chaos_userspace::encode::{self, Image, Job};
use chaos_userspace::host::kernel::MemoryLockLimit;
use chaos_userspace::inject::control::ControlPage;
use chaos_userspace::inject::object::{self, Maps};
use chaos_userspace::inject::program::{Kind, Programs};
use chaos_userspace::plan::{Mechanism, Plan, PlannedRule};
use chaos_userspace::probe::Abilities as _;
use chaos_userspace::probe::kernel::Kernel;
use chaos_userspace::spec::delay::Delay;
use chaos_userspace::spec::network::{self, Direction, Effect};
use chaos_userspace::spec::syscall::{self, Calls};
use chaos_userspace::spec::when::When;
use chaos_userspace::spec::{Fault, network::Match};

/// Ids that no cgroup has.
const NOBODY: u64 = 1 << 40;

/// So many targets at a level of the hierarchy, none of which is anybody's cgroup.
pub fn strangers(count: u64, level: u32) -> Vec<(u64, u32)> {
    (0..count).map(|number| (NOBODY + number, level)).collect()
}

/// A plan of one rule per fault, with the mechanisms given: what planning would choose is not asked.
pub fn plan(rules: Vec<(Fault, Vec<Mechanism>)>) -> Result<Plan> {
    let kernel = Kernel::default();
    let planned = |(number, (fault, mechanisms)): (usize, (Fault, Vec<Mechanism>))| {
        let calls = match &fault {
            Fault::Syscall(fault) => match &fault.calls {
                Calls::One(call) => vec![(*call, mechanisms.clone())],
                Calls::Class { .. } => vec![],
            },
            Fault::Network(_) => vec![],
        };
        PlannedRule { name: format!("rule {number}"), fault, mechanisms, calls, limits: vec![] }
    };
    Ok(Plan {
        run: "bench".to_owned(),
        rules: rules.into_iter().enumerate().map(planned).collect(),
        duration: None,
        observe: false,
        seed: None,
        task_ancestor: kernel.task_ancestor().map_err(|missing| anyhow!("{missing}"))?,
        registers: kernel.registers(),
        trees: vec![],
    })
}

/// Loss of a share of packets that leave.
pub fn loss(share: &str) -> Result<(Fault, Vec<Mechanism>)> {
    Ok((packets(Direction::Egress, Effect::Loss, share)?, vec![Mechanism::Tcx]))
}

/// A millisecond for packets that arrive.
pub fn late_arrival() -> Result<(Fault, Vec<Mechanism>)> {
    let effect = Effect::Delay(Delay { latency: Duration::from_millis(1), ..Delay::default() });
    let fault = packets(Direction::Ingress, effect, "100%")?;
    Ok((fault, vec![Mechanism::Arrival, Mechanism::CgroupSkb, Mechanism::Line]))
}

/// An effect on a share of packets.
pub fn packets(direction: Direction, effect: Effect, share: &str) -> Result<Fault> {
    matching(direction, effect, share, Match::default())
}

/// The same for those that match.
pub fn matching(direction: Direction, effect: Effect, share: &str, matches: Match) -> Result<Fault> {
    let when = When::from_parts([share].into_iter())?;
    Ok(Fault::Network(Box::new(network::Fault { direction, matches, effect, per_flow: false, when })))
}

/// A fault on one call, `read=EIO@10%`, by this mechanism.
pub fn call(fault: &str, mechanism: Mechanism) -> Result<(Fault, Vec<Mechanism>)> {
    let fault: syscall::Fault = fault.parse()?;
    Ok((Fault::Syscall(Box::new(fault)), vec![mechanism]))
}

/// Maps filled and armed for a plan, and its programs to be loaded.
pub struct Loaded {
    programs: Programs,
    maps: Maps,
    page: ControlPage,
    /// What was encoded.
    pub image: Image,
    _limit: MemoryLockLimit,
}

impl Loaded {
    /// For these targets, by id and level.
    pub fn new(plan: &Plan, targets: &[(u64, u32)]) -> Result<Self> {
        Self::of_jobs(&[Job { plan, targets, await_exec: false }])
    }

    /// For several runs that share programs.
    pub fn of_jobs(jobs: &[Job<'_>]) -> Result<Self> {
        let limit = MemoryLockLimit::lift();
        let image = encode::encode(jobs)?;
        let (mut maps, object) = object::open(&image, 0, None)?;
        maps.fill(&image, &[])?;
        let page =
            ControlPage::map(maps.descriptor("KC_CONTROL")?.as_fd()).context("mapping the control page")?;
        page.write_header(&image);
        page.set_lease_ns(u64::MAX);
        (0..jobs.len()).for_each(|run| page.set_run_state(run, STATE_ARMED));
        page.set_armed(true);
        let programs = Programs::new(object, &maps.descriptors(), image.exact)?;
        Ok(Self { programs, maps, page, image, _limit: limit })
    }

    /// Loads one copy.
    pub fn load(&mut self, kind: &Kind) -> Result<OwnedFd> {
        Ok(self.programs.load(kind)?)
    }

    /// Bytes of kernel memory that the maps take.
    pub fn memory(&self) -> u64 {
        let taken = |(_, fd): (String, RawFd)| {
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse::<u64>().ok()
        };
        self.maps.descriptors().into_iter().filter_map(taken).sum()
    }

    /// Lets programs act, or not.
    pub fn arm(&self, armed: bool) {
        self.page.set_armed(armed);
    }
}
