//! Command lines of pumba: `pumba netem --duration 5m delay --time 100 NAMES`. Those of iptables are in [`pumba_iptables`].
//!
//! Flags, defaults and the words it gives to tc are those of pumba's cmd/commands.go and pkg/chaos/netem.

use super::{
    Options, draft::Draft, packets::Packets, program, pumba_iptables, table::Table, target, tc::Line, units,
};
use std::collections::HashMap;

const FILTER: &str = "a fault of its own, on IPv4 and IPv6; pumba's filters know IPv4 only, and its band takes bulk packets of others too";

const ANY_DEVICE: &str = "all devices of the target's network namespaces, one or more";

/// Flags of pumba itself without a value.
const SWITCHES: [&str; 8] = ["random", "r", "json", "j", "dry-run", "skip-error", "tls", "tlsverify"];
/// Flags of its commands without a value.
const SWITCHES_OF_COMMANDS: [&str; 1] = ["pull-image"];

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
            netem(words, options, draft, table);
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

/// Reads what is behind `netem`.
fn netem(mut words: Words<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let mut filters = Filters::default();
    let mut is_device_named = false;
    while let Some(flag) = words.flag(&SWITCHES_OF_COMMANDS) {
        is_device_named |= is_device(&flag);
        filters.read(&flag, draft, table);
    }
    any_device(is_device_named, table);
    let Some(action) = words.word() else {
        return table.refused("(netem)", "it says not what happens: delay, loss, duplicate, corrupt or rate");
    };
    action.clone_into(&mut draft.name);
    let mut given = vec![];
    while let Some(flag) = words.flag(&[]) {
        given.push(flag);
    }
    let mut effects = Packets::default();
    action_of(&action, &given, &mut effects, table);
    containers(&words, options, table);
    filters.write(&action, &effects, draft, table);
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

/// What chooses the packets. Each filter is one more way to be chosen.
#[derive(Default)]
struct Filters {
    remotes: Vec<(String, Option<String>)>,
    local_ports: Vec<String>,
    remote_ports: Vec<String>,
    bad: bool,
}

impl Filters {
    fn read(&mut self, flag: &Flag, draft: &mut Draft, table: &mut Table) {
        if common(flag, draft, table) {
            return;
        }
        let Flag { name, value, field } = flag;
        match name.as_str() {
            "target" | "t" => match units::remote_and_port(value) {
                Ok((remote, None)) => {
                    table.approximated(field, format!("match.remote: {remote}: {FILTER}"));
                    self.remotes.push((remote, None));
                }
                Ok((_, Some(_))) => {
                    self.refuse(field, "pumba takes addresses and prefixes here, no ports", table)
                }
                Err(why) => self.refuse(field, why, table),
            },
            "egress-port" | "egressPort" | "ingress-port" | "ingressPort" => {
                let is_source = name.starts_with("egress");
                let (ports, ours) = if is_source {
                    (&mut self.local_ports, "match.localPorts: pumba's egress port is the source port")
                } else {
                    (
                        &mut self.remote_ports,
                        "match.remotePorts: pumba's ingress port is the destination port of packets that leave",
                    )
                };
                match self::ports(value) {
                    Ok(given) => {
                        ports.extend(given);
                        table.approximated(field, format!("{ours}; {FILTER}"));
                    }
                    Err(why) => self.refuse(field, why, table),
                }
            }
            _ => table.refused(field, "no flag of pumba's netem that is known: take it out"),
        }
    }

    fn refuse(&mut self, field: &str, why: impl Into<String>, table: &mut Table) {
        self.bad = true;
        table.refused(field, why);
    }

    fn write(self, action: &str, effects: &Packets, draft: &mut Draft, table: &mut Table) {
        let chosen =
            |packets: Packets| Packets { effects: effects.effects.clone(), unchosen: self.bad, ..packets };
        let mut ways = vec![];
        if !self.remotes.is_empty() {
            ways.push(("to", chosen(Packets { remotes: self.remotes, ..Packets::default() })));
        }
        if !self.local_ports.is_empty() {
            ways.push((
                "from-ports",
                chosen(Packets { local_ports: self.local_ports, ..Packets::default() }),
            ));
        }
        if !self.remote_ports.is_empty() {
            ways.push((
                "to-ports",
                chosen(Packets { remote_ports: self.remote_ports, ..Packets::default() }),
            ));
        }
        if ways.len() > 1 {
            table.approximated(
                "(filters)",
                "a fault for each: a packet that two of them choose is hit by both, and a rate is each one's own",
            );
        }
        if ways.is_empty() {
            return chosen(Packets::default()).write(action, draft, table);
        }
        let is_one = ways.len() == 1;
        for (way, packets) in ways {
            let name = if is_one { action.to_owned() } else { format!("{action}-{way}") };
            packets.write(&name, draft, table);
        }
    }
}

/// What happens, as the words that pumba gives to tc, which are then read as tc's.
fn action_of(action: &str, given: &[Flag], packets: &mut Packets, table: &mut Table) {
    // Name, short name, what pumba takes without it.
    type Known = (&'static str, &'static str, &'static str);
    let known: &[Known] = match action {
        "delay" => &[
            ("time", "t", "100"),
            ("jitter", "j", "10"),
            ("correlation", "c", "20"),
            ("distribution", "d", ""),
        ],
        "loss" | "corrupt" | "duplicate" => &[("percent", "p", "0"), ("correlation", "c", "0")],
        "loss-gemodel" => {
            &[("pg", "p", "0"), ("pb", "r", "100"), ("one-h", "one-h", "100"), ("one-k", "one-k", "0")]
        }
        "loss-state" => &[
            ("p13", "p13", "0"),
            ("p31", "p31", "100"),
            ("p32", "p32", "0"),
            ("p23", "p23", "100"),
            ("p14", "p14", "0"),
        ],
        "rate" => &[
            ("rate", "r", "100kbit"),
            ("packetoverhead", "p", "0"),
            ("cellsize", "s", "0"),
            ("celloverhead", "c", "0"),
        ],
        other => {
            return table.refused(
                other,
                "only delay, loss, loss-gemodel, loss-state, duplicate, corrupt and rate are read",
            );
        }
    };
    table.exact(action, "what netem does:");
    let mut values: HashMap<&str, &str> = known.iter().map(|(name, _, value)| (*name, *value)).collect();
    let mut is_known = true;
    for Flag { name, value, field } in given {
        match known.iter().find(|(long, short, _)| name == long || name == short) {
            Some((name, ..)) => {
                table.exact(field, format!("{name}, below in tc's words"));
                values.insert(name, value);
            }
            None => {
                is_known = false;
                table.refused(field, format!("no flag of pumba's {action} that is known: take it out"));
            }
        }
    }
    for (name, _, value) in known.iter().filter(|(_, _, value)| !matches!(*value, "" | "0")) {
        if values.get(name) == Some(value) && given.iter().all(|flag| flag.name != *name) {
            table.exact(&format!("({name})"), format!("{value}: what pumba takes if nothing is said"));
        }
    }
    let of = |name: &str| values.get(name).copied().unwrap_or_default();
    let is_zero = |name: &str| of(name).parse::<f64>().is_ok_and(|number| number == 0.0);
    let mut words = vec![];
    match action {
        "delay" => {
            words.extend(["delay".to_owned(), format!("{}ms", of("time"))]);
            if !is_zero("jitter") {
                words.push(format!("{}ms", of("jitter")));
            }
            match (is_zero("correlation"), is_zero("jitter")) {
                (true, _) => {}
                (false, false) => words.push(hundredths(of("correlation"))),
                (false, true) => {
                    let note = "left out: without jitter tc takes it for one, of as many microseconds";
                    table.approximated(&format!("delay {}ms {}", of("time"), of("correlation")), note);
                }
            }
            if !of("distribution").is_empty() {
                words.extend(["distribution".to_owned(), of("distribution").to_owned()]);
            }
        }
        "loss-gemodel" | "loss-state" => {
            words.extend(["loss", action.trim_start_matches("loss-")].map(str::to_owned));
            words.extend(known.iter().map(|(name, ..)| hundredths(of(name))));
        }
        "rate" => {
            words.extend(["rate".to_owned(), of("rate").to_owned()]);
            for name in ["packetoverhead", "cellsize", "celloverhead"] {
                if !is_zero(name) {
                    words.push(of(name).to_owned());
                }
            }
        }
        _ => {
            words.extend([action.to_owned(), hundredths(of("percent"))]);
            if !is_zero("correlation") {
                words.push(hundredths(of("correlation")));
            }
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if is_known {
        Line { words: &words, table }.netem(packets);
    }
}

/// A share as pumba gives it to tc: with two decimals, whatever was asked for.
fn hundredths(text: &str) -> String {
    text.parse::<f64>().map_or_else(|_| text.to_owned(), |share| format!("{share:.2}"))
}
