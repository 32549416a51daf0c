//! Beside netem, in turns: how well packets are hit as asked, and what the target itself pays.

use anyhow::{Result, ensure};
use bench::arms::{Arms, rounded};
use bench::bystander::while_in;
use bench::flow::Flow;
use integration_tests::board::Role;
use integration_tests::bursts::{mean, runs_and_losses};
use integration_tests::capability::delay_missing;
use integration_tests::cgroup::TestCgroup;
use integration_tests::held_back::{Scene, iperf3, plain_stream};
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::{Traffic, both_ends_in_target, idle_ms};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::quantiles::Quantiles;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, Pair, endpoint};
use serde_json::json;

/// Does something while netem is the root of the near device.
fn under_netem<T>(netns: &NetNs, device: &str, words: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    netns.run("tc", &format!("qdisc add dev {device} root netem {words} limit 100000"))?;
    let result = work();
    netns.run("tc", &format!("qdisc del dev {device} root"))?;
    result
}

/// Delays of four distributions: how far they are from what was asked for.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn distributions_of_delay() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    const COUNT: u64 = 6_000;
    const PACE: &str = "--rate-per-ms 3 --alone";
    let scene = Scene::veth()?;
    for distribution in ["uniform", "normal", "pareto", "paretonormal"] {
        let table = (distribution != "uniform").then_some(distribution);
        let words = table.map(|table| format!(" distribution {table}")).unwrap_or_default();
        let netem = |port| {
            let to = endpoint(FAR4, port)?;
            under_netem(&scene.pair.near, scene.pair.near_device, &format!("delay 60ms 10ms{words}"), || {
                plain_stream(&scene.target, &scene.outside, &to, COUNT, PACE)
            })
        };
        let flags = format!("--delay 60ms --jitter 10ms --distribution {distribution}");
        let (first, ours, second) = (netem(7003)?, scene.send(&flags, COUNT, PACE)?.traffic, netem(7004)?);
        let asked = Quantiles::of_netem(60.0, 10.0, table)?;
        let of = |traffic: &Traffic| Quantiles::new(traffic.delays_ms.clone());
        let (one, own, other) = (of(&first)?, of(&ours)?, of(&second)?);
        let asked_ms: Vec<f64> =
            (0..=100).map(|percent| rounded(asked.quantile(f64::from(percent) / 100.0))).collect();
        measure(
            "delay_distribution",
            json!({
                "distribution": distribution, "n": ours.sent,
                "kchaos_to_asked": rounded(own.distance(&asked)),
                "netem_to_asked": [rounded(one.distance(&asked)), rounded(other.distance(&asked))],
                "netem_to_netem": rounded(one.distance(&other)),
                "asked_ms": asked_ms, "kchaos_ms": ours.delays_ms, "netem_ms": first.delays_ms,
            }),
        );
    }
    Ok(())
}

/// Losses in a row, of the model of Gilbert and Elliott.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn bursts_of_losses() -> Result<()> {
    const COUNT: u64 = 40_000;
    let (begin, stay) = (0.02, 0.75);
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?;
    let place = Place::default().in_cgroup(cgroup.root()).in_netns(&netns);
    let netem = |port: u16| {
        under_netem(&netns, "lo", "loss gemodel 2% 25%", || {
            let words = format!("udp-pair --to 127.0.0.1:{port} -n {COUNT} --idle-ms {}", idle_ms());
            let mut victim = Victim::start(&place, &words)?;
            victim.finish(Role::Second)?;
            Traffic::read(&victim.board)
        })
    };
    let ours = || {
        let flags = "--loss-model gemodel:p=2%,r=25%";
        Ok::<_, anyhow::Error>(both_ends_in_target(flags, &place, "127.0.0.1:7002", COUNT, None)?.traffic)
    };
    let told = [("netem", netem(7001)?), ("kchaos", ours()?), ("netem again", netem(7003)?)].map(|(by, traffic)| {
        let share = traffic.lost() as f64 / traffic.sent as f64;
        let (runs, _) = runs_and_losses(&traffic.bursts);
        json!({"by": by, "n": traffic.sent, "share": rounded(share), "mean": rounded(mean(&traffic.bursts)), "runs": runs,
            "bursts": traffic.bursts})
    });
    measure(
        "loss_bursts",
        json!({"asked_share": rounded(begin / (begin + 1.0 - stay)), "asked_mean": 1.0 / (1.0 - stay), "stay": stay,
            "told": told}),
    );
    Ok(())
}

/// iperf3 of a target that is delayed.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn bulk_tcp() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    const ROUNDS: usize = 10;
    let scene = Scene::veth()?;
    const BYTES: u64 = 16 << 20;
    for delay in ["50ms", "200ms"] {
        let arms = Arms::measure(&["netem", "netem again", "kchaos"], ROUNDS, |arm| {
            let bits = if arm == 2 {
                iperf3(&scene, Some(&format!("--delay {delay}")), BYTES)?
            } else {
                let words = format!("delay {delay}");
                under_netem(&scene.pair.near, scene.pair.near_device, &words, || iperf3(&scene, None, BYTES))?
            };
            Ok(bits / 1e6)
        })?;
        measure("bulk_tcp", json!({"delay": delay, "mib": BYTES >> 20, "arms": arms.told()}));
    }
    Ok(())
}

/// Instructions of the sender's own processor for one datagram, by what becomes of it.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn datagrams_of_the_target() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let target = cgroup.child("target")?;
    let runner = cgroup.runner()?;
    let pair = Pair::veth()?;
    let flow = while_in(target.path(), || Flow::between(&pair, 7100))?;
    let mut base = None;
    // What is delayed comes out long after all has been counted.
    for (what, netem, flags) in [
        ("passes", None, None),
        ("passes", None, None),
        ("passes", Some("loss 0%"), Some("--loss 0%")),
        ("is lost", Some("loss 100%"), Some("--loss 100%")),
        ("is delayed", Some("delay 10s"), Some("--delay 10s")),
        ("is sent twice", Some("duplicate 100%"), Some("--duplicate 100%")),
        ("is corrupted", Some("corrupt 100%"), Some("--corrupt 100%")),
    ] {
        let mut count = |by: &str| -> Result<()> {
            let least = flow.least_per_datagram(20)?;
            let base = *base.get_or_insert(least);
            measure(
                "target_datagram",
                json!({"what": what, "by": by, "instructions": rounded(least), "added": rounded(least - base)}),
            );
            Ok(())
        };
        let Some((netem, flags)) = netem.zip(flags) else {
            count("nothing")?;
            continue;
        };
        let mut running =
            Kchaos::inject(flags, target.path()).at(&runner.clone().in_netns(&pair.near)).start()?;
        running.armed()?;
        count("kchaos")?;
        let summary = running.interrupt()?.summary()?;
        let matched = summary.rule()?.matched.events;
        ensure!(matched > 0, "{what}: nothing was the target's");
        under_netem(&pair.near, pair.near_device, netem, || count("netem"))?;
    }
    Ok(())
}
