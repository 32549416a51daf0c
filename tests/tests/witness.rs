//! The witness: packets of the target that came to no egress hook are counted and named.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{Traffic, both_ends_in_target, idle_ms, sender_in_target};
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim, victim_words};
use integration_tests::summary::Summary;
use integration_tests::topology::{FAR4, FAR6, Kind, Pair, endpoint};

const PACKETS: u64 = 500;

/// The account of datagrams to an IPv4 address, half of which are lost.
fn half_lost(target: &Place, to: &str, packets: u64) -> Result<Summary> {
    let board = SharedBoard::create()?;
    let words = format!("udp-send --to {to}:7001 -n {packets} --alone");
    let finished = Kchaos::exec_victim("--loss 50%", &words, &board)?.at(target).run()?;
    finished.expect_status(0)?;
    finished.summary()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_escapes_in_the_targets_namespace() -> Result<()> {
    for kind in [Kind::Veth, Kind::Vxlan] {
        let Ok(pair) = Pair::new(kind)? else { continue };
        let cgroup = TestCgroup::new()?;
        let target = cgroup.runner()?.in_netns(&pair.near);
        let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
        for address in [FAR4, FAR6] {
            let to = endpoint(address, 7001)?;
            let run = sender_in_target("--loss 50%", &target, &to, PACKETS, &outside, "")?;
            ensure!(run.summary.escaped == Some(0), "{kind:?} {to}: {:?}", run.summary);
        }
        let to = endpoint("127.0.0.1", 7001)?;
        let run = both_ends_in_target("--loss 50% --direction both", &target, &to, PACKETS, None)?;
        ensure!(run.summary.escaped == Some(0), "{kind:?} {to}: {:?}", run.summary);
        let to = endpoint(FAR4, 7002)?;
        let board = Arc::new(SharedBoard::create()?);
        let mut receiver =
            Victim::start_on(&outside, &format!("tcp-recv --listen {to}"), Arc::clone(&board))?;
        receiver.ready()?;
        let words = format!("tcp-send --to {to} --bytes 200000");
        let sender = Kchaos::exec_victim("--loss 5%", &words, &board)?.at(&target).run()?;
        sender.expect_status(0)?;
        receiver.finish(Role::Second)?;
        ensure!(sender.summary()?.escaped == Some(0), "{kind:?} {to}: {:?}", sender.summary()?);
        let to = endpoint("127.0.0.1", 7001)?;
        // Arriving packets have no egress hook that they could escape.
        let run = both_ends_in_target("--loss 50% --direction ingress", &target, &to, PACKETS, None)?;
        ensure!(run.summary.escaped.is_none(), "{:?}", run.summary);
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_escapes_at_the_ends_of_a_run_on_a_busy_target() -> Result<()> {
    let (pair, cgroup) = (Pair::veth()?, TestCgroup::new()?);
    let (runner, target) = (cgroup.runner()?.in_netns(&pair.near), cgroup.child("target")?);
    let inside = Place::default().in_cgroup(&target).in_netns(&pair.near);
    let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
    let board = Arc::new(SharedBoard::create()?);
    let to = endpoint(FAR4, 7001)?;
    let mut receiver = Victim::start_on(&outside, &format!("udp-recv --listen {to}"), Arc::clone(&board))?;
    receiver.ready()?;
    let words = format!("udp-send --to {to} --rate-per-ms 2 --alone");
    let mut sender = Victim::start_on(&inside, &words, Arc::clone(&board))?;
    for _ in 0..3 {
        let mut running = Kchaos::inject("--loss 50%", target.path()).at(&runner).start()?;
        running.armed()?;
        let lost = board.datagrams.lost.load(Acquire);
        wait_until("losses", || board.datagrams.lost.load(Acquire) > lost + 50)?;
        let summary = running.interrupt()?.summary()?;
        ensure!(summary.escaped == Some(0), "{summary:?}");
    }
    board.stop.store(1, Release);
    sender.finish(Role::First)?;
    receiver.finish(Role::Second)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn copies_for_groups_of_this_host_do_not_escape() -> Result<()> {
    let (pair, cgroup) = (Pair::veth()?, TestCgroup::new()?);
    let target = cgroup.runner()?.in_netns(&pair.near);
    // A group that this host has joined itself: a copy of each packet goes round without a device.
    let group = "239.7.7.7";
    if let Err(said) = pair.near.try_run("ip", &format!("addr add {group}/32 dev veth-near autojoin"))? {
        skip!("no multicast: {said}");
    }
    pair.near.ip(&format!("route add {group}/32 dev veth-near"))?;
    let summary = half_lost(&target, group, PACKETS)?;
    ensure!(summary.rule()?.matched.events == PACKETS && summary.escaped == Some(0), "{summary:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_packet_that_passes_ip_twice_counts_once() -> Result<()> {
    let (pair, cgroup) = (Pair::veth()?, TestCgroup::new()?);
    // In this mode, ipvlan hands what leaves it to IP again, with its socket until 6.10.
    if let Err(said) = pair.near.try_run("ip", "link add link veth-near name ipv3 type ipvlan mode l3")? {
        skip!("no ipvlan: {said}");
    }
    pair.near.ip("link set ipv3 up")?;
    pair.near.ip("addr add 10.80.0.1/24 dev ipv3")?;
    pair.near.ip(&format!("route add {FAR4}/32 dev ipv3"))?;
    let target = cgroup.runner()?.in_netns(&pair.near);
    let summary = half_lost(&target, FAR4, PACKETS)?;
    ensure!(summary.rule()?.matched.events == PACKETS && summary.escaped == Some(0), "{summary:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_neighbour_that_does_not_answer_is_named() -> Result<()> {
    let (pair, cgroup) = (Pair::veth()?, TestCgroup::new()?);
    let target = cgroup.runner()?.in_netns(&pair.near);
    let summary = half_lost(&target, "10.77.0.9", 20)?;
    ensure!(summary.escaped.is_some_and(|escaped| (1..=20).contains(&escaped)), "{summary:?}");
    ensure!(summary.unanswered == ["10.77.0.9".parse::<IpAddr>()?], "{summary:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_namespace_entered_later_is_judged_from_the_first_socket_on() -> Result<()> {
    if !integration_tests::capability::has_tool("nsenter") {
        skip!("no nsenter (package util-linux)");
    }
    let (first, later, cgroup) =
        (NetNs::new()?, NetNs::new()?.with_clsact_where_needed()?, TestCgroup::new()?);
    let target = cgroup.runner()?.in_netns(&first);
    let outside = cgroup.child("outside")?;
    let mut bystander = Victim::talking_to_itself(&outside, &later, 7002)?;
    let objects = KernelObjects::now()?;
    let to = endpoint("127.0.0.1", 7001)?;
    let board = Arc::new(SharedBoard::create()?);
    let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
    let inside = Place::default().in_cgroup(&outside).in_netns(&later);
    let mut receiver = Victim::start_on(&inside, &listen, Arc::clone(&board))?;
    receiver.ready()?;
    let words = victim_words(&format!("udp-send --to {to} --alone --rate-per-ms 1"))?;
    let net = format!("--net={}", later.path().display());
    let mut command = vec!["nsenter", &net];
    command.extend(words.iter().map(String::as_str));
    let running = Kchaos::exec("--loss 100%", &command).with_board(&board)?.at(&target).start()?;
    let (sent, received) = (&board.datagrams.sent, &board.datagrams.received);
    wait_until("datagrams that do not arrive", || sent.load(Acquire) > received.load(Acquire) + 300)?;
    board.stop.store(1, Release);
    let finished = running.finish()?;
    finished.expect_status(0)?;
    let received = receiver.finish(Role::Second)?;
    let (sent, received) = (sent.load(Acquire), received["received"].as_u64().unwrap_or(u64::MAX));
    let summary = finished.summary()?;
    // What left before the devices were found was not hit, and that is said to the last packet.
    let injected = summary.rule()?.injected.events;
    ensure!(injected >= 300 && injected + received == sent, "{sent} sent, {received} received: {summary:?}");
    ensure!(summary.escaped == Some(received), "{received} received: {summary:?}");
    KernelObjects::now()?.since(&objects).wait_gone()?;
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()
}
