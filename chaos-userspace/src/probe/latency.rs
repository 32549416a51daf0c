//! Whether programs can sleep here. That they really do is shown by the self-test of `kchaos doctor`.

use super::{
    Abilities as _, Unable,
    assembly::{SEND_SIGNAL, call, exit, mov},
    kernel::{Kernel, load, refused},
};
use crate::{
    host::types::KernelTypes,
    inject::{
        bpf::{AttachType, ProgramType},
        continuer, sleeper,
    },
    plan::syscall::entry,
};
use chaos_common::{
    latency::KFUNCS,
    layout::{SIGNAL_MEMBERS, UNKNOWN},
};

const NAME: &str = "lsm_sleep";

/// What all hooks need: BPF LSM, the kernel's functions, a file system of our own.
pub fn try_sleep(kernel: &Kernel) -> Result<(), Unable> {
    kernel.lsm("file_open")?;
    let types = kernel.types()?;
    if let Some(missing) = KFUNCS.iter().find(|name| types.function(name).is_none()) {
        return Err(Unable::new(
            format!("{NAME}: this kernel has no function {missing}"),
            "use Linux 6.12 or later",
        ));
    }
    sleeper::try_mount().map_err(|error| {
        Unable::new(
            format!("{NAME}: a FUSE file system cannot be made: {error}"),
            "load the module fuse (CONFIG_FUSE_FS) and run as root with /dev/fuse",
        )
    })
}

/// What stopping processes needs: to find out whether somebody else does, to send them a signal, and their ids.
pub fn try_stop(kernel: &Kernel) -> Result<(), Unable> {
    const NAME: &str = "stop_continue";
    let types = kernel.types()?;
    let registers = kernel.registers();
    let mut members = SIGNAL_MEMBERS.iter().zip(&registers.signals);
    if let Some(((structure, member), _)) = members.find(|(_, offset)| **offset == UNKNOWN) {
        return Err(Unable::new(
            format!("{NAME}: this kernel's type information has no {structure}.{member}"),
            "use another mechanism",
        ));
    }
    if !registers.sees_exits() {
        return Err(Unable::new(
            format!("{NAME}: this kernel's type information does not tell of a process's signals"),
            "use another mechanism",
        ));
    }
    let function = types.function(&entry::function("openat", true)).unwrap_or_default();
    // Loaded, and never run.
    let code = [mov(1, libc::SIGSTOP), call(SEND_SIGNAL), mov(0, 0), exit()];
    load(ProgramType::Tracing, AttachType::FunctionExit, &code, function, false)
        .map_err(|error| refused("fexit programs that send signals", error))?;
    if !continuer::sees_all_processes() {
        return Err(Unable::new(
            format!("{NAME}: in a pid namespace processes have other ids than kernel programs see"),
            "run kchaos in the host's pid namespace (hostPID: true)",
        ));
    }
    Ok(())
}

/// Whether programs on this hook may sleep.
pub fn may_sleep(types: &KernelTypes, hook: &str) -> Result<(), Unable> {
    let id = types.function(&format!("bpf_lsm_{hook}")).unwrap_or_default();
    match load(ProgramType::Lsm, AttachType::LsmMac, &[mov(0, 0), exit()], id, true) {
        Ok(_) => Ok(()),
        Err(_) => Err(Unable::new(
            format!("{NAME}: programs may not sleep at the hook {hook} (kernel/bpf/bpf_lsm.c)"),
            "name another call: opening, sockets, exec and mmap can be held back",
        )),
    }
}
