//! What kchaos costs. The measurements themselves are in `bench/tests`, one file per table of docs/benchmarks.md; run
//! by `cargo xtask bench`.
//!
//! Machines are noisy and differ from each other, so that a figure alone says little. Every measurement here is a set of
//! arms that run in turns, two of which are the same: what lies between those two is noise.

pub mod arms;
pub mod bystander;
pub mod flow;
pub mod kernel;
pub mod leaving;
pub mod packet;
pub mod stream;
