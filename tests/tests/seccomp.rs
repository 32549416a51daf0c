//! Calls of a command that wait for an answer of kchaos: held back or failed as asked, on any kernel, and let go by whatever
//! ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::answers_come_before_signals;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::{Finished, Kchaos, Running, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::patience::{wait_for, wait_until};
use integration_tests::spawn::{Place, Victim};
use integration_tests::syscall_results::results_under;
use integration_tests::times::{Times, median};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const BY: &str = "--mechanism seccomp";

/// Runs a victim under faults that begin with its exec, and one beside it at the same time.
fn under(faults: &str, words: &str) -> Result<(Times, Times, Finished)> {
    let cgroup = TestCgroup::new()?;
    let before = KernelObjects::now()?;
    let board = SharedBoard::create()?;
    let running = Kchaos::exec_victim(&format!("{BY} {faults}"), &format!("timed {words}"), &board)?;
    let running = running.at(&cgroup.runner()?).start()?;
    let beside = Place::default().in_cgroup(&cgroup.child("beside")?);
    let mut beside = Victim::start(&beside, &format!("timed {words}"))?;
    let beside = Times::of(&mut beside)?;
    let finished = running.finish()?;
    finished.expect_status(0)?;
    KernelObjects::now()?.since(&before).wait_gone()?;
    wait_without_receivers()?;
    // Shown with a test that fails.
    println!("{faults}: {}", finished.text());
    Ok((Times::on(&board)?, beside, finished))
}

/// Receivers and their stand-bys, with their parents.
fn receivers() -> Result<BTreeMap<u32, u32>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // Processes may end in between.
        let words = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if words.starts_with(b"kchaos-receiver")
            && let (Some(pid), Some(parent)) = (pid, parent)
        {
            all.insert(pid, parent);
        }
    }
    Ok(all)
}

fn wait_without_receivers() -> Result<()> {
    wait_until("the receiver to go", || receivers().is_ok_and(|all| all.is_empty())).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_call_takes_as_long_as_asked_and_others_do_not() -> Result<()> {
    for (call, asked_ms, n) in [("fsync", 1, 30), ("fsync", 50, 10), ("read", 50, 10), ("connect", 50, 10)] {
        let faults = format!("--slow {call}={asked_ms}ms");
        let (felt, beside, finished) = under(&faults, &format!("--call {call} -n {n} --threads 2"))?;
        let asked_us = asked_ms * 1000;
        let shortest = felt.own_us.iter().min().copied().unwrap_or_default();
        ensure!(felt.own_us.len() == 2 * n && felt.errnos.is_empty(), "{felt:?}");
        ensure!(shortest >= asked_us, "{faults}: {felt:?}");
        // Emulated machines need milliseconds for what takes microseconds.
        ensure!(median(&felt.own_us) < asked_us + 40_000, "{faults}: {felt:?}");
        if asked_ms >= 50 {
            ensure!(median(&felt.control_us) < asked_us / 2, "a call nobody named waited: {felt:?}");
            ensure!(median(&beside.own_us) < asked_us / 2, "the bystander waited: {beside:?}");
        }
        let rule = finished.summary()?.rule()?.clone();
        let held = rule.held.as_ref().context("nothing was held back")?;
        // The start of the program may make some of them, too.
        ensure!(rule.injected.events >= 2 * n as u64 && held.calls == rule.injected.events, "{rule:?}");
        ensure!(held.cut_short + held.missing == 0, "{rule:?}");
        ensure!(held.took_ms >= asked_ms as f64 && held.asked_ms == asked_ms as f64, "{rule:?}");
        measure(
            "seccomp",
            json!({"call": call, "asked_ms": asked_ms, "took_ms": held.took_ms, "longest_ms": held.longest_ms,
                   "shortest_us": shortest, "median_us": median(&felt.own_us), "beside_us": median(&beside.own_us)}),
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn turns_shares_jitter_and_errors_go_with_it() -> Result<()> {
    let (felt, _, _) = under("--slow fsync=200ms,every=3", "--call fsync -n 9")?;
    let slow: Vec<_> = felt.own_us.iter().map(|us| *us >= 200_000).collect();
    ensure!(slow == [false, false, true].repeat(3), "not every third one: {felt:?}");

    let (felt, _, finished) = under("--slow fsync=60ms,jitter=50ms --seed 7", "--call fsync -n 20")?;
    let (least, most) = (felt.own_us.iter().min().copied(), felt.own_us.iter().max().copied());
    let spread = most.unwrap_or_default() - least.unwrap_or_default();
    ensure!(least >= Some(10_000) && spread > 30_000, "{felt:?}");
    let held = finished.summary()?.rule()?.held.clone().context("nothing was held back")?;
    ensure!((10.0..=110.0).contains(&held.asked_ms), "{held:?}");

    // It waits, then fails.
    let (felt, _, finished) = under("--slow fsync=50ms --fail fsync=EHWPOISON", "--call fsync -n 5")?;
    ensure!(felt.errnos == [133; 5] && felt.own_us.iter().all(|us| *us >= 50_000), "{felt:?}");
    ensure!(finished.summary()?.rules.iter().all(|rule| rule.injected.events == 5), "{}", finished.text());

    // A share.
    let (felt, beside, finished) = under("--fail fsync=EHWPOISON@30%", "--call fsync -n 1000 --threads 2")?;
    let rule = finished.summary()?.rule()?.clone();
    ensure!(beside.errnos.is_empty() && felt.errnos.iter().all(|errno| *errno == 133), "{beside:?}");
    ensure!(felt.errnos.len() as u64 == rule.injected.events && rule.matched.events == 2000, "{rule:?}");
    binomial::check_share("fsync", rule.injected.events, 2000, 0.3).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn results_and_their_numbers_are_exact() -> Result<()> {
    const EIO: i64 = -libc::EIO as i64;
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    for (expression, hit) in [("when=2+4", &[2, 6, 10][..]), ("after=9,limit=2", &[10, 11])] {
        let faults = format!("{BY} --fail mkdirat=EIO,{expression}");
        let (felt, finished) = results_under(&faults, &place, "--calls mkdirat -n 12")?;
        let expected: Vec<_> = (1..=12).map(|n| if hit.contains(&n) { EIO } else { 0 }).collect();
        ensure!(felt == [expected], "{expression}: {felt:?}");
        ensure!(finished.summary()?.rule()?.injected.events == hit.len() as u64, "{}", finished.text());
    }
    // Each process for itself, children too.
    let faults = format!("{BY} --fail connect=EIO,limit=1,per=process");
    let (felt, finished) = results_under(&faults, &place, "--calls connect -n 3 --children 2")?;
    ensure!(felt == vec![vec![EIO, 0, 0]; 3], "{felt:?}: {}", finished.text());

    // A call that claims success is not made, and one of several errors comes by its weight.
    let faults = format!("{BY} --fail mkdirat=return=0 --seed 9");
    let (felt, _) = results_under(&faults, &place, "--calls mkdirat -n 2")?;
    ensure!(felt == [vec![0, 0]], "{felt:?}");
    let faults = format!("{BY} --fail mkdirat=EIO:1,mkdirat=EDQUOT:3");
    let refused = Kchaos::exec(&faults, &["true"]).run()?;
    ensure!(refused.status() == 125, "{}", refused.text());
    let faults = format!("{BY} --fail mkdirat=EIO:1,EDQUOT:1");
    let (felt, _) = results_under(&faults, &place, "--calls mkdirat -n 200")?;
    let of = |errno: i32| felt[0].iter().filter(|result| **result == -i64::from(errno)).count() as u64;
    ensure!(of(libc::EIO) + of(libc::EDQUOT) == 200, "{felt:?}");
    binomial::check_share("EIO", of(libc::EIO), 200, 0.5).map(drop)
}

#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn callers_of_32_bits_do_not_escape() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let scratch = integration_tests::attempts::hit_and_miss()?;
    let board = SharedBoard::create()?;
    let faults = format!("{BY} --fail fsync=EHWPOISON --fail mkdirat=EDQUOT");
    let words = format!("attempts compats --scratch {}", scratch.path().display());
    let finished = Kchaos::exec_victim(&faults, &words, &board)?.at(&cgroup.runner()?).run()?;
    finished.expect_status(0)?;
    let report = board.result(Role::First)?.context("the victim left no results")?;
    let felt: integration_tests::attempts::Felt = serde_json::from_value(report["felt"].clone())?;
    for (attempt, outcomes) in &felt {
        let outcome = match attempt.split(' ').next() {
            Some("fsync") => "EHWPOISON",
            Some("mkdirat") => "EDQUOT",
            _ => "ok",
        };
        ensure!(outcomes.keys().all(|felt| felt == outcome), "{attempt}: {outcomes:?}");
    }
    ensure!(felt.len() > 8, "{felt:?}");
    Ok(())
}

/// A victim whose first call is held back for half a minute, and who holds it.
struct Held {
    _cgroup: TestCgroup,
    board: Arc<SharedBoard>,
    running: Running,
    victim: u32,
}

impl Held {
    fn new(words: &str) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let board = Arc::new(SharedBoard::create()?);
        let faults = format!("{BY} --slow fsync=30s,limit=1");
        let words = format!("timed --wait --call fsync {words}");
        let mut running = Kchaos::exec_victim(&faults, &words, &board)?.at(&cgroup.runner()?).start()?;
        let victim = running.armed()?.pid.context("no command")?;
        wait_until("the victim to be ready", || board.ready.load(Acquire) != 0)?;
        board.go.store(1, Release);
        // The number of the call that it waits in.
        let waits = || -> Result<_> {
            let at = std::fs::read_to_string(format!("/proc/{victim}/syscall"))?;
            Ok(at.starts_with(&format!("{} ", libc::SYS_fsync)).then_some(()))
        };
        wait_for("a call to be held back", waits)?;
        Ok(Self { _cgroup: cgroup, board, running, victim })
    }

    /// The process that answers, and the one that stands by.
    fn receivers(&self) -> Result<(u32, u32)> {
        let all = receivers()?;
        let stands_by = all.iter().find(|(_, parent)| **parent == self.running.pid());
        let stands_by = *stands_by.context("no receiver")?.0;
        let serves = all.iter().find(|(_, parent)| **parent == stands_by).context("nobody answers")?;
        Ok((*serves.0, stands_by))
    }

    fn wait_times(&self) -> Result<Times> {
        wait_for("the victim's times", || Ok(self.board.result(Role::First)?.map(|_| ())))?;
        Times::on(&self.board)
    }
}

/// Far below the time asked for, and far above what the documentation promises.
const SOON: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn whoever_answers_may_be_killed_or_stopped() -> Result<()> {
    for (who, signal) in [
        ("owner", Signal::SIGKILL),
        ("owner", Signal::SIGSTOP),
        ("receiver", Signal::SIGKILL),
        ("receiver", Signal::SIGSTOP),
    ] {
        let before = KernelObjects::now()?;
        let held = Held::new("-n 200")?;
        let (serves, _) = held.receivers()?;
        let pid = if who == "owner" { held.running.pid() } else { serves };
        let begin = Instant::now();
        kill(Pid::from_raw(pid as i32), signal)?;
        let felt = held.wait_times().with_context(|| format!("{who} with {signal}"))?;
        let took = begin.elapsed();
        // Nobody feels what a call without an answer returns, neither this one nor the next ones.
        ensure!(felt.errnos.is_empty() && felt.own_us.len() == 200, "{who} with {signal}: {felt:?}");
        ensure!(took < SOON && felt.own_us[0] < SOON.as_micros() as u64, "{who} with {signal}: {took:?}");
        measure(
            "seccomp_holder",
            json!({"who": who, "signal": signal.as_str(), "ms": took.as_secs_f64() * 1e3}),
        );
        if (who, signal) == ("owner", Signal::SIGSTOP) {
            kill(Pid::from_raw(pid as i32), Signal::SIGCONT)?;
        }
        let finished = held.running.finish()?;
        match who {
            "owner" if signal == Signal::SIGKILL => finished.expect_status(137)?,
            _ => finished.expect_status(0)?,
        };
        if who == "receiver" {
            let rule = finished.summary()?.rule()?.clone();
            let missing = rule.held.as_ref().map(|held| held.missing);
            ensure!(finished.text().contains("receiver") && missing == Some(1), "{}", finished.text());
        }
        KernelObjects::now()?.since(&before).wait_gone()?;
        wait_without_receivers()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_stand_by_that_is_killed_is_replaced() -> Result<()> {
    let held = Held::new("-n 200")?;
    let (serves, stands_by) = held.receivers()?;
    kill(Pid::from_raw(stands_by as i32), Signal::SIGKILL)?;
    // The one that has answered stands by now, and has kept in mind who waits.
    let successor = || Ok(receivers()?.iter().find(|(_, parent)| **parent == serves).map(|(pid, _)| *pid));
    let (successor, _) = wait_for("another stand-by", successor)?;
    ensure!(held.board.result(Role::First)?.is_none(), "the call was let go");
    let begin = Instant::now();
    kill(Pid::from_raw(successor as i32), Signal::SIGKILL)?;
    let felt = held.wait_times()?;
    ensure!(begin.elapsed() < SOON && felt.errnos.is_empty() && felt.own_us.len() == 200, "{felt:?}");
    held.running.finish()?.expect_status(0)?;
    wait_without_receivers()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sigkill_ends_a_wait_and_handled_signals_do_not() -> Result<()> {
    let held = Held::new("-n 1")?;
    let begin = Instant::now();
    kill(Pid::from_raw(held.victim as i32), Signal::SIGKILL)?;
    held.running.finish()?.expect_status(137)?;
    ensure!(begin.elapsed() < SOON, "a killed victim took {:?} to die", begin.elapsed());
    // A handler that takes long is often at work when the call's time comes.
    let (felt, _, finished) =
        under("--slow fsync=100ms", "--call fsync -n 15 --interrupted --handler-ms 20")?;
    ensure!(felt.own_us.iter().all(|us| *us >= 100_000) && felt.errnos.is_empty(), "{felt:?}");
    // A call that begins again after a signal is the same one; below 5.19 it is not where the signal meets the answer.
    let rule = finished.summary()?.rule()?.clone();
    let met = if answers_come_before_signals()? { 0 } else { 2 };
    ensure!((15..=15 + met).contains(&rule.injected.events) && rule.seen == rule.injected, "{rule:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_command_goes_on_behind_the_end_of_a_run() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let board = SharedBoard::create()?;
    let faults = format!("{BY} --slow fsync=30s --fail mkdirat=EIO --duration 2s");
    let running = Kchaos::exec_victim(&faults, "timed --call fsync --control mkdirat -n 300", &board)?;
    let before = KernelObjects::now()?;
    let begin = Instant::now();
    let finished = running.at(&cgroup.runner()?).run()?;
    finished.expect_status(0)?;
    let felt = Times::on(&board)?;
    ensure!(begin.elapsed() < SOON && felt.own_us.len() == 300 && felt.errnos.is_empty(), "{felt:?}");
    let held = finished.summary()?.rules[0].held.clone().context("nothing was held back")?;
    ensure!((held.calls, held.cut_short) == (1, 1), "{held:?}");
    KernelObjects::now()?.since(&before).wait_gone()?;
    wait_without_receivers()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn it_is_refused_where_it_cannot_be() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let runner = cgroup.runner()?;
    let refused = |finished: Finished, status: i32| -> Result<String> {
        ensure!(finished.status() == status, "{}", finished.text());
        Ok(finished.text())
    };
    let target = cgroup.child("target")?;
    let said =
        refused(Kchaos::inject(&format!("{BY} --fail fsync=EIO"), target.path()).at(&runner).run()?, 8)?;
    ensure!(said.contains("kchaos exec"), "{said}");
    let exec =
        |faults: &str, words: &[&str]| Kchaos::exec(&format!("{BY} {faults}"), words).at(&runner).run();
    let said = refused(exec("--slow fsync=1ms,path=/a/*", &["true"])?, 125)?;
    ensure!(said.contains("leave them out"), "{said}");
    // There can be one listener only: an inner run says so, and starts nothing.
    let kchaos = binary()?;
    let proof = tempfile::tempdir()?;
    let proof = proof.path().join("ran").display().to_string();
    let inner = [&kchaos, "exec", "--mechanism", "seccomp", "--fail", "fsync=EIO", "--", "touch", &proof];
    let said = refused(exec("--fail fsync=EIO,after=1000", &inner)?, 125)?;
    ensure!(said.contains("outside of other supervisors") || said.contains("one only"), "{said}");
    ensure!(!Path::new(&proof).exists(), "the command ran without its filter");
    Ok(())
}
