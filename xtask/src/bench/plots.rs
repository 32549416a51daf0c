//! The plots of the page, as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

use super::{arm, figures};

const SIZE: (u32, u32) = (800, 420);
const WIDE: (u32, u32) = (1300, 460);
const FONT: (&str, u32) = ("sans-serif", 14);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// File name and contents of each that this run has figures for.
pub fn all(result: &Value) -> Result<Vec<(&'static str, String)>> {
    let mut plots = vec![];
    let mut add = |name, svg: Option<Result<String>>| -> Result<()> {
        if let Some(svg) = svg {
            plots.push((name, svg?));
        }
        Ok(())
    };
    add("targets.svg", targets(result))?;
    add("hooks.svg", hooks(result))?;
    add("peers.svg", peers(result))?;
    add("kill.svg", kills(result))?;
    add("start.svg", starts(result))?;
    add("rules.svg", rules(result))?;
    add("delay.svg", delays(result))?;
    add("bursts.svg", bursts(result))?;
    Ok(plots)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// A line: its name and its points.
type Line = (String, Vec<(f64, f64)>);

fn lines(title: &str, x: &str, y: &str, logarithmic: bool, lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let high = |axis: fn(&(f64, f64)) -> f64| points().map(axis).fold(0.0, f64::max) * 1.1;
    let (x_high, y_high) = (high(|point| point.0).max(1.0), high(|point| point.1).max(1e-3));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {title}: {error}");
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut builder = ChartBuilder::on(&area);
        builder.caption(title, FONT).margin(12).x_label_area_size(40).y_label_area_size(56);
        macro_rules! draw {
            ($chart:expr) => {{
                let mut chart = $chart.map_err(|e| failed(&e))?;
                chart.configure_mesh().x_desc(x).y_desc(y).draw().map_err(|e| failed(&e))?;
                for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
                    chart
                        .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
                        .map_err(|e| failed(&e))?
                        .label(name)
                        .legend(move |(x, y)| {
                            PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                        });
                }
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::LowerRight)
                    .background_style(WHITE.mix(0.8))
                    .border_style(BLACK.mix(0.3))
                    .draw()
                    .map_err(|e| failed(&e))?;
            }};
        }
        if logarithmic {
            draw!(builder.build_cartesian_2d((1.0..x_high).log_scale(), 0.0..y_high));
        } else {
            draw!(builder.build_cartesian_2d(0.0..x_high, 0.0..y_high));
        }
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(svg + "\n")
}

fn targets(result: &Value) -> Option<Result<String>> {
    let mut alone: Vec<(f64, f64)> = figures(result, "test_run_egress")
        .filter(|(_, measure)| measure["rules"] == 1 && measure["levels"] == 1)
        .filter_map(|(_, measure)| {
            Some((number(&measure["targets"]), number(&arm(measure, "kchaos")?["added"])))
        })
        .collect();
    alone.sort_by(|one, other| one.0.total_cmp(&other.0));
    let flow = figures(result, "flow_egress").next().map(|(_, measure)| measure);
    let in_flow: Vec<(f64, f64)> = [1u32, 2, 8, 100, 1_000, 10_000]
        .into_iter()
        .filter_map(|targets| {
            let added = &arm(flow?, &format!("kchaos, {targets} targets"))?["added"];
            Some((f64::from(targets), number(added)))
        })
        .collect();
    if alone.is_empty() {
        return None;
    }
    let both = [("by itself".to_owned(), alone), ("in a real flow".to_owned(), in_flow)];
    Some(lines(
        "Somebody else's leaving packet, over an empty program",
        "targets",
        "nanoseconds added",
        true,
        &both,
    ))
}

/// The values of a distribution, ascending.
fn values(distribution: &Value) -> Vec<f64> {
    let mut values: Vec<f64> = distribution["values"].as_array().into_iter().flatten().map(number).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn links(measure: &Value) -> String {
    let links = measure["links"].as_u64().unwrap_or_default();
    format!("{links} link{}", if links == 1 { "" } else { "s" })
}

/// What begins and ends at a command: cumulative shares.
fn starts(result: &Value) -> Option<Result<String>> {
    let wanted = [
        "inject: command start to first lost packet",
        "exec: command start to the command's own clock reading",
        "set: command start to first packet under stronger rules",
        "stop: command start to last lost packet",
    ];
    let mut all = vec![];
    for (_, measure) in figures(result, "latency") {
        let what = measure["what"].as_str().unwrap_or_default();
        if !wanted.contains(&what) || measure["links"] != 1 {
            continue;
        }
        let values = values(&measure["ms"]);
        let count = values.len() as f64;
        let points = values.iter().enumerate().map(|(rank, value)| (*value, (rank + 1) as f64 / count));
        let name = what.split(':').next().unwrap_or_default();
        all.push((name.to_owned(), points.collect()));
    }
    let title = "From a command's start to its effect, one device";
    (!all.is_empty()).then(|| lines(title, "milliseconds", "share of runs", false, &all))
}

/// How long after `kill -9` things end: a histogram over doubling times.
fn kills(result: &Value) -> Option<Result<String>> {
    const EDGES_MS: [f64; 12] =
        [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, f64::INFINITY];
    let mut names = vec![];
    let mut groups: Vec<(String, Vec<f64>)> = EDGES_MS
        .iter()
        .map(|edge| if edge.is_finite() { format!("to {edge} ms") } else { "above".to_owned() })
        .map(|name| (name, vec![]))
        .collect();
    for (_, measure) in figures(result, "latency") {
        let what = measure["what"].as_str().unwrap_or_default();
        let Some(until) = what.strip_prefix("kill -9 of the owner ") else { continue };
        names.push(format!("{until}, {}", links(measure)));
        let values = values(&measure["ms"]);
        let below = |edge: f64| values.partition_point(|value| *value <= edge) as f64;
        let mut before = 0.0;
        for (edge, (_, shares)) in EDGES_MS.iter().zip(&mut groups) {
            shares.push((below(*edge) - before) / values.len().max(1) as f64);
            before = below(*edge);
        }
    }
    (!names.is_empty())
        .then(|| bars("From kill -9 of the owner to its end", "share of kills", &names, &groups))
}

/// What rules and prefixes cost the target's packets.
fn rules(result: &Value) -> Option<Result<String>> {
    let (mut rules, mut prefixes) = (vec![], vec![]);
    for (_, measure) in figures(result, "target_packets") {
        let what = measure["what"].as_str().unwrap_or_default();
        let words: Vec<&str> = what.split(' ').collect();
        let added = arm(measure, "kchaos").map(|arm| number(&arm["added"]))?;
        match words[..] {
            ["passed:", count, "rule" | "rules", "of", _] => rules.push((count.parse().ok()?, added)),
            ["passed:", .., count, "prefixes"] => prefixes.push((count.parse().ok()?, added)),
            _ => {}
        }
    }
    let both = [("rules".to_owned(), rules), ("prefixes of one rule".to_owned(), prefixes)];
    (!both[0].1.is_empty()).then(|| {
        lines(
            "A packet of the target that passes, over an empty program",
            "how many",
            "nanoseconds added",
            true,
            &both,
        )
    })
}

/// Cumulative distributions of delay.
fn delays(result: &Value) -> Option<Result<String>> {
    let mut all = vec![];
    for (_, measure) in figures(result, "delay_distribution") {
        let distribution = measure["distribution"].as_str().unwrap_or_default();
        if !["normal", "pareto"].contains(&distribution) {
            continue;
        }
        for (by, field) in [("asked", "asked_ms"), ("netem", "netem_ms"), ("kchaos", "kchaos_ms")] {
            let percentiles = measure[field].as_array()?;
            let points =
                percentiles.iter().zip(0u8..).map(|(ms, percent)| (number(ms), f64::from(percent) / 100.0));
            all.push((format!("{distribution}, {by}"), points.collect()));
        }
    }
    (!all.is_empty())
        .then(|| lines("A delay of 60 ms with a jitter of 10 ms", "milliseconds", "share below", false, &all))
}

/// Lengths of losses in a row.
fn bursts(result: &Value) -> Option<Result<String>> {
    const LONGEST: u32 = 16;
    let (_, measure) = figures(result, "loss_bursts").next()?;
    let stay = number(&measure["stay"]);
    let told = measure["told"].as_array()?;
    let mut names = vec!["asked".to_owned()];
    names.extend(told.iter().map(|told| told["by"].as_str().unwrap_or_default().to_owned()));
    let groups: Vec<_> = (1..=LONGEST)
        .map(|length| {
            let mut bars = vec![stay.powi(length as i32 - 1) * (1.0 - stay)];
            let share = |told: &Value| number(&told["bursts"][length.to_string()]) / number(&told["runs"]);
            bars.extend(told.iter().map(share));
            (length.to_string(), bars)
        })
        .collect();
    Some(bars("Losses in a row, gemodel 2% 25%", "share of bursts by their length", &names, &groups))
}

/// Bars: what a bystander pays for each tool.
fn peers(result: &Value) -> Option<Result<String>> {
    let (mut names, mut groups): (Vec<String>, Vec<(String, Vec<f64>)>) = (vec![], vec![]);
    let measures =
        || figures(result, "peer").map(|(_, measure)| measure).filter(|peer| peer["added"].is_number());
    for peer in measures() {
        let (by, what) = (peer["by"].as_str()?.to_owned(), peer["what"].as_str()?.to_owned());
        if !names.contains(&by) {
            names.push(by);
        }
        if groups.iter().all(|(known, _)| *known != what) {
            groups.push((what, vec![]));
        }
    }
    for (what, bars) in &mut groups {
        let of = |by: &String| {
            let peer = measures().find(|peer| peer["what"] == **what && peer["by"] == **by);
            peer.map_or(0.0, |peer| number(&peer["added"]))
        };
        *bars = names.iter().map(of).collect();
    }
    (!groups.is_empty())
        .then(|| bars("What a datagram of a bystander costs more", "instructions", &names, &groups))
}

/// Bars: what each hook adds to a read.
fn hooks(result: &Value) -> Option<Result<String>> {
    let names = [
        "empty program",
        "kchaos, 1 targets, none of them the caller's",
        "kchaos, 1000 targets, none of them the caller's",
        "kchaos, the caller's call fails",
    ];
    let mut groups = vec![];
    for (step, measure) in figures(result, "hooked_read") {
        let base = arm(measure, "nothing attached").map(|arm| number(&arm["min"]))?;
        let bars = names.iter().map(|name| arm(measure, name).map_or(0.0, |arm| number(&arm["min"]) - base));
        let way = measure["way"].as_str().unwrap_or_default();
        let kernel = step.trim_start_matches("vm ").trim_start_matches("debian-");
        groups.push((format!("{way}, {kernel}"), bars.collect()));
    }
    (!groups.is_empty()).then(|| {
        bars("A one-byte read: what is attached adds", "instructions", &names.map(str::to_owned), &groups)
    })
}

fn bars(title: &str, y: &str, names: &[String], groups: &[(String, Vec<f64>)]) -> Result<String> {
    let all = || groups.iter().flat_map(|(_, bars)| bars.iter().copied());
    // The legend has the room above.
    let above = 1.1 + 0.07 * names.len() as f64;
    let (low, high) = (all().fold(0.0, f64::min) * 1.1, all().fold(1e-3, f64::max) * above);
    let width = names.len() as f64 + 1.0;
    let mut svg = String::new();
    {
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {title}: {error}");
        let area = SVGBackend::with_string(&mut svg, WIDE).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, FONT)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..groups.len() as f64 * width, low..high)
            .map_err(|e| failed(&e))?;
        chart.configure_mesh().disable_x_mesh().x_labels(0).y_desc(y).draw().map_err(|e| failed(&e))?;
        for (place, (name, colour)) in names.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let rectangles = groups.iter().enumerate().map(|(group, (_, bars))| {
                let left = group as f64 * width + place as f64;
                Rectangle::new([(left, 0.0), (left + 0.9, bars[place])], colour.filled())
            });
            chart
                .draw_series(rectangles)
                .map_err(|e| failed(&e))?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        let labels = groups.iter().enumerate().map(|(group, (name, _))| {
            EmptyElement::at((group as f64 * width, low))
                + Text::new(name.clone(), (0, 6), ("sans-serif", 11))
        });
        chart.draw_series(labels).map_err(|e| failed(&e))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(svg + "\n")
}
