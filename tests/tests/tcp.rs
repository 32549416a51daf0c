//! TCP under loss behaves as under netem's: retransmissions, and no local congestion signal.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::netem_missing;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::measure::measure;
use integration_tests::samples::tcp_bytes;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::summary::Rule;
use integration_tests::topology::{FAR4, Pair, endpoint};
use serde_json::{Value, json};

/// What one transfer says about itself.
#[derive(Debug)]
struct Transfer {
    total_retrans: u64,
    host: Value,
    took_ms: u64,
    /// What kchaos counted, if it took part.
    rule: Option<Rule>,
}

impl Transfer {
    fn read(board: &SharedBoard, rule: Option<Rule>) -> Result<Self> {
        let result = board.result(Role::First)?.context("the sender left no result")?;
        ensure!(result["delivered"] == result["bytes"], "the stream is incomplete: {result}");
        let number = |name: &str| result[name].as_u64().with_context(|| format!("no {name} in {result}"));
        Ok(Self {
            total_retrans: number("total_retrans")?,
            host: result["host"].clone(),
            took_ms: number("took_ms")?,
            rule,
        })
    }

    fn counter(&self, name: &str) -> i64 {
        self.host[name].as_i64().unwrap_or(0)
    }

    fn summary(&self) -> Value {
        json!({"total_retrans": self.total_retrans, "took_ms": self.took_ms, "RetransSegs": self.counter("RetransSegs"),
            "TCPFastRetrans": self.counter("TCPFastRetrans"), "TCPTimeouts": self.counter("TCPTimeouts"),
            "TCPLostRetransmit": self.counter("TCPLostRetransmit"), "OutSegs": self.counter("OutSegs"),
            "matched": self.rule.as_ref().map(|rule| rule.matched.events),
            "injected": self.rule.as_ref().map(|rule| rule.injected.events)})
    }
}

/// A veth pair whose packets are single segments: each draw decides about one, so that few draws are alike.
fn pair() -> Result<Pair> {
    let pair = Pair::veth()?;
    pair.near.ip("link set veth-near gso_max_segs 1")?;
    Ok(pair)
}

fn transfer(pair: &Pair, cgroup: &TestCgroup, faults: Option<&str>, number: u16) -> Result<Transfer> {
    let to = endpoint(FAR4, 7100 + number)?;
    let board = Arc::new(SharedBoard::create()?);
    let outside = Place::default().in_netns(&pair.far);
    let mut receiver = Victim::start_on(&outside, &format!("tcp-recv --listen {to}"), Arc::clone(&board))?;
    receiver.ready()?;
    let words = format!("tcp-send --to {to} --bytes {}", tcp_bytes());
    let inside = Place::default().in_cgroup(cgroup.root()).in_netns(&pair.near);
    let rule = match faults {
        Some(faults) => {
            let finished = Kchaos::exec_victim(faults, &words, &board)?.at(&inside).run()?;
            finished.expect_status(0)?;
            let summary = finished.summary()?;
            ensure!(summary.rule()?.injected.events > 0, "nothing was lost: {summary:?}");
            let rule = summary.rule()?.clone();
            check_share("TCP packets", rule.injected.events, rule.matched.events, 0.05)?;
            Some(rule)
        }
        None => {
            Victim::start_on(&inside, &words, Arc::clone(&board))?.finish(Role::First)?;
            None
        }
    };
    receiver.finish(Role::Second)?;
    Transfer::read(&board, rule)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_shows_as_retransmissions() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let pair = pair()?;
    let clean = transfer(&pair, &cgroup, None, 0)?;
    let lossy = transfer(&pair, &cgroup, Some("--loss 5%"), 1)?;
    measure("tcp_loss", json!({"clean": clean.summary(), "kchaos": lossy.summary()}));
    // About 145 of 2900 segments at the small size; a local congestion signal instead of loss gives none.
    let expected = tcp_bytes() / 1_448 / 20;
    ensure!(
        lossy.total_retrans > expected / 3,
        "5 % loss gave {} retransmissions, some {expected} were expected: {lossy:?}",
        lossy.total_retrans
    );
    ensure!(lossy.counter("RetransSegs") > clean.counter("RetransSegs"), "{clean:?} {lossy:?}");
    ensure!(lossy.counter("TCPFastRetrans") + lossy.counter("TCPTimeouts") > 0, "{lossy:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_is_like_netems() -> Result<()> {
    if let Some(reason) = netem_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let pair = pair()?;
    pair.near.run("tc", "qdisc add dev veth-near root netem loss 5% limit 100000")?;
    let netem = transfer(&pair, &cgroup, None, 0)?;
    pair.near.run("tc", "qdisc del dev veth-near root")?;
    let kchaos = transfer(&pair, &cgroup, Some("--loss 5%"), 1)?;
    measure("tcp_beside_netem", json!({"netem": netem.summary(), "kchaos": kchaos.summary()}));
    for (name, of) in [
        ("retransmissions of the connection", Transfer::retransmissions as fn(&Transfer) -> f64),
        ("retransmitted segments of the host", |t| t.counter("RetransSegs") as f64),
    ] {
        let (ours, theirs) = (of(&kchaos), of(&netem));
        ensure!(ours > 0.0 && theirs > 0.0, "{name}: {ours} with kchaos, {theirs} with netem");
        let ratio = ours / theirs;
        ensure!((1.0 / 3.0..=3.0).contains(&ratio), "{name}: {ours} with kchaos, {theirs} with netem");
    }
    Ok(())
}

impl Transfer {
    fn retransmissions(&self) -> f64 {
        self.total_retrans as f64
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn large_segments_are_counted_as_the_wire_sees_them() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let pair = Pair::veth()?;
    let to = endpoint(FAR4, 7200)?;
    let board = Arc::new(SharedBoard::create()?);
    let outside = Place::default().in_netns(&pair.far);
    let mut receiver = Victim::start_on(&outside, &format!("tcp-recv --listen {to}"), Arc::clone(&board))?;
    receiver.ready()?;
    let words = format!("tcp-send --to {to} --bytes {}", tcp_bytes());
    let inside = Place::default().in_cgroup(cgroup.root()).in_netns(&pair.near);
    let finished = Kchaos::exec_victim("--loss 1%", &words, &board)?.at(&inside).run()?;
    finished.expect_status(0)?;
    receiver.finish(Role::Second)?;
    let seen = finished.summary()?.rule()?.seen;
    ensure!(seen.segments > 2 * seen.events, "{seen:?}: segmentation is left to the device here");
    ensure!(seen.bytes > tcp_bytes(), "{seen:?}: {} bytes were sent", tcp_bytes());
    Ok(())
}
