//! Streams of datagrams in the targets of runs that share an engine, and what is felt of their delays.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos_common::counter::{Outcome, RuleCounters};
use chaos_userspace::host::cgroup::Cgroup as TargetCgroup;
use chaos_userspace::inject::engine::{Closed, Engine, Options};
use chaos_userspace::inject::line::Queue;
use chaos_userspace::plan::Plan;
use chaos_userspace::spec::delay::Delay;
use chaos_userspace::spec::network::{Effect, Match};

use crate::board::Role;
use crate::capability::on_host;
use crate::cgroup::Cgroup;
use crate::engine_scene::{Scene, fault, loses_nothing, place, planned, target};
use crate::kernel_objects::KernelObjects;
use crate::loss::Traffic;
use crate::netns::NetNs;
use crate::patience::{wait_for, wait_until};
use crate::samples::full;
use crate::spawn::{Place, Victim};

/// Datagrams of a short stream.
pub const SOME: u64 = 60;
/// What is held back takes more; what is not takes less, but for a busy machine.
const AT_ONCE_MS: f64 = 75.0;

/// How an engine is opened whose runs come and go.
pub fn shared(scene: &Scene) -> Options<'_> {
    Options { shared_as: Some("test-engine"), ..scene.options() }
}

/// Somewhere to send from, with a process in the victims' namespace that is there from the start.
pub struct Lane {
    /// In the cgroup and the namespace.
    pub place: Place,
    /// The cgroup.
    pub target: TargetCgroup,
    _somebody: Victim,
}

impl Lane {
    /// Makes one.
    pub fn new(cgroup: &Cgroup, netns: &NetNs) -> Result<Self> {
        let place = Place::default().in_cgroup(cgroup).in_netns(netns);
        let mut somebody = Victim::start(&place, "sleep")?;
        somebody.ready()?;
        Ok(Self { target: target(cgroup.path())?, place, _somebody: somebody })
    }

    /// A stream to itself that goes on.
    pub fn start(&self, port: u16, more: &str) -> Result<Victim> {
        let words = format!("udp-pair --to 127.0.0.1:{port} --rate-per-ms 1 --alone --idle-ms 3000 {more}");
        Victim::start(&self.place, &words)
    }

    /// A short one, all of which arrives.
    pub fn stream(&self, port: u16) -> Result<Traffic> {
        finished(self.start(port, &format!("-n {SOME}"))?)
    }

    /// Waits until datagrams arrive at once.
    ///
    /// # Errors
    /// If they never do.
    pub fn is_not_held_back(&self, port: u16) -> Result<()> {
        wait_for("datagrams that are not held back", || {
            Ok((self.stream(port)?.median_ms()? < AT_ONCE_MS).then_some(()))
        })
        .map(drop)
    }
}

/// What a stream came to that ends by itself. It must have lost nothing.
pub fn finished(mut stream: Victim) -> Result<Traffic> {
    stream.finish(Role::Second)?;
    let traffic = Traffic::read(&stream.board)?;
    traffic.check_unharmed()?;
    Ok(traffic)
}

/// The end of one that goes on.
pub fn stopped(mut stream: Victim) -> Result<Traffic> {
    stream.stop(Role::Second)?;
    finished(stream)
}

/// Waits until a stream has sent more datagrams.
pub fn sends(stream: &Victim, more: u64) -> Result<()> {
    let sent = || stream.board.datagrams.sent.load(Acquire);
    let before = sent();
    wait_until("datagrams to be sent", || sent() > before + more).map(drop)
}

/// None of the datagrams came earlier, but for those that found no lease: an owner that is not run for a second lets go, which
/// counts.
pub fn took(traffic: &Traffic, ms: f64, lapsed: u64) -> Result<()> {
    let share = (100 * lapsed).div_ceil(traffic.received.max(1)) as usize;
    let least = traffic.delays_ms.get(if lapsed == 0 { 0 } else { (share + 1).min(100) });
    let least = *least.context("nothing arrived")?;
    ensure!(
        least >= ms - 0.1,
        "{least} ms instead of {ms}, {lapsed} without a lease: {:?}",
        traffic.delays_ms
    );
    Ok(())
}

/// The same of half of them, where nobody counts those without a lease.
pub fn mostly_took(traffic: &Traffic, ms: f64) -> Result<()> {
    ensure!(traffic.median_ms()? >= ms - 0.1, "{ms} ms: {:?}", traffic.delays_ms);
    Ok(())
}

/// So much later, always.
pub fn delay(ms: u64) -> Effect {
    Effect::Delay(Delay { latency: Duration::from_millis(ms), ..Delay::default() })
}

/// A run with these effects on all packets.
pub fn all(effects: &[Effect]) -> Result<Plan> {
    let faults = effects.iter().map(|effect| fault(effect.clone(), "100%", Match::default(), false));
    planned(faults.collect::<Result<_>>()?, None)
}

/// Adds a run and arms it.
pub fn join(engine: &mut Engine, plan: &Plan, target: &TargetCgroup) -> Result<usize> {
    let slot = engine.add_run(&place(plan, target))?;
    engine.arm(slot);
    Ok(slot)
}

/// Ends a run, of which nothing may be left.
pub fn leave(engine: &mut Engine, slot: usize) -> Result<Closed> {
    let closed = engine.remove_run(slot).context("there is no such run")?;
    ensure!(closed.problems.is_empty() && closed.programs_left == 0, "{closed:?}");
    Ok(closed)
}

/// The end of a run with delays: all that it held back has arrived.
pub fn leave_lines(engine: &mut Engine, slot: usize) -> Result<()> {
    let closed = leave(engine, slot)?;
    ensure!(closed.queue == Some(Queue::default()), "{closed:?}");
    Ok(())
}

/// Packets of a run that found no lease.
pub fn lapsed(engine: &Engine, slot: usize) -> Result<u64> {
    let counters = engine.account_of(slot)?.0;
    Ok(counters.iter().map(|rule| rule.outcomes[Outcome::Lease as usize].events).sum())
}

/// How many programs, links and maps there are.
pub fn count(objects: &KernelObjects) -> (usize, usize, usize) {
    (objects.programs.len(), objects.links.len(), objects.maps.len())
}

/// Waits until a run has held back a good many datagrams.
fn wait_held_back(engine: &Engine, slot: usize) -> Result<()> {
    wait_for("datagrams to be held back", || {
        let counters = engine.account_of(slot)?.0;
        let hits = |rule: &RuleCounters| rule.outcomes[Outcome::Injected as usize].events;
        Ok((counters.iter().map(hits).sum::<u64>() > 50).then_some(()))
    })
    .map(drop)
}

/// The victim of a total loss has received no more than what found no lease.
pub fn nothing_more_than(lapsed: u64, victim: &Victim, when: &str) -> Result<()> {
    let received = victim.board.datagrams.received.load(Acquire);
    ensure!(received <= lapsed, "{when}: {received} datagrams got through, {lapsed} without a lease");
    Ok(())
}

/// The victim of a total loss receives nothing, and another one loses nothing of what is held back now and then, while runs with
/// the delays of `late` come and go beside the loss, turn by turn. Nothing is left of each of them.
///
/// # Errors
/// If anything of that is not so.
pub fn stays_total(total: &Plan, late: impl Fn(usize) -> Result<Plan>) -> Result<()> {
    let turns = if full() || on_host() { 20 } else { 4 };
    let scene = Scene::new()?;
    let lossy = Lane::new(&scene.cgroup.child("lossy")?, &scene.netns)?;
    let held_back = scene.cgroup.child("held_back")?;
    let mut other = scene.victim(&held_back, 7002)?;
    let held_back = target(held_back.path())?;
    let before = scene.netns.furniture()?;
    let mut engine = Engine::open(&[], shared(&scene))?;
    let loss = join(&mut engine, total, &lossy.target)?;
    let mut victim = lossy.start(7001, "")?;
    sends(&victim, 30)?;
    let alone = KernelObjects::now()?.since(&scene.objects);
    for turn in 0..turns {
        let joined = join(&mut engine, &late(turn)?, &held_back)?;
        wait_held_back(&engine, joined)?;
        leave_lines(&mut engine, joined)?;
        sends(&victim, 30)?;
        nothing_more_than(lapsed(&engine, loss)?, &victim, &format!("turn {turn}"))?;
        let now = KernelObjects::now()?.since(&scene.objects);
        ensure!(count(&now) == count(&alone), "turn {turn}: {now:?} instead of {alone:?}");
        ensure!(scene.netns.furniture()? == before, "turn {turn}: {}", scene.netns.furniture()?);
    }
    loses_nothing(&other, "the victim of the runs that went")?;
    other.stop(Role::Second)?;
    let traffic = Traffic::read(&other.board)?;
    ensure!(traffic.lost() == 0 && traffic.sender_errors.is_empty(), "{traffic}");
    leave(&mut engine, loss)?;
    loses_nothing(&victim, "the victim of no run")?;
    ensure!(engine.close().problems.is_empty());
    victim.stop(Role::Second)?;
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(drop)
}
