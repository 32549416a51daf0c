//! What teams already have in git, as an experiment file of ours.
//!
//! Every field of a source ends in the [`table::Table`]: it means the same, nearly the same (and where it differs), or it
//! is refused (and why). What is written has been read by [`experiment::read`].

mod chaos_mesh;
mod chaos_mesh_io;
mod chaos_mesh_network;
mod chaos_toolkit;
mod chaos_toolkit_constants;
mod chaos_toolkit_probe;
mod chaos_toolkit_tolerance;
mod datadog;
mod datadog_disk;
mod datadog_hosts;
mod datadog_network;
mod draft;
mod netem;
mod packets;
mod pumba;
mod pumba_iptables;
mod pumba_netem;
mod source;
pub mod table;
mod tc;
mod units;

use crate::experiment::{
    self,
    yaml::{self, Node, Value},
};
use draft::{Draft, Out};
use source::scalar;
use table::Table;

/// What is read.
const KNOWN: &str = "NetworkChaos and IOChaos of chaos-mesh.org/v1alpha1, alone or in a Schedule, Disruption of chaos.datadoghq.com/v1beta1, experiments of Chaos Toolkit, and command lines of tc (netem, tbf) and pumba (netem, iptables) are read";

/// What a source cannot say of this host.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who stands for the source's containers: `unit`, `cgroup` or `container`, and its name.
    pub targets: Vec<(String, String)>,
    /// Who stands for the peers that the source selects.
    pub remotes: Vec<String>,
    /// How long, where the source says nothing.
    pub duration: Option<String>,
}

/// A source that was read.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The file; without refusals it says all that the source says. `None` if nothing that can be read is left.
    pub file: Option<String>,
    /// What became of every field.
    pub table: Table,
}

/// Converts a source; what is no source at all is an error.
pub fn convert(text: &str, options: &Options) -> Result<Converted, String> {
    let mut table = Table::default();
    let mut draft = Draft::default();
    if let Some(lines) = commands(text)? {
        read_commands(&lines, options, &mut draft, &mut table);
    } else {
        let node = document(text)?;
        read_document(&node, options, &mut draft, &mut table)?;
    }
    finish(draft, options, table)
}

/// The words of a text's command lines, if it is one.
fn commands(text: &str) -> Result<Option<Vec<Vec<String>>>, String> {
    let joined = text.replace("\\\n", " ");
    let lines: Vec<_> = joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.strip_prefix("$ ").unwrap_or(line))
        .collect();
    let known = |line: &&str| {
        matches!(program(line), "tc" | "sudo" | "kchaos" | "pumba" | "docker" | "podman" | "nerdctl")
    };
    if !lines.first().is_some_and(known) {
        return Ok(None);
    }
    let words = |line: &&str| {
        shlex::split(line).ok_or_else(|| format!("a quote or a backslash is left open in: {line}"))
    };
    lines.iter().map(words).collect::<Result<Vec<_>, _>>().map(Some)
}

/// The name of a line's program.
fn program(line: &str) -> &str {
    let word = line.split_whitespace().next().unwrap_or_default();
    word.rsplit('/').next().unwrap_or_default()
}

fn read_commands(lines: &[Vec<String>], options: &Options, draft: &mut Draft, table: &mut Table) {
    for words in lines {
        let mut words = words.as_slice();
        if words.first().is_some_and(|word| program(word) == "sudo") {
            table.exact("sudo", "the file is run by root");
            words = &words[1..];
        }
        match words.first().map(|word| program(word)) {
            Some("tc") => tc::read(&words[1..], options, draft, table),
            Some("kchaos") if matches!(words.get(1).map(String::as_str), Some("stop" | "halt" | "clean")) => {
                table.exact(&words.join(" "), "kchaos takes away everything itself, at the end of duration");
            }
            Some("kchaos") => table.refused(
                &words.join(" "),
                "kchaos itself: write its flags as fields of a fault in the file (--loss 5% is network: {loss: 5%}, --remote-port 443 is match: {remotePorts: [443]}; docs/experiments.md), its target as --target, and its time as --duration",
            ),
            _ => match pumba::is_it(words) {
                Some(own) => pumba::read(words, own, options, draft, table),
                None => table.refused(&words.join(" "), "no line of tc or pumba: take it out"),
            },
        }
    }
}

fn document(text: &str) -> Result<Node, String> {
    let mut documents = yaml::read(text).map_err(|error| format!("{}: {}; {KNOWN}", error.at, error.text))?;
    documents.retain(|document| !document.value.is_empty());
    match (documents.len(), documents.pop()) {
        (1, Some(document)) => Ok(document),
        (count, _) => {
            Err(format!("{count} documents stand in the file: convert each one by itself; {KNOWN}"))
        }
    }
}

fn read_document(node: &Node, options: &Options, draft: &mut Draft, table: &mut Table) -> Result<(), String> {
    let entry = |name: &str| match &node.value {
        Value::Map(fields) => {
            fields.iter().find(|(given, _, _)| given == name).and_then(|(_, _, node)| scalar(node))
        }
        _ => None,
    };
    match (entry("apiVersion"), entry("kind")) {
        (Some("chaos-mesh.org/v1alpha1"), Some("NetworkChaos" | "IOChaos" | "Schedule")) => {
            chaos_mesh::read(node, options, draft, table);
            Ok(())
        }
        (Some("chaos-mesh.org/v1alpha1"), Some("Workflow")) => Err(chaos_mesh::workflow(node)),
        (Some("chaos.datadoghq.com/v1beta1"), Some("Disruption")) => {
            datadog::read(node, options, draft, table);
            Ok(())
        }
        (Some("kchaos.dev/v1alpha1"), _) => Err("this is a file of kchaos already: run it".to_owned()),
        (Some(version), Some(kind)) => Err(format!("{kind} of {version} is not converted: {KNOWN}")),
        (None, None) if chaos_toolkit::is_it(node) => {
            chaos_toolkit::read(node, options, draft, table);
            Ok(())
        }
        _ => Err(format!("this is no source that is known: {KNOWN}")),
    }
}

/// Says who stands for what the source selects.
fn target(field: &str, options: &Options, table: &mut Table) {
    if options.targets.is_empty() {
        table.refused(
            field,
            "who this is cannot be found out on one host: say it with --target unit=NAME, cgroup=PATH or container=ID",
        );
    } else {
        let names: Vec<_> = options.targets.iter().map(|(kind, name)| format!("{kind}={name}")).collect();
        table.approximated(field, format!("--target {} stands for it", names.join(", ")));
    }
}

/// Adds what the command line says, and has the file read by the reader of experiments.
fn finish(mut draft: Draft, options: &Options, mut table: Table) -> Result<Converted, String> {
    draft.targets =
        options.targets.iter().map(|(kind, name)| Out::map([(kind.as_str(), Out::text(name))])).collect();
    if draft.hypothesis.is_none() {
        table.approximated("(hypothesis)", "the source has none: write what you believe");
    }
    match (&draft.duration, &options.duration) {
        (Some(_), Some(_)) => {
            return Err("--duration: the source has a duration of its own: leave the flag out".to_owned());
        }
        (None, Some(given)) => {
            draft.duration = Some(units::go_duration(given).map_err(|why| format!("--duration: {why}"))?);
            table.approximated("(duration)", format!("the source has none: --duration {given}"));
        }
        (None, None) => {
            table.refused("(duration)", "the source has none that can be kept: add --duration 60s")
        }
        (Some(_), None) => {}
    }
    if draft.faults.is_empty() && table.refusals() == 0 {
        table.refused("(faults)", "the source inflicts nothing");
    }
    let text = draft.text();
    let file = match experiment::read("the file", &text) {
        Ok(_) => Some(text),
        Err(error) => {
            // What was refused leaves holes: only what a file without refusals lacks is news.
            if table.refusals() == 0 {
                for problem in error.problems {
                    table.refused(&format!("(file) {}", problem.path), problem.text);
                }
            }
            None
        }
    };
    Ok(Converted { file, table })
}

#[cfg(test)]
mod tests;
