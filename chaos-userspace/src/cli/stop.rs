//! `kchaos stop`: ends live runs, with their rollback.

use super::{console, exit, failure::Failure, list::unexpected};
use crate::runs::{
    client::{self, Run},
    message::{Answer, Request},
};
use clap::Args;

/// Arguments of `kchaos stop`.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Stop {
    /// The run, or the beginning of its id
    id: Option<String>,

    /// All runs of this host
    #[arg(long)]
    all: bool,
}

/// Ends runs and waits until they are undone.
pub fn run(arguments: &Stop, json: bool) -> Result<u8, Failure> {
    let runs = match &arguments.id {
        Some(id) => vec![client::find(id)?],
        None => client::all()?,
    };
    if runs.is_empty() && !json {
        console::out(format_args!("nothing runs"));
    }
    stop_all(runs, json)
}

/// Ends these runs and waits until they are undone.
pub fn stop_all(runs: Vec<Run>, json: bool) -> Result<u8, Failure> {
    // All are asked at once, so that none goes on while another one is waited for.
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = runs.into_iter().map(|run| scope.spawn(|| stop(run, json))).collect();
        let died = || Err(Failure::internal("the thread that asked a run died"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    });
    let mut worst = exit::DONE;
    let mut problems = vec![];
    for result in results {
        match result {
            Ok(code) => worst = worst.max(code),
            Err(failure) => {
                worst = worst.max(failure.code);
                problems.push(failure.message);
            }
        }
    }
    if problems.is_empty() { Ok(worst) } else { Err(Failure::new(worst, problems.join("\n"))) }
}

/// How a run ended that was asked to.
pub enum Ended {
    /// It says what it was.
    Told {
        /// Exit code by its meaning.
        code: u8,
        /// The code in words.
        outcome: String,
        /// The run's own summary.
        summary: serde_json::Value,
    },
    /// It was on its way out when it was asked; the kernel closes the connection after everything of it is gone.
    ByItself,
}

/// Asks a run to end and waits until it is undone.
pub fn end(run: Run) -> Result<Ended, Failure> {
    match run.ask(&Request::Stop, None) {
        Ok(Answer::Stopped { code, outcome, summary }) => Ok(Ended::Told { code, outcome, summary }),
        Ok(other) => Err(unexpected(other)),
        Err(client::Error::Ended(_)) => Ok(Ended::ByItself),
        Err(error @ client::Error::Stopped { .. }) => {
            Err(Failure::new(exit::ROLLBACK_INCOMPLETE, error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

fn stop(run: Run, json: bool) -> Result<u8, Failure> {
    let id = run.id.clone();
    match end(run)? {
        Ended::Told { code, outcome, summary } => {
            if json {
                let event = serde_json::json!({
                    "event": "stopped", "run": id, "code": code, "outcome": outcome, "summary": summary,
                });
                console::out(format_args!("{event}"));
            } else {
                console::out(format_args!("{id}  ended ({outcome}) in {} ms", summary["undone"]["took_ms"]));
                for problem in summary["undone"]["problems"].as_array().into_iter().flatten() {
                    console::out(format_args!("{id}  NOT UNDONE: {problem}"));
                }
            }
            Ok(if code == exit::ROLLBACK_INCOMPLETE { code } else { exit::DONE })
        }
        Ended::ByItself => {
            if json {
                console::out(format_args!(
                    "{}",
                    serde_json::json!({"event": "stopped", "run": id, "code": null})
                ));
            } else {
                console::out(format_args!("{id}  has ended by itself"));
            }
            Ok(exit::DONE)
        }
    }
}
