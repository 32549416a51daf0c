//! `kchaos doctor`: what this host can do.

use super::{console, exit, failure::Failure};
use crate::{
    host::kernel,
    probe::{Unable, facts::Facts, kernel::Kernel, selftest},
};
use serde::Serialize;

/// One line of the table.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    mechanism: &'static str,
    works: bool,
    why: String,
    remedy: String,
}

impl Row {
    fn new(what: &'static str, mechanism: &'static str, result: Result<String, Unable>) -> Self {
        match result {
            Ok(why) => Self { what, mechanism, works: true, why, remedy: String::new() },
            Err(unable) => Self { what, mechanism, works: false, why: unable.why, remedy: unable.remedy },
        }
    }
}

/// Runs the command. Ends with 8 if no fault at all works here.
pub fn run(json: bool) -> Result<u8, Failure> {
    let mut rows: Vec<_> =
        Facts::read().rows().into_iter().map(|(what, answer)| Row::new(what, "", answer)).collect();
    let prerequisites = rows.len();
    let abilities = Kernel::default();
    for (what, mechanism, test) in selftest::FAULTS {
        rows.push(Row::new(what, mechanism, test(&abilities)));
    }
    let any_fault = rows[prerequisites..].iter().any(|row| row.works);
    for (what, mechanism, test) in selftest::BESIDE {
        rows.push(Row::new(what, mechanism, test(&abilities)));
    }
    if json {
        console::out(format_args!(
            "{}",
            serde_json::json!({"event": "doctor", "kernel": kernel::release(), "rows": rows})
        ));
    } else {
        console::out_text(&table(&rows));
    }
    Ok(if any_fault { exit::DONE } else { exit::UNABLE })
}

fn table(rows: &[Row]) -> String {
    let mut text = format!("kernel {}\n", kernel::release());
    for row in rows {
        let answer = if row.works { "yes" } else { "no " };
        text += &format!("{answer}  {:22} {:17} {}\n", row.what, row.mechanism, row.why);
        if !row.works {
            text += &format!("{:46} remedy: {}\n", "", row.remedy);
        }
    }
    text
}
