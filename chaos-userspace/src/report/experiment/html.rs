//! The report as one page that needs nothing else: no script, no picture, no network.

use super::{
    command_line,
    conclusions::{limits, shown},
    escape, markdown, plot, radius, schedule,
    time::rfc3339,
};
use crate::experiment::record::{FaultRecord, Finding, ProbeRecord, Record};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn page(record: &Record) -> String {
    let name = escape(&record.name);
    let outcome = record.verdict.outcome;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src \
         'none'; style-src 'unsafe-inline'\">\n<title>{name}: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        outcome.replace('_', " ")
    );
    head(&mut page, record);
    section(&mut page, "What this shows", &list(&shown(record)));
    section(&mut page, "Course", &format!("{}{}", plot::scrolling(&plot::timeline(record)), notes(record)));
    if !record.stages.is_empty() {
        section(&mut page, "Stages", &schedule::stages(record));
    }
    let shares = schedule::shares(record);
    if !shares.is_empty() {
        section(&mut page, "Shares over time", &shares);
    }
    if !record.faults.is_empty() {
        section(&mut page, "Faults: asked for and achieved", &faults(record));
    }
    if !record.probes.is_empty() {
        let all: String = record.probes.iter().map(|probe| one_probe(record, probe)).collect();
        section(&mut page, "Steady state", &(plot::LEGEND.to_owned() + &all));
    }
    section(&mut page, "Blast radius, bystander and rollback", &reached(record));
    section(&mut page, "Limits of the measurement", &list(&limits(record)));
    section(&mut page, "What was planned", &format!("<pre>{}</pre>", escape(&record.plan.join("\n"))));
    section(&mut page, "Environment", &environment(record));
    page + "</main>\n</body>\n</html>\n"
}

fn section(page: &mut String, title: &str, body: &str) {
    let _ = writeln!(page, "<section>\n<h2>{title}</h2>\n{body}\n</section>");
}

fn list(lines: &[String]) -> String {
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    format!("<ul>{items}</ul>")
}

/// A table of cells that are markup already. On a narrow screen each row is a block, whose cells say what they are. Columns
/// whose name begins with `#` are numbers.
pub(super) fn table<const N: usize>(columns: [&str; N], rows: &[[String; N]]) -> String {
    let heads = columns.map(|column| match column.strip_prefix('#') {
        Some(column) => (" class=\"number\"", column),
        None => ("", column),
    });
    let mut table = String::from("<table class=\"rows\"><thead><tr>");
    for (class, name) in heads {
        let _ = write!(table, "<th scope=\"col\"{class}>{name}</th>");
    }
    table += "</tr></thead><tbody>";
    for row in rows {
        table += "<tr>";
        for ((class, name), cell) in heads.iter().zip(row) {
            let _ = write!(table, "<td{class} data-label=\"{name}\">{cell}</td>");
        }
        table += "</tr>";
    }
    table + "</tbody></table>"
}

/// Whom it reached, compared with whom it was about.
fn reached(record: &Record) -> String {
    let rows: Vec<_> = radius::compared(record)
        .iter()
        .map(|[what, planned, actual]| [format!("<b>{}</b>", escape(what)), escape(planned), escape(actual)])
        .collect();
    let compared = if rows.is_empty() { String::new() } else { table(radius::COLUMNS, &rows) };
    compared + &list(&radius::remarks(record))
}

/// What matters, on the first screen.
fn head(page: &mut String, record: &Record) {
    let verdict = &record.verdict;
    let tone = match verdict.code {
        0 => "good",
        4 | 5 | 7 => "bad",
        _ => "open",
    };
    let injected: u64 = record.faults.iter().map(|fault| fault.injected).sum();
    let lasted =
        record.faults_interval().map(|(from, to)| format!("in {:.1} s", to - from)).unwrap_or_default();
    let failed: u32 = record.probes.iter().map(|probe| probe.tally.failures).sum();
    let answers: u32 = record.probes.iter().map(|probe| probe.tally.answers).sum();
    let recovery = match record.recovery {
        Some(recovery) => recovery.took_s.map_or_else(|| "never".to_owned(), |took| format!("{took:.2} s")),
        None => "-".to_owned(),
    };
    let _ = write!(
        page,
        "<header class=\"{tone}\">\n<p class=\"badge\">{}</p>\n<h1>{}</h1>\n<blockquote>{}</blockquote>\n<p \
         class=\"sentence\">{}</p>\n</header>\n<dl class=\"figures\">\n",
        verdict.outcome.replace('_', " "),
        escape(&record.name),
        escape(&record.hypothesis),
        escape(&verdict.sentence)
    );
    for (term, figure, more) in [
        ("faults inflicted", injected.to_string(), lasted),
        ("answers under fault", format!("{failed} failed"), format!("of {answers}")),
        ("steady state back", recovery, "after the faults".to_owned()),
        ("exit code", verdict.code.to_string(), format!("run {}", record.run)),
    ] {
        let _ = writeln!(
            page,
            "<div><dt>{term}</dt><dd>{} <small>{}</small></dd></div>",
            escape(&figure),
            escape(&more)
        );
    }
    *page += "</dl>\n";
}

/// So many events stand on the page as they are; more are folded.
const NOTES_OPEN: usize = 8;

fn last_note(record: &Record) -> String {
    record.events.last().map(|note| escape(&note.text)).unwrap_or_default()
}

fn notes(record: &Record) -> String {
    let rows: String = record
        .events
        .iter()
        .map(|note| {
            format!("<tr><td class=\"number\">{:.3} s</td><td>{}</td></tr>", note.at_s, escape(&note.text))
        })
        .collect();
    let table = format!("<table class=\"notes\"><tbody>{rows}</tbody></table>");
    match record.events.len() {
        0..=NOTES_OPEN => table,
        count => format!(
            "<details><summary>{count} events, the last: {}</summary>{table}</details>",
            last_note(record)
        ),
    }
}

fn faults(record: &Record) -> String {
    let row = |fault: &FaultRecord| {
        let tone = match fault.finding {
            Finding::Confirmed => "good",
            Finding::NoMatch => "open",
            Finding::Inconclusive => "bad",
        };
        [
            format!(
                "<b>{}</b><br><span class=\"quiet\">{}<br>by {}</span>",
                escape(&fault.name),
                escape(&fault.asked),
                escape(&fault.mechanisms.join(" + "))
            ),
            format!("{}{}", share_bar(fault), escape(&markdown::achieved(fault))),
            fault.seen.to_string(),
            fault.matched.to_string(),
            fault.injected.to_string(),
            format!("<span class=\"pill {tone}\">{}</span>", fault.finding.in_words()),
        ]
    };
    let rows: Vec<_> = record.faults.iter().map(row).collect();
    table(["fault", "achieved, with its 95% interval", "#seen", "#matched", "#injected", "finding"], &rows)
}

/// The share that came about with its interval, and the one that was asked for.
fn share_bar(fault: &FaultRecord) -> String {
    let Some(share) = fault.achieved else { return String::new() };
    // Small shares need a scale of their own.
    let scale = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0]
        .into_iter()
        .find(|scale| share.high.max(fault.asked_percent) <= *scale)
        .unwrap_or(100.0);
    let place = |percent: f64| 4.0 + 192.0 * percent / scale;
    format!(
        "<svg class=\"share\" viewBox=\"0 0 200 26\" role=\"img\" aria-label=\"asked {asked}, achieved {:.2}%\"><line \
         class=\"axis\" x1=\"4\" x2=\"196\" y1=\"10\" y2=\"10\"/><rect class=\"interval\" x=\"{low:.1}\" y=\"5\" \
         width=\"{width:.1}\" height=\"10\" rx=\"2\"/><circle class=\"achieved\" cx=\"{at:.1}\" cy=\"10\" r=\"3.5\"/><line \
         class=\"asked\" x1=\"{want:.1}\" x2=\"{want:.1}\" y1=\"1\" y2=\"19\"/><text class=\"tick\" x=\"4\" \
         y=\"25\">0</text><text class=\"tick\" x=\"196\" y=\"25\" text-anchor=\"end\">{scale}%</text></svg><span \
         class=\"quiet\">asked {asked}</span><br>",
        share.percent,
        asked = fault.asked_share(),
        low = place(share.low),
        width = (place(share.high) - place(share.low)).max(2.0),
        at = place(share.percent),
        want = place(fault.asked_percent),
    )
}

fn one_probe(record: &Record, probe: &ProbeRecord) -> String {
    let answers = probe.answers().count();
    let stage = probe.stage.as_ref().map(|stage| format!(" in stage {}", escape(stage))).unwrap_or_default();
    let budget = match probe.error_budget {
        0.0 => String::new(),
        percent => format!("; {percent}% of its answers under fault may fail"),
    };
    let plot = if answers == 0 { String::new() } else { plot::scrolling(&plot::probe(record, probe)) };
    format!(
        "<figure><figcaption><b>{}</b> {}<br><span class=\"quiet\">{} is {}{stage}{budget}</span></figcaption>{plot}</figure>",
        escape(&probe.name),
        pills(probe),
        escape(&probe.asks),
        escape(&probe.tolerated)
    )
}

/// How it fared under fault, which the verdict is about, and what else did not hold.
fn pills(probe: &ProbeRecord) -> String {
    let pill = |tone: &str, words: String| format!("<span class=\"pill {tone}\">{words}</span>");
    let (failures, answers) = (probe.tally.failures, probe.tally.answers);
    let mut pills = match (answers, failures) {
        (0, _) if probe.answers().next().is_none() => pill("open", "not asked".to_owned()),
        // Its mode says when it is asked.
        (0, _) => String::new(),
        (_, 0) => pill("good", format!("held {answers} of {answers} under fault")),
        _ if probe.tally.failed_percent() <= probe.error_budget => {
            pill("good", format!("failed {failures} of {answers} under fault, as tolerated"))
        }
        _ => pill("bad", format!("failed {failures} of {answers} under fault")),
    };
    for (answers, when) in [(&probe.before, "before"), (&probe.after, "at the end")] {
        let Some(last) = answers.last() else { continue };
        let (tone, word) = if last.holds { ("good", "held") } else { ("bad", "failed") };
        pills.push(' ');
        pills += &pill(tone, format!("{word} {when}"));
    }
    pills
}

fn environment(record: &Record) -> String {
    let environment = &record.environment;
    let mut rows: Vec<(&str, String)> = vec![
        ("when", rfc3339(record.started_unix_ms)),
        ("host", environment.host.clone()),
        ("kernel", format!("Linux {}, {} processors", environment.kernel, environment.processors)),
        ("kchaos", record.version.to_owned()),
        ("seed", record.seed.map_or_else(|| "none".to_owned(), |seed| seed.to_string())),
    ];
    if let Some(seed) = record.schedule_seed.filter(|seed| record.seed != Some(*seed)) {
        rows.push(("beginnings drawn by", format!("seed {seed}")));
    }
    let notes = |pairs: &std::collections::BTreeMap<String, String>| {
        pairs.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
    };
    for (term, pairs) in [("labels", &record.labels), ("annotations", &record.annotations)] {
        if !pairs.is_empty() {
            rows.push((term, notes(pairs)));
        }
    }
    let rows: String = rows
        .iter()
        .map(|(term, text)| format!("<tr><th scope=\"row\">{term}</th><td>{}</td></tr>", escape(text)))
        .collect();
    format!(
        "<table class=\"terms\"><tbody>{rows}</tbody></table><p>Repeat it with</p><pre>{}</pre>",
        escape(&command_line(record))
    )
}
