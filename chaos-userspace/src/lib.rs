//! kchaos: precise network and system call faults for chosen cgroups.
//!
//! The modules follow the path of the data: a [`spec`] is what the user wrote; the [`host`] says what is there;
//! [`probe`] tries what this kernel can do; [`plan`] turns the spec into rules with a mechanism each; [`encode`] writes them
//! as the kernel reads them; [`inject`] loads,
//! attaches, watches over and removes them; [`observe`] reads what happened; [`report`] tells it; [`runs`] lets a live
//! run be asked and changed; [`experiment`] is a file that says what has to hold around a spec; [`live`] shows runs as they go. [`cli`] is on top.

// They panic where nobody reads: `cli::console` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod convert;
pub mod encode;
pub mod experiment;
pub mod host;
pub mod inject;
pub mod live;
pub mod observe;
pub mod plan;
pub mod probe;
pub mod report;
pub mod runs;
pub mod spec;
pub mod steady;
