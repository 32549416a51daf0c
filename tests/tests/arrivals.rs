//! Arriving packets that are held back: as late as was asked for, once, and nobody else's.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{delay_missing, has_posix_timers};
use integration_tests::held_back::{Scene, check_held_back, plain_stream};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{both_ends_in_target, idle_ms, receiver_in_target};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::samples::packets;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, FAR6, Kind, NEAR4, NEAR6, Pair, endpoint};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const DELAY: &str = "--delay 150ms --direction ingress";
const HELD_BACK_MS: f64 = 150.0;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn datagrams_wait_over_veth_and_lo_in_both_versions() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let before = scene.pair.near.furniture()?;
    for address in [NEAR4, NEAR6] {
        let to = endpoint(address, 7001)?;
        let run = receiver_in_target(DELAY, &scene.target, &to, 300, &scene.outside)?;
        check_held_back(&to, &run, HELD_BACK_MS)?;
    }
    // Between two sockets of the target, a packet that was held back as it left has been judged when it arrives.
    for (address, direction) in
        [("127.0.0.1", "ingress"), ("::1", "ingress"), ("127.0.0.1", "both"), ("::1", "both")]
    {
        let to = endpoint(address, 7001)?;
        let faults = format!("--delay 150ms --direction {direction}");
        let run = both_ends_in_target(&faults, &scene.target, &to, 300, None)?;
        check_held_back(&format!("{direction} {to}"), &run, HELD_BACK_MS)?;
    }
    let after = scene.pair.near.furniture()?;
    ensure!(after == before, "left behind: {after} instead of {before}");
    Ok(())
}

/// A connection whose one end is in the target; what the sender reports.
fn transfer(scene: &Scene, faults: &str, address: &str, target_listens: bool) -> Result<Value> {
    let to = endpoint(address, 7002)?;
    let board = Arc::new(SharedBoard::create()?);
    let (listen, send) = (format!("tcp-recv --listen {to}"), format!("tcp-send --to {to} --bytes 100000"));
    let loopback = address == "127.0.0.1" || address == "::1";
    let other = if loopback { &scene.beside } else { &scene.outside };
    if target_listens {
        let running = Kchaos::exec_victim(faults, &listen, &board)?.at(&scene.target).start()?;
        Victim::start_on(other, &send, Arc::clone(&board))?.finish(Role::First)?;
        running.finish()?.expect_status(0)?;
    } else {
        let mut receiver = Victim::start_on(other, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        Kchaos::exec_victim(faults, &send, &board)?.at(&scene.target).run()?.expect_status(0)?;
        receiver.finish(Role::Second)?;
    }
    board.result(Role::First)?.context("the sender left no result")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_wait_at_either_end() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    for (faults, listens, address, ms) in [
        ("--delay 100ms --direction ingress", true, NEAR4, 100.0),
        ("--delay 100ms --direction ingress", true, NEAR6, 100.0),
        ("--delay 100ms --direction ingress", false, FAR4, 100.0),
        ("--delay 100ms --direction ingress", false, FAR6, 100.0),
        ("--delay 100ms --direction ingress", true, "127.0.0.1", 100.0),
        ("--delay 100ms --direction ingress", true, "::1", 100.0),
        ("--delay 100ms --direction both", false, FAR4, 200.0),
        ("--delay 60ms --delay 40ms --direction ingress", true, NEAR4, 100.0),
    ] {
        let result = transfer(&scene, faults, address, listens)?;
        let rtt_ms = result["rtt_us"].as_f64().context("no round trip time")? / 1e3;
        // A busy machine can only add, and to the mean even more: that packets wait once is shown by datagrams.
        ensure!((0.9 * ms..ms + 1_000.0).contains(&rtt_ms), "{faults} {address}: {rtt_ms} ms: {result}");
        ensure!(result["delivered"] == 100_000, "{faults} {address}: {result}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_is_lost_is_not_held_back() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let faults = "--loss 30% --delay 20ms --direction ingress";
    let to = endpoint(NEAR4, 7001)?;
    let run = receiver_in_target(faults, &scene.target, &to, packets(), &scene.outside)?;
    let [loss, delay] = &run.summary.rules[..] else {
        anyhow::bail!("{} rules instead of two", run.summary.rules.len())
    };
    check_share("lost", run.traffic.lost(), run.traffic.sent, 0.3)?;
    ensure!(
        loss.injected.events == run.traffic.lost() && delay.injected.events == run.traffic.received,
        "{}: {loss:?} {delay:?}",
        run.traffic
    );
    ensure!(run.traffic.delays_ms[0] >= 19.9, "{:?}", run.traffic.delays_ms);
    run.traffic.check_silent()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn on_stacked_devices_a_packet_waits_once() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    for kind in [Kind::Bridge, Kind::Vlan, Kind::Vxlan, Kind::Macvlan] {
        let Ok(pair) = Pair::new(kind)? else { continue };
        let scene = Scene::new(pair)?;
        for address in [NEAR4, NEAR6] {
            let to = endpoint(address, 7001)?;
            let run = receiver_in_target(DELAY, &scene.target, &to, 100, &scene.outside)?;
            check_held_back(&format!("{kind:?} {to}"), &run, HELD_BACK_MS)?;
        }
    }
    Ok(())
}

/// A bystander on the same device, and packets that are only passed on to a port that a socket of the target has.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nobody_else_waits_and_kill_9_leaves_nothing() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let behind = NetNs::new()?;
    let near = &scene.pair.near;
    near.ip(&format!("link add veth-on type veth peer name veth-end netns {}", behind.path().display()))?;
    near.ip_batch(&["link set veth-on up".into(), "addr add 10.78.0.1/24 dev veth-on".into()])?;
    behind.ip_batch(&[
        "link set veth-end up".into(),
        "addr add 10.78.0.2/24 dev veth-end".into(),
        "route add default via 10.78.0.1".into(),
    ])?;
    scene.pair.far.ip(&format!("route add 10.78.0.0/24 via {NEAR4}"))?;
    near.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
    let further = Place::default().in_netns(&behind);
    plain_stream(&scene.outside, &further, &endpoint("10.78.0.2", 7009)?, 20, "")?.check_unharmed()?;
    let (furniture, before) = (near.furniture()?, KernelObjects::now()?);

    // The target takes what comes for any address on the port that the others use.
    let board = Arc::new(SharedBoard::create()?);
    let listen = format!("udp-recv --listen 0.0.0.0:7009 --idle-ms {}", idle_ms());
    let mut running = Kchaos::exec_victim(DELAY, &listen, &board)?.at(&scene.target).start()?;
    running.armed()?;
    wait_until("the receiver", || board.ready.load(Acquire) == 1)?;
    let words = format!("udp-send --to {} --rate-per-ms 1 --alone", endpoint(NEAR4, 7009)?);
    let mut sender = Victim::start_on(&scene.outside, &words, Arc::clone(&board))?;
    wait_until("delayed datagrams", || board.datagrams.received.load(Acquire) > 50)?;
    for (to, address) in [(&further, "10.78.0.2"), (&scene.beside, NEAR6)] {
        let others = plain_stream(&scene.outside, to, &endpoint(address, 7009)?, 300, "")?;
        others.check_unharmed().context(address)?;
        measure(
            "arrival_bystander",
            json!({"to": address, "ms": [others.delays_ms[50], others.delays_ms[99]]}),
        );
        ensure!(
            others.delays_ms[0] < 20.0 && others.median_ms()? < HELD_BACK_MS / 2.0,
            "{:?}",
            others.delays_ms
        );
    }
    let objects = KernelObjects::now()?.since(&before);
    running.signal(Signal::SIGKILL)?;
    objects.wait_gone()?;
    wait_until("devices to be as before", || near.furniture().is_ok_and(|now| now == furniture))?;
    let received = board.datagrams.received.load(Acquire);
    wait_until("datagrams to pass", || board.datagrams.received.load(Acquire) > received + 100)?;
    board.stop.store(1, Release);
    sender.finish(Role::First)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_shows_no_socket_does_not_wait_and_is_counted() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    if !has_posix_timers() {
        skip!("no POSIX timers, which ping needs");
    }
    let scene = Scene::veth()?;
    let ping = ["ping", "-c", "5", "-i", "0.2", FAR4];
    let finished = Kchaos::exec(DELAY, &ping).at(&scene.target).run()?;
    finished.expect_status(0)?;
    let summary = finished.summary()?;
    let rule = summary.rule()?;
    ensure!(rule.injected.events == 0 && rule.spared["error"].events == 5, "{rule:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn devices_without_frames_are_refused_by_name() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let add = format!("link add bare7 type ipip local {NEAR4} remote {FAR4}");
    if let Err(said) = scene.pair.near.try_run("ip", &add)? {
        skip!("no ipip: {said}");
    }
    scene.pair.near.ip("link set bare7 up")?;
    let refused = Kchaos::exec(DELAY, &["true"]).at(&scene.target).run()?;
    refused.expect_status(125)?;
    let error = refused.error()?;
    ensure!(error.code == 8 && error.message.contains("bare7"), "{error:?}");
    Kchaos::exec("--delay 10ms", &["true"]).at(&scene.target).run()?.expect_status(0)?;
    Ok(())
}
