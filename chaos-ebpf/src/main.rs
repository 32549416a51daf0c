//! The kernel programs of kchaos.
//!
//! Entry points are a few lines each and fail open: gather facts, let [`judge`] decide, carry out the verdict. Nothing
//! but the target match runs for events of other processes.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod arrival;
mod caller;
mod corrupt;
mod count;
mod event;
mod exec;
mod exit;
mod globals;
mod judge;
mod latency;
mod line;
mod maps;
mod namespace;
mod network;
mod ordinal;
mod packet;
mod path;
mod peer;
mod reset;
mod rewrite;
mod scratch;
mod stop;
mod syscall;
mod syscall_match;
mod target;
mod tree;
mod watch;
mod witness;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could get here.
    loop {}
}

/// The helpers for cgroup ids, packet redirection and return value override are reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
