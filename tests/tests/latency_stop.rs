//! Calls behind which the process is stopped: any call of a running target, for as long as asked, nobody else's, and nobody
//! is left stopped, whoever dies.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::capability::{counts_exactly, fmod_ret_security_works, openat_mechanism};
use integration_tests::kchaos::{Kchaos, Running};
use integration_tests::measure::measure;
use integration_tests::patience::wait_for;
use integration_tests::skip;
use integration_tests::slowed::{
    SOON, Scene, follows_its_owner, go, goes_on_without, goes_soon, holder_of, is_stopped,
};
use integration_tests::spawn::Victim;
use integration_tests::times::{Times, median};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const BY: &str = "stop_continue";
const HALF_A_MINUTE: &str = "--slow openat=30s";

fn has_trampolines() -> Result<bool> {
    fmod_ret_security_works()
}

/// A victim that is stopped, and who has stopped it.
fn held(scene: &Scene, faults: &str) -> Result<(Victim, Running)> {
    let victim = scene.victim("--call openat -n 1")?;
    let running = scene.start(faults)?;
    go(&victim);
    wait_for("a process to be stopped", || Ok(is_stopped(victim.pid())?.then_some(())))?;
    Ok((victim, running))
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid as i32), signal).with_context(|| format!("sending {signal} to {pid}"))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_call_takes_as_long_as_asked_and_others_do_not() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    for (call, asked_ms, n) in
        [("openat", 1, 20), ("openat", 50, 20), ("read", 50, 20), ("fsync", 50, 20), ("close", 50, 20)]
    {
        let words = format!("--call {call} --control getppid -n {n}");
        let (felt, beside, summary) = scene.under(&format!("--slow {call}={asked_ms}ms"), &words)?;
        let asked_us = asked_ms * 1000;
        ensure!(felt.own_us.len() == n && felt.errnos.is_empty(), "{felt:?}");
        let shortest = felt.own_us.iter().min().copied().unwrap_or_default();
        ensure!(shortest >= asked_us, "{call}: {felt:?}");
        let (own, control, others) = (median(&felt.own_us), median(&felt.control_us), median(&beside.own_us));
        // What a busy machine does to single calls says nothing of the mechanism.
        ensure!(shortest < asked_us + 40_000, "{call}: {felt:?}");
        if asked_ms >= 20 {
            ensure!(control < asked_us / 2, "a call nobody named waited: {felt:?}");
            ensure!(others < asked_us / 2, "the bystander waited: {beside:?}");
        }
        let rule = summary.rule()?;
        let held = rule.held.as_ref().context("nothing was held back")?;
        ensure!(rule.injected.events == n as u64 && held.calls == n as u64, "{rule:?}");
        ensure!(held.cut_short + held.missing == 0, "{rule:?}");
        ensure!(rule.mechanisms.contains(&BY.to_owned()), "{rule:?}");
        ensure!(held.asked_ms == asked_ms as f64 && held.took_ms >= held.asked_ms, "{rule:?}");
        measure(
            "latency_stop",
            json!({"call": call, "asked_ms": asked_ms, "took_ms": held.took_ms, "longest_ms": held.longest_ms,
                   "shortest_us": shortest, "median_us": own, "beside_us": others}),
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn jitter_turns_and_errors_go_with_it() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    let (felt, _, summary) = scene.under("--slow fsync=60ms,jitter=50ms", "--call fsync -n 30")?;
    let (least, most) = (felt.own_us.iter().min().copied(), felt.own_us.iter().max().copied());
    let spread = most.unwrap_or_default() - least.unwrap_or_default();
    ensure!(least >= Some(10_000) && spread > 30_000, "{felt:?} {summary:?}");
    let held = summary.rule()?.held.clone().context("nothing was held back")?;
    ensure!((10.0..=110.0).contains(&held.asked_ms), "{held:?}");

    if counts_exactly() {
        let (felt, _, _) = scene.under("--slow fsync=200ms,every=3", "--call fsync -n 12")?;
        let slow: Vec<_> = felt.own_us.iter().map(|us| *us >= 200_000).collect();
        ensure!(slow == [false, false, true].repeat(4), "not every third one: {felt:?}");
    }
    // What overrides at a kprobe does not go with it.
    if openat_mechanism()?.is_some_and(|name| !name.starts_with("kprobe")) {
        let (felt, _, summary) =
            scene.under("--slow openat=50ms --fail openat=EHWPOISON", "--call openat -n 5")?;
        ensure!(felt.errnos == [133; 5] && felt.own_us.iter().all(|us| *us >= 50_000), "{felt:?}");
        ensure!(summary.rules.iter().all(|rule| rule.injected.events == 5), "{summary:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_call_that_begins_again_is_stopped_once() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    // Each waits for 150 ms by itself and is interrupted several times meanwhile.
    let (felt, _, summary) = scene.under("--slow readv=50ms", "--call readv -n 5 --interrupted")?;
    ensure!(felt.errnos.is_empty() && felt.own_us.iter().all(|us| *us >= 200_000), "{felt:?}");
    let rule = summary.rule()?;
    let held = rule.held.as_ref().context("nothing was held back")?;
    ensure!(rule.injected.events > 5, "no call began again: {rule:?}");
    ensure!(held.calls == 5 && held.cut_short == 0, "{rule:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_of_several_threads_stop_their_process_one_after_another() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    let (felt, _, summary) = scene.under("--slow openat=20ms", "--call openat -n 20 --threads 4")?;
    ensure!(felt.own_us.len() == 80 && felt.errnos.is_empty(), "{felt:?}");
    let rule = summary.rule()?;
    let held = rule.held.as_ref().context("nothing was held back")?;
    ensure!(rule.injected.events == 80 && held.calls + held.missing == 80 && held.cut_short == 0, "{rule:?}");
    ensure!(held.calls >= 20 && felt.took_us >= held.calls * 20_000, "{rule:?}, {felt:?}");
    measure("latency_stop_threads", json!({"calls": held.calls, "missing": held.missing}));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn whoever_holds_may_be_killed_or_stopped() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    for (who, signal) in [
        ("owner", Signal::SIGKILL),
        ("owner", Signal::SIGSTOP),
        ("continuer", Signal::SIGKILL),
        ("continuer", Signal::SIGSTOP),
        ("both", Signal::SIGKILL),
    ] {
        let (mut victim, running) = held(&scene, HALF_A_MINUTE)?;
        let continuer = holder_of(running.pid(), "kchaos-continuer")?;
        let begin = Instant::now();
        if who == "both" {
            // The guardian is left.
            send(continuer, Signal::SIGSTOP)?;
            send(running.pid(), signal)?;
            send(continuer, signal)?;
        } else {
            send(if who == "owner" { running.pid() } else { continuer }, signal)?;
        }
        let took = goes_soon(&mut victim, begin).with_context(|| format!("{who} with {signal}"))?;
        measure(
            "latency_stop_holder",
            json!({"who": who, "signal": signal.as_str(), "ms": took.as_secs_f64() * 1e3}),
        );
        match (who, signal) {
            ("owner" | "both", Signal::SIGKILL) => {
                follows_its_owner(continuer, "continuer")?;
            }
            ("owner", _) => {
                send(running.pid(), Signal::SIGCONT)?;
                running.interrupt()?;
            }
            _ => goes_on_without(&scene, running, "the continuer is gone")?,
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_end_of_a_run_lets_everybody_go_on_and_a_killed_victim_ends() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    let (mut victim, running) = held(&scene, HALF_A_MINUTE)?;
    let begin = Instant::now();
    let summary = running.interrupt()?.summary()?;
    goes_soon(&mut victim, begin)?;
    ensure!(summary.undone.programs == 0 && summary.undone.links == 0, "{:?}", summary.undone);
    let counted = summary.rule()?.held.clone().context("nothing was held back")?;
    ensure!(counted.missing == 1 || counted.cut_short == 1, "{counted:?}");

    // The deadline: the process is stopped for no longer than the run lasts.
    let mut victim = scene.victim("--call openat -n 1")?;
    let target = scene.target_cgroup.path().display();
    let line = format!("inject --json --cgroup {target} --mechanism {BY} --slow openat=60s --duration 10s");
    let mut running = Kchaos::new(&line).at(&scene.runner).start()?;
    running.armed()?;
    let begin = Instant::now();
    go(&victim);
    goes_soon(&mut victim, begin)?;
    let finished = running.finish()?;
    finished.expect_status(0)?;
    ensure!(finished.summary()?.rule()?.injected.events == 1, "the call came too late");

    let (mut victim, running) = held(&scene, HALF_A_MINUTE)?;
    let begin = Instant::now();
    victim.signal(Signal::SIGKILL)?;
    ensure!(victim.finish(Role::First).is_err(), "a killed victim ended well");
    let took = begin.elapsed();
    ensure!(took < SOON, "a killed victim took {took:?} to die");
    let summary = running.interrupt()?.summary()?;
    let counted = summary.rule()?.held.clone().context("nothing was held back")?;
    ensure!(counted.missing + counted.cut_short == 1, "{counted:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn who_was_stopped_by_another_stays_stopped() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    let scene = Scene::new(BY)?;
    // Before the run.
    let mut before = scene.victim("--call openat -n 1")?;
    before.signal(Signal::SIGSTOP)?;
    wait_for("a victim to be stopped", || Ok(is_stopped(before.pid())?.then_some(())))?;
    // While it stands still.
    let (mut victim, running) = held(&scene, "--slow openat=2s")?;
    victim.signal(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(is_stopped(victim.pid())?, "a process that somebody else stopped was let go on");
    let summary = running.interrupt()?.summary()?;
    ensure!(is_stopped(victim.pid())? && is_stopped(before.pid())?, "the end of the run let it go on");
    let counted = summary.rule()?.held.clone().context("nothing was held back")?;
    ensure!(counted.calls == 1 && counted.cut_short + counted.missing == 0, "{counted:?}");
    for stopped in [&mut victim, &mut before] {
        stopped.signal(Signal::SIGCONT)?;
        go(stopped);
        Times::of(stopped)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_cannot_be_is_refused() -> Result<()> {
    if !has_trampolines()? {
        skip!("no trampolines");
    }
    for (words, why) in [
        ("--mechanism stop_continue --slow fsync=500us", "500µs is below the limit of 1ms"),
        ("--mechanism stop_continue --slow exit_group=5ms", "exit_group does not return"),
        ("--slow fsync=5ms", "--mechanism lsm_sleep (Linux 6.12) or stop_continue"),
    ] {
        let finished = Kchaos::exec(words, &["true"]).run()?;
        let said = finished.error()?.message;
        ensure!(finished.status() == 125 && said.contains(why), "{words}: {said}");
    }
    Ok(())
}
