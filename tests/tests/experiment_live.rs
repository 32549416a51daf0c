//! `kchaos run` on a terminal: what it shows, how keys end it, and how the terminal is given back.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::experiment::{Reports, document};
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Kchaos, Running, binary};
use integration_tests::patience::wait_until;
use integration_tests::screen::Screen;
use integration_tests::spawn::Process;
use integration_tests::spawn::Victim;
use nix::sys::signal::Signal;

/// A talker that loses datagrams, and a terminal.
struct Scene {
    ground: Ground,
    talker: Victim,
    reports: Reports,
    screen: Screen,
}

const LOSS: &str = "  faults:\n    - network: {loss: 30%, match: {protocol: udp}}\n";
const PROBES: &str = "  recovery: 60s\n  steadyState:\n    - name: there\n      command: {argv: [\"true\"]}\n      timeout: 60s\n      \
                      interval: 100ms\n    - name: crowd\n      cgroup: {measure: processes}\n      tolerance: {atLeast: 1, atMost: 9}\n      \
                      timeout: 60s\n      interval: 100ms\n";

impl Scene {
    fn new() -> Result<Self> {
        let ground = Ground::new()?;
        let talker = Victim::talking_to_itself(&ground.target, &ground.netns, 7001)?;
        Ok(Self { ground, talker, reports: Reports::new()?, screen: Screen::new()? })
    }

    fn file(&self, duration: &str) -> Result<String> {
        let fields = format!("  duration: {duration}\n{LOSS}{PROBES}");
        Ok(self.reports.write(&document(self.ground.target.path(), &fields))?.display().to_string())
    }

    /// Starts it with its standard error apart.
    fn start(&self, duration: &str) -> Result<Running> {
        let line = format!("run {} --report {}", self.file(duration)?, self.reports.path("r.json").display());
        Kchaos::new(&line).at(&self.ground.runner).on_screen(self.screen.end()?)?.start()
    }

    /// Waits until the screen shows faults at work and answers of both probes.
    fn wait_for_faults(&self) -> Result<()> {
        self.screen.wait_for("the experiment under fault", |text| {
            let answered = |name: &str| {
                text.lines().any(|line| {
                    line.starts_with(name) && line.contains(" 0 of ") && !line.contains("not asked")
                })
            };
            text.contains("kchaos run  test  under fault")
                && text.contains("It holds.")
                && text.contains("30.0%")
                && answered("there ")
                && answered("crowd ")
        })?;
        let lost = self.talker.board.datagrams.lost.load(Acquire);
        wait_until("losses", || self.talker.board.datagrams.lost.load(Acquire) > lost + 20)?;
        ensure!(self.screen.is_switched(), "the terminal is as ever");
        Ok(())
    }

    fn outcome(&self) -> Result<String> {
        let record: serde_json::Value = serde_json::from_str(&self.reports.read("r.json")?)?;
        record["verdict"]["outcome"].as_str().map(str::to_owned).context("no outcome")
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn two_keys_end_the_run_and_the_terminal_is_given_back() -> Result<()> {
    let mut scene = Scene::new()?;
    let modes = scene.screen.modes()?;
    // `x` is a question; Ctrl-C is none, as everywhere.
    for keys in [&["x", "y"][..], &["\u{3}"]] {
        let running = scene.start("600s")?;
        scene.wait_for_faults()?;
        ensure!(scene.screen.modes()? != modes, "keys would wait for the end of a line");
        for key in keys {
            scene.screen.press(key)?;
            if *key == "x" {
                scene.screen.wait_for("the question", |text| text.contains("and undo all of it?"))?;
            }
        }
        let finished = running.finish()?;
        finished.expect_status(130)?;
        ensure!(
            finished.text().contains("faults act") && finished.text().contains("INTERRUPTED"),
            "{}",
            finished.text()
        );
        wait_until("the first screen", || !scene.screen.is_switched())?;
        ensure!(scene.screen.modes()? == modes, "the terminal's modes are not as before");
        ensure!(scene.outcome()? == "interrupted", "{}", scene.outcome()?);
        scene.ground.check_clean()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn whoever_leaves_the_view_leaves_the_run_alone() -> Result<()> {
    let mut scene = Scene::new()?;
    let modes = scene.screen.modes()?;
    let mut running = scene.start("600s")?;
    scene.wait_for_faults()?;
    scene.screen.press("q")?;
    wait_until("the first screen", || !scene.screen.is_switched())?;
    wait_until("the modes of before", || scene.screen.modes().is_ok_and(|now| now == modes))?;
    let lost = scene.talker.board.datagrams.lost.load(Acquire);
    wait_until("losses", || scene.talker.board.datagrams.lost.load(Acquire) > lost + 20)?;
    // Whoever looks from elsewhere sees its probes as well.
    let other = Screen::new()?;
    let mut top = Kchaos::new("top").on_screen(other.end()?)?.start()?;
    other.wait_for("its probes", |text| {
        text.contains(" run ") && text.lines().any(|line| line.starts_with("crowd "))
    })?;
    top.signal(Signal::SIGTERM)?;
    top.finish()?.expect_status(0)?;
    running.signal(Signal::SIGHUP)?;
    running.finish()?.expect_status(129)?;
    ensure!(scene.outcome()? == "interrupted", "{}", scene.outcome()?);
    scene.ground.check_clean()
}

/// Nobody can write a report then, or give the terminal back, but nothing is left in the kernel.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sigkill_under_the_view_leaves_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut running = scene.start("600s")?;
    scene.wait_for_faults()?;
    running.signal(Signal::SIGKILL)?;
    running.finish()?.expect_status(137)?;
    scene.ground.check_clean()?;
    let board = &scene.talker.board.datagrams;
    let (lost, received) = (board.lost.load(Acquire), board.received.load(Acquire));
    wait_until("datagrams behind the run", || board.received.load(Acquire) > received + 200)?;
    // What was on its way when it was looked.
    ensure!(board.lost.load(Acquire) <= lost + 20, "{} lost after {lost}", board.lost.load(Acquire));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_terminal_that_goes_ends_the_run_and_it_reports() -> Result<()> {
    let scene = Scene::new()?;
    let file = scene.file("600s")?;
    // Whoever is told of it first: the process, or its view.
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg(binary()?)
        .arg("run")
        .arg(&file)
        .arg("--report")
        .arg(scene.reports.path("r.json"));
    let end = || Ok::<_, anyhow::Error>(Stdio::from(scene.screen.end()?));
    command.stdin(end()?).stdout(end()?).stderr(end()?);
    scene.ground.runner.apply(&mut command)?;
    let mut process = Process::start(command)?;
    scene.wait_for_faults()?;
    let Scene { ground, reports, screen, talker: _talker } = scene;
    drop(screen);
    let status = process.wait()?;
    ensure!(status.code() == Some(129), "{status}");
    let record: serde_json::Value = serde_json::from_str(&reports.read("r.json")?)?;
    ensure!(record["verdict"]["outcome"] == "interrupted", "{}", record["verdict"]);
    ground.check_clean()
}

/// With all of its ends on the terminal, as people have it.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_happened_is_on_the_terminal_afterwards() -> Result<()> {
    let scene = Scene::new()?;
    let modes = scene.screen.modes()?;
    let file = scene.file("3s")?;
    for plain in [false, true] {
        let mut command = Command::new(binary()?);
        command.args(["run", &file]).args(plain.then_some("--plain"));
        command.stdin(Stdio::from(scene.screen.end()?));
        command.stdout(Stdio::from(scene.screen.end()?)).stderr(Stdio::from(scene.screen.end()?));
        scene.ground.runner.apply(&mut command)?;
        let mut process = Process::start(command)?;
        if !plain {
            scene.wait_for_faults()?;
        }
        let status = process.wait()?;
        ensure!(status.code() == Some(0), "{status}: {}", scene.screen.text());
        let runs = 1 + usize::from(plain);
        scene.screen.wait_for("both accounts", |text| {
            let count = |words: &str| text.matches(words).count();
            count("faults act") == runs && count("steady state is back") == runs && count("HELD: ") == runs
        })?;
        ensure!(
            !scene.screen.is_switched() && scene.screen.modes()? == modes,
            "the terminal is not as before"
        );
    }
    scene.ground.check_clean()
}
