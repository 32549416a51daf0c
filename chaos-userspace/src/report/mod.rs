//! Tells what happened, to people and to machines.

pub mod event;
pub mod experiment;
pub mod held;
pub mod record;
pub mod restarts;
pub mod summary;
