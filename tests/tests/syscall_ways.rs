//! Other ways to ask the kernel for what a system call does: 32-bit callers and io_uring.

use anyhow::{Context as _, Result, ensure};
use integration_tests::attempts::{check, hit_and_miss, worth_trying};
use integration_tests::capability::rings_belong_to_their_makers;
use integration_tests::plan::plan;
use integration_tests::skip;

/// What a plan says is not reached of a call by a mechanism.
fn limits(mechanism: &str, call: &str) -> Result<Vec<String>> {
    let planned = plan(&format!("--mechanism {mechanism} --fail {call}=EHWPOISON"))?;
    let limits = planned["rules"][0]["limits"].as_array().context("no limits")?;
    Ok(limits.iter().filter_map(|limit| limit.as_str().map(str::to_owned)).collect())
}

/// Whether a plan says that 32-bit callers of a call escape, other than through socketcall.
fn compat_escapes(mechanism: &str, call: &str) -> Result<bool> {
    let limits = limits(mechanism, call)?;
    let names = limits.iter().find_map(|limit| limit.strip_prefix("32-bit programs escape when they call "));
    Ok(names.is_some_and(|names| names.trim_end_matches('.').split(" or ").any(|name| name != "socketcall")))
}

#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_of_32_bit_callers_fail_too() -> Result<()> {
    let mechanisms = worth_trying()?;
    if mechanisms.is_empty() {
        skip!("no mechanism fails calls on files");
    }
    for mechanism in mechanisms {
        let scratch = hit_and_miss()?;
        let s = scratch.path().display();
        let mut calls = vec![
            ("openat", "EIO"),
            ("newfstatat", "ELOOP"),
            ("mkdirat", "EDQUOT"),
            ("read", "EHWPOISON"),
            ("write", "EFBIG"),
            ("connect", "ECONNREFUSED"),
        ];
        if !matches!(mechanism, "lsm" | "fmod_ret_security") {
            calls.push(("fsync", "ENOLCK"));
        }
        let (mut faults, mut expected) = (format!("--mechanism {mechanism}"), vec![]);
        for (call, errno) in calls {
            let which =
                if call == "connect" { "remote=127.0.0.1".to_owned() } else { format!("path={s}/hit/*") };
            faults += &format!(" --fail {call}={errno},{which}");
            let escapes = compat_escapes(mechanism, call)?;
            // A trampoline needs CONFIG_FUNCTION_ERROR_INJECTION for these callers, which not all kernels have.
            ensure!(!escapes || mechanism == "fmod_ret_sys", "32-bit callers escape {mechanism}: {call}");
            if !escapes {
                expected.push((format!("{call} hit"), errno));
            }
        }
        let expected: Vec<_> = expected.iter().map(|(label, errno)| (label.as_str(), *errno)).collect();
        check(&faults, &format!("compats --scratch {s}"), &expected)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn io_uring_is_caught_by_security_hooks_and_only_there() -> Result<()> {
    let mechanisms = worth_trying()?;
    if mechanisms.is_empty() {
        skip!("no mechanism fails calls on files");
    }
    if !rings_belong_to_their_makers()? {
        skip!("threads of io_uring are outside the target before Linux 5.12");
    }
    for mechanism in mechanisms {
        let scratch = hit_and_miss()?;
        let s = scratch.path().display();
        let faults = format!(
            "--mechanism {mechanism} \
             --fail openat=EIO,path={s}/hit/* \
             --fail read=ENOSPC,path={s}/hit/* \
             --fail write=EDQUOT,path={s}/hit/* \
             --fail connect=ECONNREFUSED"
        );
        let at_hooks = matches!(mechanism, "lsm" | "fmod_ret_security");
        let mut expected = vec![];
        for (call, label, errno) in [
            ("openat", "openat hit", "EIO"),
            ("read", "read", "ENOSPC"),
            ("write", "write", "EDQUOT"),
            ("connect", "connect", "ECONNREFUSED"),
        ] {
            let warned = limits(mechanism, call)?.iter().any(|limit| limit.contains("through io_uring"));
            ensure!(warned != at_hooks, "{mechanism}: the plan of {call} warns of io_uring: {warned}");
            if at_hooks {
                expected
                    .extend(["submitter", "worker", "poller"].map(|who| (format!("{label} {who}"), errno)));
            }
        }
        let expected: Vec<_> = expected.iter().map(|(label, errno)| (label.as_str(), *errno)).collect();
        check(&faults, &format!("rings --scratch {s}"), &expected)?;
    }
    Ok(())
}
