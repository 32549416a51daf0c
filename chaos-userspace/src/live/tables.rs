//! Tables of the view: faults and probes, as wide as there is room.

use super::model::View;
use crate::{
    experiment::share::Achieved,
    plan::explain::escaped,
    runs::{
        message::RuleStatus,
        progress::{Point, ProbeStatus},
    },
};
use ratatui::{
    style::{Color, Style},
    text::{Line, Span},
};
use std::collections::VecDeque;

use super::draw::{FAILED, QUIET};

/// Columns of the last rates.
const SPARKS: usize = 24;
/// From so many columns on, tables have all they can tell.
const WIDE: usize = 100;

/// A name's columns: as many as the longest has, within bounds.
fn width_of<'a>(names: impl Iterator<Item = &'a str>, columns: usize) -> usize {
    let most = if columns < WIDE { 18 } else { 40 };
    names.map(|name| escaped(name).chars().count()).max().unwrap_or(0).clamp(8, most)
}

/// The faults of a run; `is_short` leaves out what each of them is.
pub(super) fn faults(view: &View, columns: usize, is_short: bool) -> Vec<Line<'static>> {
    let rules = &view.sample.status.rules;
    let width = width_of(rules.iter().map(|rule| rule.name.as_str()), columns);
    // What was inflicted comes before what matched, where there is no room for both.
    let matched = |text: &str| if columns < WIDE { String::new() } else { format!(" {text:>10}") };
    let head = format!(
        "{:width$} {:>8} {:>24}{} {:>10} {:>8}  ",
        "fault",
        "asked",
        "achieved (95%)",
        matched("matched"),
        "injected",
        "/s"
    );
    let room = columns.saturating_sub(head.chars().count()).min(SPARKS);
    let last = if room < "last minute".len() { "" } else { "last minute" };
    let mut lines = vec![Line::styled(head + last, QUIET)];
    for (rule, rates) in rules.iter().zip(&view.rates) {
        lines.push(fault(rule, rates, width, matched(&thousands(rule.matched.events)), room));
        if !is_short {
            lines.push(Line::styled(format!("  {}", escaped(&rule.fault)), QUIET));
        }
    }
    lines
}

fn fault(
    rule: &RuleStatus,
    rates: &VecDeque<f64>,
    width: usize,
    matched: String,
    room: usize,
) -> Line<'static> {
    let asked = rule.asked_percent.map_or_else(|| "model".to_owned(), |share| format!("{}%", short(share)));
    let drawn = rule.drawn();
    let achieved = Achieved::of(drawn.injected, drawn.injected + drawn.spared).map_or_else(
        || "-".to_owned(),
        |share| format!("{}% ({} to {})", short(share.percent), short(share.low), short(share.high)),
    );
    Line::from(vec![
        Span::raw(format!(
            "{:width$} {asked:>8} {achieved:>24}{matched} {:>10} {:>8}  ",
            cut(&escaped(&rule.name), width),
            thousands(rule.injected.events),
            rate(rates.back().copied().unwrap_or(0.0)),
        )),
        Span::styled(sparks(rates, room), Style::new().fg(Color::Cyan)),
    ])
}

/// The probes of an experiment, `rows` of them at most: where that is not all, those that fail come first.
pub(super) fn probes(all: &[ProbeStatus], columns: usize, rows: usize) -> Vec<Line<'static>> {
    let width = width_of(all.iter().map(|probe| probe.name.as_str()), columns);
    // Columns of what a probe tolerates, and of its last answer.
    let words = if columns < WIDE { 16 } else { 22 };
    let head = format!("{:width$} {:>words$}  {:words$} {:>12}  ", "probe", "tolerated", "last", "failed");
    let room = columns.saturating_sub(head.chars().count()).min(SPARKS);
    let last = if room < "last answers".len() { "" } else { "last answers" };
    let mut lines = vec![Line::styled(head + last, QUIET)];
    let newest_holds = |probe: &ProbeStatus| probe.course.back().is_none_or(|point| point.holds);
    let mut shown: Vec<_> = all.iter().collect();
    if shown.len() > rows {
        // Stable: those that are alike keep their order.
        shown.sort_by_key(|probe| (newest_holds(probe), probe.failed == 0));
    }
    for probe in shown {
        let ProbeStatus { name, tolerated, answers, failed, last, course } = probe;
        let mut spans = vec![
            Span::raw(format!(
                "{:width$} {:>words$}  ",
                cut(&escaped(name), width),
                cut(&escaped(tolerated), words)
            )),
            Span::styled(
                format!("{:words$}", cut(&escaped(last.as_deref().unwrap_or("not asked yet")), words)),
                if newest_holds(probe) { Style::new() } else { FAILED },
            ),
            Span::raw(format!(" {:>12}  ", format!("{} of {}", thousands(*failed), thousands(*answers)))),
        ];
        let skipped = course.len().saturating_sub(room);
        let newest: Vec<_> = course.iter().skip(skipped).copied().collect();
        spans.extend(answers_as_columns(&newest));
        lines.push(Line::from(spans));
    }
    lines
}

/// One column per answer: as high as its share of the highest number, or a full one of what is no number. What was not
/// tolerated is red, and a cross where nothing was measured.
fn answers_as_columns(course: &[Point]) -> impl Iterator<Item = Span<'static>> {
    let highest = course.iter().filter_map(|point| point.value).fold(0.0, f64::max);
    course.iter().map(move |Point { value, holds }| {
        let column = match (value, holds) {
            (Some(value), _) => height(*value, highest),
            (None, true) => '▇',
            (None, false) => '×',
        };
        Span::styled(column.to_string(), if *holds { Style::new().fg(Color::Green) } else { FAILED })
    })
}

/// As much of a text as has room in so many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Digits in threes.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

pub(super) fn rate(per_second: f64) -> String {
    if per_second >= 100.0 || per_second == 0.0 {
        thousands(per_second.round() as u64)
    } else {
        format!("{per_second:.1}")
    }
}

/// A percentage with as many decimals as say something.
fn short(percent: f64) -> String {
    let decimals = if percent == 0.0 || percent >= 99.95 {
        0
    } else if percent >= 1.0 {
        1
    } else {
        3
    };
    format!("{percent:.decimals$}")
}

/// The last rates, each column as high as its share of the highest.
fn sparks(rates: &VecDeque<f64>, columns: usize) -> String {
    if columns == 0 {
        return String::new();
    }
    let in_column = rates.len().div_ceil(columns).max(1);
    let all: Vec<_> = rates.iter().copied().collect();
    let columns: Vec<f64> =
        all.rchunks(in_column).rev().map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let highest = columns.iter().copied().fold(0.0, f64::max);
    columns.iter().map(|rate| height(*rate, highest)).collect()
}

/// A column as high as a value's share of the highest.
fn height(value: f64, highest: f64) -> char {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if highest <= 0.0 {
        HEIGHTS[0]
    } else {
        HEIGHTS[((value.max(0.0) / highest * 7.0).round() as usize).min(7)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1 234 567".into())
        );
        assert_eq!(
            (short(0.0), short(0.01), short(12.34), short(100.0)),
            ("0".into(), "0.010".into(), "12.3".into(), "100".into())
        );
        assert_eq!((rate(0.5), rate(1234.4)), ("0.5".into(), "1 234".into()));
    }

    #[test]
    fn sparks_fit_their_columns() {
        assert_eq!(sparks(&VecDeque::new(), SPARKS), "");
        assert_eq!(sparks(&VecDeque::from([0.0, 0.0]), SPARKS), "▁▁");
        let many: VecDeque<_> = (0..120).map(f64::from).collect();
        let drawn: Vec<_> = sparks(&many, SPARKS).chars().collect();
        assert_eq!((drawn.len(), drawn[0], drawn[SPARKS - 1]), (SPARKS, '▁', '█'));
    }

    #[test]
    fn what_has_no_room_is_cut_and_says_so() {
        assert_eq!((cut("abc", 3), cut("abcd", 3), cut("a", 0)), ("abc".into(), "ab…".into(), "…".into()));
        assert_eq!(sparks(&VecDeque::from([1.0]), 0), "");
    }
}
