//! How long calls take.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::Desk;
use super::syscall_table::{Call, Fixture, timed};
use crate::board::Role;
use crate::patience::monotonic_ns;

#[derive(Args)]
pub struct Timed {
    /// System call to make
    #[arg(long)]
    call: String,
    /// Another one to make behind each
    #[arg(long, default_value = "openat2")]
    control: String,
    /// How often each thread makes both
    #[arg(short)]
    n: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Interrupt the call again and again by a signal that is handled
    #[arg(long)]
    interrupted: bool,
    /// How long the signal's handler takes, in milliseconds
    #[arg(long, default_value_t = 0)]
    handler_ms: u64,
    /// Wait for the test's go before the first call
    #[arg(long)]
    wait: bool,
}

/// Times in microseconds, and errnos, of one thread.
#[derive(Default)]
struct Account {
    own_us: Vec<u64>,
    control_us: Vec<u64>,
    errnos: Vec<i64>,
}

pub fn run(arguments: &Timed, desk: &Desk) -> Result<i32> {
    let (Some(call), Some(control)) = (timed(&arguments.call), timed(&arguments.control)) else {
        bail!("{} or {} is not in the table", arguments.call, arguments.control);
    };
    if arguments.interrupted {
        HANDLER_MS.store(arguments.handler_ms, Relaxed);
        handle_alarms()?;
    }
    let fixtures = (0..arguments.threads).map(|_| Fixture::prepare("/tmp", &arguments.call));
    let fixtures = fixtures.collect::<Result<Vec<_>>>().context("preparing")?;
    desk.board.ready.store(1, Release);
    while arguments.wait && desk.board.go.load(Acquire) == 0 && !desk.board.stopping() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begin_ns = monotonic_ns();
    // The first thread is one of them, so that it can be seen from outside what it waits for.
    let mut fixtures = fixtures.into_iter();
    let first = fixtures.next().context("no threads")?;
    let over = AtomicBool::new(false);
    let accounts: Vec<Account> = std::thread::scope(|scope| {
        if arguments.interrupted {
            scope.spawn(|| interrupt(&over));
        }
        let work = |fixture| scope.spawn(move || make(call, control, arguments.n, fixture));
        let threads: Vec<_> = fixtures.map(work).collect();
        let own = make(call, control, arguments.n, first);
        over.store(true, Release);
        threads.into_iter().filter_map(|thread| thread.join().ok()).chain([own]).collect()
    });
    let all = |of: fn(&Account) -> &Vec<u64>| accounts.iter().flat_map(of).copied().collect::<Vec<_>>();
    desk.board.tasks[0].calls.store(arguments.n, Relaxed);
    desk.report(
        Role::First,
        &json!({
            "took_us": (monotonic_ns() - begin_ns) / 1000,
            "own_us": all(|account| &account.own_us),
            "control_us": all(|account| &account.control_us),
            "errnos": accounts.iter().flat_map(|account| &account.errnos).collect::<Vec<_>>(),
        }),
    );
    Ok(0)
}

fn make(call: &Call, control: &Call, n: u64, fixture: Fixture) -> Account {
    let mut account = Account::default();
    let timed = |call: &Call| {
        let begin_ns = monotonic_ns();
        let result = (call.make)(&fixture);
        ((monotonic_ns() - begin_ns) / 1000, result)
    };
    for _ in 0..n {
        let (us, result) = timed(call);
        account.own_us.push(us);
        if result < 0 {
            account.errnos.push(-result);
        }
        account.control_us.push(timed(control).0);
    }
    account
}

static HANDLER_MS: AtomicU64 = AtomicU64::new(0);

extern "C" fn idle(_: libc::c_int) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: HANDLER_MS.load(Relaxed) as i64 * 1_000_000 };
    if time.tv_nsec > 0 {
        // SAFETY: a time of its own; a handler may call nanosleep.
        unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
    }
}

/// Handles SIGALRM; interrupted calls are restarted.
fn handle_alarms() -> Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::Handler(idle), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing but sleep.
    unsafe { sigaction(Signal::SIGALRM, &action) }.context("handling SIGALRM").map(drop)
}

/// Sends the first thread SIGALRM until all is over.
fn interrupt(over: &AtomicBool) {
    let process = std::process::id();
    while !over.load(Acquire) {
        std::thread::sleep(Duration::from_millis(40));
        // SAFETY: plain numbers; the id of the first thread is that of the process.
        unsafe { libc::syscall(libc::SYS_tgkill, process, process, libc::SIGALRM) };
    }
}
