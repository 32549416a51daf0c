//! `pumba iptables --duration 5m loss --probability 0.2 NAMES`: packets that are lost where they arrive.
//!
//! Flags, defaults and rules are those of pumba's cmd/commands.go, pkg/chaos/iptables and pkg/runtime/docker/iptables.go;
//! what a rule counts is that of Linux's net/netfilter/xt_statistic.c.

use super::{
    Options,
    draft::{Draft, Out},
    packets::Packets,
    pumba::{self, Flag, Words},
    table::Table,
    units,
};
use std::collections::BTreeMap;

const RULE: &str = "one way to be chosen, as there a rule";

/// What chooses the packets. Each address and each port is a rule of its own there.
#[derive(Default)]
struct Rules {
    protocol: Option<String>,
    remotes: Vec<String>,
    remote_ports: Vec<String>,
    local_ports: Vec<String>,
    /// The words that name ports, which need a protocol, and what they become.
    ports: Vec<(String, String)>,
    bad: bool,
}

/// Which of the packets that come to a rule are lost.
enum Mode {
    /// This share, drawn for each.
    Random(String),
    /// Some of them, by number.
    Nth(Out),
}

/// Reads what is behind `iptables`.
pub fn read(mut words: Words<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let mut rules = Rules::default();
    let mut is_device_named = false;
    while let Some(flag) = words.flag(&["pull-image"]) {
        is_device_named |= pumba::is_device(&flag);
        if !pumba::common(&flag, draft, table) {
            rules.read(&flag, table);
        }
    }
    pumba::any_device(is_device_named, table);
    match words.word().as_deref() {
        Some("loss") => table.exact("loss", "loss"),
        action => {
            let rest = format!("{} {}", action.unwrap_or("(iptables)"), words.rest());
            return table
                .refused(rest.trim(), "only loss is there to be read: write pumba iptables ... loss ...");
        }
    }
    "loss".clone_into(&mut draft.name);
    let mut given = vec![];
    while let Some(flag) = words.flag(&[]) {
        given.push(flag);
    }
    let mode = read_mode(&given, table);
    pumba::containers(&words, options, table);
    table.approximated(
        "(INPUT)",
        "packets of both versions of IP that arrive for the target's processes; pumba's rules know IPv4 only",
    );
    rules.check_protocol(table);
    if let Some(mode) = mode.filter(|_| !rules.bad) {
        rules.write(&mode, draft, table);
    }
}

impl Rules {
    fn read(&mut self, flag: &Flag, table: &mut Table) {
        let Flag { name, value, field } = flag;
        match name.as_str() {
            "protocol" | "p" => match value.as_str() {
                "any" => {
                    self.protocol = None;
                    table.exact(field, "all protocols");
                }
                "tcp" | "udp" | "icmp" => {
                    self.protocol = Some(value.clone());
                    table.exact(field, format!("match.protocol: {value}"));
                }
                other => self.refuse(field, format!("'{other}' is not one of any, tcp, udp, icmp"), table),
            },
            "source" | "src" | "s" => match units::remote(value) {
                Ok(remote) if units::is_name(&remote) || remote.contains(':') => {
                    self.refuse(field, "pumba takes addresses and prefixes of IPv4 here", table);
                }
                Ok(remote) => {
                    table.exact(field, format!("match.remote: {remote}: {RULE}"));
                    self.remotes.push(remote);
                }
                Err(why) => self.refuse(field, why, table),
            },
            "destination" | "dest" => self.refuse(
                field,
                "of packets that arrive it is the target's own address, by which kchaos chooses none: leave it out, or name ports by --dst-port",
                table,
            ),
            "src-port" | "sport" | "dst-port" | "dport" => {
                let is_remote = matches!(name.as_str(), "src-port" | "sport");
                let (ports, ours) = if is_remote {
                    (&mut self.remote_ports, "match.remotePorts")
                } else {
                    (&mut self.local_ports, "match.localPorts")
                };
                match pumba::ports(value) {
                    Ok(given) => {
                        ports.extend(given);
                        self.ports.push((field.clone(), format!("{ours}: {value}: {RULE}")));
                    }
                    Err(why) => self.refuse(field, why, table),
                }
            }
            _ => self.refuse(field, "no flag of pumba's iptables that is known: take it out", table),
        }
    }

    fn refuse(&mut self, field: &str, why: impl Into<String>, table: &mut Table) {
        self.bad = true;
        table.refused(field, why);
    }

    /// pumba starts no rule on ports of all protocols.
    fn check_protocol(&mut self, table: &mut Table) {
        let has_ports = matches!(self.protocol.as_deref(), Some("tcp" | "udp"));
        for (field, note) in std::mem::take(&mut self.ports) {
            if has_ports {
                table.exact(&field, note);
            } else {
                self.refuse(&field, "pumba takes ports of one protocol: add --protocol tcp or udp", table);
            }
        }
    }

    /// A fault for each rule; those that only draw, and of which a packet can mean one, are one.
    fn write(&self, mode: &Mode, draft: &mut Draft, table: &mut Table) {
        let loss = match mode {
            Mode::Random(share) => Out::text(share),
            Mode::Nth(turns) => turns.clone(),
        };
        let plain = Packets {
            direction: Some("ingress"),
            protocol: self.protocol.clone(),
            effects: vec![("loss", loss)],
            ..Packets::default()
        };
        let counts = matches!(mode, Mode::Nth(_));
        let grouped = |all: &[String]| -> Vec<Vec<String>> {
            let size = if counts || overlap(all) { 1 } else { all.len().max(1) };
            all.chunks(size).map(<[String]>::to_vec).collect()
        };
        let mut ways = vec![];
        for remotes in grouped(&self.remotes) {
            let remotes = remotes.into_iter().map(|remote| (remote, None)).collect();
            ways.push(("from", Packets { remotes, ..plain.clone() }));
        }
        for remote_ports in grouped(&self.remote_ports) {
            ways.push(("from-ports", Packets { remote_ports, ..plain.clone() }));
        }
        for local_ports in grouped(&self.local_ports) {
            ways.push(("to-ports", Packets { local_ports, ..plain.clone() }));
        }
        if ways.is_empty() {
            return plain.write("loss", draft, table);
        }
        let several = ways.len() > 1;
        if several {
            table.approximated(
                "(rules)",
                "a fault for each, or for those that no packet can mean both of: one that several mean is judged by each in this order, there in the opposite one",
            );
        }
        for (number, (way, packets)) in ways.iter().enumerate() {
            let name = if several { format!("loss-{way}-{}", number + 1) } else { "loss".to_owned() };
            packets.write(&name, draft, table);
        }
    }
}

/// Whether a packet can mean two of these: each of their rules draws then.
fn overlap(remotes: &[String]) -> bool {
    let net = |text: &String| -> Option<ipnet::IpNet> {
        text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(Into::into))
    };
    let nets: Vec<_> = remotes.iter().filter_map(net).collect();
    let twice = |number: usize, net: &ipnet::IpNet| {
        nets[number + 1..].iter().any(|other| other.contains(net) || net.contains(other))
    };
    nets.iter().enumerate().any(|(number, net)| twice(number, net))
}

fn read_mode(given: &[Flag], table: &mut Table) -> Option<Mode> {
    let mut values: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let refusals = table.refusals();
    for Flag { name, value, field } in given {
        if ["mode", "probability", "every", "packet"].contains(&name.as_str()) {
            values.insert(name, (value, field));
        } else {
            table.refused(field, "no flag of pumba's loss that is known: take it out");
        }
    }
    let mode = values.remove("mode");
    let used = match mode {
        None => {
            table.exact("(mode)", "random: what pumba takes if nothing is said");
            read_random(values.remove("probability"), table)
        }
        Some(("random", field)) => {
            table.exact(field, "each packet draws for itself");
            read_random(values.remove("probability"), table)
        }
        Some(("nth", field)) => {
            table.approximated(
                field,
                "by number, counted over all targets; pumba's rules count in each container",
            );
            read_nth(values.remove("every"), values.remove("packet"), table)
        }
        Some((other, field)) => {
            table.refused(field, format!("'{other}' is not one of random, nth"));
            None
        }
    };
    for (_, field) in values.values() {
        table.exact(field, "pumba does not use it in this mode");
    }
    used.filter(|_| table.refusals() == refusals)
}

/// A share from 0 to 1, which pumba writes with two places.
fn read_random(given: Option<(&str, &str)>, table: &mut Table) -> Option<Mode> {
    let Some((text, field)) = given else {
        table.refused("(probability)", "pumba takes 0, with which nothing is lost: add --probability 0.1");
        return None;
    };
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => {
            let rounded = format!("{share:.2}");
            let percent = rounded.parse::<f64>().map_or(0.0, |share| (share * 100.0).round());
            if percent == 0.0 {
                table.refused(field, "pumba rounds it to two places, which is 0: nothing is lost");
                return None;
            }
            let is_rounded = rounded.parse::<f64>() != Ok(share);
            let note = if is_rounded { ": pumba rounds it to two places" } else { "" };
            table.exact(field, format!("loss: {percent}%{note}"));
            Some(Mode::Random(format!("{percent}%")))
        }
        _ => {
            table.refused(field, format!("'{text}' is no share from 0 to 1"));
            None
        }
    }
}

/// The packet of this number (from 0) and every n-th from there on.
fn read_nth(every: Option<(&str, &str)>, packet: Option<(&str, &str)>, table: &mut Table) -> Option<Mode> {
    let every =
        match every.map(|(text, field)| (text.parse::<u32>().ok().filter(|every| *every > 0), text, field)) {
            Some((Some(every), _, field)) => {
                table.exact(field, format!("one of {every} packets"));
                Some(every)
            }
            Some((None, text, field)) => {
                table.refused(field, format!("'{text}' is no whole number above 0"));
                None
            }
            None => {
                table.refused("(every)", "it is missing: pumba wants --every in mode nth");
                None
            }
        };
    let mut first = Some(0);
    if let Some((text, field)) = packet {
        first = text.parse::<u32>().ok().filter(|packet| every.is_none_or(|every| *packet < every));
        match first {
            Some(first) => table.exact(field, format!("number {} is the first one", u64::from(first) + 1)),
            None => table.refused(field, format!("'{text}' is no whole number from 0 to one below --every")),
        }
    }
    let (every, first) = (every?, first?);
    let field = |name: &str, value: Out| Out::Map(vec![(name.to_owned(), value)]);
    Some(Mode::Nth(match first {
        _ if every == 1 => Out::text("100%"),
        first if first == every - 1 => field("every", Out::Bare(every.to_string())),
        first => field("when", Out::text(format!("{}+{every}", first + 1))),
    }))
}
