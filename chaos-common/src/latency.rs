//! How long calls are held back, and how the sleeper is told.
//!
//! A program can sleep only by asking for something that takes long: an extended attribute of a file on the sleeper's
//! own file system. Of that request only the size of the buffer is free, so the time goes into its 16 bits.

use crate::limits::SPIN_MAX_NS;

/// Longest time a call is held back, in nanoseconds.
pub const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Tasks that are held back at one time; further calls pass.
pub const SLEEPERS_MAX: u32 = 16_384;
/// Bytes of the buffer: above every code of a time up to [`LATENCY_MAX_NS`].
pub const CODES: usize = 20_480;

/// Nothing is held back.
pub const LATENCY_NONE: u32 = 0;
/// A program that may sleep asks the sleeper.
pub const LATENCY_SLEEP: u32 = 1;
/// The program that decides spins.
pub const LATENCY_SPIN: u32 = 2;
/// The process is stopped behind the call and let go on by the continuer.
pub const LATENCY_STOP: u32 = 3;

/// Processes that are stopped at one time; further calls pass.
pub const STOPPED_MAX: u32 = 512;
/// Signals that stop a process, as in a set of signals: SIGSTOP, SIGTSTP, SIGTTIN and SIGTTOU.
pub const STOP_SIGNALS: u64 = 0xf << 18;

/// Looks at the clock in one turn of spinning.
pub const SPIN_LOOKS: u32 = 1000;
/// Turns of one call: together with [`SPIN_LOOKS`] enough for [`SPIN_MAX_NS`] where a look takes 2 ns or more; the clock
/// itself takes some 15.
pub const SPIN_TURNS: u32 = 500;
const _: () =
    assert!(SPIN_LOOKS as u64 * SPIN_TURNS as u64 * 2 >= SPIN_MAX_NS && SPIN_MAX_NS <= u32::MAX as u64);

/// The kernel functions that the sleeping program calls, in the order of the placeholders from [`KFUNC_MAGIC`] on. Those
/// of files came with Linux 6.12 (fs/bpf_fs_kfuncs.c), for BPF LSM programs only.
pub const KFUNCS: [&str; 5] =
    ["bpf_task_from_pid", "bpf_task_release", "bpf_get_task_exe_file", "bpf_put_file", "bpf_get_file_xattr"];
/// Number of the helper that stands for the first of [`KFUNCS`]: none of the kernel's.
pub const KFUNC_MAGIC: u32 = 0x5afe_2000;

/// A call that is to be held back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// For so long, in nanoseconds.
    pub asked_ns: u64,
    /// What it returns afterwards, if it is a negative errno; else the call goes on.
    pub result: i64,
    /// The rule.
    pub rule: u32,
    /// Explicit padding.
    pub reserved: u32,
}

/// What became of a rule's calls that were to be held back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Calls that have been let go.
    pub calls: u64,
    /// Sum of what was asked for, in nanoseconds.
    pub asked_ns: u64,
    /// Sum of the times they took, in nanoseconds.
    pub took_ns: u64,
    /// The longest of them, in nanoseconds.
    pub longest_ns: u64,
    /// Calls that were let go early.
    pub cut_short: u64,
    /// Explicit padding.
    pub reserved: [u64; 3],
}

/// A process that a program has stopped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// For so long, in nanoseconds.
    pub asked_ns: u64,
    /// The thread whose call it was.
    pub thread: u32,
    /// The rule.
    pub rule: u32,
}

const _: () = assert!(size_of::<Hold>() == 24 && size_of::<Held>() == 64 && size_of::<Stopped>() == 24);

/// A time between `latency_ns - jitter_ns` and `latency_ns + jitter_ns`, all equally likely, to a thousandth of the jitter.
#[inline(always)]
pub const fn drawn(latency_ns: u64, jitter_ns: u64, draw: u32) -> u64 {
    let share = (draw >> 22) as u64;
    latency_ns.saturating_sub(jitter_ns) + ((2 * jitter_ns * share) >> 10)
}

/// The code of a time: microseconds with 11 significant bits, so that it is exact below 2 ms and to a thousandth above.
/// Never 0 and below [`CODES`].
#[inline(always)]
pub const fn code(time_ns: u64) -> u32 {
    let bounded = if time_ns > LATENCY_MAX_NS { LATENCY_MAX_NS } else { time_ns };
    let us = bounded.div_ceil(1000);
    let mut shift = 0;
    // LATENCY_MAX_NS has 26 bits.
    while shift < 15 && us >> shift > 2047 {
        shift += 1;
    }
    let code = (shift as u32) * 1024 + (us >> shift) as u32;
    if code == 0 { 1 } else { code }
}

/// The time of a code, in nanoseconds.
pub const fn time_ns(code: u32) -> u64 {
    let (shift, us) = if code < 2048 { (0, code) } else { (code / 1024 - 1, 1024 + code % 1024) };
    let shift = if shift > 15 { 15 } else { shift };
    ((us as u64) << shift) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_times_are_exact() {
        for us in 1..2048 {
            assert_eq!(time_ns(code(us * 1000)), us * 1000);
        }
        assert_eq!(code(0), 1);
        assert!((code(LATENCY_MAX_NS) as usize) < CODES && (code(u64::MAX) as usize) < CODES);
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        assert_eq!(drawn(20_000, 0, u32::MAX), 20_000);
        assert_eq!(drawn(20_000, 5_000, 0), 15_000);
        assert!((24_900..=25_000).contains(&drawn(20_000, 5_000, u32::MAX)));
        assert_eq!(drawn(LATENCY_MAX_NS, LATENCY_MAX_NS, 0), 0);
    }

    proptest! {
        #[test]
        fn times_come_back_to_a_thousandth(asked in 1_000u64..=LATENCY_MAX_NS) {
            let told = time_ns(code(asked));
            prop_assert!(told.abs_diff(asked) <= asked / 1000 + 1000, "{asked} {told}");
        }

        #[test]
        fn longer_times_have_higher_codes(a in 1u64..=LATENCY_MAX_NS, b in 1u64..=LATENCY_MAX_NS) {
            prop_assert!(a > b || code(a) <= code(b));
        }
    }
}
