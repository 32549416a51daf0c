//! Packet matches as bits in the match tables.

use super::Image;
use crate::spec::network::{Match, Ports};
use chaos_common::rule::{MATCH_LOCAL_PORT, MATCH_PROTOCOL, MATCH_REMOTE, MATCH_REMOTE_PORT, Rule};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;

/// Prefixes with the rules they belong to.
type Masks<Net> = Vec<(Net, u64)>;

/// Prefixes of all rules, before shorter ones are added to longer ones.
#[derive(Default)]
pub struct Prefixes(BTreeMap<IpNet, Rules>);

/// Rules that a prefix belongs to, one bit each.
#[derive(Clone, Copy, Default)]
struct Rules {
    include: u64,
    exclude: u64,
}

impl Prefixes {
    /// The kernel finds only the longest prefix that contains an address, so each gets the rules of all that contain it.
    /// Of one rule's prefixes, the longest decides whether it includes or excludes.
    pub fn cumulate(&self) -> (Masks<Ipv4Net>, Masks<Ipv6Net>) {
        let (mut v4, mut v6) = (vec![], vec![]);
        for net in self.0.keys() {
            let (mut mask, mut decided) = (0, 0);
            // Every prefix that contains this one, from itself up to the whole address space.
            let mut wider = Some(*net);
            while let Some(prefix) = wider {
                if let Some(rules) = self.0.get(&prefix) {
                    mask |= rules.include & !rules.exclude & !decided;
                    decided |= rules.include | rules.exclude;
                }
                wider = prefix.supernet();
            }
            match net {
                IpNet::V4(net) => v4.push((*net, mask)),
                IpNet::V6(net) => v6.push((*net, mask)),
            }
        }
        (v4, v6)
    }
}

/// Writes a match into the rule and its bit into the tables.
pub fn encode_match(matches: &Match, rule: &mut Rule, bit: u64, image: &mut Image, prefixes: &mut Prefixes) {
    if let Some(protocol) = matches.protocol {
        rule.matches |= MATCH_PROTOCOL;
        rule.protocol = protocol.number();
    }
    encode_remote(&matches.included(), &matches.excluded(), rule, bit, prefixes);
    image.remote |= rule.matches & MATCH_REMOTE != 0;
    encode_remote_ports(&matches.remote_ports, rule, bit, image);
    image.remote_port |= rule.matches & MATCH_REMOTE_PORT != 0;
    if !matches.local_ports.is_empty() {
        rule.matches |= MATCH_LOCAL_PORT;
        for port in matches.local_ports.all() {
            *image.local_ports.entry(port).or_default() |= bit;
        }
    }
    image.parse |= rule.matches != 0;
}

/// Writes prefixes of the remote end into the rule and its bit into the tables.
pub fn encode_remote(only: &[IpNet], except: &[IpNet], rule: &mut Rule, bit: u64, prefixes: &mut Prefixes) {
    if !only.is_empty() || !except.is_empty() {
        rule.matches |= MATCH_REMOTE;
        let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let included = if only.is_empty() { &everything[..] } else { only };
        for net in included {
            prefixes.0.entry(net.trunc()).or_default().include |= bit;
        }
        for net in except {
            prefixes.0.entry(net.trunc()).or_default().exclude |= bit;
        }
    }
}

/// The same for its ports.
pub fn encode_remote_ports(ports: &Ports, rule: &mut Rule, bit: u64, image: &mut Image) {
    if !ports.is_empty() {
        rule.matches |= MATCH_REMOTE_PORT;
        for port in ports.all() {
            *image.ports.entry(port).or_default() |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_prefixes_carry_the_rules_of_shorter_ones() {
        let mut prefixes = Prefixes::default();
        for (net, bit) in
            [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 4), ("11.0.0.0/8", 8), ("::/0", 16)]
        {
            prefixes.0.entry(net.parse().unwrap()).or_default().include |= bit;
        }
        let (v4, v6) = prefixes.cumulate();
        let mask = |net: &str| v4.iter().find(|(known, _)| known.to_string() == net).unwrap().1;
        assert_eq!(
            [mask("0.0.0.0/0"), mask("10.0.0.0/8"), mask("10.1.0.0/16"), mask("11.0.0.0/8")],
            [1, 3, 7, 9]
        );
        assert_eq!(v6, [("::/0".parse().unwrap(), 16)]);
    }

    #[test]
    fn exceptions_hold_for_what_they_contain_and_have_exceptions() {
        let matches = Match {
            remote: vec!["10.1.1.0/24".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
            remote_except: vec!["10.0.0.0/8".parse().unwrap()],
            ..Match::default()
        };
        let but = Match { remote_except: vec!["10.1.0.0/16".parse().unwrap()], ..Match::default() };
        let (mut image, mut prefixes) = (Image::default(), Prefixes::default());
        encode_match(&matches, &mut Rule::default(), 1, &mut image, &mut prefixes);
        encode_match(&but, &mut Rule::default(), 2, &mut image, &mut prefixes);
        let (v4, v6) = prefixes.cumulate();
        let mask = |net: &str| v4.iter().find(|(known, _)| known.to_string() == net).unwrap().1;
        assert_eq!(
            [mask("0.0.0.0/0"), mask("10.0.0.0/8"), mask("10.1.0.0/16"), mask("10.1.1.0/24")],
            [3, 2, 0, 1]
        );
        assert_eq!(v6, [("::/0".parse().unwrap(), 2)]);
    }
}
