//! Packets for programs that are run by themselves.

/// Where UDP and TCP sockets of the measurements listen.
pub const PORT: u16 = 7999;

/// An Ethernet frame over lo with a UDP datagram or a TCP segment of 64 bytes for 127.0.0.1.
pub fn to_port(protocol: u8, from_port: u16, to_port: u16) -> Vec<u8> {
    const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
    const LOCALHOST: [u8; 4] = [127, 0, 0, 1];
    let transport = if protocol == 6 { 20 } else { 8 };
    let length = 20 + transport + 64;
    let mut frame = vec![0; 12];
    frame.extend(ETHERTYPE_IPV4);
    frame.extend([0x45, 0]);
    frame.extend((length as u16).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    frame.extend(LOCALHOST);
    frame.extend(LOCALHOST);
    frame.extend(from_port.to_be_bytes());
    frame.extend(to_port.to_be_bytes());
    if protocol == 6 {
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        frame.extend((8 + 64u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend([0; 64]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_right() {
        assert_eq!(to_port(17, 1, 2).len(), 14 + 20 + 8 + 64);
        assert_eq!(to_port(6, 1, 2).len(), 14 + 20 + 20 + 64);
        assert_eq!(to_port(17, 1, 0x0203)[36..38], [2, 3]);
    }
}
