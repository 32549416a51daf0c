//! `kchaos inject` on what already runs: who is reached, when it ends, and what the books say.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use anyhow::{Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::Role;
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Kchaos, Running};
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::patience::{monotonic_ns, wait_until};
use integration_tests::samples::{bystander_turns, packets};
use nix::sys::signal::Signal;
use serde_json::json;

struct Scene(Ground);

impl Scene {
    fn new() -> Result<Self> {
        Ok(Self(Ground::new()?))
    }

    fn inject(&self, words: &str) -> Result<Running> {
        Kchaos::new(&format!("inject --json --cgroup {} {words}", self.0.target.path().display()))
            .at(&self.0.runner)
            .start()
    }

    fn check_clean(&self) -> Result<()> {
        ensure!(self.0.target.exists(), "the target's cgroup is gone");
        self.0.check_clean()
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn descendants_from_before_and_during_the_run_are_reached() -> Result<()> {
    let scene = Scene::new()?;
    let old = scene.0.target.child("old")?.child("older")?;
    let beside = scene.0.cgroup.child("beside")?;
    // A socket made before the run belongs to the target as well.
    let mut early = scene.0.victim(&old, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    early.ready()?;
    wait_until("datagrams before the fault", || early.board.datagrams.received.load(Acquire) > 50)?;
    ensure!(early.board.datagrams.lost.load(Acquire) == 0, "losses before the fault");
    let mut running = scene.inject("--loss 30% --protocol udp --duration 600s")?;
    running.armed()?;
    wait_until("losses of a socket made before", || early.board.datagrams.lost.load(Acquire) > 20)?;
    let young = scene.0.target.child("young")?.child("younger")?;
    let mut sent = 0;
    for (cgroup, name) in
        [(&scene.0.target, "the target itself"), (&old, "an old cgroup"), (&young, "a young cgroup")]
    {
        let mut victim = scene.0.victim(cgroup, &format!("udp-pair --to 127.0.0.1:7002 -n {}", packets()))?;
        victim.finish(Role::Second)?;
        let traffic = Traffic::read(&victim.board)?;
        traffic.check_silent()?;
        check_share(name, traffic.lost(), traffic.sent, 0.3)?;
        sent += traffic.sent;
    }
    let mut unharmed = 0;
    for _ in 0..bystander_turns(packets()) {
        let mut victim =
            scene.0.victim(&beside, &format!("udp-pair --to 127.0.0.1:7003 -n {}", packets()))?;
        victim.finish(Role::Second)?;
        let traffic = Traffic::read(&victim.board)?;
        traffic.check_unharmed()?;
        unharmed += traffic.sent;
    }
    measure("packet_bystander", json!({"sent": unharmed, "hit": 0}));
    running.signal(Signal::SIGINT)?;
    let finished = running.finish()?;
    finished.expect_status(130)?;
    let matched = finished.summary()?.rule()?.matched.events;
    ensure!(matched >= sent, "{sent} datagrams were sent under fault, {matched} matched");
    early.stop(Role::Second)?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_duration_ends_the_run() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim = scene.0.victim(&scene.0.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    victim.ready()?;
    let start_ns = monotonic_ns();
    let mut running = scene.inject("--loss 50% --duration 2s")?;
    running.armed()?;
    let armed = Instant::now();
    let finished = running.finish()?;
    let (lasted, end_ns) = (armed.elapsed(), monotonic_ns());
    finished.expect_status(0)?;
    let summary = finished.summary()?;
    ensure!(summary.code == 0 && summary.outcome == "done", "{summary:?}");
    // `armed` is reported after the fact, so the test sees a little less than the whole duration.
    ensure!(lasted.as_secs_f64() > 1.0, "the run of 2 s ended {lasted:?} after it was armed");
    let received = victim.board.datagrams.received.load(Acquire);
    wait_until("datagrams after the run", || victim.board.datagrams.received.load(Acquire) > received + 500)?;
    let received = victim.stop(Role::Second)?;
    let last_lost_ns = victim.board.datagrams.last_lost_sent_ns.load(Acquire);
    ensure!(
        (start_ns..=end_ns).contains(&last_lost_ns),
        "the last loss was at {last_lost_ns}, the run from {start_ns} to {end_ns}: {received}"
    );
    let (injected, lost) = (summary.rule()?.injected.events, victim.board.datagrams.lost.load(Acquire));
    ensure!(injected == lost, "{lost} datagrams were lost, kchaos says {injected}: {received}");
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_run_that_hit_nothing_is_no_success() -> Result<()> {
    let scene = Scene::new()?;
    let finished = scene.inject("--loss 100% --duration 1s")?.finish()?;
    finished.expect_status(9)?;
    let summary = finished.summary()?;
    ensure!(summary.code == 9 && summary.outcome == "nothing_injected", "{summary:?}");
    scene.check_clean()?;
    // Traffic that does not match is not enough either.
    let mut victim = scene.0.victim(&scene.0.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 1")?;
    let finished = scene.inject("--loss 100% --protocol tcp --duration 1s")?.finish()?;
    finished.expect_status(9)?;
    let summary = finished.summary()?;
    ensure!(summary.rule()?.seen.events > 0 && summary.rule()?.matched.events == 0, "{summary:?}");
    // Observing is to hit nothing.
    let finished = scene.inject("--loss 100% --observe --duration 1s")?.finish()?;
    finished.expect_status(0)?;
    let summary = finished.summary()?;
    ensure!(summary.rule()?.matched.events > 0 && summary.rule()?.injected.events == 0, "{summary:?}");
    victim.stop(Role::Second)?;
    Traffic::read(&victim.board)?.check_unharmed()?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn signals_end_the_run_early() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim = scene.0.victim(&scene.0.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    victim.ready()?;
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut running = scene.inject("--loss 50% --duration 600s")?;
        running.armed()?;
        let lost = victim.board.datagrams.lost.load(Acquire);
        wait_until("losses", || victim.board.datagrams.lost.load(Acquire) > lost + 20)?;
        running.signal(signal)?;
        let finished = running.finish()?;
        finished.expect_status(status)?;
        finished.summary()?;
        scene.check_clean()?;
    }
    victim.board.stop.store(1, Release);
    victim.finish(Role::Second)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_cgroup_may_be_named_in_three_ways() -> Result<()> {
    let scene = Scene::new()?;
    let mount = integration_tests::cgroup::mount_point()?;
    let below = scene.0.target.path().strip_prefix(&mount)?.display().to_string();
    for name in [scene.0.target.path().display().to_string(), format!("/{below}"), below] {
        let line = format!("inject --json --cgroup {name} --loss 50% --observe --duration 100ms");
        let finished = Kchaos::new(&line).at(&scene.0.runner).run()?;
        finished.expect_status(0)?;
        finished.summary()?;
    }
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn two_runs_at_once_count_their_own() -> Result<()> {
    let scene = Scene::new()?;
    let other = Scene::new()?;
    let mut running =
        [scene.inject("--loss 100% --duration 600s")?, other.inject("--loss 30% --duration 600s")?];
    for run in &mut running {
        run.armed()?;
    }
    let mut lost = Vec::new();
    for (scene, probability) in [(&scene, 1.0), (&other, 0.3)] {
        let mut victim = scene
            .0
            .victim(&scene.0.target, &format!("udp-pair --to 127.0.0.1:7001 -n {}", packets().min(2_000)))?;
        victim.finish(Role::Second)?;
        let traffic = Traffic::read(&victim.board)?;
        check_share("one of two runs", traffic.lost(), traffic.sent, probability)?;
        lost.push(traffic.lost());
    }
    for (mut run, lost) in running.into_iter().zip(lost) {
        run.signal(Signal::SIGINT)?;
        let finished = run.finish()?;
        finished.expect_status(130)?;
        let injected = finished.summary()?.rule()?.injected.events;
        ensure!(injected == lost, "{lost} lost, {injected} injected");
    }
    scene.check_clean()
}
