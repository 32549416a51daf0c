//! Flipped bits: those that the receiver's checksum shows, and those that it does not.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{counts_exactly, has_tcx, has_tool};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::idle_ms;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::samples::{packets, tcp_bytes};
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::summary::{Rule, Summary, with_its_lease};
use integration_tests::topology::{FAR4, FAR6, Pair, endpoint};
use serde_json::{Value, json};

/// What arrived of a pattern.
#[derive(Debug)]
struct Bits {
    sent: u64,
    received: u64,
    result: Value,
}

impl Bits {
    fn read(board: &SharedBoard) -> Result<Self> {
        let result = board.result(Role::First)?.context("the victim left no result")?;
        let number = |name: &str| result[name].as_u64().with_context(|| format!("no {name} in {result}"));
        Ok(Self { sent: number("sent")?, received: number("received")?, result: result.clone() })
    }

    /// Datagrams with so many wrong bits.
    fn with_wrong_bits(&self, bits: u32) -> u64 {
        self.result["wrong"][bits.to_string()].as_u64().unwrap_or(0)
    }

    /// A counter of the receiver's network namespace.
    fn counter(&self, name: &str) -> u64 {
        self.result["host"][name].as_u64().unwrap_or(0)
    }

    /// Fails unless everything arrived as it was sent.
    fn check_unharmed(&self) -> Result<()> {
        let wrong = self.result["wrong"].as_object().is_none_or(|wrong| wrong.keys().any(|bits| bits != "0"));
        ensure!(self.received == self.sent && !wrong, "this traffic was to stay unharmed: {self:?}");
        Ok(())
    }
}

/// A stream of patterns: how much, where to, where the receiver is.
struct Stream<'a> {
    to: String,
    tcp: bool,
    n: u64,
    size: usize,
    receiver: Option<&'a NetNs>,
}

impl Stream<'_> {
    fn words(&self, more: u16) -> Result<String> {
        let to: std::net::SocketAddr = self.to.parse()?;
        let to = std::net::SocketAddr::new(to.ip(), to.port() + more);
        let netns =
            self.receiver.map(|netns| format!("--recv-netns {}", netns.path().display())).unwrap_or_default();
        let tcp = if self.tcp { "--tcp" } else { "" };
        let (n, size, idle) = (self.n, self.size, idle_ms());
        Ok(format!("bits --to {to} {tcp} -n {n} --size {size} --idle-ms {idle} {netns}"))
    }
}

/// The same stream in the target and, at the same time and beside it, by a bystander, who must feel nothing.
fn run(faults: &str, target: &Place, beside: &Place, stream: &Stream<'_>) -> Result<(Bits, Summary)> {
    with_its_lease(|(_, summary)| summary, || run_once(faults, target, beside, stream))
}

fn run_once(faults: &str, target: &Place, beside: &Place, stream: &Stream<'_>) -> Result<(Bits, Summary)> {
    let board = Arc::new(SharedBoard::create()?);
    let running = Kchaos::exec_victim(faults, &stream.words(0)?, &board)?.at(target).start()?;
    let mut bystander = Victim::start(beside, &stream.words(50)?)?;
    bystander.finish(Role::First)?;
    Bits::read(&bystander.board)?.check_unharmed().context("the bystander")?;
    let finished = running.finish()?;
    finished.expect_status(0)?;
    let summary = finished.summary()?;
    // Afterwards the same path is clean.
    let mut after = Victim::start(target, &stream.words(100)?)?;
    after.finish(Role::First)?;
    Bits::read(&after.board)?.check_unharmed().context("after the run")?;
    Ok((Bits::read(&board)?, summary))
}

/// A target and a bystander beside it, with a peer behind a veth.
struct Scene {
    _cgroup: TestCgroup,
    pair: Pair,
    target: Place,
    beside: Place,
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let pair = Pair::veth()?;
        if !has_tcx() && has_tool("tc") {
            // Adding and removing one costs packets of its own, anybody's; one that exists is used and left.
            for device in ["lo", pair.near_device] {
                pair.near.run("tc", &format!("qdisc add dev {device} clsact"))?;
            }
        }
        let target = Place::default().in_cgroup(&cgroup.child("runner")?).in_netns(&pair.near);
        let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&pair.near);
        Ok(Self { _cgroup: cgroup, pair, target, beside })
    }

    /// Makes each draw one about a single segment, so that few bytes are many draws.
    fn with_single_segments(self) -> Result<Self> {
        self.pair.near.ip("link set veth-near gso_max_segs 1")?;
        self.pair.near.ip("link set lo mtu 1500 gso_max_segs 1")?;
        Ok(self)
    }

    /// Every path: veth and loopback, both versions.
    fn paths(&self) -> Result<Vec<(String, Option<&NetNs>)>> {
        [(FAR4, true), (FAR6, true), ("127.0.0.1", false), ("::1", false)]
            .into_iter()
            .map(|(address, far)| Ok((endpoint(address, 7001)?, far.then_some(&self.pair.far))))
            .collect()
    }
}

fn check_rate(what: &str, rule: &Rule, share: f64) -> Result<()> {
    let spared: u64 = rule.spared.values().map(|spared| spared.events).sum();
    ensure!(rule.matched.events == rule.injected.events + spared, "{what}: {rule:?}");
    ensure!(rule.spared["error"].events == 0, "{what}: not everything was carried out: {rule:?}");
    check_share(what, rule.injected.events, rule.matched.events, share).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn corrupted_datagrams_are_thrown_away_by_their_receiver() -> Result<()> {
    let scene = Scene::new()?;
    // The largest is more than what a program can handle whole; on veth it would be in fragments.
    let sizes: [&[usize]; 4] = [&[1, 200, 1_400], &[30], &[200, 30_000], &[1, 1_400]];
    for ((to, receiver), sizes) in scene.paths()?.into_iter().zip(sizes) {
        for &size in sizes {
            let n = if size < 2_000 { packets() / 2 } else { packets() / 20 };
            let stream = Stream { to: to.clone(), tcp: false, n, size, receiver };
            let what = format!("{size} bytes to {to}");
            let (bits, summary) =
                run("--corrupt 20%", &scene.target, &scene.beside, &stream).with_context(|| what.clone())?;
            let rule = summary.rule()?;
            ensure!(rule.matched.events == bits.sent, "{what}: {bits:?}, {rule:?}");
            ensure!(
                bits.received == bits.sent - rule.injected.events && bits.with_wrong_bits(0) == bits.received,
                "{what}: corrupted datagrams were delivered, or others were not: {bits:?}, {rule:?}"
            );
            check_rate(&what, rule, 0.2)?;
            // A bit of the length is noticed before the checksum is looked at.
            let version = if to.starts_with('[') { "Udp6" } else { "Udp" };
            let errors = bits.counter(&format!("{version}InErrors"));
            let checksums = bits.counter(&format!("{version}InCsumErrors"));
            measure(
                "corrupt_udp",
                json!({"to": to, "size": size, "sent": bits.sent, "injected": rule.injected.events,
                    "in_errors": errors, "in_csum_errors": checksums}),
            );
            // The bystander's receiver shares the counters and adds nothing.
            ensure!(errors >= rule.injected.events, "{what}: {errors} errors counted: {bits:?}, {rule:?}");
            ensure!(checksums > rule.injected.events / 2, "{what}: {checksums} wrong checksums: {bits:?}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn corrupted_segments_are_sent_again() -> Result<()> {
    let scene = Scene::new()?.with_single_segments()?;
    for (to, receiver) in scene.paths()? {
        let stream = Stream { to: to.clone(), tcp: true, n: tcp_bytes() / 2, size: 200, receiver };
        let faults = "--corrupt 5% --remote-port 7001";
        let (bits, summary) = run(faults, &scene.target, &scene.beside, &stream)?;
        let rule = summary.rule()?;
        bits.check_unharmed()?;
        check_rate(&to, rule, 0.05)?;
        let (errors, checksums) = (bits.counter("TcpInErrs"), bits.counter("TcpInCsumErrors"));
        measure(
            "corrupt_tcp",
            json!({"to": to, "matched": rule.matched.events, "injected": rule.injected.events,
                "in_errs": errors, "in_csum_errors": checksums}),
        );
        // A bit of the header's length may make the segment too short to be counted as anything.
        ensure!(checksums <= errors && 2 * checksums > rule.injected.events, "{to}: {bits:?}, {rule:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_corrupted_payload_is_delivered_with_one_wrong_bit() -> Result<()> {
    let scene = Scene::new()?.with_single_segments()?;
    for ((to, receiver), size) in scene.paths()?.into_iter().zip([1, 201, 1_400, 30]) {
        let stream = Stream { to: to.clone(), tcp: false, n: packets() / 2, size, receiver };
        let (bits, summary) = run("--corrupt 20%:payload", &scene.target, &scene.beside, &stream)?;
        let rule = summary.rule()?;
        let wrong = bits.with_wrong_bits(1);
        ensure!(
            bits.received == bits.sent
                && wrong == rule.injected.events
                && wrong + bits.with_wrong_bits(0) == bits.sent,
            "{size} bytes to {to}: {bits:?}, {rule:?}"
        );
        check_rate(&format!("{size} bytes to {to}"), rule, 0.2)?;
        let stream = Stream { to: to.clone(), tcp: true, n: tcp_bytes() / 2, size: 200, receiver };
        let faults = "--corrupt 5%:payload --remote-port 7001";
        let (bits, summary) = run(faults, &scene.target, &scene.beside, &stream)?;
        let rule = summary.rule()?;
        // A segment that was sent again may have been hit both times, and counts once.
        let wrong = bits.with_wrong_bits(1);
        ensure!(
            bits.received == bits.sent && wrong > 0 && wrong <= rule.injected.events,
            "TCP to {to}: {bits:?}, {rule:?}"
        );
        ensure!(bits.counter("TcpInCsumErrors") == 0, "TCP to {to}: {bits:?}");
        check_rate(&format!("TCP to {to}"), rule, 0.05)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_super_packet_loses_its_rest_or_has_one_wrong_bit() -> Result<()> {
    let scene = Scene::new()?;
    let (to, receiver) = scene.paths()?.swap_remove(0);
    for (faults, wrong) in [("--corrupt 2%", false), ("--corrupt 2%:payload", true)] {
        let stream = Stream { to: to.clone(), tcp: true, n: 2 * tcp_bytes(), size: 200, receiver };
        let faults = format!("{faults} --remote-port 7001");
        let (bits, summary) = run(&faults, &scene.target, &scene.beside, &stream)?;
        let rule = summary.rule()?;
        ensure!(rule.matched.segments > 2 * rule.matched.events, "no super-packets: {rule:?}");
        ensure!(rule.injected.segments > rule.injected.events, "no super-packet was hit: {rule:?}");
        ensure!(bits.received == bits.sent, "{bits:?}");
        ensure!((bits.with_wrong_bits(1) > 0) == wrong, "{faults}: {bits:?}, {rule:?}");
        if !wrong {
            // As many wire segments with a wrong checksum as buffers were hit, at most: the rest of each is lost.
            ensure!(bits.counter("TcpInCsumErrors") <= rule.injected.events, "{bits:?}, {rule:?}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_seed_corrupts_the_same_packets() -> Result<()> {
    if !counts_exactly() {
        skip!("no fetching atomics (5.12)");
    }
    let scene = Scene::new()?;
    let injected = |seed: u32| -> Result<u64> {
        let to = endpoint("127.0.0.1", 7001)?;
        let stream = Stream { to, tcp: false, n: 1_000, size: 64, receiver: None };
        let faults = format!("--corrupt 30%:payload --seed {seed}");
        let (bits, summary) = run(&faults, &scene.target, &scene.beside, &stream)?;
        ensure!(bits.with_wrong_bits(1) == summary.rule()?.injected.events, "{bits:?}");
        Ok(bits.with_wrong_bits(1))
    };
    ensure!(injected(7)? == injected(7)?, "the same seed hit others");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn corruption_goes_with_loss_and_duplication() -> Result<()> {
    let scene = Scene::new()?;
    for (to, receiver) in scene.paths()? {
        let stream = Stream { to: to.clone(), tcp: false, n: packets() / 2, size: 100, receiver };
        let faults = "--loss 20% --duplicate 30% --corrupt 25%:payload";
        let (bits, summary) = run(faults, &scene.target, &scene.beside, &stream)?;
        let [loss, duplicate, corrupt] = &summary.rules[..] else {
            anyhow::bail!("{} rules", summary.rules.len());
        };
        let superseded = |rule: &Rule| rule.spared["superseded"].events;
        let lost = loss.injected.events;
        ensure!(superseded(duplicate) == lost && superseded(corrupt) == lost, "{to}: {summary:?}");
        ensure!(bits.received == bits.sent - lost + duplicate.injected.events, "{to}: {bits:?}, {summary:?}");
        // Of a packet and its copy, the packet is hit.
        ensure!(bits.with_wrong_bits(1) == corrupt.injected.events, "{to}: {bits:?}, {summary:?}");
        let left = bits.sent - lost;
        for (what, hits, n, share) in [
            ("loss", lost, bits.sent, 0.2),
            ("copies", duplicate.injected.events, left, 0.3),
            ("wrong bits", corrupt.injected.events, left, 0.25),
        ] {
            check_share(&format!("{what} to {to}"), hits, n, share)
                .with_context(|| format!("{summary:?}"))?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_cannot_be_corrupted_is_refused() -> Result<()> {
    for direction in ["ingress", "both"] {
        let line = format!("exec --json --corrupt 5% --direction {direction} -- /bin/true");
        let finished = Kchaos::new(&line).run()?;
        finished.expect_status(125)?;
        let said = finished.text();
        ensure!(said.contains("arriving packets cannot be changed") && said.contains("cgroup_skb"), "{said}");
    }
    Ok(())
}
