//! What a faulted process does, and how it reports what it felt: the code behind the `victim` binary.

mod attempts;
mod bits;
mod calls;
#[cfg(target_arch = "x86_64")]
mod compat;
mod datagram;
mod reach;
mod results;
mod ring;
mod syscall_table;
mod talk;
mod tcp;
mod timed;
mod trivia;
mod web;

use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::board::{Role, SharedBoard};

pub use attempts::ROUNDS as ATTEMPT_ROUNDS;
pub use calls::EXEC_EXIT_STATUS;
pub use reach::{CALLS as REACH_CALLS, ROUNDS_MAX as REACH_ROUNDS_MAX};
pub use syscall_table::{TABLE as CALLS, by_name as call_by_name};

/// A program that suffers faults and reports what it felt.
#[derive(Parser)]
struct Arguments {
    /// Report into the shared memory behind this descriptor, or in this file, instead of printing JSON
    #[arg(long, global = true, value_name = "FD|PATH")]
    board: Option<String>,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Send numbered datagrams
    UdpSend(datagram::Send),
    /// Receive numbered datagrams
    UdpRecv(datagram::Receive),
    /// Send and receive in one process
    UdpPair(datagram::Pair),
    /// Send bytes over TCP
    TcpSend(tcp::Send),
    /// Receive bytes over TCP
    TcpRecv(tcp::Receive),
    /// Send a known pattern to oneself and see what arrives
    Bits(bits::Bits),
    /// Ask over TCP, again and again
    Ask(talk::Ask),
    /// Answer those who ask
    Answer(talk::Answer),
    /// Serve one page
    Web(web::Web),
    /// Make one system call many times, from threads and children
    Calls(calls::Calls),
    /// Make calls that differ in one thing
    Attempts(attempts::Attempts),
    /// Make every system call of a long list, round by round
    Reach(reach::Reach),
    /// Make some system calls in turn and keep every result
    Results(results::Results),
    /// Measure how long system calls take
    Timed(timed::Timed),
    /// Wait until told to end
    Sleep(trivia::Sleep),
    /// Exit with a status
    Exit(trivia::Exit),
    /// End by a signal
    Die(trivia::Die),
    /// Print the descriptors this process was given
    Fds(trivia::Fds),
    /// Print the process's cgroup and ids
    WhoAmI(trivia::WhoAmI),
}

/// Where a result goes.
struct Desk {
    board: SharedBoard,
    shared: bool,
}

impl Desk {
    fn report(&self, role: Role, result: &serde_json::Value) {
        if self.shared {
            self.board.report(role, result);
        } else {
            println!("{result}");
        }
    }
}

/// Runs the victim with the process's arguments; returns its exit status.
pub fn main() -> c_int {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nowhere else to say it.
            let _ignored = error.print();
            return error.exit_code();
        }
    };
    match act(arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("victim: {error:#}");
            99
        }
    }
}

fn act(arguments: Arguments) -> Result<c_int> {
    let board = match arguments.board.as_deref() {
        Some(name) => Some(match name.parse() {
            Ok(fd) => {
                // SAFETY: the descriptor was handed over by the caller and is not closed in here.
                SharedBoard::from_fd(unsafe { BorrowedFd::borrow_raw(fd) })?
            }
            Err(_) => SharedBoard::open(Path::new(name))?,
        }),
        None => None,
    };
    let shared = board.is_some();
    let desk = Desk { board: board.map_or_else(SharedBoard::anonymous, Ok)?, shared };
    match arguments.act {
        Act::UdpSend(send) => datagram::send(&send, &desk),
        Act::UdpRecv(receive) => datagram::receive(&receive, &desk),
        Act::UdpPair(pair) => datagram::pair(&pair, &desk),
        Act::TcpSend(send) => tcp::send(&send, &desk),
        Act::TcpRecv(receive) => tcp::receive(&receive, &desk),
        Act::Bits(bits) => bits::run(&bits, &desk),
        Act::Ask(ask) => talk::ask(&ask, &desk),
        Act::Answer(answer) => talk::answer(&answer, &desk),
        Act::Web(arguments) => web::web(&arguments, &desk),
        Act::Calls(calls) => calls::run(&calls, &desk),
        Act::Attempts(attempts) => attempts::run(&attempts, &desk),
        Act::Reach(reach) => reach::run(&reach, &desk),
        Act::Results(results) => results::run(&results, &desk),
        Act::Timed(timed) => timed::run(&timed, &desk),
        Act::Sleep(sleep) => trivia::sleep(&sleep, &desk),
        Act::Exit(exit) => Ok(exit.status),
        Act::Die(die) => trivia::die(&die),
        Act::Fds(_) => trivia::fds(&desk),
        Act::WhoAmI(_) => trivia::who_am_i(&desk),
    }
}
