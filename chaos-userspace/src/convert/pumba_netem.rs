//! `pumba netem --duration 5m delay --time 100 NAMES`: what pumba would say to tc.
//!
//! Flags, defaults and the words it gives to tc are those of pumba's cmd/commands.go and pkg/chaos/netem.

use super::{
    Options,
    draft::Draft,
    packets::Packets,
    pumba::{self, Flag, Words},
    table::Table,
    tc::Line,
    units,
};
use std::collections::HashMap;

const FILTER: &str = "a fault of its own, on IPv4 and IPv6; pumba's filters know IPv4 only, and its band takes bulk packets of others too";

/// Reads what is behind `netem`.
pub fn read(mut words: Words<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let mut filters = Filters::default();
    let mut is_device_named = false;
    while let Some(flag) = words.flag(&["pull-image"]) {
        is_device_named |= pumba::is_device(&flag);
        filters.read(&flag, draft, table);
    }
    pumba::any_device(is_device_named, table);
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
    pumba::containers(&words, options, table);
    filters.write(&action, &effects, draft, table);
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
        if pumba::common(flag, draft, table) {
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
                match pumba::ports(value) {
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
