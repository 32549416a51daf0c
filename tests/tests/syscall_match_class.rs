//! Matches together with classes, results and turns.

use anyhow::{Result, ensure};
use integration_tests::attempts::{attempts_under, check, hit_and_miss};
use integration_tests::capability::{
    counted_errors_missing, file_errors_missing, fmod_ret_sys_works, kprobe_override_works,
};
use integration_tests::plan::plan;
use integration_tests::skip;
use integration_tests::victim::ATTEMPT_ROUNDS;

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_class_is_matched_by_path() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let by_entry = fmod_ret_sys_works()? || kprobe_override_works();
    let scratch = hit_and_miss()?;
    let s = scratch.path().display();
    let mut expected: Vec<_> = ["openat hit", "newfstatat hit", "truncate hit", "mkdirat and rmdir hit"]
        .map(|label| (label, "EHWPOISON"))
        .to_vec();
    expected.extend(by_entry.then_some(("faccessat hit", "EHWPOISON")));
    let summary = check(
        &format!("--fail %file=EHWPOISON,path={s}/hit/*"),
        &format!("classes --scratch {s}"),
        &expected,
    )?;
    let rule = summary.rule()?;
    ensure!(rule.matched == rule.injected && rule.seen.events > rule.matched.events, "{rule:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn turns_and_results_are_those_of_matching_calls() -> Result<()> {
    if let Some(reason) = counted_errors_missing()? {
        skip!("{reason}");
    }
    let scratch = hit_and_miss()?;
    let s = scratch.path().display();
    let words = format!("classes --scratch {s}");
    // Of ten calls each, numbers 2, 5 and 8 of every process; calls on other paths are not counted.
    let faults = format!("--fail openat=EIO:1,ENOSPC:1,path={s}/hit/*,when=2..9+3,per=process");
    let (felt, summary) = attempts_under(&faults, &words, 2)?;
    let rule = summary.rule()?;
    for felt in &felt {
        for (label, outcomes) in felt {
            let of = |outcome: &str| outcomes.get(outcome).copied().unwrap_or_default();
            let (hits, wanted) = (of("EIO") + of("ENOSPC"), if label == "openat hit" { 3 } else { 0 });
            ensure!(
                hits <= wanted && hits + rule.missed >= wanted && hits + of("ok") == ATTEMPT_ROUNDS,
                "{label}: {hits} calls were hit instead of {wanted}: {felt:?} {rule:?}"
            );
        }
    }
    // A class counts all its calls together: ten of openat, five of newfstatat, and all behind are hit.
    let faults = format!("--fail %file=EHWPOISON,path={s}/hit/*,after=15,per=process");
    let (felt, summary) = attempts_under(&faults, &words, 2)?;
    let rule = summary.rule()?;
    for felt in &felt {
        for (label, wanted) in
            [("openat hit", 0), ("newfstatat hit", 5), ("truncate hit", 10), ("truncate miss", 0)]
        {
            let hits = felt[label].get("EHWPOISON").copied().unwrap_or_default();
            ensure!(
                hits <= wanted && hits + rule.missed >= wanted,
                "{label}: {hits} calls were hit instead of {wanted}: {felt:?} {rule:?}"
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_plan_says_what_of_a_class_does_not_fit_a_match() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    for (fault, fits, sentence) in [
        (
            "%file=EIO,path=/data/*",
            "openat",
            "path= leaves out what works on nothing that has a path: getcwd, ",
        ),
        ("%desc=EIO,fd=socket", "read", "fd= leaves out what takes no descriptor of what it works on: "),
        ("%desc=EIO,size>=4096", "write", "size leaves out what takes no number of bytes: "),
        ("%file=EIO,access=write", "openat", "access= leaves out what does not open anything: "),
        ("%network=EIO,remote-port=80", "connect", "remote-port= leaves out what shows no remote end: "),
    ] {
        let planned = plan(&format!("--fail {fault}"))?["rules"][0].to_string();
        ensure!(planned.contains(sentence), "{fault}: '{sentence}' is missing in: {planned}");
        ensure!(planned.contains(&format!("\"{fits}\"")), "{fault}: {fits} is missing in: {planned}");
    }
    Ok(())
}
