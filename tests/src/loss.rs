//! Measuring datagram loss: who sends and receives where, and what the books of kchaos must then say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::binomial::{Interval, check_share};
use crate::board::{Role, SharedBoard};
use crate::bursts::check_independent;
use crate::capability::on_host;
use crate::kchaos::Kchaos;
use crate::netns::NetNs;
use crate::patience::wait_for;
use crate::spawn::{Place, Victim};
use crate::summary::{Summary, with_its_lease};

/// What both ends of a stream of datagrams counted.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Datagrams the kernel took from the sender.
    pub sent: u64,
    /// Different datagrams received.
    pub received: u64,
    /// Received more than once.
    pub duplicates: u64,
    /// Received after a later one.
    pub out_of_order: u64,
    /// The 0th to the 100th percentile of the time from send to receipt, in milliseconds; empty if nothing arrived.
    pub delays_ms: Vec<f64>,
    /// Numbers of datagrams that did not arrive, below the highest that did; the first few thousand.
    pub missing: Vec<u64>,
    /// Runs of datagrams that did not arrive, below the highest that did: how many, by their length.
    pub bursts: BTreeMap<u64, u64>,
    /// Errors the sender was told, from calls and from its error queue.
    pub sender_errors: Vec<Value>,
}

impl Traffic {
    /// Reads both results from a board.
    pub fn read(board: &SharedBoard) -> Result<Self> {
        let sender = board.result(Role::First)?.context("the sender left no result")?;
        let receiver = board.result(Role::Second)?.context("the receiver left no result")?;
        ensure!(
            receiver["overflows"] == 0,
            "the measurement is worthless: a receive buffer was full ({receiver})"
        );
        let number =
            |value: &Value| value.as_u64().with_context(|| format!("no number in {sender} {receiver}"));
        let errors = [&sender["send_errors"], &sender["queue_errors"]];
        Ok(Self {
            sent: number(&sender["sent"])?,
            received: number(&receiver["received"])?,
            duplicates: number(&receiver["duplicates"])?,
            out_of_order: number(&receiver["out_of_order"])?,
            missing: receiver["missing"]
                .as_array()
                .context("the receiver missed nothing")?
                .iter()
                .map(number)
                .collect::<Result<_>>()?,
            bursts: serde_json::from_value(receiver["bursts"].clone()).context("no bursts")?,
            delays_ms: receiver["delays_us"]
                .as_array()
                .context("the receiver measured no delays")?
                .iter()
                .map(|delay| Ok(number(delay)? as f64 / 1e3))
                .collect::<Result<_>>()?,
            sender_errors: errors
                .into_iter()
                .filter(|errors| errors.as_object().is_none_or(|errors| !errors.is_empty()))
                .cloned()
                .collect(),
        })
    }

    /// Asks a victim that sends to itself to end, and reads what it counted: from its board alone, as out of a container.
    pub fn of_stopped(board: &SharedBoard) -> Result<Self> {
        board.stop.store(1, Release);
        wait_for("a victim's result", || board.result(Role::Second))?;
        wait_for("a victim's other result", || board.result(Role::First))?;
        Self::read(board)
    }

    /// Half of what arrived took no longer.
    pub fn median_ms(&self) -> Result<f64> {
        self.delays_ms.get(50).copied().with_context(|| format!("nothing arrived: {self}"))
    }

    /// Datagrams that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Fails unless everything arrived once and the sender was told nothing.
    pub fn check_unharmed(&self) -> Result<()> {
        ensure!(self.sent > 0, "nothing was sent");
        ensure!(
            self.lost() == 0 && self.duplicates == 0 && self.sender_errors.is_empty(),
            "this traffic was to stay unharmed: {self}"
        );
        Ok(())
    }

    /// Fails if the sender could tell that something was lost.
    pub fn check_silent(&self) -> Result<()> {
        ensure!(self.sender_errors.is_empty(), "the sender was told of the loss: {self}");
        ensure!(self.duplicates == 0, "loss made duplicates: {self}");
        Ok(())
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} received, {} duplicates, errors at the sender {:?}",
            self.sent, self.received, self.duplicates, self.sender_errors
        )
    }
}

/// Traffic and what kchaos says of it.
pub struct Measured {
    /// What the ends counted.
    pub traffic: Traffic,
    /// What kchaos counted.
    pub summary: Summary,
}

impl Measured {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Judges that loss of `probability` fell on every datagram exactly once, silently, and was counted as such.
    pub fn check_loss(&self, what: &str, probability: f64) -> Result<Interval> {
        self.traffic.check_silent().context(what.to_owned())?;
        let interval = check_share(what, self.traffic.lost(), self.traffic.sent, probability)?;
        check_independent(what, &self.traffic.bursts, self.traffic.sent)?;
        let rule = self.summary.rule()?;
        ensure!(
            rule.matched.events == self.traffic.sent,
            "{what}: {}, but kchaos matched {} (seen {})",
            self.traffic,
            rule.matched.events,
            rule.seen.events
        );
        ensure!(
            rule.injected.events == self.traffic.lost(),
            "{what}: {}, but kchaos says it dropped {}",
            self.traffic,
            rule.injected.events
        );
        Ok(interval)
    }

    /// Judges that the rule was about none of the datagrams.
    pub fn check_unmatched(&self, what: &str) -> Result<()> {
        self.traffic.check_unharmed().context(what.to_owned())?;
        let rule = self.summary.rule()?;
        ensure!(
            rule.matched.events == 0 && rule.injected.events == 0 && rule.seen.events >= self.traffic.sent,
            "{what}: {}, but kchaos says {} seen, {} matched, {} injected",
            self.traffic,
            rule.seen.events,
            rule.matched.events,
            rule.injected.events
        );
        Ok(())
    }
}

/// Silence after which a receiver takes missing datagrams as lost.
pub fn idle_ms() -> u64 {
    if on_host() { 300 } else { 800 }
}

fn finish(running: Kchaos, board: &SharedBoard) -> Result<Measured> {
    let finished = running.run()?;
    finished.expect_status(0)?;
    Ok(Measured { traffic: Traffic::read(board)?, summary: finished.summary()? })
}

/// Both ends in the target; `receiver` names the receiver's network namespace if it is another.
pub fn both_ends_in_target(
    faults: &str,
    place: &Place,
    to: &str,
    n: u64,
    receiver: Option<&NetNs>,
) -> Result<Measured> {
    let netns = receiver.map(|netns| format!("--recv-netns {}", netns.path().display())).unwrap_or_default();
    let arguments = format!("udp-pair --to {to} -n {n} --idle-ms {} {netns}", idle_ms());
    with_its_lease(Measured::summary, || {
        let board = SharedBoard::create()?;
        finish(Kchaos::exec_victim(faults, &arguments, &board)?.at(place), &board)
    })
}

/// The sender in the target, the receiver outside; `more` are further words of the sender.
pub fn sender_in_target(
    faults: &str,
    place: &Place,
    to: &str,
    n: u64,
    receiver: &Place,
    more: &str,
) -> Result<Measured> {
    with_its_lease(Measured::summary, || {
        let board = Arc::new(SharedBoard::create()?);
        let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
        let mut outside = Victim::start_on(receiver, &listen, Arc::clone(&board))?;
        outside.ready()?;
        let sender =
            Kchaos::exec_victim(faults, &format!("udp-send --to {to} -n {n} {more}"), &board)?.at(place);
        let finished = sender.run()?;
        finished.expect_status(0)?;
        let summary = finished.summary()?;
        if let [rule] = &summary.rules[..]
            && rule.fault == "loss"
        {
            // If that many did not get lost, the receiver waits in vain for as long as it does without knowing.
            board.datagrams.known_lost.store(rule.injected.events, Release);
        }
        outside.finish(Role::Second)?;
        Ok(Measured { traffic: Traffic::read(&board)?, summary })
    })
}

/// The receiver in the target, the sender outside.
pub fn receiver_in_target(faults: &str, place: &Place, to: &str, n: u64, sender: &Place) -> Result<Measured> {
    with_its_lease(Measured::summary, || {
        let board = Arc::new(SharedBoard::create()?);
        let listen = format!("udp-recv --listen {to} --idle-ms {}", idle_ms());
        let running = Kchaos::exec_victim(faults, &listen, &board)?.at(place).start()?;
        let mut outside =
            Victim::start_on(sender, &format!("udp-send --to {to} -n {n}"), Arc::clone(&board))?;
        let finished = running.finish()?;
        finished.expect_status(0)?;
        outside.finish(Role::First)?;
        Ok(Measured { traffic: Traffic::read(&board)?, summary: finished.summary()? })
    })
}
