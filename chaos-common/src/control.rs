//! The control page: one map value, mapped into the owner and into the guardian.
//!
//! Layout: one 64-byte [`Header`], then [`RUNS_MAX`] slots of 64 bytes, one [`Run`] each; 4096 bytes in all. Writers
//! use plain aligned stores; every field that changes while programs run is a single machine word.

use crate::limits::RUNS_MAX;

/// Bytes of the control page.
pub const PAGE_BYTES: usize = 4096;

/// Processes whose own calls always pass.
pub const OWN: usize = 3;

/// The programs that an engine begins with.
pub const FIRST_SET: u32 = 1 << 0;
/// Those that take their place when other runs need other ones, and give it back when they are replaced in turn.
pub const SECOND_SET: u32 = 1 << 1;

/// Engine-wide switches: slot 0 of the page.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// [`crate::ABI_VERSION`].
    pub abi: u32,
    /// 0 while the engine may not act: the guardian's first deed is to store it here. Otherwise which of its sets of programs
    /// act, one bit each: [`FIRST_SET`], [`SECOND_SET`].
    pub armed: u32,
    /// Which half of the rule table is in use: 0 or 1.
    pub bank: u32,
    /// Always 0, which the verifier does not know: what begins with it is not told apart by whether it was changed.
    pub zero: u32,
    /// `CLOCK_MONOTONIC` nanoseconds after which every program lets everything pass.
    pub lease_ns: u64,
    /// Rules that judge packets leaving a target.
    pub egress_rules: u64,
    /// Rules that judge packets arriving at a target.
    pub ingress_rules: u64,
    /// Thread group ids of the owner, of the guardian and of the sleeper or continuer, whose own calls always pass.
    pub own: [u32; OWN],
    /// Thread group id of the process whose program lies on the sleeper's file system, or of the continuer; 0 while there is
    /// none.
    pub handle: u32,
    /// `CLOCK_MONOTONIC` nanoseconds at which the sleeper or continuer last said that it runs.
    pub sleeper_ns: u64,
}

/// One run: an experiment from apply to rollback.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// One of the `STATE_*` values.
    pub state: u32,
    /// One of the `MODE_*` values.
    pub mode: u32,
    /// `CLOCK_MONOTONIC` nanoseconds at which the run ends; 0 means that only the lease ends it.
    pub deadline_ns: u64,
    /// Set by user space for a run that waits for an exec: the deadline becomes the time of the exec plus this.
    pub duration_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds at which the run was armed.
    pub armed_ns: u64,
    /// Explicit padding.
    pub reserved: [u64; 4],
}

/// The slot is unused or its run has ended.
pub const STATE_IDLE: u32 = 0;
/// The run is armed by the first successful exec in one of its cgroups.
pub const STATE_AWAIT_EXEC: u32 = 1;
/// The run acts.
pub const STATE_ARMED: u32 = 2;

/// Verdicts are carried out.
pub const MODE_ENFORCE: u32 = 0;
/// Verdicts are counted only.
pub const MODE_OBSERVE: u32 = 1;

/// The whole page.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// Slot 0.
    pub header: Header,
    /// One slot per run.
    pub runs: [Run; RUNS_MAX],
}

const _: () = {
    assert!(size_of::<Header>() == 64);
    assert!(size_of::<Run>() == 64);
    assert!(size_of::<Control>() == PAGE_BYTES);
    assert!(core::mem::offset_of!(Header, lease_ns) == 16);
    assert!(core::mem::offset_of!(Control, runs) == 64);
};
