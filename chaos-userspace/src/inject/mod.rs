//! Loads, attaches, watches over and removes.
//!
//! Everything in the kernel is owned by a file descriptor of this process: nothing is pinned, so nothing outlives it.

mod attendant;
pub mod bpf;
pub mod clsact;
pub mod continuer;
pub mod control;
pub mod engine;
pub mod functions;
pub mod grace;
pub mod guardian;
mod holder;
pub mod identity;
pub mod journal;
pub mod lease;
pub mod line;
mod line_tables;
pub mod link;
mod live_tables;
mod map_errors;
mod match_tables;
pub mod object;
pub mod program;
pub mod seccomp;
pub mod sleeper;
mod tree_members;
pub mod watch;
