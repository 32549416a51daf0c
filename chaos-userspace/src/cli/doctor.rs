//! `kchaos doctor`: what this host can do.

use super::{console, exit, failure::Failure};
use crate::{
    host::{cgroup::Hierarchy, kernel, privilege},
    inject::object::OBJECT,
    probe::{Unable, kernel::Kernel, selftest},
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
    let missing = privilege::missing();
    let privileges = if missing.is_empty() {
        Ok("all that are needed".to_owned())
    } else {
        Err(Unable::new(format!("missing {}", missing.join(", ")), "run as root"))
    };
    let cgroup = Hierarchy::find()
        .map(|hierarchy| format!("mounted at {}", hierarchy.mount().display()))
        .map_err(|error| Unable::new(error.to_string(), "mount cgroup2"));
    let btf = if kernel::has_btf() {
        Ok(kernel::BTF_PATH.to_owned())
    } else {
        Err(Unable::new(
            format!("{} is missing", kernel::BTF_PATH),
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ))
    };
    let programs = if OBJECT.is_empty() {
        Err(Unable::new("this kchaos was built without them", "build it with `cargo xtask build`"))
    } else {
        Ok(format!("{} bytes", OBJECT.len()))
    };
    let abilities = Kernel::default();
    let mut rows = vec![
        Row::new("privileges", "", privileges),
        Row::new("cgroup v2", "", cgroup),
        Row::new("type information", "", btf),
        Row::new("kernel programs", "", programs),
    ];
    let prerequisites = rows.len();
    for (what, mechanism, test) in selftest::ALL {
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
    let any_fault = rows[prerequisites..].iter().any(|row| row.works);
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
