//! Probes of the running kernel, each made at most once per process.

use super::{
    Abilities, Unable,
    assembly::{
        GET_CURRENT_ANCESTOR_CGROUP_ID, PROBE_READ_KERNEL, add, call, copy, exit, fetch_add_stack, mov,
        store_stack,
    },
    felt::{self, Scratch},
    latency, syscall,
};
use crate::{
    encode::netem::Netem,
    host::{kernel, types::KernelTypes},
    inject::{
        bpf::{self, AttachType, Load, ProgramType},
        continuer,
        line::{self, Part},
    },
    plan::{EntryHook, Registers, syscall::entry},
    spec::delay::Delay,
};
use chaos_common::layout::{MEMBERS, SOCKET_TO_CGROUPS, UNKNOWN};
use std::{
    cell::{OnceCell, RefCell},
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

/// The running kernel.
#[derive(Default)]
pub struct Kernel {
    tcx: OnceCell<Result<(), Unable>>,
    clsact: OnceCell<Result<(), Unable>>,
    seccomp: OnceCell<Result<(), Unable>>,
    line: OnceCell<Result<(), Unable>>,
    arrival: OnceCell<Result<(), Unable>>,
    cgroup_skb: OnceCell<Result<(), Unable>>,
    kprobe: OnceCell<Result<(), Unable>>,
    kprobe_multi: OnceCell<Result<(), Unable>>,
    looking_kprobe: OnceCell<Result<(), Unable>>,
    fmod_ret_sys: OnceCell<Result<(), Unable>>,
    fmod_ret_security: OnceCell<Result<(), Unable>>,
    socket_hooks: OnceCell<Result<(), Unable>>,
    claims: RefCell<HashMap<(EntryHook, bool), Result<(), Unable>>>,
    registers: OnceCell<Registers>,
    fentry: OnceCell<Result<(), Unable>>,
    lsm: OnceCell<Result<(), Unable>>,
    sleep: OnceCell<Result<(), Unable>>,
    stop: OnceCell<Result<(), Unable>>,
    task_ancestor: OnceCell<Result<bool, Unable>>,
    exact_counting: OnceCell<Result<bool, Unable>>,
    types: OnceCell<Option<KernelTypes>>,
    symbols: OnceCell<HashSet<String>>,
    trampolines: OnceCell<HashSet<String>>,
}

pub(super) fn program(
    program_type: ProgramType,
    attach_type: AttachType,
    code: &[u64],
    btf_id: u32,
) -> Result<OwnedFd, (io::Error, String)> {
    load(program_type, attach_type, code, btf_id, false)
}

pub(super) fn load(
    program_type: ProgramType,
    attach_type: AttachType,
    code: &[u64],
    btf_id: u32,
    sleepable: bool,
) -> Result<OwnedFd, (io::Error, String)> {
    let _memory_lock_limit = kernel::MemoryLockLimit::lift();
    bpf::load(&Load {
        name: "kc_probe",
        program_type,
        attach_type,
        instructions: code,
        attach_btf_id: btf_id,
        sleepable,
        types: None,
    })
}

pub(super) fn refused(what: &str, (error, log): (io::Error, String)) -> Unable {
    let reason = log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed"));
    let reason = reason.map(|line| format!(": {line}")).unwrap_or_default();
    let remedy = if error.raw_os_error() == Some(libc::EPERM) {
        "run as root, outside of containers without CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    } else {
        "use another kernel"
    };
    Unable::new(format!("the kernel refuses {what}: {error}{reason}"), remedy)
}

/// Whether the verifier knows all of this code: it refuses helpers and instructions it does not know with `EINVAL`
/// (kernel/bpf/verifier.c). Another error says nothing about the kernel and is not taken for an answer, and a refusal only
/// when it is repeated: what is chosen by it cannot be made good later.
fn understands(code: &[u64]) -> Result<bool, Unable> {
    const TRIES: usize = 4;
    let mut refusal = None;
    for _ in 0..TRIES {
        match program(ProgramType::RawTracepoint, AttachType::CgroupInetIngress, code, 0) {
            Ok(_) => return Ok(true),
            Err(error) => {
                log::debug!("a probe was refused: {} {}", error.0, error.1);
                refusal = Some(error);
            }
        }
    }
    match refusal {
        Some(error) if error.0.raw_os_error() != Some(libc::EINVAL) => {
            Err(refused("raw tracepoint programs", error))
        }
        _ => Ok(false),
    }
}

/// What it means that a link to a device that is not there was refused.
fn no_such_device(error: &io::Error) -> Result<(), Unable> {
    match error.raw_os_error() {
        Some(libc::ENODEV) => Ok(()),
        Some(libc::EINVAL) => Err(Unable::new("tcx: this kernel has no tcx links", "use Linux 6.6 or later")),
        _ => Err(Unable::new(format!("tcx: {error}"), "run as root with CAP_NET_ADMIN")),
    }
}

/// What it means that a part of a delay line cannot be made.
fn without(part: Part, error: &io::Error) -> Unable {
    match part {
        Part::Veth => Unable::new(
            format!("line: a veth pair cannot be made: {error}"),
            "load the module veth (CONFIG_VETH)",
        ),
        Part::Netem => Unable::new(
            format!("line: netem cannot be used: {error}"),
            "load the module sch_netem (CONFIG_NET_SCH_NETEM; package kernel-modules-extra on RHEL and Fedora)",
        ),
    }
}

/// The functions of system calls in the text of /proc/kallsyms, without what stands in for calls that the kernel was configured
/// without: weak symbols (`COND_SYSCALL`, kernel/sys_ni.c), and other names of a `sys_ni_` function, as those of
/// kernel/time/posix-stubs.c, to which nothing can be attached that overrides.
fn call_functions(kallsyms: &str) -> HashSet<String> {
    let (mut functions, mut absent) = (vec![], HashSet::new());
    for line in kallsyms.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let is_known = || address.bytes().any(|digit| digit != b'0');
        if name.contains("sys_ni_") && is_known() {
            absent.insert(address);
        } else if name.starts_with("__") && name.contains("_sys_") && !kind.eq_ignore_ascii_case("w") {
            functions.push((address, name));
        }
    }
    functions.retain(|(address, _)| !absent.contains(address));
    functions.into_iter().map(|(_, name)| name.to_owned()).collect()
}

impl Kernel {
    /// The kernel's type information.
    pub(super) fn types(&self) -> Result<&KernelTypes, Unable> {
        self.types.get_or_init(KernelTypes::read).as_ref().ok_or_else(|| {
            Unable::new(
                format!("the kernel has no type information ({} is missing)", kernel::BTF_PATH),
                "use a kernel with CONFIG_DEBUG_INFO_BTF",
            )
        })
    }

    /// Whether the kernel has a system call function of this name.
    fn has_symbol(&self, name: &str) -> bool {
        let symbols = self
            .symbols
            .get_or_init(|| call_functions(&fs::read_to_string("/proc/kallsyms").unwrap_or_default()));
        symbols.contains(name)
    }

    fn with_symbol(&self, mechanism: &str, function: &str) -> Result<(), Unable> {
        if self.has_symbol(function) {
            return Ok(());
        }
        let why = format!("{mechanism}: this kernel has no function {function}");
        Err(Unable::new(why, "name another call"))
    }

    fn overrides(
        &self,
        mechanism: &str,
        function: &str,
        test: impl FnOnce() -> Result<(), Unable>,
    ) -> Result<(), Unable> {
        // What the self-test overrides.
        self.without_trampoline(mechanism, &entry::function("openat", false))?;
        test()?;
        self.with_symbol(mechanism, function)?;
        self.without_trampoline(mechanism, function)
    }

    /// A kprobe changes where the function goes on; a trampoline on it goes on elsewhere, and the change is lost.
    fn without_trampoline(&self, mechanism: &str, function: &str) -> Result<(), Unable> {
        let taken = self.trampolines.get_or_init(kernel::functions_with_trampolines);
        if !taken.contains(function) {
            return Ok(());
        }
        let why = format!(
            "{mechanism}: a trampoline (fentry, fexit or fmod_ret) of somebody is on {function}, past which it has no effect"
        );
        Err(Unable::new(why, "end what looks on there, such as another run or a tracer"))
    }

    fn with_type(&self, mechanism: &str, function: &str) -> Result<(), Unable> {
        if self.types()?.function(function).is_some() {
            return Ok(());
        }
        let why = format!("{mechanism}: this kernel's type information has no function {function}");
        Err(Unable::new(why, "name another call"))
    }

    fn try_tcx() -> Result<(), Unable> {
        let classifier = [mov(0, -1), exit()];
        let program = program(ProgramType::SchedCls, AttachType::CgroupInetIngress, &classifier, 0)
            .map_err(|e| refused("tc programs", e))?;
        // A kernel with tcx looks for the device and finds none of this number; others do not know the link type.
        match bpf::link_tcx_egress(program.as_fd(), i32::MAX as u32) {
            Err(error) => no_such_device(&error),
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
            crate::inject::clsact::add_filter(
                loopback,
                crate::inject::clsact::own_handle(),
                program.as_fd(),
                "kc_probe",
            )
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
            .map_err(|(part, error)| without(part, &error))
    }

    /// A socket's cgroup is read as the kernel's type information says where it is.
    fn try_arrival(&self) -> Result<(), Unable> {
        self.types()?;
        let layout = self.registers().layout;
        if let Some(unknown) = SOCKET_TO_CGROUPS.iter().find(|member| layout[**member] == UNKNOWN) {
            let (structure, member) = MEMBERS[*unknown];
            return Err(Unable::new(
                format!("tcx_ingress: this kernel's type information has no {structure}.{member}"),
                "hold packets back as they leave (--direction egress), which for requests and answers has the same effect",
            ));
        }
        let reads = [
            store_stack(-8, 0),
            copy(1, 10),
            add(1, -8),
            mov(2, 8),
            mov(3, 0),
            call(PROBE_READ_KERNEL),
            mov(0, -1),
            exit(),
        ];
        program(ProgramType::SchedCls, AttachType::CgroupInetIngress, &reads, 0).map(drop).map_err(|error| {
            refused("tc programs that read kernel memory (lockdown=confidentiality?)", error)
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

    fn try_task_ancestor() -> Result<bool, Unable> {
        understands(&[mov(1, 0), call(GET_CURRENT_ANCESTOR_CGROUP_ID), mov(0, 0), exit()])
    }

    fn try_exact_counting() -> Result<bool, Unable> {
        understands(&[store_stack(-8, 0), mov(1, 1), fetch_add_stack(-8, 1), mov(0, 0), exit()])
    }
}

pub(super) fn scratch() -> Result<Scratch, Unable> {
    Scratch::make()
        .map_err(|error| Unable::new(format!("no scratch cgroup: {error}"), "run as root on cgroup v2"))
}

impl Abilities for Kernel {
    fn process_trees(&self) -> Result<(), Unable> {
        let registers = self.registers();
        if registers.task_tgid == 0 || !registers.sees_exits() {
            let why = "this kernel's type information does not tell of processes that start and end";
            return Err(Unable::new(why, "use a kernel with CONFIG_DEBUG_INFO_BTF"));
        }
        if !continuer::sees_all_processes() {
            return Err(Unable::new(
                "in a pid namespace processes have other ids than kernel programs see",
                "run kchaos in the host's pid namespace (hostPID: true)",
            ));
        }
        Ok(())
    }

    fn tcx(&self) -> Result<(), Unable> {
        self.tcx.get_or_init(Self::try_tcx).clone()
    }

    fn clsact(&self) -> Result<(), Unable> {
        self.clsact.get_or_init(Self::try_clsact).clone()
    }

    fn line(&self) -> Result<(), Unable> {
        self.line.get_or_init(Self::try_line).clone()
    }

    fn arrival(&self) -> Result<(), Unable> {
        self.arrival.get_or_init(|| self.try_arrival()).clone()
    }

    fn cgroup_skb(&self) -> Result<(), Unable> {
        self.cgroup_skb.get_or_init(Self::try_cgroup_skb).clone()
    }

    fn kprobe_override(&self, function: &str) -> Result<(), Unable> {
        self.overrides("kprobe", function, || self.kprobe.get_or_init(syscall::try_kprobe).clone())
    }

    fn kprobe_multi(&self, function: &str) -> Result<(), Unable> {
        let test = || self.kprobe_multi.get_or_init(syscall::try_kprobe_multi).clone();
        self.overrides("kprobe_multi", function, test)
    }

    fn fmod_ret_sys(&self, function: &str) -> Result<(), Unable> {
        self.fmod_ret_sys.get_or_init(|| syscall::try_fmod_ret_sys(self)).clone()?;
        self.with_type("fmod_ret_sys", function)?;
        syscall::try_modifiable(self.types()?, function)
    }

    fn fmod_ret_security(&self, function: &str) -> Result<(), Unable> {
        self.fmod_ret_security.get_or_init(|| syscall::try_fmod_ret_security(self)).clone()?;
        self.with_type("fmod_ret_security", function)
    }

    fn kprobe(&self, function: &str) -> Result<(), Unable> {
        self.looking_kprobe.get_or_init(syscall::try_looking_kprobe).clone()?;
        self.with_symbol("kprobe", function)
    }

    fn fentry(&self, function: &str) -> Result<(), Unable> {
        self.with_type("fentry", function)?;
        self.fentry.get_or_init(|| syscall::try_fentry(self.types()?, function)).clone()
    }

    fn lsm(&self, hook: &str) -> Result<(), Unable> {
        self.lsm.get_or_init(|| syscall::try_lsm(self)).clone()?;
        self.with_type("lsm", &format!("bpf_lsm_{hook}"))
    }

    fn sleep(&self, hook: &str) -> Result<(), Unable> {
        self.sleep.get_or_init(|| latency::try_sleep(self)).clone()?;
        latency::may_sleep(self.types()?, hook)
    }

    fn stop(&self) -> Result<(), Unable> {
        self.stop.get_or_init(|| latency::try_stop(self)).clone()
    }

    fn seccomp(&self) -> Result<(), Unable> {
        self.seccomp.get_or_init(super::seccomp::try_notification).clone()
    }

    fn socket_hooks(&self) -> Result<(), Unable> {
        self.socket_hooks.get_or_init(syscall::try_socket_hooks).clone()
    }

    fn claims_success(&self, by: EntryHook, zero: bool) -> Result<(), Unable> {
        if let Some(known) = self.claims.borrow().get(&(by, zero)) {
            return known.clone();
        }
        let found = syscall::try_claim(self, by, zero);
        self.claims.borrow_mut().insert((by, zero), found.clone());
        found
    }

    fn has_function(&self, function: &str) -> bool {
        self.has_symbol(function)
    }

    fn registers(&self) -> Registers {
        *self.registers.get_or_init(|| syscall::registers(self.types().ok()))
    }

    fn task_ancestor(&self) -> Result<bool, Unable> {
        self.task_ancestor.get_or_init(Self::try_task_ancestor).clone()
    }

    fn exact_counting(&self) -> Result<bool, Unable> {
        self.exact_counting.get_or_init(Self::try_exact_counting).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn calls_that_the_kernel_was_configured_without_have_no_function() {
        let kallsyms = "ffffffff81001000 T __x64_sys_openat\nffffffff81002000 W __x64_sys_kcmp\n\
             ffffffff81003000 t __ia32_compat_sys_getitimer\nffffffff81003000 T sys_ni_posix_timers\n\
             ffffffff81004000 t do_sys_poll\nffffffff81005000 T __ia32_compat_sys_openat\t[module]\n";
        let names = |text| {
            let mut names: Vec<_> = call_functions(text).into_iter().collect();
            names.sort();
            names
        };
        assert_eq!(names(kallsyms), ["__ia32_compat_sys_openat", "__x64_sys_openat"]);
        // Without CAP_SYSLOG all addresses are zero.
        let hidden = "0000000000000000 T __x64_sys_openat\n0000000000000000 T sys_ni_posix_timers\n";
        assert_eq!(names(hidden), ["__x64_sys_openat"]);
    }

    #[test]
    fn a_kernel_without_tcx_is_told_from_one_with_it() {
        assert!(no_such_device(&error(libc::ENODEV)).is_ok());
        let unable = no_such_device(&error(libc::EINVAL)).unwrap_err();
        assert_eq!(unable.to_string(), "tcx: this kernel has no tcx links (remedy: use Linux 6.6 or later)");
        assert!(no_such_device(&error(libc::EPERM)).unwrap_err().remedy.contains("CAP_NET_ADMIN"));
    }

    #[test]
    fn missing_parts_of_a_line_are_named_with_their_modules() {
        let unable = without(Part::Netem, &error(libc::ENOENT));
        assert!(
            unable.why.contains("netem cannot be used") && unable.remedy.contains("CONFIG_NET_SCH_NETEM")
        );
        let unable = without(Part::Veth, &error(libc::EOPNOTSUPP));
        assert!(unable.why.contains("veth") && unable.remedy.contains("CONFIG_VETH"));
    }

    #[test]
    fn a_refusal_for_want_of_privileges_names_them() {
        let unable = refused("tc programs", (error(libc::EPERM), String::new()));
        assert!(unable.remedy.contains("CAP_BPF"), "{unable}");
        let unable =
            refused("tc programs", (error(libc::EINVAL), "unknown func\nprocessed 3 insns\n".into()));
        assert!(unable.why.ends_with(": unknown func") && unable.remedy == "use another kernel", "{unable}");
    }
}
