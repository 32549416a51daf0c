//! Calls that differ in one thing only, each made a few times: which of them a fault hits shows what it matches.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
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
}

#[derive(Clone, Copy, ValueEnum)]
enum Group {
    /// The caller's name and user
    Callers,
}

/// Makes the attempts and reports errnos and how often each was felt, by attempt.
pub fn run(arguments: &Attempts, desk: &Desk) -> Result<i32> {
    let felt = match arguments.group {
        Group::Callers => callers()?,
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

/// Opens the root directory from threads with another name or user each.
fn callers() -> Result<Vec<(String, Felt)>> {
    let names: [&[u8]; 7] = [
        b"kc-worker\0",
        b"kc-worker-2\0",
        b"kc-work\0",
        b"fifteen-bytes-x\0",
        b"fifteen-bytes-y\0",
        b"a,b\0",
        b"\xff\xfe\0",
    ];
    let by_name = names.into_iter().map(|name| {
        let label = String::from_utf8_lossy(&name[..name.len() - 1]).into_owned();
        (label, libc::SYS_prctl, [libc::PR_SET_NAME as usize, name.as_ptr() as usize, 0, 0, 0, 0])
    });
    // The bare call changes this thread alone; the effective user keeps the right to open.
    let users = [0usize, 33, 1234];
    let by_user = users
        .into_iter()
        .map(|uid| (format!("uid {uid}"), libc::SYS_setresuid, [uid, usize::MAX, usize::MAX, 0, 0, 0]));
    let all = by_name.chain(by_user).map(|(label, number, arguments)| {
        let felt = std::thread::spawn(move || {
            raw(number, arguments);
            repeat(|| {
                let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
                let fd = raw(libc::SYS_openat, [0, c"/".as_ptr() as usize, flags, 0, 0, 0]);
                if fd >= 0 {
                    raw(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
                }
                fd
            })
        });
        Ok((label, felt.join().map_err(|_| anyhow!("a thread panicked"))?))
    });
    all.collect()
}
