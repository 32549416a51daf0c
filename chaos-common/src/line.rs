//! The delay line: a veth pair whose queueing discipline holds packets back before they come to the device again.

use crate::limits::LINE_SLOTS_MAX;

/// Finds the entrance of a line. Devices are numbered per network namespace, so the namespace belongs to the key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineKey {
    /// Namespace by the engine's own count, as the copy of the program in it knows it, with [`ARRIVING`] for packets that
    /// arrive at the device.
    pub namespace: u32,
    /// Index of the device that the packet is leaving or arriving at.
    pub device: u32,
    /// The rules that delay the packet, one bit each.
    pub rules: u64,
}

/// Where a diverted packet goes, and what brings it back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entrance {
    /// Index of the line's device in the namespace.
    pub device: u32,
    /// The device's slot in the table of returns.
    pub slot: u32,
    /// One of `LAYER_*`: what the packet has to be given before it can pass a veth.
    pub layer: u32,
    /// Number of the [`crate::line_load::Load`] of this way.
    pub load: u32,
}

/// Where a packet that comes out of a line goes on: by its own device or through another line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Index of the device it was leaving or arriving at, or of the next line's.
    pub device: u32,
    /// One of `LAYER_*`.
    pub layer: u32,
    /// With [`LAYER_LINE`]: the slot that says where it goes on behind that line.
    pub next: u32,
}

/// The device carries Ethernet frames.
pub const LAYER_ETHERNET: u32 = 0;
/// The loopback device: Ethernet frames, and packets that arrive on it must know their route.
pub const LAYER_LOOPBACK: u32 = 1;
/// The device carries bare packets: they get an Ethernet header for the way through the line, which the kernel takes off
/// when it sends them to such a device again (`__bpf_redirect_no_mac`, net/core/filter.c).
pub const LAYER_NONE: u32 = 2;
/// The device leads into another line: what is in one is an Ethernet frame.
pub const LAYER_LINE: u32 = 3;
/// The packet arrives at the device once more: an Ethernet device.
pub const LAYER_ARRIVAL: u32 = 4;

/// In the number of a namespace: of packets that arrive.
pub const ARRIVING: u32 = 1 << 31;
/// `PACKET_HOST` (include/uapi/linux/if_packet.h).
pub const PACKET_HOST: u32 = 0;

const _: () = {
    assert!(size_of::<LineKey>() == 16);
    assert!(size_of::<Entrance>() == 16);
    assert!(size_of::<Exit>() == 12);
    assert!(LINE_SLOTS_MAX == MARK_SLOT as usize);
};

/// Marks of judged packets in `skb->tc_index` have these upper bits; below is the slot of where a packet goes on
/// behind its line, or [`MARK_SLOT`] for a packet that was not diverted.
///
/// On stacked devices and on loopback the same packet passes several hooks. The field is writable in tc programs,
/// readable in cgroup_skb, and survives redirection, a queueing discipline and a crossing to another network namespace
/// (it is not in `skb_scrub_packet`, net/core/skbuff.c). A retransmission is a fresh clone without it.
const MARK: u32 = 0x6000;
const MARK_SLOT: u32 = 0x0fff;

/// Mark of a packet that has been judged and goes its own way.
pub const JUDGED: u32 = MARK | MARK_SLOT;

/// Mark of a judged packet in a line.
#[inline(always)]
pub fn mark(slot: u32) -> u32 {
    MARK | (slot & MARK_SLOT)
}

/// Whether a packet with this `tc_index` has been judged.
#[inline(always)]
pub fn is_judged(tc_index: u32) -> bool {
    tc_index & !MARK_SLOT == MARK
}

/// The slot in a mark; [`LINE_SLOTS_MAX`] and above are none.
#[inline(always)]
pub fn slot(tc_index: u32) -> u32 {
    if is_judged(tc_index) { tc_index & MARK_SLOT } else { MARK_SLOT }
}

/// Placeholder that the loader replaces with the number of the namespace in each loaded copy of the programs at devices.
pub const NAMESPACE_MAGIC: u32 = 0x6b63_0100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_carry_their_slot() {
        for number in [0, 1, LINE_SLOTS_MAX as u32 - 1] {
            assert!(is_judged(mark(number)));
            assert_eq!(slot(mark(number)), number);
            assert_ne!(mark(number), JUDGED);
        }
        assert!(is_judged(JUDGED) && slot(JUDGED) as usize >= LINE_SLOTS_MAX);
        for foreign in [0, 1, 0x0fff, 0x5fff, 0x7000, 0xffff] {
            assert!(!is_judged(foreign) && slot(foreign) as usize >= LINE_SLOTS_MAX);
        }
    }
}
