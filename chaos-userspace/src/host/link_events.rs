//! News of the devices of a network namespace.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

/// `RTMGRP_LINK` (include/uapi/linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;

/// A subscription to what happens to the devices of one namespace.
#[derive(Debug)]
pub struct LinkEvents(Socket);

impl LinkEvents {
    /// Subscribes in the calling thread's network namespace.
    pub fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes all news there are; what they are is read from the namespace itself.
    pub fn drain(&mut self) -> io::Result<()> {
        loop {
            match self.0.recv_from_full() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // More news than the socket holds: that there are some is all that counts.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for LinkEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
