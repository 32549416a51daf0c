//! Victims that do next to nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use serde_json::json;

use super::Desk;
use crate::board::Role;

#[derive(Args)]
pub struct Sleep {
    /// Do not die of SIGINT and SIGTERM
    #[arg(long)]
    stubborn: bool,
}

#[derive(Args)]
pub struct Exit {
    /// Exit status
    pub status: i32,
}

#[derive(Args)]
pub struct Die {
    /// Signal number
    signal: i32,
}

#[derive(Args)]
pub struct Fds {}

#[derive(Args)]
pub struct WhoAmI {}

/// Waits until the board says stop.
pub fn sleep(arguments: &Sleep, desk: &Desk) -> Result<i32> {
    if arguments.stubborn {
        for ignored in [Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { signal(ignored, SigHandler::SigIgn) }.context("ignoring a signal")?;
        }
    }
    desk.board.ready.store(1, Release);
    while !desk.board.stopping() {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(0)
}

/// Ends this process by a signal.
pub fn die(arguments: &Die) -> Result<i32> {
    let number =
        Signal::try_from(arguments.signal).with_context(|| format!("no signal {}", arguments.signal))?;
    if number != Signal::SIGKILL {
        // SAFETY: restores the default action, whatever this process was started with.
        unsafe { signal(number, SigHandler::SigDfl) }.with_context(|| format!("resetting {number}"))?;
    }
    raise(number).with_context(|| format!("raising {number}"))?;
    Ok(98)
}

/// Reports what each inherited descriptor refers to.
pub fn fds(desk: &Desk) -> Result<i32> {
    let mut open = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").context("reading /proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        // The directory stream itself is no inheritance.
        if !target.to_string_lossy().ends_with("/fd") {
            open.insert(
                entry.file_name().to_string_lossy().into_owned(),
                target.to_string_lossy().into_owned(),
            );
        }
    }
    desk.report(Role::First, &json!({"act": "fds", "fds": open}));
    Ok(0)
}

/// Reports the ids of this process and its cgroup v2 path.
pub fn who_am_i(desk: &Desk) -> Result<i32> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    desk.report(
        Role::First,
        &json!({
            "act": "who-am-i", "pid": std::process::id(), "ppid": std::os::unix::process::parent_id(),
            "cgroup": cgroup, "terminal": nix::unistd::isatty(std::io::stdin()).unwrap_or(false),
            "foreground": nix::unistd::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == nix::unistd::getpgrp()),
            "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        }),
    );
    Ok(0)
}
