//! Whether a mechanism of system call faults really works here: a program that fails one call in a scratch cgroup and
//! nowhere else is attached, and a child in that cgroup makes the call. Attaching proves nothing: BPF LSM programs
//! attach and never fire where bpf is not an active security module.

use super::{
    Unable,
    assembly::{
        GET_CURRENT_CGROUP_ID, GET_CURRENT_TASK_BTF, OVERRIDE_RETURN, SET_RETVAL, TASK_PT_REGS, call, copy,
        exit, jump_unless_equal, load, mov,
    },
    felt::{self, TELLTALE},
    kernel::{Kernel, program, refused, scratch},
};
use crate::{
    host::{kernel, types::KernelTypes},
    inject::{
        bpf::{self, AttachType, ProgramType},
        link::{Link, OnCgroup},
    },
    plan::{
        EntryHook, Registers,
        syscall::{entry, security_function},
    },
};
use chaos_common::{
    arch::native::{TASK_STATUS, TASK_STATUS_OLD},
    layout::{MEMBERS, SIGNAL_MEMBERS, UNKNOWN},
    syscall::{REGISTERS_ASKED, REGISTERS_ON_STACK},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// `r0 = result` in the cgroup, 0 elsewhere.
fn return_in(cgroup: u64, result: i32) -> Vec<u64> {
    let [low, high] = load(6, cgroup);
    vec![
        call(GET_CURRENT_CGROUP_ID),
        copy(1, 0),
        low,
        high,
        mov(0, 0),
        jump_unless_equal(1, 6, 1),
        mov(0, result),
        exit(),
    ]
}

/// The same by overriding the probed function's return value.
fn override_in(cgroup: u64, result: i32) -> Vec<u64> {
    let [low, high] = load(7, cgroup);
    vec![
        copy(6, 1),
        call(GET_CURRENT_CGROUP_ID),
        low,
        high,
        jump_unless_equal(0, 7, 3),
        copy(1, 6),
        mov(2, result),
        call(OVERRIDE_RETURN),
        mov(0, 0),
        exit(),
    ]
}

fn tested(mechanism: &str, felt: io::Result<u8>, otherwise: impl FnOnce(u8) -> Unable) -> Result<(), Unable> {
    let felt = felt.map_err(|error| {
        Unable::new(format!("{mechanism}: the self-test failed: {error}"), "run it again")
    })?;
    if i32::from(felt) == TELLTALE { Ok(()) } else { Err(otherwise(felt)) }
}

fn felt_nothing(mechanism: &'static str) -> impl FnOnce(u8) -> Unable {
    move |felt| {
        let why = format!("{mechanism}: programs attach but never fire: the self-test's victim felt {felt}");
        Unable::new(why, "use another mechanism")
    }
}

/// Attaches a program to the function it was loaded for.
fn attached(mechanism: &str, program: BorrowedFd<'_>) -> Result<OwnedFd, Unable> {
    bpf::open_raw_tracepoint(program, None).map_err(|error| {
        Unable::new(
            format!("{mechanism}: programs cannot be attached: {error}"),
            "use a kernel with BPF trampolines",
        )
    })
}

fn trampoline(
    mechanism: &'static str,
    types: (ProgramType, AttachType),
    function: u32,
    unusable: impl FnOnce((io::Error, String)) -> Unable,
    otherwise: impl FnOnce(u8) -> Unable,
) -> Result<(), Unable> {
    let scratch = scratch()?;
    let code = return_in(scratch.cgroup().id(), -TELLTALE);
    let program = program(types.0, types.1, &code, function).map_err(unusable)?;
    let _link = attached(mechanism, program.as_fd())?;
    tested(mechanism, felt::by_child(scratch.cgroup(), felt::open_root), otherwise)
}

/// BPF LSM.
pub fn try_lsm(kernel: &Kernel) -> Result<(), Unable> {
    let hook = kernel
        .types()?
        .function("bpf_lsm_file_open")
        .ok_or_else(|| Unable::new("lsm: this kernel has no BPF LSM", "use a kernel with CONFIG_BPF_LSM"))?;
    let types = (ProgramType::Lsm, AttachType::LsmMac);
    trampoline(
        "lsm",
        types,
        hook,
        |error| refused("BPF LSM programs", error),
        |_| {
            let active = kernel::security_modules().unwrap_or_else(|| "securityfs is not mounted".to_owned());
            Unable::new(
                format!(
                    "lsm: BPF LSM programs attach but never fire, bpf is not an active security module ({active})"
                ),
                "boot with bpf in the lsm= list of the kernel command line",
            )
        },
    )
}

/// `fmod_ret` on the functions that ask the security modules.
pub fn try_fmod_ret_security(kernel: &Kernel) -> Result<(), Unable> {
    const NAME: &str = "fmod_ret_security";
    let function = security_function("file_open");
    let function = kernel.types()?.function(&function).ok_or_else(|| {
        let why = format!("{NAME}: this kernel's type information has no function {function}");
        Unable::new(why, "use a kernel with CONFIG_SECURITY")
    })?;
    let types = (ProgramType::Tracing, AttachType::ModifyReturn);
    trampoline(NAME, types, function, |error| refused(NAME, error), felt_nothing(NAME))
}

/// `fmod_ret` on the functions of system calls.
pub fn try_fmod_ret_sys(kernel: &Kernel) -> Result<(), Unable> {
    const NAME: &str = "fmod_ret_sys";
    let function = entry::function("openat", true);
    let function = kernel.types()?.function(&function).ok_or_else(|| {
        let why = format!("{NAME}: this kernel's type information has no function {function}");
        Unable::new(why, "use a kernel with CONFIG_DEBUG_INFO_BTF")
    })?;
    let types = (ProgramType::Tracing, AttachType::ModifyReturn);
    trampoline(NAME, types, function, not_replaced, felt_nothing(NAME))
}

/// What it means that a program in place of a system call function was refused.
fn not_replaced(error: (io::Error, String)) -> Unable {
    if error.1.contains("is not modifiable") {
        return Unable::new(
            "fmod_ret_sys: this kernel's system call functions cannot be replaced",
            "use a kernel with CONFIG_FUNCTION_ERROR_INJECTION",
        );
    }
    refused("fmod_ret_sys", error)
}

/// What it means that a kprobe program which overrides was refused.
fn not_overriding(mechanism: &str, error: (io::Error, String)) -> Unable {
    if error.0.raw_os_error() == Some(libc::EPERM) {
        return refused("kprobe programs", error);
    }
    Unable::new(
        format!("{mechanism}: this kernel cannot override return values"),
        "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE",
    )
}

/// `fentry` and `fexit`, tried on one function: what attaches there fires.
pub fn try_fentry(types: &KernelTypes, function: &str) -> Result<(), Unable> {
    let id = types.function(function).unwrap_or_default();
    for (name, attach_type) in [("fentry", AttachType::FunctionEntry), ("fexit", AttachType::FunctionExit)] {
        let program = program(ProgramType::Tracing, attach_type, &[mov(0, 0), exit()], id)
            .map_err(|error| refused(&format!("{name} programs"), error))?;
        attached(name, program.as_fd())?;
    }
    Ok(())
}

/// Whether this very function can be replaced: from Linux 7 on, kernels without error injection still allow it for the
/// functions of 64-bit callers. Loads a program that does nothing; it is never attached.
pub fn try_modifiable(types: &KernelTypes, function: &str) -> Result<(), Unable> {
    let id = types.function(function).unwrap_or_default();
    match program(ProgramType::Tracing, AttachType::ModifyReturn, &[mov(0, 0), exit()], id) {
        Ok(_) => Ok(()),
        Err(_) => Err(Unable::new(
            format!("fmod_ret_sys: this kernel does not let {function} be replaced"),
            "use a kernel with CONFIG_FUNCTION_ERROR_INJECTION",
        )),
    }
}

fn overriding(
    mechanism: &'static str,
    attach_type: AttachType,
    attach: impl FnOnce(std::os::fd::BorrowedFd<'_>, &str) -> io::Result<Link>,
) -> Result<(), Unable> {
    let scratch = scratch()?;
    let code = override_in(scratch.cgroup().id(), -TELLTALE);
    let program = program(ProgramType::Kprobe, attach_type, &code, 0)
        .map_err(|error| not_overriding(mechanism, error))?;
    let _link = attach(program.as_fd(), &entry::function("openat", false)).map_err(|error| {
        Unable::new(format!("{mechanism}: programs cannot be attached: {error}"), "use another mechanism")
    })?;
    tested(mechanism, felt::by_child(scratch.cgroup(), felt::open_root), felt_nothing(mechanism))
}

/// kprobes that override.
pub fn try_kprobe() -> Result<(), Unable> {
    overriding("kprobe", AttachType::CgroupInetIngress, Link::kprobe)
}

/// kprobes that override nothing: whether they fire shows what is held back by them.
pub fn try_looking_kprobe() -> Result<(), Unable> {
    let program = program(ProgramType::Kprobe, AttachType::CgroupInetIngress, &[mov(0, 0), exit()], 0)
        .map_err(|error| refused("kprobe programs", error))?;
    Link::kprobe(program.as_fd(), &entry::function("openat", false)).map(drop).map_err(|error| {
        Unable::new(
            format!("kprobe: programs cannot be attached: {error}"),
            "use a kernel with CONFIG_KPROBES and CONFIG_PERF_EVENTS, and run as root",
        )
    })
}

/// kprobe.multi links that override.
pub fn try_kprobe_multi() -> Result<(), Unable> {
    overriding("kprobe_multi", AttachType::KprobeMulti, |program, function| {
        Link::kprobe_multi(program, &[function])
    })
}

/// Whether a call can be made to claim success: the child opens a file that does not exist and is told a result. The
/// mechanism itself is known to work.
pub fn try_claim(kernel: &Kernel, by: EntryHook, zero: bool) -> Result<(), Unable> {
    let name = by.name();
    let result = if zero { 0 } else { TELLTALE };
    let unusable = |error: io::Error| {
        Unable::new(format!("{name}: the self-test could not be attached: {error}"), "run it again")
    };
    let scratch = scratch()?;
    let cgroup = scratch.cgroup().id();
    let function = entry::function("openat", by == EntryHook::FmodRet);
    let (kind, attach_type, code, id) = match by {
        EntryHook::FmodRet => {
            let id = kernel.types()?.function(&function).unwrap_or_default();
            (ProgramType::Tracing, AttachType::ModifyReturn, return_in(cgroup, result), id)
        }
        EntryHook::KprobeMulti => {
            (ProgramType::Kprobe, AttachType::KprobeMulti, override_in(cgroup, result), 0)
        }
        EntryHook::Kprobe => {
            (ProgramType::Kprobe, AttachType::CgroupInetIngress, override_in(cgroup, result), 0)
        }
        EntryHook::Look => {
            return Err(Unable::new("a program that looks on claims nothing", "report this as a bug"));
        }
    };
    let program = program(kind, attach_type, &code, id).map_err(|error| refused(name, error))?;
    let _link = match by {
        EntryHook::FmodRet => Link::function(program.as_fd(), name),
        EntryHook::KprobeMulti => Link::kprobe_multi(program.as_fd(), &[&function]),
        EntryHook::Kprobe | EntryHook::Look => Link::kprobe(program.as_fd(), &function),
    }
    .map_err(unusable)?;
    let felt = felt::by_child(scratch.cgroup(), felt::open_missing).map_err(unusable)?;
    if i32::from(felt) == result {
        return Ok(());
    }
    let why = match by {
        // BPF_TRAMP_MODIFY_RETURN, arch/x86/net/bpf_jit_comp.c (`invoke_bpf_mod_ret`).
        EntryHook::FmodRet if zero => format!("{name}: a trampoline that returns 0 lets the call go on"),
        _ => format!("{name}: a call that was to return {result} in the self-test felt {felt}"),
    };
    Err(Unable::new(why, "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE"))
}

/// Socket hooks that set an errno (5.18).
pub fn try_socket_hooks() -> Result<(), Unable> {
    const NAME: &str = "cgroup_sock_addr";
    let scratch = scratch()?;
    let attach_type = AttachType::Inet4Connect;
    let code = [mov(1, -TELLTALE), call(SET_RETVAL), mov(0, 0), exit()];
    let program = program(ProgramType::CgroupSockAddr, attach_type, &code, 0).map_err(|error| {
        if error.1.contains("unknown func") {
            return Unable::new(
                format!("{NAME}: socket hooks cannot set an errno"),
                "use Linux 5.18 or later",
            );
        }
        refused("socket hooks", error)
    })?;
    let on = OnCgroup { cgroup: scratch.cgroup().id(), program: 0, attach_type };
    let _link = Link::cgroup(program.as_fd(), scratch.cgroup().as_fd(), on, "connect4").map_err(|error| {
        Unable::new(
            format!("{NAME}: programs cannot be attached: {error}"),
            "use a kernel with CONFIG_CGROUP_BPF",
        )
    })?;
    tested(NAME, felt::by_child(scratch.cgroup(), felt::connect_loopback), felt_nothing(NAME))
}

/// How programs find a task's registers.
pub fn registers(types: Option<&KernelTypes>) -> Registers {
    let asking = [call(GET_CURRENT_TASK_BTF), copy(1, 0), call(TASK_PT_REGS), mov(0, 0), exit()];
    let asked = |program_type, attach_type| {
        let loads = program(program_type, attach_type, &asking, 0).is_ok();
        if loads { REGISTERS_ASKED } else { REGISTERS_ON_STACK }
    };
    let offset = |structure, member| types.and_then(|types| types.member_offset(structure, member));
    // thread_info comes first in task_struct on x86.
    let status = offset("thread_info", "status");
    let has_syscall_work = offset("thread_info", "syscall_work").is_some() || types.is_none();
    let usual = if has_syscall_work { TASK_STATUS } else { TASK_STATUS_OLD };
    Registers {
        traced: asked(ProgramType::RawTracepoint, AttachType::CgroupInetIngress),
        socket: asked(ProgramType::CgroupSockAddr, AttachType::Inet4Connect),
        task_stack: offset("task_struct", "stack").unwrap_or_default(),
        task_status: status.unwrap_or(usual as u32),
        task_cred: offset("task_struct", "cred").unwrap_or_default(),
        task_real_cred: offset("task_struct", "real_cred").unwrap_or_default(),
        task_tgid: offset("task_struct", "tgid").unwrap_or_default(),
        task_signal: offset("task_struct", "signal").unwrap_or_default(),
        signal_live: offset("signal_struct", "live").unwrap_or_default(),
        layout: MEMBERS.map(|(structure, member)| offset(structure, member).unwrap_or(UNKNOWN)),
        signals: SIGNAL_MEMBERS.map(|(structure, member)| offset(structure, member).unwrap_or(UNKNOWN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(errno: i32, log: &str) -> (io::Error, String) {
        (io::Error::from_raw_os_error(errno), log.to_owned())
    }

    #[test]
    fn a_kernel_without_error_injection_is_told() {
        let unable = not_replaced(refusal(libc::EINVAL, "__x64_sys_openat() is not modifiable\n"));
        assert!(unable.why.contains("cannot be replaced"), "{unable}");
        assert_eq!(unable.remedy, "use a kernel with CONFIG_FUNCTION_ERROR_INJECTION");
        assert!(not_replaced(refusal(libc::EPERM, "")).remedy.contains("CAP_BPF"));
    }

    #[test]
    fn a_kernel_without_override_is_told() {
        let unable = not_overriding("kprobe", refusal(libc::EINVAL, "unknown func bpf_override_return#58\n"));
        assert_eq!(unable.why, "kprobe: this kernel cannot override return values");
        assert_eq!(unable.remedy, "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE");
        assert!(not_overriding("kprobe", refusal(libc::EPERM, "")).remedy.contains("CAP_PERFMON"));
    }
}
