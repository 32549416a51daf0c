//! Random lives of runs and targets: whatever happens in whatever order, what is in the kernel becomes what the live runs
//! own, and in the end nothing. `KCHAOS_SEED` repeats one.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos_common::probability::mix;
use integration_tests::capability::{has_tcx, on_host};
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::kchaos::{Kchaos, Running};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::{wait_for, wait_until};
use integration_tests::samples::full;
use integration_tests::spawn::{Place, Victim};
use nix::sys::signal::Signal;
use serde_json::json;

/// Targets there are.
const TARGETS: usize = 3;
/// A fault that is felt often.
const FAULT: &str = "--loss 40%";

/// Numbers that repeat with their seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) % limit as u64) as usize
    }
}

/// What may happen to a target and to the run that it has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    StartOnTheSame,
    RunOut,
    Stop,
    Kill,
    Pause,
    KillPaused,
    VictimDies,
    VictimRespawns,
    CgroupVanishes,
    NamespaceVanishes,
    DeviceAppears,
    DeviceVanishes,
    /// A start where the journal does not fit.
    JournalFull,
    /// The kernel kills the owner for want of memory.
    MemoryLimit,
}

impl Step {
    /// The first of them are those of the life that small samples lead.
    const ALL: [Self; 15] = [
        Self::Start,
        Self::StartOnTheSame,
        Self::RunOut,
        Self::Stop,
        Self::Kill,
        Self::Pause,
        Self::KillPaused,
        Self::VictimDies,
        Self::VictimRespawns,
        Self::CgroupVanishes,
        Self::NamespaceVanishes,
        Self::DeviceAppears,
        Self::DeviceVanishes,
        Self::JournalFull,
        Self::MemoryLimit,
    ];
    const SMALL: usize = 13;
}

/// A run that lives.
struct Run {
    owner: Running,
    id: String,
}

/// A cgroup with a process in a network namespace, all of which may go.
struct Target {
    place: Cgroup,
    /// Where its owners live.
    owners: Cgroup,
    cgroup: Option<Cgroup>,
    netns: Option<NetNs>,
    /// What was in the namespace without a run.
    furniture: String,
    has_device: bool,
    victim: Option<Victim>,
    port: u16,
    run: Option<Run>,
}

impl Target {
    fn new(place: Cgroup, owners: Cgroup, port: u16) -> Result<Self> {
        let mut target = Self {
            place,
            owners,
            cgroup: None,
            netns: None,
            furniture: String::new(),
            has_device: false,
            victim: None,
            port,
            run: None,
        };
        target.respawn()?;
        Ok(target)
    }

    /// Whether this can happen now.
    fn allows(&self, step: Step) -> bool {
        let (lives, runs) = (self.victim.is_some(), self.run.is_some());
        match step {
            Step::Start | Step::RunOut | Step::JournalFull => lives && !runs,
            Step::MemoryLimit => runs && self.memory_max().exists(),
            Step::StartOnTheSame => lives && runs,
            Step::Stop | Step::Kill | Step::KillPaused => runs,
            // Who can feel it must be of the cgroup and the namespace that the run was started for.
            Step::Pause => lives && runs,
            Step::VictimDies | Step::CgroupVanishes | Step::NamespaceVanishes => lives,
            // A new cgroup of the same name is another target.
            Step::VictimRespawns => !lives && (!runs || self.cgroup.is_some() && self.netns.is_some()),
            Step::DeviceAppears => lives && !self.has_device,
            Step::DeviceVanishes => lives && self.has_device,
        }
    }

    /// The limit of its owners' memory, if that can be limited here.
    fn memory_max(&self) -> PathBuf {
        self.owners.path().join("memory.max")
    }

    /// Makes what is missing.
    fn respawn(&mut self) -> Result<()> {
        let cgroup = match self.cgroup.take() {
            Some(cgroup) => cgroup,
            None => self.place.child("target")?,
        };
        let netns = match self.netns.take() {
            Some(netns) => netns,
            None => {
                let netns = NetNs::new()?.with_clsact_where_needed()?;
                self.has_device = false;
                self.furniture = netns.furniture()?;
                netns
            }
        };
        let victim = Victim::talking_to_itself(&cgroup, &netns, self.port)?;
        let received = || victim.board.datagrams.received.load(Acquire);
        wait_until("datagrams", || received() > 20)?;
        (self.cgroup, self.netns, self.victim) = (Some(cgroup), Some(netns), Some(victim));
        Ok(())
    }

    /// Its process ends as by the OOM killer.
    fn kill_victim(&mut self) -> Result<()> {
        if let Some(mut victim) = self.victim.take() {
            victim.signal(Signal::SIGKILL)?;
            let cgroup = self.cgroup.as_ref().context("a victim without a cgroup")?;
            wait_until("the victim to end", || cgroup.pids().is_ok_and(|pids| pids.is_empty()))?;
        }
        Ok(())
    }

    fn inject(&self, place: &Place, words: &str) -> Result<Kchaos> {
        let path = self.cgroup.as_ref().context("a target without a cgroup")?.path().display().to_string();
        let place = place.clone().in_cgroup(&self.owners);
        Ok(Kchaos::new(&format!("inject --json --cgroup {path} {FAULT} {words}")).at(&place))
    }

    /// The victim, if there is one, feels the fault.
    fn check_felt(&self) -> Result<()> {
        let Some(victim) = &self.victim else { return Ok(()) };
        let lost = || victim.board.datagrams.lost.load(Acquire);
        let before = lost();
        wait_until("the victim to feel its run", || lost() > before + 10).map(drop)
    }

    /// The victim, if there is one, feels nothing any more.
    fn check_free(&self) -> Result<()> {
        let Some(victim) = &self.victim else { return Ok(()) };
        let datagrams = &victim.board.datagrams;
        let (lost, received) = (|| datagrams.lost.load(Acquire), || datagrams.received.load(Acquire));
        // A lease after a stopped owner, and what was on its way before; then not one of many.
        wait_for("the victim to be free", || {
            let (lost_before, from) = (lost(), received());
            wait_until("datagrams", || received() > from + 200)?;
            Ok((lost() == lost_before).then_some(()))
        })
        .map(drop)
    }
}

/// How often the kernel found no memory for processes of a cgroup.
fn refused_for_memory(cgroup: &Cgroup) -> Result<u64> {
    let events = std::fs::read_to_string(cgroup.path().join("memory.events"))?;
    let times = events.lines().find_map(|line| line.strip_prefix("oom ")).context("no count of oom")?;
    Ok(times.parse()?)
}

/// All of it.
struct World {
    _cgroup: TestCgroup,
    place: Place,
    _home: NetNs,
    targets: Vec<Target>,
    before: KernelObjects,
    /// What runs that have ended had.
    ended: KernelObjects,
    ended_runs: Vec<String>,
}

impl World {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        // The owners live where no packet goes, so that no namespace lives by them.
        let home = NetNs::new()?;
        let place = Place::default().in_netns(&home);
        let owners = cgroup.child("owners")?;
        // The controllers of a machine with others are not ours to enable.
        if !on_host() {
            cgroup.enable_memory(&[&owners])?;
        }
        let before = KernelObjects::now()?;
        let targets = (0..TARGETS)
            .map(|number| {
                let name = format!("slice-{number}");
                Target::new(cgroup.child(&name)?, owners.child(&name)?, 7401 + number as u16)
            })
            .collect::<Result<_>>()?;
        let (ended, ended_runs) = (KernelObjects::default(), vec![]);
        Ok(Self { _cgroup: cgroup, place, _home: home, targets, before, ended, ended_runs })
    }

    /// What could happen next.
    fn possible(&self, steps: &[Step]) -> Vec<(usize, Step)> {
        let all = (0..self.targets.len()).flat_map(|target| steps.iter().map(move |step| (target, *step)));
        all.filter(|(target, step)| self.targets[*target].allows(*step)).collect()
    }

    fn act(&mut self, number: usize, step: Step) -> Result<()> {
        let target = &mut self.targets[number];
        match step {
            Step::Start => {
                let mut owner = target.inject(&self.place, "--duration 900s")?.start()?;
                let id = owner.armed()?.run;
                target.run = Some(Run { owner, id });
                target.check_felt()?;
            }
            Step::StartOnTheSame => {
                let refused = target.inject(&self.place, "--duration 900s")?.run()?;
                refused.expect_status(6)?;
                target.check_felt()?;
            }
            Step::RunOut => {
                let mut owner = target.inject(&self.place, "--duration 2s")?.start()?;
                let id = owner.armed()?.run;
                self.ended = std::mem::take(&mut self.ended).with(&KernelObjects::of_process(owner.pid())?);
                self.ended_runs.push(id);
                owner.finish()?.expect_status(0)?;
                target.check_free()?;
            }
            Step::Stop => {
                let mut run = self.end(number)?;
                run.owner.signal(Signal::SIGTERM)?;
                let finished = run.owner.finish()?;
                // A target that went early may have felt nothing.
                finished.expect_status(143)?;
                finished.summary()?;
                self.targets[number].check_free()?;
            }
            Step::Kill => {
                let mut run = self.end(number)?;
                run.owner.signal(Signal::SIGKILL)?;
                run.owner.process.wait()?;
                self.targets[number].check_free()?;
            }
            Step::Pause => {
                let run = target.run.as_mut().context("no run")?;
                run.owner.signal(Signal::SIGSTOP)?;
                target.check_free()?;
                let run = target.run.as_mut().context("no run")?;
                run.owner.signal(Signal::SIGCONT)?;
                target.check_felt()?;
            }
            Step::KillPaused => {
                let mut run = self.end(number)?;
                run.owner.signal(Signal::SIGSTOP)?;
                self.targets[number].check_free()?;
                run.owner.signal(Signal::SIGKILL)?;
                run.owner.process.wait()?;
                self.targets[number].check_free()?;
            }
            Step::JournalFull => {
                let place = self.place.clone().without_room_for_journals();
                let refused = target.inject(&place, "--duration 900s")?.run()?;
                let message = refused.expect_status(1)?.error()?.message;
                ensure!(message.contains("/run/kchaos") && message.contains("make room"), "{message}");
                target.check_free()?;
            }
            Step::MemoryLimit => {
                let (limit, owners) = (target.memory_max(), target.owners.clone());
                let mut run = self.end(number)?;
                // Less than anybody has. The owner is killed, and its guardian, whom the kernel passes, gets nothing
                // either, until it can undo what it has to.
                std::fs::write(&limit, "64K")?;
                run.owner.process.wait()?;
                let before = refused_for_memory(&owners)?;
                wait_until("the guardian to want memory", || {
                    owners.pids().is_ok_and(|pids| pids.is_empty())
                        || refused_for_memory(&owners).is_ok_and(|times| times > before)
                })?;
                std::fs::write(&limit, "max")?;
                self.targets[number].check_free()?;
            }
            Step::VictimDies => target.kill_victim()?,
            Step::VictimRespawns => {
                target.respawn()?;
                if target.run.is_some() {
                    target.check_felt()?;
                }
            }
            Step::CgroupVanishes => {
                target.kill_victim()?;
                target.cgroup.take().context("no cgroup")?.remove()?;
            }
            Step::NamespaceVanishes => {
                target.kill_victim()?;
                target.netns = None;
            }
            Step::DeviceAppears => {
                let netns = target.netns.as_ref().context("no namespace")?;
                netns.ip("link add kct0 type veth peer name kct1")?;
                netns.ip("link set kct0 up")?;
                target.has_device = true;
                if target.run.is_none() {
                    target.furniture = netns.furniture()?;
                }
                self.check_devices(number)?;
            }
            Step::DeviceVanishes => {
                let netns = target.netns.as_ref().context("no namespace")?;
                netns.ip("link del kct0")?;
                target.has_device = false;
                self.check_devices(number)?;
            }
        }
        Ok(())
    }

    /// The run of a target, which is about to end: what it has must go.
    fn end(&mut self, number: usize) -> Result<Run> {
        let run = self.targets[number].run.take().context("no run")?;
        self.ended = std::mem::take(&mut self.ended).with(&KernelObjects::of_process(run.owner.pid())?);
        self.ended_runs.push(run.id.clone());
        Ok(run)
    }

    /// A run that has tcx links has one on every device of its target: loopback and perhaps a pair.
    fn check_devices(&self, number: usize) -> Result<()> {
        let target = &self.targets[number];
        let (Some(run), true) = (&target.run, has_tcx()) else { return Ok(()) };
        // One more is the witness.
        let wanted = if target.has_device { 4 } else { 2 };
        wait_until("links to follow the devices", || {
            KernelObjects::of_process(run.owner.pid()).is_ok_and(|own| own.links.len() >= wanted)
        })
        .map(drop)
    }

    /// Waits until there is exactly what the live runs own.
    fn settle(&mut self) -> Result<Duration> {
        let mut why = String::new();
        let settled = wait_for("what is left to be what the live runs own", || {
            why = self.differs()?;
            Ok(why.is_empty().then_some(()))
        });
        let ((), took) = settled.with_context(|| why.clone())?;
        self.ended = KernelObjects::default();
        Ok(took)
    }

    /// What is not as it has to be, in words.
    fn differs(&mut self) -> Result<String> {
        let mut owned = KernelObjects::default();
        for run in self.targets.iter_mut().filter_map(|target| target.run.as_mut()) {
            ensure!(run.owner.process.ended()?.is_none(), "run {} ended by itself", run.id);
            let own = KernelObjects::of_process(run.owner.pid())?;
            ensure!(!own.programs.is_empty(), "run {} has no programs", run.id);
            owned = owned.with(&own);
        }
        let left = self.ended.remaining()?;
        if !left.is_empty() {
            return Ok(format!("of ended runs: {left:?}"));
        }
        // On a machine with others there are others'.
        let now = KernelObjects::now()?.since(&self.before);
        if !on_host() && now != owned {
            return Ok(format!("in the kernel is {now:?}, live runs have {owned:?}"));
        }
        for run in &self.ended_runs {
            for kind in ["json", "sock", "new"] {
                let file = Path::new("/run/kchaos").join(run).with_extension(kind);
                if file.exists() {
                    return Ok(format!("{} is there", file.display()));
                }
            }
        }
        for target in self.targets.iter_mut().filter(|target| target.run.is_none()) {
            let Some(netns) = &target.netns else { continue };
            let furniture = netns.furniture()?;
            let expected = target.furniture.clone();
            let has_own = |text: &str| text.contains("kc_") || text.contains("kc-");
            // The devices of the test come and go while runs live: what is compared then is what is ours.
            if has_own(&furniture) {
                return Ok(format!("{furniture} instead of {expected}"));
            }
            if !furniture.contains("kct0") && !expected.contains("kct0") && furniture != expected {
                return Ok(format!("{furniture} instead of {expected}"));
            }
        }
        Ok(String::new())
    }
}

/// The life that small samples lead, always the same one: on Linux 5.10 it found filters that outlived their run.
const KNOWN: u64 = 883_152_945;

/// The seed of this life: from the environment, or a soak's, which is always another.
fn seed() -> Result<u64> {
    match std::env::var("KCHAOS_SEED") {
        Ok(seed) => seed.parse().with_context(|| format!("KCHAOS_SEED={seed} is no number")),
        Err(_) if !full() => Ok(KNOWN),
        Err(_) => {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            Ok(mix(since.as_nanos() as u64) >> 32)
        }
    }
}

/// So many of these steps, and then what ends all runs.
fn live(seed: u64, kinds: &[Step], steps: usize, history: &mut Vec<String>) -> Result<Duration> {
    let mut dice = Dice(seed);
    let mut world = World::new()?;
    let mut slowest = Duration::ZERO;
    let ends = [Step::Stop, Step::Kill, Step::KillPaused];
    for number in 0.. {
        let mut possible = world.possible(kinds);
        if number >= steps {
            possible.retain(|(_, step)| ends.contains(step));
        }
        if possible.is_empty() {
            break;
        }
        let (target, step) = possible[dice.below(possible.len())];
        history.push(format!("{step:?} of {target}"));
        world.act(target, step)?;
        slowest = slowest.max(world.settle()?);
    }
    ensure!(
        on_host() || KernelObjects::now()?.since(&world.before).is_empty(),
        "something is left in the end"
    );
    Ok(slowest)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn whatever_happens_only_what_live_runs_own_is_left() -> Result<()> {
    let (seed, steps) = (seed()?, if full() { 500 } else { 20 });
    let kinds = if seed == KNOWN { &Step::ALL[..Step::SMALL] } else { &Step::ALL[..] };
    let mut history = vec![];
    let slowest = live(seed, kinds, steps, &mut history)
        .with_context(|| format!("KCHAOS_SEED={seed}, after {}", history.join(", ")))?;
    measure(
        "random_life",
        json!({"seed": seed, "steps": history.len(), "slowest_ms": slowest.as_secs_f64() * 1e3}),
    );
    Ok(())
}

/// What an owner may lack, one after another.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn owners_without_room_or_memory_leave_nothing() -> Result<()> {
    let mut world = World::new()?;
    for step in [Step::JournalFull, Step::Start, Step::MemoryLimit, Step::Start, Step::Stop] {
        if world.targets[0].allows(step) {
            world.act(0, step).with_context(|| format!("{step:?}"))?;
            world.settle().with_context(|| format!("{step:?}"))?;
        } else {
            ensure!(on_host(), "{step:?} is not possible");
        }
    }
    Ok(())
}
