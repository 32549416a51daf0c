//! Loss that is not independent, and who is chosen: chains, flows, partitions, exceptions.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::bursts::{check_lengths, mean, runs_and_losses};
use integration_tests::capability::counts_exactly;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::{Measured, both_ends_in_target, idle_ms, sender_in_target};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::samples::packets;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, FAR6, NEAR4, Pair, endpoint};
use serde_json::json;

/// Both ends on loopback in a namespace of their own.
fn on_lo(faults: &str, n: u64) -> Result<Measured> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?;
    let place = Place::default().in_cgroup(cgroup.root()).in_netns(&netns);
    let run = both_ends_in_target(faults, &place, "127.0.0.1:7001", n, None)?;
    run.traffic.check_silent()?;
    let injected = run.summary.rules.iter().map(|rule| rule.injected.events).sum::<u64>();
    ensure!(injected == run.traffic.lost(), "{}, but kchaos dropped {injected}", run.traffic);
    Ok(run)
}

/// Checks the share of losses, and the lengths of runs of losses: their mean and their distribution, of which `longer(k)` is
/// the share with more than `k`.
///
/// `correlation` is the chain's (its second eigenvalue): losses in a row are no independent trials, and the standard
/// error grows with it.
fn check_chain(
    what: &str,
    run: &Measured,
    share: f64,
    burst: f64,
    correlation: f64,
    longer: impl Fn(u64) -> f64,
) -> Result<()> {
    let n = run.traffic.sent as f64;
    let measured = run.traffic.lost() as f64 / n;
    let error = (share * (1.0 - share) / n * (1.0 + correlation) / (1.0 - correlation)).sqrt();
    let bursts = &run.traffic.bursts;
    let (distance, bound) = check_lengths(what, bursts, longer)?;
    // The length of a run is geometric: its deviation is below its mean.
    let burst_error = burst / (runs_and_losses(bursts).0 as f64).sqrt();
    measure(
        "loss_model",
        json!({"model": what, "n": n, "share": measured, "expected_share": share, "burst": mean(bursts),
            "expected_burst": burst, "bursts": bursts, "distance": distance, "allowed_distance": bound}),
    );
    ensure!((measured - share).abs() < 5.0 * error, "{what}: lost {measured} instead of {share} +- {error}");
    ensure!(
        (mean(bursts) - burst).abs() < 5.0 * burst_error,
        "{what}: {} losses in a row instead of {burst} +- {burst_error}",
        mean(bursts)
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn gilbert_elliott_has_its_share_and_its_bursts() -> Result<()> {
    if !counts_exactly() {
        skip!("no fetching atomics (5.12)");
    }
    let run = on_lo("--loss-model gemodel:p=2%,r=25%", 4 * packets())?;
    check_chain("gemodel", &run, 0.02 / 0.27, 4.0, 1.0 - 0.27, |k| 0.75f64.powi(k as i32))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn four_states_have_their_share_and_their_bursts() -> Result<()> {
    if !counts_exactly() {
        skip!("no fetching atomics (5.12)");
    }
    let [p13, p31, p32, p23, p14] = [0.02, 0.2, 0.1, 0.5, 0.01];
    let run = on_lo("--loss-model state:p13=2%,p31=20%,p32=10%,p23=50%,p14=1%", 4 * packets())?;
    let states = [1.0, p13 / p31 * p32 / p23, p13 / p31, p14];
    let sum: f64 = states.iter().sum();
    let share = (states[2] + states[3]) / sum;
    // Runs of losses begin in the burst state or are isolated ones.
    let begins = states[0] * p13 + states[1] * p23 + states[0] * p14;
    let isolated = states[0] * p14 / begins;
    let longer = |k| if k == 0 { 1.0 } else { (1.0 - isolated) * (1.0 - p31 - p32).powi(k as i32) };
    check_chain("state", &run, share, (states[2] + states[3]) / begins, 0.8, longer)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_seed_repeats_a_chain() -> Result<()> {
    if !counts_exactly() {
        skip!("no fetching atomics (5.12)");
    }
    let run = |seed: u32| -> Result<Vec<u64>> {
        Ok(on_lo(&format!("--loss-model gemodel:p=5%,r=30% --seed {seed}"), 2_000)?.traffic.missing)
    };
    let first = run(7)?;
    ensure!(first.len() > 100, "{} lost", first.len());
    ensure!(first == run(7)?, "the same seed lost others");
    ensure!(first != run(8)?, "another seed lost the same");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_flow_is_always_or_never_hit() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let pair = Pair::veth()?;
    let target = cgroup.runner()?.in_netns(&pair.near);
    let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
    let (mut hit, mut spared) = (0, 0);
    for flow in 0..12u16 {
        let address = if flow % 2 == 0 { FAR4 } else { FAR6 };
        let to = endpoint(address, 7100 + flow)?;
        let run = sender_in_target("--loss 50% --per-flow --seed 5", &target, &to, 40, &outside, "--alone")?;
        match run.traffic.received {
            0 => hit += 1,
            40 => spared += 1,
            _ => anyhow::bail!("flow {flow} was hit in part: {}", run.traffic),
        }
    }
    // All on one side happens once in 2000 times; source ports differ from run to run.
    ensure!(hit > 0 && spared > 0, "{hit} flows hit, {spared} spared");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_partition_cuts_both_ways_and_nobody_else() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let pair = Pair::veth()?;
    let target = cgroup.runner()?.in_netns(&pair.near);
    let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&pair.near);
    let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
    let out = endpoint(FAR4, 7001)?;
    let faults = format!("--partition --remote {FAR4}/32");
    let run = sender_in_target(&faults, &target, &out, 200, &outside, "--alone")?;
    ensure!(run.traffic.received == 0, "{}", run.traffic);
    let into = endpoint(NEAR4, 7001)?;
    let run = integration_tests::loss::receiver_in_target(&faults, &target, &into, 200, &outside)?;
    ensure!(run.traffic.received == 0, "{}", run.traffic);
    // Somebody beside, at the same time.
    let board = Arc::new(SharedBoard::create()?);
    let mut running = Kchaos::exec_victim(&faults, "sleep", &board)?.at(&target).start()?;
    running.armed()?;
    let words = format!(
        "udp-pair --to {} -n 500 --idle-ms {} --recv-netns {}",
        endpoint(FAR4, 7002)?,
        idle_ms(),
        pair.far.path().display()
    );
    let mut victim = Victim::start(&beside, &words)?;
    let received = victim.finish(Role::Second)?;
    ensure!(received["received"] == 500, "{received}");
    board.stop.store(1, std::sync::atomic::Ordering::Release);
    running.finish().map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn exceptions_and_local_ports_choose_packets() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let pair = Pair::veth()?;
    let target = cgroup.runner()?.in_netns(&pair.near);
    let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
    let lost = |faults: &str, address: &str, more: &str| -> Result<bool> {
        let to = endpoint(address, 7001)?;
        let faults = format!("--loss 100% {faults}");
        let run = sender_in_target(&faults, &target, &to, 50, &outside, &format!("--alone {more}"))?;
        match run.traffic.received {
            0 => Ok(true),
            50 => run.check_unmatched(&faults).map(|()| false),
            _ => anyhow::bail!("{faults}: {}", run.traffic),
        }
    };
    let from = format!("--from {NEAR4}:6100");
    let cases = [
        (format!("--remote !{FAR4}"), FAR4, "", false),
        (format!("--remote !{FAR4}"), FAR6, "", true),
        (format!("--remote 10.0.0.0/8 --remote !10.77.0.0/16 --remote {FAR4}"), FAR4, "", true),
        ("--remote 10.0.0.0/8 --remote !10.77.0.0/16".to_owned(), FAR4, "", false),
        ("--remote-port !7001".to_owned(), FAR4, "", false),
        ("--remote-port 7000-7010 --remote-port !7002".to_owned(), FAR6, "", true),
        ("--local-port 6000-6200".to_owned(), FAR4, from.as_str(), true),
        ("--local-port 6000-6200 --local-port !6100".to_owned(), FAR4, from.as_str(), false),
        ("--local-port !6100".to_owned(), FAR4, from.as_str(), false),
    ];
    for (faults, address, more, expected) in cases {
        let lost = lost(&faults, address, more).with_context(|| faults.clone())?;
        ensure!(lost == expected, "{faults} to {address}: lost {lost} instead of {expected}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn duplicates_arrive_twice_over_veth_and_lo() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let pair = Pair::veth()?;
    let target = cgroup.runner()?.in_netns(&pair.near);
    let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
    for (address, on_lo) in [(FAR4, false), (FAR6, false), ("127.0.0.1", true), ("::1", true)] {
        let to = endpoint(address, 7001)?;
        let run = if on_lo {
            both_ends_in_target("--duplicate 20%", &target, &to, packets(), None)?
        } else {
            sender_in_target("--duplicate 20%", &target, &to, packets(), &outside, "")?
        };
        let rule = run.summary.rule()?;
        ensure!(
            run.traffic.lost() == 0 && run.traffic.duplicates == rule.injected.events,
            "{to}: {}, but kchaos says {rule:?}",
            run.traffic
        );
        ensure!(rule.matched.events == run.traffic.sent, "copies were judged: {rule:?}");
        check_share(&format!("duplicates to {to}"), run.traffic.duplicates, run.traffic.sent, 0.2)?;
    }
    Ok(())
}
