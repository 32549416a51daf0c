//! Delayed packets beside netem's: the same distributions, and as much through a delayed connection.

use anyhow::{Context as _, Result, ensure};
use integration_tests::capability::delay_missing;
use integration_tests::held_back::{Scene, iperf3, plain_stream, transfer};
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::quantiles::Quantiles;
use integration_tests::samples::{full, pace, packets, tcp_bytes};
use integration_tests::topology::{FAR4, endpoint};
use integration_tests::{leave_to_soak, skip};
use serde_json::{Value, json};

/// How often a measurement is repeated on a busy machine.
const ATTEMPTS: usize = 5;

/// Largest difference of two distributions between their 5th and 90th percentile.
fn distance(one: &Traffic, other: &Traffic) -> f64 {
    (5..=90).map(|p| (one.delays_ms[p] - other.delays_ms[p]).abs()).fold(0.0, f64::max)
}

/// One comparison with netem, which was measured before and after.
struct Compared {
    /// What is expected of netem and of kchaos alike.
    asked: Quantiles,
    first: Traffic,
    ours: Traffic,
    second: Traffic,
}

impl Compared {
    /// Few datagrams: by the least distance of percentiles. Without jitter it would be about 16 ms at the ends, with another
    /// distribution several.
    fn near(&self) -> (bool, Value) {
        let own = distance(&self.first, &self.ours).min(distance(&self.second, &self.ours));
        let control = distance(&self.first, &self.second);
        (own <= 1.25 * control + 2.5, json!({"netem_to_netem_ms": control, "kchaos_to_netem_ms": own}))
    }

    /// Many datagrams: by the distance of distributions (Kolmogorov and Smirnov) from what was asked for. Percentiles tell it
    /// to 0.01.
    fn close(&self) -> Result<(bool, Value)> {
        let of = |traffic: &Traffic| Quantiles::new(traffic.delays_ms.clone());
        let (first, ours, second) = (of(&self.first)?, of(&self.ours)?, of(&self.second)?);
        let netem = [first.distance(&self.asked), second.distance(&self.asked)];
        let (own, control) = (ours.distance(&self.asked), first.distance(&second));
        let allowed = 1.25 * netem[0].max(netem[1]) + control + 0.01;
        let figures = json!({"kchaos_to_asked": own, "netem_to_asked": netem, "netem_to_netem": control, "allowed": allowed});
        Ok((own <= allowed, figures))
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn distributions_are_netems() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    for distribution in ["uniform", "normal", "pareto", "paretonormal"] {
        let table = (distribution != "uniform").then_some(distribution);
        let netem = |port| -> Result<Traffic> {
            let table = table.map(|table| format!("distribution {table}")).unwrap_or_default();
            let words = format!("qdisc add dev veth-near root netem delay 60ms 10ms {table} limit 100000");
            scene.pair.near.run("tc", &words)?;
            let traffic =
                plain_stream(&scene.target, &scene.outside, &endpoint(FAR4, port)?, packets(), pace())?;
            scene.pair.near.run("tc", "qdisc del dev veth-near root")?;
            Ok(traffic)
        };
        let faults = format!("--delay 60ms --jitter 10ms --distribution {distribution}");
        // A pause of the machine can only add to a distance; a wrong distribution stays wrong.
        let mut attempts = vec![];
        let within = loop {
            let compared = Compared {
                asked: Quantiles::of_netem(60.0, 10.0, table)?,
                first: netem(7003)?,
                ours: scene.send(&faults, packets(), pace())?.traffic,
                second: netem(7004)?,
            };
            let (good, figures) = if full() { compared.close()? } else { compared.near() };
            let Compared { first, ours, .. } = compared;
            let percentiles =
                |traffic: &Traffic| [1, 5, 25, 50, 75, 95, 99].map(|p: usize| traffic.delays_ms[p]);
            measure(
                "delay_distribution",
                json!({"distribution": distribution, "n": ours.sent, "distances": figures,
                    "kchaos_p1_5_25_50_75_95_99_ms": percentiles(&ours),
                    "netem_p1_5_25_50_75_95_99_ms": percentiles(&first)}),
            );
            ensure!(ours.lost() == 0 && ours.out_of_order > 0, "{distribution}: {ours}");
            attempts.push(figures);
            if good {
                break true;
            }
            if attempts.len() == ATTEMPTS {
                break false;
            }
        };
        ensure!(within, "{distribution}: distances from netem, and of netem from itself: {attempts:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_delayed_connection_is_as_fast_as_with_netem() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let took = |faults: Option<&str>| -> Result<f64> {
        let result = transfer(&scene, faults, &scene.outside, FAR4, 2 * tcp_bytes())?;
        result["took_ms"].as_f64().context("no time")
    };
    let netem = || -> Result<f64> {
        scene.pair.near.run("tc", "qdisc add dev veth-near root netem delay 50ms limit 100000")?;
        let took = took(None)?;
        scene.pair.near.run("tc", "qdisc del dev veth-near root")?;
        Ok(took)
    };
    let mut ratios = vec![];
    for _ in 0..3 {
        let (theirs, ours) = (netem()?, took(Some("--delay 50ms"))?);
        ratios.push(theirs / ours);
    }
    ratios.sort_by(f64::total_cmp);
    measure("delay_throughput", json!({"ratio_to_netem": ratios}));
    ensure!(ratios[1] >= 0.5, "the throughput is {ratios:?} of that with netem");
    Ok(())
}

/// Bytes of one transfer of iperf3: some seconds of what a window carries over such a delay.
const BULK: u64 = 32 << 20;
/// How often the arms are compared.
const PAIRS: usize = 10;

/// In turns with two arms of netem on the root of the device, which tell how far apart equal ones are.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn bulk_tcp_is_as_fast_as_with_netem() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    if !full() {
        leave_to_soak!("a soak, which has the time");
    }
    let scene = Scene::veth()?;
    for delay in ["50ms", "200ms"] {
        let netem = || -> Result<f64> {
            scene
                .pair
                .near
                .run("tc", &format!("qdisc add dev veth-near root netem delay {delay} limit 100000"))?;
            let speed = iperf3(&scene, None, BULK);
            scene.pair.near.run("tc", "qdisc del dev veth-near root")?;
            speed
        };
        let (mut ratios, mut control) = (vec![], vec![]);
        for _ in 0..PAIRS {
            let (first, ours, second) =
                (netem()?, iperf3(&scene, Some(&format!("--delay {delay}")), BULK)?, netem()?);
            ratios.push(ours / first);
            control.push(second / first);
        }
        ratios.sort_by(f64::total_cmp);
        control.sort_by(f64::total_cmp);
        let median = (ratios[PAIRS / 2 - 1] + ratios[PAIRS / 2]) / 2.0;
        // What a quarter of equal arms are below, if that is below 1.
        let noise = (1.0 - control[PAIRS / 4]).max(0.0);
        measure(
            "bulk_tcp",
            json!({"delay": delay, "median_ratio_to_netem": median, "ratios": ratios, "netem_to_netem": control}),
        );
        ensure!(
            median >= 0.9 - noise,
            "{delay}: {median} of the throughput with netem, {ratios:?}; netem to itself {control:?}"
        );
    }
    Ok(())
}
