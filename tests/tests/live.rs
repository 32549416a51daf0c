//! `kchaos top` on a terminal: what it shows is what happens, a key ends a run, and the terminal is given back.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::control::{ask, is_listed};
use integration_tests::ground::Ground;
use integration_tests::kchaos::{Kchaos, Running, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::patience::wait_until;
use integration_tests::screen::Screen;
use integration_tests::spawn::{Place, Process, Victim};
use nix::sys::signal::Signal;

struct Scene(Ground);

impl Scene {
    fn new() -> Result<Self> {
        Ok(Self(Ground::new()?))
    }

    fn inject(&self, faults: &str) -> Result<(Running, String)> {
        let mut running = Kchaos::inject(faults, self.0.target.path()).at(&self.0.runner).start()?;
        let run = running.armed()?.run;
        Ok((running, run))
    }

    fn victim(&self) -> Result<Victim> {
        let mut victim = self.0.victim(&self.0.target, "udp-pair --to 127.0.0.1:7001 --rate-per-ms 1")?;
        victim.ready()?;
        Ok(victim)
    }
}

fn top(run: &str, screen: &Screen) -> Result<Running> {
    let place = Place::default();
    Kchaos::new(&format!("top {run}")).at(&place).on_screen(screen.end()?)?.start()
}

/// What the row of the fault says was inflicted: the second number behind the share's interval. Digits stand in threes.
fn injected(screen: &str) -> Option<u64> {
    let row = screen.lines().find(|line| line.starts_with("loss "))?;
    let after = row.split_once(')')?.1;
    let columns: Vec<_> = after.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
    columns.get(1)?.replace(' ', "").parse().ok()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_run_is_watched_and_ended_by_key() -> Result<()> {
    let scene = Scene::new()?;
    let mut victim = scene.victim()?;
    let objects = KernelObjects::now()?;
    let (running, run) = scene.inject("--loss 30%")?;
    let mut screen = Screen::new()?;
    let modes = screen.modes()?;
    let view = top(&run, &screen)?;
    let target = scene.0.target.path().display().to_string();
    screen.wait_for("the run on the screen", |text| {
        text.contains(&run) && text.contains("armed") && text.contains("30.0%") && text.contains(&target)
    })?;
    ensure!(screen.is_switched() && screen.modes()? != modes, "the terminal is as ever");
    screen.wait_for("injections", |text| injected(text).is_some_and(|count| count > 20))?;
    let first = injected(&screen.text()).context("no number")?;
    screen.wait_for("more injections", |text| injected(text).is_some_and(|count| count > first + 20))?;
    let shown = injected(&screen.text()).context("no number")?;
    let said = ask(&format!("status {run}"))?.fine()?;
    let owners = said.event()?["rules"][0]["injected"]["events"].as_u64().context("no count")?;
    ensure!(shown <= owners, "{shown} were shown before the owner had counted {owners}");

    // One key alone ends nothing.
    screen.press("x")?;
    screen.wait_for("the question", |text| text.contains(&format!("End {run}")))?;
    screen.press("n")?;
    screen.wait_for("the question to go", |text| !text.contains("End "))?;
    ensure!(is_listed(&run)?, "the run was ended by one key");
    screen.press("x")?;
    screen.wait_for("the question", |text| text.contains(&format!("End {run}")))?;
    screen.press("y")?;
    screen.wait_for("the end of the run", |text| text.contains("undone in") || text.contains("is undone"))?;
    running.finish()?.expect_status(143)?;
    KernelObjects::now()?.since(&objects).wait_gone()?;

    screen.press("q")?;
    view.finish()?.expect_status(0)?;
    wait_until("the first screen", || !screen.is_switched())?;
    ensure!(screen.modes()? == modes, "the terminal's modes are not as before");
    victim.stop(Role::Second)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_terminal_is_given_back_and_the_run_goes_on() -> Result<()> {
    let scene = Scene::new()?;
    let (running, run) = scene.inject("--loss 30%")?;
    for signal in [Some(Signal::SIGTERM), Some(Signal::SIGHUP), None] {
        let mut screen = Screen::new()?;
        let modes = screen.modes()?;
        let mut view = top(&run[..6], &screen)?;
        screen.wait_for("the run on the screen", |text| text.contains(&run))?;
        match signal {
            Some(signal) => view.signal(signal)?,
            // Ctrl-C is a key like others.
            None => screen.press("\u{3}")?,
        }
        view.finish()?.expect_status(0)?;
        wait_until("the first screen", || !screen.is_switched())?;
        ensure!(screen.modes()? == modes, "{signal:?}: the terminal's modes are not as before");
        ensure!(is_listed(&run)?, "{signal:?}: the run went with the view");
    }
    running.interrupt()?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_view_goes_with_its_terminal() -> Result<()> {
    let scene = Scene::new()?;
    let (running, run) = scene.inject("--loss 30%")?;
    let screen = Screen::new()?;
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(binary()?).arg("top");
    let end = || Ok::<_, anyhow::Error>(Stdio::from(screen.end()?));
    command.stdin(end()?).stdout(end()?).stderr(end()?);
    let mut view = Process::start(command)?;
    screen.wait_for("the run on the screen", |text| text.contains(&run))?;
    drop(screen);
    let status = view.wait()?;
    ensure!(status.code().is_some_and(|code| code < 10), "{status}");
    ensure!(is_listed(&run)?, "the run went with the view");
    running.interrupt().map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_owner_that_does_not_answer_is_named_and_holds_up_nobody() -> Result<()> {
    let (scene, other) = (Scene::new()?, Scene::new()?);
    let (mut running, run) = scene.inject("--loss 30%")?;
    let screen = Screen::new()?;
    let mut view = top("", &screen)?;
    screen.wait_for("the run on the screen", |text| text.contains(&run))?;
    running.signal(Signal::SIGSTOP)?;
    screen.wait_for("the problem", |text| {
        text.contains("silent") && text.contains(&format!("run {run} does not"))
    })?;
    // What comes and goes meanwhile is shown, the silent one beside it.
    let (further, name) = other.inject("--loss 20%")?;
    screen.wait_for("both runs", |text| text.contains(&format!("{name} is armed")) && text.contains(&run))?;
    further.interrupt()?;
    screen.wait_for("the end of the other", |text| text.contains(&format!("{name} is gone")))?;
    running.signal(Signal::SIGCONT)?;
    running.interrupt()?;
    screen.wait_for("the end of the run", |text| text.contains(&format!("{run} is gone")))?;
    view.signal(Signal::SIGTERM)?;
    view.finish()?.expect_status(0)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_a_terminal_it_says_what_to_use() -> Result<()> {
    let finished = Kchaos::new("top").run()?;
    finished.expect_status(2)?;
    ensure!(finished.text().contains("kchaos status"), "{}", finished.text());
    let screen = Screen::new()?;
    let finished = top("zzzzzzzzz", &screen)?.finish()?;
    finished.expect_status(2)?;
    ensure!(finished.text().contains("zzzzzzzzz") && !screen.is_switched(), "{}", finished.text());
    Ok(())
}
