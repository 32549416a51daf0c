//! Scene and account of packets that are held back.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::board::{Role, SharedBoard};
use crate::cgroup::TestCgroup;
use crate::kchaos::Kchaos;
use crate::loss::{Measured, Traffic, idle_ms, sender_in_target};
use crate::spawn::{Place, Victim};
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
