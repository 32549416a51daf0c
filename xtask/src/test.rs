//! `cargo xtask test`: lints, unit tests, integration tests here and on every kernel of the matrix, one summary.

use std::time::Instant;

use anyhow::Result;

use crate::command::say;
use crate::places::Job;
use crate::summary::{Line, Report};
use crate::vm::{self, Jobs, Options, Samples};
use crate::{artifacts, baseline};
use crate::{host, lint, unit};

/// About how long this machine's tests take, like `takes_s` in tests/matrix.toml.
const HOST_S: u64 = 256;

/// The command: every step runs, whatever fails before it.
pub fn run(jobs: Jobs) -> Result<()> {
    let start = Instant::now();
    let mut report = Report::default();
    for (name, check) in lint::CHECKS {
        step(start, name);
        let began = Instant::now();
        let result = check();
        complain(name, &result);
        report.add(Line::of_check(name, result, began.elapsed()));
    }
    step(start, "unit tests");
    report.add(unit::run());
    step(start, "building for the integration tests");
    let began = Instant::now();
    match artifacts::build() {
        Err(error) => {
            let result = Err(error.context("without this there are no integration tests"));
            complain("build", &result);
            report.add(Line::of_check("build", result, began.elapsed()));
        }
        Ok(artifacts) => {
            step(start, "integration tests on this machine and on the kernel matrix");
            let options =
                Options { kernels: Vec::new(), filter: None, samples: Samples::Small, jobs, counted: false };
            let began = Instant::now();
            // This machine's tests wait most of the time: one after the other, they leave the other cores to machines.
            let here =
                Job { takes_s: HOST_S, work: Box::new(|| host::run(&artifacts, None, Samples::Small)) };
            let result = vm::matrix_beside(Some(here), &options, &artifacts, &mut report);
            if result.is_err() {
                complain("vm", &result);
                report.add(Line::of_check("vm", result, began.elapsed()));
            }
        }
    }
    step(start, "sizes of the kernel programs");
    report.add(baseline::check(&report));
    step(start, "done");
    report.conclude()
}

fn step(start: Instant, what: &str) {
    let seconds = start.elapsed().as_secs();
    say(format!("[{:2}:{:02}] {what}", seconds / 60, seconds % 60));
}

fn complain(what: &str, result: &Result<()>) {
    if let Err(error) = result {
        eprintln!("{what}: {error:#}");
    }
}
