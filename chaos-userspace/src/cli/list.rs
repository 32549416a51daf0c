//! `kchaos list` and `kchaos status`: what runs, and how it is going.

use super::{console, exit, failure::Failure};
use crate::runs::{
    client::{self, Run},
    message::{self, Answer, Request},
};
use clap::Args;
use std::{fmt::Write as _, time::Duration};

/// An owner answers between two events; one that does not within this time is stopped or hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `kchaos status`.
#[derive(Args, Debug)]
pub struct Status {
    /// The run, or the beginning of its id
    id: String,
}

/// Lists the live runs.
pub fn list(json: bool) -> Result<u8, Failure> {
    let runs = client::all()?;
    let mut any = false;
    for run in runs {
        let id = run.id.clone();
        match ask(run) {
            Ok(status) if json => console::out(format_args!("{}", event("run", &status))),
            Ok(status) => console::out(format_args!("{}", line(&status))),
            // It ended meanwhile.
            Err(Problem::Client(client::Error::Ended(_))) => continue,
            Err(problem) => {
                let failure = Failure::from(problem);
                if json {
                    console::out(format_args!(
                        "{}",
                        serde_json::json!({"event": "run", "run": id, "problem": failure.message})
                    ));
                } else {
                    console::out(format_args!("{id}  {}", failure.message));
                }
            }
        }
        any = true;
    }
    if !any && !json {
        console::out(format_args!("nothing runs"));
    }
    Ok(exit::DONE)
}

/// Tells about one run.
pub fn status(arguments: &Status, json: bool) -> Result<u8, Failure> {
    let status = ask(client::find(&arguments.id)?)?;
    if json {
        console::out(format_args!("{}", event("status", &status)));
    } else {
        console::out_text(&text(&status));
    }
    Ok(exit::DONE)
}

enum Problem {
    Client(client::Error),
    Other(Failure),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Client(error) => error.into(),
            Problem::Other(failure) => failure,
        }
    }
}

fn ask(run: Run) -> Result<message::Status, Problem> {
    match run.ask(&Request::Status, Some(PATIENCE)).map_err(Problem::Client)? {
        Answer::Status(status) => Ok(status),
        other => Err(Problem::Other(unexpected(other))),
    }
}

/// What any answer that was not asked for means.
pub fn unexpected(answer: Answer) -> Failure {
    match answer {
        Answer::Refused { code, message } => Failure::new(code, message),
        other => Failure::internal(format!("the owner answered something else: {other:?}")),
    }
}

fn event(name: &str, status: &message::Status) -> serde_json::Value {
    let mut value = serde_json::json!(status);
    value["event"] = name.into();
    value
}

fn line(status: &message::Status) -> String {
    let faults: Vec<_> = status.rules.iter().map(|rule| rule.fault.as_str()).collect();
    let injected: u64 = status.rules.iter().map(|rule| rule.injected.events).sum();
    let left = status.remaining_s.map_or(String::new(), |left| format!(", {left:.0} s left"));
    format!(
        "{}  {} {}{left}, {injected} injected  {}  {}",
        status.run,
        status.command,
        status.state.name(),
        status.target_in_words(),
        faults.join("; ")
    )
}

fn text(status: &message::Status) -> String {
    let mut text = format!("kchaos {}: {} ({})", status.run, status.state.name(), status.target_in_words());
    if let Some(since) = status.armed_s {
        let _ = write!(text, ", live for {since:.1} s");
    }
    if let Some(left) = status.remaining_s {
        let _ = write!(text, ", {left:.1} s left");
    }
    let _ = writeln!(text, ", {} of process {}", status.command, status.pid);
    let width = status.rules.iter().map(|rule| rule.name.len()).max().unwrap_or(0).max(6);
    let _ = writeln!(text, "  {:width$} {:>10} {:>10} {:>10}", "fault", "seen", "matched", "injected");
    for rule in &status.rules {
        let _ = writeln!(
            text,
            "  {:width$} {:>10} {:>10} {:>10}  {}",
            rule.name, rule.seen.events, rule.matched.events, rule.injected.events, rule.fault
        );
    }
    for restarts in &status.restarted {
        let _ = writeln!(text, "  {restarts}");
    }
    text
}
