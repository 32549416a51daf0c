//! A spec resolved on this host: legal, bounded, with the mechanism chosen per fault. The only thing that can be
//! encoded and injected.

mod alone;
pub mod change;
pub mod devices;
pub mod explain;
pub mod names;
pub mod network;
pub mod safety;
pub mod selection;
pub mod sockets;
pub mod syscall;
mod trees;
pub mod watch;

use crate::{
    inject::{bpf::AttachType, program::Kind},
    probe::{Abilities, Unable},
    spec::{self, Fault, Problems, Spec, syscall::Call},
};
use chaos_common::layout::{MEMBERS_COUNT, SIGNAL_MEMBERS};
use std::time::Duration;

/// One run, ready to be injected.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its id.
    pub run: String,
    /// What is inflicted, in order.
    pub rules: Vec<PlannedRule>,
    /// How long; `None` ends with the command.
    pub duration: Option<Duration>,
    /// Count only.
    pub observe: bool,
    /// Makes every random draw the same again.
    pub seed: Option<u64>,
    /// Whether the kernel can find a task's target by its ancestor (5.12); otherwise it walks the targets.
    pub task_ancestor: bool,
    /// How the kernel programs find what a task entered the kernel with.
    pub registers: Registers,
    /// If not all of the targets is hit: the processes that are, with what they start.
    pub trees: Vec<u32>,
}

/// Where a task's registers at kernel entry are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// For tracing programs: one of `chaos_common::syscall::REGISTERS_*`.
    pub traced: u32,
    /// The same for socket hooks.
    pub socket: u32,
    /// Offset of `stack` in `struct task_struct`.
    pub task_stack: u32,
    /// Offset of `thread_info.status` in `struct task_struct`.
    pub task_status: u32,
    /// Offset of `cred` in `struct task_struct`.
    pub task_cred: u32,
    /// Offset of `real_cred`.
    pub task_real_cred: u32,
    /// Offset of `tgid`.
    pub task_tgid: u32,
    /// Offset of `signal`.
    pub task_signal: u32,
    /// Offset of `live` in `struct signal_struct`.
    pub signal_live: u32,
    /// Offsets of `chaos_common::layout::MEMBERS`.
    pub layout: [u32; MEMBERS_COUNT],
    /// Offsets of `chaos_common::layout::SIGNAL_MEMBERS`.
    pub signals: [u32; SIGNAL_MEMBERS.len()],
}

impl Registers {
    /// Whether a program can tell that a process ends.
    pub fn sees_exits(&self) -> bool {
        self.task_signal != 0 && self.signal_live != 0
    }
}

/// One fault with the hooks that carry it.
#[derive(Clone, Debug)]
pub struct PlannedRule {
    /// Shown in reports; unique within the plan.
    pub name: String,
    /// What was asked for.
    pub fault: Fault,
    /// The hooks.
    pub mechanisms: Vec<Mechanism>,
    /// The system calls, each with those of the hooks that carry it.
    pub calls: Vec<(Call, Vec<Mechanism>)>,
    /// What they do not reach, in words.
    pub limits: Vec<String>,
}

impl PlannedRule {
    /// Whether it holds calls back.
    pub fn holds_back(&self) -> bool {
        matches!(&self.fault, Fault::Syscall(fault) if fault.latency().is_some())
    }
}

/// A kernel hook that carries a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// tcx link on every device of the target's network namespaces.
    Tcx,
    /// clsact filter on every such device: below 6.6.
    Clsact,
    /// tcx link on every device of the target's network namespaces, for packets that arrive.
    Arrival,
    /// Delay line between every such device and itself.
    Line,
    /// cgroup_skb link on the target.
    CgroupSkb,
    /// Entry of the function that implements a call.
    Entry {
        /// How its result is set.
        by: EntryHook,
        /// The function.
        function: String,
    },
    /// Sleep at a security hook. Attached before [`Mechanism::Security`]: of several programs on a hook the one that came
    /// last runs first (`__bpf_trampoline_link_prog`, kernel/bpf/trampoline.c).
    Sleep {
        /// Name of the hook.
        hook: &'static str,
    },
    /// Spinning, in whichever program judges the call.
    Spin,
    /// Stopping the process behind the function of a call.
    Stop {
        /// The function.
        function: String,
        /// Its arguments: 1, the caller's registers, or 0.
        arguments: u32,
    },
    /// Security hook.
    Security {
        /// How its result is set.
        by: SecurityHook,
        /// Name of the hook.
        hook: &'static str,
        /// Its id in the call table.
        id: u32,
    },
    /// Socket hook of the target's cgroup.
    Socket(SocketHook),
    /// Seccomp user notification of the command that is started as the target.
    Notification,
}

/// How the result of a system call's function is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryHook {
    /// In a trampoline.
    FmodRet,
    /// By one kprobe.multi link for all functions.
    KprobeMulti,
    /// By a kprobe.
    Kprobe,
    /// Not at all: a kprobe that overrides nothing.
    Look,
}

impl EntryHook {
    /// Its short name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FmodRet => "fmod_ret_sys",
            Self::KprobeMulti => "kprobe_multi",
            Self::Kprobe | Self::Look => "kprobe",
        }
    }
}

/// How the result of a security hook is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecurityHook {
    /// By a BPF LSM program.
    Lsm,
    /// In a trampoline of the function that asks the security modules.
    FmodRet,
}

impl SecurityHook {
    /// Its short name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::FmodRet => "fmod_ret_security",
        }
    }
}

/// A socket hook of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketHook {
    /// connect, IPv4.
    Connect4,
    /// connect, IPv6.
    Connect6,
    /// bind, IPv4.
    Bind4,
    /// bind, IPv6.
    Bind6,
    /// Sending from an unconnected UDP socket, IPv4.
    Send4,
    /// Sending from an unconnected UDP socket, IPv6.
    Send6,
}

impl SocketHook {
    /// Its name, as in the kernel's documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Bind4 => "bind4",
            Self::Bind6 => "bind6",
            Self::Send4 => "sendmsg4",
            Self::Send6 => "sendmsg6",
        }
    }

    /// The kernel's number of it.
    pub fn attach_type(self) -> AttachType {
        match self {
            Self::Connect4 => AttachType::Inet4Connect,
            Self::Connect6 => AttachType::Inet6Connect,
            Self::Bind4 => AttachType::Inet4Bind,
            Self::Bind6 => AttachType::Inet6Bind,
            Self::Send4 => AttachType::Udp4Sendmsg,
            Self::Send6 => AttachType::Udp6Sendmsg,
        }
    }
}

impl Mechanism {
    /// Its short name, as in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Arrival => "tcx_ingress",
            Self::Line => "line",
            Self::CgroupSkb => "cgroup_skb",
            Self::Entry { by, .. } => by.name(),
            Self::Sleep { .. } => "lsm_sleep",
            Self::Spin => "spin",
            Self::Stop { .. } => "stop_continue",
            Self::Security { by, .. } => by.name(),
            Self::Socket(_) => "cgroup_sock_addr",
            Self::Notification => "seccomp",
        }
    }

    /// Whether it judges packets that leave a device.
    pub fn judges_leaving(&self) -> bool {
        matches!(self, Self::Tcx | Self::Clsact)
    }

    /// Whether it judges packets at devices, where lines begin.
    pub fn judges_at_devices(&self) -> bool {
        self.judges_leaving() || *self == Self::Arrival
    }

    /// Short names of several, each once.
    pub fn names(mechanisms: &[Self]) -> Vec<&'static str> {
        let mut names: Vec<_> = mechanisms.iter().map(Self::name).collect();
        names.dedup();
        names
    }

    /// The program that serves it, if one does. Socket hooks have one for all targets that are subject to the same, in `slot`.
    pub fn program(&self, slot: u32) -> Option<Kind> {
        Some(match self {
            Self::Notification | Self::Spin => return None,
            Self::Tcx | Self::Clsact | Self::Line => Kind::NetEgress,
            Self::Arrival => Kind::NetArrival { namespace: 0 },
            Self::CgroupSkb => Kind::NetIngress,
            Self::Entry { by: EntryHook::Kprobe, .. } => Kind::Kprobe,
            Self::Entry { by: EntryHook::Look, .. } => Kind::Slow,
            Self::Entry { by: EntryHook::KprobeMulti, .. } => Kind::KprobeMulti,
            Self::Entry { by: EntryHook::FmodRet, function } => Kind::Entry { function: function.clone() },
            Self::Sleep { hook } => Kind::Sleep { hook },
            Self::Stop { function, arguments } => {
                Kind::Stop { function: function.clone(), arguments: *arguments }
            }
            Self::Security { by: SecurityHook::Lsm, hook, id } => Kind::Lsm { hook, id: *id },
            Self::Security { by: SecurityHook::FmodRet, hook, id } => {
                Kind::Security { function: syscall::security_function(hook), id: *id }
            }
            Self::Socket(hook) => Kind::Socket { attach_type: hook.attach_type(), slot },
        })
    }

    /// Whether it only holds back what another one has judged.
    pub fn only_holds(&self) -> bool {
        matches!(self, Self::Sleep { .. } | Self::Spin | Self::Stop { .. })
    }

    /// The function, if its result is set by overriding it at a kprobe. A trampoline on the same function goes on from an
    /// address of its own, so that the override is lost (found on Linux 5.10 and 6.12).
    pub fn overridden_function(&self) -> Option<&str> {
        match self {
            Self::Entry { by: EntryHook::Kprobe | EntryHook::KprobeMulti, function } => Some(function),
            _ => None,
        }
    }

    /// The function, if it is one that a kprobe.multi link takes.
    pub fn multi_function(&self) -> Option<&str> {
        match self {
            Self::Entry { by: EntryHook::KprobeMulti, function } => Some(function),
            _ => None,
        }
    }

    /// Whether it is the entry of this function.
    pub fn is_function(&self, name: &str) -> bool {
        matches!(self, Self::Entry { function, .. } if function == name)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec cannot be meant.
    #[error(transparent)]
    Spec(#[from] Problems),
    /// This kernel cannot do it.
    #[error("this host cannot do what was asked for:\n{}", list(.0))]
    Unable(Vec<(String, Unable)>),
}

fn list(unable: &[(String, Unable)]) -> String {
    let lines: Vec<_> = unable.iter().map(|(fault, unable)| format!("  {fault}: {unable}")).collect();
    lines.join("\n")
}

/// Plans a spec. Nothing is attached to the target.
pub fn make(spec: &Spec, abilities: &impl Abilities) -> Result<Plan, Error> {
    let mut problems = Problems::default();
    spec::check_count(&spec.faults, &mut problems);
    problems.or(|| ())?;
    let trees = trees::check(spec, abilities)?;
    let faults = names::resolve(&spec.faults)?;
    let mut rules: Vec<PlannedRule> = vec![];
    let mut unable = vec![];
    for fault in &resolved(&faults, abilities)? {
        // The receiver counts by itself.
        let by_kernel =
            matches!(fault, Fault::Network(_)) || spec.mechanism != Some(spec::syscall::Mechanism::Seccomp);
        if by_kernel
            && (fault.is_exact() || (spec.seed.is_some() && !fault.is_per_flow()))
            && let Err(missing) = counts_exactly(abilities)
        {
            unable.push((fault.to_string(), missing));
            continue;
        }
        if by_kernel && fault.when().per_process && !abilities.registers().sees_exits() {
            let why = "counting per process needs the kernel's type information, to see processes end";
            unable.push((fault.to_string(), Unable::new(why, "use a kernel with CONFIG_DEBUG_INFO_BTF")));
            continue;
        }
        let planned = match fault {
            Fault::Network(fault) => network::mechanisms(fault, abilities).map(|mechanisms| PlannedRule {
                name: fault.effect.name().to_owned(),
                fault: Fault::Network(fault.clone()),
                mechanisms,
                calls: vec![],
                limits: network::limits(fault),
            }),
            Fault::Syscall(fault) => syscall::plan(fault, spec, abilities),
        };
        match planned {
            Ok(mut rule) => {
                let same =
                    rules.iter().filter(|other| other.name.split('#').next() == Some(&rule.name)).count();
                if same > 0 {
                    rule.name = format!("{}#{}", rule.name, same + 1);
                }
                rules.push(rule);
            }
            Err(reason) => unable.push((fault.to_string(), reason)),
        }
    }
    if spec.faults.iter().filter(|fault| fault.is_delay()).count() > 1
        && let Some(first) = rules.iter_mut().find(|rule| rule.fault.is_delay())
    {
        first.limits.push(network::DELAYS_ADD.to_owned());
    }
    if let Some(problem) = syscall::conflict(&rules) {
        return Err(Error::Spec(Problems(vec![problem])));
    }
    let has_calls = rules.iter().any(|rule| matches!(rule.fault, Fault::Syscall(_)));
    let arrives = rules.iter().any(|rule| rule.mechanisms.contains(&Mechanism::Arrival));
    let registers = if has_calls || arrives { abilities.registers() } else { Registers::default() };
    if !unable.is_empty() {
        return Err(Error::Unable(unable));
    }
    let all = |missing| Error::Unable(vec![("all faults".to_owned(), missing)]);
    let task_ancestor = abilities.task_ancestor().map_err(all)?;
    let sleeps = |rule: &PlannedRule| rule.mechanisms.iter().any(|by| matches!(by, Mechanism::Sleep { .. }));
    if !task_ancestor && rules.iter().any(sleeps) {
        // Programs that sleep cannot walk up the cgroups.
        return Err(all(Unable::new(
            "lsm_sleep: tracing programs cannot ask for a task's ancestor cgroup",
            "use Linux 6.12 or later",
        )));
    }
    Ok(Plan {
        run: new_run_id(),
        rules,
        duration: spec.duration,
        observe: spec.observe,
        seed: spec.seed,
        task_ancestor,
        registers,
        trees,
    })
}

/// Whether calls and packets can be counted across CPUs.
fn counts_exactly(abilities: &impl Abilities) -> Result<(), Unable> {
    if abilities.exact_counting()? {
        return Ok(());
    }
    let why =
        "counting across CPUs (every, after, limit, when, seed) needs atomic operations that return a value";
    Err(Unable::new(why, "use Linux 5.12 or later, or leave them out"))
}

/// The same faults with what this host has to be asked for filled in.
fn resolved(faults: &[Fault], abilities: &impl Abilities) -> Result<Vec<Fault>, Problems> {
    let mut problems = Problems::default();
    let mut faults = faults.to_vec();
    for fault in &mut faults {
        if let Fault::Syscall(fault) = fault
            && let Some(matches) = problems.take(syscall::matches::resolved(fault, abilities))
        {
            fault.matches = matches;
        }
    }
    problems.or(|| faults)
}

/// A name that no other run of this host has: the pid and the time in base 36.
fn new_run_id() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |t| t.as_micros() as u64);
    let mut number = now ^ u64::from(std::process::id()).rotate_left(40);
    let mut id = String::new();
    for _ in 0..8 {
        let digit = (number % 36) as u32;
        id.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    id
}
