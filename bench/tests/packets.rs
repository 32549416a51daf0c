//! What programs at devices cost everybody's packets.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Result};
use bench::arms::{Arms, rounded};
use bench::bystander::{Bystander, while_in};
use bench::flow::Flow;
use bench::kernel::{per_run, thread_time_ns};
use bench::leaving::{Leaving, classifier};
use bench::packet::{self, PORT};
use chaos_userspace::host::cgroup::Hierarchy;
use chaos_userspace::inject::bpf::{enable_statistics, run_on_packet};
use chaos_userspace::inject::link::Link;
use chaos_userspace::inject::program::Kind;
use chaos_userspace::plan::Mechanism;
use chaos_userspace::spec::{
    Fault,
    corrupt::Corrupt,
    network::{Direction, Effect, Match},
};
use integration_tests::cgroup::TestCgroup;
use integration_tests::loaded::{Loaded, late_arrival, matching, plan, strangers};
use integration_tests::measure::measure;
use integration_tests::patience::monotonic_ns;
use integration_tests::program_info::info;
use integration_tests::samples;
use integration_tests::topology::Pair;
use ipnet::IpNet;
use serde_json::json;

fn rounds() -> usize {
    if samples::full() { 31 } else { 5 }
}

fn repeat() -> u32 {
    if samples::full() { 200_000 } else { 2_000 }
}

/// Nanoseconds of one run, by the processor time of many.
fn run_ns(program: &impl AsFd, packet: &[u8]) -> Result<f64> {
    let start = thread_time_ns()?;
    run_on_packet(program.as_fd(), packet, repeat()).context("running a program on a packet")?;
    Ok((thread_time_ns()? - start) / f64::from(repeat()))
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn leaving_packets_by_themselves() -> Result<()> {
    let bystander = Bystander::new()?;
    let packet = packet::to_port(17, PORT + 1, PORT);
    let bases = [classifier()?, classifier()?];
    let mut cases = [1, 2, 8, 9, 100, 1_000, 10_000].map(Leaving::of).to_vec();
    cases.extend(
        [(1, 16), (1, 64), (10_000, 64)].map(|(targets, rules)| Leaving { rules, ..Leaving::of(targets) }),
    );
    cases.extend([2, 3].map(|levels| Leaving { levels, ..Leaving::of(100) }));
    cases.push(Leaving { rules: 50, ..Leaving::of(50) });
    cases.push(Leaving { rules: 50, runs: 50, ..Leaving::of(50) });
    for case in cases {
        let (loaded, ours) = case.load(bystander.level)?;
        let programs = [&bases[0], &bases[1], &ours];
        let names = ["empty program", "empty program again", "kchaos"];
        let arms = Arms::measure(&names, rounds(), |arm| run_ns(programs[arm], &packet))?;
        let about = info(ours.as_fd())?;
        measure(
            "test_run_egress",
            json!({
                "targets": case.targets, "rules": case.rules, "levels": case.levels, "runs": case.runs, "arms": arms.told(),
                "translated": about.translated, "jited_bytes": about.jited, "verified": about.verified,
                "map_bytes": loaded.memory(),
            }),
        );
    }
    Ok(())
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn arriving_packets_by_themselves() -> Result<()> {
    let bystander = Bystander::new()?;
    let udp = UdpSocket::bind(("127.0.0.1", PORT)).context("binding UDP")?;
    let listener = TcpListener::bind(("127.0.0.1", PORT)).context("listening")?;
    let client = TcpStream::connect(("127.0.0.1", PORT)).context("connecting")?;
    let _connection = listener.accept()?;
    let tcp_port = client.local_addr()?.port();
    let bases = [classifier()?, classifier()?];
    for (what, packet) in [
        ("UDP for a bystander's socket", packet::to_port(17, PORT + 1, PORT)),
        ("TCP for a bystander's connection", packet::to_port(6, tcp_port, PORT)),
        ("UDP for nobody's port", packet::to_port(17, PORT + 1, 9)),
    ] {
        for targets in [1, 8, 1_000] {
            let mut loaded =
                Loaded::new(&plan(vec![late_arrival()?])?, &strangers(targets, bystander.level))?;
            let ours = loaded.load(&Kind::NetArrival { namespace: 0 })?;
            let programs = [&bases[0], &bases[1], &ours];
            let names = ["empty program", "empty program again", "kchaos"];
            let arms = Arms::measure(&names, rounds(), |arm| run_ns(programs[arm], &packet))?;
            measure("test_run_ingress", json!({"what": what, "targets": targets, "arms": arms.told()}));
        }
    }
    drop((udp, client));
    Ok(())
}

/// The same programs in one chain, so that every packet of a real flow passes all of them.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn packets_of_a_real_flow() -> Result<()> {
    let bystander = Bystander::new()?;
    let pair = Pair::veth()?;
    let flow = Flow::between(&pair, PORT)?;
    let sizes = [1u64, 2, 8, 100, 1_000, 10_000];
    let mut kept = vec![];
    let (mut near, mut far) = (vec![classifier()?, classifier()?], vec![classifier()?, classifier()?]);
    for targets in sizes {
        let (loaded, program) = Leaving::of(targets).load(bystander.level)?;
        kept.push(loaded);
        near.push(program);
    }
    for targets in [1, 1_000] {
        let mut loaded = Loaded::new(&plan(vec![late_arrival()?])?, &strangers(targets, bystander.level))?;
        far.push(loaded.load(&Kind::NetArrival { namespace: 0 })?);
        kept.push(loaded);
    }
    let _links = pair.near.enter(|| {
        let device = nix::net::if_::if_nametoindex(pair.near_device).context("the near device")?;
        let link = |program: &OwnedFd| Link::tcx_egress(program.as_fd(), device, "near");
        Ok(near.iter().map(link).collect::<std::io::Result<Vec<_>>>()?)
    })?;
    let _far_links = pair.far.enter(|| {
        let devices = nix::net::if_::if_nameindex().context("listing devices")?;
        let device = devices.iter().find(|device| device.name().to_bytes() != b"lo").context("no device")?;
        let link = |program: &OwnedFd| Link::tcx_ingress(program.as_fd(), device.index(), "far");
        Ok(far.iter().map(link).collect::<std::io::Result<Vec<_>>>()?)
    })?;
    let _statistics = enable_statistics().context("switching statistics of programs on")?;
    let packets = if samples::full() { 20_000 } else { 1_000 };
    let mut rounds_of = [vec![], vec![]];
    for _ in 0..rounds() {
        let all = near.iter().chain(&far);
        let before = all.clone().map(|program| info(program.as_fd())).collect::<Result<Vec<_>>>()?;
        for _ in 0..packets / 100 {
            flow.send(100)?;
            flow.drain()?;
        }
        let ran = all.zip(before).map(|(program, before)| per_run(program, before));
        let mut ran = ran.collect::<Result<Vec<_>>>()?;
        rounds_of[1].push(ran.split_off(near.len()));
        rounds_of[0].push(ran);
    }
    let names: Vec<_> = sizes.iter().map(|targets| format!("kchaos, {targets} targets")).collect();
    let mut all = vec!["empty program", "empty program again"];
    all.extend(names.iter().map(String::as_str));
    measure("flow_egress", json!({"packets": packets, "arms": Arms::of_rounds(&all, &rounds_of[0]).told()}));
    let all = ["empty program", "empty program again", "kchaos, 1 target", "kchaos, 1000 targets"];
    measure("flow_ingress", json!({"packets": packets, "arms": Arms::of_rounds(&all, &rounds_of[1]).told()}));
    Ok(())
}

/// What a rule's packets pay, by what is asked of them and by what becomes of them.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn packets_of_the_target() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let target = cgroup.child("target")?;
    let pair = Pair::veth()?;
    let flow = while_in(target.path(), || Flow::between(&pair, PORT))?;
    let opened = Hierarchy::find()?.open(target.path())?;
    let whom = [(opened.id(), opened.level())];
    let bases = [classifier()?, classifier()?];
    let _statistics = enable_statistics().context("switching statistics of programs on")?;
    for (what, rules) in cases()? {
        let begin_ns = monotonic_ns();
        let mut loaded = Loaded::new(&plan(rules)?, &whom)?;
        let ours = loaded.load(&Kind::NetEgress)?;
        let made_ms = (monotonic_ns() - begin_ns) as f64 / 1e6;
        // The last one comes first: what ours takes away has passed the others.
        let _links = pair.near.enter(|| {
            let device = nix::net::if_::if_nametoindex(pair.near_device).context("the near device")?;
            let link = |program: &OwnedFd| Link::tcx_egress(program.as_fd(), device, "near");
            Ok([&ours, &bases[1], &bases[0]].into_iter().map(link).collect::<std::io::Result<Vec<_>>>()?)
        })?;
        let packets = if samples::full() { 5_000 } else { 500 };
        let mut rounds_of = vec![];
        for _ in 0..rounds().min(15) {
            let all = [&bases[0], &bases[1], &ours];
            let before = all.map(|program| info(program.as_fd()));
            for _ in 0..packets / 100 {
                flow.send(100)?;
                flow.drain()?;
            }
            let ran = all.into_iter().zip(before).map(|(program, before)| per_run(program, before?));
            rounds_of.push(ran.collect::<Result<Vec<_>>>()?);
        }
        let names = ["empty program", "empty program again", "kchaos"];
        measure(
            "target_packets",
            json!({
                "what": what, "arms": Arms::of_rounds(&names, &rounds_of).told(), "map_bytes": loaded.memory(),
                "made_ms": rounded(made_ms),
            }),
        );
    }
    Ok(())
}

type Rules = Vec<(Fault, Vec<Mechanism>)>;

fn cases() -> Result<Vec<(String, Rules)>> {
    let egress = |effect: Effect, share: &str, remote: Vec<IpNet>| -> Result<(Fault, Vec<Mechanism>)> {
        let matches = Match { remote, ..Match::default() };
        Ok((matching(Direction::Egress, effect, share, matches)?, vec![Mechanism::Tcx]))
    };
    let one = |effect: Effect, share: &str| Ok::<_, anyhow::Error>(vec![egress(effect, share, vec![])?]);
    let mut cases = vec![
        ("passed: 1 rule of 0%".to_owned(), one(Effect::Loss, "0%")?),
        ("lost: 1 rule of 100%".to_owned(), one(Effect::Loss, "100%")?),
        ("sent twice: 1 rule of 100%".to_owned(), one(Effect::Duplicate, "100%")?),
        ("corrupted: 1 rule of 100%".to_owned(), one(Effect::Corrupt(Corrupt::Payload), "100%")?),
    ];
    for rules in [16, 64] {
        let all = (0..rules).map(|_| egress(Effect::Loss, "0%", vec![])).collect::<Result<_>>()?;
        cases.push((format!("passed: {rules} rules of 0%"), all));
    }
    for prefixes in [1u32, 100, 10_000, 100_000] {
        // The receiver's own first, the others elsewhere.
        let other =
            |number: u32| format!("11.{}.{}.{}/32", number >> 16, number >> 8 & 255, number & 255).parse();
        let own = "10.77.0.0/24".parse();
        let all =
            std::iter::once(own).chain((1..prefixes).map(other)).collect::<std::result::Result<_, _>>()?;
        cases.push((
            format!("passed: 1 rule of 0% for {prefixes} prefixes"),
            vec![egress(Effect::Loss, "0%", all)?],
        ));
    }
    Ok(cases)
}
