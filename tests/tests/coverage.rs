//! The table of packet faults: each one over TCP and UDP, IPv4 and IPv6, leaving and arriving, on loopback, over a veth, and
//! in a network namespace of the target's own. A cell is felt as it should be, or refused with its reason.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{counts_exactly, has_tcx, has_tool, netem_missing};
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::{Traffic, idle_ms};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::spawn::{Place, Victim};
use integration_tests::topology::{FAR4, FAR6, NEAR4, NEAR6, Pair, endpoint};
use serde_json::{Value, json};

/// Wire segments of one stream: without a single hit among them with a probability of 1e-8 at most.
const DATAGRAMS: u64 = 200;
const BYTES: u64 = 250_000;
const DELAY_MS: f64 = 60.0;

/// One line of the table.
struct Fault {
    flags: &'static str,
    /// What is said of arriving packets, if they are refused.
    ingress: Option<&'static str>,
    /// What this kernel lacks, in a word of the refusal.
    missing: Option<&'static str>,
    /// Whether datagrams felt it.
    datagrams: fn(&Traffic) -> bool,
    /// Whether a connection felt it: what its sender reports, if it came to its end.
    connection: fn(Option<&Value>) -> bool,
}

/// Everything arrived, and something was sent again.
fn sent_again(result: Option<&Value>) -> bool {
    whole(result) && result.is_some_and(|result| result["total_retrans"].as_u64() > Some(0))
}

fn whole(result: Option<&Value>) -> bool {
    result.is_some_and(|result| result["delivered"] == BYTES)
}

fn some_lost(traffic: &Traffic) -> bool {
    traffic.check_silent().is_ok() && (1..traffic.sent / 2).contains(&traffic.lost())
}

/// Where the target is, seen from who injects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    Loopback,
    Veth,
    OwnNamespace,
}

struct Scene {
    pair: Pair,
    target: Cgroup,
    inside: Place,
    beside: Place,
    outside: Place,
    runner: Place,
    away: Place,
    furniture: String,
    _resident: Victim,
    _elsewhere: NetNs,
    _cgroup: TestCgroup,
}

/// A stream on its way; the receiver ends with it.
struct Stream {
    what: String,
    board: Arc<SharedBoard>,
    sender: Victim,
    receiver: Victim,
    tcp: bool,
}

impl Scene {
    /// A scene in which connections that cannot be made are given up soon, or go on trying.
    fn new(gives_up_soon: bool) -> Result<Self> {
        let (cgroup, pair, elsewhere) = (TestCgroup::new()?, Pair::veth()?, NetNs::new()?);
        // Each draw is about one segment, so that few bytes are many draws.
        for netns in [&pair.near, &pair.far] {
            netns.ip("link set lo mtu 1500 gso_max_segs 1")?;
            if gives_up_soon {
                // After three seconds.
                netns.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1")?))?;
            }
        }
        pair.near.ip("link set veth-near gso_max_segs 1")?;
        pair.far.ip("link set veth-far gso_max_segs 1")?;
        if !has_tcx() && has_tool("tc") {
            // Adding and removing one costs packets of its own, anybody's; one that exists is used and left.
            for device in ["lo", pair.near_device] {
                pair.near.run("tc", &format!("qdisc add dev {device} clsact"))?;
            }
        }
        let target = cgroup.child("target")?;
        let inside = Place::default().in_cgroup(&target).in_netns(&pair.near);
        let (others, runner) = (cgroup.child("others")?, cgroup.runner()?);
        let mut resident = Victim::start(&inside, "sleep")?;
        resident.ready()?;
        Ok(Self {
            beside: Place::default().in_cgroup(&others).in_netns(&pair.near),
            outside: Place::default().in_cgroup(&others).in_netns(&pair.far),
            away: runner.clone().in_netns(&elsewhere),
            runner: runner.in_netns(&pair.near),
            furniture: pair.near.furniture()?,
            target,
            inside,
            pair,
            _resident: resident,
            _elsewhere: elsewhere,
            _cgroup: cgroup,
        })
    }

    fn stream(&self, from: &Place, to: &Place, address: &str, port: u16, tcp: bool) -> Result<Stream> {
        let to_address = endpoint(address, port)?;
        let board = Arc::new(SharedBoard::create()?);
        let (listen, send) = if tcp {
            (format!("tcp-recv --listen {to_address}"), format!("tcp-send --to {to_address} --bytes {BYTES}"))
        } else {
            (
                format!("udp-recv --listen {to_address} --idle-ms {}", idle_ms()),
                format!("udp-send --to {to_address} -n {DATAGRAMS}"),
            )
        };
        let mut receiver = Victim::start_on(to, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        let sender = Victim::start_on(from, &send, Arc::clone(&board))?;
        let what = format!("{} to {to_address}", if tcp { "tcp" } else { "udp" });
        Ok(Stream { what, board, sender, receiver, tcp })
    }

    /// All cells of one fault, one way and one place: both protocols in both versions at once.
    fn cells(&self, name: &str, fault: &Fault, ingress: bool, place: Where) -> Result<()> {
        let direction = match (name, ingress) {
            ("partition", _) => "",
            (_, true) => "--direction ingress",
            (_, false) => "--direction egress",
        };
        let what = format!("{} {direction} {place:?}", fault.flags);
        let runner = if place == Where::OwnNamespace { &self.away } else { &self.runner };
        let faults = format!("{} {direction}", fault.flags);
        if let Some(word) = fault.missing.or(fault.ingress.filter(|_| ingress)) {
            return refused(Kchaos::inject(&faults, self.target.path()).at(runner), word).context(what);
        }
        let mut running = Kchaos::inject(&faults, self.target.path()).at(runner).start()?;
        running.armed()?;
        let other = if place == Where::Loopback { &self.beside } else { &self.outside };
        let addresses = match (place, ingress) {
            (Where::Loopback, _) => ["127.0.0.1", "::1"],
            (_, false) => [FAR4, FAR6],
            (_, true) => [NEAR4, NEAR6],
        };
        let (from, to) = if ingress { (other, &self.inside) } else { (&self.inside, other) };
        let mut streams = vec![];
        for address in addresses {
            streams.push(self.stream(from, to, address, 7001, false)?);
            streams.push(self.stream(from, to, address, 7002, true)?);
        }
        let bystander_to = if place == Where::Loopback { "127.0.0.1" } else { FAR4 };
        let mut bystander = self.stream(&self.beside, other, bystander_to, 7009, false)?;
        for stream in &mut streams {
            stream.check(fault).with_context(|| what.clone())?;
        }
        bystander.traffic()?.check_unharmed().with_context(|| format!("{what}: the bystander"))?;
        let summary = running.interrupt()?.summary()?;
        ensure!(summary.rules[0].injected.events > 0, "{what}: {:?}", summary.rules);
        let after = self.pair.near.furniture()?;
        ensure!(after == self.furniture, "{what}: left behind: {after} instead of {}", self.furniture);
        measure(
            "coverage",
            json!({"fault": name, "ingress": ingress, "place": format!("{place:?}"), "cells": 4}),
        );
        Ok(())
    }
}

impl Stream {
    fn traffic(&mut self) -> Result<Traffic> {
        self.sender.finish(Role::First)?;
        self.receiver.finish(Role::Second)?;
        Traffic::read(&self.board)
    }

    fn check(&mut self, fault: &Fault) -> Result<()> {
        if !self.tcp {
            let traffic = self.traffic()?;
            ensure!((fault.datagrams)(&traffic), "{}: {traffic}, delays {:?}", self.what, traffic.delays_ms);
            return Ok(());
        }
        // A receiver that nobody reaches waits for ever.
        let result = self.sender.finish(Role::First).ok();
        ensure!((fault.connection)(result.as_ref()), "{}: {result:?}", self.what);
        Ok(())
    }
}

fn refused(kchaos: Kchaos, word: &str) -> Result<()> {
    let finished = kchaos.run()?;
    let error = finished.error()?;
    ensure!([2, 8].contains(&error.code) && error.message.contains(word), "{error:?} without '{word}'");
    Ok(())
}

fn line(name: &str, fault: &Fault) -> Result<()> {
    let scene = Scene::new(name == "partition")?;
    for place in [Where::Loopback, Where::Veth, Where::OwnNamespace] {
        for ingress in [false, true] {
            scene.cells(name, fault, ingress, place)?;
        }
    }
    if name == "reset" {
        let faults = format!("{} --protocol udp", fault.flags);
        refused(Kchaos::inject(&faults, scene.target.path()).at(&scene.runner), "udp")?;
    }
    Ok(())
}

macro_rules! table {
    ($($name:ident: $fault:expr;)*) => {
        $(#[test]
        #[ignore = "needs root and BPF: run by cargo xtask test"]
        fn $name() -> Result<()> {
            line(stringify!($name), &$fault)
        })*
    };
}

/// What a delay line lacks here.
fn line_missing() -> Result<Option<&'static str>> {
    if !has_tcx() {
        return Ok(Some("6.6"));
    }
    Ok(netem_missing()?.map(|_| "sch_netem"))
}

table! {
    loss: Fault { flags: "--loss 10%", ingress: None, missing: None, datagrams: some_lost, connection: sent_again };
    loss_model: Fault {
        flags: "--loss-model gemodel:p=10%,r=60%",
        ingress: None,
        missing: (!counts_exactly()).then_some("5.12"),
        datagrams: some_lost,
        connection: sent_again,
    };
    partition: Fault {
        flags: "--partition",
        ingress: None,
        missing: None,
        datagrams: |traffic| traffic.received == 0,
        connection: |result| result.is_none(),
    };
    delay: Fault {
        flags: "--delay 60ms",
        ingress: None,
        missing: line_missing()?,
        datagrams: |traffic| traffic.check_unharmed().is_ok() && traffic.delays_ms[0] >= DELAY_MS - 0.1,
        connection: |result| whole(result) && result.is_some_and(|result| result["rtt_us"].as_f64() > Some(900.0 * DELAY_MS)),
    };
    rate: Fault {
        flags: "--rate 1mbit",
        ingress: None,
        missing: line_missing()?,
        // 100 bytes each and more: 200 of them take 160 ms, a connection two seconds, and they share the rate.
        datagrams: |traffic| traffic.check_unharmed().is_ok() && traffic.delays_ms[100] >= 20.0,
        connection: |result| whole(result) && result.is_some_and(|result| result["took_ms"].as_u64() > Some(1800)),
    };
    reorder: Fault {
        flags: "--delay 50ms --reorder 40%",
        ingress: None,
        missing: line_missing()?,
        datagrams: |traffic| traffic.check_unharmed().is_ok() && traffic.out_of_order > 0,
        connection: whole,
    };
    duplicate: Fault {
        flags: "--duplicate 30%",
        ingress: Some("only leaving packets"),
        missing: None,
        datagrams: |traffic| traffic.lost() == 0 && traffic.duplicates > 0,
        connection: |result| {
            // The receiver says which bytes it had already (RFC 2883).
            whole(result) && result.is_some_and(|result| result["host"]["TCPDSACKRecv"].as_u64() > Some(0))
        },
    };
    corrupt: Fault {
        flags: "--corrupt 10%",
        ingress: Some("arriving packets cannot be changed"),
        missing: None,
        datagrams: some_lost,
        connection: sent_again,
    };
    reset: Fault {
        flags: "--reset",
        ingress: Some("leave --direction out"),
        missing: None,
        datagrams: |traffic| traffic.check_unharmed().is_ok(),
        connection: |result| result.is_none(),
    };
}
