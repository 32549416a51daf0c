//! Runs with delays that share an engine: each is felt as from an engine of its own, and nobody else notices as they come and go.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos_userspace::inject::engine::Engine;
use chaos_userspace::plan::Plan;
use chaos_userspace::spec::delay::Delay;
use chaos_userspace::spec::network::{Effect, Match};
use integration_tests::board::Role;
use integration_tests::capability::delay_missing;
use integration_tests::control::{ask, is_listed};
use integration_tests::engine_host;
use integration_tests::engine_lane::{
    Lane, SOME, all, count, delay, finished, join, lapsed, leave, leave_lines, mostly_took,
    nothing_more_than, sends, shared, stays_total, stopped, took,
};
use integration_tests::engine_scene::{Scene, fault, loses_nothing, losing, place, planned};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_for;
use integration_tests::skip;
use integration_tests::spawn::Victim;
use nix::sys::signal::Signal;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_feels_its_own_delay_and_nobody_else_any() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let lane = |name: &str| Lane::new(&scene.cgroup.child(name)?, &scene.netns);
    let (lossy, slow, slower) = (lane("lossy")?, lane("slow")?, lane("slower")?);
    let mut bystander = scene.victim(&scene.cgroup.child("beside")?, 7009)?;
    let before = scene.netns.furniture()?;
    let mut engine = Engine::open(&[], shared(&scene))?;
    let loss = join(&mut engine, &losing(&["100%"])?, &lossy.target)?;
    let mut victim = lossy.start(7001, "")?;
    sends(&victim, 30)?;
    let alone = KernelObjects::now()?.since(&scene.objects);

    let first = join(&mut engine, &all(&[delay(150)])?, &slow.target)?;
    took(&slow.stream(7002)?, 150.0, lapsed(&engine, first)?)?;
    let second = join(&mut engine, &all(&[delay(300)])?, &slower.target)?;
    let stays = slower.start(7003, "")?;
    sends(&stays, 50)?;
    let traffic = slow.stream(7002)?;
    took(&traffic, 150.0, lapsed(&engine, first)?)?;
    ensure!(traffic.delays_ms[0] < 300.0, "the other's delay: {:?}", traffic.delays_ms);

    // The one goes, and the other's datagrams wait as before, each of them.
    leave_lines(&mut engine, first)?;
    sends(&stays, 50)?;
    took(&stopped(stays)?, 300.0, lapsed(&engine, second)?)?;
    slow.is_not_held_back(7002)?;
    engine.change(second, &all(&[delay(450)])?)?;
    took(&slower.stream(7003)?, 450.0, lapsed(&engine, second)?)?;
    ensure!(scene.netns.furniture()? != before, "there is no line");
    leave_lines(&mut engine, second)?;
    slower.is_not_held_back(7003)?;

    let now = KernelObjects::now()?.since(&scene.objects);
    ensure!(count(&now) == count(&alone), "{now:?} instead of {alone:?}");
    ensure!(scene.netns.furniture()? == before, "left behind: {}", scene.netns.furniture()?);
    nothing_more_than(lapsed(&engine, loss)?, &victim, "in the end")?;
    leave(&mut engine, loss)?;
    loses_nothing(&victim, "the victim of no run")?;
    victim.stop(Role::Second)?;
    bystander.stop(Role::Second)?;
    let traffic = Traffic::read(&bystander.board)?;
    traffic.check_unharmed()?;
    ensure!(traffic.median_ms()? < 150.0, "the bystander's: {:?}", traffic.delays_ms);
    KernelObjects::now()?.since(&scene.objects).wait_gone()?;
    ensure!(engine.close().problems.is_empty());
    Ok(())
}

fn fast() -> Result<Delay> {
    Ok(Delay { rate: Some("100mbit".parse().map_err(anyhow::Error::msg)?), ..Delay::default() })
}

/// Ever other lines, and what goes with them.
fn late(turn: usize) -> Result<Plan> {
    let jitter = Effect::Delay(Delay {
        latency: Duration::from_millis(30),
        jitter: Duration::from_millis(5),
        ..Delay::default()
    });
    Ok(match turn % 4 {
        0 => all(&[delay(20)])?,
        1 => all(&[delay(10), Effect::Delay(fast()?)])?,
        2 => {
            let some = fault(Effect::Reorder, "20%", Match::default(), false)?;
            planned(vec![some, fault(jitter, "100%", Match::default(), false)?], None)?
        }
        _ => {
            let half = fault(delay(15), "50%", Match::default(), false)?;
            planned(vec![half, fault(Effect::Duplicate, "1%", Match::default(), false)?], None)?
        }
    })
}

/// One victim loses everything, and another one nothing of what is held back now and then.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_is_lost_or_let_through_while_delays_come_and_go() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    stays_total(&losing(&["100%"])?, late)
}

/// Of a target and of one below it, whichever goes first.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn delays_of_several_runs_add_up() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let upper = scene.cgroup.child("upper")?;
    let lower = Lane::new(&upper.child("lower")?, &scene.netns)?;
    let upper = Lane::new(&upper, &scene.netns)?;
    let before = scene.netns.furniture()?;
    let mut engine = Engine::open(&[], shared(&scene))?;
    let above = join(&mut engine, &all(&[delay(100)])?, &upper.target)?;
    let below = join(&mut engine, &all(&[delay(150)])?, &lower.target)?;
    let both = |engine: &Engine| -> Result<u64> { Ok(lapsed(engine, above)? + lapsed(engine, below)?) };
    took(&lower.stream(7001)?, 250.0, both(&engine)?)?;
    took(&upper.stream(7002)?, 100.0, lapsed(&engine, above)?)?;

    let four = all(&[delay(1), delay(1), delay(1), delay(1)])?;
    let refused = engine.add_run(&place(&four, &lower.target)).err().context("six delays of one packet")?;
    ensure!(refused.to_string().contains("6 delays of one packet"), "{refused}");
    let burst = Delay { burst: Some("100kb".parse().map_err(anyhow::Error::msg)?), ..fast()? };
    let burst = all(&[Effect::Delay(burst)])?;
    let first = join(&mut engine, &burst, &upper.target)?;
    let refused = engine.add_run(&place(&burst, &lower.target)).err().context("two bursts of one packet")?;
    ensure!(refused.to_string().contains("2 bursts of one packet"), "{refused}");
    leave_lines(&mut engine, first)?;
    took(&lower.stream(7001)?, 250.0, both(&engine)?)?;

    // What is on its way through both lines comes out of both.
    let goes_on = lower.start(7003, "")?;
    sends(&goes_on, 400)?;
    leave_lines(&mut engine, below)?;
    sends(&goes_on, 50)?;
    took(&stopped(goes_on)?, 100.0, lapsed(&engine, above)?)?;
    let below = join(&mut engine, &all(&[delay(150)])?, &lower.target)?;
    let goes_on = lower.start(7003, "")?;
    sends(&goes_on, 400)?;
    leave_lines(&mut engine, above)?;
    sends(&goes_on, 50)?;
    took(&stopped(goes_on)?, 150.0, lapsed(&engine, below)?)?;
    upper.is_not_held_back(7002)?;
    leave_lines(&mut engine, below)?;
    lower.is_not_held_back(7001)?;
    ensure!(scene.netns.furniture()? == before, "left behind: {}", scene.netns.furniture()?);
    ensure!(KernelObjects::now()?.since(&scene.objects).is_empty(), "an engine without runs has programs");
    ensure!(engine.close().problems.is_empty());
    Ok(())
}

/// Devices are numbered in each namespace anew, and come and go.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_namespace_has_lines_of_its_own_and_new_devices_lead_into_them() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    const NEAR: &str = "02:79:00:00:00:01";
    const FAR: &str = "02:79:00:00:00:02";
    let (scene, far) = (Scene::new()?, NetNs::new()?);
    let here = Lane::new(&scene.cgroup.child("here")?, &scene.netns)?;
    let there = Lane::new(&scene.cgroup.child("there")?, &far)?;
    let beside = Lane::new(&scene.cgroup.child("beside")?, &far)?;
    let before = (scene.netns.furniture()?, far.furniture()?);
    let mut engine = Engine::open(&[], shared(&scene))?;
    let lossy = join(&mut engine, &losing(&["0%"])?, &beside.target)?;
    let first = join(&mut engine, &all(&[delay(150)])?, &here.target)?;
    let connect = || -> Result<()> {
        scene.netns.ip(&format!(
            "link add come address {NEAR} type veth peer name gone address {FAR} netns {}",
            far.path().display()
        ))?;
        for (netns, device, own, other, mac) in
            [(&scene.netns, "come", 1, 2, FAR), (&far, "gone", 2, 1, NEAR)]
        {
            netns.ip_batch(&[
                format!("link set {device} up"),
                format!("addr add 10.79.0.{own}/24 dev {device}"),
                format!("neigh replace 10.79.0.{other} lladdr {mac} dev {device} nud permanent"),
            ])?;
        }
        Ok(())
    };
    // Those that were down, and a first one of those that come and go: its line stays for the others.
    connect()?;
    engine.follow_devices()?;
    scene.netns.ip("link del come")?;
    engine.follow_devices()?;
    let alone = KernelObjects::now()?.since(&scene.objects);
    let second = join(&mut engine, &all(&[delay(300)])?, &there.target)?;
    for turn in 0..3 {
        connect()?;
        let attached = engine.follow_devices()?;
        ensure!(attached == 2, "turn {turn}: {attached} devices are new instead of both ends");
        let words = format!(
            "udp-pair --to 10.79.0.2:7001 --rate-per-ms 1 --alone --idle-ms 3000 -n {SOME} --recv-netns {}",
            far.path().display()
        );
        took(&finished(Victim::start(&here.place, &words)?)?, 150.0, lapsed(&engine, first)?)?;
        took(&there.stream(7002)?, 300.0, lapsed(&engine, second)?)?;
        took(&here.stream(7002)?, 150.0, lapsed(&engine, first)?)?;
        beside.is_not_held_back(7003)?;
        scene.netns.ip("link del come")?;
        ensure!(engine.follow_devices()? == 0, "turn {turn}: a device that has gone");
    }
    leave_lines(&mut engine, second)?;
    there.is_not_held_back(7002)?;
    took(&here.stream(7002)?, 150.0, lapsed(&engine, first)?)?;
    let now = KernelObjects::now()?.since(&scene.objects);
    // Programs inside lines keep the globals that they came with.
    let count = |objects: &KernelObjects| (objects.programs.len(), objects.links.len());
    ensure!(count(&now) == count(&alone), "{now:?} instead of {alone:?}");
    leave_lines(&mut engine, first)?;
    here.is_not_held_back(7002)?;
    leave(&mut engine, lossy)?;
    let after = (scene.netns.furniture()?, far.furniture()?);
    ensure!(after == before, "left behind: {after:?} instead of {before:?}");
    ensure!(KernelObjects::now()?.since(&scene.objects).is_empty(), "an engine without runs has programs");
    ensure!(engine.close().problems.is_empty());
    Ok(())
}

/// As long as one of two runs ends in whatever way, the other one's delay is felt.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn commands_with_delays_join_and_end_as_on_their_own() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = engine_host::Scene::new()?;
    let ground = &scene.ground;
    let (slow, slower) =
        (Lane::new(&ground.target, &ground.netns)?, Lane::new(&scene.beside, &ground.netns)?);
    let mut bystander = scene.victim(&ground.cgroup.child("third")?, 7009)?;
    let (one, one_run) = scene.join("--delay 150ms", &ground.target)?;
    let (two, _) = scene.join("--delay 300ms --direction ingress", &scene.beside)?;
    mostly_took(&slow.stream(7001)?, 150.0)?;
    mostly_took(&slower.stream(7002)?, 300.0)?;
    ask(&format!("set {one_run} --delay 200ms"))?.fine()?;
    mostly_took(&slow.stream(7001)?, 200.0)?;
    // Its end waits for what it has held back, and holds up nobody.
    let stays = slower.start(7003, "")?;
    let goes = slow.start(7004, "")?;
    sends(&goes, 100)?;
    let finished = one.interrupt()?;
    let summary = finished.summary()?;
    let queue = summary.queue.context("no word about the line")?;
    ensure!(queue.overflowed == 0 && queue.undelivered == 0, "{queue:?}");
    ensure!(summary.rule()?.fault == "delay" && summary.rule()?.injected.events >= 2 * SOME, "{summary:?}");
    stopped(goes)?;
    slow.is_not_held_back(7001)?;
    sends(&stays, 50)?;
    mostly_took(&stopped(stays)?, 300.0)?;
    two.interrupt()?;
    slower.is_not_held_back(7002)?;
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()?;
    drop((slow, slower));
    scene.end()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn no_delay_outlives_an_engine_that_is_killed() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let mut scene = engine_host::Scene::new()?;
    let ground = &scene.ground;
    let lanes = [Lane::new(&ground.target, &ground.netns)?, Lane::new(&scene.beside, &ground.netns)?];
    let (one, one_run) = scene.join("--delay 150ms", &ground.target)?;
    let (two, _) = scene.join("--delay 300ms --direction ingress", &scene.beside)?;
    mostly_took(&lanes[0].stream(7001)?, 150.0)?;
    mostly_took(&lanes[1].stream(7002)?, 300.0)?;
    scene.engine.signal(Signal::SIGKILL)?;
    for running in [one, two] {
        let error = running.finish()?.expect_status(1)?.error()?;
        ensure!(error.message.contains("has died"), "{error:?}");
    }
    wait_for("what was left to go", || Ok(scene.ground.check_clean().ok()))?;
    for lane in &lanes {
        lane.is_not_held_back(7001)?;
    }
    ensure!(!is_listed(&one_run)?, "a run is listed after its engine was killed");
    // Another engine takes the place of the one that is gone.
    let killed = std::mem::replace(&mut scene.engine, engine_host::engine(&scene.ground)?);
    killed.finish()?.expect_status(137)?;
    let (again, _) = scene.join("--delay 150ms", &scene.ground.target)?;
    mostly_took(&lanes[0].stream(7001)?, 150.0)?;
    again.interrupt()?;
    drop(lanes);
    scene.end()
}
