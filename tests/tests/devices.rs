//! Devices that appear while a run goes on.

use std::sync::Arc;

use anyhow::{Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{delay_missing, has_tcx};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{Traffic, idle_ms};
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use nix::sys::signal::Signal;

const FAR: &str = "10.79.0.2";

/// What datagrams of the target and of somebody beside it suffer on a device made after the faults were armed.
fn on_a_new_device(faults: &str) -> Result<(Traffic, Traffic)> {
    let (near, far) = (NetNs::new()?, NetNs::new()?);
    let cgroup = TestCgroup::new()?;
    let target = Place::default().in_cgroup(&cgroup.child("target")?).in_netns(&near);
    let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&near);
    let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&far);
    let mut resident = Victim::start(&target, "sleep")?;
    resident.ready()?;
    let before = KernelObjects::now()?;
    let path = cgroup.root().path().join("target");
    let line = format!("inject --json --cgroup {} --duration 120s {faults}", path.display());
    let mut running = Kchaos::new(&line).start()?;
    running.armed()?;
    let links = KernelObjects::now()?.since(&before).links.len();
    near.ip(&format!("link add late type veth peer name late-far netns {}", far.path().display()))?;
    wait_until("an attachment to the new device", || {
        KernelObjects::now().is_ok_and(|now| now.since(&before).links.len() > links)
    })?;
    near.ip("addr add 10.79.0.1/24 dev late")?;
    far.ip(&format!("addr add {FAR}/24 dev late-far"))?;
    near.ip("link set late up")?;
    far.ip("link set late-far up")?;
    let send = |from: &Place, port: u16| -> Result<Traffic> {
        let board = Arc::new(SharedBoard::create()?);
        let to = format!("{FAR}:{port}");
        let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
        let mut receiver = Victim::start_on(&outside, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        let words = format!("udp-send --to {to} -n 100 --alone --rate-per-ms 1");
        Victim::start_on(from, &words, Arc::clone(&board))?.finish(Role::First)?;
        receiver.finish(Role::Second)?;
        Traffic::read(&board)
    };
    // The one beside goes first: it waits for the neighbour's address, if need be.
    let unharmed = send(&beside, 7001)?;
    let hit = send(&target, 7002)?;
    running.signal(Signal::SIGINT)?;
    let finished = running.finish()?;
    finished.expect_status(130)?;
    ensure!(finished.summary()?.rule()?.injected.events == 100, "{:?}", finished.summary()?.rule()?);
    resident.stop(Role::First).or_else(|_| Ok::<_, anyhow::Error>(serde_json::Value::Null))?;
    Ok((hit, unharmed))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_falls_on_a_device_that_appears() -> Result<()> {
    if !has_tcx() {
        skip!("the attachments of clsact are no links to wait for");
    }
    let (hit, unharmed) = on_a_new_device("--loss 100% --protocol udp")?;
    ensure!(hit.received == 0, "{hit}");
    unharmed.check_unharmed()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn delay_falls_on_a_device_that_appears() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let (hit, unharmed) = on_a_new_device("--delay 150ms --protocol udp")?;
    hit.check_unharmed()?;
    ensure!(hit.delays_ms[0] >= 149.9, "{:?}", hit.delays_ms);
    unharmed.check_unharmed()?;
    ensure!(unharmed.median_ms()? < 75.0, "{:?}", unharmed.delays_ms);
    Ok(())
}
