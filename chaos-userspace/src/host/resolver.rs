//! Addresses of host names, as this host's resolver knows them.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
};

/// All IPv4 and IPv6 addresses of a name, in order, each once. In the statically linked program this is the C library's
/// own resolver: /etc/hosts, then the servers of /etc/resolv.conf.
pub fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<_> = (name, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
    found.sort();
    found.dedup();
    Ok(found)
}
