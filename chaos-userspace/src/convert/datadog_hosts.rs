//! Hosts of a Disruption: those that are hit, and those that are allowed, which always win there.

use super::{packets::Packets, source::Fields, table::Table, units};
use crate::experiment::yaml::Node;
use ipnet::IpNet;

/// What the hosts of one fault have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// `tcp` or `udp`; both if nothing is said.
    pub protocol: Option<String>,
    /// The port that answers leave from.
    pub local_port: Option<String>,
    /// The port of whatever host.
    pub remote_port: Option<String>,
    /// Whether it is any host: named beside others, it would be narrowed to them.
    pub is_any: bool,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// What it shares with others.
    pub kind: Kind,
    /// Its address, prefix or name; any if there is none.
    pub remote: Option<String>,
    /// Its port; all if there is none.
    pub port: Option<String>,
}

impl Host {
    /// Reads a host; nothing if it was refused. `not` is `!` of a host that is spared.
    pub fn read(node: &Node, path: &str, not: &str, table: &mut Table) -> Option<Self> {
        let refusals = table.refusals();
        let mut fields = Fields::of(node, path, table)?;
        let mut host = Self::default();
        if let Some((at, text)) = fields.text("host", table) {
            match units::remote(text) {
                Ok(remote) if units::is_name(&remote) => {
                    table.approximated(
                        &at,
                        format!("remote: {not}{remote}: the addresses it has at the start; theirs asks again and again"),
                    );
                    host.remote = Some(remote);
                }
                Ok(remote) => {
                    table.exact(&at, format!("remote: {not}{remote}"));
                    host.remote = Some(remote);
                }
                Err(why) => table.refused(&at, why),
            }
        }
        if let Some((at, text)) = fields.text("port", table) {
            match text.parse::<u16>() {
                Ok(0) => table.exact(&at, "all ports"),
                Ok(number) => {
                    table.exact(&at, format!("a port: {not}{number}"));
                    host.port = Some(number.to_string());
                }
                Err(_) => table.refused(&at, format!("'{text}' is no port from 0 to 65535")),
            }
        }
        if let Some((at, text)) = fields.text("protocol", table) {
            let lower = text.to_ascii_lowercase();
            if matches!(lower.as_str(), "tcp" | "udp") {
                table.exact(&at, format!("protocol: {lower}"));
                host.kind.protocol = Some(lower);
            } else {
                table.refused(&at, format!("'{text}' is not one of tcp, udp"));
            }
        }
        host.read_flow(&mut fields, table);
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
        (table.refusals() == refusals).then_some(host)
    }

    fn read_flow(&mut self, fields: &mut Fields<'_>, table: &mut Table) {
        let Some((at, text)) = fields.text("flow", table) else { return };
        match (text, &self.remote, &self.port) {
            ("egress", ..) => table.exact(&at, "packets that leave, by their remote end"),
            ("ingress", None, Some(number)) => {
                table.exact(&at, format!("localPorts: {number}: answers that leave, as there"));
                self.kind.local_port = self.port.take();
            }
            ("ingress", None, None) => table.exact(&at, "all packets that leave, as there"),
            ("ingress", Some(_), _) => table.refused(
                &at,
                "the host would be the target's own address there: leave it out, or write egress",
            ),
            (other, ..) => table.refused(&at, format!("'{other}' is not one of ingress, egress")),
        }
    }
}

/// Who is never hit.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    remotes: Vec<String>,
    ports: Vec<String>,
}

impl Allowed {
    /// Reads `allowedHosts`.
    pub fn read(network: &mut Fields<'_>, table: &mut Table) -> Self {
        let mut allowed = Self::default();
        for (path, node) in network.list("allowedHosts", table).unwrap_or_default() {
            let Some(host) = Host::read(node, &path, "!", table) else { continue };
            match (host.kind.protocol, host.kind.local_port, host.remote, host.port) {
                (None, None, Some(remote), None) => allowed.remotes.push(remote),
                (None, None, None, Some(port)) => allowed.ports.push(port),
                _ => table.refused(
                    &path,
                    "kchaos spares remote ends or remote ports, and not both at once or for one protocol: allow more, or less",
                ),
            }
        }
        allowed
    }

    /// Whether somebody is allowed so that nothing of this host and port is hit; what cannot be known is refused. Here the
    /// longer one of two prefixes counts, there the one that is allowed.
    pub fn spares(&self, path: &str, remote: Option<&str>, port: Option<&str>, table: &mut Table) -> bool {
        if let Some(port) = port.filter(|port| self.ports.iter().any(|spared| spared == port)) {
            table.exact(
                &format!("({path})"),
                format!("no fault: port {port} is hit and allowed, and what is allowed wins there"),
            );
            return true;
        }
        let Some(remote) = remote else { return false };
        if let Some(spared) = self.remotes.iter().find(|spared| covers(spared, remote)) {
            table.exact(
                &format!("({path})"),
                format!("no fault: {remote} is hit and allowed by {spared}, and what is allowed wins there"),
            );
            return true;
        }
        let wide = |spared: &&String| net(spared).is_some_and(|net| net.prefix_len() < net.max_prefix_len());
        if units::is_name(remote)
            && let Some(spared) = self.remotes.iter().find(wide)
        {
            table.refused(
                path,
                format!("whether {remote} lies in {spared}, which is allowed, is not known, and the longer prefix counts here: name addresses as hosts"),
            );
        }
        false
    }

    /// Spares them in a fault.
    pub fn exclude(self, packets: &mut Packets) {
        packets.spared.extend(self.remotes);
        packets.remote_ports.extend(self.ports.into_iter().map(|port| format!("!{port}")));
    }
}

fn net(remote: &str) -> Option<IpNet> {
    remote.parse().ok().or_else(|| remote.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// Whether all of `remote` is in `spared`.
fn covers(spared: &str, remote: &str) -> bool {
    match (net(spared), net(remote)) {
        (Some(spared), Some(remote)) => spared.contains(&remote),
        _ => spared.eq_ignore_ascii_case(remote),
    }
}
