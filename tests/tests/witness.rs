//! The witness: packets of the target that came to no egress hook are counted and named.

use std::sync::Arc;

use anyhow::{Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::{both_ends_in_target, idle_ms, sender_in_target};
use integration_tests::netns::NetNs;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim, victim_words};
use integration_tests::topology::{FAR4, FAR6, Kind, Pair, endpoint};

const PACKETS: u64 = 500;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_escapes_in_the_targets_namespace() -> Result<()> {
    for kind in [Kind::Veth, Kind::Vxlan] {
        let Ok(pair) = Pair::new(kind)? else { continue };
        let cgroup = TestCgroup::new()?;
        let target = Place::default().in_cgroup(&cgroup.child("runner")?).in_netns(&pair.near);
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
fn packets_from_a_namespace_entered_later_are_told() -> Result<()> {
    if !integration_tests::capability::has_tool("nsenter") {
        skip!("no nsenter (package util-linux)");
    }
    let (first, later, cgroup) = (NetNs::new()?, NetNs::new()?, TestCgroup::new()?);
    let target = Place::default().in_cgroup(&cgroup.child("runner")?).in_netns(&first);
    let inside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&later);
    let to = endpoint("127.0.0.1", 7001)?;
    let board = Arc::new(SharedBoard::create()?);
    let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
    let mut receiver = Victim::start_on(&inside, &listen, Arc::clone(&board))?;
    receiver.ready()?;
    let words = victim_words(&format!("udp-send --to {to} -n {PACKETS}"))?;
    let net = format!("--net={}", later.path().display());
    let mut command = vec!["nsenter", &net];
    command.extend(words.iter().map(String::as_str));
    let finished = Kchaos::exec("--loss 100%", &command).with_board(&board)?.at(&target).run()?;
    finished.expect_status(0)?;
    let received = receiver.finish(Role::Second)?;
    // It was not hit, and that is said.
    ensure!(received["received"] == PACKETS, "{received}");
    let summary = finished.summary()?;
    ensure!(summary.escaped == Some(PACKETS), "{summary:?}");
    Ok(())
}
