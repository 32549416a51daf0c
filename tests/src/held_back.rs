//! Scene and account of packets that are held back.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::board::{Role, SharedBoard};
use crate::cgroup::TestCgroup;
use crate::client::run;
use crate::kchaos::Kchaos;
use crate::loss::{Measured, Traffic, idle_ms, sender_in_target};
use crate::patience::wait_until;
use crate::spawn::{Place, Process, Victim};
use crate::topology::{FAR4, Pair, endpoint};

/// A target on the near side of two namespaces, and who is not to wait.
pub struct Scene {
    /// Both sides.
    pub pair: Pair,
    /// Where kchaos runs, on the near side.
    pub target: Place,
    /// Beyond the target's reach, on the far side.
    pub outside: Place,
    /// Beside the target, on the near side.
    pub beside: Place,
    _cgroup: TestCgroup,
}

impl Scene {
    /// On these two sides.
    pub fn new(pair: Pair) -> Result<Self> {
        let cgroup = TestCgroup::new()?;
        let target = cgroup.runner()?.in_netns(&pair.near);
        let outside = Place::default().in_cgroup(&cgroup.child("outside")?).in_netns(&pair.far);
        let beside = Place::default().in_cgroup(&cgroup.child("beside")?).in_netns(&pair.near);
        Ok(Self { pair, target, outside, beside, _cgroup: cgroup })
    }

    /// On both sides of a veth.
    pub fn veth() -> Result<Self> {
        Self::new(Pair::veth()?)
    }

    /// A stream from the target to the far side.
    pub fn send(&self, faults: &str, n: u64, more: &str) -> Result<Measured> {
        sender_in_target(faults, &self.target, &endpoint(FAR4, 7001)?, n, &self.outside, more)
    }
}

/// A stream of `n` datagrams from one place to another, without kchaos; `more` are words for the sender.
pub fn plain_stream(from: &Place, receiver: &Place, to: &str, n: u64, more: &str) -> Result<Traffic> {
    let board = Arc::new(SharedBoard::create()?);
    let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
    let mut receiver = Victim::start_on(receiver, &listen, Arc::clone(&board))?;
    receiver.ready()?;
    let words = format!("udp-send --to {to} -n {n} {more}");
    Victim::start_on(from, &words, Arc::clone(&board))?.finish(Role::First)?;
    receiver.finish(Role::Second)?;
    Traffic::read(&board)
}

/// A connection from the target to the far side or to itself; what the sender reports.
pub fn transfer(
    scene: &Scene,
    faults: Option<&str>,
    receiver: &Place,
    address: &str,
    bytes: u64,
) -> Result<Value> {
    let to = endpoint(address, 7002)?;
    let board = Arc::new(SharedBoard::create()?);
    let mut outside = Victim::start_on(receiver, &format!("tcp-recv --listen {to}"), Arc::clone(&board))?;
    outside.ready()?;
    let words = format!("tcp-send --to {to} --bytes {bytes}");
    match faults {
        Some(faults) => {
            Kchaos::exec_victim(faults, &words, &board)?.at(&scene.target).run()?.expect_status(0)?;
        }
        None => {
            Victim::start_on(&scene.target, &words, Arc::clone(&board))?.finish(Role::First)?;
        }
    }
    outside.finish(Role::Second)?;
    board.result(Role::First)?.context("the sender left no result")
}

/// iperf3 in the target against a server on the far side, until so many bytes have arrived; bits per second at the receiver.
pub fn iperf3(scene: &Scene, faults: Option<&str>, bytes: u64) -> Result<f64> {
    let log = tempfile::tempfile()?;
    let mut serve = Command::new("iperf3");
    serve.args(["-s", "-1", "-B", FAR4]).stdout(log.try_clone()?).stderr(log);
    scene.outside.apply(&mut serve)?;
    let mut server = Process::start(serve)?;
    wait_until("iperf3 to listen", || {
        scene.pair.far.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?)).is_ok_and(
            |table| {
                table
                    .lines()
                    .any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(":1451")))
            },
        )
    })?;
    let bytes = bytes.to_string();
    let client = ["iperf3", "-c", FAR4, "-n", &bytes, "-J", "--connect-timeout", "20000"];
    let said = match faults {
        Some(faults) => {
            let report = tempfile::NamedTempFile::new()?;
            let path = report.path().display().to_string();
            let mut words = client.to_vec();
            words.extend(["--logfile", &path]);
            Kchaos::exec(faults, &words).at(&scene.target).run()?.expect_status(0)?;
            std::fs::read_to_string(&path)?
        }
        None => run(&scene.target, &client)?.expect(0)?.out,
    };
    server.wait()?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    report["end"]["sum_received"]["bits_per_second"].as_f64().with_context(|| said.clone())
}

/// Every packet was held back for `ms`, once. A busy machine can only add to what a packet takes, and adds to all that wait
/// while it pauses: the shortest delay tells once from twice, and the counters say that it was once for each.
/// `delay_netem::distributions_are_netems` measures.
pub fn check_held_back(what: &str, run: &Measured, ms: f64) -> Result<()> {
    run.traffic.check_unharmed().context(what.to_owned())?;
    let least = run.traffic.delays_ms[0];
    ensure!(
        (ms - 0.1..2.0 * ms).contains(&least),
        "{what}: the first took {least} ms instead of {ms}: {:?}",
        run.traffic.delays_ms
    );
    let rule = run.summary.rule()?;
    ensure!(
        rule.fault == "delay" && rule.matched.events == run.traffic.sent && rule.injected == rule.matched,
        "{what}: {}, but kchaos says {rule:?}",
        run.traffic
    );
    let queue = run.summary.queue.context("no word about the line")?;
    ensure!(queue.overflowed == 0 && queue.undelivered == 0, "{what}: {queue:?}");
    Ok(())
}
