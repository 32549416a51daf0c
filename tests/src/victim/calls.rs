//! One system call made many times from threads and descendants, with other calls as controls.

use std::ffi::CString;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde_json::json;

use super::Desk;
use super::syscall_table::{Fixture, TABLE, by_name};
use crate::board::{Board, CONTROLS_MAX, Role, TASKS_MAX, Task};
use crate::patience::monotonic_ns;
use crate::tasks::read_tasks;

/// How often each control call is made.
const CONTROL_ROUNDS: usize = 3;
/// Exit status of the victim's exec of itself, chosen to be no accident.
pub const EXEC_EXIT_STATUS: i32 = 42;

#[derive(Args)]
pub struct Calls {
    /// System call to make
    #[arg(long)]
    call: String,
    /// How often each task makes it; without, until told to stop
    #[arg(short)]
    n: Option<u64>,
    /// Threads of each process
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Generations of forked children
    #[arg(long, default_value_t = 0)]
    children: u32,
    /// Wait for the test's go before the first call
    #[arg(long)]
    wait: bool,
    /// Directory for files of the calls
    #[arg(long, default_value = "/tmp")]
    scratch: String,
    /// Make no other calls
    #[arg(long)]
    no_controls: bool,
    /// Pause after each call
    #[arg(long, default_value_t = 0)]
    pause_us: u64,
}

pub fn run(arguments: &Calls, desk: &Desk) -> Result<i32> {
    let Some(call) = by_name(&arguments.call) else {
        let names: Vec<&str> = TABLE.iter().map(|call| call.name).collect();
        bail!("--call {}: not in the table ({})", arguments.call, names.join(", "));
    };
    let tasks = arguments.threads * (arguments.children as usize + 1);
    ensure!((1..=TASKS_MAX).contains(&tasks), "{tasks} tasks: the board has room for 1 to {TASKS_MAX}");
    desk.board.ready.store(1, Release);
    while arguments.wait && desk.board.go.load(Acquire) == 0 && !desk.board.stopping() {
        std::thread::sleep(Duration::from_millis(1));
    }
    descend(arguments, call, 0, &desk.board)?;
    desk.report(
        Role::First,
        &json!({"act": "calls", "call": arguments.call, "tasks": read_tasks(&desk.board)}),
    );
    Ok(0)
}

/// Starts the next generation, makes the calls of this one, and waits for the next.
fn descend(arguments: &Calls, call: usize, generation: u32, board: &Board) -> Result<()> {
    let child = if generation < arguments.children {
        // SAFETY: this process has a single thread here; threads are started after the fork and joined before return.
        match unsafe { fork() }.context("forking the next generation")? {
            ForkResult::Parent { child } => Some(child),
            ForkResult::Child => {
                let ended = descend(arguments, call, generation + 1, board);
                if let Err(error) = &ended {
                    eprintln!("victim: generation {}: {error:#}", generation + 1);
                }
                // SAFETY: ends the child at once; nothing of the parent's may run twice.
                unsafe { libc::_exit(i32::from(ended.is_err())) };
            }
        }
    } else {
        None
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads)
            .map(|_| scope.spawn(|| work(arguments, call, generation, board)))
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| match thread.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some("a thread panicked".into()),
            })
            .collect()
    });
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    if let Some(child) = child {
        match waitpid(child, None).context("waiting for the next generation")? {
            WaitStatus::Exited(_, 0) => {}
            other => bail!("generation {} ended with {other:?}", generation + 1),
        }
    }
    Ok(())
}

fn work(arguments: &Calls, call: usize, generation: u32, board: &Board) -> Result<()> {
    let task = &board.tasks[board.tasks_used.fetch_add(1, Release) as usize % TASKS_MAX];
    task.tgid.store(std::process::id(), Relaxed);
    task.tid.store(nix::unistd::gettid().as_raw() as u32, Relaxed);
    task.generation.store(generation, Relaxed);
    let fixture = Fixture::prepare(&arguments.scratch, &arguments.call).context("preparing")?;
    if !arguments.no_controls {
        make_controls(call, &fixture, task);
    }
    let make = TABLE[call].make;
    let mut made = 0u64;
    while arguments.n.is_none_or(|n| made < n) && !board.stopping() {
        let begin_ns = monotonic_ns();
        let result = make(&fixture);
        made += 1;
        if result >= 0 {
            task.succeeded.fetch_add(1, Relaxed);
            task.last_success_ns.store(begin_ns, Release);
        } else {
            count_errno(task, -result as u64);
            task.last_error_ns.store(monotonic_ns(), Release);
        }
        task.calls.store(made, Release);
        if arguments.pause_us > 0 {
            std::thread::sleep(Duration::from_micros(arguments.pause_us));
        }
    }
    if !arguments.no_controls {
        exec_self(task)?;
    }
    task.done.store(1, Release);
    Ok(())
}

fn count_errno(task: &Task, errno: u64) {
    for (slot, count) in task.errnos.iter().zip(&task.errno_counts) {
        let known = slot.load(Relaxed);
        if known == errno || known == 0 {
            slot.store(errno, Release);
            count.fetch_add(1, Relaxed);
            return;
        }
    }
}

/// Makes every other call of the table a few times.
fn make_controls(call: usize, fixture: &Fixture, task: &Task) {
    let others = (0..TABLE.len()).filter(|index| *index != call);
    for ((index, other), control) in others.map(|index| (index, &TABLE[index])).zip(&task.controls) {
        control.call.store(index as u32, Relaxed);
        for _ in 0..CONTROL_ROUNDS {
            let result = (other.make)(fixture);
            control.made.fetch_add(1, Relaxed);
            if result < 0 {
                control.errno.store(-result as u32, Relaxed);
                control.failed.fetch_add(1, Relaxed);
            }
        }
        task.controls_used.fetch_add(1, Release);
    }
}

const _: () = assert!(TABLE.len() <= CONTROLS_MAX);

/// Runs this program again, as a command under fault would run another.
fn exec_self(task: &Task) -> Result<()> {
    let words = [c"victim".to_owned(), c"exit".to_owned(), CString::new(EXEC_EXIT_STATUS.to_string())?];
    let mut arguments: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    arguments.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the child makes two system calls and allocates nothing.
    let child = match unsafe { fork() }.context("forking for exec")? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // SAFETY: null-terminated arrays of null-terminated strings that live across the call.
            unsafe { libc::execve(c"/proc/self/exe".as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
            // SAFETY: ends the child at once. The errno is told apart from an exit status by its offset.
            unsafe { libc::_exit(100 + Errno::last_raw().min(100)) };
        }
    };
    let status = match waitpid(child, None).context("waiting for exec")? {
        WaitStatus::Exited(_, status) if status >= 100 => 100 - status,
        WaitStatus::Exited(_, status) => status,
        other => bail!("the exec of myself ended with {other:?}"),
    };
    task.exec_status.store(status + 1, Relaxed);
    Ok(())
}
