//! `cargo xtask build` and `cargo xtask run`: kernel programs first, then the binary that embeds them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::apt::{self, Tool};
use crate::command::{as_root, cargo, run as run_command, say};
use crate::{bpf, paths};

/// Builds everything; returns the kchaos binary.
pub fn build(release: bool) -> Result<PathBuf> {
    bpf::build()?;
    say("building kchaos");
    let mut command = cargo();
    command.args(["build", "--package", "chaos-userspace", "--bin", "kchaos"]);
    command.env("CARGO_TARGET_DIR", paths::target());
    if release {
        command.arg("--release");
    }
    run_command(&mut command)?;
    Ok(paths::target().join(if release { "release" } else { "debug" }).join("kchaos"))
}

/// What the README's example runs; fresh machines lack it.
const EXAMPLE: Tool = Tool { program: "ping", package: "iputils-ping" };

/// Becomes kchaos: terminal, signals and exit status are its own.
pub fn run(args: &[OsString]) -> Result<()> {
    if args.iter().any(|word| word == EXAMPLE.program) {
        apt::ensure_tools(&[EXAMPLE])?;
    }
    let kchaos = build(true)?;
    let error = as_root(&kchaos).args(args).exec();
    Err(anyhow!("cannot run {}: {error}", kchaos.display()))
}
