//! What a rule may ask about a packet, and how it is read from the packet's bytes.

pub use crate::limits::PORT_NONE;
use crate::{limits::IPV6_EXTENSIONS_MAX, probability::mix};

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

/// What could be read from a packet. A plain record in which every field always has a value: the verifier follows
/// registers, not enums, and refuses to copy what only some branch has written.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address family of the network header: one of `FAMILY_*`.
    pub family: u32,
    /// Address of the remote end in network byte order; the first 4 bytes for IPv4.
    pub remote: [u8; 16],
    /// Transport protocol, or [`PROTOCOL_UNKNOWN`] behind an unknown chain of extension headers.
    pub protocol: u32,
    /// Port of the remote end, host order, or [`PORT_NONE`] or [`PORT_UNREADABLE`].
    pub remote_port: u32,
    /// Address of the local end, as the remote one.
    pub local: [u8; 16],
    /// Port of the local end, as the remote one.
    pub local_port: u32,
    /// Where the transport header begins, counted from the network header; 0 if the packet does not show it.
    pub transport: u32,
    /// 1 if the packet is a fragment, so that its checksum covers more than the packet.
    pub fragment: u32,
}

/// Neither IPv4 nor IPv6, or cut short: nothing is known.
pub const FAMILY_UNKNOWN: u32 = 0;
/// IPv4.
pub const FAMILY_V4: u32 = 4;
/// IPv6.
pub const FAMILY_V6: u32 = 6;
/// Value of [`Packet::protocol`] that no packet carries.
pub const PROTOCOL_UNKNOWN: u32 = 256;
/// The protocol has ports, but this packet does not show them: a later fragment, or cut short.
pub const PORT_UNREADABLE: u32 = PORT_NONE + 1;

impl Packet {
    /// A packet of which nothing is known.
    pub const UNKNOWN: Self = Self {
        family: FAMILY_UNKNOWN,
        remote: [0; 16],
        protocol: PROTOCOL_UNKNOWN,
        remote_port: PORT_UNREADABLE,
        local: [0; 16],
        local_port: PORT_UNREADABLE,
        transport: 0,
        fragment: 0,
    };

    /// The remote address where it is IPv4.
    #[inline(always)]
    pub fn remote_v4(&self) -> [u8; 4] {
        [self.remote[0], self.remote[1], self.remote[2], self.remote[3]]
    }
}

const IPV6_HOP_BY_HOP: u32 = 0;
const IPV6_ROUTING: u32 = 43;
const IPV6_FRAGMENT: u32 = 44;
const IPV6_DESTINATION: u32 = 60;
const IPPROTO_DCCP: u32 = 33;
const IPPROTO_SCTP: u32 = 132;
const IPPROTO_UDPLITE: u32 = 136;

/// Reads a packet of `ethertype` (host order).
#[inline(always)]
pub fn parse<L: Load + ?Sized>(bytes: &L, ethertype: u16, direction: Direction) -> Packet {
    let mut packet = Packet::UNKNOWN;
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(bytes, direction, &mut packet),
        ETHERTYPE_IPV6 => parse_ipv6(bytes, direction, &mut packet),
        _ => {}
    }
    packet
}

#[inline(always)]
fn parse_ipv4<L: Load + ?Sized>(bytes: &L, direction: Direction, packet: &mut Packet) {
    let Some(head) = bytes.load::<20>(0) else { return };
    let header_bytes = (head[0] & 0x0f) as u32 * 4;
    if head[0] >> 4 != 4 || header_bytes < 20 {
        return;
    }
    packet.family = FAMILY_V4;
    let (at, own) = if direction == Direction::Egress { (16, 12) } else { (12, 16) };
    packet.remote[0] = head[at];
    packet.remote[1] = head[at + 1];
    packet.remote[2] = head[at + 2];
    packet.remote[3] = head[at + 3];
    packet.local[0] = head[own];
    packet.local[1] = head[own + 1];
    packet.local[2] = head[own + 2];
    packet.local[3] = head[own + 3];
    packet.protocol = head[9] as u32;
    let fragment = u16::from_be_bytes([head[6], head[7]]);
    let later_fragment = fragment & 0x1fff != 0;
    // More of them follow, or this is not the first.
    packet.fragment = (fragment & 0x3fff != 0) as u32;
    ports(bytes, header_bytes, later_fragment, direction, packet);
}

#[inline(always)]
fn parse_ipv6<L: Load + ?Sized>(bytes: &L, direction: Direction, packet: &mut Packet) {
    let Some(head) = bytes.load::<8>(0) else { return };
    let (at, own) = if direction == Direction::Egress { (24, 8) } else { (8, 24) };
    let Some(remote) = bytes.load::<16>(at) else { return };
    let Some(local) = bytes.load::<16>(own) else { return };
    if head[0] >> 4 != 6 {
        return;
    }
    packet.family = FAMILY_V6;
    packet.remote = remote;
    packet.local = local;
    let mut next = head[6] as u32;
    let mut offset = 40u32;
    let mut later_fragment = false;
    for _ in 0..=IPV6_EXTENSIONS_MAX {
        match next {
            IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_DESTINATION if !later_fragment => {
                let Some([following, length]) = bytes.load::<2>(offset) else { return };
                next = following as u32;
                offset += (length as u32 + 1) * 8;
            }
            IPV6_FRAGMENT if !later_fragment => {
                let Some([following, _, high, low]) = bytes.load::<4>(offset) else { return };
                next = following as u32;
                offset += 8;
                let fragment = u16::from_be_bytes([high, low]);
                later_fragment = fragment & 0xfff8 != 0;
                packet.fragment = (fragment & 0xfff9 != 0) as u32;
            }
            _ => {
                packet.protocol = next;
                ports(bytes, offset, later_fragment, direction, packet);
                return;
            }
        }
    }
}

/// Reads the ports of a packet whose protocol is known.
#[inline(always)]
fn ports<L: Load + ?Sized>(
    bytes: &L,
    offset: u32,
    later_fragment: bool,
    direction: Direction,
    packet: &mut Packet,
) {
    if !later_fragment {
        packet.transport = offset;
    }
    if !matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP | IPPROTO_DCCP | IPPROTO_SCTP | IPPROTO_UDPLITE)
    {
        packet.remote_port = PORT_NONE;
        packet.local_port = PORT_NONE;
        return;
    }
    if later_fragment {
        return;
    }
    if let Some([s1, s0, d1, d0]) = bytes.load::<4>(offset) {
        let (source, destination) = ((s1 as u32) << 8 | s0 as u32, (d1 as u32) << 8 | d0 as u32);
        if direction == Direction::Egress {
            packet.remote_port = destination;
            packet.local_port = source;
        } else {
            packet.remote_port = source;
            packet.local_port = destination;
        }
    }
}

/// Where a protocol keeps its checksum, counted from its header; `None` if it has none that this knows.
#[inline(always)]
pub fn checksum_offset(protocol: u32) -> Option<u32> {
    match protocol {
        PROTOCOL_TCP => Some(16),
        PROTOCOL_UDP => Some(6),
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => Some(2),
        _ => None,
    }
}

/// Bytes of the transport header, or `None` for a protocol that this does not know or a header that cannot be.
#[inline(always)]
pub fn header_bytes<L: Load + ?Sized>(bytes: &L, packet: &Packet) -> Option<u32> {
    match packet.protocol {
        PROTOCOL_TCP => {
            let [words] = bytes.load::<1>(packet.transport + 12)?;
            let header = (words >> 4) as u32 * 4;
            if header < 20 { None } else { Some(header) }
        }
        PROTOCOL_UDP | PROTOCOL_ICMP | PROTOCOL_ICMPV6 => Some(8),
        _ => None,
    }
}

/// A number that all packets of a flow share, in both directions and on every host.
#[inline(always)]
pub fn flow(packet: &Packet) -> u64 {
    let ends = end(&packet.remote, packet.remote_port).wrapping_add(end(&packet.local, packet.local_port));
    mix(ends ^ packet.protocol as u64)
}

#[inline(always)]
fn end(address: &[u8; 16], port: u32) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
    mix(high ^ mix(low ^ mix(port as u64)))
}

/// Whether a packet's protocol is the one a rule asks for. [`PROTOCOL_ICMP`] stands for both ICMP versions.
#[inline(always)]
pub fn protocol_matches(wanted: u32, packet: &Packet) -> bool {
    packet.protocol == wanted || (wanted == PROTOCOL_ICMP && packet.protocol == PROTOCOL_ICMPV6)
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
            let out = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Egress);
            assert_eq!((out.family, out.remote_v4(), out.remote_port), (FAMILY_V4, [10, 0, 0, 2], 5432));
            let inward = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Ingress);
            assert_eq!((inward.remote_v4(), inward.remote_port), ([10, 0, 0, 1], 1234));
            assert!(protocol_matches(PROTOCOL_TCP, &out));
            assert!(!protocol_matches(PROTOCOL_UDP, &out));
        }
    }

    #[test]
    fn a_flow_is_the_same_from_both_sides() {
        let bytes = ipv4(6, 0, 0);
        let out = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Egress);
        let inward = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Ingress);
        assert_eq!((out.local_port, out.remote_port), (inward.remote_port, inward.local_port));
        assert_eq!(flow(&out), flow(&inward));
        assert_ne!(flow(&out), flow(&Packet { local_port: out.local_port + 1, ..out }));
        assert_ne!(flow(&out), flow(&Packet { protocol: PROTOCOL_UDP, ..out }));
    }

    #[test]
    fn first_fragment_has_ports_later_ones_do_not() {
        let first = parse(&ipv4(17, 0x2000, 0)[..], ETHERTYPE_IPV4, Direction::Egress);
        assert_eq!(first.remote_port, 5432);
        let later = parse(&ipv4(17, 0x2001, 0)[..], ETHERTYPE_IPV4, Direction::Egress);
        assert_eq!((later.protocol, later.remote_port), (17, PORT_UNREADABLE));
        assert_eq!((first.transport, first.fragment, later.transport, later.fragment), (20, 1, 0, 1));
        let whole = parse(&ipv4(17, 0x4000, 3)[..], ETHERTYPE_IPV4, Direction::Egress);
        assert_eq!((whole.transport, whole.fragment), (32, 0));
    }

    #[test]
    fn icmp_has_no_port_and_one_word_for_both_versions() {
        let v4 = parse(&ipv4(1, 0, 0)[..], ETHERTYPE_IPV4, Direction::Egress);
        assert_eq!(v4.remote_port, PORT_NONE);
        let v6 = parse(&ipv6(&[], 58)[..], ETHERTYPE_IPV6, Direction::Egress);
        assert!(protocol_matches(PROTOCOL_ICMP, &v4) && protocol_matches(PROTOCOL_ICMP, &v6));
        assert!(!protocol_matches(PROTOCOL_ICMPV6, &v4));
    }

    #[test]
    fn ipv6_extension_headers_are_stepped_over() {
        let hop = [0u8, 0, 0, 0, 0, 0, 0];
        let bytes = ipv6(&[(0, &hop), (60, &hop)], 17);
        let packet = parse(&bytes[..], ETHERTYPE_IPV6, Direction::Egress);
        assert_eq!((packet.family, packet.protocol, packet.remote_port), (FAMILY_V6, 17, 5432));
        assert_eq!(packet.remote[15], 2);
        assert_eq!((packet.transport, packet.fragment), (56, 0));
        let later = ipv6(&[(44, &[0, 0, 8, 0, 0, 0, 0])], 17);
        let packet = parse(&later[..], ETHERTYPE_IPV6, Direction::Egress);
        assert_eq!((packet.protocol, packet.remote_port), (17, PORT_UNREADABLE));
        assert_eq!((packet.transport, packet.fragment), (0, 1));
        let long = ipv6(&[(0, &hop[..]); 6], 17);
        let packet = parse(&long[..], ETHERTYPE_IPV6, Direction::Egress);
        assert_eq!((packet.protocol, packet.remote_port), (PROTOCOL_UNKNOWN, PORT_UNREADABLE));
        assert!(!protocol_matches(PROTOCOL_UDP, &packet));
    }

    #[test]
    fn headers_have_their_length() {
        let mut bytes = ipv4(6, 0, 1);
        bytes.extend([0; 4]);
        bytes.push(0x80);
        let packet = parse(&bytes[..], ETHERTYPE_IPV4, Direction::Egress);
        assert_eq!(header_bytes(&bytes[..], &packet), Some(32));
        if let Some(last) = bytes.last_mut() {
            *last = 0x40;
        }
        assert_eq!(header_bytes(&bytes[..], &packet), None);
        assert_eq!(header_bytes(&bytes[..30], &packet), None);
        assert_eq!(header_bytes(&[0u8; 0][..], &Packet { protocol: 17, ..packet }), Some(8));
        assert_eq!(header_bytes(&bytes[..], &Packet { protocol: 132, ..packet }), None);
    }

    #[test]
    fn other_protocols_and_stumps_are_not_packets() {
        assert_eq!(parse(&[0u8; 64][..], 0x0806, Direction::Egress), Packet::UNKNOWN);
        assert_eq!(parse(&ipv4(6, 0, 0)[..19], ETHERTYPE_IPV4, Direction::Egress), Packet::UNKNOWN);
        assert_eq!(parse(&ipv6(&[], 6)[..39], ETHERTYPE_IPV6, Direction::Egress), Packet::UNKNOWN);
        let cut = parse(&ipv4(6, 0, 0)[..21], ETHERTYPE_IPV4, Direction::Ingress);
        assert_eq!((cut.protocol, cut.remote_port), (6, PORT_UNREADABLE));
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
