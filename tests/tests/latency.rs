//! Calls that are held back: for as long as asked, nobody else's, and never after the end of whoever holds them.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::capability::mechanism_works;
use integration_tests::kchaos::{Kchaos, Running};
use integration_tests::measure::measure;
use integration_tests::patience::wait_for;
use integration_tests::skip;
use integration_tests::slowed::{SOON, Scene, follows_its_owner, go, goes_on_without, goes_soon, holder_of};
use integration_tests::spawn::Victim;
use integration_tests::times::{Times, median};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const BY: &str = "--mechanism lsm_sleep";

/// A victim that is held back for half a minute, and who holds it.
fn held(scene: &Scene, faults: &str) -> Result<(Victim, Running)> {
    let victim = scene.victim("--call openat -n 1")?;
    let running = scene.start(faults)?;
    go(&victim);
    wait_for("a call to be held back", || Ok(is_held(victim.pid())?.then_some(())))?;
    Ok((victim, running))
}

/// Whether a process waits for the sleeper.
fn is_held(pid: u32) -> Result<bool> {
    let at = std::fs::read_to_string(format!("/proc/{pid}/wchan")).context("reading where a victim waits")?;
    Ok(at.contains("request_wait") || at.contains("fuse"))
}

const HALF_A_MINUTE: &str = "--slow openat=30s";

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_call_takes_as_long_as_asked_and_others_do_not() -> Result<()> {
    if !mechanism_works("lsm_sleep")? {
        skip!("no BPF LSM programs that sleep");
    }
    let scene = Scene::new("lsm_sleep")?;
    for (call, asked_ms, n) in [("openat", 1, 30), ("openat", 50, 20), ("connect", 20, 20)] {
        let words = format!("--call {call} -n {n} --threads 2");
        let faults = format!("--slow {call}={asked_ms}ms");
        let (felt, beside, summary) = scene.under(&faults, &words)?;
        let asked_us = asked_ms * 1000;
        ensure!(felt.own_us.len() == 2 * n, "{felt:?}");
        let shortest = felt.own_us.iter().min().copied().unwrap_or_default();
        ensure!(shortest >= asked_us, "{faults}: {felt:?}");
        // Emulated machines need milliseconds for what takes microseconds.
        ensure!(median(&felt.own_us) < asked_us + 40_000, "{faults}: {felt:?}");
        if asked_ms >= 20 {
            ensure!(median(&felt.control_us) < asked_us / 2, "a call nobody named waited: {felt:?}");
            ensure!(median(&beside.own_us) < asked_us / 2, "the bystander waited: {beside:?}");
            // Both threads wait at the same time.
            ensure!(felt.took_us < 2 * n as u64 * asked_us, "one waited for the other: {felt:?}");
        }
        let rule = summary.rule()?;
        let held = rule.held.as_ref().context("nothing was held back")?;
        ensure!(
            rule.injected.events == 2 * n as u64
                && held.calls == rule.injected.events
                && held.cut_short + held.missing == 0,
            "{rule:?}"
        );
        ensure!(held.took_ms >= asked_ms as f64 && held.asked_ms == asked_ms as f64, "{rule:?}");
        measure(
            "latency",
            json!({"call": call, "asked_ms": asked_ms, "took_ms": held.took_ms, "longest_ms": held.longest_ms,
                   "shortest_us": shortest, "median_us": median(&felt.own_us), "beside_us": median(&beside.own_us)}),
        );
    }
    // Afterwards.
    let mut victim = scene.victim("--call openat -n 20")?;
    go(&victim);
    ensure!(median(&Times::of(&mut victim)?.own_us) < 10_000, "calls are still held back");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn turns_jitter_and_errors_go_with_it() -> Result<()> {
    if !mechanism_works("lsm_sleep")? {
        skip!("no BPF LSM programs that sleep");
    }
    let scene = Scene::new("lsm_sleep")?;
    let (felt, _, _) = scene.under("--slow openat=200ms,every=3", "--call openat -n 12")?;
    let slow: Vec<_> = felt.own_us.iter().map(|us| *us >= 200_000).collect();
    ensure!(slow == [false, false, true].repeat(4), "not every third one: {felt:?}");

    let (felt, _, summary) = scene.under("--slow openat=60ms,jitter=50ms --seed 7", "--call openat -n 30")?;
    let (least, most) = (felt.own_us.iter().min().copied(), felt.own_us.iter().max().copied());
    let spread = most.unwrap_or_default() - least.unwrap_or_default();
    ensure!(least >= Some(10_000) && spread > 30_000, "{felt:?} {summary:?}");
    let held = summary.rule()?.held.clone().context("nothing was held back")?;
    ensure!((10.0..=110.0).contains(&held.asked_ms), "{held:?}");

    // It waits, then fails.
    let (felt, _, summary) =
        scene.under("--slow openat=50ms --fail openat=EHWPOISON", "--call openat -n 5")?;
    ensure!(felt.errnos == [133; 5] && felt.own_us.iter().all(|us| *us >= 50_000), "{felt:?}");
    ensure!(summary.rules.iter().all(|rule| rule.injected.events == 5), "{summary:?}");

    // A path that no call is on.
    let (felt, _, summary) = scene
        .under("--slow openat=300ms,path=/nowhere/* --slow openat=80ms,path=/*", "--call openat -n 3")?;
    ensure!(felt.own_us.iter().all(|us| (80_000..300_000).contains(us)), "{felt:?}");
    ensure!(summary.rules[0].injected.events == 0 && summary.rules[1].injected.events == 3, "{summary:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sigkill_ends_it_and_other_signals_do_not() -> Result<()> {
    if !mechanism_works("lsm_sleep")? {
        skip!("no BPF LSM programs that sleep");
    }
    let scene = Scene::new("lsm_sleep")?;
    let (felt, _, _) = scene.under("--slow openat=300ms", "--call openat -n 3 --interrupted")?;
    ensure!(felt.own_us.iter().all(|us| *us >= 300_000), "signals cut it short: {felt:?}");

    for interrupted in [false, true] {
        let (mut victim, running) = held(&scene, HALF_A_MINUTE)?;
        if interrupted {
            // The kernel tells of the first signal only.
            victim.signal(Signal::SIGWINCH)?;
            victim.signal(Signal::SIGSTOP)?;
        }
        let begin = Instant::now();
        victim.signal(Signal::SIGKILL)?;
        ensure!(victim.finish(Role::First).is_err(), "a killed victim ended well");
        let took = begin.elapsed();
        ensure!(took < SOON, "a killed victim took {took:?} to die");
        let held = running.interrupt()?.summary()?.rule()?.held.clone().context("nothing was held back")?;
        ensure!(held.cut_short == 1, "{held:?}");
        measure("latency_victim_killed", json!({"ms": took.as_secs_f64() * 1e3, "interrupted": interrupted}));
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_end_of_a_run_lets_everybody_go() -> Result<()> {
    if !mechanism_works("lsm_sleep")? {
        skip!("no BPF LSM programs that sleep");
    }
    let scene = Scene::new("lsm_sleep")?;
    let (mut victim, running) = held(&scene, HALF_A_MINUTE)?;
    let begin = Instant::now();
    let summary = running.interrupt()?.summary()?;
    goes_soon(&mut victim, begin)?;
    ensure!(summary.undone.programs == 0 && summary.undone.links == 0, "{:?}", summary.undone);

    // The deadline: the call is asked to wait no longer than the run lasts.
    let mut victim = scene.victim("--call openat -n 1")?;
    let line = format!(
        "inject --json --cgroup {} {BY} --slow openat=60s --duration 10s",
        scene.target_cgroup.path().display()
    );
    let mut running = Kchaos::new(&line).at(&scene.runner).start()?;
    running.armed()?;
    let begin = Instant::now();
    go(&victim);
    goes_soon(&mut victim, begin)?;
    let finished = running.finish()?;
    finished.expect_status(0)?;
    ensure!(finished.summary()?.rule()?.injected.events == 1, "the call came too late");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn whoever_holds_may_be_killed_or_stopped() -> Result<()> {
    if !mechanism_works("lsm_sleep")? {
        skip!("no BPF LSM programs that sleep");
    }
    let scene = Scene::new("lsm_sleep")?;
    for (who, signal) in [
        ("owner", Signal::SIGKILL),
        ("owner", Signal::SIGSTOP),
        ("sleeper", Signal::SIGKILL),
        ("sleeper", Signal::SIGSTOP),
    ] {
        let (mut victim, running) = held(&scene, HALF_A_MINUTE)?;
        let sleeper = holder_of(running.pid(), "kchaos-sleeper")?;
        let pid = if who == "owner" { running.pid() } else { sleeper };
        let begin = Instant::now();
        kill(Pid::from_raw(pid as i32), signal)?;
        let took = goes_soon(&mut victim, begin).with_context(|| format!("{who} with {signal}"))?;
        measure(
            "latency_holder",
            json!({"who": who, "signal": signal.as_str(), "ms": took.as_secs_f64() * 1e3}),
        );
        match (who, signal) {
            ("owner", Signal::SIGKILL) => {
                follows_its_owner(sleeper, "sleeper")?;
            }
            ("owner", _) => {
                kill(Pid::from_raw(pid as i32), Signal::SIGCONT)?;
                running.interrupt()?;
            }
            _ => goes_on_without(&scene, running, "sleeper")?,
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn it_is_asked_for_by_name_and_refused_where_it_cannot_be() -> Result<()> {
    if !mechanism_works("lsm")? {
        skip!("no active BPF LSM");
    }
    let refused = |words: &str| -> Result<String> {
        let finished = Kchaos::exec(words, &["true"]).run()?;
        ensure!(finished.status() == 125, "{words}: {}", finished.text());
        Ok(finished.error()?.message)
    };
    let said = refused("--slow openat=20ms")?;
    ensure!(said.contains("--mechanism lsm_sleep"), "{said}");
    let said = refused(&format!("{BY} --slow openat=2h,jitter=x"))?;
    ensure!(said.contains("60s") && said.contains("jitter="), "{said}");
    let said = refused(&format!("{BY} --slow unlink=20ms --slow fsync=20ms"))?;
    let sleeps = mechanism_works("lsm_sleep")?;
    ensure!(said.contains("everybody who wants to change the same directory"), "{said}");
    ensure!(said.contains("no security hook is passed exactly once by fsync"), "{said}");
    if !sleeps {
        let said = refused(&format!("{BY} --slow openat=20ms"))?;
        ensure!(said.contains("6.12"), "{said}");
    }
    Ok(())
}
