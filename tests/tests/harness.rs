//! The harness measures right: without faults nothing is felt, and netem's loss is measured as asked.

use std::sync::atomic::Ordering::Acquire;

use anyhow::{Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::Role;
use integration_tests::capability::{has_tool, netem_missing};
use integration_tests::cgroup::TestCgroup;
use integration_tests::loss::{Traffic, idle_ms};
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::samples::{calls, packets};
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::syscall_errors::check_task;
use integration_tests::tasks::read_tasks;
use integration_tests::topology::{FAR4, FAR6, Kind, Pair, endpoint};
use serde_json::json;

/// Datagrams from near to far, both ends in one process.
fn traffic(pair: &Pair, address: &str) -> Result<Traffic> {
    let arguments = format!(
        "udp-pair --to {} -n {} --idle-ms {} --recv-netns {}",
        endpoint(address, 7001)?,
        packets(),
        idle_ms(),
        pair.far.path().display()
    );
    let mut victim = Victim::start(&Place::default().in_netns(&pair.near), &arguments)?;
    victim.finish(Role::Second)?;
    Traffic::read(&victim.board)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_is_lost_without_faults() -> Result<()> {
    for kind in [Kind::Veth, Kind::Bridge, Kind::Vlan, Kind::Vxlan] {
        let Ok(pair) = Pair::new(kind)? else { continue };
        for address in [FAR4, FAR6] {
            let traffic = traffic(&pair, address)?;
            traffic.check_unharmed()?;
            ensure!(traffic.sent == packets(), "{traffic}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn no_call_fails_without_faults() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    for call in ["openat", "open", "read", "getdents64", "connect", "renameat2"] {
        let arguments = format!("calls --call {call} -n {} --threads 3 --children 2", calls());
        let mut victim = Victim::start(&Place::default().in_cgroup(cgroup.root()), &arguments)?;
        victim.finish(Role::First)?;
        let tasks = read_tasks(&victim.board);
        ensure!(tasks.len() == 9, "{} tasks reported", tasks.len());
        for task in &tasks {
            check_task(task, calls(), None)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn netems_loss_is_measured_as_asked() -> Result<()> {
    if let Some(reason) = netem_missing()? {
        skip!("{reason}");
    }
    let pair = Pair::veth()?;
    pair.near.run("tc", "qdisc add dev veth-near root netem loss 30% limit 100000")?;
    for address in [FAR4, FAR6] {
        let traffic = traffic(&pair, address)?;
        traffic.check_silent()?;
        check_share("netem's loss", traffic.lost(), traffic.sent, 0.3)?;
    }
    Ok(())
}

/// Adding or removing a clsact qdisc takes its device's queues away for a moment, whoever does it: datagrams that vanish
/// then are not the fault of kchaos's programs. It needs such a qdisc below 6.6.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_a_clsact_qdisc_costs_by_itself() -> Result<()> {
    if !has_tool("tc") {
        skip!("no tc (package iproute2)");
    }
    let netns = NetNs::new()?;
    let place = Place::default().in_netns(&netns);
    let mut victim = Victim::start(&place, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    victim.ready()?;
    let received = &victim.board.datagrams.received;
    for _ in 0..5 {
        for act in ["add", "del"] {
            let before = received.load(Acquire);
            netns.run("tc", &format!("qdisc {act} dev lo clsact"))?;
            wait_until("datagrams", || received.load(Acquire) > before + 50)?;
        }
    }
    victim.stop(Role::Second)?;
    let traffic = Traffic::read(&victim.board)?;
    measure("clsact_by_itself", json!({"sent": traffic.sent, "lost": traffic.lost(), "times": 10}));
    traffic.check_silent()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_is_left_behind_is_found() -> Result<()> {
    if let Some(reason) = netem_missing()? {
        skip!("{reason}");
    }
    let pair = Pair::veth()?;
    let before = pair.near.furniture()?;
    // The other devices have no place for filters, which does not hide these.
    pair.near.run("tc", "qdisc add dev veth-near clsact")?;
    let qdisc = pair.near.furniture()?;
    pair.near.run("tc", "filter add dev veth-near egress matchall action ok")?;
    let filter = pair.near.furniture()?;
    ensure!(before != qdisc && qdisc.contains("clsact"), "{before} and {qdisc}");
    ensure!(qdisc != filter && filter.contains("matchall"), "{qdisc} and {filter}");
    Ok(())
}
