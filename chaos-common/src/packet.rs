//! What a rule may ask about a packet, and how it is read from the packet's bytes.

use crate::limits::IPV6_EXTENSIONS_MAX;

/// `ETH_P_IP`, host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`, host order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `IPPROTO_ICMP`.
pub const PROTOCOL_ICMP: u32 = 1;
/// `IPPROTO_TCP`.
pub const PROTOCOL_TCP: u32 = 6;
/// `IPPROTO_UDP`.
pub const PROTOCOL_UDP: u32 = 17;
/// `IPPROTO_ICMPV6`.
pub const PROTOCOL_ICMPV6: u32 = 58;

/// Which way a packet goes, seen from the target.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Leaving the target: the remote end is the destination.
    Egress = 0,
    /// Arriving at the target: the remote end is the source.
    Ingress = 1,
}

/// Reads packet bytes, counted from the network header.
pub trait Load {
    /// `N` bytes at `offset`, or `None` beyond the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Load for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

/// The remote end's address in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// What could be read from a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address of the remote end.
    pub remote: Remote,
    /// Transport protocol; `None` behind an unknown chain of extension headers.
    pub protocol: Option<u32>,
    /// Port of the remote end, host order.
    pub remote_port: Port,
}

/// A packet's port, as far as there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The port, host order.
    Known(u16),
    /// The protocol has no ports.
    None,
    /// The protocol has ports, but this packet does not show them: a later fragment, or cut short.
    Unreadable,
}

const IPV6_HOP_BY_HOP: u32 = 0;
const IPV6_ROUTING: u32 = 43;
const IPV6_FRAGMENT: u32 = 44;
const IPV6_DESTINATION: u32 = 60;
const IPPROTO_DCCP: u32 = 33;
const IPPROTO_SCTP: u32 = 132;
const IPPROTO_UDPLITE: u32 = 136;

/// Reads a packet of `ethertype` (host order). `None` if it is neither IPv4 nor IPv6 or its header is cut short.
#[inline(always)]
pub fn parse<L: Load + ?Sized>(bytes: &L, ethertype: u16, direction: Direction) -> Option<Packet> {
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(bytes, direction),
        ETHERTYPE_IPV6 => parse_ipv6(bytes, direction),
        _ => None,
    }
}

#[inline(always)]
fn parse_ipv4<L: Load + ?Sized>(bytes: &L, direction: Direction) -> Option<Packet> {
    let head: [u8; 20] = bytes.load(0)?;
    let header_bytes = (head[0] & 0x0f) as u32 * 4;
    if head[0] >> 4 != 4 || header_bytes < 20 {
        return None;
    }
    let remote = match direction {
        Direction::Egress => [head[16], head[17], head[18], head[19]],
        Direction::Ingress => [head[12], head[13], head[14], head[15]],
    };
    let protocol = head[9] as u32;
    let later_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0;
    Some(Packet {
        remote: Remote::V4(remote),
        protocol: Some(protocol),
        remote_port: port(bytes, protocol, header_bytes, later_fragment, direction),
    })
}

#[inline(always)]
fn parse_ipv6<L: Load + ?Sized>(bytes: &L, direction: Direction) -> Option<Packet> {
    let head: [u8; 8] = bytes.load(0)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let remote: [u8; 16] = bytes.load(match direction {
        Direction::Egress => 24,
        Direction::Ingress => 8,
    })?;
    let mut next = head[6] as u32;
    let mut offset = 40;
    let mut later_fragment = false;
    let mut protocol = None;
    for _ in 0..=IPV6_EXTENSIONS_MAX {
        match next {
            IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_DESTINATION if !later_fragment => {
                let Some([following, length]) = bytes.load::<2>(offset) else { break };
                next = following as u32;
                offset += (length as u32 + 1) * 8;
            }
            IPV6_FRAGMENT if !later_fragment => {
                let Some([following, _, high, low]) = bytes.load::<4>(offset) else { break };
                next = following as u32;
                offset += 8;
                later_fragment = u16::from_be_bytes([high, low]) & 0xfff8 != 0;
            }
            _ => {
                protocol = Some(next);
                break;
            }
        }
    }
    let remote_port = match protocol {
        Some(protocol) => port(bytes, protocol, offset, later_fragment, direction),
        None => Port::Unreadable,
    };
    Some(Packet { remote: Remote::V6(remote), protocol, remote_port })
}

#[inline(always)]
fn port<L: Load + ?Sized>(
    bytes: &L,
    protocol: u32,
    offset: u32,
    later_fragment: bool,
    direction: Direction,
) -> Port {
    if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | IPPROTO_DCCP | IPPROTO_SCTP | IPPROTO_UDPLITE) {
        return Port::None;
    }
    if later_fragment {
        return Port::Unreadable;
    }
    let at = match direction {
        Direction::Egress => offset + 2,
        Direction::Ingress => offset,
    };
    match bytes.load::<2>(at) {
        Some(port) => Port::Known(u16::from_be_bytes(port)),
        None => Port::Unreadable,
    }
}

/// Whether a packet's protocol is the one a rule asks for. `PROTOCOL_ICMP` stands for both ICMP versions. `None` if
/// the packet does not tell.
#[inline(always)]
pub fn protocol_matches(wanted: u32, packet: &Packet) -> Option<bool> {
    let protocol = packet.protocol?;
    Some(protocol == wanted || (wanted == PROTOCOL_ICMP && protocol == PROTOCOL_ICMPV6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(protocol: u8, fragment: u16, options: usize) -> Vec<u8> {
        let mut p = vec![0x45 + options as u8, 0, 0, 60, 0, 0];
        p.extend(fragment.to_be_bytes());
        p.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        p.extend(vec![1; options * 4]);
        p.extend([0x04, 0xd2, 0x15, 0x38, 0, 0, 0, 0]);
        p
    }

    fn ipv6(chain: &[(u8, &[u8])], last: u8) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, 60, chain.first().map_or(last, |c| c.0), 64];
        p.extend([0xfd; 15]);
        p.push(1);
        p.extend([0xfd; 15]);
        p.push(2);
        for (i, (_, body)) in chain.iter().enumerate() {
            p.push(chain.get(i + 1).map_or(last, |c| c.0));
            p.extend(*body);
        }
        p.extend([0x04, 0xd2, 0x15, 0x38, 0, 0, 0, 0]);
        p
    }

    #[test]
    fn ipv4_ends_and_ports_follow_the_direction() {
        for options in [0, 3] {
            let bytes = ipv4(6, 0, options);
            let out = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Egress).unwrap();
            assert_eq!(out.remote, Remote::V4([10, 0, 0, 2]));
            assert_eq!(out.remote_port, Port::Known(5432));
            let inward = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Ingress).unwrap();
            assert_eq!(inward.remote, Remote::V4([10, 0, 0, 1]));
            assert_eq!(inward.remote_port, Port::Known(1234));
            assert_eq!(protocol_matches(PROTOCOL_TCP, &out), Some(true));
            assert_eq!(protocol_matches(PROTOCOL_UDP, &out), Some(false));
        }
    }

    #[test]
    fn first_fragment_has_ports_later_ones_do_not() {
        let first = parse(&ipv4(17, 0x2000, 0)[..], ETHERTYPE_IPV4, Direction::Egress).unwrap();
        assert_eq!(first.remote_port, Port::Known(5432));
        let later = parse(&ipv4(17, 0x2001, 0)[..], ETHERTYPE_IPV4, Direction::Egress).unwrap();
        assert_eq!(later.remote_port, Port::Unreadable);
        assert_eq!(later.protocol, Some(17));
    }

    #[test]
    fn icmp_has_no_port_and_one_word_for_both_versions() {
        let v4 = parse(&ipv4(1, 0, 0)[..], ETHERTYPE_IPV4, Direction::Egress).unwrap();
        assert_eq!(v4.remote_port, Port::None);
        let v6 = parse(&ipv6(&[], 58)[..], ETHERTYPE_IPV6, Direction::Egress).unwrap();
        assert_eq!(protocol_matches(PROTOCOL_ICMP, &v4), Some(true));
        assert_eq!(protocol_matches(PROTOCOL_ICMP, &v6), Some(true));
        assert_eq!(protocol_matches(PROTOCOL_ICMPV6, &v4), Some(false));
    }

    #[test]
    fn ipv6_extension_headers_are_stepped_over() {
        let hop = [0u8, 0, 0, 0, 0, 0, 0];
        let bytes = ipv6(&[(0, &hop), (60, &hop)], 17);
        let packet = parse(&bytes[..], ETHERTYPE_IPV6, Direction::Egress).unwrap();
        assert_eq!(packet.protocol, Some(17));
        assert_eq!(packet.remote_port, Port::Known(5432));
        let later = ipv6(&[(44, &[0, 0, 8, 0, 0, 0, 0])], 17);
        let packet = parse(&later[..], ETHERTYPE_IPV6, Direction::Egress).unwrap();
        assert_eq!((packet.protocol, packet.remote_port), (Some(17), Port::Unreadable));
        let long = ipv6(&[(0, &hop[..]); 6], 17);
        let packet = parse(&long[..], ETHERTYPE_IPV6, Direction::Egress).unwrap();
        assert_eq!((packet.protocol, packet.remote_port), (None, Port::Unreadable));
        assert_eq!(protocol_matches(PROTOCOL_UDP, &packet), None);
    }

    #[test]
    fn other_protocols_and_stumps_are_not_packets() {
        assert_eq!(parse(&[0u8; 64][..], 0x0806, Direction::Egress), None);
        assert_eq!(parse(&ipv4(6, 0, 0)[..19], ETHERTYPE_IPV4, Direction::Egress), None);
        assert_eq!(parse(&ipv6(&[], 6)[..39], ETHERTYPE_IPV6, Direction::Egress), None);
        let cut = parse(&ipv4(6, 0, 0)[..21], ETHERTYPE_IPV4, Direction::Ingress).unwrap();
        assert_eq!(cut.remote_port, Port::Unreadable);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), ethertype in prop_oneof![
            Just(ETHERTYPE_IPV4), Just(ETHERTYPE_IPV6), any::<u16>()], egress in any::<bool>()) {
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            let _ = parse(&bytes[..], ethertype, direction);
        }
    }
}
