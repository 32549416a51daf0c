//! Probes that need nothing installed: what they answer is what the target did, and others beside it are left out of it.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::capability::on_host;
use integration_tests::cgroup::Cgroup;
use integration_tests::client::image_missing;
use integration_tests::experiment::{Reports, document};
use integration_tests::ground::Ground;
use integration_tests::kchaos::Running;
use integration_tests::skip;
use integration_tests::spawn::{Place, Process};
use nix::sys::signal::Signal;

/// A fault that is none: the probes are what is tried.
const NO_FAULT: &str =
    "  duration: 900s\n  mode: observe\n  faults: [{network: {loss: 1%, match: {protocol: udp}}}]\n";

struct Scene {
    ground: Ground,
    beside: Cgroup,
    reports: Reports,
}

impl Scene {
    fn new() -> Result<Self> {
        let ground = Ground::new()?;
        let beside = ground.cgroup.child("beside")?;
        Ok(Self { ground, beside, reports: Reports::new()? })
    }

    /// Starts a program in one of the cgroups, in the network namespace of the test.
    fn start(&self, cgroup: &Cgroup, words: &[&str]) -> Result<Process> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Place::default().in_cgroup(cgroup).in_netns(&self.ground.netns).apply(&mut command)?;
        Process::start(command)
    }

    /// Starts an experiment whose probes ask every 100 ms and tolerate whatever is answered.
    fn watch(&self, faults: &str, probes: &[(&str, &str)]) -> Result<Running> {
        let probes: String = probes
            .iter()
            .map(|(name, asks)| {
                format!(
                    "    - {{name: {name}, {asks}, tolerance: {{atLeast: {}}}, mode: during, interval: 100ms, timeout: 60s}}\n",
                    match *name {
                        "memory" => "0B",
                        "cpu" | "cpuPressure" | "memoryPressure" | "ioPressure" => "0%",
                        _ => "0",
                    }
                )
            })
            .collect();
        let text = document(self.ground.target.path(), &format!("{faults}  steadyState:\n{probes}"));
        let mut running = self.reports.start(&text, &self.ground.runner)?;
        running.armed()?;
        Ok(running)
    }

    /// Ends the experiment; no probe has failed to answer, and nothing is left.
    fn end(self, running: Running) -> Result<()> {
        let finished = running.interrupt()?;
        for event in finished.events("answer") {
            ensure!(event["answer"]["holds"] == true, "{event}");
        }
        self.ground.check_clean()
    }
}

fn cgroup(measure: &'static str) -> (&'static str, String) {
    (measure, format!("cgroup: {{measure: {measure}}}"))
}

/// Waits until a probe answers this.
fn until(running: &mut Running, probe: &str, wanted: impl Fn(f64) -> bool) -> Result<f64> {
    let answered = |event: &serde_json::Value| event["answer"]["value"].as_f64();
    let event = running
        .event("answer", |event| event["probe"] == probe && answered(event).is_some_and(&wanted))
        .with_context(|| format!("waiting for an answer of {probe}"))?;
    answered(&event).context("no value")
}

/// The next answer from now on.
fn next(running: &mut Running, probe: &str) -> Result<f64> {
    let at = |event: &serde_json::Value| event["answer"]["at_s"].as_f64().unwrap_or(0.0);
    let mut last = 0.0;
    // What was asked before this may be on its way.
    for _ in 0..3 {
        let event = running.event("answer", |event| event["probe"] == probe && at(event) > last)?;
        last = at(&event);
    }
    let event = running.event("answer", |event| event["probe"] == probe && at(event) > last)?;
    event["answer"]["value"].as_f64().with_context(|| format!("no number: {event}"))
}

/// Counters of TCP of the network namespace it is asked in.
fn tcp_counters() -> io::Result<[f64; 3]> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let value = |wanted: &str| {
        let place = names.split(' ').position(|name| name == wanted)?;
        values.split(' ').nth(place)?.parse().ok()
    };
    Ok(["RetransSegs", "AttemptFails", "EstabResets"].map(|name| value(name).unwrap_or(f64::NAN)))
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn connections_of_the_targets_namespace_are_counted() -> Result<()> {
    let scene = Scene::new()?;
    let mut server = scene.ground.victim(&scene.ground.target, "web --listen 127.0.0.1:8080")?;
    server.ready()?;
    let netns = &scene.ground.netns;
    let before = netns.enter(|| Ok(tcp_counters()?))?;
    let mute =
        "  duration: 900s\n  faults: [{network: {loss: 100%, match: {protocol: tcp, localPorts: [8080]}}}]\n";
    let probes = [
        ("retransmits", "network: {measure: tcpRetransmits}"),
        ("failed", "network: {measure: tcpFailedConnects}"),
        ("resets", "network: {measure: tcpResets}"),
    ];
    let mut running = scene.watch(mute, &probes)?;
    for (probe, _) in probes {
        ensure!(until(&mut running, probe, |_| true)? == 0.0, "{probe} does not begin with 0");
    }
    let refused = || {
        for _ in 0..5 {
            ensure!(TcpStream::connect("127.0.0.1:9").is_err(), "somebody listens");
        }
        Ok(())
    };
    // Those of other namespaces do not count.
    refused()?;
    netns.enter(refused)?;
    netns.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        for _ in 0..3 {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            // Closed with what nobody has read: a reset.
            io::Write::write_all(&mut &client, b"unread")?;
            server.set_read_timeout(Some(Duration::from_secs(60)))?;
            ensure!(server.peek(&mut [0; 6])? > 0, "nothing came");
            drop(server);
            // Until it is felt at the other end.
            client.set_read_timeout(Some(Duration::from_secs(60)))?;
            ensure!(io::Read::read(&mut &client, &mut [0; 1]).is_err(), "no reset");
        }
        Ok(())
    })?;
    // The server's answers are lost, so that those who ask ask again.
    let server_address = "127.0.0.1:8080".parse()?;
    netns.enter(|| {
        ensure!(TcpStream::connect_timeout(&server_address, Duration::from_secs(3)).is_err(), "an answer");
        Ok(())
    })?;
    let after = netns.enter(|| Ok(tcp_counters()?))?;
    let made = |place: usize| after[place] - before[place];
    ensure!(made(1) >= 5.0 && made(2) >= 3.0 && made(0) >= 1.0, "{before:?} {after:?}");
    // Nobody connects any more; what is sent again goes on for a while.
    until(&mut running, "failed", |value| value == made(1))?;
    until(&mut running, "resets", |value| value == made(2))?;
    until(&mut running, "retransmits", |value| value >= made(0))?;
    drop(server);
    running.signal(Signal::SIGINT)?;
    running.finish()?.expect_status(130)?;
    scene.ground.check_clean()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn processes_and_their_processor_are_the_targets() -> Result<()> {
    let scene = Scene::new()?;
    let sleep = ["sleep", "3600"];
    let busy = ["sh", "-c", "while :; do :; done"];
    let _idle = scene.start(&scene.ground.target, &sleep)?;
    let _others = [scene.start(&scene.beside, &busy)?, scene.start(&scene.beside, &sleep)?];
    let all = ["processes", "exits", "cpu", "cpuPressure"].map(cgroup);
    let probes: Vec<_> = all.iter().map(|(name, asks)| (*name, asks.as_str())).collect();
    let mut running = scene.watch(NO_FAULT, &probes)?;
    // Somebody burns a processor beside it, and it does nothing.
    ensure!(
        next(&mut running, "processes")? == 1.0 && next(&mut running, "exits")? == 0.0,
        "not the target's"
    );
    let idle = next(&mut running, "cpu")?;
    ensure!(idle < 5.0, "{idle}% of a processor are used by nobody");
    let second = scene.start(&scene.ground.target, &sleep)?;
    until(&mut running, "processes", |value| value == 2.0)?;
    drop(second);
    until(&mut running, "exits", |value| value == 1.0)?;
    // More than there are processors, so that some wait.
    let count = 2 * std::thread::available_parallelism()?.get() + 1;
    let spinners: Result<Vec<_>> = (0..count).map(|_| scene.start(&scene.ground.target, &busy)).collect();
    until(&mut running, "processes", |value| value == 1.0 + count as f64)?;
    until(&mut running, "cpu", |value| value > 20.0)?;
    until(&mut running, "cpuPressure", |value| value > 0.0)?;
    drop(spinners?);
    until(&mut running, "exits", |value| value == 1.0 + count as f64)?;
    scene.end(running)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn memory_and_disk_of_the_target_are_read() -> Result<()> {
    if let Some(reason) = image_missing() {
        skip!("{reason}");
    }
    ensure!(!on_host(), "the memory controller of this machine is not ours to enable");
    const MIB: f64 = 1_048_576.0;
    let scene = Scene::new()?;
    let target = scene.ground.target.path();
    scene.ground.cgroup.enable_memory(&[])?;
    let hoards = "import time\nx = b'x' * (48 << 20)\ntime.sleep(3600)";
    let churns = "while True: x = b'x' * (48 << 20)";
    let _idle = scene.start(&scene.ground.target, &["sleep", "3600"])?;
    let _other = scene.start(&scene.beside, &["python3", "-c", hoards])?;
    let all = ["memory", "oomKills", "memoryPressure", "ioPressure", "exits"].map(cgroup);
    let probes: Vec<_> = all.iter().map(|(name, asks)| (*name, asks.as_str())).collect();
    let mut running = scene.watch(NO_FAULT, &probes)?;
    let idle = next(&mut running, "memory")?;
    ensure!(idle < 40.0 * MIB, "{idle} bytes are used by nobody");
    until(&mut running, "memoryPressure", |value| value == 0.0)?;
    let hoarder = scene.start(&scene.ground.target, &["python3", "-c", hoards])?;
    until(&mut running, "memory", |value| value >= 48.0 * MIB)?;
    drop(hoarder);
    // What is read past the cache waits for the disk.
    let reader = scene.start(
        &scene.ground.target,
        &["sh", "-c", "while :; do dd if=/dev/vda of=/dev/null iflag=direct bs=4k count=2000; done"],
    )?;
    // More than loading a program makes.
    until(&mut running, "ioPressure", |value| value > 10.0)?;
    drop(reader);
    // More than it may have: it is held up at the soft limit, and killed at the hard one.
    fs::write(target.join("memory.high"), "24M")?;
    let mut churning = scene.start(&scene.ground.target, &["python3", "-c", churns])?;
    until(&mut running, "memoryPressure", |value| value > 0.0)?;
    ensure!(next(&mut running, "oomKills")? == 0.0, "killed below the hard limit");
    // Held up, it might never come to the hard one.
    fs::write(target.join("memory.high"), "max")?;
    fs::write(target.join("memory.max"), "32M")?;
    until(&mut running, "oomKills", |value| value == 1.0)?;
    let status = churning.wait()?;
    ensure!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL), "{status}");
    scene.end(running)
}
