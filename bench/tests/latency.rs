//! How long faults take to begin, to change and to end.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bench::arms::distribution;
use bench::stream::Stream;
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::kchaos::{Kchaos, Running, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::monotonic_ns;
use integration_tests::samples;
use integration_tests::spawn::Place;
use nix::sys::signal::Signal;
use serde_json::json;

/// A network namespace with lo and more devices, and a target that sends itself datagrams there.
struct Scene {
    stream: Stream,
    place: Place,
    target: Cgroup,
    netns: NetNs,
    _cgroup: TestCgroup,
}

impl Scene {
    /// With so many devices that are up beside lo.
    fn new(more_devices: usize) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.child("target")?;
        let netns = NetNs::new()?;
        let mut lines = vec![];
        for pair in 0..more_devices / 2 {
            lines.push(format!("link add a{pair} type veth peer name b{pair}"));
            lines.push(format!("link set a{pair} up"));
            lines.push(format!("link set b{pair} up"));
        }
        if !lines.is_empty() {
            netns.ip_batch(&lines)?;
        }
        // In this process's own cgroup: to enter another one takes as long as all else does.
        let place = Place::default().in_netns(&netns);
        let stream = Stream::start(&netns, &target)?;
        Ok(Self { stream, place, target, netns, _cgroup: cgroup })
    }

    /// Starts a run that loses everything; milliseconds until it does.
    fn start(&self) -> Result<(Running, f64)> {
        let begin_ns = monotonic_ns();
        let running = Kchaos::inject("--loss 100%", self.target.path()).at(&self.place).start()?;
        let first_ns = self.stream.lost_since(begin_ns)?;
        Ok((running, since(begin_ns, first_ns)))
    }

    /// Runs another command of kchaos.
    fn tell(&self, line: &str) -> Result<()> {
        let mut command = Command::new(binary()?);
        command.args(line.split_whitespace());
        self.place.apply(&mut command)?;
        let output = command.output().context("running kchaos")?;
        ensure!(
            output.status.success(),
            "kchaos {line}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// Milliseconds between two times; 0 if the second was first.
fn since(begin_ns: u64, end_ns: u64) -> f64 {
    end_ns.saturating_sub(begin_ns) as f64 / 1e6
}

fn runs(many: usize) -> usize {
    if samples::full() { many } else { 3 }
}

fn tell(what: &str, devices: usize, goal_ms: Option<[f64; 2]>, values: &[f64]) {
    let figures = distribution(values);
    measure("latency", json!({"what": what, "links": devices, "goal_ms": goal_ms, "ms": figures}));
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn killed_owners() -> Result<()> {
    for (more_devices, many) in [(0, 60), (40, 20)] {
        let scene = Scene::new(more_devices)?;
        let (mut starts, mut ends, mut gones) = (vec![], vec![], vec![]);
        for _ in 0..runs(many) {
            let before = KernelObjects::now()?;
            let (mut running, took) = scene.start()?;
            running.armed()?;
            let objects = KernelObjects::now()?.since(&before);
            let kill_ns = monotonic_ns();
            running.signal(Signal::SIGKILL)?;
            let last_ns = scene.stream.passing_since(kill_ns)?;
            objects.wait_gone()?;
            let gone_ns = monotonic_ns();
            running.finish()?;
            starts.push(took);
            ends.push(since(kill_ns, last_ns));
            gones.push(since(kill_ns, gone_ns));
        }
        let links = more_devices + 1;
        tell(
            "inject: command start to first lost packet",
            links,
            (links == 1).then_some([20.0, 60.0]),
            &starts,
        );
        tell("kill -9 of the owner to last lost packet", links, Some([2.0, 10.0]), &ends);
        tell("kill -9 of the owner to nothing attached", links, None, &gones);
    }
    Ok(())
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn changed_and_stopped_runs() -> Result<()> {
    let scene = Scene::new(0)?;
    let (mut weaker, mut stronger, mut stopped, mut over) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs(40) {
        let (mut running, _) = scene.start()?;
        let run = running.armed()?.run;
        let begin_ns = monotonic_ns();
        scene.tell(&format!("set {run} --loss 0%"))?;
        weaker.push(since(begin_ns, scene.stream.passing_since(begin_ns)?));
        let begin_ns = monotonic_ns();
        scene.tell(&format!("set {run} --loss 100%"))?;
        stronger.push(since(begin_ns, scene.stream.lost_since(begin_ns)?));
        let begin_ns = monotonic_ns();
        scene.tell(&format!("stop {run}"))?;
        over.push(since(begin_ns, monotonic_ns()));
        stopped.push(since(begin_ns, scene.stream.passing_since(begin_ns)?));
        running.finish()?;
    }
    tell("set: command start to first packet under weaker rules", 1, None, &weaker);
    tell("set: command start to first packet under stronger rules", 1, None, &stronger);
    tell("stop: command start to last lost packet", 1, None, &stopped);
    tell("stop: command start to everything undone", 1, None, &over);
    Ok(())
}

/// The command tells itself when it runs.
#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn commands_under_faults() -> Result<()> {
    let scene = Scene::new(0)?;
    let own_ms = |words: &[&str]| -> Result<f64> {
        let begin = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as f64;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        scene.place.apply(&mut command)?;
        let output = command.output().context("running a command")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let began: f64 = text.trim().parse().with_context(|| format!("date said {text}"))?;
        Ok((began - begin) / 1e6)
    };
    let kchaos = binary()?;
    let under = [&kchaos[..], "exec", "--loss", "100%", "--", "date", "+%s%N"];
    let (mut alone, mut faulty) = (vec![], vec![]);
    for _ in 0..runs(60) {
        alone.push(own_ms(&under[5..])?);
        faulty.push(own_ms(&under)?);
    }
    drop(scene.netns);
    tell("a command by itself: start to its own clock reading", 0, None, &alone);
    tell("exec: command start to the command's own clock reading", 1, Some([20.0, 60.0]), &faulty);
    Ok(())
}
