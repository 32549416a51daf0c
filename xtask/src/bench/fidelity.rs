//! Tables of what is felt beside what was asked for, and beside netem.

use std::fmt::Write as _;

use serde_json::Value;

use super::figures;
use super::tables::{arms_table, number};

/// All of them.
pub fn all(text: &mut String, result: &Value) {
    distributions(text, result);
    bursts(text, result);
    bulk(text, result);
    datagrams(text, result);
}

fn distributions(text: &mut String, result: &Value) {
    let mut measures = figures(result, "delay_distribution").peekable();
    if measures.peek().is_none() {
        return;
    }
    text.push_str(
        "\n## How delays are distributed\n\n60 ms with a jitter of 10 ms, measured one way. Largest difference of two cumulative \
         distributions (Kolmogorov and Smirnov), which percentiles tell to 0.01.\n\n\
         | distribution | datagrams | kchaos from asked | netem from asked | netem from netem |\n|---|---|---|---|---|\n",
    );
    for (_, measure) in measures {
        let _ = writeln!(
            text,
            "| {} | {} | {:.3} | {:.3}, {:.3} | {:.3} |",
            measure["distribution"].as_str().unwrap_or_default(),
            measure["n"],
            number(&measure["kchaos_to_asked"]),
            number(&measure["netem_to_asked"][0]),
            number(&measure["netem_to_asked"][1]),
            number(&measure["netem_to_netem"]),
        );
    }
}

fn bursts(text: &mut String, result: &Value) {
    for (_, measure) in figures(result, "loss_bursts") {
        let _ = write!(
            text,
            "\n## How losses come in bursts\n\nThe model of Gilbert and Elliott, `gemodel 2% 25%`.\n\n\
             | by | datagrams | share lost | bursts | mean length |\n|---|---|---|---|---|\n\
             | asked | | {:.2}% | | {:.2} |\n",
            100.0 * number(&measure["asked_share"]),
            number(&measure["asked_mean"]),
        );
        for told in measure["told"].as_array().into_iter().flatten() {
            let _ = writeln!(
                text,
                "| {} | {} | {:.2}% | {} | {:.2} |",
                told["by"].as_str().unwrap_or_default(),
                told["n"],
                100.0 * number(&told["share"]),
                told["runs"],
                number(&told["mean"]),
            );
        }
    }
}

fn bulk(text: &mut String, result: &Value) {
    for (_, measure) in figures(result, "bulk_tcp") {
        let _ = write!(
            text,
            "\n## Bulk TCP of a target that is delayed by {}\n\niperf3, {} MiB at a time; millions of bits per second at the receiver. netem is the \
             root of the device.\n\n",
            measure["delay"].as_str().unwrap_or_default(),
            measure["mib"],
        );
        arms_table(text, measure, "Mbit/s");
    }
}

fn datagrams(text: &mut String, result: &Value) {
    let mut measures = figures(result, "target_datagram").peekable();
    if measures.peek().is_none() {
        return;
    }
    text.push_str(
        "\n## What a datagram of the target costs its sender\n\nInstructions within the call that sends it, the least of many \
         batches. netem is the root of the device.\n\n\
         | the datagram | by | instructions | added |\n|---|---|---|---|\n",
    );
    for (_, measure) in measures {
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:+.0} |",
            measure["what"].as_str().unwrap_or_default(),
            measure["by"].as_str().unwrap_or_default(),
            number(&measure["instructions"]),
            number(&measure["added"]),
        );
    }
}
