//! How the kernel programs tell in which network namespaces the targets make sockets.

/// Network namespaces in which the targets of one engine may have made sockets; in further ones they are not noticed, and
/// what leaves there counts as escaped.
pub const NAMESPACES_MAX: u32 = 4096;

/// Bytes of the ring buffer of [`Entered`]: one page, room for some 120 that nobody has read yet.
pub const ENTERED_BYTES: u32 = 4096;

/// A task of a target has made an IP socket in a network namespace in which none of them had made one before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// The namespace, by a number that is never given again (`bpf_get_netns_cookie`, Linux 5.7).
    pub cookie: u64,
    /// Thread, as the kernel numbers it.
    pub tid: u32,
    /// Explicit padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Entered>() == 16);
