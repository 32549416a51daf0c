//! `cargo test` of the workspace: what needs neither root nor BPF.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, say};
use crate::lines;
use crate::summary::Line;

/// Runs all of them, which are in libraries and in xtask; one line of the report. The integration tests are left out: cargo
/// test would ignore all of them, and link half a hundred programs to say so.
pub fn run() -> Line {
    step("unit tests", cargo().args(["test", "--no-fail-fast", "--lib", "--bin=xtask"]))
}

/// Inputs that each parser is given in a soak.
const INPUTS: &str = "1000000";

/// Runs those that give parsers whatever may be typed, with very many inputs.
pub fn run_many_inputs() -> Line {
    let words = ["test", "--no-fail-fast", "--release", "--package=chaos-userspace", "any_"];
    step("parsers", cargo().args(words).env("PROPTEST_CASES", INPUTS))
}

fn step(name: &str, command: &mut Command) -> Line {
    say(name);
    let start = Instant::now();
    let mut count = Count::default();
    let result = cargo_test(command, &mut count);
    let line = Line::of_counts(name, count.passed, count.failed, 0, start.elapsed());
    let explained = count.failed > 0;
    line.with_complaints(
        result.err().filter(|_| !explained).map(|error| format!("{error:#}")).into_iter().collect(),
    )
}

/// What cargo test counted.
#[derive(Default, Debug, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let mut words = result.split([' ', ';']).filter(|word| !word.is_empty()).peekable();
            while let Some(word) = words.next() {
                if words.peek() == Some(&what) {
                    return word.parse().unwrap_or_default();
                }
            }
            0
        };
        self.passed += number("passed");
        self.failed += number("failed");
    }
}

fn cargo_test(command: &mut Command, count: &mut Count) -> Result<()> {
    let (output, input) = std::io::pipe()?;
    let mut child = command.stdout(input.try_clone()?).stderr(input).spawn().context("cannot start cargo")?;
    // Our own copies of the writing end would keep the pipe open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for line in lines::read(output) {
        count.line(&line);
        eprintln!("{line}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo test: {status}; run it to see more");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn results_add_up() {
        let mut count = Count::default();
        count.line(
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        count.line("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        count.line("test decide::loss ... ok");
        assert_eq!(count, Count { passed: 13, failed: 2 });
    }
}
