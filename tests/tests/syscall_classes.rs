//! Classes of system calls: those of a class fail, others do not.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use integration_tests::capability::{file_errors_missing, fmod_ret_sys_works, kprobe_override_works};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::measure::measure;
use integration_tests::plan::plan;
use integration_tests::skip;
use integration_tests::spawn::Place;
use integration_tests::syscall_results::{go, inject, prepared};
use serde_json::json;

const EHWPOISON: i64 = -libc::EHWPOISON as i64;

/// A class, calls of it that a security hook reaches, one more that only its entry reaches, and calls beside it.
type Case = (&'static str, &'static [&'static str], Option<&'static str>, &'static [&'static str]);

const CASES: [Case; 4] = [
    (
        "%file",
        &["openat", "mkdirat", "newfstatat", "open"],
        None,
        &["read", "write", "fcntl", "connect", "getppid"],
    ),
    (
        "%desc",
        &["read", "write", "fcntl", "getdents64", "openat"],
        Some("fsync"),
        &["connect", "socket", "getppid"],
    ),
    ("%network", &["socket", "connect"], None, &["openat", "read", "write", "mkdirat", "getppid"]),
    ("%memory", &["mmap"], None, &["openat", "read", "write", "mkdirat", "socket", "getppid"]),
];

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_of_a_class_fail_and_others_do_not() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let by_entry = fmod_ret_sys_works()? || kprobe_override_works();
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let target = cgroup.child("target")?;
    let within = Place::default().in_cgroup(&target);
    let sibling = Place::default().in_cgroup(&cgroup.child("sibling")?);
    for (class, hooked, entry, others) in CASES {
        let members: Vec<&str> = hooked.iter().copied().chain(entry.filter(|_| by_entry)).collect();
        let all = [&members[..], others].concat();
        let words = format!("--calls {} -n 3", all.join(","));
        let victim = prepared(&within, &words)?;
        let bystander = prepared(&sibling, &words)?;
        let begin = std::time::Instant::now();
        let running = inject(&format!("--fail {class}=EHWPOISON"), target.path(), &place)?;
        let armed = begin.elapsed();
        let felt = go(victim)?;
        let beside = go(bystander)?;
        let begin = std::time::Instant::now();
        let summary = running.interrupt()?.summary()?;
        let undone = begin.elapsed();
        let rule = summary.rule()?;
        ensure!(felt.len() == 1, "{class}: {felt:?}");
        for process in &felt {
            for (call, result) in all.iter().cycle().zip(process) {
                let through = rule.missed > 0 && *result >= 0;
                let expected =
                    if members.contains(call) { *result == EHWPOISON || through } else { *result >= 0 };
                ensure!(expected, "{class}: {call} returned {result} ({rule:?})");
            }
        }
        ensure!(beside.iter().flatten().all(|result| *result >= 0), "{class}: the bystander felt {beside:?}");
        ensure!(rule.call.as_deref() == Some(class), "{rule:?}");
        let after = go(prepared(&within, &words)?)?;
        ensure!(after.iter().flatten().all(|result| *result >= 0), "{class}: after the end {after:?}");
        measure(
            "syscall_class",
            json!({"class": class, "mechanisms": rule.mechanisms, "armed_ms": armed.as_millis() as u64,
                "ended_ms": undone.as_millis() as u64}),
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_plan_says_what_of_a_class_is_left_out() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    for (class, inside, dangerous) in [
        ("%file", "openat", "execve"),
        ("%desc", "openat", "execveat"),
        ("%process", "kill", "exit_group"),
        ("%memory", "mmap", "munmap"),
    ] {
        let planned = plan(&format!("--fail {class}=EIO"))?;
        let rule = &planned["rules"][0];
        let limits = rule["limits"].to_string();
        let calls = rule["calls"].to_string();
        ensure!(calls.contains(&format!("\"{inside}\"")), "{class}: {calls}");
        ensure!(!calls.contains(&format!("\"{dangerous}\"")), "{class}: {calls}");
        let sentence = limits.contains("--allow CALL") && limits.contains(dangerous);
        ensure!(sentence, "{class}: {dangerous} is left out without a word: {limits}");
        if dangerous == "execve" {
            let planned = plan(&format!("--fail {class}=EIO --allow execve"))?;
            ensure!(planned["rules"][0]["calls"].to_string().contains("\"execve\""), "{planned}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_class_of_which_nothing_is_reached_is_refused() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = cgroup.runner()?;
    let faults = "--mechanism cgroup_sock_addr --fail %memory=ENOMEM";
    let finished = Kchaos::exec(faults, &["true"]).at(&place).run()?;
    finished.expect_status(125)?;
    let error = finished.error()?;
    ensure!(
        error.code == 8 && error.message.contains("no call of %memory can be reached"),
        "{}",
        error.message
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_are_listed_by_class() -> Result<()> {
    let output = Command::new(binary()?).args(["syscalls", "--json", "--class", "%network"]).output()?;
    let said = String::from_utf8(output.stdout)?;
    let rows: Vec<serde_json::Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let names: Vec<_> = rows.iter().filter_map(|row| row["call"]["name"].as_str()).collect();
    ensure!(names.contains(&"connect") && !names.contains(&"openat") && names.len() > 15, "{names:?}");
    let sendfile = rows.iter().find(|row| row["call"]["name"] == "sendfile").context("no sendfile")?;
    ensure!(sendfile["call"]["classes"] == json!(["%desc", "%network"]), "{sendfile}");
    Ok(())
}
