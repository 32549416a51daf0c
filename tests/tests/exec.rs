//! `kchaos exec` is like env(1): the command's own status, signals and streams, and nothing left behind.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::kchaos::{Finished, Kchaos, Running};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::spawn::{Place, victim_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const FAULT: &str = "--loss 1%";

/// A runner's cgroup and network namespace, both to be found empty afterwards.
struct Scene {
    cgroup: TestCgroup,
    runner: Cgroup,
    netns: NetNs,
    place: Place,
    furniture: String,
    objects: KernelObjects,
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let runner = cgroup.child("runner")?;
        let netns = NetNs::new()?.with_clsact_where_needed()?;
        let place = Place::default().in_cgroup(&runner).in_netns(&netns);
        let furniture = netns.furniture()?;
        Ok(Self { cgroup, runner, netns, place, furniture, objects: KernelObjects::now()? })
    }

    /// Runs a victim that reports nothing.
    fn victim(&self, faults: &str, arguments: &str) -> Result<Finished> {
        let binary = victim_binary()?;
        let mut words = vec![binary.as_str()];
        words.extend(arguments.split_whitespace());
        Kchaos::exec(faults, &words).at(&self.place).run()
    }

    fn check_clean(&self) -> Result<()> {
        KernelObjects::now()?.since(&self.objects).wait_gone()?;
        let left = self.runner.children()?;
        ensure!(left.is_empty(), "cgroups left: {left:?}");
        let furniture = self.netns.furniture()?;
        ensure!(furniture == self.furniture, "left behind: {furniture} instead of {}", self.furniture);
        Ok(())
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_commands_exit_status_is_passed_on() -> Result<()> {
    let scene = Scene::new()?;
    for status in [0, 42, 255] {
        let finished = scene.victim(FAULT, &format!("exit {status}"))?;
        finished.expect_status(status)?;
        let summary = finished.summary()?;
        ensure!(summary.exit_status == Some(status) && summary.signal.is_none(), "{summary:?}");
        ensure!(summary.undone.cgroup_removed == Some(true), "{summary:?}");
        scene.check_clean()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_commands_crash_is_passed_on() -> Result<()> {
    let scene = Scene::new()?;
    for signal in [Signal::SIGSEGV, Signal::SIGKILL] {
        let finished = scene.victim(FAULT, &format!("die {}", signal as i32))?;
        finished.expect_status(128 + signal as i32)?;
        let summary = finished.summary()?;
        ensure!(summary.signal == Some(signal as i32) && summary.exit_status.is_none(), "{summary:?}");
        scene.check_clean()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_command_that_cannot_run_gives_126_or_127() -> Result<()> {
    let scene = Scene::new()?;
    Kchaos::exec(FAULT, &["/no/such/command"]).at(&scene.place).run()?.expect_status(127)?;
    Kchaos::exec(FAULT, &["no-such-command-of-kchaos"]).at(&scene.place).run()?.expect_status(127)?;
    scene.check_clean()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("not-executable");
    File::create(&file)?.write_all(b"nothing to run")?;
    let name = file.display().to_string();
    Kchaos::exec(FAULT, &[&name]).at(&scene.place).run()?.expect_status(126)?;
    Kchaos::exec(FAULT, &[&directory.path().display().to_string()])
        .at(&scene.place)
        .run()?
        .expect_status(126)?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn require_hit_turns_an_idle_run_into_125() -> Result<()> {
    let scene = Scene::new()?;
    scene.victim("--loss 100%", "exit 0")?.expect_status(0)?;
    let finished = scene.victim("--loss 100% --require-hit", "exit 0")?;
    finished.expect_status(125)?;
    let summary = finished.summary()?;
    ensure!(summary.code == 9 && summary.outcome == "nothing_injected", "{summary:?}");
    scene.check_clean()?;
    let hit = scene.victim("--loss 100% --require-hit", "udp-send --alone --to 127.0.0.1:9 -n 3")?;
    hit.expect_status(0)?;
    ensure!(hit.summary()?.rule()?.injected.events == 3, "{}", hit.text());
    scene.check_clean()
}

fn start_sleeper(scene: &Scene, arguments: &str, board: &SharedBoard) -> Result<(Running, u32)> {
    let mut running = Kchaos::exec_victim(FAULT, arguments, board)?.at(&scene.place).as_job().start()?;
    let armed = running.armed()?;
    wait_until("the command to be ready", || board.ready.load(Acquire) != 0)?;
    let command = armed.pid.context("the armed event names no pid")?;
    Ok((running, command))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ctrl_c_ends_the_command_and_rolls_back() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let (running, _) = start_sleeper(&scene, "sleep", &board)?;
    // A terminal sends SIGINT to the whole foreground job.
    kill(Pid::from_raw(-(running.pid() as i32)), Signal::SIGINT).context("interrupting the job")?;
    let finished = running.finish()?;
    finished.expect_status(130)?;
    ensure!(finished.summary()?.signal == Some(2), "{}", finished.text());
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sigterm_is_passed_to_the_command() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let (mut running, _) = start_sleeper(&scene, "sleep", &board)?;
    running.signal(Signal::SIGTERM)?;
    let finished = running.finish()?;
    finished.expect_status(143)?;
    finished.summary()?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_command_that_survives_ctrl_c_keeps_its_status() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let (mut running, _) = start_sleeper(&scene, "sleep --stubborn", &board)?;
    kill(Pid::from_raw(-(running.pid() as i32)), Signal::SIGINT).context("interrupting the job")?;
    ensure!(running.process.ended()?.is_none(), "kchaos left its command alone");
    board.stop.store(1, Release);
    let finished = running.finish()?;
    finished.expect_status(0)?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn processes_left_by_the_command_keep_the_cgroup_but_not_the_fault() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let (mut running, command) = start_sleeper(&scene, "sleep", &board)?;
    let fresh = scene.runner.children()?;
    ensure!(fresh.len() == 1 && fresh[0].starts_with("kchaos-"), "{fresh:?}");
    let fresh = Cgroup::existing(scene.runner.path().join(&fresh[0]));
    let left = SharedBoard::create()?;
    let mut straggler = integration_tests::spawn::Victim::start_on(
        &Place::default().in_cgroup(&fresh),
        "sleep",
        std::sync::Arc::new(left),
    )?;
    straggler.ready()?;
    board.stop.store(1, Release);
    running.process.wait()?;
    ensure!(fresh.exists(), "the cgroup went with a process in it");
    KernelObjects::now()?.since(&scene.objects).wait_gone()?;
    ensure!(!fresh.pids()?.contains(&(command as i32)), "the command outlived itself");
    straggler.stop(Role::First).ok();
    // Either the guardian or `clean` removes it once it is empty.
    Kchaos::new("clean").at(&scene.place).run()?.expect_status(0)?;
    wait_until("the cgroup to go", || !fresh.exists())?;
    scene.check_clean()
}

fn who_am_i(scene: &Scene) -> Result<Value> {
    let board = SharedBoard::create()?;
    let finished = Kchaos::exec_victim(FAULT, "who-am-i", &board)?.at(&scene.place).run()?;
    finished.expect_status(0)?;
    board.result(Role::First)?.context("no report")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_command_runs_in_a_fresh_cgroup_below_the_callers() -> Result<()> {
    let scene = Scene::new()?;
    let report = who_am_i(&scene)?;
    let cgroup = report["cgroup"].as_str().context("no cgroup")?;
    let runner = format!(
        "{}/runner/kchaos-",
        scene.cgroup.root().path().file_name().context("no name")?.to_string_lossy()
    );
    ensure!(cgroup.trim_start_matches('/').starts_with(&runner), "{cgroup} is not below {runner}");
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn no_descriptor_of_kchaos_leaks_into_the_command() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let finished = Kchaos::exec_victim(FAULT, "fds", &board)?.at(&scene.place).run()?;
    finished.expect_status(0)?;
    let report = board.result(Role::First)?.context("no report")?;
    let fds = report["fds"].as_object().context("no list")?;
    // A leaked link would keep the fault alive after kchaos.
    let leaked: Vec<_> = fds
        .iter()
        .filter(|(_, target)| {
            let target = target.as_str().unwrap_or_default();
            target.contains("bpf") || target.contains("perf_event") || target.contains("cgroup")
        })
        .collect();
    ensure!(leaked.is_empty(), "leaked: {leaked:?}");
    let own: Vec<&String> = fds.keys().filter(|fd| !["0", "1", "2"].contains(&fd.as_str())).collect();
    let inherited: Vec<String> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect();
    ensure!(own.iter().all(|fd| inherited.contains(fd)), "descriptors beyond the standard streams: {fds:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_terminal_is_the_commands() -> Result<()> {
    let scene = Scene::new()?;
    let terminal = nix::pty::openpty(None, None).context("opening a pseudo terminal")?;
    let board = SharedBoard::create()?;
    let finished =
        Kchaos::exec_victim(FAULT, "who-am-i", &board)?.at(&scene.place).on_terminal(terminal.slave).run()?;
    finished.expect_status(0)?;
    let report = board.result(Role::First)?.context("no report")?;
    ensure!(report["terminal"] == true && report["foreground"] == true, "{report}");
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ctrl_c_on_the_terminal_ends_the_command() -> Result<()> {
    let scene = Scene::new()?;
    let terminal = nix::pty::openpty(None, None).context("opening a pseudo terminal")?;
    let board = SharedBoard::create()?;
    let mut running =
        Kchaos::exec_victim(FAULT, "sleep", &board)?.at(&scene.place).on_terminal(terminal.slave).start()?;
    running.armed()?;
    wait_until("the command to be ready", || board.ready.load(Acquire) != 0)?;
    nix::unistd::write(&terminal.master, b"\x03").context("typing Ctrl-C")?;
    let finished = running.finish()?;
    finished.expect_status(130)?;
    finished.summary()?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_duration_ends_the_fault_but_not_the_command() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let arguments = "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2";
    let running =
        Kchaos::exec_victim("--loss 50% --duration 1s", arguments, &board)?.at(&scene.place).start()?;
    let counts = &board.datagrams;
    wait_until("losses", || counts.lost.load(Acquire) > 20)?;
    // Far more datagrams in a row than any luck at 50 % could spare.
    wait_until("the end of the fault", || {
        let quiet_ns =
            counts.last_received_sent_ns.load(Acquire).saturating_sub(counts.last_lost_sent_ns.load(Acquire));
        quiet_ns > 500_000_000
    })?;
    board.stop.store(1, Release);
    let finished = running.finish()?;
    finished.expect_status(0)?;
    finished.summary()?;
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_bystander_is_reported_beside_the_target() -> Result<()> {
    let scene = Scene::new()?;
    let board = SharedBoard::create()?;
    let arguments = "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2";
    let faults = "--loss 50% --direction both --bystander";
    let mut running = Kchaos::exec_victim(faults, arguments, &board)?.at(&scene.place).start()?;
    running.armed()?;
    wait_until("losses", || board.datagrams.lost.load(Acquire) > 500)?;
    board.stop.store(1, Release);
    let finished = running.finish()?;
    finished.expect_status(0)?;
    let bystander = finished.summary()?.bystander.context("no bystander is reported")?;
    for (made, harmed) in [("packets", "lost"), ("calls", "failed")] {
        ensure!(bystander[made].as_u64().unwrap_or(0) > 0, "the bystander made no {made}: {bystander}");
        ensure!(bystander[harmed] == 0, "the bystander was hit: {bystander}");
    }
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn events_go_into_a_file_if_asked() -> Result<()> {
    let scene = Scene::new()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events");
    let line = format!("exec --json={} --loss 100% -- {} exit 3", file.display(), victim_binary()?);
    let finished = Kchaos::new(&line).at(&scene.place).run()?;
    finished.expect_status(3)?;
    let written = std::fs::read_to_string(&file).context("reading the events")?;
    let events: Vec<Value> = written.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    ensure!(names == ["armed", "summary"], "{written}");
    // People read standard error meanwhile.
    ensure!(finished.text().contains("loss"), "no summary for people: {}", finished.text());
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn kernel_programs_speak_when_asked() -> Result<()> {
    let scene = Scene::new()?;
    let words = "udp-send --alone --to 127.0.0.1:9 -n 20";
    let silent = scene.victim("--loss 100%", words)?;
    ensure!(!silent.text().contains("egress packet"), "{}", silent.text());
    let spoken = scene.victim("-vv --loss 100%", words)?;
    spoken.expect_status(0)?;
    ensure!(spoken.text().contains("egress packet"), "the kernel programs said nothing: {}", spoken.text());
    scene.check_clean()
}
