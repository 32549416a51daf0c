//! The remote end that a call names, or that its socket is connected to.

use crate::{
    caller::{Registers, word, words},
    globals::KC_LAYOUT,
    maps::{KC_PORTS, KC_REMOTE4, KC_REMOTE6},
    path::{file_of, offset},
    scratch::{CallScratch, set},
};
use aya_ebpf::{helpers::generated::bpf_probe_read_user, maps::lpm_trie::Key};
use chaos_common::{
    layout::{
        FILE_INODE, FILE_PRIVATE, INODE_MODE, SOCK_FAMILY, SOCK_REMOTE_PORT, SOCK_REMOTE_V4, SOCK_REMOTE_V6,
        SOCKET_SK, UNKNOWN,
    },
    limits::PORT_NONE,
    syscall_match::{Arguments, NO_REGISTER, kind},
};

/// `AF_INET` and `AF_INET6` of include/linux/socket.h.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `S_IFSOCK` as a kind.
const SOCKET: u32 = 1 << 12;
/// What an IPv6 address that stands for an IPv4 one begins with (::ffff:0:0/96), as two words in memory order.
const MAPPED: [u32; 3] = [0, 0, 0xffff_0000];

/// Finds out the remote end that the call names, else the one that its socket is connected to.
#[inline(always)]
pub fn look_at(scratch: *mut CallScratch, arguments: &Arguments, registers: &Registers) {
    set!(scratch.peer_unreadable = 0);
    set!(scratch.address_rules = 0);
    set!(scratch.port_rules = 0);
    if arguments.peer == NO_REGISTER && arguments.file == NO_REGISTER {
        // The ring's call: nothing of it is in registers.
        set!(scratch.peer_unreadable = 1);
        return;
    }
    let named = if arguments.peer == NO_REGISTER { 0 } else { registers.get(arguments.peer) };
    let end =
        if named != 0 { of_address(named) } else { of_socket(file_of(registers.get(arguments.file) as i32)) };
    if end.family == UNREADABLE {
        set!(scratch.peer_unreadable = 1);
    } else if end.family != 0 {
        set!(scratch.address_rules = address_rules(&end));
        set!(scratch.port_rules = port_rules(end.port));
    }
}

/// A remote end. A plain record in which every field always has a value.
#[derive(Clone, Copy)]
struct End {
    /// [`AF_INET`], [`AF_INET6`], 0 for none, [`UNREADABLE`].
    family: u16,
    /// In network order, as it lies in memory.
    port: u16,
    /// As it lies in memory; of IPv4, the first word.
    address: [u32; 4],
}

const UNREADABLE: u16 = u16::MAX;

impl End {
    const NONE: Self = Self { family: 0, port: 0, address: [0; 4] };
    const UNREADABLE: Self = Self { family: UNREADABLE, ..Self::NONE };
}

/// The one in the `struct sockaddr` at this address in user space: family, port, then the address, for IPv6 behind the
/// flow.
#[inline(always)]
fn of_address(address: u64) -> End {
    let mut begin = [0u32; 2];
    // SAFETY: the buffer is as long as said.
    if unsafe { bpf_probe_read_user((&raw mut begin).cast(), 8, address as *const _) } != 0 {
        return End::UNREADABLE;
    }
    let (family, port) = (begin[0] as u16, (begin[0] >> 16) as u16);
    if family == AF_INET {
        return End { family, port, address: [begin[1], 0, 0, 0] };
    }
    if family != AF_INET6 {
        return End::NONE;
    }
    let mut remote = [0u32; 4];
    // SAFETY: the buffer is as long as said.
    if unsafe { bpf_probe_read_user((&raw mut remote).cast(), 16, (address + 8) as *const _) } != 0 {
        return End::UNREADABLE;
    }
    End { family, port, address: remote }
}

/// The one that the socket behind an open file is connected to.
#[inline(always)]
fn of_socket(file: u64) -> End {
    let inode = word(file + offset(FILE_INODE)).unwrap_or(0);
    let mode = word(inode + offset(INODE_MODE)).unwrap_or(0) as u16;
    if file == 0 || kind(u32::from(mode)) != SOCKET {
        return End::NONE;
    }
    let socket = word(file + offset(FILE_PRIVATE)).unwrap_or(0);
    let sock = word(socket + offset(SOCKET_SK)).unwrap_or(0);
    let family = word(sock + offset(SOCK_FAMILY)).unwrap_or(0) as u16;
    let port = word(sock + offset(SOCK_REMOTE_PORT)).unwrap_or(0) as u16;
    if port == 0 {
        return End::NONE;
    }
    if family == AF_INET {
        let address = word(sock + offset(SOCK_REMOTE_V4)).unwrap_or(0) as u32;
        return End { family, port, address: [address, 0, 0, 0] };
    }
    if family != AF_INET6 || KC_LAYOUT[SOCK_REMOTE_V6].load() == UNKNOWN {
        return End::NONE;
    }
    let [first, second] = words(sock + offset(SOCK_REMOTE_V6));
    let address = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
    End { family, port, address }
}

#[inline(always)]
fn address_rules(end: &End) -> u64 {
    let remote = end.address;
    let mapped = end.family == AF_INET6 && [remote[0], remote[1], remote[2]] == MAPPED;
    if end.family == AF_INET || mapped {
        let address = if mapped { remote[3] } else { remote[0] };
        return KC_REMOTE4.get(Key::new(32, address.to_ne_bytes())).copied().unwrap_or(0);
    }
    let key = Key::new(128, remote);
    // SAFETY: the same 16 bytes; the key is packed, so it has no alignment of its own.
    KC_REMOTE6.get(unsafe { &*(&raw const key).cast::<Key<[u8; 16]>>() }).copied().unwrap_or(0)
}

#[inline(always)]
fn port_rules(port: u16) -> u64 {
    let port = if port == 0 { PORT_NONE } else { u32::from(u16::from_be(port)) };
    KC_PORTS.get(port).copied().unwrap_or(0)
}
