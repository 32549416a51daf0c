//! Every system call of a long list, made once per round, with the result of each kept: which rounds were under
//! faults, only the test knows.
//!
//! From the first round to the last, this process makes no other call than the list's, its controls and `ppoll`: any
//! of the list may fail in any round, those that allocate, sleep and exit from a lock among them.

mod calls;
mod fixture;

use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;

use super::Desk;
use super::syscall_table::raw;
use crate::board::{Board, Role};
use fixture::{Fixture, leak};

pub use calls::CALLS;
pub use fixture::ROUNDS_MAX;

#[derive(Args)]
pub struct Reach {
    /// Directory for files of the calls
    #[arg(long)]
    scratch: String,
}

/// Makes as many rounds as the test lets go, and reports the results of each call, by round.
pub fn run(arguments: &Reach, desk: &Desk) -> Result<i32> {
    let fixture = Fixture::prepare(&arguments.scratch).context("preparing")?;
    let mut rounds = vec![[0i64; CALLS.len()]; ROUNDS_MAX];
    let mut controls = vec![[0i64; CALLS.len()]; ROUNDS_MAX];
    let pause = leak(libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 });
    let board: &Board = &desk.board;
    let mut made = 0;
    board.ready.store(1, Release);
    while !board.stopping() {
        if made < board.go.load(Acquire) as usize && made < ROUNDS_MAX {
            for ((call, result), control) in CALLS.iter().zip(&mut rounds[made]).zip(&mut controls[made]) {
                *result = call.make(&fixture, made);
                *control = raw(libc::SYS_getppid, [0; 6]);
            }
            made += 1;
            board.ready.store(1 + made as u32, Release);
        } else {
            raw(libc::SYS_ppoll, [0, 0, pause, 0, 0, 0]);
        }
    }
    let failed = controls[..made].iter().flatten().filter(|result| **result < 0).count();
    ensure!(made > 0, "no round was asked for");
    let results: Vec<&[i64]> = rounds[..made].iter().map(|round| &round[..]).collect();
    desk.report(Role::First, &json!({"act": "reach", "rounds": results, "controls_failed": failed}));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_listed_once_and_by_their_numbers() {
        let mut names: Vec<_> = CALLS.iter().map(|call| call.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CALLS.len());
        for call in CALLS {
            let known: chaos_userspace::spec::syscall::Call = call.name.parse().unwrap();
            assert_eq!(i64::from(known.number()), call.number, "{}", call.name);
        }
    }
}
