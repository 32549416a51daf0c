//! What the user wrote. Syntax only: nothing here looks at the host.

pub mod call_class;
pub mod corrupt;
pub mod delay;
pub mod glob;
pub mod latency;
pub mod loss_model;
pub mod network;
pub mod packets;
pub mod pod;
pub mod returns;
pub mod safety;
pub mod select;
pub mod syscall;
pub mod syscall_match;
pub mod target;
pub mod units;
pub mod when;

use chaos_common::limits::{LINES_PER_PACKET_MAX, RULES_MAX};
use std::{collections::BTreeSet, fmt, time::Duration};
pub use target::Target;

/// One experiment as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Who may be hit.
    pub targets: Vec<Target>,
    /// How many of those that fit are.
    pub select: select::Select,
    /// Chooses the same ones again; without it `seed` does, without that they are drawn anew.
    pub select_seed: Option<u64>,
    /// What is inflicted, in order.
    pub faults: Vec<Fault>,
    /// How long; `None` only where something else ends the run (`exec` ends with its command).
    pub duration: Option<Duration>,
    /// Safety nets that are meant to be passed.
    pub allowed: BTreeSet<safety::Net>,
    /// Count only, act on nothing.
    pub observe: bool,
    /// Makes every random draw the same again.
    pub seed: Option<u64>,
    /// Mechanism for system call faults the user insists on.
    pub mechanism: Option<syscall::Mechanism>,
}

impl Spec {
    /// Whether packets are hit.
    pub fn has_packets(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::Network(_)))
    }
}

/// One thing to inflict.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// On packets.
    Network(Box<network::Fault>),
    /// On system calls.
    Syscall(Box<syscall::Fault>),
}

impl Fault {
    /// Which of the matched events are hit.
    pub fn when(&self) -> &when::When {
        match self {
            Self::Network(fault) => &fault.when,
            Self::Syscall(fault) => &fault.when,
        }
    }
}

impl Fault {
    /// Whether one draw serves a whole flow.
    pub fn is_per_flow(&self) -> bool {
        matches!(self, Self::Network(fault) if fault.per_flow)
    }

    /// Whether packets are held back.
    pub fn is_delay(&self) -> bool {
        matches!(self, Self::Network(fault) if matches!(fault.effect, network::Effect::Delay(_)))
    }

    /// Whether it lets so much go at once.
    pub fn has_burst(&self) -> bool {
        let bursts = |effect: &network::Effect| matches!(effect, network::Effect::Delay(delay) if delay.burst.is_some());
        matches!(self, Self::Network(fault) if bursts(&fault.effect))
    }

    /// Whether the kernel has to remember something across CPUs, which needs fetching atomics (5.12).
    pub fn is_exact(&self) -> bool {
        let has_chain =
            matches!(self, Self::Network(fault) if matches!(fault.effect, network::Effect::LossModel(_)));
        has_chain || self.when().is_exact()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(fault) => fault.fmt(f),
            Self::Syscall(fault) => fault.fmt(f),
        }
    }
}

/// Too few faults, or more than there is room for.
pub fn check_count(faults: &[Fault], problems: &mut Problems) {
    if faults.is_empty() {
        problems.0.push("no fault is asked for: add --loss 5% or --fail openat=EIO, for example".to_owned());
    }
    if faults.len() > RULES_MAX {
        problems.0.push(format!("{} faults are above the limit of {RULES_MAX}", faults.len()));
    }
    let delays = faults.iter().filter(|fault| fault.is_delay()).count();
    if delays > LINES_PER_PACKET_MAX {
        problems.0.push(format!(
            "{delays} delays are above the limit of {LINES_PER_PACKET_MAX} for one packet: add up the times of those that hit \
             the same packets"
        ));
    }
    let bursts = faults.iter().filter(|fault| fault.has_burst()).count();
    if bursts > 1 {
        problems
            .0
            .push(format!("{bursts} bursts are above the limit of 1 for one run: leave the others out"));
    }
}

/// Everything that is wrong with a spec, at once.
#[derive(Debug, Default, thiserror::Error)]
pub struct Problems(pub Vec<String>);

impl Problems {
    /// Keeps the value or the problem.
    pub fn take<T>(&mut self, result: Result<T, impl fmt::Display>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.0.push(problem.to_string());
                None
            }
        }
    }

    /// The value if nothing was wrong.
    pub fn or<T>(self, value: impl FnOnce() -> T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
