//! `cargo xtask reach`: docs/kernel-support.md from what victims felt on every kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::command::say;
use crate::vm::Jobs;
use crate::{matrix, paths, soak};

/// The test whose figures these are.
const TEST: &str = "reach::every_call_fails_as_claimed";
const DOCUMENT: &str = "docs/kernel-support.md";

/// What to make the table of.
#[derive(Args)]
pub struct Options {
    /// Figures of a soak in place of a run now; repeatable, the last that has a kernel counts
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    jobs: Jobs,
}

/// The command: kernels on which a claim was not felt are no part of the table, and it says so.
pub fn run(options: Options) -> Result<()> {
    let mut files = options.from;
    if files.is_empty() {
        let (file, report) = soak::measure(soak::of(TEST, options.jobs))?;
        report.conclude()?;
        files.push(file);
    }
    let mut measured = BTreeMap::new();
    for file in &files {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let soak: Value = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
        measured.extend(kernels(&soak)?.into_iter().map(|kernel| (kernel.name.clone(), kernel)));
    }
    let mut kernels = vec![];
    let mut missing = vec![];
    let names = matrix::read()?.kernels.into_iter().map(|kernel| kernel.name);
    for name in names.chain(["host".to_owned()]) {
        match measured.remove(&name) {
            Some(kernel) => kernels.push(kernel),
            None => missing.push(name),
        }
    }
    ensure!(!kernels.is_empty(), "no kernel has figures of {TEST}");
    let document = paths::root().join(DOCUMENT);
    fs::write(&document, page(&kernels, &missing))
        .with_context(|| format!("cannot write {}", document.display()))?;
    say(format!("written: {}", document.display()));
    Ok(())
}

/// One column.
struct Kernel {
    name: String,
    /// As uname says.
    release: String,
    /// By call, in the order of the list.
    cells: Vec<(String, Cell)>,
}

/// What the victim felt of one call.
enum Cell {
    Reached {
        mechanism: String,
        felt: u64,
        of: u64,
        allow: bool,
    },
    /// With the reason, without the call's own name.
    Unreached(String),
}

fn kernels(soak: &Value) -> Result<Vec<Kernel>> {
    let steps = soak["steps"].as_array().context("no steps")?;
    let mut kernels = vec![];
    for step in steps {
        let mut tests = step["tests"].as_array().into_iter().flatten();
        if !tests.any(|test| test["name"] == TEST && test["outcome"] == "passed") {
            continue;
        }
        let measures = step["measures"].as_array().into_iter().flatten();
        let cells: Vec<_> = measures.filter(|figures| figures["name"] == "reach").map(cell).collect();
        if !cells.is_empty() {
            let name = step["step"].as_str().unwrap_or_default().trim_start_matches("vm ").to_owned();
            let release = step["kernel"].as_str().unwrap_or_default().to_owned();
            kernels.push(Kernel { name, release, cells });
        }
    }
    Ok(kernels)
}

fn cell(figures: &Value) -> (String, Cell) {
    let call = figures["call"].as_str().unwrap_or_default();
    let cell = match figures["unreached"].as_str() {
        Some(why) => Cell::Unreached(impersonal(why, call)),
        None => Cell::Reached {
            mechanism: figures["mechanism"].as_str().unwrap_or_default().to_owned(),
            felt: figures["felt"].as_u64().unwrap_or_default(),
            of: figures["of"].as_u64().unwrap_or_default(),
            allow: figures["allow"] == true,
        },
    };
    (call.to_owned(), cell)
}

/// A reason without the names of the call and of its function, so that many calls share it.
fn impersonal(why: &str, call: &str) -> String {
    let clause = |clause: &str| {
        let function = |word: &str| word.starts_with("__") && word.contains("_sys_");
        let words = clause.split(' ').map(|word| if function(word) { "the call's function" } else { word });
        let clause = words
            .collect::<Vec<_>>()
            .join(" ")
            .replace("function the call's function", "function of the call");
        match clause.strip_suffix(call).and_then(|rest| rest.strip_suffix(' ')) {
            Some(rest) => format!("{rest} the call"),
            None => clause,
        }
    };
    why.split("; ").map(clause).collect::<Vec<_>>().join("; ")
}

const INTRODUCTION: &str = "\
# Which system calls fail where

<!-- Written by `cargo xtask reach`. Do not edit: run it again. -->

Every filled cell is a result of `tests/tests/reach.rs` on that kernel: a victim in the target cgroup made the call under
`--fail CALL=EHWPOISON`, an errno that none of these calls returns by itself, and felt it every time, by the mechanism
named, which is the one that kchaos chooses by itself. Before and after, and while the calls of the neighbouring rows
were under fault instead, the same process made it and did not feel it; nor did another process in a sibling cgroup that made all
calls at the same time. `getppid`, made between the calls, always worked. `kchaos syscalls` claimed exactly these
mechanisms on that kernel.

An empty cell has the reason that `kchaos syscalls --json` and `kchaos plan` give, by its letter below the table; `plan`
refuses the call there. What a mechanism means for who is hit and when: [faults/syscall.md](faults/syscall.md). A call
marked * needs `--allow CALL`: its failure can make a process unusable.
";

fn page(kernels: &[Kernel], missing: &[String]) -> String {
    let mut text = INTRODUCTION.to_owned();
    let _ = writeln!(text, "\n| kernel | release | calls reached |\n|---|---|---|");
    for Kernel { name, release, cells } in kernels {
        let reached = cells.iter().filter(|(_, cell)| matches!(cell, Cell::Reached { .. })).count();
        let _ = writeln!(text, "| {name} | {release} | {reached} of {} |", cells.len());
    }
    if !missing.is_empty() {
        let _ = writeln!(text, "\nNot measured, so not in the table: {}.", missing.join(", "));
    }
    let mut reasons: Vec<&str> = vec![];
    let calls: Vec<&str> = kernels
        .first()
        .map(|kernel| kernel.cells.iter().map(|(call, _)| call.as_str()).collect())
        .unwrap_or_default();
    let columns: Vec<BTreeMap<&str, &Cell>> = kernels
        .iter()
        .map(|kernel| kernel.cells.iter().map(|(call, cell)| (call.as_str(), cell)).collect())
        .collect();
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    let _ = writeln!(text, "\n| call | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for call in calls {
        let cells: Vec<Option<&&Cell>> = columns.iter().map(|column| column.get(call)).collect();
        let allow = cells.iter().any(|cell| matches!(cell, Some(Cell::Reached { allow: true, .. })));
        let _ = write!(text, "| {call}{} |", if allow { " \\*" } else { "" });
        for cell in cells {
            let _ = match cell {
                Some(Cell::Reached { mechanism, felt, of, .. }) if felt == of => {
                    write!(text, " {mechanism} |")
                }
                Some(Cell::Reached { mechanism, felt, of, .. }) => {
                    write!(text, " {mechanism} ({felt} of {of}) |")
                }
                Some(Cell::Unreached(why)) => write!(text, " ({}) |", letter(&mut reasons, why)),
                None => write!(text, " not made |"),
            };
        }
        text.push('\n');
    }
    text.push_str("\nWhy a cell is empty:\n\n");
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "- ({}) {reason}.", name(number));
    }
    text
}

fn letter<'a>(reasons: &mut Vec<&'a str>, why: &'a str) -> String {
    let known = reasons.iter().position(|known| *known == why);
    name(known.unwrap_or_else(|| {
        reasons.push(why);
        reasons.len() - 1
    }))
}

/// a, b, ..., z, aa, ab, ...
fn name(number: usize) -> String {
    let last = char::from(b'a' + (number % 26) as u8);
    match number / 26 {
        0 => last.to_string(),
        more => format!("{}{last}", name(more - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reasons_are_shared_between_calls() {
        let why =
            |call: &str| format!("lsm: no hook is passed by {call}; kprobe: no function __x64_sys_{call}");
        for call in ["read", "close"] {
            let shared = "lsm: no hook is passed by the call; kprobe: no function of the call";
            assert_eq!(impersonal(&why(call), call), shared);
        }
        assert_eq!(
            impersonal("this kernel does not have openat2", "openat2"),
            "this kernel does not have the call"
        );
        assert_eq!([0, 25, 26, 27].map(name), ["a", "z", "aa", "ab"]);
    }

    #[test]
    fn a_page_has_every_call_and_reason() {
        let passed = json!({"name": TEST, "outcome": "passed"});
        let soak = json!({"steps": [
            {"step": "vm old", "kernel": "5.10", "tests": [passed], "measures": [
                {"name": "reach", "call": "openat", "mechanism": "lsm", "felt": 3, "of": 3, "allow": false},
                {"name": "reach", "call": "munmap", "mechanism": "kprobe", "felt": 2, "of": 3, "allow": true}]},
            {"step": "host", "kernel": "6.18", "tests": [passed], "measures": [
                {"name": "reach", "call": "openat", "unreached": "no way to openat"},
                {"name": "reach", "call": "munmap", "unreached": "no way to munmap"}]}]});
        let page = page(&kernels(&soak).unwrap(), &["new".to_owned()]);
        for line in
            ["| openat | lsm | (a) |", "| munmap \\* | kprobe (2 of 3) | (a) |", "- (a) no way to the call."]
        {
            assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
        }
    }
}
