//! What a call that is hit returns: one of several errnos by weight, or a success that did not happen.

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::SharedBoard;
use integration_tests::capability::{
    counted_errors_missing, file_errors_missing, fmod_ret_sys_works, kprobe_multi_works,
    kprobe_override_works,
};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::measure::measure;
use integration_tests::samples::calls;
use integration_tests::skip;
use integration_tests::spawn::Place;
use integration_tests::syscall_errors::suffer;
use integration_tests::syscall_results::{go, inject, prepared, results_under};
use serde_json::json;

/// What `pwrite64` of 512 bytes and `fdatasync` of no file return by themselves.
const HONEST: [i64; 2] = [512, -libc::EBADF as i64];

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn weighted_errnos_have_their_shares() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let faults = "--fail openat=ENOSPC:3,EIO:1,EMFILE:4@40%";
    let run = suffer(faults, &cgroup.runner()?, "openat", 2 * calls(), "--threads 2")?;
    for task in &run.tasks {
        ensure!(task.done && task.controls_failed.is_empty() && task.controls_made > 0, "{task:?}");
        let foreign = task.errnos.keys().find(|name| !["ENOSPC", "EIO", "EMFILE"].contains(&name.as_str()));
        ensure!(foreign.is_none(), "{task:?}");
    }
    let hits = run.errno("ENOSPC") + run.errno("EIO") + run.errno("EMFILE");
    let rule = run.summary.rule()?;
    ensure!(rule.injected.events == hits, "{hits} errors felt, but kchaos says {rule:?}");
    let interval = check_share(faults, hits, run.calls(), 0.4)?;
    measure(
        "syscall_error_share",
        json!({"asked": "40%", "n": run.calls(), "felt": hits, "low": interval.low}),
    );
    for (errno, weight) in [("ENOSPC", 3.0), ("EIO", 1.0), ("EMFILE", 4.0)] {
        let interval = check_share(errno, run.errno(errno), hits, weight / 8.0)?;
        measure(
            "syscall_weighted_share",
            json!({"errno": errno, "weight": weight / 8.0, "n": hits, "felt": run.errno(errno), "low": interval.low,
                "high": interval.high}),
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_seed_repeats_the_results() -> Result<()> {
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let run = |seed: u32| -> Result<Vec<Vec<i64>>> {
        let faults = format!("--seed {seed} --fail mkdirat=ENOSPC:1,EIO:1,EROFS:1@50%");
        Ok(results_under(&faults, &place, "--calls mkdirat -n 200")?.0)
    };
    let first = run(42)?;
    ensure!(first == run(42)?, "the seed gave another sequence");
    ensure!(first != run(43)?, "another seed gave the same sequence");
    for result in [0, -libc::ENOSPC, -libc::EIO, -libc::EROFS] {
        ensure!(first[0].contains(&i64::from(result)), "{result} is not among {first:?}");
    }
    Ok(())
}

/// The mechanisms that can claim success here: by name, and whether with 0 too.
fn liars() -> Result<Vec<(&'static str, bool)>> {
    let mut liars = vec![];
    if fmod_ret_sys_works()? {
        liars.push(("fmod_ret_sys", false));
    }
    if kprobe_multi_works() && kprobe_override_works() {
        liars.push(("kprobe_multi", true));
    }
    if kprobe_override_works() {
        liars.push(("kprobe", true));
    }
    Ok(liars)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_success_is_claimed_that_did_not_happen() -> Result<()> {
    let liars = liars()?;
    if liars.is_empty() {
        skip!("no mechanism can claim success");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let sibling = Place::default().in_cgroup(&cgroup.child("sibling")?);
    for (mechanism, zero) in liars {
        let target = cgroup.child(&format!("target-{mechanism}"))?;
        let within = Place::default().in_cgroup(&target);
        let directory = || tempfile::tempdir().context("making a scratch directory");
        let (lied_to, told_truth, afterwards) = (directory()?, directory()?, directory()?);
        let words = |scratch: &tempfile::TempDir| {
            format!("--calls pwrite64,fdatasync -n 10 --scratch {}", scratch.path().display())
        };
        let size = |scratch: &tempfile::TempDir| -> Result<u64> {
            let files = std::fs::read_dir(scratch.path())?;
            files.map(|file| Ok(file?.metadata()?.len())).sum()
        };
        let victim = prepared(&within, &words(&lied_to))?;
        let bystander = prepared(&sibling, &words(&told_truth))?;
        let fdatasync = if zero { "--fail fdatasync=return=0" } else { "--fail fdatasync=return=77" };
        let faults = format!("--mechanism {mechanism} --fail pwrite64=return=4096 {fdatasync}");
        let running = inject(&faults, target.path(), &place)?;
        let felt = go(victim)?;
        let bystander = go(bystander)?;
        let summary = running.interrupt()?.summary()?;
        let claimed = [4096, if zero { 0 } else { 77 }].repeat(10);
        let missed: u64 = summary.rules.iter().map(|rule| rule.missed).sum();
        ensure!(missed > 0 || felt == [claimed.clone()], "{mechanism}: the victim was told {felt:?}");
        ensure!(missed > 0 || size(&lied_to)? == 0, "{mechanism}: something was written after all");
        ensure!(felt[0].contains(&4096) && felt[0].contains(&claimed[1]), "{mechanism}: {felt:?}");
        ensure!(bystander == [HONEST.repeat(10)], "{mechanism}: the bystander was told {bystander:?}");
        ensure!(size(&told_truth)? == 512, "{mechanism}: the bystander's file has {}", size(&told_truth)?);
        for rule in &summary.rules {
            ensure!(rule.mechanisms == [mechanism] && rule.injected.events + rule.missed >= 10, "{rule:?}");
        }
        let after = go(prepared(&within, &words(&afterwards))?)?;
        ensure!(after == [HONEST.repeat(10)], "{mechanism}: after the end the victim was told {after:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_lie_and_an_error_share_one_mechanism() -> Result<()> {
    if !kprobe_override_works() {
        skip!("no kprobe override");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    // By itself, mkdirat would fail at a security hook, which cannot claim success; the limit lets the next rule act.
    let faults = "--fail mkdirat=EROFS@50% --fail mkdirat=return=0:3,return=5:1,ENOSPC:1";
    let (results, finished) = results_under(faults, &place, "--calls mkdirat -n 400")?;
    let summary = finished.summary()?;
    ensure!(
        summary.rules.iter().all(|rule| rule.mechanisms == summary.rules[0].mechanisms),
        "{:?}",
        summary.rules
    );
    let of = |result: i64| results[0].iter().filter(|felt| **felt == result).count() as u64;
    let [erofs, zero, five, enospc] = [-i64::from(libc::EROFS), 0, 5, -i64::from(libc::ENOSPC)].map(of);
    ensure!(summary.rules[0].injected.events == erofs, "{:?}", summary.rules);
    let drawn = zero + five + enospc;
    if summary.rules[1].missed == 0 {
        ensure!(erofs + drawn == 400 && summary.rules[1].injected.events == drawn, "{:?}", summary.rules);
    }
    check_share("EROFS", erofs, erofs + drawn, 0.5)?;
    check_share("return=0", zero, drawn, 0.6)?;
    check_share("ENOSPC", enospc, drawn, 0.2)?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn lies_that_no_mechanism_can_tell_are_refused() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let mut refused = vec![
        ("--mechanism lsm --fail openat=return=3", "a hook can let openat fail"),
        ("--mechanism fmod_ret_security --fail openat=EIO:9,return=3:1", "a hook can let openat fail"),
        ("--mechanism cgroup_sock_addr --fail connect=return=0", "a hook can let connect fail"),
    ];
    if fmod_ret_sys_works()? {
        refused.push(("--mechanism fmod_ret_sys --fail fdatasync=return=0", "returns 0 lets the call go on"));
    }
    if !kprobe_override_works() {
        refused.push(("--fail fdatasync=return=0", "CONFIG_BPF_KPROBE_OVERRIDE"));
    }
    for (faults, words) in refused {
        let board = SharedBoard::create()?;
        let finished = Kchaos::exec_victim(faults, "sleep", &board)?.at(&place).run()?;
        finished.expect_status(125)?;
        let error = finished.error()?;
        ensure!(
            error.code == 8 && error.message.contains(words),
            "{faults}: {} {}",
            error.code,
            error.message
        );
        ensure!(board.ready.load(std::sync::atomic::Ordering::Acquire) == 0, "{faults}: the command was run");
    }
    Ok(())
}
