//! Command lines of pumba, read as its cmd/commands.go and cmd/flags.go read them: what all its commands have in common.

use super::{Options, draft::Draft, program, pumba_iptables, pumba_netem, table::Table, target, units};

const ANY_DEVICE: &str = "all devices of the target's network namespaces, one or more";

/// Flags of pumba itself without a value.
const SWITCHES: [&str; 8] = ["random", "r", "json", "j", "dry-run", "skip-error", "tls", "tlsverify"];

/// A flag of a line, and all the words it is written in.
pub struct Flag {
    /// Without its dashes.
    pub name: String,
    /// Empty if it has none.
    pub value: String,
    /// As it stands in the line.
    pub field: String,
}

/// The words of a line, taken apart.
pub struct Words<'a> {
    left: &'a [String],
}

impl Words<'_> {
    /// The next flag; `None` if something else comes, or nothing. `switches` have no value.
    pub fn flag(&mut self, switches: &[&str]) -> Option<Flag> {
        let (first, rest) = self.left.split_first()?;
        let name = first.strip_prefix('-')?;
        let name = name.strip_prefix('-').unwrap_or(name);
        self.left = rest;
        if let Some((name, value)) = name.split_once('=') {
            return Some(Flag { name: name.to_owned(), value: value.to_owned(), field: first.clone() });
        }
        let (name, mut field, mut value) = (name.to_owned(), first.clone(), String::new());
        if !switches.contains(&name.as_str())
            && let Some((next, rest)) = self.left.split_first()
        {
            self.left = rest;
            field = format!("{field} {next}");
            next.clone_into(&mut value);
        }
        Some(Flag { name, value, field })
    }

    /// The next word.
    pub fn word(&mut self) -> Option<String> {
        let (first, rest) = self.left.split_first()?;
        self.left = rest;
        Some(first.clone())
    }

    /// What is left, as one text.
    pub fn rest(&self) -> String {
        self.left.join(" ")
    }
}

/// Whether a line runs pumba: by its own name, or as a container of its image.
pub fn is_it(words: &[String]) -> Option<usize> {
    let name = |word: &str| {
        let image = word.rsplit('/').next().unwrap_or_default();
        image.split([':', '@']).next() == Some("pumba")
    };
    match program(words.first()?) {
        "pumba" => Some(0),
        // An image with its registry, rather than what the container is called.
        "docker" | "podman" | "nerdctl" => words
            .iter()
            .position(|word| word.contains('/') && name(word))
            .or_else(|| words.iter().position(|word| name(word))),
        _ => None,
    }
}

/// Reads a line, of which the word at `own` is pumba.
pub fn read(words: &[String], own: usize, options: &Options, draft: &mut Draft, table: &mut Table) {
    let all = words.join(" ");
    if !draft.faults.is_empty() {
        return table.refused(&all, "a second command: convert each line by itself");
    }
    "a command line of pumba".clone_into(&mut draft.origin);
    let (around, words) = words.split_at(own);
    let (pumba, words) = words.split_first().map_or(("", words), |(first, rest)| (first.as_str(), rest));
    table.exact(format!("{} {pumba}", around.join(" ")).trim(), "kchaos runs on the host");
    let mut words = Words { left: words };
    while let Some(flag) = words.flag(&SWITCHES) {
        global(&flag, draft, table);
    }
    match words.word().as_deref() {
        Some("netem") => {
            table.exact("netem", "network");
            pumba_netem::read(words, options, draft, table);
        }
        Some("iptables") => {
            table.exact("iptables", "network, direction: ingress");
            pumba_iptables::read(words, options, draft, table);
        }
        command => {
            let rest = format!("{} {}", command.unwrap_or("(command)"), words.rest());
            table.refused(
                rest.trim(),
                "only netem and iptables are read: kchaos ends and stops no containers, and makes no load",
            );
        }
    }
}

/// Says who stands for the containers that a line names.
pub fn containers(words: &Words<'_>, options: &Options, table: &mut Table) {
    let names = words.rest();
    target(if names.is_empty() { "(containers)" } else { &names }, options, table);
}

/// Whether a flag names a device.
pub fn is_device(flag: &Flag) -> bool {
    matches!(flag.name.as_str(), "interface" | "i")
}

/// Says what becomes of the device that pumba takes if none is named.
pub fn any_device(is_named: bool, table: &mut Table) {
    if !is_named {
        table.approximated("(interface)", format!("{ANY_DEVICE}; pumba takes eth0 if nothing is said"));
    }
}

/// Reads a flag that all commands have; false if it is none.
pub fn common(flag: &Flag, draft: &mut Draft, table: &mut Table) -> bool {
    let Flag { name, value, field } = flag;
    match name.as_str() {
        "duration" | "d" => match units::go_duration(value) {
            Ok(duration) => {
                table.exact(field, format!("duration: {duration}"));
                draft.duration = Some(duration);
            }
            Err(why) => table.refused(field, why),
        },
        "interface" | "i" => table.approximated(field, ANY_DEVICE),
        "tc-image" | "iptables-image" | "pull-image" => {
            table.exact(field, "kchaos needs no image, no tc and no iptables");
        }
        "limit" => match value.parse::<u32>() {
            Ok(0) => table.exact(field, "all targets"),
            Ok(count) => {
                table.approximated(
                    field,
                    format!("selection.count: {count}, drawn anew; pumba takes the first"),
                );
                draft.count = Some(count.to_string());
            }
            Err(_) => table.refused(field, format!("'{value}' is no number of targets")),
        },
        _ => return false,
    }
    true
}

/// A list of ports, with commas between them.
pub fn ports(text: &str) -> Result<Vec<String>, String> {
    if text.split(',').all(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        Ok(text.split(',').map(str::to_owned).collect())
    } else {
        Err(format!("'{text}' is no list of ports from 1 to 65535"))
    }
}

fn global(flag: &Flag, draft: &mut Draft, table: &mut Table) {
    if SWITCHES.contains(&flag.name.as_str()) && flag.value == "false" {
        return table.exact(&flag.field, "as if it were not there");
    }
    match flag.name.as_str() {
        "random" | "r" => {
            draft.count = Some("one".to_owned());
            table.approximated(&flag.field, "selection.count: one, of the targets that are named");
        }
        "interval" | "i" => table.refused(
            &flag.field,
            "the file acts once: leave it out, and add schedule: {pulse: {on: ..., off: ...}} to the file",
        ),
        "dry-run" => {
            draft.observes = true;
            table.approximated(
                &flag.field,
                "mode: observe, which counts what would be hit; kchaos plan says what would be done",
            );
        }
        "label" => table.approximated(&flag.field, "left out: --target says who is meant"),
        "log-level"
        | "l"
        | "json"
        | "j"
        | "host"
        | "H"
        | "skip-error"
        | "runtime"
        | "tls"
        | "tlsverify"
        | "tlscacert"
        | "tlscert"
        | "tlskey"
        | "slackhook"
        | "slackchannel"
        | "containerd-namespace"
        | "containerd-socket"
        | "podman-socket" => {
            table.exact(&flag.field, "about pumba itself: kchaos asks no container runtime");
        }
        _ => table.refused(&flag.field, "no flag of pumba that is known: take it out"),
    }
}
