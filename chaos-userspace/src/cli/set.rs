//! `kchaos set`: other rates for a live run.

use super::{
    Cli, Command, console, exit,
    failure::Failure,
    faults::Faults,
    list::{PATIENCE, unexpected},
};
use crate::{
    plan::{self, Plan, change},
    probe::kernel::Kernel,
    runs::{
        client,
        message::{Answer, Request},
    },
    spec::Problems,
};
use clap::{Args, Parser};
use std::ffi::OsString;

/// Arguments of `kchaos set`.
#[derive(Args, Debug)]
pub struct Set {
    /// The run, or the beginning of its id
    id: String,

    #[command(flatten)]
    faults: Faults,
}

/// Asks the owner to go on with other rates. `words` is the whole command line: the owner reads it anew.
pub fn run(arguments: &Set, words: &[OsString], json: bool) -> Result<u8, Failure> {
    arguments.faults.spec(None)?;
    let words = words.iter().skip(1).map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>();
    let words = words.ok_or_else(|| Failure::new(exit::USAGE, "the command line is not UTF-8"))?;
    let run = client::find(&arguments.id)?;
    let id = run.id.clone();
    match run.ask(&Request::Set { words }, Some(3 * PATIENCE))? {
        Answer::Set { faults } => {
            if json {
                console::out(format_args!(
                    "{}",
                    serde_json::json!({"event": "set", "run": id, "faults": faults})
                ));
            } else {
                console::out(format_args!("{id}  {}", faults.join("; ")));
            }
            Ok(exit::DONE)
        }
        other => Err(unexpected(other)),
    }
}

/// The owner's part: the plan with which `running` may go on without a gap.
pub fn plan(words: &[String], running: &Plan) -> Result<Plan, Failure> {
    let words = std::iter::once("kchaos").chain(words.iter().map(String::as_str));
    let cli =
        Cli::try_parse_from(words).map_err(|error| Failure::new(exit::USAGE, error.to_string().trim()))?;
    let Command::Set(set) = cli.command else {
        return Err(Failure::new(exit::USAGE, "only `kchaos set` changes a run"));
    };
    let mut spec = set.faults.spec(None)?;
    spec.duration = running.duration;
    spec.seed = spec.seed.or(running.seed);
    let mut wanted = plan::make(&spec, &Kernel::default())?;
    wanted.run.clone_from(&running.run);
    wanted.trees.clone_from(&running.trees);
    let problems = change::obstacles(running, &wanted);
    wanted.observe = running.observe;
    Problems(problems).or(|| wanted).map_err(Failure::from)
}
