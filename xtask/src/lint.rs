//! `cargo xtask lint`: formatting, clippy for the host, clippy for the kernel programs. Warnings are errors.

use anyhow::{Context, Result};

use crate::bpf;
use crate::command::{cargo, run as run_command, say};

/// One check: its name, and what runs it.
pub type Check = (&'static str, fn() -> Result<()>);

/// The checks, in the order they run.
pub const CHECKS: [Check; 3] =
    [("rustfmt", format), ("clippy", clippy), ("clippy (kernel programs)", bpf::lint)];

/// Runs all checks; the first failure ends it.
pub fn run() -> Result<()> {
    CHECKS.iter().try_for_each(|(name, check)| check().with_context(|| format!("lint {name}")))
}

fn format() -> Result<()> {
    say("rustfmt");
    run_command(cargo().args(["fmt", "--all", "--check"])).context("run: cargo fmt --all")
}

fn clippy() -> Result<()> {
    say("clippy on the host code");
    run_command(cargo().args(["clippy", "--all-targets", "--", "-Dwarnings"]))
}
