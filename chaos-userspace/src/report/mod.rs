//! Tells what happened, to people and to machines.

pub mod event;
pub mod record;
pub mod summary;
