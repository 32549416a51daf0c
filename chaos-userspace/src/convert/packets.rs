//! A fault on packets in the making.

use super::{
    draft::{Draft, Out},
    table::Table,
    units,
};
use std::collections::BTreeMap;

/// Why there is no such fault on packets that arrive.
pub const LEAVING_ONLY: &str = "kchaos does this to packets that leave only: convert it with the peer as --target and the direction turned round";

/// What happens to which packets.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// `ingress` or `both`; egress if nothing is said.
    pub direction: Option<&'static str>,
    /// Transport protocol.
    pub protocol: Option<String>,
    /// Remote ends, each with its port.
    pub remotes: Vec<(String, Option<String>)>,
    /// Remote ends that are spared.
    pub spared: Vec<String>,
    /// Ports of all remote ends; `!` before those that are spared.
    pub remote_ports: Vec<String>,
    /// Ports of the target.
    pub local_ports: Vec<String>,
    /// Whether what chooses the packets was refused.
    pub unchosen: bool,
    /// What happens, by our name for it.
    pub effects: Vec<(&'static str, Out)>,
}

impl Packets {
    /// Whether packets that arrive are meant.
    pub fn arrives(&self) -> bool {
        self.direction.is_some()
    }

    /// Lets so much go at once, before the rate that comes with it.
    pub fn burst(&mut self, field: &str, burst: Result<String, String>, table: &mut Table) {
        match burst {
            Ok(burst) => {
                table.exact(field, format!("burst: {burst}"));
                self.effects.push(("burst", Out::text(burst)));
            }
            Err(why) => table.refused(field, why),
        }
    }

    /// Writes a fault for each port that goes with remote ends of its own.
    pub fn write(&self, name: &str, draft: &mut Draft, table: &mut Table) {
        // Without what chooses its packets a fault would hit more than was asked for.
        let burst_alone = self.effects.iter().all(|(name, _)| *name == "burst");
        if burst_alone || self.unchosen {
            return;
        }
        let mut by_port: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for (remote, port) in &self.remotes {
            by_port.entry(port.as_deref()).or_default().push(remote);
        }
        if by_port.is_empty() {
            by_port.insert(None, vec![]);
        }
        let several = by_port.len() > 1;
        if several {
            table.approximated(
                "(remotePorts)",
                "a fault for each port: a rate is each one's own, without a burst, and a packet that two of them mean is hit by both",
            );
        }
        for (port, remotes) in by_port {
            let ports: Vec<_> =
                port.into_iter().chain(self.remote_ports.iter().map(String::as_str)).collect();
            // Plain, what begins so is a tag of YAML.
            let as_port = |port: &&str| {
                if port.starts_with('!') { Out::text(*port) } else { Out::Bare((*port).to_owned()) }
            };
            let bare = |ports: &[&str]| Out::List(ports.iter().map(as_port).collect());
            let remotes = remotes.into_iter().map(str::to_owned);
            let remotes = remotes.chain(self.spared.iter().map(|remote| format!("!{remote}")));
            let local: Vec<_> = self.local_ports.iter().map(String::as_str).collect();
            let mut matches = vec![];
            if let Some(protocol) = &self.protocol {
                matches.push(("protocol".to_owned(), Out::text(protocol)));
            }
            for (name, value) in
                [("remote", Out::texts(remotes)), ("remotePorts", bare(&ports)), ("localPorts", bare(&local))]
            {
                if value != Out::List(vec![]) {
                    matches.push((name.to_owned(), value));
                }
            }
            let mut fields = vec![];
            if let Some(direction) = self.direction {
                fields.push(("direction".to_owned(), Out::text(direction)));
            }
            if !matches.is_empty() {
                fields.push(("match".to_owned(), Out::Map(matches)));
            }
            // A run has one burst.
            let effects = self.effects.iter().filter(|(name, _)| !several || *name != "burst");
            fields.extend(effects.map(|(name, value)| ((*name).to_owned(), value.clone())));
            let name = match port {
                Some(port) if several => format!("{name}-{port}"),
                _ => name.to_owned(),
            };
            draft.faults.push((name, "network", Out::Map(fields)));
        }
    }
}

/// Says what becomes of a correlation of independent draws.
pub fn correlation(field: &str, text: &str, of: &str, table: &mut Table) {
    match units::percent(text.trim_end_matches('%')) {
        Ok(share) if share == "0%" => table.exact(field, "none"),
        Ok(_) => table.approximated(
            field,
            format!(
                "left out: each packet draws for itself, so that the share of {of} is the one asked for{}",
                if of == "loss" { "; for bursts write model: gemodel" } else { "" },
            ),
        ),
        Err(why) => table.refused(field, why),
    }
}

/// Says how many packets wait, where a source leaves that to netem.
pub fn line(table: &mut Table) {
    table.approximated(
        "(limit)",
        "29127 packets wait at most (64 MiB; delay.queue says another number); netem loses those behind the 1000th, if nothing is said",
    );
}

/// A delay in our words: time, jitter, its distribution and correlation.
pub fn delay(time: &str, jitter: Option<&str>, distribution: Option<&str>, correlation: Option<&str>) -> Out {
    let jitter = jitter.filter(|jitter| !units::is_zero(jitter));
    let Some(jitter) = jitter else { return Out::text(time) };
    let mut fields = vec![("time".to_owned(), Out::text(time)), ("jitter".to_owned(), Out::text(jitter))];
    let correlation = correlation.filter(|share| *share != "0%");
    for (name, value) in [("distribution", distribution), ("correlation", correlation)] {
        fields.extend(value.map(|value| (name.to_owned(), Out::text(value))));
    }
    Out::Map(fields)
}
