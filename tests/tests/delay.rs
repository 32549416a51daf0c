//! Delayed packets as both ends feel them: as late as netem makes them, and nobody else's.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{delay_missing, has_tcx, netem_missing};
use integration_tests::cgroup::TestCgroup;
use integration_tests::held_back::{Scene, check_held_back, plain_stream, transfer};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{Traffic, both_ends_in_target, idle_ms, sender_in_target};
use integration_tests::measure::measure;
use integration_tests::netns::{NetNs, SENT_BYTES};
use integration_tests::patience::{monotonic_ns, wait_until};
use integration_tests::samples::{pace, packets};
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, FAR6, Kind, Pair, endpoint};
use nix::sys::signal::Signal;
use serde_json::json;

/// Emulated machines are slow: what a busy one may add to a delay.
const SLACK_MS: f64 = 15.0;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn datagrams_are_held_back_over_veth_and_lo_in_both_versions() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let before = scene.pair.near.furniture()?;
    for address in [FAR4, FAR6] {
        let to = endpoint(address, 7001)?;
        let run = sender_in_target("--delay 50ms", &scene.target, &to, 500, &scene.outside, "")?;
        check_held_back(&to, &run, 50.0)?;
    }
    for address in ["127.0.0.1", "::1"] {
        let to = endpoint(address, 7001)?;
        let run = both_ends_in_target("--delay 50ms", &scene.target, &to, 500, None)?;
        check_held_back(&to, &run, 50.0)?;
    }
    // What the summary calls undone is gone by then.
    let after = scene.pair.near.furniture()?;
    ensure!(after == before, "left behind: {after} instead of {before}");
    Ok(())
}
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_are_held_back_over_veth_and_lo_in_both_versions() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    for (receiver, address) in
        [(&scene.outside, FAR4), (&scene.outside, FAR6), (&scene.beside, "127.0.0.1"), (&scene.beside, "::1")]
    {
        let result = transfer(&scene, Some("--delay 50ms"), receiver, address, 100_000)?;
        let rtt_ms = result["rtt_us"].as_f64().context("no round trip time")? / 1e3;
        ensure!(
            (45.0..50.0 + 3.0 * SLACK_MS).contains(&rtt_ms),
            "{address}: {rtt_ms} ms round trip with 50 ms one way: {result}"
        );
        ensure!(result["delivered"] == 100_000, "{address}: {result}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn delays_add_up() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let before = scene.pair.near.furniture()?;
    let faults = "--delay 40ms --delay 60ms --delay 50ms";
    let mut runs = vec![];
    for address in [FAR4, FAR6] {
        let to = endpoint(address, 7001)?;
        runs.push(sender_in_target(faults, &scene.target, &to, 300, &scene.outside, "")?);
    }
    for address in ["127.0.0.1", "::1"] {
        runs.push(both_ends_in_target(faults, &scene.target, &endpoint(address, 7001)?, 300, None)?);
    }
    for run in &runs {
        run.traffic.check_unharmed()?;
        let least = run.traffic.delays_ms[0];
        ensure!((149.9..300.0).contains(&least), "{:?}", run.traffic.delays_ms);
        ensure!(run.summary.rules.len() == 3, "{:?}", run.summary.rules);
        for rule in &run.summary.rules {
            ensure!(
                rule.matched.events == run.traffic.sent && rule.injected == rule.matched,
                "{}: {rule:?}",
                run.traffic
            );
        }
        let queue = run.summary.queue.context("no word about the lines")?;
        ensure!(queue.overflowed == 0 && queue.undelivered == 0, "{queue:?}");
    }
    let after = scene.pair.near.furniture()?;
    ensure!(after == before, "left behind: {after} instead of {before}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_rarer_delay_adds_to_that_of_all() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let faults = "--delay 50ms --delay 100ms@20%";
    let run = scene.send(faults, packets(), pace())?;
    let [all, some] = &run.summary.rules[..] else {
        anyhow::bail!("{} rules instead of two", run.summary.rules.len())
    };
    ensure!(run.traffic.lost() == 0 && all.injected.events == run.traffic.sent, "{}: {all:?}", run.traffic);
    check_share("held back for longer", some.injected.events, run.traffic.sent, 0.2)?;
    ensure!(run.traffic.delays_ms[0] >= 49.9, "{:?}", run.traffic.delays_ms);
    let late = run.traffic.delays_ms.iter().filter(|delay| **delay >= 149.9).count();
    ensure!((12..=28).contains(&late), "{late} % were late: {:?}", run.traffic.delays_ms);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_tightest_rate_wins() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    // 1000 packets of 1500 bytes take 1.5 s at 8 Mbit/s, and the looser rates nothing beside.
    for faults in ["--rate 80mbit --rate 8mbit", "--rate 8mbit --rate 80mbit --delay 30ms"] {
        let run = scene.send(faults, 1_000, "--size 1458 --alone")?;
        ensure!(run.traffic.lost() == 0, "{}", run.traffic);
        let last_ms = run.traffic.delays_ms[100];
        measure("tightest_rate", json!({"faults": faults, "asked_ms": 1500.0, "last_delay_ms": last_ms}));
        // The sender may take a part of that time itself.
        ensure!(
            (1_000.0..1_500.0 * 1.1 + 30.0 + 2.0 * SLACK_MS).contains(&last_ms),
            "{faults}: {last_ms} ms"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_bystander_is_not_held_back() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    for faults in ["--delay 200ms", "--delay 150ms --delay 50ms"] {
        check_bystander(&scene, faults)?;
    }
    Ok(())
}

/// Faults that hold the target's packets back for 200 ms.
fn check_bystander(scene: &Scene, faults: &str) -> Result<()> {
    let to = endpoint(FAR4, 7001)?;
    let board = Arc::new(SharedBoard::create()?);
    let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
    let mut receiver = Victim::start_on(&scene.outside, &listen, Arc::clone(&board))?;
    receiver.ready()?;
    let words = format!("udp-send --to {to} --rate-per-ms 1 --alone");
    let mut running = Kchaos::exec_victim(faults, &words, &board)?.at(&scene.target).start()?;
    running.armed()?;
    wait_until("delayed datagrams", || board.datagrams.received.load(Acquire) > 50)?;
    let beside = plain_stream(&scene.beside, &scene.outside, &endpoint(FAR4, 7005)?, packets(), pace())?;
    board.stop.store(1, Release);
    running.finish()?.expect_status(0)?;
    receiver.finish(Role::Second)?;
    let target = Traffic::read(&board)?;
    beside.check_unharmed()?;
    ensure!(target.delays_ms[0] >= 199.9, "{:?}", target.delays_ms);
    // A busy machine keeps some waiting, but not most, and far from as long as the delay.
    ensure!(beside.delays_ms[90] < 100.0 && beside.median_ms()? < 10.0, "{:?}", beside.delays_ms);
    measure(
        "delay_bystander",
        json!({"bystander_ms": [beside.delays_ms[50], beside.delays_ms[99]], "target_ms": [target.delays_ms[50], target.delays_ms[99]]}),
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_share_is_held_back_and_overtaken() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let run = scene.send("--delay 100ms@20%", packets(), pace())?;
    let rule = run.summary.rule()?;
    ensure!(run.traffic.lost() == 0, "{}", run.traffic);
    check_share("held back", rule.injected.events, run.traffic.sent, 0.2)?;
    // Between the two crowds there is nobody: count by the percentiles on either side.
    let late = run.traffic.delays_ms.iter().filter(|delay| **delay >= 99.9).count();
    ensure!((12..=28).contains(&late), "{late} % were late: {:?}", run.traffic.delays_ms);
    ensure!(run.traffic.out_of_order > run.traffic.sent / 10, "{} out of order", run.traffic.out_of_order);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn reordered_datagrams_overtake() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let run = scene.send("--delay 50ms --reorder 25%", packets(), pace())?;
    let [reorder, delay] = &run.summary.rules[..] else {
        anyhow::bail!("{} rules instead of two", run.summary.rules.len())
    };
    check_share("reordered", reorder.injected.events, run.traffic.sent, 0.25)?;
    ensure!(delay.injected.events == run.traffic.sent - reorder.injected.events, "{reorder:?} {delay:?}");
    let early = run.traffic.delays_ms.iter().filter(|delay| **delay < 49.9).count();
    ensure!((17..=33).contains(&early), "{early} % were early: {:?}", run.traffic.delays_ms);
    ensure!(run.traffic.lost() == 0 && run.traffic.out_of_order > run.traffic.sent / 4, "{}", run.traffic);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn duplicates_are_held_back_too() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let run = scene.send("--delay 50ms --duplicate 30%", 1_000, "")?;
    let [duplicate, delay] = &run.summary.rules[..] else {
        anyhow::bail!("{} rules instead of two", run.summary.rules.len())
    };
    ensure!(run.traffic.lost() == 0, "{}", run.traffic);
    ensure!(
        run.traffic.duplicates == duplicate.injected.events && run.traffic.duplicates > 100,
        "{duplicate:?}"
    );
    ensure!(delay.injected.events == run.traffic.sent, "{delay:?}");
    ensure!(run.traffic.delays_ms[0] >= 49.9, "{:?}", run.traffic.delays_ms);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_is_lost_is_not_held_back() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let run = scene.send("--loss 30% --delay 20ms", packets(), "")?;
    let [loss, delay] = &run.summary.rules[..] else {
        anyhow::bail!("{} rules instead of two", run.summary.rules.len())
    };
    check_share("lost", run.traffic.lost(), run.traffic.sent, 0.3)?;
    ensure!(
        loss.injected.events == run.traffic.lost() && delay.injected.events == run.traffic.received,
        "{}: {loss:?} {delay:?}",
        run.traffic
    );
    ensure!(delay.spared["superseded"].events == run.traffic.lost(), "{delay:?}");
    ensure!(run.traffic.delays_ms[0] >= 19.9, "{:?}", run.traffic.delays_ms);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_rate_is_kept() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    // 1458 bytes of payload are 1500 on the wire: 1000 of them take 1.5 s at 8 Mbit/s.
    let begin_ns = monotonic_ns();
    let run = scene.send("--rate 8mbit", 1_000, "--size 1458 --alone")?;
    let total_ms = (monotonic_ns() - begin_ns) as f64 / 1e6;
    ensure!(run.traffic.lost() == 0, "{}", run.traffic);
    let last_ms = run.traffic.delays_ms[100];
    measure("rate", json!({"asked_ms": 1500.0, "last_delay_ms": last_ms}));
    ensure!(last_ms <= 1_500.0 * 1.1 + SLACK_MS && total_ms >= 1_400.0, "{last_ms} ms of {total_ms} ms");
    Ok(())
}

/// How often a rate is measured on a busy machine.
const ATTEMPTS: usize = 5;
/// How long a rate is measured, and how far from what was asked for it may be.
const RATE_SECONDS: f64 = 10.0;
const RATE_TOLERANCE: f64 = 0.02;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_rate_is_what_the_device_sends() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    // When, and how many bytes the near end has sent by then.
    let sent = || -> Result<(f64, u64)> {
        let bytes = scene.pair.near.counter("veth-near", SENT_BYTES)?;
        Ok((monotonic_ns() as f64 / 1e9, bytes))
    };
    let board = Arc::new(SharedBoard::create()?);
    let to = endpoint(FAR4, 7020)?;
    let mut receiver = Victim::start_on(
        &scene.outside,
        &format!("udp-recv --listen {to} --idle-ms {}", idle_ms()),
        Arc::clone(&board),
    )?;
    receiver.ready()?;
    // 12 Mbit/s are offered. A queue of 1000 packets is full after a moment, and lasts for 1.5 s of a machine's pause.
    let words = format!("udp-send --to {to} --size 1458 --rate-per-ms 1 --alone");
    let mut running =
        Kchaos::exec_victim("--rate 8mbit --queue 1000", &words, &board)?.at(&scene.target).start()?;
    running.armed()?;
    wait_until("a full queue", || board.datagrams.lost.load(Acquire) > 10)?;
    // A longer pause of the machine can only slow the device down; a wrong rate stays wrong.
    let mut attempts = vec![];
    let within = loop {
        let (begin, first) = sent()?;
        std::thread::sleep(std::time::Duration::from_secs_f64(RATE_SECONDS));
        let (end, last) = sent()?;
        let mbit = (last - first) as f64 * 8.0 / (end - begin) / 1e6;
        measure("rate_at_device", json!({"asked_mbit": 8.0, "mbit": mbit, "seconds": end - begin}));
        attempts.push(mbit);
        if (mbit / 8.0 - 1.0).abs() <= RATE_TOLERANCE {
            break true;
        }
        if attempts.len() == ATTEMPTS {
            break false;
        }
    };
    board.stop.store(1, Release);
    running.finish()?.expect_status(0)?;
    receiver.finish(Role::Second)?;
    ensure!(within, "{attempts:?} Mbit/s instead of 8");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_a_line_takes_from_packets_is_said() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    scene.pair.near.run("tc", "qdisc add dev veth-near root handle 1: htb default 1")?;
    scene.pair.near.run("tc", "qdisc add dev veth-near clsact")?;
    scene.pair.near.run("tc", "filter add dev veth-near egress matchall action ok")?;
    let said = |faults: &str| -> Result<String> {
        Ok(Kchaos::exec(faults, &["true"]).at(&scene.target).run()?.expect_status(0)?.text())
    };
    let warned = said("--delay 10ms")?;
    ensure!(warned.contains("htb on veth-near"), "{warned}");
    ensure!(warned.contains("egress filters on veth-near (matchall)"), "{warned}");
    let silent = said("--loss 5%")?;
    ensure!(!silent.contains("veth-near"), "{silent}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_tunnel_with_many_ends_is_refused_by_name() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    if let Err(said) = scene.pair.near.try_run("ip", "link add many7 type ipip local 10.77.0.1")? {
        skip!("no ipip: {said}");
    }
    let exec = |faults: &str| Kchaos::exec(faults, &["true"]).at(&scene.target).run();
    // While it is down, no packet can leave it.
    exec("--delay 10ms")?.expect_status(0)?;
    scene.pair.near.ip("link set many7 up")?;
    let refused = exec("--delay 10ms")?;
    refused.expect_status(125)?;
    let error = refused.error()?;
    ensure!(error.code == 8 && error.message.contains("many7"), "{error:?}");
    exec("--loss 5%")?.expect_status(0)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn on_stacked_devices_a_packet_is_held_back_once() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    for kind in [Kind::Bridge, Kind::Vlan, Kind::Vxlan] {
        let Ok(pair) = Pair::new(kind)? else { continue };
        let scene = Scene::new(pair)?;
        for address in [FAR4, FAR6] {
            let to = endpoint(address, 7001)?;
            let run = sender_in_target("--delay 150ms", &scene.target, &to, 300, &scene.outside, "")?;
            check_held_back(&format!("{kind:?} {to}"), &run, 150.0)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn kill_9_leaves_neither_devices_nor_delay() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?;
    let target = cgroup.runner()?.in_netns(&netns);
    for attempt in 0..3 {
        let (furniture, before) = (netns.furniture()?, KernelObjects::now()?);
        let board = Arc::new(SharedBoard::create()?);
        let to = endpoint("127.0.0.1", 7010 + attempt)?;
        let words = format!("udp-pair --to {to} --rate-per-ms 3 --alone");
        let mut running = Kchaos::exec_victim("--delay 100ms", &words, &board)?.at(&target).start()?;
        running.armed()?;
        wait_until("delayed datagrams", || board.datagrams.received.load(Acquire) > 100)?;
        ensure!(netns.furniture()? != furniture, "there is no line");
        let objects = KernelObjects::now()?.since(&before);
        running.signal(Signal::SIGKILL)?;
        let kill_ns = monotonic_ns();
        let gone = wait_until("devices to be as before", || netns.furniture().is_ok_and(|f| f == furniture))?;
        let objects_gone = objects.wait_gone()?;
        let received = board.datagrams.received.load(Acquire);
        wait_until("datagrams to pass", || board.datagrams.received.load(Acquire) > received + 100)?;
        let last_lost_ms = (board.datagrams.last_lost_sent_ns.load(Acquire) as f64 - kill_ns as f64) / 1e6;
        board.stop.store(1, Release);
        measure(
            "delay_kill_9",
            json!({"devices_gone_ms": gone.as_secs_f64() * 1e3, "objects_gone_ms": objects_gone.as_secs_f64() * 1e3,
                "last_lost_ms": last_lost_ms}),
        );
        ensure!(last_lost_ms < 1_000.0, "packets got lost for {last_lost_ms} ms");
        drop(running);
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_its_parts_a_delay_is_refused() -> Result<()> {
    if delay_missing()?.is_none() {
        skip!("everything is there");
    }
    let cgroup = TestCgroup::new()?;
    let finished =
        Kchaos::exec("--delay 10ms", &["true"]).at(&Place::default().in_cgroup(cgroup.root())).run()?;
    finished.expect_status(125)?;
    let error = finished.error()?;
    let word = if !has_tcx() { "6.6" } else { "sch_netem" };
    ensure!(netem_missing()?.is_some() || !has_tcx());
    ensure!(error.code == 8 && error.message.contains(word), "{error:?}");
    Ok(())
}
