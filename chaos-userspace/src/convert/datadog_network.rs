//! `network` of a Disruption. Their controller shapes packets that leave, on IPv4 and of TCP and UDP.

use super::{
    Options,
    datadog_hosts::{Allowed, Host, Kind},
    draft::{Draft, Out},
    packets::{self, Packets},
    source::Fields,
    table::Table,
    units,
};

/// Longest delay that the controller takes, in milliseconds.
const DELAY_MAX: u32 = 60_000;

/// Reads `spec.network`.
pub fn read(mut network: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let refusals = table.refusals();
    let mut packets = Packets::default();
    read_effects(&mut network, &mut packets, table);
    let allowed = read_allowed(&mut network, table);
    allowed.clone().exclude(&mut packets);
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
        let Some(Host { kind, remote, port }) = Host::read(node, &path, "", table) else { continue };
        if allowed.spares(&path, remote.as_deref(), port.as_deref(), table) {
            continue;
        }
        match remote {
            Some(remote) => add(kind, Some((remote, port))),
            None => add(Kind { remote_port: port, is_any: true, ..kind }, None),
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
                Ok((remote, port)) => {
                    if !allowed.spares("--remote", Some(&remote), port.as_deref(), table) {
                        add(Kind::default(), Some((remote, port)));
                    }
                }
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
            // In whole milliseconds and never none, and with their rounding: 29 % of 100 ms are 28 ms.
            let part = share.map_or(0.1, |share| f64::from(share) / 100.0);
            let wide = ((part * f64::from(time)) as u64).max(1);
            let said =
                format!("delay.jitter: {wide}ms: {}% of the delay, rounded as there", share.unwrap_or(10));
            match (&jitter, share) {
                (Some((path, _)), Some(_)) => table.exact(path, said),
                _ => table.exact("(spec.network.delayJitter)", said + ", theirs if nothing or 0 is said"),
            }
            packets::line(table);
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
                    table.exact(
                        &path,
                        format!("rate: {rate}; theirs lets go at once what it lets go in a second"),
                    );
                    packets.effects.push(("rate", Out::text(rate)));
                    packets.burst("(burst)", units::tc_size(text), table);
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
fn read_allowed(network: &mut Fields<'_>, table: &mut Table) -> Allowed {
    network.without(
        "disableDefaultAllowedHosts",
        "left out: nobody is spared by default, but for what the safety nets are about",
        table,
    );
    let allowed = Allowed::read(network, table);
    table.approximated(
        "(spec.network.allowedHosts)",
        "their controller always spares the node and the default gateway (TCP): name them as allowed where that matters",
    );
    allowed
}
