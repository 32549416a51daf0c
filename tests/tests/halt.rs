//! The lever for everybody: all runs end and none begins.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::on_host;
use integration_tests::cgroup::TestCgroup;
use integration_tests::control::{ask, ask_from};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};

const LEVER: &str = "/run/kchaos/halt";

/// Whatever a test did, runs may begin again.
struct Resumed;

impl Drop for Resumed {
    fn drop(&mut self) {
        let _ = fs::remove_file(LEVER);
    }
}

/// Where runs can be ended without ending those of others.
struct Scene {
    cgroup: TestCgroup,
    netns: NetNs,
    runner: Place,
    _resumed: Resumed,
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let netns = NetNs::new()?.with_clsact_where_needed()?;
        let runner = cgroup.runner()?.in_netns(&netns);
        Ok(Self { cgroup, netns, runner, _resumed: Resumed })
    }
}

/// Waits until datagrams pass.
fn is_free(victim: &Victim) -> Result<()> {
    let received = &victim.board.datagrams.received;
    let before = received.load(Acquire);
    wait_until("datagrams to pass", || received.load(Acquire) > before + 100).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn halt_ends_all_runs_and_keeps_new_ones_from_beginning() -> Result<()> {
    if on_host() {
        skip!("would end other runs of this machine");
    }
    let Scene { cgroup, netns, runner, .. } = &Scene::new()?;
    let (one, two) = (cgroup.child("one")?, cgroup.child("two")?);
    let mut victims =
        [Victim::talking_to_itself(&one, netns, 7001)?, Victim::talking_to_itself(&two, netns, 7002)?];
    let objects = KernelObjects::now()?;
    let mut runs = vec![];
    for target in [&one, &two] {
        let mut run = Kchaos::inject("--loss 100%", target.path()).at(runner).start()?;
        run.armed()?;
        runs.push(run);
    }
    ensure!(ask_from(&Place::default().as_nobody(), "halt")?.status != 0, "anybody can halt");
    ensure!(!Path::new(LEVER).exists(), "anybody can halt");
    let halted = ask("halt incident-42")?.fine()?;
    ensure!(halted.events[0]["event"] == "halted", "{:?}", halted.events);
    // Both are gone when it says so.
    KernelObjects::now()?.since(&objects).wait_gone()?;
    for run in runs {
        let finished = run.finish()?;
        finished.expect_status(5)?;
        ensure!(finished.events("summary")[0]["outcome"] == "halted", "{}", finished.text());
    }
    victims.iter().try_for_each(is_free)?;
    ensure!(fs::metadata(LEVER)?.permissions().mode() & 0o077 == 0, "the lever is everybody's");

    let refused = Kchaos::inject("--loss 100%", one.path()).at(runner).run()?;
    refused.expect_status(6)?;
    let message = refused.error()?.message;
    ensure!(message.contains("incident-42") && message.contains("kchaos resume"), "{message}");
    let refused = Kchaos::exec("--loss 100%", &["true"]).at(runner).run()?;
    refused.expect_status(125)?;
    ensure!(refused.error()?.code == 6, "{}", refused.text());
    KernelObjects::now()?.since(&objects).wait_gone()?;

    ensure!(ask("resume")?.fine()?.event()?["was_halted"] == true, "it was halted");
    ensure!(ask("resume")?.fine()?.event()?["was_halted"] == false, "it was not halted any more");
    let mut run = Kchaos::inject("--loss 100%", one.path()).at(runner).start()?;
    run.armed()?;
    run.interrupt()?;
    for victim in &mut victims {
        victim.stop(Role::Second)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_lever_made_by_hand_ends_the_fault_but_not_the_command() -> Result<()> {
    if on_host() {
        skip!("would end other runs of this machine");
    }
    let Scene { runner, .. } = &Scene::new()?;
    let board = SharedBoard::create()?;
    let words = "udp-pair --to 127.0.0.1:7003 --rate-per-ms 2";
    let mut run = Kchaos::exec_victim("--loss 100%", words, &board)?.at(runner).start()?;
    run.armed()?;
    let datagrams = &board.datagrams;
    wait_until("datagrams to be sent", || datagrams.sent.load(Acquire) > 50)?;
    fs::write(LEVER, "")?;
    let before = datagrams.received.load(Acquire);
    wait_until("datagrams to pass", || datagrams.received.load(Acquire) > before + 100)?;
    board.stop.store(1, Release);
    let finished = run.finish()?;
    // The command's own status; the run's stands in its account.
    finished.expect_status(0)?;
    ensure!(finished.events("summary")[0]["code"] == 5, "{}", finished.text());
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn stop_all_ends_all_runs() -> Result<()> {
    if on_host() {
        skip!("would end other runs of this machine");
    }
    let Scene { cgroup, runner, .. } = &Scene::new()?;
    let objects = KernelObjects::now()?;
    let mut runs = vec![];
    for name in ["one", "two", "three"] {
        let mut run = Kchaos::inject("--observe --loss 1%", cgroup.child(name)?.path()).at(runner).start()?;
        let id = run.armed()?.run;
        runs.push((run, id));
    }
    let stopped = ask("stop --all")?.fine()?;
    KernelObjects::now()?.since(&objects).wait_gone()?;
    for (run, id) in runs {
        let event = stopped.about(&id);
        ensure!(event.is_some_and(|event| event["code"] == 143), "{id}: {:?}", stopped.events);
        run.finish()?.expect_status(143)?;
    }
    ensure!(ask("stop --all")?.fine()?.events.is_empty(), "something was left to stop");
    Ok(())
}
