//! Plots as SVG, in the page's colours.

use super::escape;
use crate::{
    experiment::record::{ProbeRecord, Record},
    steady::{
        ask::Answer,
        value::{Unit, Value},
    },
};
use std::fmt::Write as _;

pub(super) const WIDTH: f64 = 860.0;
pub(super) const LEFT: f64 = 84.0;
pub(super) const RIGHT: f64 = 12.0;

/// What the marks of a probe's plot mean.
pub(super) const LEGEND: &str = "<p class=\"quiet legend\"><span class=\"swatch fault-swatch\"></span> faults act, the darker the larger their share \
     <svg class=\"key\" viewBox=\"0 0 24 12\" aria-hidden=\"true\"><line class=\"bound\" x1=\"0\" x2=\"24\" y1=\"6\" y2=\"6\"/></svg> what is tolerated \
     <svg class=\"key\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><circle class=\"ok\" cx=\"6\" cy=\"6\" r=\"3\"/></svg> holds \
     <svg class=\"key\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path class=\"miss\" d=\"M6 1 l5 5 -5 5 -5 -5 z\"/></svg> is not tolerated \
     <svg class=\"key\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path class=\"none\" d=\"M2 2 l8 8 m0 -8 l-8 8\"/></svg> no answer</p>";

/// A plot that may be wider than the screen.
pub(super) fn scrolling(svg: &str) -> String {
    format!("<div class=\"plot\">{svg}</div>")
}

/// Where a time is.
pub(super) fn x(at_s: f64, end_s: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * (at_s / end_s.max(1e-9)).clamp(0.0, 1.0)
}

/// Round steps of an axis: at most `most` from 0 to `end`.
fn steps(end: f64, most: usize) -> Vec<f64> {
    let rough = (end / most as f64).max(1e-9);
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * magnitude).find(|step| *step >= rough);
    let step = step.unwrap_or(magnitude * 10.0);
    (0..=most).map(|number| number as f64 * step).take_while(|at| *at <= end * 1.000_001).collect()
}

pub(super) fn seconds(at: f64) -> String {
    let text = format!("{at:.3}");
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The axis of time along the bottom.
pub(super) fn time_axis(svg: &mut String, bottom: f64, end_s: f64) {
    for at in steps(end_s, 8) {
        let place = x(at, end_s);
        // The last one has no room on both sides.
        let anchor = if place > WIDTH - 2.0 * RIGHT { "end" } else { "middle" };
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"8\" y2=\"{bottom:.1}\"/><text class=\"tick time\" \
             x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            bottom + 15.0,
            seconds(at)
        );
    }
}

/// The times in which faults acted, the darker the larger their share.
fn shade(svg: &mut String, record: &Record, bottom: f64) {
    for (from, to, strength) in record.acting() {
        let (left, right) = (x(from, record.took_s), x(to, record.took_s));
        let _ = write!(
            svg,
            "<rect class=\"fault\" x=\"{left:.1}\" y=\"8\" width=\"{:.1}\" height=\"{:.1}\" opacity=\"{:.2}\"/>",
            (right - left).max(0.5),
            bottom - 8.0,
            0.25 + 0.75 * strength
        );
    }
}

/// The course of the experiment: its phases and what was noteworthy.
pub fn timeline(record: &Record) -> String {
    let (bar, bottom) = (26.0, 74.0);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} 96\" role=\"img\" aria-label=\"Course of the experiment\">");
    time_axis(&mut svg, bottom, record.took_s);
    for stage in &record.stages {
        let Some(from) = stage.from_s else { continue };
        let place = x(from, record.took_s);
        let _ = write!(
            svg,
            "<g><title>stage {0}</title><line class=\"stage\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"8\" \
             y2=\"{bottom}\"/><text class=\"tick\" x=\"{1:.1}\" y=\"18\">{0}</text></g>",
            escape(&stage.name),
            place + 4.0
        );
    }
    for phase in &record.phases {
        let (left, right) = (x(phase.from_s, record.took_s), x(phase.to_s, record.took_s));
        let width = (right - left).max(2.0);
        let _ = write!(
            svg,
            "<g><title>{0}: {1} to {2}</title><rect class=\"phase {0}\" x=\"{left:.1}\" y=\"{bar}\" width=\"{width:.1}\" \
             height=\"22\" rx=\"3\"/>",
            phase.name,
            seconds(phase.from_s),
            seconds(phase.to_s)
        );
        if width > 60.0 {
            let word = if phase.name == "faults" { "faults act" } else { phase.name };
            let _ = write!(
                svg,
                "<text class=\"phase-name\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{word}</text>",
                left + width / 2.0,
                bar + 15.0
            );
        }
        svg += "</g>";
    }
    for note in &record.events {
        let place = x(note.at_s, record.took_s);
        let _ = write!(
            svg,
            "<g><title>{} {}</title><path class=\"note\" d=\"M{place:.1} {} l4.5 8 h-9 z\"/></g>",
            seconds(note.at_s),
            escape(&note.text),
            bar + 26.0
        );
    }
    svg + "</svg>"
}

/// When an answer was asked for.
fn asked(answer: &Answer) -> f64 {
    (answer.at_s - answer.took_s).max(0.0)
}

/// The answers of a probe over the time at which they were asked for.
pub fn probe(record: &Record, probe: &ProbeRecord) -> String {
    let numbers: Vec<f64> = probe.answers().filter_map(number).collect();
    if numbers.is_empty() { strip(record, probe) } else { curve(record, probe, &numbers) }
}

fn number(answer: &Answer) -> Option<f64> {
    match answer.value {
        Some(Value::Number(number)) => Some(number),
        _ => None,
    }
}

/// Whether answers held, for those that are no numbers.
fn strip(record: &Record, probe: &ProbeRecord) -> String {
    let bottom = 62.0;
    let mut svg = start(probe, 84.0);
    shade(&mut svg, record, bottom);
    time_axis(&mut svg, bottom, record.took_s);
    for (y, word) in [(22.0, "holds"), (48.0, "fails")] {
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/><text class=\"tick\" x=\"{}\" y=\"{}\" \
             text-anchor=\"end\">{word}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for answer in probe.answers() {
        dot(&mut svg, record, answer, if answer.holds { 22.0 } else { 48.0 });
    }
    svg + "</svg>"
}

/// Numbers over time, with what is tolerated.
fn curve(record: &Record, probe: &ProbeRecord, numbers: &[f64]) -> String {
    let bottom = 150.0;
    let bounds = probe.at_least.into_iter().chain(probe.at_most);
    let all = numbers.iter().copied().chain(bounds);
    let (low, high) = all.fold((0f64, f64::MIN), |(low, high), number| (low.min(number), high.max(number)));
    let high = if high > low { high + (high - low) * 0.08 } else { low + 1.0 };
    let y = |number: f64| bottom - (bottom - 14.0) * ((number - low) / (high - low)).clamp(0.0, 1.0);
    let mut svg = start(probe, 172.0);
    shade(&mut svg, record, bottom);
    time_axis(&mut svg, bottom, record.took_s);
    for step in steps(high - low, 4) {
        let (value, place) = (low + step, y(low + step));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/><text class=\"tick\" \
             x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            place + 4.0,
            escape(&probe.unit.show(value))
        );
    }
    for (bound, word) in [(probe.at_least, "at least"), (probe.at_most, "at most")] {
        let Some(bound) = bound else { continue };
        let word = if probe.at_least == probe.at_most { "exactly" } else { word };
        let place = y(bound);
        // The word stands where the plot has room for it.
        let word_y = if place < 28.0 { place + 12.0 } else { place - 4.0 };
        let _ = write!(
            svg,
            "<line class=\"bound\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/><text class=\"bound-name\" \
             x=\"{}\" y=\"{word_y:.1}\" text-anchor=\"end\">{word} {}</text>",
            WIDTH - RIGHT,
            WIDTH - RIGHT - 2.0,
            escape(&probe.unit.show(bound))
        );
        if probe.at_least == probe.at_most {
            break;
        }
    }
    // Between two states there is nothing.
    let is_state = probe.unit == Unit::Number && matches!(probe.kind, "http" | "command");
    let mut line = String::new();
    // A part in which it was not asked is no line from the part before to the one behind.
    for part in [&probe.before, &probe.during, &probe.after] {
        let mut pen = 'M';
        for answer in part.iter().filter(|_| !is_state) {
            match number(answer) {
                Some(number) => {
                    let _ = write!(line, "{pen}{:.1} {:.1}", x(asked(answer), record.took_s), y(number));
                    pen = 'L';
                }
                // No answer is a gap, not a value.
                None => pen = 'M',
            }
        }
    }
    let _ = write!(svg, "<path class=\"line\" d=\"{line}\"/>");
    for answer in probe.answers() {
        dot(&mut svg, record, answer, number(answer).map_or(bottom - 2.0, y));
    }
    svg + "</svg>"
}

fn start(probe: &ProbeRecord, height: f64) -> String {
    let all = probe.answers().count();
    let failed = probe.answers().filter(|answer| !answer.holds).count();
    let mut label = format!("Answers of {} over time: {failed} of {all} are not tolerated", probe.name);
    let numbers = || probe.answers().filter_map(number);
    if numbers().next().is_some() {
        let (least, most) = (numbers().fold(f64::MAX, f64::min), numbers().fold(f64::MIN, f64::max));
        let _ = write!(label, "; they range from {} to {}", probe.unit.show(least), probe.unit.show(most));
    }
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(&label))
}

fn dot(svg: &mut String, record: &Record, answer: &Answer, y: f64) {
    let place = x(asked(answer), record.took_s);
    let problem = answer.problem.as_ref().map(|problem| format!(" - {problem}")).unwrap_or_default();
    let title = escape(&format!("{}: {}{problem}", seconds(asked(answer)), answer.shown));
    let _ = match (answer.holds, &answer.value) {
        (true, _) => write!(
            svg,
            "<circle class=\"ok\" cx=\"{place:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{title}</title></circle>"
        ),
        (false, Some(_)) => {
            write!(
                svg,
                "<path class=\"miss\" d=\"M{place:.1} {:.1} l5 5 -5 5 -5 -5 z\"><title>{title}</title></path>",
                y - 5.0
            )
        }
        (false, None) => write!(
            svg,
            "<path class=\"none\" d=\"M{:.1} {:.1} l8 8 m0 -8 l-8 8\"><title>{title}</title></path>",
            place - 4.0,
            y - 4.0
        ),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_steps() {
        assert_eq!(steps(60.0, 8), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(steps(0.9, 4), [0.0, 0.5]);
        assert!(steps(0.0, 8).len() <= 9 && steps(1e9, 8).len() <= 9);
        assert_eq!(seconds(12.5), "12.5 s");
        assert_eq!(x(5.0, 0.0), WIDTH - RIGHT);
    }
}
