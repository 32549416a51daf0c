//! Reads what happened.

pub mod bystander;
pub mod kernel_log;
