//! Delays of arriving packets of runs that share an engine: each is felt as from an engine of its own, and nobody else notices as
//! they come and go, also whose arriving packets are judged by other programs meanwhile.

use anyhow::{Result, ensure};
use chaos_userspace::inject::engine::Engine;
use chaos_userspace::plan::Plan;
use chaos_userspace::spec::network::{Direction, Effect, Fault, Match};
use integration_tests::board::Role;
use integration_tests::capability::delay_missing;
use integration_tests::engine_lane::{
    Lane, all, count, delay, join, lapsed, leave_lines, sends, shared, stays_total, stopped, took,
};
use integration_tests::engine_scene::{Scene, fault, planned};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::netns::NetNs;
use integration_tests::skip;

/// A run with an effect on packets of a direction.
fn with(effect: Effect, direction: Direction) -> Result<Plan> {
    planned(vec![Fault { direction, ..fault(effect, "100%", Match::default(), false)? }], None)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_waits_for_its_own_run_and_nobody_else_for_any() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let (scene, far) = (Scene::new()?, NetNs::new()?);
    let lane = |name: &str, netns| Lane::new(&scene.cgroup.child(name)?, netns);
    let (leaves, arrives) = (lane("leaves", &scene.netns)?, lane("arrives", &scene.netns)?);
    let (both, there) = (lane("both", &scene.netns)?, lane("there", &far)?);
    let mut bystander = scene.victim(&scene.cgroup.child("beside")?, 7009)?;
    let before = (scene.netns.furniture()?, far.furniture()?);
    let mut engine = Engine::open(&[], shared(&scene))?;

    // In one namespace, by the same engine: what leaves, what arrives, and both.
    let leaving = join(&mut engine, &all(&[delay(100)])?, &leaves.target)?;
    let alone = KernelObjects::now()?.since(&scene.objects);
    let arriving = join(&mut engine, &with(delay(200), Direction::Ingress)?, &arrives.target)?;
    let twice = join(&mut engine, &with(delay(300), Direction::Both)?, &both.target)?;
    let remote = join(&mut engine, &with(delay(400), Direction::Ingress)?, &there.target)?;
    for (lane, slot, ms) in [
        (&leaves, leaving, 100.0),
        (&arrives, arriving, 200.0),
        (&both, twice, 300.0),
        (&there, remote, 400.0),
    ] {
        let traffic = lane.stream(7001)?;
        took(&traffic, ms, lapsed(&engine, slot)?)?;
        // A packet between two sockets of a target waits once.
        ensure!(traffic.delays_ms[0] < ms + 100.0, "{ms} ms: {:?}", traffic.delays_ms);
    }

    // They go one by one, and who stays waits as before, each of its datagrams.
    let stays = arrives.start(7002, "")?;
    sends(&stays, 50)?;
    leave_lines(&mut engine, leaving)?;
    leaves.is_not_held_back(7001)?;
    leave_lines(&mut engine, twice)?;
    both.is_not_held_back(7001)?;
    sends(&stays, 50)?;
    took(&stopped(stays)?, 200.0, lapsed(&engine, arriving)?)?;
    engine.change(arriving, &with(delay(350), Direction::Ingress)?)?;
    took(&arrives.stream(7001)?, 350.0, lapsed(&engine, arriving)?)?;
    leave_lines(&mut engine, arriving)?;
    arrives.is_not_held_back(7001)?;
    took(&there.stream(7001)?, 400.0, lapsed(&engine, remote)?)?;

    // Devices that appear lead into lines as well, and nothing is left of them when they go.
    let leaving = join(&mut engine, &all(&[delay(100)])?, &there.target)?;
    // Those that were down, and a first one of those that come and go: its lines stay for the others.
    let (come, go) = ("link add come type veth peer name gone", "link del come");
    far.ip(come)?;
    engine.follow_devices()?;
    far.ip(go)?;
    engine.follow_devices()?;
    let steady = count(&KernelObjects::now()?.since(&scene.objects));
    far.ip(come)?;
    let attached = engine.follow_devices()?;
    ensure!(attached == 4, "{attached} programs on two new devices instead of two each");
    far.ip(go)?;
    ensure!(engine.follow_devices()? == 0, "devices that have gone");
    let now = count(&KernelObjects::now()?.since(&scene.objects));
    ensure!(now == steady, "{now:?} instead of {steady:?}");
    leave_lines(&mut engine, leaving)?;
    took(&there.stream(7001)?, 400.0, lapsed(&engine, remote)?)?;
    leave_lines(&mut engine, remote)?;
    there.is_not_held_back(7001)?;

    let again = join(&mut engine, &all(&[delay(100)])?, &leaves.target)?;
    let now = KernelObjects::now()?.since(&scene.objects);
    // Programs inside lines keep the globals that they came with.
    let count = |objects: &KernelObjects| (objects.programs.len(), objects.links.len());
    ensure!(count(&now) == count(&alone), "{now:?} instead of {alone:?}");
    leave_lines(&mut engine, again)?;
    let after = (scene.netns.furniture()?, far.furniture()?);
    ensure!(after == before, "left behind: {after:?} instead of {before:?}");
    ensure!(KernelObjects::now()?.since(&scene.objects).is_empty(), "an engine without runs has programs");
    bystander.stop(Role::Second)?;
    let traffic = Traffic::read(&bystander.board)?;
    traffic.check_unharmed()?;
    ensure!(traffic.median_ms()? < 100.0, "the bystander's: {:?}", traffic.delays_ms);
    ensure!(engine.close().problems.is_empty());
    Ok(())
}

/// What arrives is judged at the cgroup, and at the device while anybody's arriving packets are held back there.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_total_loss_of_what_arrives_stays_total_while_delays_come_and_go() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    stays_total(&with(Effect::Loss, Direction::Ingress)?, |turn| {
        with(delay(20), if turn % 2 == 0 { Direction::Ingress } else { Direction::Both })
    })
}
