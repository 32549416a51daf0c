//! `cargo xtask soak`: the integration tests with full sample sizes, and their figures in a file.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::command::{read, say};
use crate::summary::Report;
use crate::vm::{self, Jobs, Options, Samples};
use crate::{artifacts, host, paths, unit};

/// What to run where.
#[derive(Args)]
pub struct SoakOptions {
    /// Only this kernel of tests/matrix.toml, or `host`; repeatable
    #[arg(long = "kernel", value_name = "NAME")]
    kernels: Vec<String>,
    /// Only tests whose name contains this
    filter: Option<String>,
    #[command(flatten)]
    jobs: Jobs,
}

/// The command.
pub fn run(options: SoakOptions) -> Result<()> {
    let (_, report) = measure(options)?;
    report.conclude()
}

/// One test on all kernels, for those who read its figures.
pub fn of(filter: &str, jobs: Jobs) -> SoakOptions {
    SoakOptions { kernels: Vec::new(), filter: Some(filter.to_owned()), jobs }
}

/// Runs the tests; the file with their figures, and how they went.
pub fn measure(options: SoakOptions) -> Result<(PathBuf, Report)> {
    let time = read(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?.trim().to_owned();
    let commit = git(&["rev-parse", "HEAD"])?;
    let modified = !git(&["status", "--porcelain"])?.is_empty();
    let artifacts = artifacts::build()?;
    let mut report = Report::default();
    if options.kernels.is_empty() && options.filter.is_none() {
        report.add(unit::run_many_inputs());
    }
    let SoakOptions { mut kernels, filter, jobs } = options;
    let all = kernels.is_empty();
    let on_host = all || kernels.iter().any(|kernel| kernel == "host");
    kernels.retain(|kernel| kernel != "host");
    if on_host {
        report.add(host::run(&artifacts, filter.as_deref(), Samples::Full));
    }
    if all || !kernels.is_empty() {
        let options = Options { kernels, filter, samples: Samples::Full, jobs, counted: false };
        vm::matrix(&options, &artifacts, &mut report)?;
    }
    let dir = paths::target().join("soak");
    fs::create_dir_all(&dir)?;
    // Two soaks may begin in the same second.
    let file = dir.join(format!("{time}-{}.json", std::process::id()));
    let result = json!({
        "time": time,
        "commit": commit,
        "modified": modified,
        "samples": Samples::Full.name(),
        "steps": report.steps,
    });
    fs::write(&file, serde_json::to_vec_pretty(&result)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    say(format!("figures: {}", file.display()));
    Ok((file, report))
}

fn git(args: &[&str]) -> Result<String> {
    Ok(read(Command::new("git").args(args).current_dir(paths::root()))?.trim().to_owned())
}
