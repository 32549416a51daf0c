//! Single packets and calls, written down: what the counters count, with what the victim felt, and of nobody else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::binomial::check_share;
use integration_tests::board::{Role, SharedBoard};
use integration_tests::capability::file_errors_missing;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::netns::NetNs;
use integration_tests::patience::{monotonic_ns, wait_until};
use integration_tests::samples::calls;
use integration_tests::skip;
use integration_tests::spawn::{Place, Victim};
use integration_tests::tasks::read_tasks;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

/// A path that is no longer there when the test is over.
struct Path(PathBuf);

impl Path {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("kchaos-{name}-{}", std::process::id())))
    }

    /// The events in it; every line is one.
    fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.0)?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_are_written_as_they_are_counted() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let (target, beside) = (cgroup.child("target")?, cgroup.child("beside")?);
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let place = Place::default().in_netns(&netns);
    let mut victim =
        Victim::start(&place.clone().in_cgroup(&target), "udp-pair --to 127.0.0.1:7001 --rate-per-ms 1")?;
    let mut other = Victim::start(&place.in_cgroup(&beside), "udp-pair --to 127.0.0.1:7002 --rate-per-ms 1")?;
    victim.ready()?;
    other.ready()?;
    let file = Path::new("packets");
    let faults = format!("--loss 30% --duplicate 10% --events {} --events-of seen", file.0.display());
    let start_ns = monotonic_ns();
    let mut running =
        Kchaos::inject(&faults, target.path()).at(&cgroup.runner()?.in_netns(&netns)).start()?;
    let run = running.armed()?.run;
    let received = &victim.board.datagrams.received;
    let before = received.load(Acquire);
    wait_until("datagrams", || received.load(Acquire) > before + 1000)?;
    let finished = running.interrupt()?;
    let end_ns = monotonic_ns();
    let summary = finished.summary()?;
    let told = &finished.events("summary")[0]["events"];
    let events = file.events()?;
    ensure!(told["written"] == events.len() && told["lost"] == 0 && told["failed"] == 0, "{told}");
    ensure!(
        summary.rules[0].seen.events == events.len() as u64,
        "{} events, {:?}",
        events.len(),
        summary.rules
    );
    for (rule, fault) in ["loss", "duplicate"].into_iter().enumerate() {
        let by_rule =
            |event: &&Value| event["rules"].as_array().is_some_and(|rules| rules.contains(&rule.into()));
        let hit: Vec<_> = events.iter().filter(by_rule).collect();
        ensure!(
            hit.len() as u64 == summary.rules[rule].injected.events,
            "{fault}: {} {:?}",
            hit.len(),
            summary.rules
        );
        ensure!(
            hit.iter().all(|event| event["faults"].as_array().is_some_and(|all| all.contains(&fault.into())))
        );
    }
    let mut last_ns = 0;
    for event in &events {
        ensure!(event["event"] == "packet" && event["run"] == run && event["failed"] == false, "{event}");
        ensure!(
            event["direction"] == "egress" && event["device"] == 1 && event["protocol"] == "udp",
            "{event}"
        );
        ensure!(event["local"] == "127.0.0.1" && event["remote"] == "127.0.0.1", "{event}");
        // Nobody else's.
        ensure!(event["remote_port"] == 7001 && event["segments"] == 1, "{event}");
        let now_ns = event["monotonic_ns"].as_u64().context("no time")?;
        ensure!(now_ns > start_ns && now_ns < end_ns, "at {now_ns}, between {start_ns} and {end_ns}");
        // One sender.
        ensure!(now_ns >= last_ns, "{event} is out of order");
        last_ns = now_ns;
    }
    victim.stop(Role::Second)?;
    other.stop(Role::Second).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn packets_that_arrive_are_told_with_their_own_ends() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let board = SharedBoard::create()?;
    let file = Path::new("ingress");
    let faults = format!("--loss 100% --direction ingress --events {}", file.0.display());
    let arguments = "udp-pair --to [::1]:7003 -n 50";
    let finished =
        Kchaos::exec_victim(&faults, arguments, &board)?.at(&cgroup.runner()?.in_netns(&netns)).run()?;
    let lost = finished.summary()?.rule()?.injected.events;
    let events = file.events()?;
    ensure!(lost >= 50 && events.len() as u64 == lost, "{} events of {lost}", events.len());
    for event in &events {
        ensure!(event["direction"] == "ingress" && event["device"] == Value::Null, "{event}");
        ensure!(event["local"] == "::1" && event["faults"][0] == "loss", "{event}");
    }
    let to_receiver = events.iter().filter(|event| event["local_port"] == 7003).count();
    ensure!(to_receiver >= 50, "{to_receiver} of {} events have the receiver's port", events.len());
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn calls_are_written_as_they_are_felt() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let board = SharedBoard::create()?;
    let file = Path::new("calls");
    let faults = format!("--fail openat=EIO@50% --events {}", file.0.display());
    let arguments = "calls --call openat -n 200 --threads 2 --children 1";
    let finished = Kchaos::exec_victim(&faults, arguments, &board)?.at(&cgroup.runner()?).run()?;
    let events = file.events()?;
    let injected = finished.summary()?.rule()?.injected.events;
    ensure!(events.len() as u64 == injected, "{} events of {injected}", events.len());
    let tasks = read_tasks(&board);
    ensure!(tasks.len() == 4, "{tasks:?}");
    for task in &tasks {
        let own = events.iter().filter(|event| event["tid"] == task.tid && event["tgid"] == task.tgid);
        let felt = task.errno("EIO");
        ensure!(own.count() as u64 == felt && felt > 0, "{task:?} is told otherwise");
    }
    for event in &events {
        ensure!(event["event"] == "call" && event["call"] == "openat" && event["abi"] == "64", "{event}");
        ensure!(event["result"] == -i64::from(libc::EIO) && event["errno"] == "EIO", "{event}");
        ensure!(event["comm"].as_str().is_some_and(|name| !name.is_empty()), "{event}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_share_of_the_events_is_written() -> Result<()> {
    if let Some(reason) = file_errors_missing()? {
        skip!("{reason}");
    }
    let cgroup = TestCgroup::new()?;
    let board = SharedBoard::create()?;
    let file = Path::new("share");
    let faults = format!("--fail openat=EIO --events {} --events-share 25%", file.0.display());
    let arguments = format!("calls --call openat -n {}", calls());
    let finished = Kchaos::exec_victim(&faults, &arguments, &board)?.at(&cgroup.runner()?).run()?;
    let injected = finished.summary()?.rule()?.injected.events;
    let told = &finished.events("summary")[0]["events"];
    let lost = told["lost"].as_u64().context("no count")?;
    let events = file.events()?.len() as u64;
    ensure!(told["written"] == events, "{events} events: {told}");
    check_share("events", events + lost, injected, 0.25).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_reader_that_sleeps_loses_events_and_holds_up_nobody() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let target = cgroup.child("target")?;
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let objects = KernelObjects::now()?;
    let place = Place::default().in_netns(&netns).in_cgroup(&target);
    let mut victim = Victim::start(&place, "udp-pair --to 127.0.0.1:7004 --rate-per-ms 20")?;
    victim.ready()?;
    let pipe = Path::new("pipe");
    mkfifo(&pipe.0, Mode::S_IRWXU)?;
    // Opened so that the other end opens, and never read.
    let _reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe.0)?;
    let faults = format!("--loss 1% --events {} --events-of seen", pipe.0.display());
    let mut running =
        Kchaos::inject(&faults, target.path()).at(&cgroup.runner()?.in_netns(&netns)).start()?;
    running.armed()?;
    // More than a pipe, the writer and a mebibyte of records of 112 bytes hold.
    let sent = &victim.board.datagrams.sent;
    let before = sent.load(Acquire);
    wait_until("datagrams", || sent.load(Acquire) > before + 20_000)?;
    let finished = running.interrupt()?;
    let told = &finished.events("summary")[0]["events"];
    ensure!(told["lost"].as_u64().is_some_and(|lost| lost > 5_000), "{told}");
    ensure!(told["problem"].as_str().is_some_and(|problem| problem.contains("not taken")), "{told}");
    KernelObjects::now()?.since(&objects).wait_gone()?;
    victim.stop(Role::Second).map(drop)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn events_that_cannot_be_written_are_refused() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let target = cgroup.child("target")?;
    let place = cgroup.runner()?;
    let refused: BTreeSet<(&str, &str)> = [
        ("--events /nonexistent/events", "/nonexistent/events"),
        ("--events /dev/null --events-share 0%", "0%"),
        ("--events /dev/null --events-share 5", "unit"),
        ("--events-of seen", "--events"),
    ]
    .into();
    for (flags, named) in refused {
        let faults = format!("--loss 1% {flags}");
        let finished = Kchaos::exec(&faults, &["true"]).at(&place).run()?;
        finished.expect_status(125)?;
        let error = finished.error()?;
        ensure!(error.code == 2 && error.message.contains(named), "{flags}: {error:?}");
    }
    let detached = format!(
        "inject --json --cgroup {} --detach --duration 9s --loss 1% --events -",
        target.path().display()
    );
    let finished = Kchaos::new(&detached).at(&place).run()?;
    finished.expect_status(2)?;
    Ok(())
}
