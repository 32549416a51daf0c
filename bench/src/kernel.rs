//! What the kernel says of programs, and programs that do nothing.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Result, anyhow};
use chaos_userspace::inject::bpf::{self, AttachType, Load, ProgramType};
use integration_tests::program_info::{Info, info};

/// `mov64 r0, value; exit`.
fn returning(value: i32) -> [u64; 2] {
    const MOVE: u64 = 0xb7;
    const EXIT: u64 = 0x95;
    [MOVE | u64::from(value as u32) << 32, EXIT]
}

/// A program that only returns: -1, "next", for packets at devices, 1 for those at sockets, 0 for calls.
pub fn empty(program_type: ProgramType, attach_type: AttachType, attach_btf_id: u32) -> Result<OwnedFd> {
    let value = match program_type {
        ProgramType::SchedCls => -1,
        ProgramType::CgroupSkb | ProgramType::CgroupSockAddr => 1,
        _ => 0,
    };
    let load = Load {
        name: "kc_empty",
        program_type,
        attach_type,
        instructions: &returning(value),
        attach_btf_id,
        sleepable: false,
        types: None,
    };
    bpf::load(&load).map_err(|(error, log)| anyhow!("loading an empty program: {error} {log}"))
}

/// Nanoseconds per run since `before`.
pub fn per_run(program: &impl AsFd, before: Info) -> Result<f64> {
    let now = info(program.as_fd())?;
    let runs = now.runs.saturating_sub(before.runs);
    anyhow::ensure!(runs > 0, "a program did not run");
    Ok((now.run_time_ns - before.run_time_ns) as f64 / runs as f64)
}

/// Nanoseconds this thread has had a processor for.
pub fn thread_time_ns() -> Result<f64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}

/// What the processor counts: guest instructions where the machine counts them, cycles elsewhere.
pub fn counted() -> u64 {
    // SAFETY: reads the time stamp counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
