//! What cannot be meant or done is refused with one clear message, before anything is attached.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::SharedBoard;
use integration_tests::cgroup::{TestCgroup, v1_mount_point};
use integration_tests::kchaos::{Finished, Kchaos};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::skip;
use integration_tests::spawn::Place;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Checks a refusal: code, words in the message, and that nothing was attached.
fn check(finished: &Finished, status: i32, code: i32, words: &[&str], before: &KernelObjects) -> Result<()> {
    finished.expect_status(status)?;
    let errors = finished.events("error");
    ensure!(errors.len() == 1, "{} messages instead of one:\n{}", errors.len(), finished.text());
    let error = finished.error()?;
    ensure!(error.code == code, "code {} instead of {code}: {}", error.code, error.message);
    for word in words {
        ensure!(error.message.contains(word), "{word:?} is missing in the message: {}", error.message);
    }
    KernelObjects::now()?.since(before).wait_gone().map(|_| ())
}

/// Faults nobody can mean, and words the message must hold: the value and the remedy.
const FAULTS: &[(&str, &[&str])] = &[
    ("--fail opnat=EIO@100%", &["opnat", "openat"]),
    ("--fail nonsense_call=EIO@100%", &["nonsense_call"]),
    ("--fail openat=EIOO@100%", &["EIOO", "EIO"]),
    ("--fail openat=ENONSENSE", &["ENONSENSE"]),
    ("--fail openat", &["openat", "="]),
    ("--fail openat=EIO@10", &["10", "%"]),
    ("--fail openat=EIO@101%", &["101", "100"]),
    ("--loss 10", &["10", "%"]),
    ("--loss 110%", &["110", "100"]),
    ("--loss -5%", &["-5"]),
    ("--loss many", &["many"]),
    ("--loss 5% --remote 10.0.0.0/33", &["10.0.0.0/33"]),
    ("--loss 5% --remote exam..ple", &["exam..ple", "host name"]),
    ("--loss 5% --remote-port 70000", &["70000", "65535"]),
    ("--loss 5% --remote-port 20-10", &["20-10"]),
    ("--loss 5% --protocol sctp", &["sctp", "udp"]),
    ("--loss 5% --direction sideways", &["sideways", "egress"]),
    ("--loss 5% --no-such-option", &["--no-such-option"]),
    ("--loss 5% --remote !10.0.0.0/33", &["10.0.0.0/33"]),
    ("--loss 5% --local-port !70000", &["70000", "65535"]),
    ("--per-flow", &["--loss"]),
    ("--loss 5%,every=3 --per-flow", &["--per-flow", "every="]),
    ("--loss-model bernoulli", &["bernoulli", "gemodel"]),
    ("--loss-model gemodel:p=1", &["'1'", "%"]),
    ("--loss-model state:p13=60%,p14=50%", &["p13", "100%"]),
    ("--partition --loss 5%", &["--partition", "--loss"]),
    ("--delay 100", &["100", "ms"]),
    ("--delay 700s", &["700s", "600s"]),
    ("--jitter 10ms", &["10ms", "--delay"]),
    ("--delay 10ms --jitter 1ms --jitter 2ms", &["2ms", "--delay"]),
    ("--delay 1ms --delay 2ms --delay 3ms --delay 4ms --delay 5ms", &["5 delays", "limit of 4"]),
    ("--delay 10ms --distribution normal", &["--distribution", "--jitter"]),
    ("--delay 10ms --jitter 1ms --distribution cauchy", &["cauchy", "pareto"]),
    ("--rate 10", &["10", "mbit"]),
    ("--delay 10ms --burst 32kb", &["--burst", "--rate"]),
    ("--rate 10mbit --burst 32", &["'32'", "32kb"]),
    ("--rate 10mbit --burst 0kb", &["'0kb'", "1b"]),
    ("--delay 10ms@5% --rate 10mbit --burst 32kb", &["--burst", "share"]),
    ("--rate 10mbit --rate 1mbit --burst 1kb --burst 2kb", &["--burst", "other"]),
    ("--reorder 5%", &["--reorder", "--delay"]),
    ("--fail %files=EIO", &["%files", "%file"]),
    ("--fail write=return=-1", &["return=-1", "errno"]),
    ("--fail write=EIO:0,ENOSPC:1", &["EIO:0", "weight"]),
    ("--fail write=EIO,10", &["10%", "10:1"]),
    ("--fail write=EIO,when=5..3", &["5..3", "LAST"]),
    ("--fail write=EIO,when=3,every=2", &["when=", "every="]),
    ("--fail write=EIO,per=process", &["per=process", "every="]),
    ("--loss 5%,every=2,per=process", &["per=process", "packets"]),
    ("", &["--loss"]),
];

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn faults_that_cannot_be_meant() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = Place::default().in_cgroup(cgroup.root());
    let before = KernelObjects::now()?;
    for (faults, words) in FAULTS {
        let board = SharedBoard::create()?;
        let finished = Kchaos::exec_victim(faults, "sleep", &board)?.at(&place).run()?;
        check(&finished, 125, 2, words, &before).with_context(|| format!("exec {faults}"))?;
        ensure!(board.ready.load(Acquire) == 0, "exec {faults}: the command was run");
        let line =
            format!("inject --json --cgroup {} --duration 1s {faults}", cgroup.root().path().display());
        let finished = Kchaos::new(&line).at(&place).run()?;
        check(&finished, 2, 2, words, &before).with_context(|| format!("inject {faults}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn all_problems_at_once() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = Place::default().in_cgroup(cgroup.root());
    let before = KernelObjects::now()?;
    let finished = Kchaos::exec("--fail opnat=EIOO@110%", &["true"]).at(&place).run()?;
    check(&finished, 125, 2, &["opnat", "EIOO", "110"], &before)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn targets_and_durations_that_cannot_be_meant() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = Place::default().in_cgroup(cgroup.root());
    let before = KernelObjects::now()?;
    let own = cgroup.root().path().display().to_string();
    let cases: [(String, &[&str]); 9] = [
        (format!("--cgroup {own} --loss 5%"), &["--duration"]),
        (format!("--cgroup {own} --loss 5% --duration 5"), &["5", "s"]),
        (format!("--cgroup {own} --loss 5% --duration soon"), &["soon"]),
        (format!("--cgroup {own} --loss 5% --duration 0s"), &["0s"]),
        ("--loss 5% --duration 1s".into(), &["--cgroup"]),
        (format!("--cgroup {own}/none --loss 5% --duration 1s"), &["none"]),
        ("--cgroup no-such-cgroup --loss 5% --duration 1s".into(), &["no-such-cgroup"]),
        ("--cgroup / --loss 5% --duration 1s".into(), &["root"]),
        (format!("--cgroup {own}/cgroup.procs --loss 5% --duration 1s"), &["cgroup.procs"]),
    ];
    for (words, expected) in cases {
        let finished = Kchaos::new(&format!("inject --json {words}")).at(&place).run()?;
        check(&finished, 2, 2, expected, &before).with_context(|| format!("inject {words}"))?;
    }
    let finished = Kchaos::new("exec --json --loss 5%").at(&place).run()?;
    check(&finished, 125, 2, &["CMD"], &before)
}

/// A cgroup v1 hierarchy, mounted for the test where there is none.
struct Version1 {
    path: PathBuf,
    scratch: Option<tempfile::TempDir>,
}

impl Version1 {
    fn find() -> Result<Option<Self>> {
        if let Some(path) = v1_mount_point()? {
            return Ok(Some(Self { path, scratch: None }));
        }
        let scratch = tempfile::tempdir()?;
        let options = Some("none,name=kctest");
        let mounted = mount(Some("cgroup"), scratch.path(), Some("cgroup"), MsFlags::empty(), options);
        Ok(mounted.is_ok().then(|| Self { path: scratch.path().to_path_buf(), scratch: Some(scratch) }))
    }
}

impl Drop for Version1 {
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch {
            // Left mounted, the temporary directory stays; nothing else depends on it.
            let _ignored = umount2(scratch.path(), MntFlags::MNT_DETACH);
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_cgroup_v1_path() -> Result<()> {
    let Some(version1) = Version1::find()? else {
        skip!("no cgroup v1 hierarchy can be mounted");
    };
    let cgroup = TestCgroup::new()?;
    let before = KernelObjects::now()?;
    let path = version1.path.display().to_string();
    let line = format!("inject --json --cgroup {path} --loss 5% --duration 1s");
    let finished = Kchaos::new(&line).at(&Place::default().in_cgroup(cgroup.root())).run()?;
    check(&finished, 2, 2, &[&path, "v1", "v2"], &before)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn without_root_the_capability_is_named() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = Place::default().in_cgroup(cgroup.root()).as_nobody();
    let before = KernelObjects::now()?;
    let board = SharedBoard::create()?;
    let finished = Kchaos::exec_victim("--loss 5%", "sleep", &board)?.at(&place).run()?;
    finished.expect_status(125)?;
    let error = finished.error()?;
    ensure!(error.message.contains("CAP_"), "no capability is named: {}", error.message);
    ensure!([2, 8].contains(&error.code), "code {}: {}", error.code, error.message);
    ensure!(board.ready.load(Acquire) == 0, "the command was run");
    let line = format!("inject --json --cgroup {} --loss 5% --duration 1s", cgroup.root().path().display());
    let finished = Kchaos::new(&line).at(&place).run()?;
    finished.expect_status(error.code)?;
    ensure!(finished.error()?.message.contains("CAP_"), "{}", finished.text());
    KernelObjects::now()?.since(&before).wait_gone()?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_kernel_without_type_information() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let place = Place::default().in_cgroup(cgroup.root()).without_btf();
    let before = KernelObjects::now()?;
    let board = SharedBoard::create()?;
    let faults = "--fail openat=EIO@100% --mechanism lsm";
    let finished = Kchaos::exec_victim(faults, "sleep", &board)?.at(&place).run()?;
    check(&finished, 125, 8, &["BTF"], &before)?;
    ensure!(board.ready.load(Acquire) == 0, "the command was run");
    Ok(())
}
