//! Runs that come to an engine and go while others live: nobody but them notices.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use chaos_common::counter::{Outcome, RuleCounters};
use chaos_userspace::host::cgroup::Cgroup as TargetCgroup;
use chaos_userspace::inject::bpf;
use chaos_userspace::inject::engine::{Engine, Options};
use chaos_userspace::plan::Plan;
use chaos_userspace::spec::{Fault, network};
use integration_tests::board::Role;
use integration_tests::capability::{counts_exactly, delay_missing, fails_syscalls, has_tcx, on_host};
use integration_tests::cgroup::Cgroup;
use integration_tests::engine_scene::{
    Scene, fault, loses_more, loses_nothing, losing, place, planned, planned_of, target,
};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::patience::wait_until;
use integration_tests::samples::full;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::tasks::read_tasks;
use serde_json::json;

/// Runs that come and go in a row: as many as there are kinds of them where that takes long.
fn turns() -> usize {
    if full() || on_host() { 20 } else { 6 }
}

fn shared(scene: &Scene) -> Options<'_> {
    Options { shared_as: Some("test-engine"), ..scene.options() }
}

fn count(counters: &RuleCounters, outcome: Outcome) -> u64 {
    counters.outcomes[outcome as usize].events
}

/// A run that came, with what it is to do to a victim that sends itself datagrams.
fn join(engine: &mut Engine, plan: &Plan, cgroup: &TargetCgroup) -> Result<usize> {
    let slot = engine.add_run(&place(plan, cgroup))?;
    engine.arm(slot);
    Ok(slot)
}

/// Ends it; its counters.
fn leave(engine: &mut Engine, slot: usize) -> Result<Vec<RuleCounters>> {
    let closed = engine.remove_run(slot).context("there is no such run")?;
    ensure!(closed.problems.is_empty() && closed.programs_left == 0, "{closed:?}");
    ensure!(engine.remove_run(slot).is_none(), "a run went twice");
    Ok(closed.counters)
}

/// Half of the datagrams, by rules that need ever other programs: plain ones, ports and addresses, whole flows, changed
/// packets, more rules, arriving packets.
fn half(turn: usize) -> Result<Plan> {
    use network::Effect::{Duplicate, Loss, Reset};
    let all = network::Match::default;
    let udp = || -> Result<_> {
        Ok(network::Match {
            protocol: Some(network::Protocol::Udp),
            remote: vec!["127.0.0.0/8".parse()?],
            remote_except: vec!["127.9.0.0/16".parse()?],
            remote_ports: network::Ports { only: vec![7000..=7100], except: vec![] },
            ..all()
        })
    };
    match turn % 6 {
        0 => losing(&["50%"]),
        1 => planned(vec![fault(Loss, "50%", udp()?, false)?], None),
        2 => losing(&["0%", "0%", "0%", "0%", "0%", "0%", "0%", "0%", "0%", "50%"]),
        3 => {
            let faults = [(Duplicate, "1%"), (Reset, "1%"), (Loss, "50%")];
            let faults = faults.map(|(effect, share)| fault(effect, share, all(), false));
            planned(faults.into_iter().collect::<Result<_>>()?, None)
        }
        4 if counts_exactly() => planned(vec![fault(Loss, "50%", all(), false)?], Some(7)),
        _ => {
            let mut arriving = fault(Loss, "50%", all(), false)?;
            arriving.direction = network::Direction::Ingress;
            planned(vec![arriving], None)
        }
    }
}

/// The first run's victim loses everything, whatever comes and goes.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_total_loss_stays_total_while_others_come_and_go() -> Result<()> {
    let scene = Scene::new()?;
    let (first, upper) = (scene.cgroup.child("first")?, scene.cgroup.child("upper")?);
    let (second, beside) = (upper.child("second")?, scene.cgroup.child("beside")?);
    let mut other = scene.victim(&second, 7002)?;
    let mut bystander = scene.victim(&beside, 7003)?;
    let (first, second) = (target(first.path()).map(|one| (first, one))?, target(second.path())?);
    // Its packets are judged on the devices of its processes.
    let place_of_first = Place::default().in_cgroup(&first.0).in_netns(&scene.netns);
    let _somebody = Victim::start(&place_of_first, "calls --call openat --wait")?;
    let mut engine = Engine::open(&[], shared(&scene))?;
    ensure!(KernelObjects::now()?.since(&scene.objects).is_empty(), "an engine without runs has programs");
    let all = losing(&["100%"])?;
    let slot = join(&mut engine, &all, &first.1)?;
    let mut victim = Victim::start(&place_of_first, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 3 --alone")?;
    victim.ready()?;
    let alone = KernelObjects::now()?.since(&scene.objects);
    let sent = || victim.board.datagrams.sent.load(Acquire);
    let goes_on = || {
        let before = sent();
        wait_until("datagrams to be sent", || sent() > before + 30)
    };
    for turn in 0..turns() {
        let joined = join(&mut engine, &half(turn)?, &second)?;
        loses_more(&other, "the victim of the run that came")?;
        goes_on()?;
        let counters = leave(&mut engine, joined)?;
        let injected = counters.last().map(|last| count(last, Outcome::Injected));
        ensure!(injected.is_some_and(|injected| injected > 10), "turn {turn}: {counters:?}");
        loses_nothing(&other, "the victim of the run that went")?;
        goes_on()?;
        let received = victim.board.datagrams.received.load(Acquire);
        // An owner that is not run for a second lets go, which counts.
        let lapsed = count(&engine.account_of(slot)?.0[0], Outcome::Lease);
        ensure!(
            received <= lapsed,
            "turn {turn}: {received} of {} datagrams got through, {lapsed} of them without a lease",
            sent()
        );
        let now = KernelObjects::now()?.since(&scene.objects);
        ensure!(
            (now.programs.len(), now.links.len()) == (alone.programs.len(), alone.links.len()),
            "turn {turn}: {now:?} instead of {alone:?}"
        );
    }
    // All of its packets were judged, each once.
    let counters = leave(&mut engine, slot)?;
    let counted = |outcome| count(&counters[0], outcome);
    let (seen, injected, lapsed) =
        (counted(Outcome::Seen), counted(Outcome::Injected), counted(Outcome::Lease));
    measure("lapsed", json!({"packets": lapsed}));
    ensure!(seen == injected + lapsed, "{injected} of {seen} packets lost by a total loss, {lapsed} spared");
    loses_nothing(&victim, "the first run's victim after its end")?;
    victim.stop(Role::Second)?;
    let arrived = Traffic::read(&victim.board)?;
    // Taking the last clsact filter away costs packets of its own.
    ensure!(
        arrived.lost() == injected || (!has_tcx() && arrived.lost() > injected),
        "{} datagrams lost, {injected} injected",
        arrived.lost()
    );
    other.stop(Role::Second)?;
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()?;
    KernelObjects::now()?.since(&scene.objects).wait_gone()?;
    ensure!(engine.close().finish(), "a cgroup was left that nobody made");
    Ok(())
}

/// What one run has lost the later one does not see.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn runs_on_one_target_are_judged_in_the_order_in_which_they_came() -> Result<()> {
    let scene = Scene::new()?;
    let cgroup = scene.cgroup.child("target")?;
    let mut victim = scene.victim(&cgroup, 7001)?;
    let target = target(cgroup.path())?;
    let mut engine = Engine::open(&[], shared(&scene))?;
    // So that there are numbers before those of the first run, which the second one must not get.
    let passing = join(&mut engine, &losing(&["0%", "0%"])?, &target)?;
    let first = join(&mut engine, &losing(&["50%"])?, &target)?;
    leave(&mut engine, passing)?;
    let second = join(&mut engine, &losing(&["100%"])?, &target)?;
    let received = || victim.board.datagrams.received.load(Acquire);
    let injected = |engine: &Engine, slot: usize| -> Result<u64> {
        Ok(count(&engine.account_of(slot)?.0[0], Outcome::Injected))
    };
    let before = received();
    wait_until("both runs to hit", || {
        let hits = |slot| injected(&engine, slot).is_ok_and(|hits| hits > 100);
        hits(first) && hits(second)
    })?;
    let got_through = received() - before;
    let counters = leave(&mut engine, second)?;
    let of_second = |outcome| count(&counters[0], outcome);
    // An owner that is not run for a second lets go, which an emulated machine cannot rule out.
    let (superseded, lapsed) = (of_second(Outcome::Superseded), of_second(Outcome::Lease));
    ensure!(
        superseded > 50 && superseded + of_second(Outcome::Injected) + lapsed == of_second(Outcome::Seen),
        "{counters:?} of the second run"
    );
    // On their way when the run came.
    ensure!(
        got_through <= 2 + lapsed,
        "{got_through} datagrams got through a total loss, {lapsed} of them without a lease"
    );
    let before = received();
    wait_until("datagrams to arrive again", || received() > before + 100)?;
    loses_more(&victim, "the victim of the run that stays")?;
    leave(&mut engine, first)?;
    loses_nothing(&victim, "the victim of no run")?;
    victim.stop(Role::Second)?;
    ensure!(engine.close().problems.is_empty());
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

fn failing(fault: &str) -> Result<Plan> {
    planned_of(vec![Fault::Syscall(Box::new(fault.parse()?))], None)
}

/// Calls that always fail go on doing so, while runs come and go that need other programs on the same functions.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_that_always_fail_do_so_while_others_come_and_go() -> Result<()> {
    if !fails_syscalls()? {
        skip!("needs error injection, kprobe override, or trampolines");
    }
    let scene = Scene::new()?;
    let words = "calls --call openat --wait --no-controls --pause-us 100";
    let cgroups = ["first", "second", "beside"].map(|name| scene.cgroup.child(name));
    let cgroups: Vec<Cgroup> = cgroups.into_iter().collect::<Result<_>>()?;
    let mut victims = vec![];
    for cgroup in &cgroups {
        let mut victim = Victim::start(&Place::default().in_cgroup(cgroup), words)?;
        victim.ready()?;
        victims.push(victim);
    }
    let calls = |victim: &Victim| victim.board.tasks[0].calls.load(Acquire);
    let felt =
        |victim: &Victim, errno: &str| read_tasks(&victim.board).first().map_or(0, |task| task.errno(errno));
    let (first, second) = (target(cgroups[0].path())?, target(cgroups[1].path())?);
    let mut engine = Engine::open(&[], shared(&scene))?;
    let slot = join(&mut engine, &failing("openat=EIO@100%")?, &first)?;
    victims.iter().for_each(|victim| victim.board.go.store(1, Release));
    wait_until("calls to fail", || felt(&victims[0], "EIO") > 0)?;
    let faults = [
        "openat=ENOSPC@50%",
        "openat=ENOSPC@50%,path=!/nowhere/*",
        "openat=ENOSPC@50%,uid=0",
        "openat=ENOSPC:1,EDQUOT:1@90%",
        "openat=ENOSPC@50%,comm=!nobody*",
    ];
    for turn in 0..turns() {
        let joined = join(&mut engine, &failing(faults[turn % faults.len()])?, &second)?;
        let before = felt(&victims[1], "ENOSPC");
        wait_until("the joined run's calls to fail", || felt(&victims[1], "ENOSPC") > before)?;
        let counters = leave(&mut engine, joined)?;
        ensure!(count(&counters[0], Outcome::Injected) > 0, "turn {turn}: {counters:?}");
        let (failed, made) = (felt(&victims[1], "ENOSPC"), calls(&victims[1]));
        wait_until("calls that pass", || calls(&victims[1]) > made + 10)?;
        let now = felt(&victims[1], "ENOSPC");
        ensure!(now <= failed + 1, "turn {turn}: {now} instead of {failed} calls failed after the end");
    }
    victims[0].stop(Role::First)?;
    let tasks = read_tasks(&victims[0].board);
    let closed = engine.remove_run(slot).context("there is no such run")?;
    let missed = closed.missed[0];
    // An owner that is not run for a second lets go, which counts.
    let lapsed = count(&closed.counters[0], Outcome::Lease);
    ensure!(
        tasks[0].succeeded <= missed + lapsed,
        "{missed} calls were not seen, {lapsed} without a lease, but {tasks:?}; {:?}",
        closed.counters
    );
    let injected = count(&closed.counters[0], Outcome::Injected);
    // Of a call that was passing between two sets of programs both may have told.
    ensure!(
        injected >= tasks[0].errno("EIO") && injected <= tasks[0].errno("EIO") + turns() as u64,
        "{injected} injected, {tasks:?}"
    );
    victims[1].stop(Role::First)?;
    victims[2].stop(Role::First)?;
    let spared = read_tasks(&victims[2].board);
    ensure!(spared[0].calls == spared[0].succeeded && spared[0].calls > 100, "the bystander: {spared:?}");
    ensure!(engine.close().problems.is_empty());
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

/// Nanoseconds that the program on devices takes for a packet of somebody else: the least of many measurements.
fn cost_for_others(objects: &KernelObjects) -> Result<f64> {
    const REPEAT: u32 = 100_000;
    let programs = loaded_programs().flatten();
    let mut ours = programs.filter(|program| objects.programs.contains(&program.id()));
    let egress = ours.find(|program| program.name() == b"kc_net_egress").context("no program on devices")?;
    let egress = egress.fd().context("opening the program")?;
    let mut least = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        bpf::run_on_packet(egress.as_fd(), &[0; 64], REPEAT).context("running the program")?;
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(REPEAT));
    }
    Ok(least)
}

/// As many programs on devices and functions for fifty runs as for one.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn many_runs_cost_others_what_one_does() -> Result<()> {
    // Each takes an emulated machine seconds.
    let runs: usize = if full() || on_host() { 50 } else { 6 };
    let scene = Scene::new()?;
    let cgroups =
        (0..runs).map(|run| scene.cgroup.child(&format!("run{run}"))).collect::<Result<Vec<_>>>()?;
    let beside = scene.cgroup.child("beside")?;
    let hit = [0, runs / 2, runs - 1];
    let mut victims = vec![];
    // Packets of targets without processes are judged on the devices of our own namespace as well.
    let mut somebody = vec![];
    for cgroup in cgroups.iter().enumerate().filter(|(run, _)| !hit.contains(run)).map(|(_, cgroup)| cgroup) {
        let place = Place::default().in_cgroup(cgroup).in_netns(&scene.netns);
        somebody.push(Victim::start(&place, "calls --call openat --wait")?);
    }
    for (number, run) in hit.iter().enumerate() {
        victims.push(scene.victim(&cgroups[*run], 7001 + number as u16)?);
    }
    let mut bystander = scene.victim(&beside, 7010)?;
    let targets = cgroups.iter().map(|cgroup| target(cgroup.path())).collect::<Result<Vec<_>>>()?;
    let plan = losing(&["40%"])?;
    let mut engine = Engine::open(&[], shared(&scene))?;
    let mut slots = vec![join(&mut engine, &plan, &targets[0])?];
    let with_one = KernelObjects::now()?.since(&scene.objects);
    let cost_of_one = cost_for_others(&with_one)?;
    for target in &targets[1..] {
        slots.push(join(&mut engine, &plan, target)?);
    }
    let with_all = KernelObjects::now()?.since(&scene.objects);
    // Links of the targets' own cgroups run for nobody else.
    ensure!(
        with_one.programs.len() == with_all.programs.len()
            && with_one.maps.len() == with_all.maps.len()
            && with_one.links.len() + runs - 1 == with_all.links.len(),
        "{with_all:?} for {runs} runs, {with_one:?} for one"
    );
    let cost_of_all = cost_for_others(&with_all)?;
    measure("engine_cost", json!({"runs": runs, "ns_one": cost_of_one, "ns_all": cost_of_all}));
    let on_devices =
        engine.attachments().iter().filter(|what| what.contains("tcx") || what.contains("clsact")).count();
    ensure!(on_devices == 1, "{:?}", engine.attachments());
    for (victim, run) in victims.iter().zip(hit) {
        loses_more(victim, &format!("the victim of run {run}"))?;
    }
    ensure!(engine.slots().len() == runs, "{:?}", engine.slots());
    // Every other one goes, and what is left still hits.
    for slot in slots.iter().skip(1).step_by(2) {
        leave(&mut engine, *slot)?;
    }
    for (victim, run) in victims.iter().zip(hit) {
        match run % 2 {
            0 => loses_more(victim, &format!("the victim of run {run}"))?,
            _ => loses_nothing(victim, &format!("the victim of run {run}, which has ended"))?,
        }
    }
    if full() || on_host() {
        let mut one_too_many = 0;
        let refused = loop {
            match engine.add_run(&place(&plan, &targets[1])) {
                Ok(_) => one_too_many += 1,
                Err(error) => break error.to_string(),
            }
        };
        ensure!(one_too_many > 10 && refused.contains("above the limit of"), "{one_too_many}: {refused}");
    }
    ensure!(engine.close().problems.is_empty());
    for victim in &mut victims {
        loses_nothing(victim, "a victim after the engine's end")?;
        victim.stop(Role::Second)?;
    }
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()?;
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

/// What cannot be shared is refused by name, and nothing is changed by it.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_cannot_be_shared_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let (upper, beside) = (scene.cgroup.child("upper")?, scene.cgroup.child("beside")?);
    let (lower, victim) = (target(upper.child("lower")?.path())?, scene.victim(&upper, 7001)?);
    let (upper, beside) = (target(upper.path())?, target(beside.path())?);
    let mut arriving = fault(network::Effect::Loss, "30%", network::Match::default(), false)?;
    arriving.direction = network::Direction::Ingress;
    let arriving = planned(vec![arriving], None)?;
    let mut engine = Engine::open(&[place(&arriving, &upper)], shared(&scene))?;
    engine.arm(0);
    loses_more(&victim, "the victim")?;
    let before = KernelObjects::now()?.since(&scene.objects);
    let mut refused = |what: &str, placement| -> Result<()> {
        let error = engine.add_run(&placement).err().with_context(|| format!("not refused: {what}"))?;
        let error = error.to_string();
        ensure!(error.contains(what) && error.contains("engine of its own"), "{error}");
        let now = KernelObjects::now()?.since(&scene.objects);
        ensure!(now == before, "{what}: {now:?} instead of {before:?}");
        Ok(())
    };
    refused("above or below a target", place(&arriving, &lower))?;
    let mut command = place(&arriving, &beside);
    command.await_exec = true;
    refused("a command", command)?;
    if delay_missing()?.is_none() {
        let delay = chaos_userspace::spec::delay::Delay {
            latency: std::time::Duration::from_millis(1),
            ..Default::default()
        };
        let effect = network::Effect::Delay(delay);
        let mut late = fault(effect, "100%", network::Match::default(), false)?;
        late.direction = network::Direction::Ingress;
        let late = planned(vec![late], None)?;
        refused("above or below a target", place(&late, &lower))?;
    }
    loses_more(&victim, "the victim of the run that is there")?;
    ensure!(engine.close().problems.is_empty());
    let alone = losing(&["1%"])?;
    let mut engine = Engine::open(&[place(&alone, &upper)], scene.options())?;
    let error =
        engine.add_run(&place(&alone, &beside)).err().context("an engine of one run took another one")?;
    ensure!(error.to_string().contains("opened with"), "{error}");
    drop(engine);
    drop(victim);
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}

/// Descriptors, and memory in KiB, of this process.
fn own() -> Result<(usize, u64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let memory = memory.and_then(|text| text.trim().split(' ').next()).context("no RssAnon")?.parse()?;
    Ok((std::fs::read_dir("/proc/self/fd")?.count(), memory))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_grows_by_runs_that_come_and_go() -> Result<()> {
    let turns = match (full(), on_host()) {
        (true, _) => 10_000,
        (false, true) => 200,
        // An emulated machine is some twenty times slower.
        (false, false) => 12,
    };
    let scene = Scene::new()?;
    let (first, second) = (scene.cgroup.child("first")?, scene.cgroup.child("second")?);
    let victim = scene.victim(&first, 7001)?;
    let (first, second) = (target(first.path())?, target(second.path())?);
    let mut engine = Engine::open(&[], shared(&scene))?;
    join(&mut engine, &losing(&["30%"])?, &first)?;
    let plans = (0..6).map(half).collect::<Result<Vec<_>>>()?;
    let mut turn = |turn: usize| -> Result<()> {
        let joined = join(&mut engine, &plans[turn % plans.len()], &second)?;
        leave(&mut engine, joined).map(drop)
    };
    // What is read once and kept.
    (0..12).try_for_each(&mut turn)?;
    let ((fds, memory), objects) = (own()?, KernelObjects::now()?.since(&scene.objects));
    let start = Instant::now();
    (0..turns / 2).try_for_each(&mut turn)?;
    let memory_half = own()?.1;
    (turns / 2..turns).try_for_each(&mut turn)?;
    let took = start.elapsed();
    let ((fds_now, memory_now), objects_now) = (own()?, KernelObjects::now()?.since(&scene.objects));
    measure(
        "engine_turns",
        json!({"turns": turns, "ms_each": took.as_secs_f64() * 1e3 / turns as f64, "kib_before": memory, "kib_half": memory_half,
            "kib_after": memory_now}),
    );
    ensure!(fds_now == fds, "{fds_now} descriptors after {turns} turns, {fds} before");
    // The allocator takes what it needs for the largest turn, and then no more.
    ensure!(memory_half < memory + 4096, "{memory_half} KiB after {turns} / 2 turns, {memory} before");
    ensure!(memory_now < memory_half + 512, "{memory_now} KiB after {turns} turns, {memory_half} after half");
    let counts = |objects: &KernelObjects| (objects.programs.len(), objects.links.len(), objects.maps.len());
    ensure!(counts(&objects_now) == counts(&objects), "{objects_now:?} instead of {objects:?}");
    loses_more(&victim, "the victim of the run that stays")?;
    ensure!(engine.close().problems.is_empty());
    drop(victim);
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(|_| ())
}
