//! Neighbours of the current network namespace.

use super::netlink::{attribute, request};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{RouteNetlinkMessage, neighbour::NeighbourMessage};
use std::{io, net::IpAddr};

/// Bytes of `struct ndmsg`, where its state is, and the states of a neighbour that has not answered
/// (include/uapi/linux/neighbour.h).
const HEADER_BYTES: usize = 12;
const STATE_AT: usize = 8;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;
const NDA_DST: u16 = 1;

/// Addresses of the neighbours that have been asked for their link-layer address and have not answered.
pub fn unanswered() -> io::Result<Vec<IpAddr>> {
    let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    Ok(request(message, NLM_F_DUMP)?.iter().filter_map(|entry| read_unanswered(entry)).collect())
}

fn read_unanswered(entry: &[u8]) -> Option<IpAddr> {
    let header = entry.get(..HEADER_BYTES)?;
    let state = u16::from_ne_bytes([header[STATE_AT], header[STATE_AT + 1]]);
    if state & (NUD_INCOMPLETE | NUD_FAILED) == 0 {
        return None;
    }
    let address = attribute(&entry[HEADER_BYTES..], NDA_DST)?;
    if let Ok(bytes) = <[u8; 4]>::try_from(&address[..]) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(&address[..]).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: u16, address: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[STATE_AT..STATE_AT + 2].copy_from_slice(&state.to_ne_bytes());
        bytes.extend((4 + address.len() as u16).to_ne_bytes());
        bytes.extend(NDA_DST.to_ne_bytes());
        bytes.extend(address);
        bytes
    }

    #[test]
    fn only_silent_neighbours_are_named() {
        const NUD_REACHABLE: u16 = 0x02;
        let v4 = [10, 0, 0, 9];
        assert_eq!(read_unanswered(&entry(NUD_FAILED, &v4)), Some(IpAddr::from(v4)));
        assert_eq!(read_unanswered(&entry(NUD_INCOMPLETE, &[0xfd; 16])), Some(IpAddr::from([0xfd; 16])));
        assert_eq!(read_unanswered(&entry(NUD_REACHABLE, &v4)), None);
        assert_eq!(read_unanswered(&entry(NUD_FAILED, &v4)[..9]), None);
    }
}
