//! Network devices of the current network namespace.

use super::netlink::{attribute, request, text};
use chaos_common::line::{LAYER_ARRIVAL, LAYER_ETHERNET, LAYER_LOOPBACK, LAYER_NONE};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use std::io;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index, unique within its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What its link layer is: one of `ARPHRD_*` (include/uapi/linux/if_arp.h).
    pub layer: u16,
    /// `IFF_*` (include/uapi/linux/if.h).
    pub flags: u32,
    /// What made it, as in `ip link add type`; empty for hardware and loopback.
    pub kind: String,
    /// Its root queueing discipline.
    pub qdisc: String,
}

/// `ARPHRD_*` of devices that carry bare packets, so that the kernel takes an Ethernet header off on the way to them
/// (`dev_is_mac_header_xmit`, include/linux/if_arp.h): tunnels, tun, WireGuard.
const BARE: [u16; 6] = [
    libc::ARPHRD_TUNNEL,
    libc::ARPHRD_TUNNEL6,
    libc::ARPHRD_SIT,
    libc::ARPHRD_IPGRE,
    ARPHRD_IP6GRE,
    libc::ARPHRD_NONE,
];
const ARPHRD_IP6GRE: u16 = 823;

/// Why packets that leave a device cannot be held back, behind its name.
pub const NO_LINE: &str = "carries neither Ethernet frames nor bare packets to one other end";
/// Why packets that arrive at it cannot.
pub const NO_FRAMES: &str = "carries no Ethernet frames";

impl Device {
    /// Whether it is the loopback device.
    pub fn is_loopback(&self) -> bool {
        self.layer == libc::ARPHRD_LOOPBACK
    }

    /// Whether it carries Ethernet frames.
    pub fn is_ethernet(&self) -> bool {
        self.layer == libc::ARPHRD_ETHER
    }

    /// Whether it carries bare packets to one other end. A tunnel with many ends keeps the choice of the end with the
    /// packet's route, which a line takes away.
    pub fn is_bare(&self) -> bool {
        BARE.contains(&self.layer) && self.flags & libc::IFF_POINTOPOINT as u32 != 0
    }

    /// How packets that leave it pass a line: one of `LAYER_*`; `None` if they cannot.
    pub fn line_layer(&self) -> Option<u32> {
        if self.is_loopback() {
            Some(LAYER_LOOPBACK)
        } else if self.is_ethernet() {
            Some(LAYER_ETHERNET)
        } else {
            self.is_bare().then_some(LAYER_NONE)
        }
    }

    /// How packets that arrive at it pass a line, as above. On bare packets the header for the line cannot be told from one
    /// that belongs to them (`bpf_push_mac_rcsum`, net/core/filter.c).
    pub fn arrival_layer(&self) -> Option<u32> {
        match self.line_layer()? {
            LAYER_ETHERNET => Some(LAYER_ARRIVAL),
            // It leaves once more, with a route, which arriving packets of loopback must have.
            LAYER_LOOPBACK => Some(LAYER_LOOPBACK),
            _ => None,
        }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }
}

/// Bytes of `struct ifinfomsg`, and where its type and index are (include/uapi/linux/rtnetlink.h).
const HEADER_BYTES: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_QDISC: u16 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// All devices of the network namespace of the calling thread.
pub fn list() -> io::Result<Vec<Device>> {
    let links = request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    Ok(links.iter().filter_map(|link| read(link)).collect())
}

/// Reads a link message.
pub fn read(link: &[u8]) -> Option<Device> {
    let header = link.get(..HEADER_BYTES)?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let attributes = &link[HEADER_BYTES..];
    let kind = attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(&info, IFLA_INFO_KIND));
    Some(Device {
        layer: u16::from_ne_bytes([header[2], header[3]]),
        index: word(4),
        flags: word(8),
        name: text(&attribute(attributes, IFLA_IFNAME)?),
        kind: kind.map(|kind| text(&kind)).unwrap_or_default(),
        qdisc: attribute(attributes, IFLA_QDISC).map(|qdisc| text(&qdisc)).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_device_or_none(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            read(&bytes);
        }
    }

    #[test]
    fn every_namespace_has_loopback() {
        let devices = list().unwrap();
        let lo = devices.iter().find(|device| device.name == "lo").unwrap();
        assert!(lo.is_loopback() && !lo.is_ethernet() && lo.index == 1, "{lo:?}");
        assert_eq!((lo.line_layer(), lo.kind.as_str()), (Some(LAYER_LOOPBACK), ""));
    }

    #[test]
    fn bare_packets_pass_lines_where_they_have_one_other_end() {
        let tunnel = Device {
            index: 7,
            name: "tun0".into(),
            layer: libc::ARPHRD_NONE,
            flags: libc::IFF_POINTOPOINT as u32,
            kind: "tun".into(),
            qdisc: String::new(),
        };
        assert_eq!(tunnel.line_layer(), Some(LAYER_NONE));
        assert_eq!(Device { flags: 0, ..tunnel.clone() }.line_layer(), None);
        assert_eq!(Device { layer: libc::ARPHRD_PPP, ..tunnel }.line_layer(), None);
    }

    #[test]
    fn a_stump_is_no_device() {
        assert_eq!(read(&[0; 15]), None);
        assert_eq!(read(&[0; 16]), None);
    }
}
