//! tests/baseline.json: how large the kernel programs are on each kernel, and what may not grow unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::say;
use crate::summary::{Line, Report};
use crate::vm::{self, Jobs, Samples};
use crate::{artifacts, host, paths, setup};

/// What makes the figures.
const TEST: &str = "program_size";
/// Growth up to this share goes unsaid.
const TOLERATED: f64 = 0.10;

/// Programs by kernel and compiler: figures of other pairs say nothing about these.
type Baseline = BTreeMap<String, BTreeMap<String, Size>>;

/// One program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Size {
    /// Instructions the verifier has followed; 0 below Linux 5.16, which does not tell.
    verified: u64,
    /// Instructions that were left of the program.
    translated: u64,
    /// Bytes of machine code.
    jited: u64,
    /// Why it became larger than it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// How to write it.
#[derive(Args)]
pub struct Options {
    /// Why programs have become larger; without, growth of more than 10% is refused
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    jobs: Jobs,
}

fn file() -> PathBuf {
    paths::root().join("tests/baseline.json")
}

fn read() -> Result<Baseline> {
    let file = file();
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}

/// The command: measures on every kernel, and writes.
pub fn run(options: Options) -> Result<()> {
    let artifacts = artifacts::build()?;
    let mut report = Report::default();
    report.add(host::run(&artifacts, Some(TEST), Samples::Small));
    let machines = vm::Options {
        kernels: Vec::new(),
        filter: Some(TEST.to_owned()),
        samples: Samples::Small,
        jobs: options.jobs,
        counted: false,
    };
    vm::matrix(&machines, &artifacts, &mut report)?;
    let mut baseline = if file().is_file() { read()? } else { Baseline::new() };
    let mut grown = vec![];
    for (key, sizes) in measured(&report)? {
        let known = baseline.remove(&key).unwrap_or_default();
        grown.extend(growth(&key, &known, &sizes));
        let with_reason = sizes.into_iter().map(|(program, mut size)| {
            let before = known.get(&program);
            size.reason = match before {
                Some(before) if larger(before, &size).is_some() => options.reason.clone(),
                Some(before) => before.reason.clone(),
                None => None,
            };
            (program, size)
        });
        baseline.insert(key, with_reason.collect());
    }
    if options.reason.is_none() && !grown.is_empty() {
        bail!("{}\nsay why with --reason", grown.join("\n"));
    }
    report.conclude()?;
    let file = file();
    fs::write(&file, serde_json::to_string_pretty(&baseline)? + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    say(format!("written: {}", file.display()));
    Ok(())
}

/// Compares what the tests of this report have told with the baseline; one more line of the report.
pub fn check(report: &Report) -> Line {
    let result = (|| {
        let baseline = read()?;
        let mut compared = 0;
        let mut complaints = vec![];
        for (key, sizes) in measured(report)? {
            match baseline.get(&key) {
                Some(known) => {
                    compared += 1;
                    complaints.extend(growth(&key, known, &sizes));
                }
                None => say(format!("sizes of programs: no baseline for {key}")),
            }
        }
        say(format!("sizes of programs: compared on {compared} kernels"));
        ensure!(
            complaints.is_empty(),
            "{}; if it has to be: cargo xtask baseline --reason WHY",
            complaints.join("; ")
        );
        Ok(())
    })();
    Line::of_check("sizes of programs", result, Duration::ZERO)
}

/// What the tests told, by kernel and compiler.
fn measured(report: &Report) -> Result<Baseline> {
    let compiler = setup::ensure()?.toolchain.version;
    let mut found = Baseline::new();
    for step in &report.steps {
        let Some(kernel) = &step.kernel else { continue };
        let number = |measure: &Value, name: &str| measure[name].as_u64().unwrap_or_default();
        let sizes: BTreeMap<_, _> = step
            .measures
            .iter()
            .filter(|measure| measure["name"] == TEST)
            .map(|measure| {
                let program = measure["program"].as_str().unwrap_or_default().to_owned();
                let size = Size {
                    verified: number(measure, "verified"),
                    translated: number(measure, "translated"),
                    jited: number(measure, "jited"),
                    reason: None,
                };
                (program, size)
            })
            .collect();
        if !sizes.is_empty() {
            // Machines of the matrix may share a kernel that differs by its command line.
            found.insert(format!("{kernel} ({}), {compiler}", step.step), sizes);
        }
    }
    Ok(found)
}

/// What has grown too much, in words; a program that cannot be loaded any more is none the less told.
fn growth(key: &str, known: &BTreeMap<String, Size>, now: &BTreeMap<String, Size>) -> Vec<String> {
    let told = |(program, before): (&String, &Size)| match now.get(program) {
        None => Some(format!("{program} is not loaded any more on {key}")),
        Some(size) => larger(before, size).map(|what| format!("{program} on {key}: {what}")),
    };
    known.iter().filter_map(told).collect()
}

fn larger(before: &Size, now: &Size) -> Option<String> {
    let figures = [
        ("instructions verified", before.verified, now.verified),
        ("instructions", before.translated, now.translated),
        ("bytes of machine code", before.jited, now.jited),
    ];
    let grown = figures
        .into_iter()
        .filter(|(_, before, now)| *before > 0 && *now as f64 > *before as f64 * (1.0 + TOLERATED));
    let told: Vec<_> = grown.map(|(what, before, now)| format!("{now} {what} instead of {before}")).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(verified: u64) -> BTreeMap<String, Size> {
        let size = Size { verified, translated: 100, jited: 500, reason: None };
        BTreeMap::from([("kc_net_egress loss".to_owned(), size)])
    }

    #[test]
    fn growth_beyond_a_tenth_is_told() {
        assert!(growth("k", &sizes(1000), &sizes(1100)).is_empty());
        assert_eq!(
            growth("k", &sizes(1000), &sizes(1101)),
            ["kc_net_egress loss on k: 1101 instructions verified instead of 1000"]
        );
        assert!(growth("k", &sizes(1000), &sizes(10)).is_empty());
        // Kernels that do not tell.
        assert!(growth("k", &sizes(0), &sizes(1000)).is_empty());
    }

    #[test]
    fn a_program_that_is_gone_is_told() {
        assert_eq!(
            growth("k", &sizes(1), &BTreeMap::new()),
            ["kc_net_egress loss is not loaded any more on k"]
        );
    }
}
