//! A program that suffers faults and reports what it felt.
//!
//! It starts without Rust's runtime, which would open /proc/self/maps before the first line of ours: under
//! `openat=EIO@100%` the counts of victim and kernel have to agree exactly.
#![no_main]

use std::ffi::{c_char, c_int};

/// Entry point called by the C library; `std::env::args` works without the runtime on glibc.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    integration_tests::victim::main()
}
