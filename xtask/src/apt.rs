//! Installing distribution packages on Debian and Ubuntu.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{as_root, read, run, say};
use crate::paths::find_program;

/// A program and the package that has it.
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

/// Installs the packages of those tools that are missing.
pub fn ensure_tools(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|tool| find_program(tool.program).is_none()).map(|tool| tool.package).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// Where a program is, after it was ensured.
pub fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is not on PATH"))
}

/// Installs packages, whether or not an older version is there.
pub fn install(packages: &[&str]) -> Result<()> {
    if find_program("apt-get").is_none() {
        bail!(
            "missing: {}. This system has no apt-get: install what these Debian packages hold by hand",
            packages.join(", ")
        );
    }
    // Lists go stale: a version that left the mirror cannot be downloaded.
    update()?;
    say(format!("installing packages: {}", packages.join(" ")));
    run(as_root("env")
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "-qq",
            "--no-install-recommends",
            "-oDpkg::Use-Pty=0",
        ])
        .args(packages))
    .with_context(|| format!("could not install {}", packages.join(", ")))
}

/// Whether a package is installed.
pub fn is_installed(package: &str) -> bool {
    read(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// Whether the configured suites offer a package.
pub fn offers(package: &str) -> bool {
    candidate(package).is_some()
}

fn candidate(package: &str) -> Option<String> {
    let policy = read(Command::new("apt-cache").args(["policy", package])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Refreshes the package lists, once per process.
pub fn update() -> Result<()> {
    static DONE: std::sync::Once = std::sync::Once::new();
    let mut result = Ok(());
    DONE.call_once(|| {
        say("refreshing the package lists");
        result = run(as_root("apt-get").args(["update", "-qq"]))
            .context("apt-get update failed; check the network and the system's package sources");
    });
    result
}
