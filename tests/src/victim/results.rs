//! A few system calls made in order, in processes side by side, with the result of each call kept.

use std::io::Read as _;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicI64, AtomicU32};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde_json::json;

use super::Desk;
use super::syscall_table::{Call, Fixture, TABLE, TELLING};
use crate::board::Role;

/// Results that one process keeps, of all its calls and threads.
const KEPT_MAX: usize = 4096;

#[derive(Args)]
pub struct Results {
    /// System calls to make, one after the other
    #[arg(long, value_delimiter = ',', required = true)]
    calls: Vec<String>,
    /// How often each thread makes each of them
    #[arg(short)]
    n: usize,
    /// Threads of each process
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Further processes
    #[arg(long, default_value_t = 0)]
    children: usize,
    /// Start a further process only when the one before has ended, and keep only the results of the last
    #[arg(long)]
    one_by_one: bool,
    /// Keep every process until all have made their calls, and count results only
    #[arg(long)]
    hold: bool,
    /// Wait for the test's go before the first call
    #[arg(long)]
    wait: bool,
    /// Directory for files of the calls
    #[arg(long, default_value = "/tmp")]
    scratch: String,
}

/// Memory that processes share: the results of each, and how many have made their calls.
struct Shared {
    results: &'static [AtomicI64],
    done: &'static AtomicU32,
    per_process: usize,
}

impl Shared {
    fn map(processes: usize, per_process: usize) -> Result<Self> {
        let bytes = NonZeroUsize::new((processes * per_process + 1) * 8).context("no results")?;
        // SAFETY: a fresh mapping at an address the kernel chooses, never unmapped; zeros are valid atomics.
        unsafe {
            let memory = mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
            )?;
            let done = memory.cast::<AtomicU32>().as_ref();
            let results = std::slice::from_raw_parts(
                memory.cast::<AtomicI64>().as_ptr().add(1),
                processes * per_process,
            );
            Ok(Self { results, done, per_process })
        }
    }

    fn of(&self, process: usize) -> &'static [AtomicI64] {
        &self.results[process * self.per_process..][..self.per_process]
    }

    fn read(&self, process: usize) -> Vec<i64> {
        self.of(process).iter().map(|result| result.load(Acquire)).collect()
    }
}

pub fn run(arguments: &Results, desk: &Desk) -> Result<i32> {
    let known = |name: &String| TABLE.iter().chain(TELLING).find(|call| call.name == *name);
    let calls: Vec<&Call> = arguments
        .calls
        .iter()
        .map(|name| known(name).with_context(|| format!("--calls {name}: not in the table")))
        .collect::<Result<_>>()?;
    let per_process = calls.len() * arguments.n * arguments.threads;
    ensure!((1..=KEPT_MAX).contains(&per_process), "{per_process} results per process");
    let processes = arguments.children + 1;
    let shared = Shared::map(processes, per_process)?;
    // Prepared before the fault; children inherit it.
    let fixtures: Vec<Fixture> = (0..arguments.threads)
        .map(|_| Fixture::prepare(&arguments.scratch, &arguments.calls[0]).context("preparing"))
        .collect::<Result<_>>()?;
    let (held, keeper) = std::io::pipe().context("making a pipe")?;
    desk.board.ready.store(1, Release);
    while arguments.wait && desk.board.go.load(Acquire) == 0 && !desk.board.stopping() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut children = vec![];
    for number in 1..processes {
        // SAFETY: this process has a single thread here.
        match unsafe { fork() }.context("forking")? {
            ForkResult::Parent { child } if arguments.one_by_one => await_child(child)?,
            ForkResult::Parent { child } => children.push(child),
            ForkResult::Child => {
                make(arguments, &calls, &fixtures, shared.of(number));
                shared.done.fetch_add(1, Release);
                drop(keeper);
                if arguments.hold {
                    // Ends when the last keeper is closed, the parent's.
                    let _ignored = (&held).read(&mut [0]);
                }
                // SAFETY: ends the child at once; nothing of the parent's may run twice.
                unsafe { libc::_exit(0) };
            }
        }
    }
    make(arguments, &calls, &fixtures, shared.of(0));
    while arguments.hold && (shared.done.load(Acquire) as usize) < arguments.children {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(keeper);
    for child in children {
        await_child(child)?;
    }
    if arguments.one_by_one || arguments.hold {
        desk.report(Role::First, &json!({"act": "results", "counts": counts(&shared, processes)}));
    } else {
        let all: Vec<Vec<i64>> = (0..processes).map(|process| shared.read(process)).collect();
        desk.report(Role::First, &json!({"act": "results", "processes": all}));
    }
    Ok(0)
}

/// How many processes had each sequence of results.
fn counts(shared: &Shared, processes: usize) -> Vec<(Vec<i64>, usize)> {
    let mut counts: Vec<(Vec<i64>, usize)> = vec![];
    for process in 0..processes {
        let sequence = shared.read(process);
        match counts.iter_mut().find(|(known, _)| *known == sequence) {
            Some((_, count)) => *count += 1,
            None => counts.push((sequence, 1)),
        }
    }
    counts
}

fn await_child(child: nix::unistd::Pid) -> Result<()> {
    match waitpid(child, None).context("waiting for a child")? {
        WaitStatus::Exited(_, 0) => Ok(()),
        other => bail!("a child ended with {other:?}"),
    }
}

/// Makes the calls of one process: in turn, each thread with a part of the results of its own.
fn make(arguments: &Results, calls: &[&Call], fixtures: &[Fixture], results: &[AtomicI64]) {
    let each = results.len() / arguments.threads;
    let work = |fixture: &Fixture, results: &[AtomicI64]| {
        let round = calls.iter().cycle();
        for (result, call) in results.iter().zip(round) {
            result.store((call.make)(fixture), Release);
        }
    };
    if arguments.threads == 1 {
        // A thread of its own would be a call more.
        return work(&fixtures[0], results);
    }
    std::thread::scope(|scope| {
        for (fixture, results) in fixtures.iter().zip(results.chunks(each)) {
            scope.spawn(move || work(fixture, results));
        }
    });
}
