//! `kchaos syscalls`: which call can be made to fail here, and how.

use super::{console, exit, failure::Failure, run};
use crate::{
    plan::syscall,
    probe::{Abilities as _, Unable, kernel::Kernel},
    spec::{
        call_class::Class,
        returns::Needs,
        syscall::{Call, Mechanism},
    },
};
use clap::Args;
use serde::Serialize;

/// One call.
#[derive(Serialize)]
struct Row {
    number: u32,
    name: &'static str,
    /// In the order in which they are tried.
    mechanisms: Vec<&'static str>,
    /// Those that hold it back, for --slow.
    latency: Vec<&'static str>,
    /// Why there is none, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreached: Option<Unable>,
    /// Names under which 32-bit callers escape the first of them.
    compat_escapes: Vec<&'static str>,
    /// Needs --allow.
    dangerous: bool,
    /// Classes it belongs to.
    classes: Vec<&'static str>,
}

/// Arguments of `kchaos syscalls`.
#[derive(Args, Debug)]
pub struct Syscalls {
    /// Only the calls of this class
    #[arg(long, value_name = "CLASS")]
    class: Option<Class>,
}

/// Runs the command. Ends with 8 if no call can be made to fail here.
pub fn run(arguments: &Syscalls, json: bool) -> Result<u8, Failure> {
    run::check_privileges(false)?;
    let kernel = Kernel::default();
    let calls = arguments.class.map_or_else(|| Call::all().collect(), Class::calls);
    let rows: Vec<Row> = calls.into_iter().map(|call| row(call, &kernel)).collect();
    for row in &rows {
        if json {
            console::out(format_args!("{}", serde_json::json!({"event": "syscall", "call": row})));
        } else {
            console::out_text(&line(row));
        }
    }
    let any = rows.iter().any(|row| !row.mechanisms.is_empty());
    Ok(if any { exit::DONE } else { exit::UNABLE })
}

fn row(call: Call, kernel: &Kernel) -> Row {
    let (mut able, mut unreached) = (vec![], None::<Unable>);
    for mechanism in syscall::LADDER {
        match syscall::by(mechanism, call, Needs::default(), kernel) {
            Ok(hooks) => able.push((mechanism.name(), hooks)),
            Err(reason) => {
                unreached = Some(match unreached {
                    Some(before) => before.and(reason),
                    None => reason,
                });
            }
        }
    }
    let compat_escapes = match able.first() {
        Some((_, hooks)) if kernel.has_compat_callers() => syscall::compat_escapes(call, hooks, kernel),
        _ => vec![],
    };
    let holds = |mechanism: &Mechanism| syscall::by(*mechanism, call, Needs::default(), kernel).is_ok();
    let latency = [Mechanism::LsmSleep, Mechanism::Spin, Mechanism::StopContinue];
    Row {
        latency: latency.iter().filter(|mechanism| holds(mechanism)).map(|one| one.name()).collect(),
        number: call.number(),
        name: call.name(),
        unreached: unreached.filter(|_| able.is_empty()),
        mechanisms: able.into_iter().map(|(name, _)| name).collect(),
        compat_escapes,
        dangerous: call.danger().is_some(),
        classes: Class::ALL.iter().filter(|class| class.contains(call)).map(|class| class.name()).collect(),
    }
}

fn line(row: &Row) -> String {
    let mechanisms = if row.mechanisms.is_empty() { "none".to_owned() } else { row.mechanisms.join(", ") };
    let slow =
        if row.latency.is_empty() { String::new() } else { format!("; slow: {}", row.latency.join(", ")) };
    let allow = if row.dangerous { " (needs --allow)" } else { "" };
    let escapes = if row.compat_escapes.is_empty() {
        String::new()
    } else {
        format!(" (32-bit callers escape: {})", row.compat_escapes.join(", "))
    };
    let classes =
        if row.classes.is_empty() { String::new() } else { format!(" [{}]", row.classes.join(" ")) };
    format!("{:3} {:24} {mechanisms}{slow}{classes}{allow}{escapes}\n", row.number, row.name)
}
