//! What has to hold, and when to give up, as it is written.

use super::text::{Quantity, Share, Time, Wanted};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One thing that has to hold: one of http, tcp, dns, command, prometheus, calls, cgroup and network.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// What it is called.
    #[schemars(required)]
    pub name: Option<String>,
    /// Ask an HTTP server.
    pub http: Option<Http>,
    /// Connect to a TCP port; measures how long that takes.
    pub tcp: Option<Tcp>,
    /// Look up a host name; measures how long that takes.
    pub dns: Option<Dns>,
    /// Run a command, without a shell.
    pub command: Option<Command>,
    /// Ask a Prometheus server for one number.
    pub prometheus: Option<Prometheus>,
    /// Look on at the target's own system calls.
    pub calls: Option<Calls>,
    /// Read the target's cgroup.
    pub cgroup: Option<CgroupRead>,
    /// Read the counters of the target's network namespace.
    pub network: Option<NetworkRead>,
    /// What is tolerated of what it measures.
    pub tolerance: Option<Tolerance>,
    /// When it is asked; continuous if nothing is said.
    pub mode: Option<When>,
    /// Time between two questions; 1s if nothing is said.
    pub interval: Option<Time>,
    /// How long an answer may take; 5s if nothing is said.
    pub timeout: Option<Time>,
    /// So often is it asked again before it counts as failed; 0 if nothing is said.
    #[schemars(range(max = 100))]
    pub retries: Option<u32>,
    /// Share of its answers under fault that may fail without the hypothesis being refuted; 0% if nothing is said.
    pub error_budget: Option<Share>,
}

/// When a probe is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// Once before the faults.
    Start,
    /// After the faults, until it holds again.
    End,
    /// Before and after.
    Edge,
    /// Again and again while the faults act.
    During,
    /// Before, while the faults act, and after.
    #[default]
    Continuous,
}

/// An HTTP request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http {
    /// Where.
    #[schemars(required)]
    pub url: Option<String>,
    /// How; GET if nothing is said.
    pub method: Option<Method>,
    /// What is sent along.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What is sent.
    pub body: Option<String>,
    /// What is measured; status if nothing is said.
    pub measure: Option<HttpMeasure>,
    /// So many requests are one measurement of latency; 1 if nothing is said.
    #[schemars(range(min = 1, max = 1000))]
    pub samples: Option<u32>,
    /// Which of their latencies counts; 100% (the longest) if nothing is said.
    pub percentile: Option<Share>,
}

/// HTTP methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
}

/// What of an answer is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HttpMeasure {
    /// The status code.
    #[default]
    Status,
    /// The body.
    Body,
    /// The time until the body is there. A status from 400 on is a failure.
    Latency,
}

/// A TCP connection.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tcp {
    /// HOST:PORT.
    #[schemars(required)]
    pub address: Option<String>,
}

/// A look-up of a name, as programs of this host do it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// The name.
    #[schemars(required)]
    pub name: Option<String>,
    /// What is measured; latency if nothing is said.
    pub measure: Option<DnsMeasure>,
}

/// What of a look-up is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DnsMeasure {
    /// How long it takes.
    #[default]
    Latency,
    /// The addresses, sorted, with blanks between.
    Addresses,
}

/// A command.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    #[schemars(required, length(min = 1))]
    pub argv: Option<Vec<String>>,
    /// What is measured; exit if nothing is said.
    pub measure: Option<CommandMeasure>,
}

/// What of a command is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CommandMeasure {
    /// Its exit status.
    #[default]
    Exit,
    /// What it writes to standard output, without blanks around it. An exit status other than 0 is a failure.
    Stdout,
    /// How long it takes. An exit status other than 0 is a failure.
    Time,
}

/// A question to a Prometheus server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prometheus {
    /// Address of the server, as in http://127.0.0.1:9090.
    #[schemars(required)]
    pub url: Option<String>,
    /// A query with one number as its answer.
    #[schemars(required)]
    pub query: Option<String>,
}

/// The target's own system calls since the last answer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Calls {
    /// Which, by name, taken together; 16 different ones in a file at most.
    #[schemars(required, length(min = 1, max = 16))]
    pub of: Option<Vec<String>>,
    /// What of them is measured; latency if nothing is said.
    pub measure: Option<CallsMeasure>,
    /// Which of their latencies counts; 99% if nothing is said.
    pub percentile: Option<Share>,
}

/// What of system calls is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CallsMeasure {
    /// How long they took, to a sixteenth more than that. One that still goes on counts, with the time it has taken so far,
    /// where that is among the longest, or where none has ended.
    #[default]
    Latency,
    /// The share of them that returned an error.
    Failures,
    /// How many ended per second.
    Rate,
}

/// A value of the target's cgroup; of several targets, the sum of numbers and the largest share.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CgroupRead {
    /// Which.
    #[schemars(required)]
    pub measure: Option<CgroupMeasure>,
}

/// Values of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CgroupMeasure {
    /// Share of one processor used since the last answer (cpu.stat).
    Cpu,
    /// Bytes of memory (memory.current).
    Memory,
    /// Processes killed for want of memory since the start (memory.events, oom_kill).
    OomKills,
    /// Share of the last 10 s in which some task waited for a processor (cpu.pressure, some).
    CpuPressure,
    /// Share of the last 10 s in which some task waited for memory (memory.pressure, some).
    MemoryPressure,
    /// Share of the last 10 s in which some task waited for a disk (io.pressure, some).
    IoPressure,
    /// Processes there are now.
    Processes,
    /// Processes that have ended since the start, of those that were seen.
    Exits,
}

/// A counter of the target's network namespace since the start: of all processes in it, of the target alone if it has a
/// namespace of its own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkRead {
    /// Which.
    #[schemars(required)]
    pub measure: Option<NetworkMeasure>,
}

/// Counters of a network namespace (/proc/PID/net/snmp).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NetworkMeasure {
    /// TCP segments sent again (RetransSegs).
    TcpRetransmits,
    /// TCP connections that were not made (AttemptFails).
    TcpFailedConnects,
    /// TCP connections that were reset (EstabResets).
    TcpResets,
}

/// What is tolerated; all that is named has to hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tolerance {
    /// Exactly this.
    pub equals: Option<Wanted>,
    /// One of these.
    #[serde(default)]
    pub one_of: Vec<Wanted>,
    /// At least this, with its unit.
    pub at_least: Option<Quantity>,
    /// At most this, with its unit.
    pub at_most: Option<Quantity>,
    /// A text in which this regular expression is found.
    pub regex: Option<String>,
    /// A text that contains this.
    pub contains: Option<String>,
    /// A JSON text, of which the rest of this is said about what this path leads to (RFC 9535).
    pub json_path: Option<String>,
}

/// When the experiment is given up: one of these conditions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Abort {
    /// A probe that is asked while the faults act, with one of consecutive, failures and errorBudget.
    pub probe: Option<String>,
    /// So many failures of it in a row.
    #[schemars(range(min = 1))]
    pub consecutive: Option<u32>,
    /// So many failures of it altogether.
    #[schemars(range(min = 1))]
    pub failures: Option<u32>,
    /// More than this share of its answers, after ten of them.
    pub error_budget: Option<Share>,
    /// So many faults inflicted.
    #[schemars(range(min = 1))]
    pub injections: Option<u64>,
    /// A file that appears.
    pub file: Option<String>,
}
