//! Targets that are made anew while a run goes on, as those of a restarted unit or container: they are found again by their
//! path, and nobody else is.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::capability::{delay_missing, file_errors_missing, socket_hooks_work};
use integration_tests::cgroup::Cgroup;
use integration_tests::control::ask;
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Finished, Kchaos, Running};
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::{monotonic_ns, wait_until};
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim, victim_binary, victim_words};
use integration_tests::tasks::read_tasks;
use nix::sys::signal::Signal;
use serde_json::json;

/// Targets `pods/0`, `pods/1` and so on, and a run that hits them.
struct Pods {
    ground: Ground,
    pods: Cgroup,
    running: Running,
    run: String,
}

impl Pods {
    fn start(count: usize, faults: &str) -> Result<Self> {
        let ground = Ground::new()?;
        let pods = ground.cgroup.child("pods")?;
        let all = (0..count).map(|number| pods.child(&number.to_string())).collect::<Result<Vec<_>>>()?;
        let named: Vec<_> = all.iter().map(|pod| format!("--cgroup {}", pod.path().display())).collect();
        let line = format!("inject --json --duration 600s {} {faults}", named.join(" "));
        let mut running = Kchaos::new(&line).at(&ground.runner).start()?;
        let run = running.armed()?.run;
        Ok(Self { ground, pods, running, run })
    }

    fn path(&self, number: usize) -> PathBuf {
        self.pods.path().join(number.to_string())
    }

    /// Removes a target with everything in it, and waits until that is told.
    fn remove(&mut self, number: usize) -> Result<()> {
        Cgroup::existing(self.path(number)).remove()?;
        let path = self.path(number);
        self.running.event("target_gone", |event| event["cgroup"] == json!(path)).map(drop)
    }

    /// Makes it anew.
    fn make(&self, number: usize) -> Result<Cgroup> {
        let path = self.path(number);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Cgroup::existing(path))
    }

    /// Makes it anew for the first time, and waits until it is hit.
    fn make_and_wait(&mut self, number: usize) -> Result<Cgroup> {
        let (path, since) = (self.path(number), Instant::now());
        let again = self.make(number)?;
        let back = self.running.event("target_back", |event| event["cgroup"] == json!(path))?;
        let told_ms = since.elapsed().as_secs_f64() * 1e3;
        measure("target_back", json!({"told_ms": told_ms, "took_ms": back["took_ms"]}));
        Ok(again)
    }

    /// Traffic of a victim in this cgroup, until it has lost some.
    fn suffer(&self, cgroup: &Cgroup, port: u16) -> Result<Traffic> {
        let mut victim = Victim::talking_to_itself(cgroup, &self.ground.netns, port)?;
        let lost = &victim.board.datagrams.lost;
        wait_until("datagrams to be lost", || lost.load(Acquire) > 50)?;
        victim.stop(Role::Second)?;
        Traffic::read(&victim.board)
    }

    fn end(self) -> Result<Finished> {
        let finished = self.running.interrupt()?;
        self.ground.check_clean()?;
        Ok(finished)
    }
}

/// How often a target came again, by the summary.
fn times(finished: &Finished, path: &PathBuf) -> u64 {
    let summary = finished.events("summary");
    let all = summary[0]["restarted"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|one| one["cgroup"] == json!(path)).filter_map(|one| one["times"].as_u64()).sum()
}

fn felt_again(targets: usize, direction: &str, port: u16) -> Result<()> {
    let mut pods = Pods::start(targets, &format!("--direction {direction} --loss 50%"))?;
    let beside = pods.ground.cgroup.child("beside")?;
    let mut bystander = Victim::talking_to_itself(&beside, &pods.ground.netns, port + 9)?;
    let last = targets - 1;
    let before = pods.suffer(&Cgroup::existing(pods.path(last)), port)?;
    pods.remove(last)?;
    let status = ask(&format!("status {}", pods.run))?.fine()?;
    let gone = &status.event()?["restarted"][0];
    ensure!(gone["cgroup"] == json!(pods.path(last)) && gone["gone_since_s"].is_f64(), "{gone}");
    // Nobody has asked for this one.
    let other = pods.pods.child("other")?;
    let mut unasked = Victim::talking_to_itself(&other, &pods.ground.netns, port + 1)?;
    let again = pods.make_and_wait(last)?;
    let after = pods.suffer(&again, port)?;
    let neighbour =
        if last > 0 { Some(pods.suffer(&Cgroup::existing(pods.path(0)), port + 2)?) } else { None };
    for victim in [&mut bystander, &mut unasked] {
        victim.stop(Role::Second)?;
        Traffic::read(&victim.board)?.check_unharmed()?;
    }
    let path = pods.path(last);
    let finished = pods.end()?;
    let rule = finished.summary()?.rule()?.clone();
    let all = [Some(before), Some(after), neighbour];
    let (mut sent, mut lost) = (0, 0);
    for traffic in all.iter().flatten() {
        traffic.check_silent()?;
        sent += traffic.sent;
        lost += traffic.lost();
    }
    ensure!(
        (rule.seen.events, rule.injected.events) == (sent, lost),
        "{rule:?}, but {sent} sent and {lost} lost: {all:?}"
    );
    ensure!(times(&finished, &path) == 1, "{:?}", finished.events("summary"));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_is_felt_again_by_the_only_target() -> Result<()> {
    felt_again(1, "egress", 7401)?;
    felt_again(1, "ingress", 7421)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_is_felt_again_by_one_of_many() -> Result<()> {
    felt_again(3, "egress", 7401)?;
    felt_again(12, "egress", 7421)?;
    felt_again(12, "ingress", 7441)
}

/// A target restarts as a unit does that fails at once: its processes begin as soon as there is a cgroup for them.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_target_that_restarts_again_and_again_is_hit_every_time() -> Result<()> {
    const RESTARTS: u64 = 20;
    let mut pods = Pods::start(1, "--loss 100% --protocol udp")?;
    let (mut escaped, mut gaps_ms) = (vec![], vec![]);
    for round in 0..RESTARTS {
        Cgroup::existing(pods.path(0)).remove()?;
        let made_ns = monotonic_ns();
        fs::create_dir(pods.path(0))?;
        let place = Place::default().in_cgroup(&Cgroup::existing(pods.path(0))).in_netns(&pods.ground.netns);
        let mut victim = Victim::start(&place, "udp-pair --to 127.0.0.1:7461 --rate-per-ms 2")?;
        let datagrams = &victim.board.datagrams;
        let (mut received, mut since) = (0, 0);
        wait_until(&format!("datagrams to arrive no more, round {round}"), || {
            let (now, sent) = (datagrams.received.load(Acquire), datagrams.sent.load(Acquire));
            if now != received {
                (received, since) = (now, sent);
            }
            sent > since + 150
        })?;
        escaped.push(received);
        let last_ns = datagrams.last_received_sent_ns.load(Acquire);
        gaps_ms.push(if received == 0 { 0.0 } else { last_ns.saturating_sub(made_ns) as f64 / 1e6 });
        victim.signal(Signal::SIGKILL)?;
    }
    let wanted = |value: &serde_json::Value| value["cgroup"] == json!(pods.pods.path().join("0"));
    pods.running.event("target_back", wanted)?;
    measure("restarts", json!({"restarts": RESTARTS, "escaped": escaped, "gaps_ms": gaps_ms}));
    let path = pods.path(0);
    let finished = pods.end()?;
    let counted = times(&finished, &path);
    ensure!(counted == RESTARTS, "{counted} restarts of {RESTARTS}: {:?}", finished.events("summary"));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_target_is_found_again_below_what_was_removed_with_it() -> Result<()> {
    let ground = Ground::new()?;
    let path = ground.target.child("upper")?.child("lower")?.path().to_owned();
    let mut running = Kchaos::inject("--loss 50%", &path).at(&ground.runner).start()?;
    running.armed()?;
    for round in 0..3 {
        Cgroup::existing(ground.target.path().join("upper")).remove()?;
        fs::create_dir_all(&path)?;
        let lower = Cgroup::existing(&path);
        let mut victim = Victim::talking_to_itself(&lower, &ground.netns, 7471)?;
        let lost = &victim.board.datagrams.lost;
        wait_until(&format!("datagrams to be lost, round {round}"), || lost.load(Acquire) > 20)?;
        victim.stop(Role::Second)?;
    }
    let finished = running.interrupt()?;
    ensure!(times(&finished, &path) == 3, "{:?}", finished.events("summary"));
    ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nothing_is_left_when_the_owner_is_killed_after_a_restart() -> Result<()> {
    for direction in ["egress", "ingress"] {
        let mut pods = Pods::start(2, &format!("--direction {direction} --loss 50%"))?;
        pods.remove(1)?;
        let again = pods.make_and_wait(1)?;
        let mut victim = Victim::talking_to_itself(&again, &pods.ground.netns, 7481)?;
        let datagrams = &victim.board.datagrams;
        wait_until("datagrams to be lost", || datagrams.lost.load(Acquire) > 50)?;
        pods.running.signal(Signal::SIGKILL)?;
        pods.running.finish()?;
        pods.ground.check_clean()?;
        let received = datagrams.received.load(Acquire);
        wait_until("datagrams after the end", || datagrams.received.load(Acquire) > received + 50)?;
        let lost = datagrams.lost.load(Acquire);
        wait_until("more of them", || datagrams.received.load(Acquire) > received + 500)?;
        let more = datagrams.lost.load(Acquire) - lost;
        ensure!(more < 20, "{more} datagrams were lost after the end");
        victim.stop(Role::Second)?;
    }
    Ok(())
}

/// As a container, whose processes are in a network namespace that was made for them.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn loss_is_felt_in_a_network_namespace_that_came_with_a_restart() -> Result<()> {
    let mut pods = Pods::start(1, "--loss 50%")?;
    for round in 0..2 {
        pods.remove(0)?;
        let again = pods.make(0)?;
        let netns = NetNs::new()?.with_clsact_where_needed()?;
        let mut victim = Victim::talking_to_itself(&again, &netns, 7491)?;
        let lost = &victim.board.datagrams.lost;
        wait_until(&format!("datagrams to be lost, round {round}"), || lost.load(Acquire) > 50)?;
        victim.stop(Role::Second)?;
    }
    pods.end().map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_delay_is_felt_in_a_network_namespace_that_came_with_a_restart() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let mut pods = Pods::start(1, "--delay 300ms")?;
    pods.remove(0)?;
    let again = pods.make_and_wait(0)?;
    let netns = NetNs::new()?;
    let place = Place::default().in_cgroup(&again).in_netns(&netns);
    // Somebody has to be there first: the devices of the namespace are found by its processes.
    let links = |pods: &Pods| -> Result<usize> {
        Ok(integration_tests::kernel_objects::KernelObjects::now()?.since(&pods.ground.objects).links.len())
    };
    let before = links(&pods)?;
    let mut resident = Victim::start(&place, "sleep")?;
    resident.ready()?;
    wait_until("attachments in the new namespace", || links(&pods).is_ok_and(|now| now > before))?;
    let words = "udp-pair --to 127.0.0.1:7495 --rate-per-ms 1 -n 100";
    let mut victim =
        Victim::start(&place, &format!("{words} --idle-ms {}", integration_tests::loss::idle_ms()))?;
    victim.finish(Role::Second)?;
    let traffic = Traffic::read(&victim.board)?;
    traffic.check_unharmed()?;
    ensure!(traffic.median_ms()? >= 299.0, "{:?}", traffic.delays_ms);
    resident.stop(Role::First).or_else(|_| Ok::<_, anyhow::Error>(json!(null)))?;
    pods.end().map(drop)
}

/// Calls of a victim that joins the new cgroup fail in it, from the first one on.
fn calls_fail_again(targets: usize, call: &str, errno: &str, faults: &str) -> Result<()> {
    let mut pods = Pods::start(targets, faults)?;
    let arguments = format!("calls --call {call} -n 50 --wait --no-controls");
    let start = |pods: &Pods| Victim::start(&pods.ground.runner, &arguments);
    let mut victims = [start(&pods)?, start(&pods)?, start(&pods)?];
    let last = targets - 1;
    pods.remove(last)?;
    let again = pods.make_and_wait(last)?;
    let beside = pods.pods.child("beside")?;
    let places = [&again, &Cgroup::existing(pods.path(0)), &beside];
    for (victim, place) in victims.iter_mut().zip(places) {
        victim.ready()?;
        place.adopt(victim.pid())?;
        victim.board.go.store(1, Release);
        victim.finish(Role::First)?;
    }
    let missed = pods.end()?.summary()?.rule()?.missed;
    for (number, victim) in victims.iter().enumerate() {
        let tasks = read_tasks(&victim.board);
        let felt = tasks[0].errno(errno);
        let right = if number < 2 { felt + missed >= 50 } else { felt == 0 };
        ensure!(right && tasks[0].calls == 50, "{}: {tasks:?}", places[number].path().display());
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_fail_again_in_one_and_in_one_of_many() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    for targets in [1, 12] {
        calls_fail_again(targets, "openat", "EIO", "--fail openat=EIO@100%")?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_fail_again_by_socket_hooks() -> Result<()> {
    if !socket_hooks_work() {
        skip!("socket hooks cannot set an errno");
    }
    let faults = "--mechanism cgroup_sock_addr --fail connect=ETIMEDOUT";
    for targets in [1, 12] {
        calls_fail_again(targets, "connect", "ETIMEDOUT", faults)?;
    }
    Ok(())
}

/// How long a process that is in the new cgroup as soon as it is made is spared: from then to the last call that was not
/// hit.
fn spared(call: &str, errno: &str, faults: &str) -> Result<()> {
    let pods = Pods::start(1, faults)?;
    let beside = pods.ground.cgroup.child("beside")?;
    let arguments = format!("calls --call {call} --wait --no-controls --pause-us 20");
    let mut victim =
        Victim::start(&Place::default().in_cgroup(&beside).in_netns(&pods.ground.netns), &arguments)?;
    victim.ready()?;
    victim.board.go.store(1, Release);
    wait_until("calls", || read_tasks(&victim.board).first().is_some_and(|task| task.calls > 3))?;
    let mut gaps_ms = vec![];
    for _ in 0..20 {
        Cgroup::existing(pods.path(0)).remove()?;
        let felt = |victim: &Victim| read_tasks(&victim.board)[0].errno(errno);
        let before = felt(&victim);
        let made_ns = monotonic_ns();
        pods.make(0)?.adopt(victim.pid())?;
        wait_until("calls to fail", || felt(&victim) > before + 20)?;
        let last_ns = read_tasks(&victim.board)[0].last_success_ns;
        gaps_ms.push(last_ns.saturating_sub(made_ns) as f64 / 1e6);
        beside.adopt(victim.pid())?;
    }
    victim.stop(Role::First)?;
    let path = pods.path(0);
    gaps_ms.sort_by(f64::total_cmp);
    measure("restart_gap", json!({"call": call, "median_ms": gaps_ms[10], "worst_ms": gaps_ms[19]}));
    let finished = pods.end()?;
    ensure!(times(&finished, &path) == 20, "{:?}", finished.events("summary"));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_process_that_is_there_at_once_is_hit_soon() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    spared("openat", "EIO", "--fail openat=EIO@100%")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn who_was_named_by_a_process_is_not_followed() -> Result<()> {
    let ground = Ground::new()?;
    let mut resident = ground.victim(&ground.target, "sleep")?;
    resident.ready()?;
    let line = format!("inject --json --duration 600s --loss 50% --pid {}", resident.pid());
    let mut running = Kchaos::new(&line).at(&ground.runner).start()?;
    running.armed()?;
    ground.target.remove()?;
    fs::create_dir(ground.target.path())?;
    let mut victim = Victim::talking_to_itself(&ground.target, &ground.netns, 7497)?;
    let received = &victim.board.datagrams.received;
    wait_until("datagrams", || received.load(Acquire) > 500)?;
    victim.stop(Role::Second)?;
    Traffic::read(&victim.board)?.check_unharmed()?;
    let finished = running.interrupt()?;
    ensure!(finished.events("target_gone").is_empty() && finished.events("target_back").is_empty());
    ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_run_can_still_be_changed_after_a_restart() -> Result<()> {
    for targets in [1, 12] {
        let mut pods = Pods::start(targets, "--loss 0.001%")?;
        pods.remove(0)?;
        let again = pods.make_and_wait(0)?;
        ask(&format!("set {} --loss 60%", pods.run))?.fine()?;
        pods.suffer(&again, 7485)?;
        pods.end()?;
    }
    Ok(())
}

/// A safety net holds for what comes again, too.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_nobody_means_to_hit_is_let_go_when_it_comes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("sshd");
    fs::copy(victim_binary()?, &program)?;
    let mut pods = Pods::start(1, "--loss 50%")?;
    pods.remove(0)?;
    let again = pods.make_and_wait(0)?;
    let board = integration_tests::board::SharedBoard::create()?;
    let mut command = std::process::Command::new(&program);
    command.args(&victim_words("sleep")?[1..]).stdout(board.handle()?);
    Place::default().in_cgroup(&again).in_netns(&pods.ground.netns).apply(&mut command)?;
    let _sshd = integration_tests::spawn::Process::start(command)?;
    let lost = pods.running.event("target_lost", |_| true)?;
    ensure!(lost["problem"].as_str().is_some_and(|problem| problem.contains("--allow sshd")), "{lost}");
    let mut victim = Victim::talking_to_itself(&again, &pods.ground.netns, 7499)?;
    let received = &victim.board.datagrams.received;
    wait_until("datagrams", || received.load(Acquire) > 500)?;
    victim.stop(Role::Second)?;
    Traffic::read(&victim.board)?.check_unharmed()?;
    let finished = pods.end()?;
    let summary = &finished.events("summary")[0];
    ensure!(summary["restarted"][0]["problem"] == lost["problem"], "{summary}");
    Ok(())
}
