//! What happened, per rule and outcome.

/// How one event ended for one rule. The index of the rule's [`Counter`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A target's event reached the rule's hook. Counted once per event, beside one of the others if it matched.
    Seen = 0,
    /// The fault was inflicted.
    Injected = 1,
    /// The draw let it pass.
    Chance = 2,
    /// The injection budget was used up.
    Budget = 3,
    /// The run's deadline had passed.
    Deadline = 4,
    /// The owner's lease had run out.
    Lease = 5,
    /// An earlier rule had already ended the event.
    Superseded = 6,
    /// The run only observes.
    Observe = 7,
    /// The packet could not be parsed as far as the rule's match needs.
    Unparsable = 8,
    /// A kernel helper failed.
    Error = 9,
    /// It was not this event's turn: `every`, `after`, `when`.
    Turn = 10,
    /// There was no room to count the process.
    Untracked = 12,
    /// What the rule's match asks for could not be read.
    Unreadable = 13,
}

impl Outcome {
    /// Outcomes of a matched event that was let through, in report order.
    pub const SPARED: [Self; 11] = [
        Self::Chance,
        Self::Turn,
        Self::Budget,
        Self::Deadline,
        Self::Lease,
        Self::Superseded,
        Self::Observe,
        Self::Unparsable,
        Self::Error,
        Self::Untracked,
        Self::Unreadable,
    ];

    /// The outcome's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Injected => "injected",
            Self::Chance => "chance",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::Lease => "lease",
            Self::Superseded => "superseded",
            Self::Observe => "observe",
            Self::Unparsable => "unparsable",
            Self::Error => "error",
            Self::Turn => "turn",
            Self::Untracked => "untracked",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Slots per rule: a power of two above the last [`Outcome`], so that a masked index is always in range.
pub const OUTCOMES: usize = 16;

/// Index of the packets that left the targets' sockets.
pub const LEAVING_SEEN: u32 = 0;
/// Index of those that an egress hook met.
pub const LEAVING_MET: u32 = 1;
/// How many of these sums there are.
pub const LEAVING: u32 = 2;

/// Events of one outcome. For system calls `segments` equals `events` and `bytes` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Socket buffers or system calls.
    pub events: u64,
    /// Packets on the wire: a GSO super-packet counts as many as it is cut into.
    pub segments: u64,
    /// Bytes as the hook sees them (on egress with the link-layer header, on ingress without).
    pub bytes: u64,
}

/// All counters of one rule on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounters {
    /// Indexed by [`Outcome`].
    pub outcomes: [Counter; OUTCOMES],
}

const _: () = assert!(size_of::<RuleCounters>() == OUTCOMES * 24);
