//! Reads what happened.

pub mod bystander;
pub mod devices;
pub mod kernel_log;
pub mod namespaces;
pub mod recorder;
pub mod targets;
