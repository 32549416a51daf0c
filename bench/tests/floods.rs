//! Packets as fast as one sender makes them, each of which is hit and written down: what that costs, and how many are.

use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use bench::arms::{Arms, quantile, rounded};
use bench::bystander::while_in;
use bench::kernel::thread_time_ns;
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::kchaos::Kchaos;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::monotonic_ns;
use integration_tests::samples;
use integration_tests::spawn::Place;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

/// Where events go.
const ARMS: [&str; 4] =
    ["nothing written", "nothing written again", "to a file", "to a pipe that nobody reads"];

/// What became of one flood.
struct Flood {
    /// Processor time of one send.
    send_ns: f64,
    /// Datagrams in a second of the clock.
    per_second: f64,
    written: f64,
    lost: f64,
}

struct Scene {
    sender: UdpSocket,
    place: Place,
    target: Cgroup,
    directory: tempfile::TempDir,
    _netns: NetNs,
    _cgroup: TestCgroup,
}

impl Scene {
    fn new() -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.child("target")?;
        let netns = NetNs::new()?;
        let place = cgroup.runner()?.in_netns(&netns);
        let connected = || {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect("127.0.0.1:9")?;
            Ok(socket)
        };
        let sender = while_in(target.path(), || netns.enter(connected))?;
        let directory = tempfile::tempdir().context("a directory for events")?;
        Ok(Self { sender, place, target, directory, _netns: netns, _cgroup: cgroup })
    }

    fn flood(&self, arm: usize) -> Result<Flood> {
        let path = self.directory.path().join("events");
        let mut unread = None;
        let flags = match arm {
            2 => format!("--events {}", path.display()),
            3 => {
                unread = Some(pipe(&path)?);
                format!("--events {}", path.display())
            }
            _ => String::new(),
        };
        let mut running =
            Kchaos::inject(&format!("--loss 100% {flags}"), self.target.path()).at(&self.place).start()?;
        running.armed()?;
        let count = if samples::full() { 200_000u32 } else { 2_000 };
        let (begin_ns, begin_own_ns) = (monotonic_ns(), thread_time_ns()?);
        for _ in 0..count {
            self.sender.send(&[0; 64])?;
        }
        let send_ns = (thread_time_ns()? - begin_own_ns) / f64::from(count);
        let seconds = (monotonic_ns() - begin_ns) as f64 / 1e9;
        let finished = running.interrupt()?;
        let summaries = finished.events("summary");
        let events = &summaries.first().context("no summary")?["events"];
        let number = |name: &str| events[name].as_f64().unwrap_or_default();
        let flood = Flood {
            send_ns,
            per_second: f64::from(count) / seconds,
            written: number("written"),
            lost: number("lost") + number("failed"),
        };
        drop(unread);
        if arm > 1 {
            std::fs::remove_file(&path).context("removing the events")?;
        }
        Ok(flood)
    }
}

/// A pipe with room for some hundred events, and its end that is held and not read.
fn pipe(path: &Path) -> Result<File> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).context("making a pipe")?;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .context("opening the pipe")
}

#[test]
#[ignore = "a measurement: run by cargo xtask bench"]
fn events_of_a_flood() -> Result<()> {
    let scene = Scene::new()?;
    let rounds = if samples::full() { 10 } else { 2 };
    let mut floods: [Vec<Flood>; ARMS.len()] = Default::default();
    let arms = Arms::measure(&ARMS, rounds, |arm| {
        let flood = scene.flood(arm)?;
        let send_ns = flood.send_ns;
        floods[arm].push(flood);
        Ok(send_ns)
    })?;
    let median = |floods: &[Flood], of: fn(&Flood) -> f64| {
        rounded(quantile(&floods.iter().map(of).collect::<Vec<_>>(), 0.5))
    };
    let told: Vec<_> = ARMS
        .iter()
        .zip(&floods)
        .map(|(arm, floods)| {
            json!({"arm": arm, "per_second": median(floods, |flood| flood.per_second),
                "written": median(floods, |flood| flood.written), "lost": median(floods, |flood| flood.lost)})
        })
        .collect();
    measure("flood", json!({"arms": arms.told(), "events": told}));
    Ok(())
}
