//! Who this process is to the kernel programs.

use super::bpf::{self, AttachType, Load, ProgramType};
use crate::{host::kernel::MemoryLockLimit, probe::assembly};
use std::os::fd::AsFd;

/// Our thread group id as kernel programs see it: in a container, what we see ourselves is local to its pid namespace.
/// A program that returns it, run once for us, tells. Where that fails (below 5.10), it is what we see.
pub fn thread_group_id() -> u32 {
    let code =
        [assembly::call(assembly::GET_CURRENT_PID_TGID), assembly::shift_right(0, 32), assembly::exit()];
    let _memory_lock_limit = MemoryLockLimit::lift();
    let program = bpf::load(&Load {
        name: "kc_probe",
        program_type: ProgramType::RawTracepoint,
        attach_type: AttachType::CgroupInetIngress,
        instructions: &code,
        attach_btf_id: 0,
        sleepable: false,
        types: None,
    });
    program.ok().and_then(|program| bpf::run_once(program.as_fd()).ok()).unwrap_or_else(std::process::id)
}
