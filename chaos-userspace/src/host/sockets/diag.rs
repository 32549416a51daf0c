//! What the kernel tells about the sockets of a network namespace (sock_diag(7)). Nothing of the sockets changes; the kernel
//! loads the module that knows a kind of sockets, as `ss` makes it do.

use crate::host::netlink::{attribute, exchange};
use netlink_packet_core::{NLM_F_DUMP, NetlinkPayload, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// `SOCK_DIAG_BY_FAMILY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// Size of `struct inet_diag_msg` (include/uapi/linux/inet_diag.h).
const INET_BYTES: usize = 72;
/// `INET_DIAG_CGROUP_ID` (the same; 5.8: `inet_diag_msg_attrs_fill`, net/ipv4/inet_diag.c).
const CGROUP_ID: u16 = 21;
/// Size of `struct unix_diag_msg`, and what it says besides (include/uapi/linux/unix_diag.h).
const UNIX_BYTES: usize = 16;
const UNIX_NAME: u16 = 0;
const UNIX_PEER: u16 = 2;
const UNIX_SHOW_NAME_AND_PEER: u32 = 1 | 4;

/// A socket of the internet protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Its inode; 0 of one that no process has any more.
    pub inode: u64,
    /// `tcp`, `udp` or `raw`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub local: SocketAddr,
    /// The other end; unspecified if there is none.
    pub remote: SocketAddr,
    /// The cgroup of the task that created it: the one by which its packets are chosen.
    pub cgroup: Option<u64>,
}

/// A Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its inode.
    pub inode: u64,
    /// The inode of the other end, if it is connected; 0 of one that no process has.
    pub peer: Option<u64>,
    /// What it is bound to, `@` in the place of a leading 0.
    pub name: Option<String>,
}

/// A request as its bytes.
struct Question(Vec<u8>);

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

impl From<Question> for NetlinkPayload<Question> {
    fn from(question: Question) -> Self {
        Self::InnerMessage(question)
    }
}

fn dump(question: Vec<u8>) -> io::Result<Vec<Vec<u8>>> {
    exchange(NETLINK_SOCK_DIAG, Question(question), NLM_F_DUMP)
}

/// All sockets of TCP and UDP, and raw ones where the kernel can list them, of the calling thread's network namespace.
pub fn inet() -> io::Result<Vec<InetSocket>> {
    let mut found = vec![];
    for (protocol, name, needed) in [
        (libc::IPPROTO_TCP, "tcp", true),
        (libc::IPPROTO_UDP, "udp", true),
        (libc::IPPROTO_RAW, "raw", false),
    ] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            match dump(inet_question(family, protocol)) {
                Ok(objects) => found.extend(objects.iter().filter_map(|object| read_inet(object, name))),
                Err(error) if needed => return Err(error),
                // CONFIG_INET_RAW_DIAG is not everywhere.
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// `struct inet_diag_req_v2`: all states, any address.
fn inet_question(family: i32, protocol: i32) -> Vec<u8> {
    let mut question = vec![family as u8, protocol as u8, 0, 0];
    question.extend(u32::MAX.to_ne_bytes());
    // `struct inet_diag_sockid`, whose cookie stands for none.
    question.extend([0; 40]);
    question.extend([0xff; 8]);
    question
}

fn read_inet(object: &[u8], protocol: &'static str) -> Option<InetSocket> {
    let (head, attributes) = object.split_at_checked(INET_BYTES)?;
    let address = |port: usize, address: usize| {
        let port = u16::from_be_bytes([head[port], head[port + 1]]);
        let ip = if i32::from(head[0]) == libc::AF_INET {
            IpAddr::from(<[u8; 4]>::try_from(&head[address..address + 4]).map(Ipv4Addr::from).ok()?)
        } else {
            IpAddr::from(<[u8; 16]>::try_from(&head[address..address + 16]).map(Ipv6Addr::from).ok()?)
        };
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    Some(InetSocket {
        inode: u64::from(number(head, 68)?),
        protocol,
        local: address(4, 8)?,
        remote: address(6, 24)?,
        cgroup: attribute(attributes, CGROUP_ID)
            .and_then(|value| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// All Unix sockets of the calling thread's network namespace.
pub fn unix() -> io::Result<Vec<UnixSocket>> {
    // `struct unix_diag_req`: family, all states, any inode, what to show, no cookie.
    let mut question = vec![libc::AF_UNIX as u8, 0, 0, 0];
    for word in [u32::MAX, 0, UNIX_SHOW_NAME_AND_PEER, u32::MAX, u32::MAX] {
        question.extend(word.to_ne_bytes());
    }
    Ok(dump(question)?.iter().filter_map(|object| read_unix(object)).collect())
}

fn read_unix(object: &[u8]) -> Option<UnixSocket> {
    let (head, attributes) = object.split_at_checked(UNIX_BYTES)?;
    let peer = attribute(attributes, UNIX_PEER).and_then(|value| number(&value, 0));
    let name = attribute(attributes, UNIX_NAME).map(|name| match name.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(&name)).into_owned(),
    });
    Some(UnixSocket { inode: u64::from(number(head, 4)?), peer: peer.map(u64::from), name })
}

/// The inodes of all packet sockets (packet(7)) of the calling thread's network namespace.
pub fn packet() -> io::Result<Vec<u64>> {
    others(libc::AF_PACKET)
}

/// Those of all sockets of AF_XDP of the calling thread's network namespace; none where the kernel has none.
pub fn xdp() -> io::Result<Vec<u64>> {
    others(libc::AF_XDP).or_else(none_if_unknown)
}

/// Those of all sockets between virtual machines (vsock(7)); none where the kernel has none.
pub fn vsock() -> io::Result<Vec<u64>> {
    // `struct vsock_diag_req` has states before the inode.
    let mut question = vec![libc::AF_VSOCK as u8, 0, 0, 0];
    for word in [u32::MAX, 0, 0, u32::MAX, u32::MAX] {
        question.extend(word.to_ne_bytes());
    }
    // `struct vsock_diag_msg` has four numbers before the inode.
    let found = dump(question).map(|objects| objects.iter().filter_map(|object| other(object, 20)).collect());
    found.or_else(none_if_unknown)
}

/// `struct packet_diag_req` and `struct xdp_diag_req` are alike, and so are the beginnings of the answers.
fn others(family: i32) -> io::Result<Vec<u64>> {
    let mut question = vec![family as u8, 0, 0, 0];
    for word in [0, 0, u32::MAX, u32::MAX] {
        question.extend(word.to_ne_bytes());
    }
    Ok(dump(question)?.iter().filter_map(|object| other(object, 4)).collect())
}

fn other(object: &[u8], inode_at: usize) -> Option<u64> {
    Some(u64::from(number(object, inode_at)?))
}

/// A family that nobody has registered (`__sock_diag_cmd`, net/core/sock_diag.c) has no sockets that could be listed.
fn none_if_unknown(error: io::Error) -> io::Result<Vec<u64>> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP) => Ok(vec![]),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    };

    fn inode(socket: &impl std::os::fd::AsFd) -> u64 {
        nix::sys::stat::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn own_sockets_are_told_with_addresses_and_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).unwrap();
        let found = inet().unwrap();
        let of = |wanted| found.iter().find(|socket| socket.inode == wanted).unwrap();
        assert_eq!(
            (of(inode(&listener)).protocol, of(inode(&listener)).local),
            ("tcp", listener.local_addr().unwrap())
        );
        assert_eq!(of(inode(&connected)).remote, listener.local_addr().unwrap());
        assert_eq!((of(inode(&udp)).protocol, of(inode(&udp)).local), ("udp", udp.local_addr().unwrap()));
        let (one, two) = UnixDatagram::pair().unwrap();
        let unix = unix().unwrap();
        let of_one = unix.iter().find(|socket| socket.inode == inode(&one)).unwrap();
        assert_eq!((of_one.peer, of_one.name.as_deref()), (Some(inode(&two)), None));
        assert!(one.as_raw_fd() != two.as_raw_fd());
    }

    #[test]
    fn what_is_cut_short_is_no_socket() {
        assert_eq!(read_inet(&[2; INET_BYTES - 1], "tcp"), None);
        assert_eq!(read_inet(&[2; INET_BYTES], "tcp").unwrap().cgroup, None);
        assert_eq!(read_unix(&[1; UNIX_BYTES - 1]), None);
        assert_eq!(other(&[0; 7], 4), None);
    }
}
