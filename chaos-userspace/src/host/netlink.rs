//! One request to the kernel's netlink, and its answers.

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

const HEADER_BYTES: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE` (include/uapi/linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Sends a request to the routing netlink in the calling thread's network namespace and waits for its end. Returns the
/// objects that came back, each as the bytes behind the netlink header: the library does not read all of them.
pub fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    exchange(NETLINK_ROUTE, message, flags)
}

/// The same with one of the other netlink protocols (`NETLINK_*`, include/uapi/linux/netlink.h).
pub fn exchange<M>(protocol: isize, message: M, flags: u16) -> io::Result<Vec<Vec<u8>>>
where
    M: NetlinkSerializable + Into<NetlinkPayload<M>>,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut objects = vec![];
    loop {
        let (reply, _) = socket.recv_from_full()?;
        let mut rest = &reply[..];
        while rest.len() >= HEADER_BYTES {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if length < HEADER_BYTES || length > rest.len() {
                return Err(io::Error::other("a netlink answer is cut short"));
            }
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                DONE => return Ok(objects),
                ERROR => return failure(&rest[..length]).map_or(Ok(objects), Err),
                _ => objects.push(rest[HEADER_BYTES..length].to_vec()),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// The error in an answer of that type; number 0 says that all is well.
fn failure(answer: &[u8]) -> Option<io::Error> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map(|answer| answer.payload) {
        Ok(NetlinkPayload::Error(error)) => error.code.map(|_| ErrorMessage::to_io(&error)),
        _ => Some(io::Error::other("a netlink answer cannot be read")),
    }
}

/// The text in an attribute, without the 0 that ends it.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// The value of the first attribute of this kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(bytes)
        .map_while(|attribute: Result<NlaBuffer<_>, _>| attribute.ok())
        .find(|attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}
