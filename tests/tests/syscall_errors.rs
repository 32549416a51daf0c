//! System call errors as the caller feels them: the right errno, on the right call, in every task, and in no other.

use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::{
    fails_syscalls, file_errors_missing, fmod_ret_sys_works, kprobe_override_works, lsm_lists_bpf, lsm_works,
    openat_mechanism,
};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::patience::wait_until;
use integration_tests::samples::{bystander_turns, calls};
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::syscall_errors::{check_task, suffer};
use integration_tests::tasks::read_tasks;
use serde_json::json;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_openat_fails_and_nothing_else_in_threads_and_descendants() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let (threads, generations, n) = (4, 3, 50);
    let run = suffer(
        "--fail openat=EIO@100%",
        &cgroup.runner()?,
        "openat",
        n,
        &format!("--threads {threads} --children {}", generations - 1),
    )?;
    run.check(threads * generations, n, "EIO")?;
    run.check_all_failed("EIO")?;
    let others = run.tasks.iter().filter(|task| task.tid != task.tgid).count();
    ensure!(
        others == run.tasks.len(),
        "the tasks were to be threads other than the main one: {:?}",
        run.tasks
    );
    let rule = run.summary.rule()?;
    let expected = openat_mechanism()?.unwrap_or_default();
    ensure!(rule.mechanisms == [expected], "carried by {:?} instead of {expected}", rule.mechanisms);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_share_of_the_calls_fails() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    for (percent, probability) in [("10%", 0.1), ("50%", 0.5)] {
        let faults = format!("--fail openat=ENOSPC@{percent}");
        let run = suffer(&faults, &place, "openat", calls(), "--threads 2")?;
        run.check(2, calls(), "ENOSPC")?;
        let interval = check_share(&faults, run.errno("ENOSPC"), run.calls(), probability)?;
        measure(
            "syscall_error_share",
            json!({"asked": percent, "n": run.calls(), "felt": run.errno("ENOSPC"), "low": interval.low, "high": interval.high}),
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn fsync_fails_by_kprobe() -> Result<()> {
    if !kprobe_override_works() {
        skip!("no kprobe override");
    }
    let cgroup = TestCgroup::new()?;
    let run = suffer("--fail fsync=EIO@100%", &cgroup.runner()?, "fsync", 20, "")?;
    run.check(1, 20, "EIO")?;
    run.check_all_failed("EIO")?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn several_rules_hit_their_own_calls() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let board = SharedBoard::create()?;
    let faults = "--fail openat=EIO@100% --fail mkdirat=EROFS@100%";
    let finished =
        Kchaos::exec_victim(faults, "calls --call openat -n 10", &board)?.at(&cgroup.runner()?).run()?;
    finished.expect_status(0)?;
    let tasks = read_tasks(&board);
    ensure!(tasks.len() == 1 && tasks[0].errno("EIO") == 10, "{tasks:?}");
    ensure!(tasks[0].controls_failed == ["mkdirat: EROFS (3 times)"], "{tasks:?}");
    let summary = finished.summary()?;
    let injected: Vec<u64> = summary.rules.iter().map(|rule| rule.injected.events).collect();
    ensure!(injected == [10, 3], "{:?}", summary.rules);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_bystander_in_a_sibling_cgroup_feels_nothing() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let board = SharedBoard::create()?;
    let mut running = Kchaos::exec_victim(
        "--fail openat=EIO@100%",
        "calls --call openat --no-controls --pause-us 200",
        &board,
    )?
    .at(&cgroup.runner()?)
    .start()?;
    running.armed()?;
    wait_until("the target to feel errors", || read_tasks(&board).iter().any(|task| task.errno("EIO") > 10))?;
    let sibling = Place::default().in_cgroup(&cgroup.child("bystander")?);
    let arguments = format!("calls --call openat -n {} --threads 2 --children 1", calls());
    let turns = bystander_turns(4 * calls());
    for _ in 0..turns {
        let mut bystander = Victim::start(&sibling, &arguments)?;
        bystander.finish(Role::First)?;
        let tasks = read_tasks(&bystander.board);
        ensure!(tasks.len() == 4, "{tasks:?}");
        tasks.iter().try_for_each(|task| check_task(task, calls(), None))?;
    }
    let still = read_tasks(&board)[0].errno("EIO");
    wait_until("the target still to feel errors", || read_tasks(&board)[0].errno("EIO") > still)?;
    board.stop.store(1, Release);
    let finished = running.finish()?;
    finished.expect_status(0)?;
    let after = read_tasks(&board);
    ensure!(after[0].succeeded == 0, "the target was not under fault all the time: {after:?}");
    measure("syscall_bystander", json!({"calls": 4 * calls() * turns, "failed": 0}));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn injecting_reaches_descendants_from_before_and_during_the_run() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let target = cgroup.child("target")?;
    let old = target.child("old")?;
    let endless = "calls --call openat --no-controls --pause-us 200 --wait --threads 2 --children 1";
    let mut victims = vec![
        Victim::start(&Place::default().in_cgroup(&target), endless)?,
        Victim::start(&Place::default().in_cgroup(&old), endless)?,
    ];
    for victim in &mut victims {
        victim.ready()?;
        victim.board.go.store(1, Release);
        wait_until("calls before the fault", || {
            let tasks = read_tasks(&victim.board);
            tasks.len() == 4 && tasks.iter().all(|task| task.succeeded > 3)
        })?;
        let tasks = read_tasks(&victim.board);
        ensure!(tasks.iter().all(|task| task.errnos.is_empty()), "errors before the fault: {tasks:?}");
    }
    let line =
        format!("inject --json --cgroup {} --fail openat=EIO@100% --duration 600s", target.path().display());
    let mut running = Kchaos::new(&line).at(&cgroup.runner()?).start()?;
    running.armed()?;
    let young = target.child("young")?.child("younger")?;
    victims.push(Victim::start(&Place::default().in_cgroup(&young), endless)?);
    victims[2].ready()?;
    victims[2].board.go.store(1, Release);
    for (number, victim) in victims.iter().enumerate() {
        wait_until(&format!("victim {number} to feel errors in all tasks"), || {
            let tasks = read_tasks(&victim.board);
            tasks.len() == 4 && tasks.iter().all(|task| task.errno("EIO") > 10)
        })?;
    }
    let tasks = read_tasks(&victims[2].board);
    ensure!(tasks.iter().all(|task| task.succeeded == 0), "the young cgroup was missed at first: {tasks:?}");
    running.signal(nix::sys::signal::Signal::SIGINT)?;
    let finished = running.finish()?;
    finished.expect_status(130)?;
    finished.summary()?;
    for victim in &mut victims {
        let errors =
            |board: &SharedBoard| read_tasks(board).iter().map(|task| task.errno("EIO")).sum::<u64>();
        let felt = errors(&victim.board);
        let calls = |board: &SharedBoard| read_tasks(board).iter().map(|task| task.calls).min().unwrap_or(0);
        let made = calls(&victim.board);
        wait_until("calls after the fault", || calls(&victim.board) > made + 10)?;
        // One call of each task may have been under way when the counters were read.
        ensure!(errors(&victim.board) <= felt + 4, "errors after the end of the run");
        victim.stop(Role::First)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn an_impossible_mechanism_is_refused_before_the_command_runs() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let mut refused = Vec::new();
    if !kprobe_override_works() {
        refused.push("--mechanism kprobe --fail openat=EIO@100%");
    }
    if !lsm_works()? {
        refused.push("--mechanism lsm --fail openat=EIO@100%");
    }
    if !fails_syscalls()? {
        refused.push("--fail openat=EIO@100%");
        refused.push("--loss 5% --fail openat=EIO@100%");
    }
    // No security hook is passed by close; only its entry can fail it.
    if !kprobe_override_works() && !fmod_ret_sys_works()? {
        refused.push("--fail close=EIO@100%");
    }
    if refused.is_empty() {
        skip!("this kernel has every mechanism");
    }
    for faults in refused {
        let before = KernelObjects::now()?;
        let board = SharedBoard::create()?;
        let finished = Kchaos::exec_victim(faults, "sleep", &board)?.at(&place).run()?;
        finished.expect_status(125)?;
        let error = finished.error()?;
        ensure!(error.code == 8, "{faults}: code {} instead of 8: {}", error.code, error.message);
        let names_mechanism =
            error.message.contains("kprobe") || error.message.to_lowercase().contains("lsm");
        ensure!(names_mechanism, "{faults}: the message does not say what is missing: {}", error.message);
        if faults.contains("lsm")
            && !lsm_lists_bpf()
            && std::path::Path::new("/sys/kernel/security/lsm").exists()
        {
            ensure!(
                error.message.contains("lsm="),
                "{faults}: the remedy (lsm=...,bpf) is not named: {}",
                error.message
            );
        }
        ensure!(board.ready.load(Acquire) == 0, "{faults}: the command was run");
        KernelObjects::now()?.since(&before).wait_gone()?;
    }
    Ok(())
}
