//! Probes of the running kernel, each made at most once per process.

use super::{
    Abilities, Unable,
    assembly::{
        GET_CURRENT_ANCESTOR_CGROUP_ID, GET_CURRENT_CGROUP_ID, OVERRIDE_RETURN, call, copy, exit,
        fetch_add_stack, jump_unless_equal, load, mov, store_stack,
    },
    felt::{self, Scratch, TELLTALE},
};
use crate::{
    encode::netem::Netem,
    host::kernel,
    inject::{
        bpf::{self, AttachType, Load, ProgramType},
        line::{self, Part},
    },
    spec::delay::Delay,
};
use aya::Btf;
use aya_obj::btf::BtfKind;
use std::{
    cell::OnceCell,
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

/// The running kernel.
#[derive(Default)]
pub struct Kernel {
    tcx: OnceCell<Result<(), Unable>>,
    clsact: OnceCell<Result<(), Unable>>,
    line: OnceCell<Result<(), Unable>>,
    cgroup_skb: OnceCell<Result<(), Unable>>,
    kprobe: OnceCell<Result<(), Unable>>,
    lsm: OnceCell<Result<(), Unable>>,
    task_ancestor: OnceCell<bool>,
    exact_counting: OnceCell<bool>,
    btf: OnceCell<Option<Btf>>,
    symbols: OnceCell<String>,
}

fn program(
    program_type: ProgramType,
    attach_type: AttachType,
    code: &[u64],
    btf_id: u32,
) -> Result<OwnedFd, (io::Error, String)> {
    let _memory_lock_limit = kernel::MemoryLockLimit::lift();
    bpf::load(&Load {
        name: "kc_probe",
        program_type,
        attach_type,
        instructions: code,
        attach_btf_id: btf_id,
    })
}

fn refused(what: &str, (error, log): (io::Error, String)) -> Unable {
    let reason = log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed"));
    let reason = reason.map(|line| format!(": {line}")).unwrap_or_default();
    let remedy = if error.raw_os_error() == Some(libc::EPERM) {
        "run as root, outside of containers without CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    } else {
        "use another kernel"
    };
    Unable::new(format!("the kernel refuses {what}: {error}{reason}"), remedy)
}

impl Kernel {
    fn btf(&self) -> Result<&Btf, Unable> {
        self.btf.get_or_init(|| Btf::from_sys_fs().ok()).as_ref().ok_or_else(|| {
            Unable::new(
                format!("the kernel has no type information ({} is missing)", kernel::BTF_PATH),
                "use a kernel with CONFIG_DEBUG_INFO_BTF",
            )
        })
    }

    fn has_symbol(&self, name: &str) -> bool {
        let symbols = self.symbols.get_or_init(|| fs::read_to_string("/proc/kallsyms").unwrap_or_default());
        symbols.lines().any(|line| line.split_ascii_whitespace().nth(2) == Some(name))
    }

    fn try_tcx() -> Result<(), Unable> {
        let classifier = [mov(0, -1), exit()];
        let program = program(ProgramType::SchedCls, AttachType::CgroupInetIngress, &classifier, 0)
            .map_err(|e| refused("tc programs", e))?;
        // A kernel with tcx looks for the device and finds none of this number; others do not know the link type.
        match bpf::link_tcx_egress(program.as_fd(), i32::MAX as u32) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Err(Unable::new("tcx: this kernel has no tcx links", "use Linux 6.6 or later"))
            }
            Err(error) => Err(Unable::new(format!("tcx: {error}"), "run as root with CAP_NET_ADMIN")),
            Ok(_) => Ok(()),
        }
    }

    fn try_clsact() -> Result<(), Unable> {
        let classifier = [mov(0, -1), exit()];
        program(ProgramType::SchedCls, AttachType::CgroupInetIngress, &classifier, 0)
            .map_err(|e| refused("tc programs", e))?;
        felt::in_empty_network(|| {
            let loopback = 1;
            let classifier = [mov(0, -1), exit()];
            let program = program(ProgramType::SchedCls, AttachType::CgroupInetIngress, &classifier, 0)
                .map_err(|(error, _)| error)?;
            crate::inject::clsact::add_qdisc(loopback)?;
            crate::inject::clsact::add_filter(loopback, program.as_fd(), "kc_probe")
        })
        .map_err(|error| {
            Unable::new(
                format!("clsact: a filter cannot be added: {error}"),
                "load the modules sch_ingress and cls_bpf (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)",
            )
        })
    }

    fn try_line() -> Result<(), Unable> {
        let delay = Delay { latency: std::time::Duration::from_millis(1), ..Delay::default() };
        felt::in_empty_network(|| Ok(line::try_parts(&Netem::from(&delay))))
            .map_err(|error| Unable::new(format!("line: no network namespace: {error}"), "run as root"))?
            .map_err(|(part, error)| match part {
                Part::Veth => Unable::new(
                    format!("line: a veth pair cannot be made: {error}"),
                    "load the module veth (CONFIG_VETH)",
                ),
                Part::Netem => Unable::new(
                    format!("line: netem cannot be used: {error}"),
                    "load the module sch_netem (CONFIG_NET_SCH_NETEM; package kernel-modules-extra on RHEL and Fedora)",
                ),
            })
    }

    fn try_cgroup_skb() -> Result<(), Unable> {
        let pass = [mov(0, 1), exit()];
        let program = program(ProgramType::CgroupSkb, AttachType::CgroupInetIngress, &pass, 0)
            .map_err(|e| refused("cgroup_skb programs", e))?;
        let scratch = scratch()?;
        bpf::link_cgroup(program.as_fd(), scratch.cgroup().as_fd(), AttachType::CgroupInetIngress)
            .map(drop)
            .map_err(|error| {
                Unable::new(
                    format!("cgroup_skb: cannot be attached: {error}"),
                    "use a kernel with CONFIG_CGROUP_BPF",
                )
            })
    }

    fn try_kprobe_override() -> Result<(), Unable> {
        // Loads only where the helper exists; it is never attached, so it never runs.
        let code = [mov(2, 0), call(OVERRIDE_RETURN), mov(0, 0), exit()];
        let error = match program(ProgramType::Kprobe, AttachType::CgroupInetIngress, &code, 0) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if error.0.raw_os_error() == Some(libc::EPERM) {
            return Err(refused("kprobe programs", error));
        }
        Err(Unable::new(
            "kprobe: this kernel cannot override return values",
            "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE",
        ))
    }

    fn try_lsm(&self) -> Result<(), Unable> {
        let hook = self.btf()?.id_by_type_name_kind("bpf_lsm_file_open", BtfKind::Func).map_err(|_| {
            Unable::new("lsm: this kernel has no BPF LSM", "use a kernel with CONFIG_BPF_LSM")
        })?;
        let scratch = scratch()?;
        // A program that fails file_open in the scratch cgroup and nowhere else.
        let [low, high] = load(6, scratch.cgroup().id());
        let code = [
            call(GET_CURRENT_CGROUP_ID),
            copy(1, 0),
            low,
            high,
            mov(0, 0),
            jump_unless_equal(1, 6, 1),
            mov(0, -TELLTALE),
            exit(),
        ];
        let program = program(ProgramType::Lsm, AttachType::LsmMac, &code, hook)
            .map_err(|e| refused("BPF LSM programs", e))?;
        let _link = bpf::open_raw_tracepoint(program.as_fd(), None).map_err(|error| {
            Unable::new(
                format!("lsm: programs cannot be attached: {error}"),
                "use a kernel with BPF trampolines",
            )
        })?;
        let felt = felt::by_child(scratch.cgroup(), felt::open_root)
            .map_err(|error| Unable::new(format!("lsm: the self-test failed: {error}"), "run it again"))?;
        if i32::from(felt) == TELLTALE {
            return Ok(());
        }
        let active = kernel::security_modules().unwrap_or_else(|| "securityfs is not mounted".to_owned());
        Err(Unable::new(
            format!(
                "lsm: BPF LSM programs attach but never fire, bpf is not an active security module ({active})"
            ),
            "boot with bpf in the lsm= list of the kernel command line",
        ))
    }

    fn try_task_ancestor() -> bool {
        let code = [mov(1, 0), call(GET_CURRENT_ANCESTOR_CGROUP_ID), mov(0, 0), exit()];
        program(ProgramType::RawTracepoint, AttachType::CgroupInetIngress, &code, 0).is_ok()
    }
}

fn scratch() -> Result<Scratch, Unable> {
    Scratch::make()
        .map_err(|error| Unable::new(format!("no scratch cgroup: {error}"), "run as root on cgroup v2"))
}

impl Abilities for Kernel {
    fn tcx(&self) -> Result<(), Unable> {
        self.tcx.get_or_init(Self::try_tcx).clone()
    }

    fn clsact(&self) -> Result<(), Unable> {
        self.clsact.get_or_init(Self::try_clsact).clone()
    }

    fn line(&self) -> Result<(), Unable> {
        self.line.get_or_init(Self::try_line).clone()
    }

    fn cgroup_skb(&self) -> Result<(), Unable> {
        self.cgroup_skb.get_or_init(Self::try_cgroup_skb).clone()
    }

    fn kprobe_override(&self, function: &str) -> Result<(), Unable> {
        self.kprobe.get_or_init(Self::try_kprobe_override).clone()?;
        if self.has_symbol(function) {
            Ok(())
        } else {
            Err(Unable::new(format!("kprobe: this kernel has no function {function}"), "name another call"))
        }
    }

    fn lsm(&self, hook: &str) -> Result<(), Unable> {
        self.lsm.get_or_init(|| self.try_lsm()).clone()?;
        if self.btf()?.id_by_type_name_kind(&format!("bpf_lsm_{hook}"), BtfKind::Func).is_ok() {
            Ok(())
        } else {
            Err(Unable::new(format!("lsm: this kernel has no hook {hook}"), "name another call"))
        }
    }

    fn task_ancestor(&self) -> bool {
        *self.task_ancestor.get_or_init(Self::try_task_ancestor)
    }

    fn exact_counting(&self) -> bool {
        *self.exact_counting.get_or_init(|| {
            let code = [store_stack(-8, 0), mov(1, 1), fetch_add_stack(-8, 1), mov(0, 0), exit()];
            program(ProgramType::RawTracepoint, AttachType::CgroupInetIngress, &code, 0).is_ok()
        })
    }
}
