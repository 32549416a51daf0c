//! NetworkChaos.

use super::{
    Options,
    chaos_mesh::read_common,
    draft::{Draft, Out},
    packets::{self, LEAVING_ONLY, Packets},
    source::Fields,
    table::Table,
    units,
};

/// The parts of a specification and the actions they belong to.
const PARTS: [&str; 6] = ["delay", "loss", "duplicate", "corrupt", "bandwidth", "rate"];

/// Reads `spec`.
pub fn read(mut spec: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let action = spec.text("action", table);
    read_common(&mut spec, options, draft, table);
    let mut packets = Packets::default();
    let is_partition = action.as_ref().is_some_and(|(_, action)| *action == "partition");
    let direction = read_direction(&mut spec, is_partition, &mut packets, table);
    read_remotes(&mut spec, options, &mut packets, table);
    for name in ["device", "targetDevice"] {
        let path = spec.path(name);
        match spec.take(name, table) {
            Some((path, _)) => {
                table.approximated(&path, "left out: packets are chosen by who sends them, on every device")
            }
            None if name == "device" => table.approximated(
                &format!("({path})"),
                "packets are chosen by who sends them, on every device; theirs is eth0 if nothing is said",
            ),
            None => {}
        }
    }
    let Some((path, action)) = action else {
        table.refused(&spec.path("action"), "it is missing");
        return spec.rest(table);
    };
    let known = PARTS.contains(&action) && action != "rate";
    if action == "partition" {
        if direction == Some("from") {
            table.exact(&path, "see direction");
        } else {
            let differs = "the sender is not told; their rules of iptables tell one of datagrams (EPERM)";
            table.approximated(&path, format!("see direction; {differs}"));
        }
        packets.effects.push(if direction == Some("both") {
            packets.direction = None;
            ("partition", Out::Bare("true".to_owned()))
        } else {
            ("loss", Out::text("100%"))
        });
    } else if known || action == "netem" {
        table.exact(&path, "network");
    } else {
        table.refused(&path, format!("'{action}' is no action of NetworkChaos"));
    }
    for part in PARTS {
        if part == action || (action == "netem" && part != "bandwidth") {
            if let Some(fields) = spec.map(part, table) {
                read_part(part, fields, &mut packets, table);
            } else if part == action {
                table.refused(&spec.path(part), "it is missing: it says what the action does");
            }
        } else {
            let why = format!("action {action} does not use it: take it out, or write action: netem");
            spec.refuse(part, &why, table);
        }
    }
    spec.rest(table);
    packets.write(action, draft, table);
}

fn read_direction<'a>(
    spec: &mut Fields<'a>,
    is_partition: bool,
    packets: &mut Packets,
    table: &mut Table,
) -> Option<&'a str> {
    let (path, direction) = spec.text("direction", table)?;
    packets.direction = match direction {
        "to" => None,
        "from" => Some("ingress"),
        "both" => Some("both"),
        other => {
            packets.unchosen = true;
            table.refused(&path, format!("'{other}' is not one of to, from, both"));
            return None;
        }
    };
    match direction {
        "to" => table.exact(&path, "egress: packets that leave the target"),
        "from" if is_partition => table.exact(&path, "direction: ingress"),
        _ if is_partition => table.exact(&path, "both ways"),
        "from" => table.approximated(
            &path,
            "direction: ingress, done where they arrive, with one line for all peers; theirs is done where they leave, by each peer",
        ),
        _ => table.approximated(
            &path,
            "both ways; what arrives is done here, with one line for all peers, theirs is done where it leaves, by each peer",
        ),
    }
    Some(direction)
}

fn read_remotes(spec: &mut Fields<'_>, options: &Options, packets: &mut Packets, table: &mut Table) {
    let peers = spec.take("target", table);
    if let Some((path, _)) = &peers {
        if options.remotes.is_empty() {
            packets.unchosen = true;
            table.refused(
                path,
                "which peers these are cannot be found out on one host: name them with --remote CIDR or --remote NAME",
            );
        } else {
            table.approximated(path, format!("--remote {} stands for it", options.remotes.join(", ")));
        }
    }
    let named: Vec<_> = options
        .remotes
        .iter()
        .filter(|_| peers.is_some())
        .map(|text| ("--remote".to_owned(), text.as_str()))
        .collect();
    if peers.is_none() && !options.remotes.is_empty() {
        table.refused("--remote", "the source selects no peers: leave the flag out");
    }
    let external = spec.texts("externalTargets", table).unwrap_or_default();
    for (path, text) in named.into_iter().chain(external) {
        match units::remote_and_port(text) {
            Ok((remote, port)) => {
                if path != "--remote" {
                    let ports =
                        port.as_ref().map(|port| format!(", remotePorts: {port}")).unwrap_or_default();
                    let note = format!("remote: {remote}{ports}");
                    if units::is_name(&remote) {
                        let differs = "the addresses that this host finds at the start; theirs takes those that its controller finds";
                        table.approximated(&path, format!("{note}: {differs}"));
                    } else {
                        table.exact(&path, note);
                    }
                }
                packets.remotes.push((remote, port));
            }
            Err(why) => {
                packets.unchosen = true;
                table.refused(&path, why);
            }
        }
    }
}

/// Reads one part of what happens to packets.
fn read_part(part: &'static str, mut fields: Fields<'_>, packets: &mut Packets, table: &mut Table) {
    match part {
        "delay" => read_delay(&mut fields, packets, table),
        "bandwidth" | "rate" => read_rate(part, &mut fields, packets, table),
        _ => {
            let share = fields.text(part, table);
            if let Some((path, text)) = fields.text("correlation", table) {
                packets::correlation(&path, text, part, table);
            }
            match share.map(|(path, text)| (path, units::percent(text))) {
                Some((path, Ok(_))) if part != "loss" && packets.arrives() => {
                    table.refused(&path, LEAVING_ONLY)
                }
                Some((path, Ok(share))) => {
                    table.exact(&path, format!("{part}: {share}"));
                    packets.effects.push((part, Out::text(share)));
                }
                Some((path, Err(why))) => table.refused(&path, why),
                None => table.refused(&fields.path(part), "it is missing: write a share in percent"),
            }
        }
    }
    fields.rest(table);
}

fn read_rate(part: &str, fields: &mut Fields<'_>, packets: &mut Packets, table: &mut Table) {
    match fields.text("rate", table).map(|(path, text)| (path, units::tc_rate(text))) {
        Some((path, Ok(rate))) => {
            table.exact(&path, format!("rate: {rate} (bps are bytes, bit are bits)"));
            packets.effects.push(("rate", Out::text(rate)));
        }
        Some((path, Err(why))) => table.refused(&path, why),
        None => table.refused(&fields.path("rate"), "it is missing"),
    }
    if part != "bandwidth" {
        if !packets.effects.iter().any(|(name, _)| *name == "delay") {
            packets::line(table);
        }
        return;
    }
    fields.without("limit", "left out: kchaos bounds the line by memory (delay.queue)", table);
    if let Some((path, text)) = fields.text("buffer", table) {
        packets.burst(&path, units::tc_size(text), table);
    }
    for name in ["peakrate", "minburst"] {
        fields.without(name, "left out: a burst goes as fast as it can", table);
    }
}

fn read_delay(fields: &mut Fields<'_>, packets: &mut Packets, table: &mut Table) {
    let latency = fields.duration("latency", "time", table);
    let jitter = fields.duration("jitter", "jitter", table);
    let mut correlation = None;
    if let Some((path, text)) = fields.text("correlation", table) {
        match units::percent(text) {
            Ok(share) => {
                let varies = jitter.as_ref().is_some_and(|jitter| !units::is_zero(jitter));
                let note = if varies || share == "0%" {
                    format!("correlation: {share}")
                } else {
                    "without jitter it does nothing".into()
                };
                table.exact(&path, note);
                correlation = Some(share);
            }
            Err(why) => table.refused(&path, why),
        }
    }
    match latency {
        Some(latency) => {
            packets::line(table);
            let delay = packets::delay(&latency, jitter.as_deref(), None, correlation.as_deref());
            packets.effects.push(("delay", delay));
        }
        None => table.refused(&fields.path("latency"), "without it nothing is held back"),
    }
    let Some(mut reorder) = fields.map("reorder", table) else { return };
    if let Some((path, text)) = reorder.text("correlation", table) {
        packets::correlation(&path, text, "reorder", table);
    }
    let gap = reorder.text("gap", table).map(|(path, text)| (path, text.parse::<u32>()));
    let share = reorder.text("reorder", table).map(|(path, text)| (path, units::percent(text)));
    let share = match share {
        Some((path, Ok(share))) => {
            table.exact(&path, format!("reorder: {share}"));
            Some(share)
        }
        Some((path, Err(why))) => {
            table.refused(&path, why);
            None
        }
        None => {
            table.refused(&reorder.path("reorder"), "it is missing");
            None
        }
    };
    let every = match gap {
        Some((path, Ok(gap))) => {
            super::netem::gap(&path, gap, share.as_deref(), table);
            gap
        }
        Some((path, Err(_))) => {
            table.refused(&path, "it is no whole number");
            1
        }
        None => 1,
    };
    if let Some(share) = share {
        packets.effects.push(("reorder", super::netem::reorder(&share, every)));
    }
    reorder.rest(table);
}
