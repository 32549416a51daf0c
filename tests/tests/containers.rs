//! Real containers, made by Podman: found by name and by id, hit, followed over a restart and left alone afterwards, and
//! their neighbours are spared.

use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::SharedBoard;
use integration_tests::capability::file_errors_missing;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::patience::wait_until;
use integration_tests::plan::plan;
use integration_tests::podman::{self, Container, Podman};
use integration_tests::skip;
use integration_tests::tasks::read_tasks;
use nix::sys::signal::Signal;
use serde_json::json;

/// Sends itself datagrams over the loopback device of the container.
const TALK: &str = "udp-pair --to 127.0.0.1:7600 --rate-per-ms 1";
/// The socket where kchaos asks Docker.
const DOCKER: &str = "/run/docker.sock";

/// A name that no other test gives to a container.
fn named(name: &str) -> String {
    format!("kctest-{name}-{}", std::process::id())
}

fn lost(board: &SharedBoard) -> u64 {
    board.datagrams.lost.load(Acquire)
}

fn wait_for_loss(container: &Container<'_>, what: &str) -> Result<()> {
    let before = lost(&container.board);
    wait_until(what, || lost(&container.board) > before + 50).map(drop)
}

/// Waits for datagrams that are not hit any more.
fn check_at_rest(container: &Container<'_>) -> Result<()> {
    let received = &container.board.datagrams.received;
    // Those that were lost at last are known as such when a later one has come.
    let before = received.load(Acquire);
    wait_until("datagrams after the end", || received.load(Acquire) > before + 50)?;
    let (before, lost_before) = (received.load(Acquire), lost(&container.board));
    wait_until("more of them", || received.load(Acquire) > before + 200)?;
    let more = lost(&container.board) - lost_before;
    // Half of them were hit; below Linux 6.6, removing the qdisc loses some by itself.
    ensure!(more < 20, "{more} datagrams were lost after the end");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_is_felt_by_a_container_over_its_restart_and_not_by_its_neighbour() -> Result<()> {
    if let Some(reason) = podman::missing()? {
        skip!("{reason}");
    }
    let (podman, cgroup) = (Podman::new()?, TestCgroup::new()?);
    let runner = cgroup.runner()?;
    let (web, db) = (named("web"), named("db"));
    let mut hit = podman.container(&web, TALK)?;
    let spared = podman.container(&db, TALK)?;
    let path = hit.cgroup()?.path().to_owned();
    ensure!(path.to_string_lossy().contains(&hit.id), "{} of {}", path.display(), hit.id);
    // Podman's conmon tells the name, and then its service as well, whose answer is the same container.
    let by_name = plan(&format!("--container {web} --loss 50%"))?;
    ensure!(by_name["chosen"] == json!([path]), "{by_name}");
    ensure!(by_name["target"].as_str().is_some_and(|target| target.contains(&hit.id)), "{by_name}");
    {
        let _service = podman.serve()?;
        ensure!(plan(&format!("--container {web} --loss 50%"))?["chosen"] == json!([path]));
    }
    let objects = KernelObjects::now()?;
    for target in [hit.id.get(..12).context("no id")?.to_owned(), web.clone()] {
        let line = format!("inject --json --duration 600s --container {target} --loss 50%");
        let mut running = Kchaos::new(&line).at(&runner).start()?;
        let armed = running.armed()?;
        ensure!(armed.cgroup == path.to_string_lossy(), "{target}: {} was hit", armed.cgroup);
        wait_for_loss(&hit, "datagrams to be lost")?;
        if target == web {
            let ours = |event: &serde_json::Value| event["cgroup"] == json!(path);
            hit.stop()?;
            running.event("target_gone", ours)?;
            hit.start()?;
            let back = running.event("target_back", ours)?;
            ensure!(hit.cgroup()?.path() == path, "it came again elsewhere");
            measure("container_back", json!({"away_s": back["away_s"], "took_ms": back["took_ms"]}));
            wait_for_loss(&hit, "datagrams to be lost after the restart")?;
        }
        let finished = running.interrupt()?;
        let rule = finished.summary()?.rule()?.clone();
        ensure!(rule.injected.events >= 50, "{target}: {rule:?}");
        KernelObjects::now()?.since(&objects).wait_gone()?;
        check_at_rest(&hit)?;
    }
    Traffic::of_stopped(&hit.board)?.check_silent()?;
    Traffic::of_stopped(&spared.board)?.check_unharmed()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_fail_in_a_container_and_not_in_its_neighbour() -> Result<()> {
    if let Some(reason) = podman::missing()? {
        skip!("{reason}");
    }
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let (podman, cgroup) = (Podman::new()?, TestCgroup::new()?);
    let words = "calls --call openat --wait --no-controls --pause-us 100";
    let web = named("web");
    let (hit, spared) = (podman.container(&web, words)?, podman.container(&named("db"), words)?);
    let line = format!("inject --json --duration 600s --container {web} --fail openat=EIO@100%");
    let mut running = Kchaos::new(&line).at(&cgroup.runner()?).start()?;
    running.armed()?;
    let calls = |container: &Container<'_>| read_tasks(&container.board).first().map_or(0, |task| task.calls);
    for container in [&hit, &spared] {
        container.board.go.store(1, Release);
        wait_until("calls", || calls(container) > 100)?;
    }
    let missed = running.interrupt()?.summary()?.rule()?.missed;
    let (felt, others) = (read_tasks(&hit.board)[0].errno("EIO"), read_tasks(&spared.board)[0].errno("EIO"));
    ensure!(felt + missed > 100 && others == 0, "{felt} errors, {missed} missed, {others} of the neighbour");
    let (before, succeeded) = (calls(&hit), read_tasks(&hit.board)[0].succeeded);
    wait_until("calls after the end", || calls(&hit) > before + 50)?;
    ensure!(read_tasks(&hit.board)[0].succeeded > succeeded, "calls still fail after the end");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn containers_live_on_when_the_owner_is_killed() -> Result<()> {
    if let Some(reason) = podman::missing()? {
        skip!("{reason}");
    }
    let (podman, cgroup) = (Podman::new()?, TestCgroup::new()?);
    let web = named("web");
    let hit = podman.container(&web, TALK)?;
    let (pid, path, objects) = (hit.pid()?, hit.cgroup()?, KernelObjects::now()?);
    let line = format!("inject --json --duration 600s --container {web} --loss 50%");
    let mut running = Kchaos::new(&line).at(&cgroup.runner()?).start()?;
    running.armed()?;
    wait_for_loss(&hit, "datagrams to be lost")?;
    running.signal(Signal::SIGKILL)?;
    running.finish()?;
    KernelObjects::now()?.since(&objects).wait_gone()?;
    check_at_rest(&hit)?;
    ensure!((hit.pid()?, hit.cgroup()?.path()) == (pid, path.path()), "the container was restarted");
    ensure!(podman.run(&["ps", "--quiet", "--no-trunc"])? == hit.id, "podman does not see it running");
    Traffic::of_stopped(&hit.board)?.check_silent()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_name_that_is_not_of_one_running_container_is_refused() -> Result<()> {
    if let Some(reason) = podman::missing()? {
        skip!("{reason}");
    }
    let (podman, another) = (Podman::new()?, Podman::new()?);
    let web = named("web");
    let (one, two) = (podman.container(&web, "sleep")?, another.container(&web, "sleep")?);
    let refused = |name: &str, status: i32, named: &[&str]| -> Result<()> {
        let finished = Kchaos::new(&format!("plan --json --container {name} --loss 1%")).run()?;
        let message = finished.expect_status(status)?.error()?.message;
        named.iter().try_for_each(|word| {
            ensure!(message.contains(word), "{name}: {message:?} does not name {word}");
            Ok(())
        })
    };
    refused(&web, 2, &[&web, "several", &one.id, &two.id])?;
    refused(web.trim_end_matches(char::is_numeric), 2, &["podman ps"])?;
    two.stop()?;
    plan(&format!("--container {web} --loss 1%"))?;
    one.stop()?;
    refused(&web, 2, &[&web, "podman ps"])?;
    {
        let _service = podman.serve()?;
        refused(&web, 2, &[&web, "Podman", "exited", "start it first"])?;
    }
    // Somebody who listens and says nothing might know it.
    let _silent = UnixListener::bind(DOCKER).context(DOCKER)?;
    let refused = refused(&web, 8, &["Docker", DOCKER, "no answer", "id"]);
    std::fs::remove_file(DOCKER)?;
    refused
}
