//! Machine-readable progress: one JSON object per line.

use super::summary::Summary;
use crate::runs::message::Told;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};
use tokio::sync::mpsc::UnboundedSender;

/// What can be told.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The engine hosts runs from now on.
    Hosting {
        /// Its process.
        pid: u32,
    },
    /// The faults are live.
    Armed {
        /// The run.
        run: &'a str,
        /// The command, for `exec`.
        pid: Option<u32>,
        /// The target, or the first of several.
        cgroup: &'a Path,
        /// How many there are.
        targets: usize,
    },
    /// The faults go on with other rates.
    Set {
        /// The run.
        run: &'a str,
        /// What they do now, in words.
        faults: &'a [String],
    },
    /// A target has gone: no cgroup has its path any more.
    TargetGone {
        /// The run.
        run: &'a str,
        /// Its path.
        cgroup: &'a Path,
        /// Seconds since the run was armed.
        at_s: f64,
    },
    /// A cgroup of a target's path is there again, and is hit from now on.
    TargetBack {
        /// The run.
        run: &'a str,
        /// Its path.
        cgroup: &'a Path,
        /// Seconds since the run was armed.
        at_s: f64,
        /// Seconds for which there was none.
        away_s: f64,
        /// Milliseconds from when it was found to when it was hit.
        took_ms: f64,
    },
    /// A target that came again is not hit, or not everywhere.
    TargetLost {
        /// The run.
        run: &'a str,
        /// Its path.
        cgroup: &'a Path,
        /// Seconds since the run was armed.
        at_s: f64,
        /// Why.
        problem: &'a str,
    },
    /// A phase of an experiment begins.
    Phase {
        /// The run.
        run: &'a str,
        /// `before`, `faults` or `after`.
        phase: &'a str,
        /// Seconds since its start.
        at_s: f64,
    },
    /// A stage of an experiment begins.
    Stage {
        /// The run.
        run: &'a str,
        /// What it is called.
        stage: &'a str,
        /// Its number, from 0.
        number: usize,
        /// Seconds since the start of the experiment.
        at_s: f64,
    },
    /// Faults of an experiment go on with other shares, as its schedule says.
    Step {
        /// The run.
        run: &'a str,
        /// Seconds since the start of the experiment.
        at_s: f64,
        /// Those that have changed.
        faults: &'a [Step<'a>],
    },
    /// A probe of an experiment has answered.
    Answer {
        /// The run.
        run: &'a str,
        /// The probe.
        probe: &'a str,
        /// `before`, `faults` or `after`.
        phase: &'a str,
        /// What it says.
        answer: &'a crate::steady::ask::Answer,
    },
    /// An experiment is over.
    Verdict {
        /// The run.
        run: &'a str,
        /// What came of it.
        #[serde(flatten)]
        verdict: &'a crate::experiment::verdict::Verdict,
        /// How it was given up.
        abort: Option<&'a crate::experiment::record::AbortRecord>,
        /// How the steady state came back.
        recovery: Option<crate::experiment::record::Recovery>,
        /// Reports that were written.
        reports: &'a [std::path::PathBuf],
    },
    /// The run is over and undone.
    Summary(&'a Summary),
    /// The run was refused or failed.
    Error {
        /// Exit code by its meaning (see [`crate::cli::exit`]).
        code: u8,
        /// Why.
        message: &'a str,
    },
}

/// What a fault does from now on.
#[derive(Debug, Serialize)]
pub struct Step<'a> {
    /// Its name.
    pub name: &'a str,
    /// The share of the events whose turn it is, in percent; 0 at rest.
    pub share_percent: f64,
}

/// Where events go.
pub enum Sink {
    /// Nowhere: for people.
    None,
    /// Standard error; standard output belongs to the command.
    Stderr,
    /// A file.
    File(File),
    /// Who has asked for the run, which tells people and machines.
    Client(UnboundedSender<Told>),
}

impl Sink {
    /// As asked for by `--json` (`-`: standard error) or `--json=FILE`.
    pub fn open(json: Option<&Path>) -> io::Result<Self> {
        Ok(match json {
            None => Self::None,
            Some(path) if path == Path::new("-") => Self::Stderr,
            Some(path) => Self::File(File::create(path)?),
        })
    }

    /// Whether a machine reads standard error.
    pub fn is_stderr(&self) -> bool {
        matches!(self, Self::Stderr)
    }

    /// Writes an event that somebody else has told, a line with its end.
    pub fn pass_on(&mut self, line: &str) {
        let _ = match self {
            Self::None | Self::Client(_) => Ok(()),
            Self::Stderr => io::stderr().write_all(line.as_bytes()),
            Self::File(file) => file.write_all(line.as_bytes()),
        };
    }

    /// Writes one event. A reader that has gone does not stop the run.
    pub fn write(&mut self, event: &Event<'_>) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let _ = match self {
            Self::Client(client) => {
                let line = String::from_utf8(line).unwrap_or_default();
                let _gone = client.send(Told::Event { line });
                return;
            }
            Self::None => Ok(()),
            Self::Stderr => io::stderr().write_all(&line),
            Self::File(file) => file.write_all(&line),
        };
    }
}
