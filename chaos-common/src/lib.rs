//! What the kernel programs and user space of kchaos agree on.
//!
//! Everything here compiles for the BPF target and for the host. The types of [`control`], [`rule`], [`target`] and
//! [`counter`] are map values with a fixed layout; [`packet`] and [`decide`] are pure functions, so that every
//! verdict of the kernel side is covered by ordinary unit tests.

#![cfg_attr(not(test), no_std)]

pub mod arch;
pub mod chain;
pub mod control;
pub mod counter;
pub mod decide;
pub mod event;
pub mod latency;
pub mod layout;
pub mod limits;
pub mod line;
pub mod line_load;
pub mod namespace;
pub mod packet;
pub mod probability;
pub mod results;
pub mod rule;
pub mod syscall;
pub mod syscall_match;
pub mod target;
#[cfg(feature = "user")]
mod user;
pub mod watch;

/// Version of the layout of all map values and read-only globals. Both halves are built together and the loader
/// refuses a kernel object with another number.
pub const ABI_VERSION: u32 = 1;
