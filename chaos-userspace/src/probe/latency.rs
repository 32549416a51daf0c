//! Whether programs can sleep here. That they really do is shown by the self-test of `kchaos doctor`.

use super::{
    Abilities as _, Unable,
    assembly::{exit, mov},
    kernel::{Kernel, load},
};
use crate::{
    host::types::KernelTypes,
    inject::{
        bpf::{AttachType, ProgramType},
        sleeper,
    },
};
use chaos_common::latency::KFUNCS;

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
