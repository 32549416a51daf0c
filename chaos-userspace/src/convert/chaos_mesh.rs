//! Chaos Mesh (`chaos-mesh.org/v1alpha1`): what its kinds have in common, and its schedules and workflows.

use super::{
    Options, chaos_mesh_io, chaos_mesh_network,
    draft::{Draft, Out},
    source::{Fields, scalar},
    table::{Fate, Table},
    target,
};
use crate::experiment::yaml::{Node, Value};

/// Reads a NetworkChaos, an IOChaos, or a Schedule of one.
pub fn read(node: &Node, options: &Options, draft: &mut Draft, table: &mut Table) {
    let Some(mut document) = Fields::of(node, "", table) else { return };
    if let Some((path, _)) = document.text("apiVersion", table) {
        table.exact(&path, "kchaos.dev/v1alpha1");
    }
    let kind = document.text("kind", table).map(|(path, kind)| {
        table.exact(&path, "kind: Experiment");
        kind
    });
    let kind = kind.unwrap_or_default();
    draft.origin = format!("{kind} of Chaos Mesh");
    draft.name = kind.to_lowercase();
    if let Some(metadata) = document.map("metadata", table) {
        read_metadata(metadata, draft, table);
    }
    document.without("status", "left out: it is the state of a cluster", table);
    match document.map("spec", table) {
        Some(spec) if kind == "Schedule" => read_schedule(spec, options, draft, table),
        Some(spec) => read_chaos(kind, spec, options, draft, table),
        None => table.refused("spec", "it is missing"),
    }
    document.rest(table);
}

fn read_chaos(kind: &str, spec: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let mode = spec.path("mode");
    if kind == "IOChaos" {
        chaos_mesh_io::read(spec, options, draft, table);
    } else {
        chaos_mesh_network::read(spec, options, draft, table);
    }
    // Without a mode that is known, more would be hit than was asked for.
    if table.0.iter().any(|row| row.field == mode && row.fate == Fate::Refused) {
        draft.faults.clear();
    }
}

/// The kinds that are read, and what they are called where they are part of something else.
const KINDS: [(&str, &str); 2] = [("NetworkChaos", "networkChaos"), ("IOChaos", "ioChaos")];
/// Other things that are scheduled.
const OTHER_KINDS: [&str; 12] = [
    "awsChaos",
    "azureChaos",
    "blockChaos",
    "dnsChaos",
    "gcpChaos",
    "httpChaos",
    "jvmChaos",
    "kernelChaos",
    "physicalmachineChaos",
    "podChaos",
    "stressChaos",
    "timeChaos",
];

/// Reads what a Schedule repeats: the file says it once.
fn read_schedule(mut spec: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    spec.without(
        "schedule",
        "left out: a file acts once when it is started: start it at these times, by a timer of systemd or by cron",
        table,
    );
    for name in ["startingDeadlineSeconds", "concurrencyPolicy", "historyLimit"] {
        spec.without(name, "left out: see schedule", table);
    }
    let mut kind = None;
    match spec.text("type", table) {
        Some((path, text)) => match KINDS.iter().find(|(name, _)| *name == text) {
            Some(found) => {
                table.exact(&path, "see its fields");
                kind = Some(found);
            }
            None => table.refused(&path, format!("'{text}' is not read: NetworkChaos and IOChaos are")),
        },
        None => table.refused(&spec.path("type"), "it is missing: write NetworkChaos or IOChaos"),
    }
    for name in OTHER_KINDS {
        spec.refuse(name, "NetworkChaos and IOChaos are read", table);
    }
    spec.refuse("workflow", "convert the faults of its templates, each by itself", table);
    for (name, part) in KINDS {
        if kind.is_none_or(|(known, _)| *known != name) {
            spec.refuse(part, "the type does not use it: take it out", table);
            continue;
        }
        match spec.map(part, table) {
            Some(fields) => read_chaos(name, fields, options, draft, table),
            None => table.refused(&spec.path(part), "it is missing: it says what the type does"),
        }
    }
    spec.rest(table);
}

/// What to do with a Workflow, whose faults are read each by itself.
pub fn workflow(node: &Node) -> String {
    let entry = |node: &'_ Node, name: &str| match &node.value {
        Value::Map(fields) => {
            fields.iter().find(|(given, _, _)| given == name).map(|(_, _, node)| node.clone())
        }
        _ => None,
    };
    let templates = entry(node, "spec").and_then(|spec| entry(&spec, "templates"));
    let mut found = vec![];
    if let Some(Node { value: Value::List(templates), .. }) = templates {
        for template in &templates {
            let name = entry(template, "name");
            let name = name.as_ref().and_then(scalar).unwrap_or("without a name");
            for (kind, part) in KINDS {
                if entry(template, part).is_some() {
                    found.push(format!("{name:?} ({part}: kind: {kind})"));
                }
            }
        }
    }
    let which = if found.is_empty() { "it has none".to_owned() } else { found.join(", ") };
    format!(
        "a Workflow is not converted as a whole: order, deadlines, branches and status checks are stages and steadyState of an experiment (docs/experiments.md). Make a file of its own of each template with networkChaos or ioChaos - {which} - with these fields as spec and the template's deadline as duration, and convert that"
    )
}

/// Reads the metadata of an object of Kubernetes.
pub fn read_metadata(mut metadata: Fields<'_>, draft: &mut Draft, table: &mut Table) {
    if let Some((path, name)) = metadata.text("name", table) {
        table.exact(&path, format!("metadata.name: {name}"));
        draft.name = name.to_owned();
    }
    metadata.without("namespace", "left out: a host has no namespaces of Kubernetes", table);
    metadata.without("generateName", "left out: name the experiment", table);
    for (name, is_label) in [("labels", true), ("annotations", false)] {
        let Some((path, node)) = metadata.take(name, table) else { continue };
        let Some(kept) = strings(node) else {
            table.refused(&path, "it is no mapping of texts");
            continue;
        };
        table.exact(&path, format!("metadata.{name}"));
        *(if is_label { &mut draft.labels } else { &mut draft.annotations }) = kept;
    }
    metadata.rest(table);
}

fn strings(node: &Node) -> Option<Vec<(String, Out)>> {
    let Value::Map(fields) = &node.value else { return None };
    fields.iter().map(|(name, _, value)| Some((name.clone(), Out::text(scalar(value)?)))).collect()
}

/// Reads how long, in Go's words.
pub fn read_duration(spec: &mut Fields<'_>, draft: &mut Draft, table: &mut Table) {
    if let Some(time) = spec.duration("duration", "duration", table) {
        draft.duration = Some(time);
    }
}

/// Reads what all kinds have: who, how many, how long.
pub fn read_common(spec: &mut Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    match spec.take("selector", table) {
        Some((path, _)) => target(&path, options, table),
        None => table.refused(
            &spec.path("selector"),
            "it is missing or empty, which selects everything: name who is hit, with --target and here",
        ),
    }
    let value = spec.text("value", table);
    read_mode(spec, value, draft, table);
    read_duration(spec, draft, table);
    spec.refuse("remoteCluster", "kchaos works on the host it is started on: run the file there", table);
}

fn read_mode(spec: &mut Fields<'_>, value: Option<(String, &str)>, draft: &mut Draft, table: &mut Table) {
    let Some((path, mode)) = spec.text("mode", table) else {
        table.refused(
            &spec.path("mode"),
            "it is missing: write one, all, fixed, fixed-percent or random-max-percent",
        );
        return;
    };
    let number = value.as_ref().map(|(_, text)| text.trim()).unwrap_or_default();
    let whole = number.parse::<u32>().ok().filter(|number| *number > 0);
    let percent = whole.filter(|number| *number <= 100);
    let count = match (mode, whole, percent) {
        ("all", ..) => None,
        ("one", ..) => Some("one".to_owned()),
        ("fixed", Some(number), _) => Some(number.to_string()),
        ("fixed-percent", _, Some(percent)) => Some(format!("{percent}%")),
        ("random-max-percent", _, Some(percent)) => Some(format!("random-max:{percent}%")),
        ("fixed" | "fixed-percent" | "random-max-percent", ..) => {
            let at = value.map_or_else(|| spec.path("value"), |(path, _)| path);
            table.refused(&at, format!("'{number}' is no number that {mode} can have"));
            table.refused(&path, "its value is missing or wrong");
            return;
        }
        _ => {
            table.refused(
                &path,
                format!("'{mode}' is not one of one, all, fixed, fixed-percent, random-max-percent"),
            );
            if let Some((path, _)) = value {
                table.refused(&path, "it goes with the mode");
            }
            return;
        }
    };
    match &count {
        None => table.exact(&path, "all targets"),
        Some(count) => table.approximated(
            &path,
            format!("selection.count: {count}, of the targets on this host instead of pods of the cluster"),
        ),
    }
    if let Some((at, _)) = value {
        let note = if whole.is_some() && !matches!(mode, "all" | "one") {
            "see mode"
        } else {
            "the mode has no value"
        };
        table.exact(&at, note);
    }
    draft.count = count;
}
