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
    bounded &= read_pulse(&mut spec, draft, table);
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
    spec.without("triggers", "left out: start the file when it is to begin", table);
    spec.without(
        "unsafeMode",
        "left out: kchaos has nets of its own, which say how to pass them (allow)",
        table,
    );
    spec.without(
        "staticTargeting",
        "left out: those are hit that are there at the start, and their descendants",
        table,
    );
    spec.without("allowDisruptedTargets", "left out: who else hits the targets is told by plan", table);
    spec.without("reporting", "left out: reports are files (--report)", table);
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

/// When the faults act; false if it cannot be said.
fn read_pulse(spec: &mut Fields<'_>, draft: &mut Draft, table: &mut Table) -> bool {
    let Some(mut pulse) = spec.map("pulse", table) else { return true };
    let refusals = table.refusals();
    let mut time = |name: &str, ours: &str| match pulse.text(name, table) {
        Some((path, text)) => match units::go_duration(text) {
            Ok(time) => {
                table.exact(&path, format!("schedule.{ours}: {time}"));
                Some(time)
            }
            Err(why) => {
                table.refused(&path, why);
                None
            }
        },
        None if ours.starts_with("pulse") => {
            table.refused(&pulse.path(name), "it is missing: a pulse acts and rests in turn");
            None
        }
        None => None,
    };
    let delay = time("initialDelay", "start.after").filter(|time| !units::is_zero(time));
    let (on, off) = (time("activeDuration", "pulse.on"), time("dormantDuration", "pulse.off"));
    if let (Some(on), Some(off)) = (on, off) {
        let start = delay.map_or(Out::Map(vec![]), |delay| Out::map([("after", Out::text(delay))]));
        let pulse = Out::map([("on", Out::text(on)), ("off", Out::text(off))]);
        draft.schedule = Some(Out::map([("start", start), ("pulse", pulse)]));
    }
    pulse.rest(table);
    table.refusals() == refusals
}
