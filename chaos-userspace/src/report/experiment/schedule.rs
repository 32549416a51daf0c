//! Stages, and shares over time.

use super::{
    escape,
    html::table,
    plot::{LEFT, RIGHT, WIDTH, scrolling, seconds, time_axis, x},
};
use crate::experiment::record::{DoseRecord, FaultRecord, Record, StageOutcome, StageRecord};
use std::fmt::Write as _;

/// So many shares of a fault stand in a text; the record has all.
const ROWS_MAX: usize = 40;

/// When a stage was, for people.
pub fn when(stage: &StageRecord) -> String {
    match (stage.from_s, stage.to_s) {
        (Some(from), Some(to)) => {
            format!("{from:.1} s to {to:.1} s, {:.1} s of {} s", to - from, stage.planned_s)
        }
        _ => format!("not begun; {} s were planned", stage.planned_s),
    }
}

/// Names of the faults and probes of a stage.
fn parts(record: &Record, stage: &StageRecord) -> [Vec<String>; 2] {
    let is_own = |of: &Option<String>| of.as_ref() == Some(&stage.name);
    let faults = record.faults.iter().filter(|fault| is_own(&fault.stage)).map(|fault| fault.name.clone());
    let probes = record.probes.iter().filter(|probe| is_own(&probe.stage)).map(|probe| probe.name.clone());
    [faults.collect(), probes.collect()]
}

/// What came of the stages, as a table of the page.
pub fn stages(record: &Record) -> String {
    let row = |stage: &StageRecord| {
        let tone = match stage.outcome {
            StageOutcome::Held => "good",
            StageOutcome::Deviated => "bad",
            StageOutcome::Cut | StageOutcome::NotReached => "open",
        };
        let [faults, probes] = parts(record, stage).map(|names| escape(&names.join(", ")));
        let deviations: String = stage
            .deviations
            .iter()
            .map(|text| format!("<br><span class=\"quiet\">{}</span>", escape(text)))
            .collect();
        [
            format!("<b>{}</b>", escape(&stage.name)),
            when(stage),
            faults,
            probes,
            format!("<span class=\"pill {tone}\">{}</span>{deviations}", stage.outcome.in_words()),
        ]
    };
    let rows: Vec<_> = record.stages.iter().map(row).collect();
    table(["stage", "when", "faults", "expected", "outcome"], &rows)
}

/// The shares of all faults that follow a schedule, as plots.
pub fn shares(record: &Record) -> String {
    let scheduled = record.faults.iter().filter(|fault| !fault.course.is_empty());
    scheduled
        .map(|fault| {
            format!(
                "<figure><figcaption><b>{}</b><br><span class=\"quiet\">share asked for (line), and achieved with its 95% \
                 interval (bars)</span></figcaption>{}</figure>",
                escape(&fault.name),
                scrolling(&plot(record, fault))
            )
        })
        .collect()
}

fn plot(record: &Record, fault: &FaultRecord) -> String {
    let bottom = 96.0;
    let asked = fault.course.iter().map(|dose| dose.share_percent).fold(0.0, f64::max);
    let came = fault.course.iter().filter_map(|dose| dose.achieved.filter(|_| dose.share_percent > 0.0));
    let most = came.map(|share| share.high).fold(asked, f64::max);
    let scale =
        [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0].into_iter().find(|scale| most <= *scale);
    let scale = scale.unwrap_or(100.0);
    let y = |percent: f64| bottom - (bottom - 14.0) * (percent / scale).clamp(0.0, 1.0);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} 118\" role=\"img\" aria-label=\"Share of {} over time\">",
        escape(&fault.name)
    );
    time_axis(&mut svg, bottom, record.took_s);
    for share in [0.0, scale / 2.0, scale] {
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{2:.1}\" y2=\"{2:.1}\"/><text class=\"tick\" x=\"{}\" \
             y=\"{3:.1}\" text-anchor=\"end\">{share}%</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y(share),
            y(share) + 4.0
        );
    }
    let mut line = String::new();
    for (number, dose) in fault.course.iter().enumerate() {
        let (from, to) = (x(dose.from_s, record.took_s), x(dose.to_s, record.took_s));
        let pen = if number == 0 { 'M' } else { 'L' };
        let at = y(dose.share_percent);
        let _ = write!(line, "{pen}{from:.1} {at:.1}L{to:.1} {at:.1}");
        let Some(share) = dose.achieved.filter(|_| dose.share_percent > 0.0) else { continue };
        let _ = write!(
            svg,
            "<rect class=\"interval\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            from,
            y(share.high),
            (to - from).max(1.0),
            (y(share.low) - y(share.high)).max(2.0),
            escape(&in_words(dose))
        );
    }
    let _ = write!(svg, "<path class=\"line\" d=\"{line}\"/>");
    svg + "</svg>"
}

/// One share for people.
fn in_words(dose: &DoseRecord) -> String {
    let when = format!("{} to {}", seconds(dose.from_s), seconds(dose.to_s));
    match (dose.share_percent > 0.0, dose.achieved) {
        (false, _) => format!("{when}: at rest, {} injected", dose.injected),
        (true, Some(share)) => format!(
            "{when}: asked {}%, achieved {:.2}% ({:.2}% to {:.2}%) of {} events",
            dose.share_percent, share.percent, share.low, share.high, dose.drawn
        ),
        (true, None) => format!("{when}: asked {}%, no event whose turn it was", dose.share_percent),
    }
}

/// Stages and shares as Markdown; nothing without a schedule. `plain` makes a text that is no markup.
pub fn markdown(record: &Record, plain: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    if !record.stages.is_empty() {
        text += "## Stages\n\n| stage | when | faults | expected | outcome |\n|---|---|---|---|---|\n";
        for stage in &record.stages {
            let [faults, probes] = parts(record, stage).map(|names| plain(&names.join(", ")));
            let deviations: String =
                stage.deviations.iter().map(|deviation| format!(": {}", plain(deviation))).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {faults} | {probes} | {}{deviations} |",
                plain(&stage.name),
                when(stage),
                stage.outcome.in_words()
            );
        }
        text.push('\n');
    }
    let scheduled: Vec<_> = record.faults.iter().filter(|fault| !fault.course.is_empty()).collect();
    if !scheduled.is_empty() {
        text += "## Shares over time\n\n";
    }
    for fault in scheduled {
        let _ = writeln!(text, "{}\n", plain(&fault.name));
        for dose in fault.course.iter().take(ROWS_MAX) {
            let _ = writeln!(text, "- {}", plain(&in_words(dose)));
        }
        if let Some(more) = fault.course.len().checked_sub(ROWS_MAX).filter(|more| *more > 0) {
            let _ = writeln!(text, "- and {more} more in the record (--report FILE.json)");
        }
        text.push('\n');
    }
    text
}
