//! `network` of a Disruption. Their controller shapes packets that leave, on IPv4 and of TCP and UDP.

use super::{
    Options,
    draft::{Draft, Out},
    packets::{self, Packets},
    source::Fields,
    table::Table,
    units,
};
use crate::experiment::yaml::Node;

/// Longest delay that the controller takes, in milliseconds.
const DELAY_MAX: u32 = 60_000;

/// What the hosts of one fault have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kind {
    protocol: Option<String>,
    /// The port that answers leave from.
    local_port: Option<String>,
    /// The port of whatever host.
    remote_port: Option<String>,
    /// Whether it is any host: named beside others, it would be narrowed to them.
    is_any: bool,
}

/// Reads `spec.network`.
pub fn read(mut network: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let refusals = table.refusals();
    let mut packets = Packets::default();
    read_effects(&mut network, &mut packets, table);
    read_allowed(&mut network, &mut packets, table);
    let mut groups: Vec<(Kind, Packets)> = vec![];
    let mut add = |kind: Kind, remote: Option<(String, Option<String>)>| {
        let place = groups.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            let Kind { protocol, local_port, remote_port, .. } = kind.clone();
            let local_ports = local_port.into_iter().collect();
            let mut packets = Packets { protocol, local_ports, ..packets.clone() };
            packets.remote_ports.extend(remote_port);
            groups.push((kind, packets));
            groups.len() - 1
        });
        groups[place].1.remotes.extend(remote);
    };
    let hosts = network.list("hosts", table).unwrap_or_default();
    let mut is_everybody = hosts.is_empty();
    for (path, node) in hosts {
        match read_host(node, &path, "", table) {
            Some((kind, Some(remote), port)) => add(kind, Some((remote, port))),
            Some((kind, None, port)) => add(Kind { remote_port: port, is_any: true, ..kind }, None),
            None => {}
        }
    }
    let mut remotes = options.remotes.iter().collect::<Vec<_>>();
    for name in ["services", "cloud"] {
        let Some((path, _)) = network.take(name, table) else { continue };
        is_everybody = false;
        if options.remotes.is_empty() {
            table.refused(&path, "which addresses these are cannot be found out on one host: name them with --remote CIDR or NAME");
            continue;
        }
        table.approximated(&path, format!("--remote {} stands for it", options.remotes.join(", ")));
        // Once for both.
        let named = std::mem::take(&mut remotes);
        for text in named {
            match units::remote_and_port(text) {
                Ok(remote) => add(Kind::default(), Some(remote)),
                Err(why) => {
                    table.refused("--remote", why);
                }
            }
        }
    }
    if is_everybody {
        add(Kind::default(), None);
    }
    if let Some((path, _)) = network.take("http", table) {
        table.refused(&path, "kchaos does not look into requests: leave it out, or name a port");
    }
    table.approximated(
        "(spec.network)",
        "all protocols in both versions of IP; theirs are TCP and UDP over IPv4, but for a protocol that is named",
    );
    network.rest(table);
    // Without one of its fields it would mean more than was asked for.
    if table.refusals() != refusals {
        return;
    }
    let several = groups.len() > 1;
    if several {
        table.approximated(
            "(hosts)",
            "a fault for each protocol and port: a rate is each one's own, and a packet that two of them mean is hit by both",
        );
    }
    for (Kind { protocol, local_port, remote_port, is_any }, packets) in &groups {
        let parts =
            [protocol.as_deref(), local_port.as_deref(), remote_port.as_deref(), is_any.then_some("any")];
        let mut name = "network".to_owned();
        for part in parts.into_iter().flatten().filter(|_| several) {
            name += &format!("-{part}");
        }
        packets.write(&name, draft, table);
    }
}

fn whole(path: &str, text: &str, max: u32, unit: &str, table: &mut Table) -> Option<u32> {
    match text.parse::<u32>() {
        Ok(number) if number <= max => Some(number),
        _ => {
            table.refused(
                path,
                format!("'{text}' is no whole number from 0 to {max}: it is {unit}, without a unit"),
            );
            None
        }
    }
}

fn read_effects(network: &mut Fields<'_>, packets: &mut Packets, table: &mut Table) {
    for (name, ours) in [("drop", "loss"), ("duplicate", "duplicate"), ("corrupt", "corrupt")] {
        let Some((path, text)) = network.text(name, table) else { continue };
        match whole(&path, text, 100, "percent", table) {
            Some(0) => table.exact(&path, "none"),
            Some(share) => {
                table.exact(&path, format!("{ours}: {share}%"));
                packets.effects.push((ours, Out::text(format!("{share}%"))));
            }
            None => {}
        }
    }
    let delay = network.text("delay", table).map(|(path, text)| {
        let time = whole(&path, text, DELAY_MAX, "milliseconds", table);
        (path, time)
    });
    let jitter = network.text("delayJitter", table).map(|(path, text)| {
        let share = whole(&path, text, 100, "percent of the delay", table);
        (path, share)
    });
    match delay {
        Some((path, Some(0))) => table.exact(&path, "none"),
        Some((path, Some(time))) => {
            table.exact(&path, format!("delay.time: {time}ms"));
            let share = jitter.as_ref().and_then(|(_, share)| *share).filter(|share| *share > 0);
            // In whole milliseconds, and never none.
            let wide = (u64::from(time) * u64::from(share.unwrap_or(10)) / 100).max(1);
            let said = format!("delay.jitter: {wide}ms, which is {}% of the delay", share.unwrap_or(10));
            match (&jitter, share) {
                (Some((path, _)), Some(_)) => table.exact(path, said),
                _ => table.exact("(spec.network.delayJitter)", said + ", theirs if nothing or 0 is said"),
            }
            packets.effects.push((
                "delay",
                packets::delay(&format!("{time}ms"), Some(&format!("{wide}ms")), None, None),
            ));
        }
        Some((_, None)) | None => {}
    }
    if let Some((path, share)) = &jitter
        && !packets.effects.iter().any(|(name, _)| *name == "delay")
        && share.is_some()
    {
        table.exact(path, "without a delay it does nothing");
    } else if let Some((path, Some(0))) = &jitter {
        table.exact(path, "see delay");
    }
    if let Some((path, text)) = network.text("bandwidthLimit", table) {
        match text
            .parse::<u64>()
            .map_err(|_| format!("'{text}' is no whole number: it is bytes per second, without a unit"))
        {
            Ok(0) => table.exact(&path, "none"),
            Ok(bytes) => match units::bits(bytes as f64 * 8.0) {
                Ok(rate) => {
                    table.approximated(
                        &path,
                        format!("rate: {rate}; there are no bursts, theirs are of one second"),
                    );
                    packets.effects.push(("rate", Out::text(rate)));
                }
                Err(why) => {
                    table.refused(&path, why);
                }
            },
            Err(why) => {
                table.refused(&path, why);
            }
        }
    }
}

/// Whom no fault hits.
fn read_allowed(network: &mut Fields<'_>, packets: &mut Packets, table: &mut Table) {
    network.without(
        "disableDefaultAllowedHosts",
        "left out: nobody is spared by default, but for what the safety nets are about",
        table,
    );
    for (path, node) in network.list("allowedHosts", table).unwrap_or_default() {
        let Some((kind, remote, port)) = read_host(node, &path, "!", table) else {
            continue;
        };
        match (kind.protocol, kind.local_port, remote, port) {
            (None, None, Some(remote), None) => packets.spared.push(remote),
            (None, None, None, Some(port)) => packets.remote_ports.push(format!("!{port}")),
            _ => {
                table.refused(
                    &path,
                    "kchaos spares remote ends or remote ports, and not both at once or for one protocol: allow more, or less",
                );
            }
        }
    }
    table.approximated(
        "(spec.network.allowedHosts)",
        "their controller always spares the node and the default gateway (TCP): name them as allowed where that matters",
    );
}

/// A host, its port, and what it shares with others; nothing if it was refused. `not` is `!` of a host that is spared.
fn read_host(
    node: &Node,
    path: &str,
    not: &str,
    table: &mut Table,
) -> Option<(Kind, Option<String>, Option<String>)> {
    let refusals = table.refusals();
    let mut fields = Fields::of(node, path, table)?;
    let mut kind = Kind::default();
    let mut remote = None;
    if let Some((at, text)) = fields.text("host", table) {
        match units::remote(text) {
            Ok(host) => {
                table.exact(&at, format!("remote: {not}{host}"));
                remote = Some(host);
            }
            Err(why) => {
                table.refused(&at, why);
            }
        }
    }
    let mut port = None;
    if let Some((at, text)) = fields.text("port", table) {
        match text.parse::<u16>() {
            Ok(0) => table.exact(&at, "all ports"),
            Ok(number) => {
                table.exact(&at, format!("a port: {not}{number}"));
                port = Some(number.to_string());
            }
            Err(_) => {
                table.refused(&at, format!("'{text}' is no port from 0 to 65535"));
            }
        }
    }
    if let Some((at, text)) = fields.text("protocol", table) {
        let lower = text.to_ascii_lowercase();
        if matches!(lower.as_str(), "tcp" | "udp") {
            table.exact(&at, format!("protocol: {lower}"));
            kind.protocol = Some(lower);
        } else {
            table.refused(&at, format!("'{text}' is not one of tcp, udp"));
        }
    }
    if let Some((at, text)) = fields.text("flow", table) {
        match (text, &remote, &port) {
            ("egress", ..) => table.exact(&at, "packets that leave, by their remote end"),
            ("ingress", None, Some(number)) => {
                table.exact(&at, format!("localPorts: {number}: answers that leave, as there"));
                kind.local_port = port.take();
            }
            ("ingress", None, None) => table.exact(&at, "all packets that leave, as there"),
            ("ingress", Some(_), _) => {
                table.refused(
                    &at,
                    "the host would be the target's own address there: leave it out, or write egress",
                );
            }
            (other, ..) => {
                table.refused(&at, format!("'{other}' is not one of ingress, egress"));
            }
        }
    }
    if let Some((at, _)) = fields.text("connState", table) {
        table.refused(&at, "kchaos does not know the age of a connection: leave it out");
    }
    fields.without("dnsResolver", "left out: names are looked up on this host, at the start", table);
    if let Some((at, text)) = fields.text("percentage", table) {
        if text == "100" {
            table.exact(&at, "all addresses of the host");
        } else {
            table.refused(
                &at,
                "which of its addresses are hit cannot be left to chance: name them as hosts of their own",
            );
        }
    }
    fields.rest(table);
    // Without one of its fields it would mean more than was asked for.
    (table.refusals() == refusals).then_some((kind, remote, port))
}
