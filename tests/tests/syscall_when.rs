//! Which calls are hit, by their number: strace's `when`, and counting per process.

use std::process::Command;
use std::sync::atomic::Ordering::Release;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{counted_errors_missing, counts_exactly, has_tool};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim, victim_binary};
use integration_tests::syscall_results::{go, inject, prepared, results, results_under};

const EIO: i64 = -libc::EIO as i64;

/// Processes that count for themselves at one time (`PROCESSES_MAX` of the kernel programs).
const PROCESSES_MAX: usize = 4096;

/// EIO at these numbers, counted from 1, and success at the others.
fn hit_at(hit: &[usize], n: usize) -> Vec<i64> {
    (1..=n).map(|number| if hit.contains(&number) { EIO } else { 0 }).collect()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sequences_are_straces() -> Result<()> {
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let cases: [(&str, &[usize]); 7] = [
        ("3", &[3]),
        ("3..5", &[3, 4, 5]),
        ("10+", &[10, 11, 12]),
        ("4..6+", &[4, 5, 6]),
        ("2+4", &[2, 6, 10]),
        ("1+5", &[1, 6, 11]),
        ("2..9+3", &[2, 5, 8]),
    ];
    for (expression, hit) in cases {
        let faults = format!("--fail mkdirat=EIO,when={expression}");
        let (felt, finished) = results_under(&faults, &place, "--calls mkdirat -n 12")?;
        let expected = [hit_at(hit, 12)];
        let rule = finished.summary()?.rule()?.clone();
        ensure!(felt == expected, "when={expression}: {felt:?} ({rule:?})");
        ensure!(
            rule.injected.events == hit.len() as u64 && rule.spared["turn"].events == 12 - hit.len() as u64,
            "when={expression}: {rule:?}"
        );
        if has_tool("strace") {
            let scratch = tempfile::tempdir()?;
            let output = Command::new("strace")
                .args(["-o", "/dev/null", "-e", "trace=mkdirat", "-e"])
                .arg(format!("inject=mkdirat:error=EIO:when={expression}"))
                .args([victim_binary()?.as_str(), "results", "--calls", "mkdirat", "-n", "12", "--scratch"])
                .arg(scratch.path())
                .output()?;
            let report = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("strace: {}", String::from_utf8_lossy(&output.stderr)))?;
            ensure!(results(&report)? == expected, "strace's when={expression}: {report}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_target_counts_together_and_each_process_for_itself() -> Result<()> {
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let target = cgroup.child("target")?;
    let sibling = Place::default().in_cgroup(&cgroup.child("sibling")?);
    // Three processes of ten calls each, in the target and beside it.
    let felt_under = |options: &str, more: &str| -> Result<(Vec<Vec<i64>>, u64)> {
        let words = format!("--calls connect -n 10 --children 2 {more}");
        let victim = prepared(&Place::default().in_cgroup(&target), &words)?;
        let bystander = prepared(&sibling, &words)?;
        let running = inject(&format!("--fail connect=EIO,{options}"), target.path(), &place)?;
        let felt = go(victim)?;
        let beside = go(bystander)?;
        let summary = running.interrupt()?.summary()?;
        let rule = summary.rule()?;
        ensure!(beside.iter().flatten().all(|result| *result == 0), "{options}: beside it {beside:?}");
        ensure!(rule.missed == 0 && rule.spared["untracked"].events == 0, "{options}: {rule:?}");
        let hits = felt.iter().flatten().filter(|result| **result == EIO).count() as u64;
        ensure!(hits == rule.injected.events, "{options}: {hits} felt, but {rule:?}");
        Ok((felt, hits))
    };
    let (_, hits) = felt_under("when=5..8", "")?;
    ensure!(hits == 4, "together, {hits} calls of number 5 to 8 were hit");
    for (options, hit) in [
        ("when=5..8,per=process", &[5, 6, 7, 8][..]),
        ("when=2+3,per=process", &[2, 5, 8]),
        ("every=4,per=process", &[4, 8]),
        ("after=7,limit=2,per=process", &[8, 9]),
    ] {
        let (felt, _) = felt_under(options, "")?;
        ensure!(felt.iter().all(|process| *process == hit_at(hit, 10)), "{options}: {felt:?}");
    }
    // Threads of a process count together: 20 calls of each process, 5 of them hit.
    let (felt, _) = felt_under("every=4,per=process", "--threads 2")?;
    let hits = |process: &Vec<i64>| process.iter().filter(|result| **result == EIO).count();
    ensure!(felt.len() == 3 && felt.iter().all(|process| hits(process) == 5), "{felt:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn processes_that_ended_are_forgotten() -> Result<()> {
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let board = SharedBoard::create()?;
    let children = PROCESSES_MAX + 200;
    let arguments = format!("results --calls connect -n 3 --one-by-one --children {children}");
    let faults = "--fail connect=EIO,when=2,per=process";
    let finished = Kchaos::exec_victim(faults, &arguments, &board)?.at(&cgroup.runner()?).run()?;
    finished.expect_status(0)?;
    let summary = finished.summary()?;
    let rule = summary.rule()?;
    ensure!(rule.spared["untracked"].events == 0, "processes found no room: {rule:?}");
    let report = board.result(Role::First)?.context("no report")?;
    let counts: Vec<(Vec<i64>, usize)> = serde_json::from_value(report["counts"].clone())?;
    ensure!(
        counts.len() == 1 && counts[0] == (hit_at(&[2], 3), children + 1),
        "not every process felt its second call fail and no other: {counts:?} ({rule:?})"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn processes_beyond_the_limit_are_spared_and_counted() -> Result<()> {
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    // Enough threads for a machine of two gigabytes, whose kernel allows fewer by itself.
    let limit = "/proc/sys/kernel/threads-max";
    let allowed: usize = std::fs::read_to_string(limit)?.trim().parse()?;
    if allowed < 3 * PROCESSES_MAX {
        std::fs::write(limit, (3 * PROCESSES_MAX).to_string())?;
    }
    let target = cgroup.child("target")?;
    let children = PROCESSES_MAX + 99;
    let words = format!("results --wait --calls connect -n 1 --hold --children {children}");
    let mut victim = Victim::start(&Place::default().in_cgroup(&target), &words)?;
    victim.ready()?;
    let running = inject("--fail connect=EIO,when=1,per=process", target.path(), &place)?;
    victim.board.go.store(1, Release);
    let report = victim.finish(Role::First)?;
    let summary = running.interrupt()?.summary()?;
    let rule = summary.rule()?;
    let counts: Vec<(Vec<i64>, usize)> = serde_json::from_value(report["counts"].clone())?;
    let failed: usize = counts.iter().filter(|(felt, _)| felt[0] == EIO).map(|(_, count)| count).sum();
    let passed: usize = counts.iter().filter(|(felt, _)| felt[0] == 0).map(|(_, count)| count).sum();
    ensure!(failed == PROCESSES_MAX && passed == 100, "{failed} failed, {passed} passed: {rule:?}");
    ensure!(
        rule.injected.events == failed as u64 && rule.spared["untracked"].events == passed as u64,
        "{rule:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_fetching_atomics_counting_is_refused() -> Result<()> {
    if counts_exactly() {
        skip!("this kernel counts exactly");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    for options in ["when=3", "every=2,per=process", "limit=1"] {
        let board = SharedBoard::create()?;
        let faults = format!("--fail openat=EIO,{options}");
        let finished = Kchaos::exec_victim(&faults, "sleep", &board)?.at(&place).run()?;
        finished.expect_status(125)?;
        let error = finished.error()?;
        ensure!(error.code == 8 && error.message.contains("Linux 5.12"), "{options}: {}", error.message);
    }
    Ok(())
}
