//! One engine, one set of maps and programs, many runs: the library under the command line.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos_common::counter::Outcome;
use chaos_userspace::inject::engine::Engine;
use chaos_userspace::plan::Plan;
use chaos_userspace::spec::{corrupt::Corrupt, delay::Delay, network};
use integration_tests::board::Role;
use integration_tests::capability::{counts_exactly, delay_missing, has_tcx};
use integration_tests::cgroup::Cgroup;
use integration_tests::engine_scene::{
    Scene, fault, loses_more, loses_nothing, losing, lost, place, planned, target,
};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::patience::wait_until;
use integration_tests::spawn::Victim;

/// The most rules, with everything that can happen to a packet and everything that can be asked of it, and in the end one
/// that loses half.
fn everything() -> Result<Plan> {
    let (exact, held_back) = (counts_exactly(), delay_missing()?.is_none());
    let matches = network::Match {
        protocol: Some(network::Protocol::Udp),
        remote: vec!["127.0.0.0/8".parse()?, "::/0".parse()?],
        remote_except: vec!["127.9.0.0/16".parse()?],
        remote_ports: network::Ports { only: vec![7000..=7010], except: vec![] },
        local_ports: network::Ports { only: vec![1..=65_535], except: vec![9..=9] },
        names: vec![],
    };
    let mut kinds = vec![
        network::Effect::Loss,
        network::Effect::Reset,
        network::Effect::Duplicate,
        network::Effect::Corrupt(Corrupt::Detected),
        network::Effect::Corrupt(Corrupt::Payload),
    ];
    if exact {
        kinds.push(network::Effect::LossModel("gemodel:p=0.0001%".parse()?));
    }
    if held_back {
        kinds.push(network::Effect::Reorder);
    }
    let mut faults = vec![];
    if held_back {
        let delay = Delay { latency: Duration::from_millis(1), ..Delay::default() };
        faults.push(fault(network::Effect::Delay(delay), "1%", matches.clone(), false)?);
    }
    for number in faults.len()..63 {
        let effect = kinds[number % kinds.len()].clone();
        let mut one = fault(effect, "0%", matches.clone(), number % 2 == 0)?;
        one.per_flow &= !matches!(one.effect, network::Effect::LossModel(_));
        if exact && !one.per_flow && number % 3 == 0 {
            one.when.limit = Some(1_000_000);
            one.when.every = Some(2);
        }
        faults.push(one);
    }
    faults.push(fault(network::Effect::Loss, "50%", matches, false)?);
    planned(faults, exact.then_some(42))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn runs_of_one_engine_begin_and_end_on_their_own() -> Result<()> {
    let scene = Scene::new()?;
    let (first, second) = (scene.cgroup.child("first")?, scene.cgroup.child("second")?);
    let beside = scene.cgroup.child("beside")?;
    let mut victims =
        [scene.victim(&first, 7001)?, scene.victim(&second, 7002)?, scene.victim(&beside, 7003)?];
    let (plans, cgroups) =
        ([losing(&["40%"])?, losing(&["60%"])?], [target(first.path())?, target(second.path())?]);
    let placements = [place(&plans[0], &cgroups[0]), place(&plans[1], &cgroups[1])];
    let engine = Engine::open(&placements, scene.options())?;
    for victim in &victims {
        loses_nothing(victim, "a victim before the arming")?;
    }
    engine.arm(0);
    loses_more(&victims[0], "the first run's victim")?;
    loses_nothing(&victims[1], "the second run's victim before its arming")?;
    engine.arm(1);
    loses_more(&victims[1], "the second run's victim")?;
    engine.disarm(0);
    loses_nothing(&victims[0], "the first run's victim after its end")?;
    loses_more(&victims[1], "the second run's victim after the end of the first")?;
    let closed = engine.close();
    ensure!(closed.problems.is_empty() && closed.programs_left == 0, "{closed:?}");
    for (slot, victim) in victims[..2].iter().enumerate() {
        let injected = closed.counters[slot].outcomes[Outcome::Injected as usize].events;
        loses_nothing(victim, "a victim after the engine's end")?;
        // Taking the last clsact filter away costs packets of its own.
        let what = format!("the victim of run {slot} to have lost the {injected} injected");
        wait_until(&what, || injected == lost(victim) || (!has_tcx() && injected < lost(victim)))?;
    }
    ensure!(closed.finish(), "a cgroup was left that nobody made");
    victims[2].stop(Role::Second)?;
    Traffic::read(&victims[2].board)?.check_unharmed()?;
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

/// More targets than are compared with globals, at different levels, one below another.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn many_targets_at_different_levels() -> Result<()> {
    let scene = Scene::new()?;
    let mut cgroups = vec![];
    for number in 0..6 {
        let upper = scene.cgroup.child(&format!("upper{number}"))?;
        cgroups.push(upper.child("lower")?);
        cgroups.push(upper);
    }
    let spared = scene.cgroup.child("spared")?;
    let below_the_last = cgroups[10].child("deeper")?;
    let targets = cgroups.iter().map(|cgroup| target(cgroup.path())).collect::<Result<Vec<_>>>()?;
    let plans = (0..targets.len()).map(|_| losing(&["50%"])).collect::<Result<Vec<_>>>()?;
    let mut hit = [scene.victim(&cgroups[0], 7001)?, scene.victim(&cgroups[1], 7002)?];
    let mut deep = scene.victim(&below_the_last, 7003)?;
    let mut beside = scene.victim(&spared, 7004)?;
    let placements: Vec<_> = plans.iter().zip(&targets).map(|(plan, cgroup)| place(plan, cgroup)).collect();
    let engine = Engine::open(&placements, scene.options())?;
    for slot in 0..placements.len() {
        engine.arm(slot);
    }
    for victim in hit.iter().chain([&deep]) {
        loses_more(victim, "a victim of one of many targets")?;
    }
    loses_nothing(&beside, "the bystander")?;
    let closed = engine.close();
    // The lower target's packets are judged by its own rule first, by the upper one's only if they survived.
    let seen = |rule: usize| closed.counters[rule].outcomes[Outcome::Seen as usize].events;
    ensure!(seen(0) > 0 && seen(1) > seen(0), "{} and {} seen", seen(0), seen(1));
    for victim in hit.iter_mut().chain([&mut deep, &mut beside]) {
        victim.stop(Role::Second)?;
    }
    Traffic::read(&beside.board)?.check_unharmed()?;
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

/// The verifier of every kernel accepts the most rules, and the last one is reached.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_last_of_the_most_rules_is_reached() -> Result<()> {
    let scene = Scene::new()?;
    let cgroup = scene.cgroup.child("target")?;
    let mut victim = scene.victim(&cgroup, 7001)?;
    let mut shares = vec!["0%"; 64];
    shares[63] = "50%";
    reaches_the_last(&scene, &cgroup, &mut victim, &losing(&shares)?)?;
    victim.stop(Role::Second)?;
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

/// The same with every kind of packet fault and every match at once.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_last_rule_behind_lines_resets_and_corruption_is_reached() -> Result<()> {
    let scene = Scene::new()?;
    let cgroup = scene.cgroup.child("target")?;
    let mut victim = scene.victim(&cgroup, 7001)?;
    reaches_the_last(&scene, &cgroup, &mut victim, &everything()?)?;
    victim.stop(Role::Second)?;
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

fn reaches_the_last(scene: &Scene, cgroup: &Cgroup, victim: &mut Victim, plan: &Plan) -> Result<()> {
    let target = target(cgroup.path())?;
    let engine = Engine::open(&[place(plan, &target)], scene.options())?;
    engine.arm(0);
    loses_more(victim, "the victim of the last rule")?;
    let closed = engine.close();
    let count = |rule: usize, outcome: Outcome| closed.counters[rule].outcomes[outcome as usize].events;
    let injected = count(63, Outcome::Injected);
    let spared = count(63, Outcome::Chance);
    let reached = count(0, Outcome::Seen);
    // A packet on its way past the rules when the engine closes may not get to the last one.
    let on_its_way =
        reached.checked_sub(injected + spared).context("more came to the last rule than to the first")?;
    ensure!(injected > 20 && on_its_way <= 2, "{injected} lost and {spared} spared of {reached}");
    Ok(())
}
