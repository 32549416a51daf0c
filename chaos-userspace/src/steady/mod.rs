//! The steady state: what has to hold, how it is measured, and when an experiment is given up.

pub mod abort;
pub mod ask;
pub mod tolerance;
pub mod value;

pub use crate::experiment::document_steady::When;
use crate::spec::syscall::Call;
use std::{collections::BTreeMap, fmt, time::Duration};
use tolerance::Tolerance;
use value::Unit;

use crate::experiment::document_steady::{
    CallsMeasure, CgroupMeasure, CommandMeasure, DnsMeasure, HttpMeasure, Method, NetworkMeasure,
};

/// One thing that has to hold.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it is called; unique within an experiment.
    pub name: String,
    /// What is asked.
    pub ask: Ask,
    /// What is tolerated of the answer.
    pub tolerance: Tolerance,
    /// When it is asked.
    pub mode: When,
    /// Time between two questions.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So often is it asked again before it counts as failed.
    pub retries: u32,
    /// Share of its answers under fault, in percent, that may fail without the hypothesis being refuted.
    pub error_budget: f64,
    /// The stage of the experiment in which it is asked under fault; all the time without one.
    pub stage: Option<usize>,
}

impl Probe {
    /// Whether it is asked before the faults.
    pub fn is_asked_before(&self) -> bool {
        matches!(self.mode, When::Start | When::Edge | When::Continuous)
    }

    /// Whether it is asked while faults act.
    pub fn is_asked_during(&self) -> bool {
        matches!(self.mode, When::During | When::Continuous)
    }

    /// Whether it has to hold again after the faults.
    pub fn is_asked_after(&self) -> bool {
        matches!(self.mode, When::End | When::Edge | When::Continuous)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An HTTP server.
    Http {
        /// Where.
        url: String,
        /// How.
        method: Method,
        /// What is sent along.
        headers: BTreeMap<String, String>,
        /// What is sent.
        body: Option<String>,
        /// What counts.
        measure: HttpMeasure,
        /// So many requests are one measurement of latency.
        samples: u32,
        /// Which of their latencies counts, in thousandths of a percent.
        percentile: u32,
    },
    /// A TCP port: how long connecting takes.
    Tcp {
        /// HOST:PORT.
        address: String,
    },
    /// A host name.
    Dns {
        /// The name.
        name: String,
        /// What counts.
        measure: DnsMeasure,
    },
    /// A command.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// What counts.
        measure: CommandMeasure,
    },
    /// A Prometheus server.
    Prometheus {
        /// Address of the server.
        url: String,
        /// The query.
        query: String,
    },
    /// The target's own system calls.
    Calls {
        /// Which.
        of: Vec<Call>,
        /// What counts.
        measure: CallsMeasure,
        /// Which of their latencies counts, in thousandths of a percent.
        percentile: u32,
    },
    /// The target's cgroup.
    Cgroup(CgroupMeasure),
    /// The target's network namespace.
    Network(NetworkMeasure),
}

impl Ask {
    /// The kind of probe, as in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Dns { .. } => "dns",
            Self::Command { .. } => "command",
            Self::Prometheus { .. } => "prometheus",
            Self::Calls { .. } => "calls",
            Self::Cgroup(_) => "cgroup",
            Self::Network(_) => "network",
        }
    }

    /// What its answers are measured in.
    pub fn unit(&self) -> Unit {
        match self {
            Self::Http { measure: HttpMeasure::Latency, .. }
            | Self::Tcp { .. }
            | Self::Dns { measure: DnsMeasure::Latency, .. }
            | Self::Command { measure: CommandMeasure::Time, .. }
            | Self::Calls { measure: CallsMeasure::Latency, .. } => Unit::Time,
            Self::Http { measure: HttpMeasure::Body, .. }
            | Self::Dns { measure: DnsMeasure::Addresses, .. }
            | Self::Command { measure: CommandMeasure::Stdout, .. } => Unit::Text,
            Self::Cgroup(
                CgroupMeasure::Cpu
                | CgroupMeasure::CpuPressure
                | CgroupMeasure::MemoryPressure
                | CgroupMeasure::IoPressure,
            )
            | Self::Calls { measure: CallsMeasure::Failures, .. } => Unit::Percent,
            Self::Cgroup(CgroupMeasure::Memory) => Unit::Bytes,
            Self::Http { measure: HttpMeasure::Status, .. }
            | Self::Command { measure: CommandMeasure::Exit, .. }
            | Self::Prometheus { .. }
            | Self::Calls { measure: CallsMeasure::Rate, .. }
            | Self::Cgroup(CgroupMeasure::OomKills | CgroupMeasure::Processes | CgroupMeasure::Exits)
            | Self::Network(_) => Unit::Number,
        }
    }

    /// Whether an answer says nothing without a tolerance.
    pub fn needs_tolerance(&self) -> bool {
        matches!(self, Self::Prometheus { .. } | Self::Calls { .. } | Self::Cgroup(_) | Self::Network(_))
            || matches!(self, Self::Http { measure: HttpMeasure::Body, .. })
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, method, measure, samples, .. } => {
                let method = format!("{method:?}").to_uppercase();
                write!(f, "{} of {method} {url}", format!("{measure:?}").to_lowercase())?;
                if *samples > 1 { write!(f, " ({samples} requests each)") } else { Ok(()) }
            }
            Self::Tcp { address } => write!(f, "time to connect to {address}"),
            Self::Dns { name, measure: DnsMeasure::Latency } => write!(f, "time to look up {name}"),
            Self::Dns { name, .. } => write!(f, "addresses of {name}"),
            Self::Command { argv, measure } => {
                let what = match measure {
                    CommandMeasure::Exit => "exit status",
                    CommandMeasure::Stdout => "output",
                    CommandMeasure::Time => "time",
                };
                write!(f, "{what} of {}", argv.join(" "))
            }
            Self::Prometheus { url, query } => write!(f, "{query} at {url}"),
            Self::Calls { of, measure, percentile } => {
                let names: Vec<_> = of.iter().map(|call| call.name()).collect();
                let names = names.join(", ");
                match measure {
                    CallsMeasure::Latency => {
                        let percentile = f64::from(*percentile) / 1000.0;
                        write!(f, "the {percentile}% quantile of the time that the target's {names} takes")
                    }
                    CallsMeasure::Failures => write!(f, "the share of the target's {names} that fails"),
                    CallsMeasure::Rate => write!(f, "the target's {names} per second"),
                }
            }
            Self::Cgroup(measure) => f.write_str(match measure {
                CgroupMeasure::Cpu => "the target's share of a processor",
                CgroupMeasure::Memory => "the target's memory",
                CgroupMeasure::OomKills => "the target's processes killed for want of memory",
                CgroupMeasure::CpuPressure => "the target's pressure on processors",
                CgroupMeasure::MemoryPressure => "the target's pressure on memory",
                CgroupMeasure::IoPressure => "the target's pressure on disks",
                CgroupMeasure::Processes => "the target's processes",
                CgroupMeasure::Exits => "the target's processes that have ended",
            }),
            Self::Network(measure) => f.write_str(match measure {
                NetworkMeasure::TcpRetransmits => "TCP segments sent again in the target's network namespace",
                NetworkMeasure::TcpFailedConnects => {
                    "TCP connections not made in the target's network namespace"
                }
                NetworkMeasure::TcpResets => "TCP connections reset in the target's network namespace",
            }),
        }
    }
}
