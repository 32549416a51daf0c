//! Live runs from outside: listed, asked, changed without a gap, and ended - by nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::Role;
use integration_tests::capability::{counts_exactly, delay_missing, fails_syscalls};
use integration_tests::cgroup::Cgroup;
use integration_tests::control::{ask, ask_from, is_listed};
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Kchaos, Running, binary};
use integration_tests::loss::Traffic;
use integration_tests::patience::{monotonic_ns, wait_for, wait_until};
use integration_tests::skip;
use integration_tests::spawn::Place;
use integration_tests::tasks::read_tasks;
use nix::sys::signal::Signal;

struct Scene {
    ground: Ground,
    beside: Cgroup,
}

impl Scene {
    fn new() -> Result<Self> {
        let ground = Ground::new()?;
        let beside = ground.cgroup.child("beside")?;
        Ok(Self { ground, beside })
    }

    /// A live run and its id.
    fn inject(&self, faults: &str) -> Result<(Running, String)> {
        let mut running =
            Kchaos::inject(faults, self.ground.target.path()).at(&self.ground.runner).start()?;
        let run = running.armed()?.run;
        Ok((running, run))
    }
}

fn socket(run: &str) -> PathBuf {
    PathBuf::from(format!("/run/kchaos/{run}.sock"))
}

fn injected(run: &str) -> Result<u64> {
    let status = ask(&format!("status {run}"))?.fine()?;
    status.event()?["rules"][0]["injected"]["events"].as_u64().context("no count")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_run_is_listed_counted_and_stopped() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim =
        scene.ground.victim(&scene.ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    let mut other = scene.ground.victim(&scene.beside, "udp-pair --to 127.0.0.1:7002 --rate-per-ms 2")?;
    victim.ready()?;
    let (running, run) = scene.inject("--loss 30%")?;
    let list = ask("list")?.fine()?;
    let shown = list.about(&run).context("the run is not listed")?;
    ensure!(shown["state"] == "armed" && shown["pid"] == running.pid() && shown["command"] == "inject");
    ensure!(shown["cgroup"] == scene.ground.target.path().display().to_string(), "{shown}");
    ensure!(shown["remaining_s"].as_f64().is_some_and(|left| left > 300.0 && left <= 600.0), "{shown}");
    let directory = fs::metadata("/run/kchaos")?.permissions().mode();
    ensure!(directory & 0o077 == 0, "/run/kchaos has the mode {directory:o}");
    // Counts rise, and are found by the beginning of the id as well.
    let (first, _) = wait_for("injections", || Ok(Some(injected(&run[..7])?).filter(|count| *count > 20)))?;
    wait_for("more injections", || Ok(Some(injected(&run)?).filter(|count| *count > first + 20)))?;
    ensure!(ask("status zzzzzzzzz")?.status == 2, "a run that is none was found");

    let stopped = ask(&format!("stop {run}"))?.fine()?;
    let stopped = stopped.event()?;
    let end_ns = monotonic_ns();
    ensure!(stopped["event"] == "stopped" && stopped["code"] == 143, "{stopped}");
    ensure!(stopped["summary"]["undone"]["programs"] == 0, "{stopped}");
    // It was over when `stop` said so.
    scene.ground.check_clean()?;
    ensure!(!is_listed(&run)? && !socket(&run).exists(), "the run is listed after its end");
    let received = victim.board.datagrams.received.load(Acquire);
    wait_until("datagrams to pass", || victim.board.datagrams.received.load(Acquire) > received + 500)?;
    let finished = running.finish()?;
    finished.expect_status(143)?;
    let rule = finished.summary()?.rule()?.injected.events;
    ensure!(
        rule == stopped["summary"]["rules"][0]["injected"]["events"],
        "two accounts: {rule} and {stopped}"
    );
    victim.stop(Role::Second)?;
    let last_lost_ns = victim.board.datagrams.last_lost_sent_ns.load(Acquire);
    ensure!(
        last_lost_ns > 0 && last_lost_ns < end_ns,
        "the last loss was at {last_lost_ns}, the stop at {end_ns}"
    );
    other.stop(Role::Second)?;
    Traffic::read(&other.board)?.check_unharmed()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn whoever_does_not_read_the_answer_makes_no_panic() -> Result<()> {
    let scene = Scene::new()?;
    let (running, run) = scene.inject("--loss 30%")?;
    let said =
        |stdout: Stdio| Command::new(binary()?).arg("list").stdout(stdout).output().context("kchaos list");
    let nobody = || {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        Ok::<_, std::io::Error>(Stdio::from(writer))
    };
    let gone = said(nobody()?)?;
    ensure!(gone.status.code() == Some(0) && gone.stderr.is_empty(), "{gone:?}");
    let full = said(Stdio::from(fs::File::options().write(true).open("/dev/full")?))?;
    let text = String::from_utf8_lossy(&full.stderr);
    ensure!(full.status.code() == Some(1) && text.contains("standard output: No space left"), "{full:?}");
    // What is to be done is done, whoever listens.
    let stopped = Command::new(binary()?).args(["stop", &run]).stdout(nobody()?).output()?;
    ensure!(stopped.status.code() == Some(0) && stopped.stderr.is_empty(), "{stopped:?}");
    running.finish()?.expect_status(143)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn another_rate_is_felt_and_a_bad_one_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim =
        scene.ground.victim(&scene.ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    victim.ready()?;
    let (running, run) = scene.inject("--loss 10%")?;
    let counts = || (victim.board.datagrams.highest.load(Acquire), victim.board.datagrams.lost.load(Acquire));
    let share = |percent: f64| -> Result<()> {
        let (highest, lost) = counts();
        wait_until("datagrams", || counts().0 > highest + 3_000)?;
        let (now, lost_now) = counts();
        check_share(&format!("{percent} %"), lost_now - lost, now - highest, percent / 100.0)?;
        Ok(())
    };
    share(10.0)?;
    let set = ask(&format!("set {run} --loss 50%"))?.fine()?;
    ensure!(
        set.event()?["faults"][0].as_str().is_some_and(|fault| fault.contains("50%")),
        "{:?}",
        set.events
    );
    share(50.0)?;
    let status = ask(&format!("status {run}"))?.fine()?;
    let before = &status.about(&run).context("no status")?["rules"][0]["drawn_before"];
    ensure!(before["injected"].as_u64() > Some(0) && before["spared"].as_u64() > Some(0), "{before}");
    for (words, says) in [
        ("--loss 60% --duplicate 1%", &["loss, duplicate", "stop"][..]),
        ("--loss 60% --protocol tcp --observe", &["other packets", "--observe"]),
        ("--loss 60 --remote 10.0.0.0/40", &["unit", "10.0.0.0/40"]),
        ("--fail openat=EIO", &["openat"]),
        ("", &["no fault"]),
    ] {
        let refused = ask(&format!("set {run} {words}"))?;
        let told = says.iter().all(|word| refused.said.contains(word));
        ensure!([2, 8].contains(&refused.status) && told, "{words}: {}: {}", refused.status, refused.said);
    }
    share(50.0)?;
    ask(&format!("set {run} --loss 0%"))?.fine()?;
    let lost = counts().1;
    let received = victim.board.datagrams.received.load(Acquire);
    wait_until("datagrams", || victim.board.datagrams.received.load(Acquire) > received + 1_000)?;
    // One may have been on its way when the rate changed.
    ensure!(counts().1 <= lost + 1, "losses at 0 %");
    ask(&format!("stop {run}"))?.fine()?;
    let finished = running.finish()?;
    ensure!(finished.events("set").len() == 2, "{}", finished.text());
    finished.summary()?;
    victim.stop(Role::Second)?;
    scene.ground.check_clean()
}

/// How often the rules are exchanged.
const EXCHANGES: usize = 20;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn from_one_total_fault_to_another_there_is_no_gap() -> Result<()> {
    let scene = Scene::new()?;
    if counts_exactly() {
        let one = "--loss 100% --loss-model gemodel:p=0%,1-k=0%";
        let other = "--loss 0% --loss-model gemodel:p=0%,1-k=100%";
        let (running, run) = scene.inject(one)?;
        let mut victim = scene
            .ground
            .victim(&scene.ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 3 --alone")?;
        victim.ready()?;
        let datagrams = &victim.board.datagrams;
        for turn in 0..EXCHANGES {
            ask(&format!("set {run} {}", if turn % 2 == 0 { other } else { one }))?.fine()?;
            let sent = datagrams.sent.load(Acquire);
            wait_until("datagrams to be sent", || datagrams.sent.load(Acquire) > sent + 50)?;
        }
        let sent = datagrams.sent.load(Acquire);
        let received = datagrams.received.load(Acquire);
        ensure!(received == 0, "{received} of {sent} datagrams got through between two total losses");
        ask(&format!("set {run} --loss 0% --loss-model gemodel:p=0%,1-k=0%"))?.fine()?;
        wait_until("datagrams to arrive", || datagrams.received.load(Acquire) > 100)?;
        ask(&format!("stop {run}"))?.fine()?;
        running.finish()?.summary()?;
        victim.stop(Role::Second)?;
    }
    if fails_syscalls()? {
        let words = "calls --call openat --wait --no-controls --pause-us 100";
        let mut victim = scene.ground.victim(&scene.ground.target, words)?;
        victim.ready()?;
        let (one, other) = ("EIO@100%", "EACCES@0%");
        let (running, run) = scene.inject(&format!("--fail openat={one} --fail openat={other}"))?;
        victim.board.go.store(1, Release);
        let task = &victim.board.tasks[0];
        for turn in 0..EXCHANGES {
            let (one, other) =
                if turn % 2 == 0 { ("EIO@0%", "EACCES@100%") } else { ("EIO@100%", "EACCES@0%") };
            ask(&format!("set {run} --fail openat={one} --fail openat={other}"))?.fine()?;
            let calls = task.calls.load(Acquire);
            wait_until("calls", || task.calls.load(Acquire) > calls + 50)?;
        }
        victim.stop(Role::First)?;
        ask(&format!("stop {run}"))?.fine()?;
        let finished = running.finish()?;
        let missed = finished.summary()?.rules[0].missed;
        let tasks = read_tasks(&victim.board);
        ensure!(tasks[0].succeeded <= missed, "{missed} calls were not seen, but {tasks:?}");
        ensure!(tasks[0].errno("EIO") > 0 && tasks[0].errno("EACCES") > 0, "{tasks:?}");
    }
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn delays_follow() -> Result<()> {
    if let Some(reason) = delay_missing()? {
        skip!("{reason}");
    }
    let scene = Scene::new()?;
    let (running, run) = scene.inject("--delay 40ms --jitter 5ms --distribution normal")?;
    let mut victim =
        scene.ground.victim(&scene.ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 1 --alone")?;
    let datagrams = &victim.board.datagrams;
    wait_until("datagrams", || datagrams.received.load(Acquire) > 50)?;
    let set = |faults: &str| -> Result<u64> {
        ask(&format!("set {run} {faults}"))?.fine()?;
        Ok(monotonic_ns())
    };
    // A datagram that was sent after the change and is there shows the new delay, and never less than that.
    let since = set("--delay 1s")?;
    let age_ms = || {
        let sent = datagrams.last_received_sent_ns.load(Acquire);
        let now = monotonic_ns();
        (sent > since).then(|| (now - sent) as f64 / 1e6)
    };
    let (least, _) = wait_for("datagrams of the new delay", || Ok(age_ms()))?;
    ensure!(least >= 1_000.0, "one arrived after {least} ms instead of 1 s");
    // And back, below what it was.
    set("--delay 1ms")?;
    wait_for("short delays", || Ok(age_ms().filter(|age| *age < 40.0)))?;
    ask(&format!("stop {run}"))?.fine()?;
    running.finish()?.summary()?;
    victim.stop(Role::Second)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn other_users_can_neither_see_nor_stop() -> Result<()> {
    let scene = Scene::new()?;
    let nobody = Place::default().as_nobody();
    let mut victim =
        scene.ground.victim(&scene.ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 1")?;
    victim.ready()?;
    let (running, run) = scene.inject("--loss 30%")?;
    let words = ["list".to_owned(), format!("status {run}"), format!("stop {run}"), "stop --all".to_owned()];
    for words in &words {
        let refused = ask_from(&nobody, words)?;
        ensure!(
            refused.status == 8 && refused.events.is_empty() && refused.said.contains("run as root"),
            "{words}: {}: {}",
            refused.status,
            refused.said
        );
    }
    // Not even where the directory does not keep them out: the owner asks the kernel who calls.
    let (directory, socket) = (PathBuf::from("/run/kchaos"), socket(&run));
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    let asked: Vec<_> = [format!("status {run}"), format!("stop {run}"), format!("set {run} --loss 0%")]
        .iter()
        .map(|words| ask_from(&nobody, words))
        .collect();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
    for refused in asked {
        let refused = refused?;
        ensure!(
            refused.status == 8 && refused.events.is_empty() && refused.said.contains("may not ask"),
            "{}: {}",
            refused.status,
            refused.said
        );
    }
    let before = injected(&run)?;
    wait_for("the run to go on", || Ok((injected(&run)? > before + 10).then_some(())))?;
    ask(&format!("stop {run}"))?.fine()?;
    running.finish()?.expect_status(143)?;
    victim.stop(Role::Second)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_killed_owner_is_not_listed() -> Result<()> {
    let scene = Scene::new()?;
    let (mut running, run) = scene.inject("--loss 30%")?;
    ensure!(is_listed(&run)?);
    running.signal(Signal::SIGKILL)?;
    running.finish()?.expect_status(137)?;
    ensure!(!is_listed(&run)?, "the run is listed after its owner was killed");
    ensure!(!socket(&run).exists(), "its socket is left");
    ensure!(ask(&format!("stop {run}"))?.status == 2, "a run that is gone was stopped");
    scene.ground.check_clean()
}

/// Nobody waits for an owner that cannot answer; what it was asked is done when it goes on.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_stopped_owner_is_told_by_name_and_obeys_later() -> Result<()> {
    let scene = Scene::new()?;
    let (mut running, run) = scene.inject("--loss 30%")?;
    running.signal(Signal::SIGSTOP)?;
    let pid = running.pid().to_string();
    for (words, status) in [(format!("status {run}"), 8), (format!("stop {run}"), 7)] {
        let asked = ask(&words)?;
        let is_told = asked.said.contains("is stopped") && asked.said.contains(&pid);
        ensure!(asked.status == status && is_told, "{words}: {}: {}", asked.status, asked.said);
    }
    let listed = ask("list")?.fine()?;
    let problem = listed.about(&run).context("the run is not listed")?.to_string();
    ensure!(problem.contains("is stopped"), "{problem}");
    running.signal(Signal::SIGCONT)?;
    running.finish()?.expect_status(143)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn runs_on_one_target_are_independent() -> Result<()> {
    let scene = Scene::new()?;
    let words = "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2 --alone";
    let mut victim = scene.ground.victim(&scene.ground.target, words)?;
    victim.ready()?;
    let (first, first_run) = scene.inject("--loss 100%")?;
    // A second one for the same packets would be dead, also further down or up.
    let below = scene.ground.target.child("below")?;
    for cgroup in [scene.ground.target.path(), below.path(), scene.ground.cgroup.root().path()] {
        let finished = Kchaos::inject("--loss 5% --allow self", cgroup).at(&scene.ground.runner).run()?;
        finished.expect_status(6)?;
        let error = finished.error()?;
        ensure!(error.code == 6 && error.message.contains(&first_run), "{error:?}");
    }
    // Beside it, on the same devices, there is room.
    let mut second = Kchaos::inject("--loss 100%", scene.beside.path()).at(&scene.ground.runner).start()?;
    let second_run = second.armed()?.run;
    let mut other = scene.ground.victim(&scene.beside, &words.replace("7001", "7002"))?;
    other.ready()?;
    let sent = other.board.datagrams.sent.load(Acquire);
    wait_until("datagrams", || other.board.datagrams.sent.load(Acquire) > sent + 100)?;
    // And so there is for calls of the same target.
    let third = fails_syscalls()?.then(|| scene.inject("--fail openat=EIO")).transpose()?;
    ask(&format!("stop {first_run}"))?.fine()?;
    let received = victim.board.datagrams.received.load(Acquire);
    wait_until("datagrams", || victim.board.datagrams.received.load(Acquire) > received + 200)?;
    ensure!(other.board.datagrams.received.load(Acquire) == 0, "the second run ended with the first");
    ensure!(is_listed(&second_run)? && !is_listed(&first_run)?);
    if let Some((running, run)) = third {
        let words = "calls --call openat -n 50 --wait --no-controls";
        let mut calls = scene.ground.victim(&scene.beside, words)?;
        calls.ready()?;
        scene.ground.target.adopt(calls.pid())?;
        calls.board.go.store(1, Release);
        calls.finish(Role::First)?;
        let tasks = read_tasks(&calls.board);
        ask(&format!("stop {run}"))?.fine()?;
        let missed = running.finish()?.summary()?.rule()?.missed;
        ensure!(tasks[0].errno("EIO") + missed >= 50, "{tasks:?}");
    }
    first.finish()?.expect_status(143)?;
    ask(&format!("stop {second_run}"))?.fine()?;
    second.finish()?.expect_status(143)?;
    wait_until("datagrams", || other.board.datagrams.received.load(Acquire) > 200)?;
    victim.stop(Role::Second)?;
    other.stop(Role::Second)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_detached_run_goes_on_until_it_is_stopped_or_over() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim =
        scene.ground.victim(&scene.ground.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 2")?;
    victim.ready()?;
    let line =
        |more: &str| format!("inject --cgroup {} --detach {more}", scene.ground.target.path().display());
    let detached = ask_from(&scene.ground.runner, &line("--loss 50% --duration 600s"))?.fine()?;
    let run = detached.event()?["run"].as_str().context("no id")?.to_owned();
    let first = injected(&run)?;
    wait_for("injections", || Ok((injected(&run)? > first + 20).then_some(())))?;
    ensure!(ask(&format!("stop {run}"))?.fine()?.event()?["code"] == 143);
    scene.ground.check_clean()?;
    let detached = ask_from(&scene.ground.runner, &line("--loss 50% --duration 1s"))?.fine()?;
    let run = detached.event()?["run"].as_str().context("no id")?.to_owned();
    wait_for("the end", || Ok((!is_listed(&run)?).then_some(())))?;
    scene.ground.check_clean()?;
    let received = victim.board.datagrams.received.load(Acquire);
    wait_until("datagrams", || victim.board.datagrams.received.load(Acquire) > received + 200)?;
    // What cannot start says so to who is still there.
    let refused = ask_from(&scene.ground.runner, &line("--loss 5 --duration 1s"))?;
    ensure!(refused.status == 2 && refused.said.contains("unit"), "{}: {}", refused.status, refused.said);
    victim.stop(Role::Second)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn exec_is_stopped_with_its_command() -> Result<()> {
    let scene = Scene::new()?;
    let mut running = Kchaos::exec("--loss 100%", &["sleep", "600"]).at(&scene.ground.runner).start()?;
    let run = running.armed()?.run;
    let status = ask(&format!("status {run}"))?.fine()?;
    let status = status.event()?;
    ensure!(status["command"] == "exec" && status["remaining_s"].is_null(), "{status}");
    let stopped = ask(&format!("stop {run}"))?.fine()?;
    ensure!(stopped.event()?["summary"]["signal"] == 15, "{:?}", stopped.events);
    running.finish()?.expect_status(143)?;
    scene.ground.check_clean()
}
