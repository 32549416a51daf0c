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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
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
    /// Ports of the remote end.
    pub remote_ports: Ports,
    /// Ports of the target's end.
    pub local_ports: Ports,
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
        if !self.remote.is_empty() {
            let prefixes: Vec<_> = self.remote.iter().map(ToString::to_string).collect();
            parts.push(format!("remote {}", prefixes.join(" or ")));
        }
        if !self.remote_except.is_empty() {
            let prefixes: Vec<_> = self.remote_except.iter().map(ToString::to_string).collect();
            parts.push(format!("remote not {}", prefixes.join(" or ")));
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
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

/// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let net =
        IpNet::from_str(text).ok().or_else(|| IpAddr::from_str(text).ok().map(IpNet::from)).ok_or_else(
            || format!("'{text}' is not a CIDR: write an address or a prefix, as in 10.0.0.0/8 or fd00::1"),
        )?;
    if net.addr() != net.network() {
        return Err(format!("'{text}' has bits set behind its prefix: did you mean {}?", net.trunc()));
    }
    Ok(net)
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
        assert_eq!(prefix("10.0.0.0/8").unwrap().prefix_len(), 8);
        assert_eq!(prefix("fd00::1").unwrap().prefix_len(), 128);
        assert!(prefix("10.0.0.1/8").unwrap_err().contains("did you mean 10.0.0.0/8"));
        for bad in ["", "10.0.0.0/33", "10.0.0", "example.org", "::/129"] {
            assert!(prefix(bad).unwrap_err().contains(bad), "{bad}");
        }
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
            let _ = prefix(&text);
            let _ = ports(&text);
        }
    }
}
