//! `cargo xtask bench`: docs/benchmarks.md, its figures and its plots, of one run on this machine.

mod fidelity;
mod goals;
mod page;
mod plots;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::command::{read, say};
use crate::summary::Report;
use crate::vm::{self, Jobs, Samples};
use crate::{artifacts, host, paths};

/// Machines that count instructions, which shows the cost of hooks whatever else this machine does.
const COUNTED: [&str; 2] = ["6.12-override", "debian-newest"];
/// Files of `bench/tests` that are for machines that count.
const CALLS: &str = "calls";
/// Those for machines with everything that others use for faults.
const PEERS: [&str; 2] = ["peers", "netem"];
/// The kernel of these.
const PEERS_ON: &str = "6.12-override";

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Write the page anew from the figures of one run, instead of measuring; figures of several runs are not compared
    #[arg(long, value_name = "FILE", conflicts_with = "filter")]
    from: Option<PathBuf>,
    /// Only measurements whose name contains this; the page is then left as it is
    filter: Option<String>,
    /// How many rounds; the page is made of full ones
    #[arg(long, value_enum, default_value_t = Samples::Full)]
    samples: Samples,
    #[command(flatten)]
    jobs: Jobs,
}

/// The command.
pub fn run(options: Options) -> Result<()> {
    let docs = paths::root().join("docs");
    let figures = docs.join("benchmarks.json");
    let whole = options.filter.is_none() && options.samples == Samples::Full;
    let (result, report) = match &options.from {
        Some(file) => {
            let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            (serde_json::from_slice(&text).with_context(|| file.display().to_string())?, None)
        }
        None => {
            let (result, report) = measure(&options)?;
            (result, Some(report))
        }
    };
    if options.from.is_some() || whole {
        write_page(&docs, &result)?;
        write(&figures, &(serde_json::to_string_pretty(&result)? + "\n"))?;
    }
    report.map_or(Ok(()), |report| report.conclude())
}

fn write_page(docs: &Path, result: &Value) -> Result<()> {
    ensure!(
        result["samples"] == Samples::Full.name(),
        "these figures are of a short run: measure with full samples"
    );
    write(&docs.join("benchmarks.md"), &page::page(result)?)?;
    let plots = docs.join("benchmarks");
    fs::create_dir_all(&plots)?;
    for (name, svg) in plots::all(result)? {
        write(&plots.join(name), &svg)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    say(format!("written: {}", file.display()));
    Ok(())
}

/// Runs everything once.
fn measure(options: &Options) -> Result<(Value, Report)> {
    let start = Instant::now();
    let time = read(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?.trim().to_owned();
    // Before anything is built of it: who works on while this runs changes other files.
    let commit = git(&["rev-parse", "HEAD"])?;
    let modified = !git(&["status", "--porcelain"])?.is_empty();
    let machine = machine()?;
    let artifacts = artifacts::build_of("bench")?;
    let mut report = Report::default();
    let load_before = load();
    let wanted = |file: &str| {
        options.filter.as_ref().is_none_or(|filter| file.contains(filter) || filter.starts_with(file))
    };
    let in_machines = |name: &str| name == CALLS || PEERS.contains(&name);
    let here = artifacts.tests.iter().map(|test| test.name.as_str()).filter(|name| !in_machines(name));
    let here: Vec<_> = here.filter(|name| wanted(name)).map(str::to_owned).collect();
    for file in here {
        report.add(host::run(&artifacts, Some(&format!("{file}::")), options.samples));
    }
    let peers = PEERS.map(|file| (file, &[PEERS_ON][..]));
    for (file, kernels) in std::iter::once((CALLS, &COUNTED[..])).chain(peers) {
        if !wanted(file) || artifacts.tests.iter().all(|test| test.name != file) {
            continue;
        }
        let machines = vm::Options {
            kernels: kernels.iter().map(|name| (*name).to_owned()).collect(),
            filter: Some(format!("{file}::")),
            // What is counted is the same every time.
            samples: Samples::Small,
            jobs: options.jobs,
            counted: true,
        };
        vm::matrix(&machines, &artifacts, &mut report)?;
    }
    let result = json!({
        "time": time,
        "commit": commit,
        "modified": modified,
        "samples": options.samples.name(),
        "machine": machine,
        "load_before": load_before,
        "load_after": load(),
        "seconds": start.elapsed().as_secs(),
        "steps": report.steps,
    });
    let dir = paths::target().join("bench");
    fs::create_dir_all(&dir)?;
    write(
        &dir.join(format!("{}.json", time.replace([':', '-'], ""))),
        &serde_json::to_string_pretty(&result)?,
    )?;
    Ok((result, report))
}

fn git(args: &[&str]) -> Result<String> {
    Ok(read(Command::new("git").args(args).current_dir(paths::root()))?.trim().to_owned())
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What it runs on.
fn machine() -> Result<Value> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let said = |program: &str, argument: &str| {
        read(Command::new(program).arg(argument))
            .map(|text| text.lines().next().unwrap_or_default().to_owned())
    };
    Ok(json!({
        "processor": field("model name"),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "virtual": cpus.contains(" hypervisor"),
        "kernel": said("uname", "-r")?,
        "rustc": said("rustc", "--version")?,
        "qemu": said("qemu-system-x86_64", "--version").unwrap_or_default(),
    }))
}

/// All figures of one measurement, with the step that made them.
fn figures<'a>(result: &'a Value, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let steps = result["steps"].as_array().into_iter().flatten();
    steps.flat_map(move |step| {
        let measures = step["measures"].as_array().into_iter().flatten();
        let of_this = measures.filter(move |measure| measure["name"] == name);
        of_this.map(move |measure| (step["step"].as_str().unwrap_or_default(), measure))
    })
}

/// One arm of a measurement.
fn arm<'a>(measure: &'a Value, name: &str) -> Option<&'a Value> {
    measure["arms"].as_array()?.iter().find(|arm| arm["arm"].as_str().is_some_and(|known| known == name))
}
