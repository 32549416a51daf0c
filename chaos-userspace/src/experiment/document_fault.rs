//! Faults as they are written.

use super::text::{
    BitRate, ByteCount, CallText, ErrnoText, PortText, RemoteText, Share, Time, TurnsText, UserText,
};
use crate::spec::{
    delay::Distribution,
    network::{Direction, Protocol},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// What says which of the matched events are hit, of whatever fault.
#[derive(Default)]
pub struct Turns<'a> {
    /// A share.
    pub probability: Option<&'a Share>,
    /// Every n-th.
    pub every: Option<u64>,
    /// Behind the first n.
    pub after: Option<u64>,
    /// At most n.
    pub limit: Option<u64>,
    /// By number.
    pub when: Option<&'a TurnsText>,
    /// Every process counts for itself.
    pub per_process: bool,
}

impl Turns<'_> {
    /// Whether anything is said.
    pub fn are_given(&self) -> bool {
        self.probability.is_some()
            || self.every.is_some()
            || self.after.is_some()
            || self.limit.is_some()
            || self.when.is_some()
    }
}

/// A mapping with the fields of [`Turns`] beside its own. (serde cannot refuse unknown fields of a struct that takes in
/// another one.)
macro_rules! with_turns {
    (
        $(#[$of_struct:meta])*
        pub struct $name:ident {
            $(#[$of_share:meta])+
            turns,
            $($(#[$of_field:meta])* pub $field:ident: $kind:ty,)*
        }
    ) => {
        $(#[$of_struct])*
        pub struct $name {
            $(#[$of_share])+
            pub probability: Option<Share>,
            /// Only every n-th.
            #[schemars(range(min = 1))]
            pub every: Option<u64>,
            /// Only those behind the first n.
            #[schemars(range(min = 1))]
            pub after: Option<u64>,
            /// At most n hits.
            #[schemars(range(min = 1))]
            pub limit: Option<u64>,
            /// Only these, by number.
            pub when: Option<TurnsText>,
            $($(#[$of_field])* pub $field: $kind,)*
        }

        impl $name {
            /// Which of the matched events are hit.
            pub fn turns(&self) -> Turns<'_> {
                Turns {
                    probability: self.probability.as_ref(),
                    every: self.every,
                    after: self.after,
                    limit: self.limit,
                    when: self.when.as_ref(),
                    per_process: false,
                }
            }
        }
    };
}

/// One fault: network or syscall.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// What it is called in reports.
    pub name: Option<String>,
    /// What happens to packets.
    pub network: Option<Network>,
    /// What happens to system calls.
    pub syscall: Option<Syscall>,
    /// When it acts, and how much of it; as the experiment or its stage says if nothing is said.
    pub schedule: Option<super::document_schedule::Schedule>,
}

/// What happens to which packets.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Which way they go, seen from the target; egress if nothing is said.
    pub direction: Option<Direction>,
    /// Which packets; all if nothing is said.
    #[serde(rename = "match")]
    #[serde(default)]
    pub matches: PacketMatch,
    /// Lose them, silently for the sender.
    pub loss: Option<Loss>,
    /// Lose all of them, both ways.
    pub partition: Option<bool>,
    /// Reset the TCP connections they belong to, at both ends.
    pub reset: Option<Often>,
    /// Send them twice.
    pub duplicate: Option<Often>,
    /// Flip a bit of them.
    pub corrupt: Option<Corrupt>,
    /// Do not hold them back, so that they overtake those that are.
    pub reorder: Option<Often>,
    /// Hold them back.
    pub delay: Option<Delays>,
    /// Let them leave no faster than this.
    pub rate: Option<BitRate>,
    /// Let so much leave at once before the rest waits for the rate.
    pub burst: Option<ByteCount>,
    /// Draw once per flow: all packets of a connection are hit or none.
    pub per_flow: Option<bool>,
}

/// Which packets; all if nothing is said.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PacketMatch {
    /// Transport protocol (icmp: both versions).
    pub protocol: Option<Protocol>,
    /// Addresses, prefixes and hosts of the remote end; the longest prefix counts.
    #[serde(default)]
    pub remote: Vec<RemoteText>,
    /// Ports of the remote end.
    #[serde(default)]
    pub remote_ports: Vec<PortText>,
    /// Ports of the target.
    #[serde(default)]
    pub local_ports: Vec<PortText>,
}

/// Which of the matched events are hit: a share alone, or more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Often {
    /// This share.
    Share(Share),
    /// More than a share.
    When(When),
}

with_turns! {
    /// Which of the matched events are hit.
    #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub struct When {
        /// Share of the events whose turn it is; all if nothing is said.
        turns,
    }
}

/// How packets are lost: a share, or more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Loss {
    /// This share, each for itself.
    Share(Share),
    /// More than a share.
    More(Box<LossMore>),
}

with_turns! {
    /// How packets are lost: each for itself, or by a model with a memory.
    #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub struct LossMore {
        /// Share of the packets whose turn it is.
        turns,
        /// A model with a memory, in netem's words.
        pub model: Option<LossModel>,
        /// gemodel: from good to bad.
        pub p: Option<Share>,
        /// gemodel: from bad to good.
        pub r: Option<Share>,
        /// gemodel: share of packets that get through in the bad state; 0% if nothing is said.
        pub h: Option<Share>,
        /// gemodel: share of packets that get through in the good state; 100% if nothing is said.
        pub k: Option<Share>,
        /// state: from received in a gap to lost in a burst.
        pub p13: Option<Share>,
        /// state: from lost in a burst to received in a gap.
        pub p31: Option<Share>,
        /// state: from lost in a burst to received in a burst.
        pub p32: Option<Share>,
        /// state: from received in a burst to lost in a burst.
        pub p23: Option<Share>,
        /// state: from received in a gap to lost in a gap.
        pub p14: Option<Share>,
    }
}

/// Models of loss with a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LossModel {
    /// Gilbert-Elliott, with p, r, h and k.
    Gemodel,
    /// Four states, with p13, p31, p32, p23 and p14.
    State,
}

/// Wrong bits: a share, or more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Corrupt {
    /// Of this share.
    Share(Share),
    /// More than a share.
    More(CorruptMore),
}

with_turns! {
    /// Wrong bits.
    #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub struct CorruptMore {
        /// Share of the packets whose turn it is.
        turns,
        /// A bit of the payload, with a checksum that is right for it.
        pub payload: Option<bool>,
    }
}

/// Delays, whose times add up.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Delays {
    /// This time for all packets.
    Time(Time),
    /// One delay.
    One(Box<Delay>),
    /// Several.
    Several(Vec<Delay>),
}

with_turns! {
    /// One delay.
    #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub struct Delay {
        /// Share of the packets whose turn it is.
        turns,
        /// Mean time a packet is held back.
        pub time: Option<Time>,
        /// How far packets differ from it: half the width of the uniform distribution, the standard deviation of the others.
        pub jitter: Option<Time>,
        /// How they differ.
        pub distribution: Option<Distribution>,
        /// How much of a packet's jitter is that of the one before.
        pub correlation: Option<Share>,
        /// They leave no faster than this.
        pub rate: Option<BitRate>,
        /// So much leaves at once before the rest waits for the rate.
        pub burst: Option<ByteCount>,
        /// Hold back no more than so many packets; further ones are lost.
        #[schemars(range(min = 1))]
        pub queue: Option<u32>,
    }
}

with_turns! {
    /// What which system calls return.
    #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub struct Syscall {
        /// Share of the calls whose turn it is; all if nothing is said.
        turns,
        /// The calls, or classes of them.
        #[schemars(required, length(min = 1))]
        pub calls: Option<Vec<CallText>>,
        /// Which of them; all if nothing is said.
        #[serde(rename = "match")]
        #[serde(default)]
        pub matches: CallMatch,
        /// Fail them with this errno.
        pub error: Option<ErrnoText>,
        /// Do nothing and claim success with this value.
        #[serde(rename = "return")]
        pub returns: Option<u64>,
        /// Draw one of these results for each.
        #[serde(default)]
        pub errors: Vec<Outcome>,
        /// Hold them back, then let them go on; needs `mechanism: lsm_sleep`,
        /// `spin` or `stop_continue`.
        pub latency: Option<Latency>,
        /// Who counts.
        pub per: Option<Per>,
    }
}

/// How long calls are held back.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Latency {
    /// Mean time.
    #[schemars(required)]
    pub time: Option<Time>,
    /// How far single times differ from it; all within are equally likely.
    pub jitter: Option<Time>,
}

/// One of several results.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// Fail with this errno.
    pub errno: Option<ErrnoText>,
    /// Claim success with this value.
    #[serde(rename = "return")]
    pub returns: Option<u64>,
    /// How often, compared with the others; 1 if nothing is said.
    #[schemars(range(min = 1))]
    pub weight: Option<u32>,
}

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Per {
    /// All of the target together.
    Target,
    /// Every process for itself.
    Process,
}

/// Which calls; all if nothing is said. A value behind ! excludes; * at the end of a name stands for anything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallMatch {
    /// Names of the calling task.
    #[serde(default)]
    pub comm: Vec<String>,
    /// Its real user.
    #[serde(default)]
    pub uid: Vec<UserText>,
    /// Paths the call works on: /etc/passwd, /data/*, *.log or /data/*.log.
    #[serde(default)]
    pub path: Vec<String>,
    /// A directory with everything below it.
    pub path_prefix: Option<String>,
    /// What kind of file its descriptor is of: file, dir, socket, pipe, char or block.
    #[serde(default)]
    pub fd: Vec<String>,
    /// How many bytes it is for.
    pub size: Option<Size>,
    /// What a file is opened for.
    pub access: Option<Access>,
    /// Addresses and prefixes of the remote end.
    #[serde(default)]
    pub remote: Vec<RemoteText>,
    /// Ports of the remote end.
    #[serde(default)]
    pub remote_ports: Vec<PortText>,
}

/// A number of bytes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Size {
    /// At least so many.
    pub min: Option<u64>,
    /// At most so many.
    pub max: Option<u64>,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Reading only.
    Read,
    /// Writing, or both.
    Write,
}
