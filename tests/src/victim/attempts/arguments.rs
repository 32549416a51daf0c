//! Calls that differ in their other arguments.

use std::ffi::CString;

use anyhow::{Result, ensure};

use super::{Felt, HERE, close, expecting, open, pointer, repeat};
use crate::victim::syscall_table::raw;

/// Calls that differ in descriptor, size, flags and remote end.
pub fn make(scratch: &str) -> Result<Vec<(String, Felt)>> {
    let path = CString::new(format!("{scratch}/file"))?;
    let file = open(&path, libc::O_RDWR | libc::O_CREAT);
    let null = open(c"/dev/null", libc::O_RDWR);
    ensure!(file >= 0 && null >= 0, "opening: {file}, {null}");
    let mut pipe = [0i32; 2];
    ensure!(raw(libc::SYS_pipe, [pipe.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) == 0, "no pipe");
    let mut pair = [0i32; 2];
    let unix = [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, pair.as_mut_ptr() as usize, 0, 0];
    ensure!(raw(libc::SYS_socketpair, unix) == 0, "no pair of sockets");
    let mut all = vec![];
    let mut add = |label: &str, make: &dyn Fn() -> i64| all.push((label.to_owned(), repeat(make)));
    let bytes = [0u8; 8192];
    let write_to =
        |fd: i64, size: usize| raw(libc::SYS_write, [fd as usize, bytes.as_ptr() as usize, size, 0, 0, 0]);
    for (label, fd) in
        [("file", file), ("char", null), ("pipe", i64::from(pipe[1])), ("socket", i64::from(pair[0]))]
    {
        add(&format!("write {label}"), &|| write_to(fd, 1));
    }
    let at = |size: usize| raw(libc::SYS_pwrite64, [file as usize, bytes.as_ptr() as usize, size, 0, 0, 0]);
    for size in [1usize, 99, 100, 4095, 4096, 8192] {
        add(&format!("pwrite64 {size}"), &|| at(size));
    }
    for (label, flags) in
        [("read", libc::O_RDONLY), ("write", libc::O_WRONLY), ("both", libc::O_RDWR | libc::O_APPEND)]
    {
        let flags = flags | libc::O_CLOEXEC;
        add(&format!("openat {label}"), &|| {
            let fd = raw(libc::SYS_openat, [HERE, pointer(&path), flags as usize, 0, 0, 0]);
            close(fd);
            fd
        });
        let how = [flags as u64, 0, 0];
        add(&format!("openat2 {label}"), &|| {
            let fd = raw(
                libc::SYS_openat2,
                [HERE, pointer(&path), how.as_ptr() as usize, size_of_val(&how), 0, 0],
            );
            close(fd);
            fd
        });
    }
    add("openat2 bad pointer", &|| {
        expecting(libc::EFAULT, raw(libc::SYS_openat2, [HERE, pointer(&path), 8, 24, 0, 0]))
    });
    for (label, address) in [
        ("127.0.0.1:9", v4([127, 0, 0, 1], 9)),
        ("127.0.0.2:9", v4([127, 0, 0, 2], 9)),
        ("127.0.0.2:7", v4([127, 0, 0, 2], 7)),
        ("127.0.1.1:7", v4([127, 0, 1, 1], 7)),
        ("mapped 127.0.0.1:9", v6(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 9)),
        ("[::1]:9", v6(std::net::Ipv6Addr::LOCALHOST, 9)),
        ("[::1]:7", v6(std::net::Ipv6Addr::LOCALHOST, 7)),
    ] {
        let family = usize::from(u16::from_ne_bytes([address[0], address[1]]));
        let named = |number, arguments: &dyn Fn(usize) -> [usize; 6]| {
            let socket = raw(libc::SYS_socket, [family, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
            let result = raw(number, arguments(socket as usize));
            close(socket);
            result
        };
        let to = [address.as_ptr() as usize, address.len()];
        add(&format!("connect {label}"), &|| named(libc::SYS_connect, &|fd| [fd, to[0], to[1], 0, 0, 0]));
        add(&format!("sendto {label}"), &|| {
            named(libc::SYS_sendto, &|fd| [fd, bytes.as_ptr() as usize, 1, 0, to[0], to[1]])
        });
        add(&format!("sendto connected {label}"), &|| {
            let socket = raw(libc::SYS_socket, [family, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]) as usize;
            // Under fault itself; the table of these tests leaves it alone where this is hit.
            let connected = raw(libc::SYS_connect, [socket, to[0], to[1], 0, 0, 0]);
            let sent = raw(libc::SYS_sendto, [socket, bytes.as_ptr() as usize, 1, 0, 0, 0]);
            close(socket as i64);
            if connected < 0 { connected } else { sent }
        });
    }
    add("connect bad pointer", &|| {
        let socket = raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
        let result = expecting(libc::EFAULT, raw(libc::SYS_connect, [socket as usize, 8, 16, 0, 0, 0]));
        close(socket);
        result
    });
    Ok(all)
}

/// A `struct sockaddr_in`, filled up to the length of the other one.
pub fn v4(address: [u8; 4], port: u16) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&address);
    bytes
}

/// A `struct sockaddr_in6`.
fn v6(address: std::net::Ipv6Addr, port: u16) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[8..24].copy_from_slice(&address.octets());
    bytes
}
