//! The plots of the page, as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

use super::{arm, figures};

const SIZE: (u32, u32) = (800, 420);
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
    add(
        "kill.svg",
        distribution(
            result,
            "kill -9 of the owner to last lost packet",
            "milliseconds from kill -9 to the last lost packet",
        ),
    )?;
    add("start.svg", distribution(result, "", "milliseconds from a command's start to its effect"))?;
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

fn distribution(result: &Value, what: &str, x: &str) -> Option<Result<String>> {
    let starts = [
        "inject: command start to first lost packet",
        "exec: command start to the command's own clock reading",
        "set: command start to first packet under stronger rules",
        "stop: command start to last lost packet",
    ];
    let wanted = |measure: &Value| {
        let own = measure["what"].as_str().unwrap_or_default();
        if what.is_empty() { starts.contains(&own) } else { own == what }
    };
    let mut all = vec![];
    for (_, measure) in figures(result, "latency").filter(|(_, measure)| wanted(measure)) {
        let mut values: Vec<f64> =
            measure["ms"]["values"].as_array().into_iter().flatten().map(number).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let points = values.iter().enumerate().map(|(rank, value)| (*value, (rank + 1) as f64 / count));
        let name = if what.is_empty() { measure["what"].as_str().unwrap_or_default() } else { "" };
        let links = measure["links"].as_u64().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        all.push((format!("{name} {links} link{}", if links == 1 { "" } else { "s" }), points.collect()));
    }
    (!all.is_empty()).then(|| lines(x, "milliseconds", "share of runs", false, &all))
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
        let bars = names.map(|name| arm(measure, name).map_or(0.0, |arm| number(&arm["min"]) - base));
        let way = measure["way"].as_str().unwrap_or_default();
        groups.push((format!("{way}, {}", step.trim_start_matches("vm ")), bars));
    }
    (!groups.is_empty())
        .then(|| bars("A one-byte read: instructions added by what is attached", &names, &groups))
}

fn bars(title: &str, names: &[&str], groups: &[(String, [f64; 4])]) -> Result<String> {
    let all = || groups.iter().flat_map(|(_, bars)| bars.iter().copied());
    let (low, high) = (all().fold(0.0, f64::min) * 1.1, all().fold(1.0, f64::max) * 1.25);
    let width = names.len() as f64 + 1.0;
    let mut svg = String::new();
    {
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {title}: {error}");
        let area = SVGBackend::with_string(&mut svg, (1100, 460)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, FONT)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..groups.len() as f64 * width, low..high)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_desc("instructions")
            .draw()
            .map_err(|e| failed(&e))?;
        for (place, (name, colour)) in names.iter().zip(COLOURS).enumerate() {
            let rectangles = groups.iter().enumerate().map(|(group, (_, bars))| {
                let left = group as f64 * width + place as f64;
                Rectangle::new([(left, 0.0), (left + 0.9, bars[place])], colour.filled())
            });
            chart
                .draw_series(rectangles)
                .map_err(|e| failed(&e))?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        let labels = groups.iter().enumerate().map(|(group, (name, _))| {
            Text::new(name.clone(), (group as f64 * width, low), ("sans-serif", 11))
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
