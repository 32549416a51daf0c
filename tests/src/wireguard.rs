//! Makes two WireGuard devices known to each other, over generic netlink (include/uapi/linux/wireguard.h).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;

use crate::netns::NetNs;

const PORT: u16 = 51_820;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;
const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWEDIPS: u16 = 9;
const ALLOWEDIP_FAMILY: u16 = 1;
const ALLOWEDIP_ADDRESS: u16 = 2;
const ALLOWEDIP_MASK: u16 = 3;
/// Netlink and generic netlink headers.
const HEADERS_BYTES: usize = 20;

/// Gives the device of this name on either side a key and the other side as its peer, which may send anything.
pub fn introduce(near: (&NetNs, &str), far: (&NetNs, &str), device: &str) -> Result<()> {
    let near_key = near.0.enter(|| set_key(device, 1))?;
    let far_key = far.0.enter(|| set_key(device, 2))?;
    near.0.enter(|| add_peer(device, &far_key, far.1))?;
    far.0.enter(|| add_peer(device, &near_key, near.1))
}

/// Sets a private key and returns the public one, which the kernel computes.
fn set_key(device: &str, seed: u8) -> Result<Vec<u8>> {
    let family = family()?;
    let name = attribute(DEVICE_IFNAME, &[device.as_bytes(), &[0]].concat());
    let mut words = name.clone();
    words.extend(attribute(DEVICE_PRIVATE_KEY, &[seed; 32]));
    words.extend(attribute(DEVICE_LISTEN_PORT, &PORT.to_ne_bytes()));
    ask(family, WG_CMD_SET_DEVICE, NLM_F_ACK, &words)?;
    let answer = ask(family, WG_CMD_GET_DEVICE, NLM_F_DUMP, &name)?;
    find(&answer, DEVICE_PUBLIC_KEY).context("the device has no public key")
}

fn add_peer(device: &str, key: &[u8], endpoint: &str) -> Result<()> {
    let address: Ipv4Addr = endpoint.parse()?;
    // struct sockaddr_in.
    let mut socket_address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    socket_address.extend(PORT.to_be_bytes());
    socket_address.extend(address.octets());
    socket_address.extend([0; 8]);
    let mut allowed = vec![];
    for (family, bytes) in [(libc::AF_INET, 4), (libc::AF_INET6, 16)] {
        let mut everything = attribute(ALLOWEDIP_FAMILY, &(family as u16).to_ne_bytes());
        everything.extend(attribute(ALLOWEDIP_ADDRESS, &vec![0; bytes]));
        everything.extend(attribute(ALLOWEDIP_MASK, &[0]));
        allowed.extend(attribute(NLA_F_NESTED, &everything));
    }
    let mut peer = attribute(PEER_PUBLIC_KEY, key);
    peer.extend(attribute(PEER_ENDPOINT, &socket_address));
    peer.extend(attribute(NLA_F_NESTED | PEER_ALLOWEDIPS, &allowed));
    let mut words = attribute(DEVICE_IFNAME, &[device.as_bytes(), &[0]].concat());
    words.extend(attribute(NLA_F_NESTED | DEVICE_PEERS, &attribute(NLA_F_NESTED, &peer)));
    ask(family()?, WG_CMD_SET_DEVICE, NLM_F_ACK, &words).map(drop)
}

fn family() -> Result<u16> {
    let answer = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &attribute(CTRL_ATTR_FAMILY_NAME, b"wireguard\0"))
        .context("looking for WireGuard")?;
    let id = find(&answer, CTRL_ATTR_FAMILY_ID).context("WireGuard has no number")?;
    ensure!(id.len() == 2, "a number of {} bytes", id.len());
    Ok(u16::from_ne_bytes([id[0], id[1]]))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn find(mut attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    while let [a, b, c, d, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([c, d]) & 0x3fff == kind {
            return Some(value.to_vec());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// One request and the attributes of its first answer.
fn ask(family: u16, command: u8, flags: u16, attributes: &[u8]) -> Result<Vec<u8>> {
    // SAFETY: the call takes plain numbers.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    let socket = Errno::result(socket).context("opening generic netlink")?;
    // SAFETY: the kernel just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // struct nlmsghdr {length, type, flags, sequence, port}, struct genlmsghdr {command, version, reserved}.
    let mut message = ((HEADERS_BYTES + attributes.len()) as u32).to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    // SAFETY: the message lives through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    Errno::result(sent).context("sending a request")?;
    let mut answer = vec![0u8; 1 << 16];
    // SAFETY: the buffer is as long as said and lives through the call.
    let bytes = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let bytes = Errno::result(bytes).context("reading an answer")? as usize;
    let answer = &answer[..bytes];
    ensure!(bytes >= HEADERS_BYTES, "an answer of {bytes} bytes");
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        ensure!(code == 0, "command {command} of family {family}: {}", Errno::from_raw(-code));
        return Ok(vec![]);
    }
    let length = u32::from_ne_bytes([answer[0], answer[1], answer[2], answer[3]]) as usize;
    Ok(answer.get(HEADERS_BYTES..length).unwrap_or_default().to_vec())
}
