//! Calls that differ in one thing only, each made a few times: which of them a fault hits shows what it matches.

mod arguments;
mod callers;
mod classes;
#[cfg(target_arch = "x86_64")]
mod compats;
mod paths;
mod rings;

use std::collections::BTreeMap;
use std::ffi::CStr;

use anyhow::Result;
use clap::{Args, ValueEnum};
use nix::errno::Errno;
use serde_json::json;

use super::Desk;
use super::syscall_table::raw;
use crate::board::Role;

/// How often each attempt is made.
pub const ROUNDS: u64 = 10;

#[derive(Args)]
pub struct Attempts {
    /// In what the attempts differ
    #[arg(value_enum)]
    group: Group,
    /// Directory that the test has filled
    #[arg(long, default_value = "/tmp")]
    scratch: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Group {
    /// The caller's name and user
    Callers,
    /// The path a call works on
    Paths,
    /// The other arguments of a call
    Arguments,
    /// The call itself, of a class
    Classes,
    /// What a 32-bit caller calls
    #[cfg(target_arch = "x86_64")]
    Compats,
    /// What is asked of an io_uring
    Rings,
}

/// Makes the attempts and reports errnos and how often each was felt, by attempt.
pub fn run(arguments: &Attempts, desk: &Desk) -> Result<i32> {
    let felt = match arguments.group {
        Group::Callers => callers::make()?,
        Group::Paths => paths::make(&arguments.scratch)?,
        Group::Arguments => arguments::make(&arguments.scratch)?,
        Group::Classes => classes::make(&arguments.scratch)?,
        #[cfg(target_arch = "x86_64")]
        Group::Compats => compats::make(&arguments.scratch)?,
        Group::Rings => rings::make(&arguments.scratch)?,
    };
    let felt: BTreeMap<_, _> = felt.into_iter().collect();
    desk.report(Role::First, &json!({"act": "attempts", "felt": felt}));
    Ok(0)
}

/// Errno (0 for none) and how often it was felt.
type Felt = BTreeMap<String, u64>;

fn repeat(make: impl Fn() -> i64) -> Felt {
    let mut felt = Felt::new();
    for _ in 0..ROUNDS {
        let result = make();
        let name =
            if result < 0 { format!("{:?}", Errno::from_raw(-result as i32)) } else { "ok".to_owned() };
        *felt.entry(name).or_default() += 1;
    }
    felt
}

const HERE: usize = libc::AT_FDCWD as usize;

fn pointer(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// Opens by a call that no fault of these tests is on.
fn open(path: &CStr, flags: i32) -> i64 {
    raw(libc::SYS_open, [pointer(path), (flags | libc::O_CLOEXEC) as usize, 0o600, 0, 0, 0])
}

fn close(fd: i64) {
    if fd >= 0 {
        raw(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
    }
}

fn openat(directory: usize, path: &CStr) -> i64 {
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    let fd = raw(libc::SYS_openat, [directory, pointer(path), flags, 0, 0, 0]);
    close(fd);
    fd
}

/// An error that the call gives by itself is as good as success.
fn expecting(errno: i32, result: i64) -> i64 {
    if result == -i64::from(errno) { 0 } else { result }
}

fn read(fd: usize) -> i64 {
    let mut byte = 0u8;
    raw(libc::SYS_read, [fd, &raw mut byte as usize, 1, 0, 0, 0])
}

fn write(fd: usize) -> i64 {
    let byte = 0u8;
    raw(libc::SYS_write, [fd, &raw const byte as usize, 1, 0, 0, 0])
}
