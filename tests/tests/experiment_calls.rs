//! Probes of the target's own system calls: they see its calls alone, as long as they take, and what faults make of them.

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::capability::mechanism_works;
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::experiment::{Reports, document};
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::patience::wait_until;
use integration_tests::skip;
use integration_tests::spawn::{Place, Process, Victim};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

struct Scene {
    before: KernelObjects,
    cgroup: TestCgroup,
    target: Cgroup,
    beside: Cgroup,
    runner: Place,
    reports: Reports,
}

impl Scene {
    fn new() -> Result<Self> {
        let before = KernelObjects::now()?;
        let cgroup = TestCgroup::new()?;
        let (target, beside) = (cgroup.child("target")?, cgroup.child("beside")?);
        let runner = Place::default().in_cgroup(&cgroup.child("runner")?);
        Ok(Self { before, cgroup, target, beside, runner, reports: Reports::new()? })
    }

    /// One on a kernel that lets calls be watched, as `plan` says.
    fn where_calls_are_watched() -> Result<Option<Self>> {
        let scene = Self::new()?;
        let probe = "  steadyState: [{name: x, calls: {of: [openat]}, tolerance: {atMost: 1s}}]\n";
        let text = document(scene.target.path(), &format!("  duration: 1s\n{NO_FAULT}{probe}"));
        let file = scene.reports.write(&text)?;
        let finished = Kchaos::new(&format!("plan {}", file.display())).at(&scene.runner).run()?;
        if finished.status() == 0 {
            return Ok(Some(scene));
        }
        finished.expect_status(8)?;
        ensure!(finished.text().contains("watching openat: "), "{}", finished.text());
        Ok(None)
    }

    /// A victim that makes a call again and again until it is told to stop, with pauses.
    fn victim(&self, cgroup: &Cgroup, call: &str, pause_us: u32) -> Result<Victim> {
        let words = format!("calls --call {call} --no-controls --pause-us {pause_us}");
        let mut victim = Victim::start(&Place::default().in_cgroup(cgroup), &words)?;
        victim.ready()?;
        Ok(victim)
    }

    /// Runs an experiment to its end.
    fn run(&self, fields: &str, status: i32, outcome: &str) -> Result<Value> {
        let text = document(self.target.path(), fields);
        let finished = self.reports.start(&text, &self.runner)?.finish()?;
        finished.expect_status(status)?;
        self.reports.record(outcome)
    }

    fn check_clean(&self) -> Result<()> {
        KernelObjects::now()?.since(&self.before).wait_gone().map(drop)
    }
}

/// A fault that is none, where the probes are what is tried.
const NO_FAULT: &str = "  mode: observe\n  faults: [{network: {loss: 1%}}]\n";

/// The answers of a probe in a part of the experiment: when, and what.
fn answers(record: &Value, name: &str, part: &str) -> Result<Vec<(f64, f64)>> {
    let probes = record["probes"].as_array().context("no probes")?;
    let probe = probes.iter().find(|probe| probe["name"] == name).context("no such probe")?;
    let all = probe[part].as_array().into_iter().flatten();
    all.map(|answer| Some((answer["at_s"].as_f64()?, answer["value"].as_f64()?)))
        .collect::<Option<_>>()
        .with_context(|| format!("{name}: an answer without a number: {probe}"))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_of_the_target_alone_are_timed_and_counted() -> Result<()> {
    let Some(scene) = Scene::where_calls_are_watched()? else {
        skip!("no trampolines");
    };
    let mut victim = scene.victim(&scene.target, "openat", 20_000)?;
    let mut other = scene.victim(&scene.beside, "openat", 1_000)?;
    let probe = |name: &str, calls: &str, tolerance: &str| {
        format!(
            "    - {{name: {name}, calls: {{{calls}}}, tolerance: {{{tolerance}}}, interval: 500ms, timeout: 60s}}\n"
        )
    };
    // Pauses of the bystander are shorter than the shortest of the target's.
    let probes = probe("longest", "of: [clock_nanosleep], percentile: 100%", "atLeast: 20ms")
        + &probe("shortest", "of: [clock_nanosleep], percentile: 0.001%", "atLeast: 20ms")
        + &probe("rate", "of: [openat], measure: rate", "atMost: 60")
        + &probe("failures", "of: [openat, clock_nanosleep], measure: failures", "equals: 0%");
    let record = scene.run(&format!("  duration: 5s\n{NO_FAULT}  steadyState:\n{probes}"), 0, "held")?;
    let felt = victim.stop(Role::First)?;
    let made = felt["tasks"][0]["calls"].as_f64().context("calls")?;
    other.stop(Role::First)?;
    let rate = answers(&record, "rate", "during")?;
    ensure!(rate.len() >= 3, "{rate:?}");
    let (first, last) = (rate[0], rate[rate.len() - 1]);
    let counted: f64 = rate.windows(2).map(|pair| pair[1].1 * (pair[1].0 - pair[0].0)).sum();
    let share = counted / (last.0 - first.0);
    ensure!(counted > 0.0 && counted <= made, "{counted} counted of {made}");
    let shortest = answers(&record, "shortest", "during")?;
    let longest = answers(&record, "longest", "during")?;
    ensure!(shortest.iter().zip(&longest).all(|(short, long)| short.1 <= long.1), "{shortest:?} {longest:?}");
    measure(
        "calls",
        json!({"per_second": share, "longest_ms": longest.iter().map(|(_, s)| s * 1e3).collect::<Vec<_>>()}),
    );
    drop((victim, other));
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn failures_by_every_mechanism_are_seen_and_go() -> Result<()> {
    let Some(scene) = Scene::where_calls_are_watched()? else {
        skip!("no trampolines");
    };
    let victim = scene.victim(&scene.target, "openat", 1_000)?;
    let mut tried = vec![];
    for mechanism in ["lsm", "fmod_ret_security", "fmod_ret_sys"] {
        if !mechanism_works(mechanism)? {
            continue;
        }
        tried.push(mechanism);
        let fields = format!(
            "  duration: 4s\n  recovery: 60s\n  mechanism: {mechanism}\n  faults:\n    - syscall: {{calls: [openat], error: EIO, probability: \
             50%}}\n  steadyState:\n    - {{name: opens, calls: {{of: [openat], measure: failures}}, tolerance: {{atMost: 0.1%}}, \
             interval: 500ms, timeout: 60s}}\n"
        );
        let record = scene.run(&fields, 4, "deviated").with_context(|| mechanism.to_owned())?;
        let during = answers(&record, "opens", "during")?;
        // All of the time of an answer lies under fault, except for the first and the last one.
        let inner = during.get(1..during.len() - 1).unwrap_or_default();
        let mean = inner.iter().map(|(_, share)| share).sum::<f64>() / inner.len() as f64;
        ensure!((25.0..75.0).contains(&mean), "{mechanism}: {during:?}");
        ensure!(record["recovery"]["took_s"].as_f64().is_some(), "{mechanism}: {}", record["recovery"]);
    }
    if tried.is_empty() {
        skip!("no mechanism of call errors beside kprobes");
    }
    drop(victim);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_call_that_goes_on_is_told_before_it_ends() -> Result<()> {
    let Some(scene) = Scene::where_calls_are_watched()? else {
        skip!("no trampolines");
    };
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 0.5; while :; do sleep 0.1; [ -e \"$0\" ] && exec sleep 1000; done"]);
    let hang = scene.reports.path("hang");
    command.arg(&hang);
    Place::default().in_cgroup(&scene.target).apply(&mut command)?;
    let hanging = Process::start(command)?;
    let fields = format!(
        "  duration: 8s\n  recovery: 60s\n{NO_FAULT}  steadyState:\n    - {{name: sleeps, calls: {{of: [clock_nanosleep], percentile: \
         100%}}, tolerance: {{atMost: 60s}}, interval: 500ms, timeout: 60s}}\n    - {{name: hangs, command: {{argv: [touch, {}]}}, \
         mode: start, timeout: 60s}}\n",
        hang.display()
    );
    let record = scene.run(&fields, 0, "held")?;
    let during = answers(&record, "sleeps", "during")?;
    let (first, last) = (during[0], during[during.len() - 1]);
    // It sleeps from the first answer on, or from soon after; what it tells grows as fast as time goes by.
    ensure!(last.1 > 2.0 && last.1 > first.1, "{during:?}");
    let late: Vec<_> = during.iter().filter(|(_, age)| *age > 1.0).collect();
    for pair in late.windows(2) {
        // Ages are told to a sixteenth.
        ensure!(pair[1].1 >= pair[0].1, "{during:?}");
    }
    drop(hanging);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_target_that_makes_no_such_call_has_no_answer() -> Result<()> {
    let Some(scene) = Scene::where_calls_are_watched()? else {
        skip!("no trampolines");
    };
    let victim = scene.victim(&scene.target, "openat", 1_000)?;
    let probe = "  steadyState: [{name: syncs, calls: {of: [fsync, fdatasync]}, tolerance: {atMost: 1s}, timeout: 500ms}]\n";
    let record = scene.run(&format!("  duration: 1s\n{NO_FAULT}{probe}"), 3, "not_met")?;
    let answer = &record["probes"][0]["before"][0];
    let problem = answer["problem"].as_str().context("no problem")?;
    ensure!(problem.contains("made no fsync or fdatasync"), "{problem}");
    drop(victim);
    scene.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn nobody_looks_on_when_the_run_is_killed() -> Result<()> {
    let Some(scene) = Scene::where_calls_are_watched()? else {
        skip!("no trampolines");
    };
    let victim = scene.victim(&scene.target, "openat", 1_000)?;
    let probe =
        "  steadyState: [{name: opens, calls: {of: [openat]}, tolerance: {atMost: 60s}, timeout: 60s}]\n";
    let text = document(scene.target.path(), &format!("  duration: 600s\n{NO_FAULT}{probe}"));
    let mut running = scene.reports.start(&text, &scene.runner)?;
    running.event("answer", |event| event["phase"] == "faults")?;
    running.signal(Signal::SIGKILL)?;
    running.finish()?.expect_status(137)?;
    scene.check_clean()?;
    let made = || victim.board.tasks()[0].calls.load(Relaxed);
    let before = made();
    wait_until("calls behind the run", || made() > before + 50).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_target_that_is_made_anew_is_watched_again() -> Result<()> {
    let Some(mut scene) = Scene::where_calls_are_watched()? else {
        skip!("no trampolines");
    };
    let victim = scene.victim(&scene.target, "openat", 1_000)?;
    let probe = "  steadyState: [{name: opens, calls: {of: [openat], measure: rate}, tolerance: {atLeast: 0}, interval: 100ms, \
                 timeout: 60s}]\n";
    let text = document(scene.target.path(), &format!("  duration: 600s\n{NO_FAULT}{probe}"));
    let mut running = scene.reports.start(&text, &scene.runner)?;
    let rate = |event: &Value| event["phase"] == "faults" && event["answer"]["value"].as_f64() > Some(0.0);
    running.event("answer", rate)?;
    drop(victim);
    wait_until("the target to be empty", || scene.target.pids().is_ok_and(|pids| pids.is_empty()))?;
    scene.target.remove()?;
    running.event("answer", |event| event["phase"] == "faults" && event["answer"]["value"] == 0.0)?;
    scene.target = scene.cgroup.child("target")?;
    running.event("target_back", |_| true)?;
    let victim = scene.victim(&scene.target, "openat", 1_000)?;
    running.event("answer", rate)?;
    running.interrupt()?;
    drop(victim);
    scene.check_clean()
}

/// A kprobe cannot override a function that a trampoline is on: neither ours nor somebody else's may make a fault that
/// nobody feels.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_kprobe_and_a_trampoline_on_one_function_are_refused() -> Result<()> {
    let Some(mechanism) = first_working(&["kprobe", "kprobe_multi"])? else {
        skip!("no kprobe override");
    };
    let scene = Scene::new()?;
    let victim = scene.victim(&scene.target, "fsync", 1_000)?;
    let fault =
        format!("  mechanism: {mechanism}\n  faults: [{{syscall: {{calls: [fsync], error: EIO}}}}]\n");
    let probe = "  steadyState: [{name: opens, calls: {of: [fsync], measure: rate}, tolerance: {atLeast: 0}, timeout: 60s}]\n";
    let own = document(scene.target.path(), &format!("  duration: 5s\n{fault}{probe}"));
    let refused = scene.reports.start(&own, &scene.runner)?.finish()?;
    refused.expect_status(8)?;
    ensure!(refused.text().contains("watching fsync: "), "{}", refused.text());

    // Somebody else looks on.
    let other = document(scene.target.path(), &format!("  duration: 600s\n{NO_FAULT}{probe}"));
    let mut looking_on = scene.reports.start(&other, &scene.runner)?;
    looking_on.event("phase", |event| event["phase"] == "faults")?;
    let flags = format!("--fail fsync=EIO --mechanism {mechanism}");
    let refused = Kchaos::inject(&flags, scene.target.path()).at(&scene.runner).run()?;
    refused.expect_status(8)?;
    ensure!(
        refused.text().contains("a trampoline (fentry, fexit or fmod_ret) of somebody is on"),
        "{}",
        refused.text()
    );
    looking_on.interrupt()?;

    // And no longer.
    let mut running = Kchaos::inject(&flags, scene.target.path()).at(&scene.runner).start()?;
    running.armed()?;
    let felt = || victim.board.tasks()[0].errno_counts[0].load(Relaxed);
    wait_until("the fault to be felt", || felt() > 0)?;
    // Somebody comes while it acts: nobody feels it any more, and it says so.
    let mut looking_on = scene.reports.start(&other, &scene.runner)?;
    looking_on.event("phase", |event| event["phase"] == "faults")?;
    let (before, made) = (felt(), victim.board.tasks()[0].calls.load(Relaxed));
    wait_until("calls", || victim.board.tasks()[0].calls.load(Relaxed) > made + 50)?;
    // One may have been on its way.
    ensure!(felt() <= before + 1, "{} of them failed", felt() - before);
    let finished = running.interrupt()?;
    let summary = &finished.events("summary")[0];
    ensure!(summary["rules"][0]["overtaken"][0] == "__x64_sys_fsync", "{summary}");
    looking_on.interrupt()?;
    drop(victim);
    scene.check_clean()
}

fn first_working(mechanisms: &[&'static str]) -> Result<Option<&'static str>> {
    for mechanism in mechanisms {
        if mechanism_works(mechanism)? {
            return Ok(Some(mechanism));
        }
    }
    Ok(None)
}
