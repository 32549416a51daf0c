//! Every mechanism that works here carries the same faults with the same result.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::SharedBoard;
use integration_tests::capability::{fmod_ret_reaches_bodies, mechanism_works};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::skip;
use integration_tests::syscall_errors::suffer;
use integration_tests::tasks::read_tasks;

type Group = &'static [(&'static str, &'static str)];

/// Calls with the errno each is made to fail with, in groups: each group is the others' control.
const HOOKED: [Group; 2] = [
    &[("openat2", "EMFILE"), ("read", "EIO"), ("getdents64", "ENOENT"), ("mkdirat", "EROFS")],
    &[
        ("open", "EACCES"),
        ("write", "ENOSPC"),
        ("connect", "ENETUNREACH"),
        ("renameat2", "EXDEV"),
        ("unlinkat", "EPERM"),
    ],
];

/// Calls that pass no security hook. The last one has no arguments: its function has several names.
const UNHOOKED: [Group; 2] = [&[("fsync", "EIO")], &[("getppid", "EHWPOISON")]];

fn each_call_fails_by(mechanism: &str) -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let enters = !matches!(mechanism, "lsm" | "fmod_ret_security");
    let unhooked = if enters { &UNHOOKED[..] } else { &[] };
    for group in HOOKED.iter().chain(unhooked) {
        if mechanism == "fmod_ret_sys" && group[0].0 == "getppid" && !fmod_ret_reaches_bodies()? {
            continue;
        }
        let faults: Vec<String> =
            group.iter().map(|(call, errno)| format!("--fail {call}={errno}@100%")).collect();
        let faults = format!("--mechanism {mechanism} {}", faults.join(" "));
        let (first, first_errno) = group[0];
        let board = SharedBoard::create()?;
        let words = format!("calls --call {first} -n 20 --threads 2 --children 1");
        let finished = Kchaos::exec_victim(&faults, &words, &board)?.at(&place).run()?;
        finished.expect_status(0)?;
        let expected: BTreeSet<String> =
            group[1..].iter().map(|(call, errno)| format!("{call}: {errno} (3 times)")).collect();
        let tasks = read_tasks(&board);
        let summary = finished.summary()?;
        let missed: u64 = summary.rules.iter().map(|rule| rule.missed).sum();
        ensure!(tasks.len() == 4, "{} tasks reported", tasks.len());
        let felt: u64 = tasks.iter().map(|task| task.errno(first_errno)).sum();
        ensure!(felt > 0 && felt + missed >= 80, "{first}: felt {felt} of 80, {missed} missed: {tasks:?}");
        for task in &tasks {
            let failed: BTreeSet<String> = task.controls_failed.iter().cloned().collect();
            // A call that the kernel did not show to the programs went through.
            ensure!(
                failed == expected || (missed > 0 && failed.len() <= expected.len()),
                "{mechanism}: these calls failed: {failed:?}, instead of {expected:?}, {missed} missed"
            );
        }
        for rule in &summary.rules {
            let events = if rule.call.as_deref() == Some(first) { 80 } else { 12 };
            ensure!(
                rule.mechanisms == [mechanism]
                    && rule.injected.events <= events
                    && rule.injected.events + rule.missed >= events,
                "{events} hits by {mechanism} expected: {rule:?}"
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_call_fails_by_lsm() -> Result<()> {
    if !mechanism_works("lsm")? {
        skip!("no active BPF LSM");
    }
    each_call_fails_by("lsm")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_call_fails_by_fmod_ret_security() -> Result<()> {
    if !mechanism_works("fmod_ret_security")? {
        skip!("no trampolines on security functions");
    }
    each_call_fails_by("fmod_ret_security")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_call_fails_by_fmod_ret_sys() -> Result<()> {
    if !mechanism_works("fmod_ret_sys")? {
        skip!("no error injection into system call functions");
    }
    each_call_fails_by("fmod_ret_sys")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_call_fails_by_kprobe_multi() -> Result<()> {
    if !mechanism_works("kprobe_multi")? {
        skip!("no kprobe.multi override");
    }
    each_call_fails_by("kprobe_multi")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn each_call_fails_by_kprobe() -> Result<()> {
    if !mechanism_works("kprobe")? {
        skip!("no kprobe override");
    }
    each_call_fails_by("kprobe")
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn socket_calls_fail_by_socket_hooks() -> Result<()> {
    if !mechanism_works("cgroup_sock_addr")? {
        skip!("socket hooks cannot set an errno");
    }
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    for (call, errno) in [("connect", "ETIMEDOUT"), ("bind", "EADDRINUSE"), ("sendto", "ENETUNREACH")] {
        let faults = format!("--mechanism cgroup_sock_addr --fail {call}={errno}@100%");
        let run = suffer(&faults, &place, call, 20, "--threads 2 --children 1")?;
        run.check(4, 20, errno)?;
        run.check_all_failed(errno)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn every_call_is_listed_with_the_mechanisms_that_work_here() -> Result<()> {
    let output = Command::new(binary()?).args(["syscalls", "--json"]).output()?;
    let said = String::from_utf8(output.stdout)?;
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in said.lines() {
        let row: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let name = row["call"]["name"].as_str().context("a call without a name")?;
        listed.insert(name.to_owned(), serde_json::from_value(row["call"]["mechanisms"].clone())?);
    }
    ensure!(listed.len() > 300, "{} calls are listed", listed.len());
    let security = ["lsm", "fmod_ret_security"];
    let entry = ["fmod_ret_sys", "kprobe_multi", "kprobe"];
    for (call, candidates) in [
        ("openat", [&security[..], &entry].concat()),
        ("fsync", entry.to_vec()),
        ("getppid", entry.to_vec()),
        ("connect", [&security[..], &entry, &["cgroup_sock_addr"]].concat()),
    ] {
        let mut working = vec![];
        for mechanism in candidates {
            let body = mechanism == "fmod_ret_sys" && call == "getppid";
            if mechanism_works(mechanism)? && (!body || fmod_ret_reaches_bodies()?) {
                working.push(mechanism.to_owned());
            }
        }
        ensure!(listed.get(call) == Some(&working), "{call}: {:?} instead of {working:?}", listed.get(call));
    }
    Ok(())
}
