//! Network devices of the current network namespace.

use super::netlink::{attribute, request};
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
    pub kind: u16,
}

impl Device {
    /// Whether it is the loopback device.
    pub fn is_loopback(&self) -> bool {
        self.kind == libc::ARPHRD_LOOPBACK
    }

    /// Whether it carries Ethernet frames.
    pub fn is_ethernet(&self) -> bool {
        self.kind == libc::ARPHRD_ETHER
    }
}

/// Bytes of `struct ifinfomsg`, and where its type and index are (include/uapi/linux/rtnetlink.h).
const HEADER_BYTES: usize = 16;
const IFLA_IFNAME: u16 = 3;

/// All devices of the network namespace of the calling thread.
pub fn list() -> io::Result<Vec<Device>> {
    let links = request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    Ok(links.iter().filter_map(|link| read(link)).collect())
}

/// Reads a link message.
pub fn read(link: &[u8]) -> Option<Device> {
    let header = link.get(..HEADER_BYTES)?;
    let name = attribute(&link[HEADER_BYTES..], IFLA_IFNAME)?;
    Some(Device {
        kind: u16::from_ne_bytes([header[2], header[3]]),
        index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(&name)).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_loopback() {
        let devices = list().unwrap();
        let lo = devices.iter().find(|device| device.name == "lo").unwrap();
        assert!(lo.is_loopback() && !lo.is_ethernet() && lo.index == 1, "{lo:?}");
    }

    #[test]
    fn a_stump_is_no_device() {
        assert_eq!(read(&[0; 15]), None);
        assert_eq!(read(&[0; 16]), None);
    }
}
