//! `kchaos halt` and `kchaos resume`: a lever for who has to know that nothing is injected on this host.

use super::{console, exit, failure::Failure, run, stop};
use crate::runs::{client, halt};
use clap::Args;

/// Arguments of `kchaos halt`.
#[derive(Args, Debug)]
pub struct Halt {
    /// Told to everybody whose run is ended or refused
    #[arg(value_name = "REASON", default_value = "")]
    reason: String,
}

/// Ends all runs and waits until they are undone; new ones are refused from here on.
pub fn halt(arguments: &Halt, json: bool) -> Result<u8, Failure> {
    run::check_privileges(false)?;
    let failed = |error| Failure::new(exit::UNABLE, format!("{}: {error}", halt::path().display()));
    halt::halt(&arguments.reason).map_err(failed)?;
    if json {
        console::out(format_args!("{}", serde_json::json!({"event": "halted", "reason": arguments.reason})));
    } else {
        console::out(format_args!("no run begins on this host until kchaos resume"));
    }
    // Each owner has seen the file; this waits until all are gone.
    stop::stop_all(client::all()?, json)
}

/// Lets runs begin again.
pub fn resume(json: bool) -> Result<u8, Failure> {
    run::check_privileges(false)?;
    let resumed = halt::resume()
        .map_err(|error| Failure::new(exit::UNABLE, format!("{}: {error}", halt::path().display())))?;
    if json {
        console::out(format_args!("{}", serde_json::json!({"event": "resumed", "was_halted": resumed})));
    } else {
        console::out(format_args!(
            "{}",
            if resumed { "runs may begin again" } else { "runs were not halted" }
        ));
    }
    Ok(exit::DONE)
}

/// Refuses to begin while runs are halted.
pub fn check() -> Result<(), Failure> {
    match halt::reason() {
        None => Ok(()),
        Some(reason) => {
            let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            let message =
                format!("all runs of this host are halted{because}: kchaos resume lets them begin again");
            Err(Failure::new(exit::REFUSED, message))
        }
    }
}
