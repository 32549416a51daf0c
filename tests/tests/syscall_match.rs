//! Which calls a fault hits, by who makes them and on what, as the caller feels it; by every mechanism that works here.

use anyhow::{Result, ensure};
use integration_tests::attempts::{OF_TASKS, check, working};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::skip;
use integration_tests::spawn::Place;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn callers_are_chosen_by_name_and_user() -> Result<()> {
    let mechanisms = working(&OF_TASKS)?;
    if mechanisms.is_empty() {
        skip!("no mechanism fails calls on files");
    }
    for mechanism in mechanisms {
        let faults = "--fail openat=EIO,comm=kc-worker \
                      --fail openat=ENOSPC,comm=fifteen*,comm=!fifteen-bytes-y \
                      --fail openat=EPERM,comm=a\\,b \
                      --fail openat=EROFS,comm=\\xff\\xfe \
                      --fail openat=EACCES,uid=www-data,comm=!kc* \
                      --fail openat=EMFILE,uid=4000,uid=1234";
        let expected = [
            ("kc-worker", "EIO"),
            ("fifteen-bytes-x", "ENOSPC"),
            ("a,b", "EPERM"),
            ("\u{fffd}\u{fffd}", "EROFS"),
            ("uid 33", "EACCES"),
            ("uid 1234", "EMFILE"),
        ];
        let summary = check(&format!("--mechanism {mechanism} {faults}"), "callers", &expected)?;
        for rule in &summary.rules {
            ensure!(rule.matched == rule.injected, "something was spared: {rule:?}");
            ensure!(rule.seen.events > rule.matched.events, "the rule saw only what it hit: {rule:?}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn matches_that_cannot_be_meant_are_refused() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = Place::default().in_cgroup(cgroup.root());
    let cases: &[(&str, i32, &[&str])] = &[
        ("openat=EIO,comm=a-very-long-name-of-a-task", 2, &["26 bytes", "15", "a-very-long-nam"]),
        ("openat=EIO,uid=no-such-user-here", 2, &["no-such-user-here", "/etc/passwd", "number"]),
        ("openat=EIO,comm=a*b,uid=99999999999", 2, &["a*b", "99999999999"]),
        ("openat=EIO,colour=red", 2, &["colour=red", "comm="]),
    ];
    for (fault, code, words) in cases {
        let finished = Kchaos::new(&format!("plan --json --fail {fault}")).at(&place).run()?;
        finished.expect_status(*code)?;
        let error = finished.error()?;
        for word in *words {
            ensure!(error.message.contains(word), "{fault}: {word} is missing in: {}", error.message);
        }
    }
    Ok(())
}
