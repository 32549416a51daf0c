//! Which calls a fault hits, by who makes them and on what, as the caller feels it; by every mechanism that works here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use integration_tests::attempts::{check, worth_trying};
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::skip;
use integration_tests::spawn::Place;
use integration_tests::summary::Summary;
use integration_tests::victim::ATTEMPT_ROUNDS;

/// Judges that so many calls of a rule could not be read, but for those that no rule has seen.
fn check_unreadable(summary: &Summary, rule: usize, calls: u64) -> Result<()> {
    let unreadable = summary.rules[rule].spared["unreadable"].events;
    let missed: u64 = summary.rules.iter().map(|rule| rule.missed).sum();
    ensure!(
        unreadable <= calls && unreadable + missed >= calls,
        "{unreadable} calls were unreadable: {summary:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn callers_are_chosen_by_name_and_user() -> Result<()> {
    let mechanisms = worth_trying()?;
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

/// Files for the attempts on paths.
fn path_scratch() -> Result<tempfile::TempDir> {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path();
    for name in ["hit/not", "miss", "be", &"deep/".repeat(70)] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let mut files: Vec<PathBuf> =
        ["hit/a.txt", "hit/not/a.txt", "hit2", "miss/a.txt", "miss/b.log", "whole", "whole2"]
            .iter()
            .chain(&["be/gin.end", "be/gin.fin"])
            .map(|name| root.join(name))
            .collect();
    files.extend([b"\xff\xfe", b"\xfd\xfe"].map(|name| root.join(OsStr::from_bytes(name))));
    files.extend([50, 70].map(|levels| root.join("deep/".repeat(levels)).join("a.txt")));
    for file in files {
        std::fs::write(&file, "content of a file")?;
    }
    std::os::unix::fs::symlink("hit", root.join("link"))?;
    Ok(scratch)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn paths_are_matched() -> Result<()> {
    let mechanisms = worth_trying()?;
    if mechanisms.is_empty() {
        skip!("no mechanism fails calls on files");
    }
    for mechanism in mechanisms {
        let scratch = path_scratch()?;
        let s = scratch.path().display();
        let resolves = matches!(mechanism, "lsm" | "fmod_ret_security");
        let mut faults = format!(
            "--mechanism {mechanism} \
             --fail openat=EIO,path={s}/hit/*,path=!{s}/hit/not/* \
             --fail openat=ENOSPC,path=*.log \
             --fail openat=EPERM,path={s}/whole,path={s}/hit2/* \
             --fail openat=EROFS,path={s}/\\xff* \
             --fail openat=EACCES,path={s}/be*.end \
             --fail openat=EMFILE,path={s}/deep/* \
             --fail unlinkat=EBUSY,path={s}/hit/* \
             --fail mkdirat=EDQUOT,path={s}/hit/new \
             --fail renameat2=EXDEV,path={s}/hit/* \
             --fail newfstatat=ELOOP,path={s}/hit/* \
             --fail truncate=ETXTBSY,path={s}/hit/*.txt \
             --fail read=EHWPOISON,path={s}/hit/* \
             --fail write=EFBIG,path={s}/hit/a*"
        );
        let mut expected = vec![
            ("hit", "EIO"),
            ("suffix", "ENOSPC"),
            ("whole", "EPERM"),
            ("not UTF-8", "EROFS"),
            ("begin and end", "EACCES"),
            ("4095 bytes", "EIO"),
            ("50 deep", "EMFILE"),
            ("cwd", "EIO"),
            ("cwd with dot", "EIO"),
            ("dirfd", "EIO"),
            ("unlinkat hit", "EBUSY"),
            ("mkdirat hit", "EDQUOT"),
            ("renameat2 to hit", "EXDEV"),
            ("newfstatat hit", "ELOOP"),
            ("newfstatat empty hit", "ELOOP"),
            ("truncate hit", "ETXTBSY"),
            ("read hit", "EHWPOISON"),
            ("write hit", "EFBIG"),
        ];
        if resolves {
            expected.extend([("dot dot", "EIO"), ("link", "EIO")]);
        } else {
            faults += &format!(" --fail fsync=ENOLCK,path={s}/hit/*");
            expected.extend([("70 deep", "EMFILE"), ("fsync hit", "ENOLCK")]);
        }
        let summary = check(&faults, &format!("paths --scratch {s}"), &expected)?;
        // What could not be read went through and was counted: the deepest file, or the bad pointer and the path that is
        // too long.
        let all = if resolves { ATTEMPT_ROUNDS } else { 2 * ATTEMPT_ROUNDS };
        check_unreadable(&summary, 0, all).context(mechanism)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn arguments_are_matched() -> Result<()> {
    let mechanisms = worth_trying()?;
    if mechanisms.is_empty() {
        skip!("no mechanism fails calls on files");
    }
    for mechanism in mechanisms {
        let scratch = tempfile::tempdir()?;
        let s = scratch.path().display();
        let faults = format!(
            "--mechanism {mechanism} \
             --fail openat2=ETXTBSY,access=read,path={s}/* \
             --fail openat=EROFS,access=write,path=*/file \
             --fail write=EFBIG,fd=pipe \
             --fail write=EDQUOT,fd=!pipe,fd=!file,fd=!char \
             --fail pwrite64=EIO,size>=4096 \
             --fail pwrite64=ENOSPC,size>=100,size<=4094,fd=file \
             --fail connect=ECONNREFUSED,remote=127.0.0.0/24,remote=!127.0.0.2,remote-port=9 \
             --fail sendto=EHOSTUNREACH,remote=::1,remote-port=!9 \
             --fail sendto=ENETUNREACH,remote=127.0.1.0/24"
        );
        let expected = [
            ("openat2 read", "ETXTBSY"),
            ("openat write", "EROFS"),
            ("openat both", "EROFS"),
            ("write pipe", "EFBIG"),
            ("write socket", "EDQUOT"),
            ("pwrite64 100", "ENOSPC"),
            ("pwrite64 4096", "EIO"),
            ("pwrite64 8192", "EIO"),
            ("connect 127.0.0.1:9", "ECONNREFUSED"),
            ("connect mapped 127.0.0.1:9", "ECONNREFUSED"),
            ("sendto connected 127.0.0.1:9", "ECONNREFUSED"),
            ("sendto connected mapped 127.0.0.1:9", "ECONNREFUSED"),
            ("sendto [::1]:7", "EHOSTUNREACH"),
            ("sendto connected [::1]:7", "EHOSTUNREACH"),
            ("sendto 127.0.1.1:7", "ENETUNREACH"),
            ("sendto connected 127.0.1.1:7", "ENETUNREACH"),
        ];
        let summary = check(&faults, &format!("arguments --scratch {s}"), &expected)?;
        if !matches!(mechanism, "lsm" | "fmod_ret_security") {
            // What openat2's flags are could not be read ten times, and where connect was to lead.
            for rule in [0, 6] {
                check_unreadable(&summary, rule, ATTEMPT_ROUNDS).context(mechanism)?;
            }
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
        ("openat=EIO,path=etc/passwd", 2, &["etc/passwd", "*/etc/passwd"]),
        ("openat=EIO,path=/data/", 2, &["/data/", "/data/*"]),
        ("getpid=EIO,path=/data", 2, &["getpid works on nothing", "path="]),
        ("fsync=EIO,size>=5,remote=10.0.0.0/8", 2, &["fsync takes no number of bytes", "no remote end"]),
        ("read=EIO,fd=thing,access=write", 2, &["thing", "socket"]),
        ("write=EIO,access=write", 2, &["write does not open anything"]),
        ("%memory=EIO,access=write", 2, &["every call of %memory does not open anything"]),
        ("%network=EIO,path=/a,size=1", 2, &["every call of %network works on nothing that has a path"]),
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
