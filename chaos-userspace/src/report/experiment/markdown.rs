//! The report as Markdown.

use super::{
    command_line,
    conclusions::{limits, shown},
    radius, schedule,
    time::rfc3339,
};
use crate::experiment::record::{FaultRecord, Record};
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
    text += "## What this shows\n\n";
    for line in shown(record) {
        let _ = writeln!(text, "- {}", plain(&line));
    }
    text.push('\n');
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
    let compared = radius::compared(record);
    if !compared.is_empty() {
        let _ = writeln!(text, "| {} |\n|---|---|---|", radius::COLUMNS.join(" | "));
    }
    for row in &compared {
        let _ = writeln!(text, "| {} |", row.each_ref().map(|cell| plain(cell)).join(" | "));
    }
    text.push('\n');
    for line in radius::remarks(record) {
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
