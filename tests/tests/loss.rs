//! Packet loss as both ends feel it: the right share, once, silently, and for nobody else.

use std::sync::atomic::Ordering::Acquire;

use anyhow::{Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::{Traffic, both_ends_in_target, idle_ms, receiver_in_target, sender_in_target};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::samples::packets;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, FAR6, Kind, NEAR4, NEAR6, Pair, endpoint};
use serde_json::json;

const P: f64 = 0.3;
const FAULT: &str = "--loss 30%";

/// The target's place on the near side, and the outsider's on the far side.
struct Scene {
    pair: Pair,
    target: Place,
    outside: Place,
    cgroup: TestCgroup,
}

impl Scene {
    fn new(pair: Pair) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.runner()?.in_netns(&pair.near);
        let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
        Ok(Self { pair, target, outside, cgroup })
    }
}

fn egress_over_veth(address: &str, more: &str) -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    let before = scene.pair.near.furniture()?;
    let to = endpoint(address, 7001)?;
    let run = sender_in_target(FAULT, &scene.target, &to, packets(), &scene.outside, more)?;
    let interval = run.check_loss(&format!("egress to {to} {more}"), P)?;
    ensure!(scene.pair.near.furniture()? == before, "left behind: {}", scene.pair.near.furniture()?);
    measure(
        "egress_loss",
        json!({"to": to, "n": run.traffic.sent, "lost": run.traffic.lost(), "low": interval.low, "high": interval.high}),
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn egress_loss_over_ipv4_is_what_was_asked() -> Result<()> {
    egress_over_veth(FAR4, "")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn egress_loss_over_ipv6_is_what_was_asked() -> Result<()> {
    egress_over_veth(FAR6, "")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn egress_loss_is_silent_to_a_connected_socket() -> Result<()> {
    egress_over_veth(FAR4, "--connected")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn total_loss_is_silent_and_complete() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    for address in [FAR4, FAR6] {
        let to = endpoint(address, 7001)?;
        let run = sender_in_target("--loss 100%", &scene.target, &to, 1_000, &scene.outside, "--connected")?;
        run.check_loss("total loss", 1.0)?;
        ensure!(run.traffic.received == 0, "{}", run.traffic);
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ingress_loss_is_what_was_asked() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    for address in [NEAR4, NEAR6] {
        let to = endpoint(address, 7001)?;
        let faults = format!("{FAULT} --direction ingress");
        let run = receiver_in_target(&faults, &scene.target, &to, packets(), &scene.outside)?;
        run.check_loss(&format!("ingress at {to}"), P)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn direction_chooses_the_side() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    let (out, into) = (endpoint(FAR4, 7001)?, endpoint(NEAR4, 7001)?);
    let faults = "--loss 100% --direction ingress";
    let run = sender_in_target(faults, &scene.target, &out, 500, &scene.outside, "")?;
    run.traffic.check_unharmed()?;
    ensure!(run.summary.rule()?.injected.events == 0, "ingress loss fell on egress");
    let faults = "--loss 100% --direction egress";
    let run = receiver_in_target(faults, &scene.target, &into, 500, &scene.outside)?;
    run.traffic.check_unharmed()?;
    ensure!(run.summary.rule()?.injected.events == 0, "egress loss fell on ingress");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn both_directions_judge_once_on_lo() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?;
    let target = Place::default().in_cgroup(cgroup.root()).in_netns(&netns);
    for address in ["127.0.0.1", "::1"] {
        let to = endpoint(address, 7001)?;
        let faults = format!("{FAULT} --direction both");
        let run = both_ends_in_target(&faults, &target, &to, packets(), None)?;
        run.check_loss(&format!("both directions on lo, {to}"), P)?;
    }
    Ok(())
}

/// Both ends in the target, so the socket's cgroup matches at every device and at the receiver.
fn both_directions_over(kind: Kind, addresses: &[&str]) -> Result<Result<(), String>> {
    let pair = match Pair::new(kind)? {
        Ok(pair) => pair,
        Err(reason) => return Ok(Err(reason)),
    };
    let scene = Scene::new(pair)?;
    for address in addresses {
        let to = endpoint(address, 7001)?;
        let faults = format!("{FAULT} --direction both");
        let run = both_ends_in_target(&faults, &scene.target, &to, packets(), Some(&scene.pair.far))?;
        run.check_loss(&format!("both directions over {kind:?}, {to}"), P)?;
    }
    Ok(Ok(()))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn both_directions_judge_once_over_veth() -> Result<()> {
    match both_directions_over(Kind::Veth, &[FAR4, FAR6])? {
        Ok(()) => Ok(()),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn both_directions_judge_once_over_a_bridge() -> Result<()> {
    match both_directions_over(Kind::Bridge, &[FAR4])? {
        Ok(()) => Ok(()),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn both_directions_judge_once_over_vlan() -> Result<()> {
    match both_directions_over(Kind::Vlan, &[FAR6])? {
        Ok(()) => Ok(()),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn both_directions_judge_once_over_vxlan() -> Result<()> {
    match both_directions_over(Kind::Vxlan, &[FAR4])? {
        Ok(()) => Ok(()),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn matches_choose_packets() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    let hit = [
        ("--protocol udp", FAR6),
        ("--remote 10.77.0.2", FAR4),
        ("--remote fd77::/64", FAR6),
        ("--remote 192.0.2.0/24 --remote 10.77.0.0/24 --remote-port 22 --remote-port 7000-7010", FAR4),
        ("--protocol udp --remote 10.0.0.0/8 --remote-port 7001", FAR4),
    ];
    for (matches, address) in hit {
        let faults = format!("--loss 100% {matches}");
        let to = endpoint(address, 7001)?;
        let run = sender_in_target(&faults, &scene.target, &to, 300, &scene.outside, "")?;
        run.check_loss(&format!("{matches} to {to}"), 1.0)?;
        ensure!(run.traffic.received == 0, "{matches} to {to}: {}", run.traffic);
    }
    let missed = [
        ("--protocol tcp", FAR4),
        ("--protocol icmp", FAR6),
        ("--remote 10.77.0.1", FAR4),
        ("--remote 10.0.0.0/8", FAR6),
        ("--remote-port 7002-7010", FAR6),
        ("--protocol udp --remote 10.0.0.0/8 --remote-port 7000", FAR4),
    ];
    for (matches, address) in missed {
        let faults = format!("--loss 100% {matches}");
        let to = endpoint(address, 7001)?;
        let run = sender_in_target(&faults, &scene.target, &to, 300, &scene.outside, "")?;
        run.check_unmatched(&format!("{matches} to {to}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn matches_choose_packets_on_ingress() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    let to = endpoint(NEAR4, 7001)?;
    // The remote of a received packet is its source, whose port the kernel chooses.
    for (matches, probability) in [("--remote 10.77.0.2", 1.0), ("--protocol udp", 1.0)] {
        let faults = format!("--loss 100% --direction ingress {matches}");
        let run = receiver_in_target(&faults, &scene.target, &to, 300, &scene.outside)?;
        run.check_loss(matches, probability)?;
    }
    for matches in ["--remote 10.77.0.1", "--protocol tcp", "--remote-port 7001"] {
        let faults = format!("--loss 100% --direction ingress {matches}");
        let run = receiver_in_target(&faults, &scene.target, &to, 300, &scene.outside)?;
        run.check_unmatched(matches)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_bystander_on_the_same_device_loses_nothing() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    let sibling = Place::default().in_cgroup(&scene.cgroup.child("bystander")?).in_netns(&scene.pair.near);
    let far = scene.pair.far.path().display().to_string();
    let board = SharedBoard::create()?;
    let arguments = format!("udp-pair --to {} --rate-per-ms 2 --recv-netns {far}", endpoint(FAR4, 7001)?);
    let faults = "--loss 50% --direction both";
    let mut running = Kchaos::exec_victim(faults, &arguments, &board)?.at(&scene.target).start()?;
    running.armed()?;
    wait_until("the target to lose datagrams", || board.datagrams.lost.load(Acquire) > 20)?;
    let lost_before = board.datagrams.lost.load(Acquire);
    for address in [FAR4, FAR6] {
        let arguments = format!(
            "udp-pair --to {} -n {} --idle-ms {} --recv-netns {far}",
            endpoint(address, 7002)?,
            packets(),
            idle_ms()
        );
        let mut bystander = Victim::start(&sibling, &arguments)?;
        bystander.finish(Role::Second)?;
        let traffic = Traffic::read(&bystander.board)?;
        traffic.check_unharmed()?;
        measure("bystander", json!({"to": address, "sent": traffic.sent, "lost": traffic.lost()}));
    }
    ensure!(board.datagrams.lost.load(Acquire) > lost_before, "the target was not under fault all the time");
    board.stop.store(1, std::sync::atomic::Ordering::Release);
    let finished = running.finish()?;
    finished.expect_status(0)?;
    let run = Traffic::read(&board)?;
    let rule = finished.summary()?;
    ensure!(
        rule.rule()?.matched.events == run.sent,
        "the target sent {}, but {} events were matched",
        run.sent,
        rule.rule()?.matched.events
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn observing_counts_and_harms_nothing() -> Result<()> {
    let scene = Scene::new(Pair::veth()?)?;
    let to = endpoint(FAR4, 7001)?;
    let run = sender_in_target("--loss 100% --observe", &scene.target, &to, 500, &scene.outside, "")?;
    run.traffic.check_unharmed()?;
    let rule = run.summary.rule()?;
    ensure!(rule.matched.events == 500 && rule.injected.events == 0, "{rule:?}");
    Ok(())
}
