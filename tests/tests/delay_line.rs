//! What a delay line holds at most, and what becomes of the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::delay_missing;
use integration_tests::cgroup::TestCgroup;
use integration_tests::held_back::Scene;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::{Traffic, idle_ms};
use integration_tests::netns::NetNs;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_full_line_loses_and_says_so() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::veth()?;
    let run = scene.send("--delay 300ms --queue 50", 1_000, "--rate-per-ms 2 --alone")?;
    let queue = run.summary.queue.context("no word about the line")?;
    ensure!(run.traffic.lost() > 0 && queue.overflowed == run.traffic.lost(), "{}: {queue:?}", run.traffic);
    run.traffic.check_silent()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_line_holds_so_many_bytes_and_no_more() -> Result<()> {
    /// `MEMORY_MAX` of chaos-userspace/src/encode/netem.rs.
    const ROOM: u64 = 64 << 20;
    const SENT: u64 = 1_500;
    const PAYLOAD: u64 = 60_000;
    // Ethernet, IPv4 and UDP.
    const BUFFER: u64 = PAYLOAD + 14 + 20 + 8;
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let (netns, cgroup) = (NetNs::new()?, TestCgroup::new()?);
    let mut bystander = Victim::talking_to_itself(&cgroup.child("outside")?, &netns, 7002)?;
    let objects = KernelObjects::now()?;
    let target = cgroup.child("target")?;
    // Nothing leaves the line while datagrams come, however slow the machine.
    let mut running =
        Kchaos::inject("--delay 60s", target.path()).at(&cgroup.runner()?.in_netns(&netns)).start()?;
    running.armed()?;
    let place = Place::default().in_cgroup(&target).in_netns(&netns);
    let board = Arc::new(SharedBoard::create()?);
    let words = format!("udp-send --to 127.0.0.1:7001 -n {SENT} --size {PAYLOAD} --alone");
    Victim::start_on(&place, &words, Arc::clone(&board))?.finish(Role::First)?;
    let summary = running.interrupt()?.summary()?;
    let (sent, held) = (board.datagrams.sent.load(Acquire), ROOM / BUFFER);
    let queue = summary.queue.context("no word about the line")?;
    ensure!(sent == SENT && queue.overflowed == SENT - held && queue.undelivered == held, "{queue:?}");
    ensure!(summary.rule()?.injected.events == SENT, "{summary:?}");
    KernelObjects::now()?.since(&objects).wait_gone()?;
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_burst_goes_at_once_and_the_rest_waits_for_the_rate() -> Result<()> {
    const SENT: u64 = 150;
    const PAYLOAD: u64 = 1_000;
    const BURST: u64 = 100 << 10;
    // Ethernet, IPv4 and UDP.
    const AT_ONCE: u64 = BURST / (PAYLOAD + 14 + 20 + 8);
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let (netns, cgroup) = (NetNs::new()?, TestCgroup::new()?);
    let mut bystander = Victim::talking_to_itself(&cgroup.child("outside")?, &netns, 7002)?;
    let target = cgroup.child("target")?;
    let place = Place::default().in_cgroup(&target).in_netns(&netns);
    let runner = cgroup.runner()?.in_netns(&netns);
    // With a delay, what goes at once has it. In either case a packet's worth takes more than a minute to come back.
    for (faults, rules) in [("--rate 80bit --burst 100kb", 1), ("--delay 20ms --rate 80bit --burst 100kb", 2)]
    {
        let objects = KernelObjects::now()?;
        let mut running = Kchaos::inject(faults, target.path()).at(&runner).start()?;
        running.armed()?;
        let board = Arc::new(SharedBoard::create()?);
        let listen = format!("udp-recv --listen 127.0.0.1:7001 --idle-ms {}", idle_ms());
        let mut receiver = Victim::start_on(&place, &listen, Arc::clone(&board))?;
        receiver.ready()?;
        let words = format!("udp-send --to 127.0.0.1:7001 -n {SENT} --size {PAYLOAD} --alone");
        Victim::start_on(&place, &words, Arc::clone(&board))?.finish(Role::First)?;
        receiver.finish(Role::Second)?;
        let summary = running.interrupt()?.summary()?;
        let traffic = Traffic::read(&board)?;
        let queue = summary.queue.context("no word about the line")?;
        ensure!(traffic.received == AT_ONCE, "{faults}: {traffic}, and not {AT_ONCE}");
        ensure!(queue.overflowed == 0 && queue.undelivered == SENT - AT_ONCE, "{faults}: {queue:?}");
        ensure!(summary.rules.len() == rules, "{faults}: {summary:?}");
        ensure!(summary.rules.iter().all(|rule| rule.injected.events == SENT), "{faults}: {summary:?}");
        ensure!(rules == 1 || traffic.delays_ms[0] >= 19.9, "{faults}: {:?}", traffic.delays_ms);
        KernelObjects::now()?.since(&objects).wait_gone()?;
    }
    bystander.stop(Role::Second)?;
    Traffic::read(&bystander.board)?.check_unharmed()
}
