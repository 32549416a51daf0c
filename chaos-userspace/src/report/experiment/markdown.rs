//! The report as Markdown.

use super::{command_line, limits, schedule, time::rfc3339};
use crate::{
    experiment::record::{FaultRecord, Record},
    report::restarts::Restarts,
};
use serde::Deserialize as _;
use std::fmt::Write as _;

/// The text.
pub fn text(record: &Record) -> String {
    let mut text = String::new();
    let verdict = &record.verdict;
    let _ = writeln!(text, "# {}: {}\n", plain(&record.name), verdict.outcome.replace('_', " "));
    let _ = writeln!(text, "> {}\n\n{}\n", plain(&record.hypothesis), plain(&verdict.sentence));
    let environment = &record.environment;
    let _ = writeln!(
        text,
        "{} on {}, Linux {}, {} processors; kchaos {}, run `{}`, {:.1} s\n",
        rfc3339(record.started_unix_ms),
        plain(&environment.host),
        plain(&environment.kernel),
        environment.processors,
        record.version,
        record.run,
        record.took_s
    );
    text += &schedule::markdown(record, plain);
    if !record.faults.is_empty() {
        text += "## Faults\n\n| fault | asked for | achieved | seen | matched | injected | finding |\n|---|---|---|--:|--:|--:|---|\n";
        for fault in &record.faults {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                plain(&fault.name),
                plain(&fault.asked),
                achieved(fault),
                fault.seen,
                fault.matched,
                fault.injected,
                fault.finding.in_words()
            );
        }
        text.push('\n');
    }
    if !record.probes.is_empty() {
        text += "## Steady state\n\n| probe | has to be | before | under fault | afterwards |\n|---|---|---|---|---|\n";
        for probe in &record.probes {
            let one = |answers: &[crate::steady::ask::Answer]| match answers.last() {
                Some(answer) => {
                    format!("{} {}", if answer.holds { "held:" } else { "failed:" }, plain(&answer.shown))
                }
                None => "not asked".to_owned(),
            };
            let during = match probe.tally.answers {
                0 => "not asked".to_owned(),
                answers => format!("{} of {answers} failed", probe.tally.failures),
            };
            let stage =
                probe.stage.as_ref().map(|stage| format!(" in stage {}", plain(stage))).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} ({}) | {} | {} | {during} | {} |",
                plain(&probe.name),
                plain(&probe.asks),
                plain(&probe.tolerated) + &stage,
                one(&probe.before),
                one(&probe.after)
            );
        }
        text.push('\n');
    }
    text += "## What happened\n\n";
    for note in &record.events {
        let _ = writeln!(text, "- {:.3} s: {}", note.at_s, plain(&note.text));
    }
    text += "\n## Blast radius and rollback\n\n";
    for line in radius(record) {
        let _ = writeln!(text, "- {}", plain(&line));
    }
    text += "\n## Plan\n\n```text\n";
    text += &record.plan.join("\n").replace("```", "'''");
    let _ = writeln!(
        text,
        "\n```\n\nRepeat it with\n\n```sh\n{}\n```\n",
        command_line(record).replace("```", "'''")
    );
    text += "## Limits of the measurement\n\n";
    for limit in limits(record) {
        let _ = writeln!(text, "- {}", plain(&limit));
    }
    text
}

/// A share with its interval, for people.
pub fn achieved(fault: &FaultRecord) -> String {
    match fault.achieved {
        Some(share) => format!("{:.2}% ({:.2}% to {:.2}%)", share.percent, share.low, share.high),
        None => "no event whose turn it was".to_owned(),
    }
}

/// Who was hit, who was not, and what is left.
pub fn radius(record: &Record) -> Vec<String> {
    let Some(summary) = &record.summary else { return vec!["Nothing was injected.".to_owned()] };
    let (hit, spared) = record.targets();
    let list = |paths: &[std::path::PathBuf]| crate::plan::explain::paths(paths);
    let mut lines =
        vec![format!("{} of {} targets hit: {}", hit.len(), hit.len() + spared.len(), list(&hit))];
    if !spared.is_empty() {
        lines.push(format!("spared: {}", list(&spared)));
    }
    for restarted in summary["restarted"].as_array().into_iter().flatten() {
        lines.extend(Restarts::deserialize(restarted).map(|restarts| restarts.to_string()));
    }
    let overtaken =
        summary["rules"].as_array().into_iter().flatten().flat_map(|rule| rule["overtaken"].as_array());
    for function in overtaken.flatten().filter_map(|function| function.as_str()) {
        lines.push(format!(
            "INCONCLUSIVE: somebody put a trampoline on {function}, past which kprobes have no effect."
        ));
    }
    if let Some(escaped) = summary["escaped"].as_u64() {
        lines.push(match escaped {
            0 => "No packet of the target escaped the hooks.".to_owned(),
            count => {
                format!("INCONCLUSIVE: {count} packets of the target came to no device that was watched.")
            }
        });
    }
    let felt = &summary["bystander"];
    if felt.is_object() {
        lines.push(format!(
            "The bystander in a sibling cgroup: {} of {} packets lost, {} of {} calls failed.",
            felt["lost"], felt["packets"], felt["failed"], felt["calls"]
        ));
    }
    let undone = &summary["undone"];
    lines.push(format!(
        "Taken away in {:.1} ms: {} links, {} programs left.",
        undone["took_ms"].as_f64().unwrap_or(0.0),
        undone["links"],
        undone["programs"]
    ));
    for problem in undone["problems"].as_array().into_iter().flatten() {
        lines.push(format!("NOT UNDONE: {}", problem.as_str().unwrap_or_default()));
    }
    if let Some(abort) = &record.abort {
        lines.push(format!(
            "Given up because {}: nothing acted any more {:.2} ms later; the last fault came {}.",
            abort.condition,
            abort.disarmed_ms,
            match abort.last_fault_within_ms {
                Some(within) => format!("at most {within:.2} ms after the condition"),
                None => "before the programs were taken away".to_owned(),
            }
        ));
    }
    if let Some(recovery) = record.recovery {
        lines.push(match recovery.took_s {
            Some(took) => format!(
                "The steady state was back {took:.3} s after the faults (at most {} s).",
                recovery.limit_s
            ),
            None => format!("The steady state was not back {} s after the faults.", recovery.limit_s),
        });
    }
    lines
}

/// A text that is no markup and stays in its cell.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        match character {
            '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '#' | '\\' => {
                plain.push('\\');
                plain.push(character);
            }
            character if character.is_control() => plain.push(' '),
            character => plain.push(character),
        }
    }
    plain
}
