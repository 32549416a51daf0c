//! The page: what was asked, what was measured, on what, and how noisy it was.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::goals::{self, Goal};
use super::{fidelity, plots, tables};

const INTRODUCTION: &str = "\
# What kchaos costs

<!-- Written by `cargo xtask bench`. Do not edit: run it again. -->

One run of `cargo xtask bench` made every figure of this page ([benchmarks.json](benchmarks.json) has them all). Figures of
different runs or machines are never compared: what is compared was measured in turns in one run, beside a second arm that
is the same as the first. *Noise* is the difference between those two; what is not larger means nothing.

*Somebody else* is a process in a cgroup four levels deep that is nobody's target. *Added* is the median of the differences to
the first arm, round by round, with its quartiles.
";

/// The whole page.
pub fn page(result: &Value) -> Result<String> {
    let steps = result["steps"].as_array();
    ensure!(steps.is_some_and(|steps| !steps.is_empty()), "there are no figures");
    let mut text = INTRODUCTION.to_owned();
    ran_on(&mut text, result);
    goals(&mut text, &goals::all(result));
    tables::all(&mut text, result);
    fidelity::all(&mut text, result);
    text.push_str("\n## Plots\n");
    for (name, _) in plots::all(result)? {
        let title = name.trim_end_matches(".svg").replace('-', " ");
        let _ = write!(text, "\n![{title}](benchmarks/{name})\n");
    }
    Ok(text)
}

fn ran_on(text: &mut String, result: &Value) {
    let machine = &result["machine"];
    let said = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let _ = writeln!(text, "\n## What it ran on\n\n| | |\n|---|---|");
    let rows = [
        (
            "processor",
            format!(
                "{}, {} of them{}",
                said(&machine["processor"]),
                machine["processors"],
                if machine["virtual"] == true { ", in a virtual machine" } else { "" }
            ),
        ),
        ("kernel", said(&machine["kernel"])),
        ("compiler", said(&machine["rustc"])),
        ("emulator", said(&machine["qemu"])),
        ("began", said(&result["time"])),
        ("took", format!("{} s", result["seconds"])),
        (
            "load before and after (1, 5, 15 minutes)",
            format!("{}; {}", said(&result["load_before"]), said(&result["load_after"])),
        ),
        (
            "source",
            format!(
                "{}{}",
                said(&result["commit"]),
                if result["modified"] == true { ", modified" } else { "" }
            ),
        ),
    ];
    for (what, figure) in rows {
        let _ = writeln!(text, "| {what} | {figure} |");
    }
    let steps = result["steps"].as_array().into_iter().flatten();
    let failed: Vec<_> = steps.filter(|step| step["failed"] != 0).map(|step| said(&step["step"])).collect();
    if !failed.is_empty() {
        let _ = writeln!(
            text,
            "\nMeasurements failed in: {}. What they would have told is missing.",
            failed.join(", ")
        );
    }
}

fn goals(text: &mut String, goals: &[Goal]) {
    let _ = writeln!(text, "\n## Goals\n\n| what | goal | measured | |\n|---|---|---|---|");
    for Goal { what, goal, measured, .. } in goals {
        let (figure, verdict) = match measured {
            Some((figure, true)) => (figure.as_str(), "met"),
            Some((figure, false)) => (figure.as_str(), "**missed**"),
            None => ("not in this run", ""),
        };
        let _ = writeln!(text, "| {what} | {goal} | {figure} | {verdict} |");
    }
    let mut missed: Vec<(&str, Vec<&str>)> = vec![];
    for Goal { what, measured, cause, .. } in goals {
        if !matches!(measured, Some((_, false))) {
            continue;
        }
        match missed.iter_mut().find(|(known, _)| known == cause) {
            Some((_, whats)) => whats.push(what),
            None => missed.push((cause, vec![what])),
        }
    }
    if !missed.is_empty() {
        text.push_str("\nWhy goals were missed:\n\n");
    }
    for (cause, whats) in missed {
        let _ = writeln!(text, "- {}: {cause}.", whats.join("; "));
    }
}
