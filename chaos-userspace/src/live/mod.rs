//! The live view of the runs of this host, as `kchaos top` shows it: a [`model`] of what the owners answer, [`draw`]n as a pure
//! function of it, in a [`terminal`] that is given back whatever happens.

pub mod draw;
pub mod keys;
pub mod model;
pub mod sample;
mod tables;
pub mod terminal;
pub mod typed;
