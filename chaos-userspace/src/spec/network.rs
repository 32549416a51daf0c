//! Faults on packets.

use super::{corrupt::Corrupt, delay::Delay, loss_model::Model, when::When};
use chaos_common::packet::{PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use ipnet::IpNet;
use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

/// A network fault: what, on which packets.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Which way the packets go.
    pub direction: Direction,
    /// Which packets.
    pub matches: Match,
    /// What happens to them.
    pub effect: Effect,
    /// Which of them are hit.
    pub when: When,
    /// Whether the share is one of flows instead of packets.
    pub per_flow: bool,
}

/// What happens to a packet that is hit.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// It is lost.
    Loss,
    /// It is lost, depending on what was lost before.
    LossModel(Model),
    /// Its TCP connection is reset at both ends.
    Reset,
    /// It goes out twice.
    Duplicate,
    /// One of its bits is flipped.
    Corrupt(Corrupt),
    /// It is not held back and so overtakes those that are.
    Reorder,
    /// It is held back.
    Delay(Delay),
}

impl Effect {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loss | Self::LossModel(_) => "loss",
            Self::Reset => "reset",
            Self::Duplicate => "duplicate",
            Self::Corrupt(_) => "corrupt",
            Self::Reorder => "reorder",
            Self::Delay(_) => "delay",
        }
    }
}

/// Which way packets go, seen from the target.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Leaving the target.
    #[default]
    Egress,
    /// Arriving at the target.
    Ingress,
    /// Both; a packet between two sockets of the target is still judged once.
    Both,
}

impl Direction {
    /// Whether packets that leave are judged.
    pub fn has_egress(self) -> bool {
        self != Self::Ingress
    }

    /// Whether packets that arrive are judged.
    pub fn has_ingress(self) -> bool {
        self != Self::Egress
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Both => "egress and ingress",
        })
    }
}

/// Which packets of the target a fault applies to. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Transport protocol.
    pub protocol: Option<Protocol>,
    /// Prefixes of the remote end.
    pub remote: Vec<IpNet>,
    /// Prefixes of the remote end that are left alone; of two that contain an address, the longer one counts.
    pub remote_except: Vec<IpNet>,
    /// Host names of the remote end, beside the prefixes.
    pub names: Vec<Name>,
    /// Ports of the remote end.
    pub remote_ports: Ports,
    /// Ports of the target's end.
    pub local_ports: Ports,
}

/// A host name in a match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Whether packets from and to it are left alone.
    pub except: bool,
    /// Its addresses; none before the plan is made.
    pub addresses: Vec<IpAddr>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.addresses.is_empty() {
            let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
            write!(f, " ({})", addresses.join(", "))?;
        }
        Ok(())
    }
}

impl Match {
    /// All prefixes of the remote end, those of names included.
    pub fn included(&self) -> Vec<IpNet> {
        self.remote.iter().copied().chain(self.of_names(false)).collect()
    }

    /// All prefixes of the remote end that are left alone, those of names included.
    pub fn excluded(&self) -> Vec<IpNet> {
        self.remote_except.iter().copied().chain(self.of_names(true)).collect()
    }

    fn of_names(&self, except: bool) -> impl Iterator<Item = IpNet> {
        let names = self.names.iter().filter(move |name| name.except == except);
        names.flat_map(|name| name.addresses.iter().copied().map(IpNet::from))
    }

    /// Remote ends as they were written.
    fn shown(&self, except: bool) -> Vec<String> {
        let prefixes = if except { &self.remote_except } else { &self.remote };
        let names = self.names.iter().filter(|name| name.except == except).map(ToString::to_string);
        prefixes.iter().map(ToString::to_string).chain(names).collect()
    }
}

/// So many remote ends are shown by their names; of more, the number is.
const SHOWN_MAX: usize = 16;

fn join(mut parts: Vec<String>) -> String {
    if parts.len() > SHOWN_MAX {
        let more = parts.len() - SHOWN_MAX;
        parts.truncate(SHOWN_MAX);
        parts.push(format!("{more} more"));
    }
    parts.join(" or ")
}

/// A choice of ports. Empty means all packets, with ports or without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// These; all if there are none.
    pub only: Vec<RangeInclusive<u16>>,
    /// But not these.
    pub except: Vec<RangeInclusive<u16>>,
}

impl Ports {
    /// Whether nothing is chosen.
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.except.is_empty()
    }

    /// The ports themselves.
    pub fn all(&self) -> impl Iterator<Item = u16> {
        let within = |ranges: &[RangeInclusive<u16>], port| ranges.iter().any(|range| range.contains(&port));
        (1..=u16::MAX).filter(move |port| {
            (self.only.is_empty() || within(&self.only, *port)) && !within(&self.except, *port)
        })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let only: Vec<_> = self.only.iter().map(show_ports).collect();
        f.write_str(&only.join(" or "))?;
        if !self.except.is_empty() {
            let except: Vec<_> = self.except.iter().map(show_ports).collect();
            let all = if only.is_empty() { "any" } else { "" };
            write!(f, "{all} but {}", except.join(" and "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        parts.extend(self.protocol.map(|protocol| protocol.to_string()));
        for (except, word) in [(false, "remote"), (true, "remote not")] {
            let shown = self.shown(except);
            if !shown.is_empty() {
                parts.push(format!("{word} {}", join(shown)));
            }
        }
        if !self.remote_ports.is_empty() {
            parts.push(format!("remote port {}", self.remote_ports));
        }
        if !self.local_ports.is_empty() {
            parts.push(format!("local port {}", self.local_ports));
        }
        f.write_str(&parts.join(", "))
    }
}

fn show_ports(ports: &RangeInclusive<u16>) -> String {
    if ports.start() == ports.end() {
        ports.start().to_string()
    } else {
        format!("{}-{}", ports.start(), ports.end())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.effect {
            Effect::Loss => write!(f, "lose {} of {} packets", self.when, self.direction)?,
            Effect::LossModel(model) => write!(f, "lose {} packets by {model}", self.direction)?,
            Effect::Reset => {
                write!(f, "reset the connections of {} of {} packets", self.when, self.direction)?;
            }
            Effect::Corrupt(what) => {
                write!(f, "flip a bit of {} of {} packets", self.when, self.direction)?;
                f.write_str(match what {
                    Corrupt::Detected => ", which their checksum shows",
                    Corrupt::Payload => "' payload, with a right checksum",
                })?;
            }
            Effect::Duplicate => write!(f, "send {} of {} packets twice", self.when, self.direction)?,
            Effect::Reorder => write!(f, "do not hold back {} of {} packets", self.when, self.direction)?,
            Effect::Delay(delay) => {
                write!(f, "hold back {} of {} packets {delay}", self.when, self.direction)?;
            }
        }
        if self.per_flow {
            f.write_str(", chosen by flow")?;
        }
        if self.matches != Match::default() {
            write!(f, " ({})", self.matches)?;
        }
        Ok(())
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

impl Protocol {
    /// The number that stands for it in a rule.
    pub fn number(self) -> u32 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
            Self::Icmp => PROTOCOL_ICMP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// A remote end as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// An address or a prefix.
    Prefix(IpNet),
    /// A host name.
    Name(String),
}

/// Reads `10.0.0.0/8`, `fd00::/8`, a single address or a host name.
pub fn remote(text: &str) -> Result<Remote, String> {
    if is_host_name(text) {
        return Ok(Remote::Name(text.to_ascii_lowercase()));
    }
    let wanted = "is neither a CIDR nor a host name: write an address, a prefix or a name, as in 10.0.0.0/8, fd00::1 or \
                  db.example.org";
    read_prefix(text, wanted).map(Remote::Prefix)
}

/// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    read_prefix(text, "is not a CIDR: write an address or a prefix, as in 10.0.0.0/8 or fd00::1")
}

/// `wanted` is said of what is neither an address nor a prefix.
fn read_prefix(text: &str, wanted: &str) -> Result<IpNet, String> {
    let net = IpNet::from_str(text)
        .ok()
        .or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))
        .ok_or_else(|| format!("'{text}' {wanted}"))?;
    if net.addr() != net.network() {
        return Err(format!("'{text}' has bits set behind its prefix: did you mean {}?", net.trunc()));
    }
    Ok(net)
}

/// Labels of letters, digits, `-` and `_`; the last one has a letter (RFC 1123), which tells a name from a mistyped
/// address.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels_fit = name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && labels_fit && last.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// Reads `5432` or `6000-6010`.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |number: &str| {
        number.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| {
            format!("'{text}' is not a port or a range of ports from 1 to 65535, as in 80 or 6000-6010")
        })
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("'{text}' ends before it begins: write {last}-{first}"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes() {
        assert_eq!(remote("10.0.0.0/8").unwrap(), Remote::Prefix("10.0.0.0/8".parse().unwrap()));
        assert_eq!(remote("fd00::1").unwrap(), Remote::Prefix("fd00::1/128".parse().unwrap()));
        assert!(remote("10.0.0.1/8").unwrap_err().contains("did you mean 10.0.0.0/8"));
        for bad in
            ["", "10.0.0.0/33", "10.0.0", "10.0.0.256", "example.org/8", "::/129", "-a.org", "a..b", "a b"]
        {
            assert!(remote(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn host_names() {
        for name in ["localhost", "db.example.org", "db.example.org.", "_x.a-1.b", "10.in-addr.arpa"] {
            assert_eq!(remote(name).unwrap(), Remote::Name(name.into()), "{name}");
        }
        assert_eq!(remote("DB").unwrap(), Remote::Name("db".into()));
        assert!(remote(&"a".repeat(64)).is_err() && remote(&"a.".repeat(128)).is_err());
    }

    #[test]
    fn many_prefixes_are_not_all_shown() {
        let remote = (0..20).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect();
        let shown = Match { remote, ..Match::default() }.to_string();
        assert!(shown.ends_with("10.15.0.0/16 or 4 more"), "{shown}");
    }

    #[test]
    fn port_ranges() {
        assert_eq!(ports("80").unwrap(), 80..=80);
        assert_eq!(ports("6000-6010").unwrap(), 6000..=6010);
        for bad in ["70000", "0", "", "-", "5-", "5-4", "a"] {
            assert!(ports(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            let _ = remote(&text);
            let _ = ports(&text);
        }
    }
}
