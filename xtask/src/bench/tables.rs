//! The tables of the page, one function per kind of measurement.

use std::fmt::Write as _;

use serde_json::Value;

use super::figures;

/// All of them.
pub fn all(text: &mut String, result: &Value) {
    leaving(text, result);
    target_packets(text, result);
    arriving(text, result);
    flows(text, result);
    cores(text, result);
    floods(text, result);
    calls(text, result);
    latency(text, result);
    peers(text, result);
}

/// What is not a number is told as such.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// `+7.1 (+6.9 to +7.4)`.
fn added(arm: &Value) -> String {
    let quartiles = &arm["added_quartiles"];
    format!("{:+.1} ({:+.1} to {:+.1})", number(&arm["added"]), number(&quartiles[0]), number(&quartiles[1]))
}

/// The arms of a measurement, the first of which is the base.
pub fn arms(measure: &Value) -> impl Iterator<Item = &Value> {
    measure["arms"].as_array().into_iter().flatten()
}

/// Without their two bases: noise, then the others.
fn noise_and_others(measure: &Value) -> (Option<&Value>, Vec<&Value>) {
    let mut arms = arms(measure).skip(1);
    (arms.next(), arms.collect())
}

fn leaving(text: &mut String, result: &Value) {
    text.push_str(
        "\n## Packets that leave: one program by itself\n\nBPF_PROG_TEST_RUN of the program as the engine loads it for a plan, on \
         a packet of somebody else, by processor time; nanoseconds. An empty program of the same type is the first arm.\n\n\
         | runs | targets | levels | rules | empty | noise | added | instructions | bytes of machine code | KiB of maps |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (_, measure) in figures(result, "test_run_egress") {
        let (noise, others) = noise_and_others(measure);
        let empty = arms(measure).next().map_or(f64::NAN, |arm| number(&arm["median"]));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {empty:.1} | {} | {} | {} | {} | {:.0} |",
            measure["runs"],
            measure["targets"],
            measure["levels"],
            measure["rules"],
            noise.map(added).unwrap_or_default(),
            others.first().map(|arm| added(arm)).unwrap_or_default(),
            measure["translated"],
            measure["jited_bytes"],
            number(&measure["map_bytes"]) / 1024.0,
        );
    }
    knee(text, result);
}

/// Where the curve over targets bends, why, and what a target takes.
fn knee(text: &mut String, result: &Value) {
    let of = |targets: u64, field: fn(&Value) -> f64| {
        let mut all = figures(result, "test_run_egress").map(|(_, measure)| measure);
        all.find(|m| m["targets"] == targets && m["rules"] == 1 && m["levels"] == 1).map(field)
    };
    let ns = |measure: &Value| arms(measure).last().map_or(f64::NAN, |arm| number(&arm["added"]));
    let memory = |measure: &Value| number(&measure["map_bytes"]);
    let all = (of(8, ns), of(9, ns), of(10_000, ns), of(1_000, memory), of(10_000, memory));
    let (Some(eight), Some(nine), Some(last), Some(fewer), Some(more)) = all else { return };
    let _ = writeln!(
        text,
        "\nThe knee is behind 8 targets ({eight:+.1} ns), which are compared with constants of the program; from 9 on \
         ({nine:+.1} ns) a filter and a hash table are asked, at any number ({last:+.1} ns at 10 000). Another level of the hierarchy \
         costs another helper call. Rules cost nobody but the target; their tables are made for 64, the most there may be. A target \
         takes {:.0} bytes.",
        (more - fewer) / 9_000.0,
    );
}

fn target_packets(text: &mut String, result: &Value) {
    text.push_str(
        "\n## Packets of the target, by verdict, rules and prefixes\n\nIn a real flow, by the kernel's own statistics; nanoseconds \
         over an empty program that the same packets pass. Made: encoding, maps and the program. A prefix costs the target a \
         walk down a tree, nobody else anything.\n\n\
         | packets | noise | added | made in ms | KiB of maps |\n|---|---|---|---|---|\n",
    );
    for (_, measure) in figures(result, "target_packets") {
        let (noise, others) = noise_and_others(measure);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.0} |",
            measure["what"].as_str().unwrap_or_default(),
            noise.map(added).unwrap_or_default(),
            others.first().map(|arm| added(arm)).unwrap_or_default(),
            number(&measure["made_ms"]),
            number(&measure["map_bytes"]) / 1024.0,
        );
    }
}

fn arriving(text: &mut String, result: &Value) {
    text.push_str(
        "\n## Packets that arrive: one program by itself\n\nThe program that runs for all arriving packets while arriving packets \
         are *delayed*; loss of arriving packets is attached to the target's cgroup alone and costs nobody else anything.\n\n\
         | packet | targets | noise | added ns |\n|---|---|---|---|\n",
    );
    for (_, measure) in figures(result, "test_run_ingress") {
        let (noise, others) = noise_and_others(measure);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            measure["what"].as_str().unwrap_or_default(),
            measure["targets"],
            noise.map(added).unwrap_or_default(),
            others.first().map(|arm| added(arm)).unwrap_or_default(),
        );
    }
}

/// Their figures, one line each.
pub fn arms_table(text: &mut String, measure: &Value, unit: &str) {
    let _ = writeln!(text, "| arm | least {unit} | median | added | ratio |\n|---|---|---|---|---|");
    for arm in arms(measure) {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {} | {:.3} |",
            arm["arm"].as_str().unwrap_or_default(),
            number(&arm["min"]),
            number(&arm["median"]),
            added(arm),
            number(&arm["ratio"]),
        );
    }
}

fn flows(text: &mut String, result: &Value) {
    for (name, title) in [
        (
            "flow_egress",
            "Packets that leave, in a real flow\n\nUDP of 64 bytes over a veth pair between network namespaces; every packet passes \
             all programs, one behind the other, and the kernel's own statistics tell what each took (nanoseconds, some 45 of \
             them for the statistics themselves).",
        ),
        ("flow_ingress", "Packets that arrive, in a real flow\n\nThe same flow at its other end."),
    ] {
        for (_, measure) in figures(result, name) {
            let _ = write!(text, "\n## {title}\n\n");
            arms_table(text, measure, "ns");
        }
    }
}

fn cores(text: &mut String, result: &Value) {
    for (place, (_, measure)) in figures(result, "pps").enumerate() {
        if place == 0 {
            text.push_str(
                "\n## A sender's whole packet\n\nProcessor time of one send of 64 bytes over equal veth pairs, each of which carries \
                 one arm, taken in turns; nanoseconds. 10⁹ through this is packets per second of one sender. Senders go on at the \
                 same time, one per processor, through the same programs and maps.\n",
            );
        }
        let senders = number(&measure["senders"]);
        let _ = write!(text, "\n{senders:.0} sender{}:\n\n", if senders > 1.0 { "s" } else { "" });
        arms_table(text, measure, "ns");
    }
}

fn floods(text: &mut String, result: &Value) {
    for (_, measure) in figures(result, "flood") {
        text.push_str(
            "\n## Every packet hit and written down\n\nOne sender of the target, as fast as it can; all its datagrams are lost, and \
             `--events` tells of each. Medians.\n\n\
             | events | ns per send | added | sent in a second | written | lost and counted |\n|---|---|---|---|---|---|\n",
        );
        let events = measure["events"].as_array().into_iter().flatten();
        for (arm, events) in arms(measure).zip(events) {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {:.0} |",
                arm["arm"].as_str().unwrap_or_default(),
                number(&arm["median"]),
                added(arm),
                number(&events["per_second"]),
                number(&events["written"]),
                number(&events["lost"]),
            );
        }
    }
}

fn calls(text: &mut String, result: &Value) {
    for (step, measure) in figures(result, "hooked_read") {
        let _ = write!(
            text,
            "\n## A read by {} on {}\n\nA read of one byte of /dev/zero on a machine that counts instructions: the least of many \
             batches, per call.\n\n",
            measure["way"].as_str().unwrap_or_default(),
            step.trim_start_matches("vm "),
        );
        arms_table(text, measure, "instructions");
    }
    for (step, measure) in figures(result, "hooked_connect") {
        let _ = write!(
            text,
            "\n## A connect by the cgroup's socket hook on {}\n\nconnect(2) of a UDP socket to 127.0.0.1, counted likewise. The hook \
             is of the target's cgroup: in any other nothing runs.\n\n",
            step.trim_start_matches("vm "),
        );
        arms_table(text, measure, "instructions");
    }
}

fn latency(text: &mut String, result: &Value) {
    if figures(result, "latency").next().is_none() {
        return;
    }
    text.push_str(
        "\n## How long it takes to begin and to end\n\nMilliseconds, as felt by a target that sends itself a datagram every 0.1 ms \
         over lo. Links: devices in its network namespace.\n\n\
         | what | links | n | least | p50 | p90 | p99 | worst |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (_, measure) in figures(result, "latency") {
        let ms = &measure["ms"];
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            measure["what"].as_str().unwrap_or_default(),
            measure["links"],
            ms["n"],
            number(&ms["min"]),
            number(&ms["p50"]),
            number(&ms["p90"]),
            number(&ms["p99"]),
            number(&ms["max"]),
        );
    }
}

fn peers(text: &mut String, result: &Value) {
    let mut last = String::new();
    for (step, measure) in figures(result, "peer") {
        let what = measure["what"].as_str().unwrap_or_default();
        if what != last {
            let _ = write!(
                text,
                "\n## {what}, by kchaos and by others, on {}\n\n| by | target felt | somebody else on the machine | \
                 set-up ms | undo ms | left after kill -9 |\n|---|---|---|---|---|---|\n",
                step.trim_start_matches("vm "),
            );
            what.clone_into(&mut last);
        }
        let field = |name: &str| measure[name].as_str().unwrap_or("-").to_owned();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            field("by"),
            field("felt"),
            field("bystander"),
            field("setup_ms"),
            field("undo_ms"),
            field("left"),
        );
    }
    if !last.is_empty() {
        text.push_str(
            "\nbcc's `inject` is not here: it makes allocations and block requests fail below a chain of kernel functions \
             (`should_failslab`, `should_fail_bio`, `should_fail_alloc_page`), no packets, and no call with an errno to choose.\n",
        );
    }
}
