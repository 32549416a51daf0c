//! Disruption of Datadog's chaos-controller (`chaos.datadoghq.com/v1beta1`): who, how many, how long, and what it is about.

use super::{
    Options,
    chaos_mesh::{read_duration, read_metadata},
    datadog_disk, datadog_network,
    draft::{Draft, Out},
    source::Fields,
    table::Table,
    target, units,
};
use crate::experiment::yaml::Node;

/// What is done to something else than packets and calls.
const OTHERS: [(&str, &str); 8] = [
    ("cpuPressure", "kchaos makes no load: use stress-ng in the cgroup of the target"),
    ("memoryPressure", "kchaos makes no load: use stress-ng, or memory.high of the target's cgroup"),
    ("diskPressure", "kchaos slows no disks: set io.max of the target's cgroup"),
    ("nodeFailure", "kchaos ends no machines"),
    ("containerFailure", "kchaos ends no processes: use kill, or the container's runtime"),
    ("podReplacement", "kchaos replaces no pods: use kubectl"),
    ("dns", "kchaos changes no answers: write network faults on port 53 (examples/dns-outage.yaml)"),
    ("grpc", "kchaos does not look into requests: write network faults on the service's port"),
];

/// Reads a Disruption.
pub fn read(node: &Node, options: &Options, draft: &mut Draft, table: &mut Table) {
    let Some(mut document) = Fields::of(node, "", table) else { return };
    for (name, ours) in [("apiVersion", "kchaos.dev/v1alpha1"), ("kind", "kind: Experiment")] {
        if let Some((path, _)) = document.text(name, table) {
            table.exact(&path, ours);
        }
    }
    draft.origin = "a Disruption of Datadog's chaos-controller".to_owned();
    draft.name = "disruption".to_owned();
    if let Some(metadata) = document.map("metadata", table) {
        read_metadata(metadata, draft, table);
    }
    document.without("status", "left out: it is the state of a cluster", table);
    match document.map("spec", table) {
        Some(spec) => read_spec(spec, options, draft, table),
        None => table.refused("spec", "it is missing"),
    }
    document.rest(table);
}

fn read_spec(mut spec: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let mut bounded = read_who(&mut spec, options, draft, table);
    read_duration(&mut spec, draft, table);
    let offset = read_triggers(&mut spec, draft, table);
    bounded &= read_pulse(&mut spec, offset, draft, table);
    if let Some((path, text)) = spec.text("dryRun", table) {
        match text {
            "true" => {
                table.approximated(
                    &path,
                    "mode: observe, which counts what would be hit; kchaos plan says what would be done",
                );
                draft.observes = true;
            }
            "false" => table.exact(&path, "faults are inflicted"),
            other => {
                table.refused(&path, format!("'{other}' is not one of true, false"));
                bounded = false;
            }
        }
    }
    if let Some((path, text)) = spec.text("maxRuns", table) {
        match text {
            "1" => table.exact(&path, "an experiment is run once"),
            _ => table.refused(&path, "an experiment is run once: start the file as often as you want it"),
        }
    }
    if let Some((path, text)) = spec.text("onInit", table) {
        match text {
            "false" => table.exact(&path, "targets that run"),
            _ => table.refused(&path, "kchaos hits no pods that are made: start the service by kchaos exec"),
        }
    }
    read_unsafe_mode(&mut spec, table);
    spec.without(
        "staticTargeting",
        "left out: those are hit that are there at the start, and their descendants",
        table,
    );
    spec.without("allowDisruptedTargets", "left out: who else hits the targets is told by plan", table);
    spec.all_without(
        "reporting",
        &["slackChannel", "slackUserEmail", "purpose", "minNotificationType"],
        "left out: reports are files (--report)",
        table,
    );
    for (kind, why) in OTHERS {
        spec.refuse(kind, why, table);
    }
    if let Some(network) = spec.map("network", table) {
        datadog_network::read(network, options, draft, table);
    }
    if let Some(disk) = spec.map("diskFailure", table) {
        datadog_disk::read(disk, draft, table);
    }
    spec.rest(table);
    // Without what bounds them, faults would hit more than was asked for.
    if !bounded {
        draft.faults.clear();
    }
}

/// Who is hit; false if the level or the count cannot be said.
fn read_who(spec: &mut Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) -> bool {
    let mut is_chosen = false;
    for name in ["selector", "advancedSelector", "filter", "containers"] {
        if let Some((path, _)) = spec.take(name, table) {
            target(&path, options, table);
            is_chosen = true;
        }
    }
    if !is_chosen {
        table.refused("spec.selector", "it is missing or empty: name who is hit, with --target and here");
    }
    let mut is_counted = true;
    match spec.text("count", table) {
        None => {
            table.refused("spec.count", "it is missing: write a number or a percentage");
            is_counted = false;
        }
        Some((path, text)) => {
            let share = text.strip_suffix('%').map(str::parse::<u32>);
            match (share, text.parse::<u32>()) {
                (Some(Ok(100)), _) => table.exact(&path, "all targets"),
                (Some(Ok(1..100)), _) | (None, Ok(1..)) => {
                    table.approximated(
                        &path,
                        format!("selection.count: {text}, of the targets on this host instead of pods of the cluster"),
                    );
                    draft.count = Some(text.to_owned());
                }
                _ => {
                    table.refused(
                        &path,
                        format!("'{text}' is neither a number above 0 nor a percentage from 1% to 100%"),
                    );
                    is_counted = false;
                }
            }
        }
    }
    let is_pod = match spec.text("level", table) {
        None => true,
        Some((path, "pod")) => {
            table.exact(&path, "the target's cgroup");
            true
        }
        Some((path, "node")) => {
            table.refused(
                &path,
                "kchaos hits cgroups and no host as a whole: name its services with --target and write pod",
            );
            false
        }
        Some((path, other)) => {
            table.refused(&path, format!("'{other}' is not one of pod, node"));
            false
        }
    };
    is_pod && is_counted
}

/// Nets that their controller is told to leave out: kchaos has others.
fn read_unsafe_mode(spec: &mut Fields<'_>, table: &mut Table) {
    const WHY: &str = "left out: kchaos has nets of its own, which say how to pass them (allow)";
    let Some(mut mode) = spec.map("unsafeMode", table) else { return };
    for name in [
        "disableAll",
        "disableCountTooLarge",
        "disableNeitherHostNorPort",
        "disableSpecificContainDisk",
        "allowRootDiskFailure",
    ] {
        mode.without(name, WHY, table);
    }
    if let Some(mut config) = mode.map("config", table) {
        config.all_without("countTooLarge", &["namespaceThreshold", "clusterThreshold"], WHY, table);
        config.rest(table);
    }
    mode.rest(table);
}

/// How long after its beginning the Disruption acts. Theirs counts `duration` from there.
fn read_triggers(spec: &mut Fields<'_>, draft: &mut Draft, table: &mut Table) -> Vec<String> {
    let mut offsets: Vec<String> = vec![];
    let Some(mut triggers) = spec.map("triggers", table) else { return offsets };
    // Injecting is put off from the moment on at which pods may be created.
    for name in ["createPods", "inject"] {
        let Some(mut trigger) = triggers.map(name, table) else { continue };
        trigger.without(
            "notBefore",
            "left out: a file acts when it is started: start it then, by a timer of systemd or by at",
            table,
        );
        if let Some((path, text)) = trigger.text("offset", table) {
            match units::go_duration(text) {
                Ok(time) if units::is_zero(&time) => table.exact(&path, "none"),
                Ok(time) => {
                    let note = format!("{time} of schedule.start.after");
                    if draft.duration.is_some() {
                        table.exact(&path, note + ", by which duration is longer");
                    } else {
                        let differs = "theirs counts the duration from there: make --duration so much longer";
                        table.approximated(&path, format!("{note}; {differs}"));
                    }
                    offsets.push(time);
                }
                Err(why) => table.refused(&path, why),
            }
        }
        trigger.rest(table);
    }
    triggers.rest(table);
    if let Some(duration) = &draft.duration
        && let Ok(longer) = units::sum(&longer_by(&offsets, duration))
        && !offsets.is_empty()
    {
        draft.duration = Some(longer);
    }
    offsets
}

fn longer_by<'a>(offsets: &'a [String], time: &'a str) -> Vec<&'a str> {
    offsets.iter().map(String::as_str).chain([time]).collect()
}

/// When the faults act, `offsets` behind the beginning; false if it cannot be said.
fn read_pulse(spec: &mut Fields<'_>, offsets: Vec<String>, draft: &mut Draft, table: &mut Table) -> bool {
    let refusals = table.refusals();
    let mut waits = offsets;
    let mut turns = None;
    if let Some(mut pulse) = spec.map("pulse", table) {
        let mut time = |name: &str, becomes: &str| {
            pulse.duration(name, becomes, table).filter(|time| !units::is_zero(time))
        };
        waits.extend(time("initialDelay", "schedule.start.after"));
        let (on, off) =
            (time("activeDuration", "schedule.pulse.on"), time("dormantDuration", "schedule.pulse.off"));
        match (on, off) {
            (Some(on), Some(off)) => turns = Some(Out::map([("on", Out::text(on)), ("off", Out::text(off))])),
            // Theirs acts all the time behind the delay then.
            (None, None) => {}
            (on, _) => {
                let missing = if on.is_none() { "activeDuration" } else { "dormantDuration" };
                table.refused(
                    &format!("({})", pulse.path(missing)),
                    "it is missing or none: a pulse acts and rests in turn, write both or neither",
                );
            }
        }
        pulse.rest(table);
    }
    let waits: Vec<&str> = waits.iter().map(String::as_str).collect();
    let start = match units::sum(&waits) {
        Ok(after) if !waits.is_empty() => Out::map([("after", Out::text(after))]),
        _ => Out::Map(vec![]),
    };
    let schedule = Out::map([("start", start), ("pulse", turns.unwrap_or(Out::Map(vec![])))]);
    draft.schedule = Some(schedule).filter(|schedule| *schedule != Out::Map(vec![]));
    table.refusals() == refusals
}
