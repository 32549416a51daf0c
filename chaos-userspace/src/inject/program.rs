//! The kernel programs of the object file, one loaded copy at a time.

use super::{
    bpf::{self, AttachType, ProgramType},
    functions::{self, Types},
};
use crate::host::types::KernelTypes;
use aya_obj::{Object, generated::bpf_insn};
use chaos_common::{
    latency::{KFUNC_MAGIC, KFUNCS},
    line::{ARRIVING, NAMESPACE_MAGIC},
    syscall::{HOOK_ENTRY, HOOK_MAGIC, HOOK_SOCKET, SLOT_MAGIC},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{OwnedFd, RawFd},
};

/// Why a program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary was built without its kernel programs.
    #[error("this kchaos was built without its kernel programs: build it with `cargo xtask build`")]
    NoObject,
    /// The object file is not usable.
    #[error("the embedded kernel programs cannot be read: {0}")]
    Parse(String),
    /// The kernel has no type information.
    #[error("the kernel has no type information at /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    /// The hook does not exist in this kernel.
    #[error("this kernel has no function {0}")]
    NoFunction(String),
    /// The kernel refused the program.
    #[error("the kernel refused program {program}: {source}{}", first_reason(.log))]
    Refused {
        /// Name of the program.
        program: String,
        /// What bpf(2) returned.
        source: io::Error,
        /// The verifier's log.
        log: String,
    },
}

/// The last telling line of a verifier log.
fn first_reason(log: &str) -> String {
    let telling = log.lines().rev().find(|line| {
        let line = line.trim();
        !line.is_empty()
            && !line.starts_with("processed ")
            && !line.starts_with("verification time")
            && !line.starts_with("stack depth")
    });
    telling.map(|line| format!(" ({})", line.trim())).unwrap_or_default()
}

/// Which program to load for which place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packets leaving a device.
    NetEgress,
    /// Packets leaving a device of one namespace, with lines to divert them into.
    NetEgressWithLines {
        /// The namespace by the engine's count.
        namespace: u32,
    },
    /// Packets arriving at a device of one namespace, with lines to divert them into.
    NetArrival {
        /// The namespace by the engine's count.
        namespace: u32,
    },
    /// End of a line in the target's namespace.
    LineA,
    /// End of a line in the namespace behind it.
    LineB,
    /// Packets arriving at a cgroup's sockets.
    NetIngress,
    /// Packets leaving a cgroup's sockets, counted only.
    Witness,
    /// Making of sockets in a cgroup, to notice network namespaces.
    Namespace,
    /// Entry of system call functions, as a kprobe.
    Kprobe,
    /// Entry of system call functions, as a kprobe of a link on many.
    KprobeMulti,
    /// The same for calls that are held back and do not fail.
    Slow,
    /// Entry of one system call function, in a trampoline.
    Entry {
        /// The function.
        function: String,
    },
    /// One LSM hook, by name and by the id the call table knows it by.
    Lsm {
        /// As in include/linux/lsm_hook_defs.h.
        hook: &'static str,
        /// Id in the call table.
        id: u32,
    },
    /// Sleep at an LSM hook.
    Sleep {
        /// As above.
        hook: &'static str,
    },
    /// Stopping the process behind a system call function.
    Stop {
        /// The function.
        function: String,
        /// Its arguments, before which its result does not come: 0 or 1.
        arguments: u32,
    },
    /// The kernel's function that asks an LSM hook, in a trampoline.
    Security {
        /// The function.
        function: String,
        /// Id of the hook in the call table.
        id: u32,
    },
    /// A socket hook of one target's cgroup.
    Socket {
        /// Which.
        attach_type: AttachType,
        /// The target's slot.
        slot: u32,
    },
    /// Arming at exec.
    Exec,
    /// Forgetting processes that have counted for themselves, or that were hit alone.
    Exit,
    /// Taking in what processes start that are hit alone.
    Fork,
    /// The beginning of a watched call.
    WatchBegin {
        /// The function.
        function: String,
        /// The call's slot.
        slot: u32,
    },
    /// Its end.
    WatchEnd {
        /// The function.
        function: String,
        /// The call's slot.
        slot: u32,
        /// Arguments of the function, before which its result does not come: 0 or 1.
        arguments: u32,
    },
}

impl Kind {
    /// Name of the program in the object and in the kernel.
    pub fn program(&self) -> &'static str {
        match self {
            Self::NetEgress | Self::NetEgressWithLines { .. } => "kc_net_egress",
            Self::NetArrival { .. } => "kc_net_arrival",
            Self::LineA => "kc_line_a",
            Self::LineB => "kc_line_b",
            Self::NetIngress => "kc_net_ingress",
            Self::Witness => "kc_witness",
            Self::Namespace => "kc_namespace",
            Self::Kprobe | Self::KprobeMulti => "kc_kprobe",
            Self::Slow => "kc_slow",
            Self::Entry { .. } => "kc_entry",
            Self::Lsm { .. } | Self::Security { .. } => "kc_hook",
            Self::Sleep { .. } => "kc_sleep",
            Self::Stop { .. } => "kc_stop",
            Self::Socket { .. } => "kc_socket",
            Self::Exec => "kc_exec",
            Self::Exit => "kc_exit",
            Self::Fork => "kc_fork",
            Self::WatchBegin { .. } => "kc_watch_begin",
            Self::WatchEnd { .. } => "kc_watch_end",
        }
    }

    /// What the loader writes into the copy: the hook's id and the target's slot.
    fn places(&self) -> (u32, u32) {
        match self {
            Self::Kprobe | Self::KprobeMulti | Self::Slow | Self::Entry { .. } => (HOOK_ENTRY, 0),
            Self::Lsm { id, .. } | Self::Security { id, .. } => (*id, 0),
            Self::Socket { slot, .. } => (HOOK_SOCKET, *slot),
            Self::WatchBegin { slot, .. } => (0, *slot),
            Self::WatchEnd { slot, arguments, .. } => (*arguments, *slot),
            Self::Stop { arguments, .. } => (*arguments, 0),
            Self::NetEgress
            | Self::NetEgressWithLines { .. }
            | Self::NetArrival { .. }
            | Self::LineA
            | Self::LineB
            | Self::NetIngress
            | Self::Witness
            | Self::Namespace
            | Self::Sleep { .. }
            | Self::Exec
            | Self::Exit
            | Self::Fork => (0, 0),
        }
    }

    fn types(&self) -> (ProgramType, AttachType) {
        match self {
            // Type 0 for what has no attach type at load.
            Self::NetEgress
            | Self::NetEgressWithLines { .. }
            | Self::NetArrival { .. }
            | Self::LineA
            | Self::LineB => (ProgramType::SchedCls, AttachType::CgroupInetIngress),
            Self::NetIngress => (ProgramType::CgroupSkb, AttachType::CgroupInetIngress),
            Self::Witness => (ProgramType::CgroupSkb, AttachType::CgroupInetEgress),
            Self::Namespace => (ProgramType::CgroupSock, AttachType::CgroupInetSockCreate),
            Self::Kprobe | Self::Slow => (ProgramType::Kprobe, AttachType::CgroupInetIngress),
            Self::KprobeMulti => (ProgramType::Kprobe, AttachType::KprobeMulti),
            Self::Entry { .. } | Self::Security { .. } => (ProgramType::Tracing, AttachType::ModifyReturn),
            Self::Lsm { .. } | Self::Sleep { .. } => (ProgramType::Lsm, AttachType::LsmMac),
            Self::Socket { attach_type, .. } => (ProgramType::CgroupSockAddr, *attach_type),
            Self::Exec | Self::Exit | Self::Fork => {
                (ProgramType::RawTracepoint, AttachType::CgroupInetIngress)
            }
            Self::WatchBegin { .. } => (ProgramType::Tracing, AttachType::FunctionEntry),
            Self::WatchEnd { .. } | Self::Stop { .. } => (ProgramType::Tracing, AttachType::FunctionExit),
        }
    }
}

/// All programs, with the maps of one engine filled in.
pub struct Programs {
    object: Object,
    exact: bool,
    /// The kernel's type information, once it was needed.
    types: Option<KernelTypes>,
    /// The programs' own, by program, where they need any.
    own_types: HashMap<&'static str, Option<Types>>,
}

impl Programs {
    /// Connects the object with the maps in `maps` (name and descriptor). aya 0.14 loads neither one program for several
    /// hooks nor all program types we need, so the loading is ours; the maps are shared. `exact` says whether any rule
    /// counts across CPUs.
    pub fn new(mut object: Object, maps: &[(String, RawFd)], exact: bool) -> Result<Self, Error> {
        let unreadable = |error: &dyn std::fmt::Display| Error::Parse(error.to_string());
        let definitions = std::mem::take(&mut object.maps);
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let known = definitions.iter().filter_map(|(name, definition)| {
            let (_, fd) = maps.iter().find(|(map, _)| map == name)?;
            Some((name.as_str(), *fd, definition))
        });
        object.relocate_maps(known, &text).map_err(|e| unreadable(&e))?;
        object.relocate_calls(&text).map_err(|e| unreadable(&e))?;
        Ok(Self { object, exact, types: None, own_types: HashMap::new() })
    }

    /// Takes over what `other` has read of the kernel's type information, and what it has written of the programs' own.
    pub fn know(&mut self, other: &mut Self) {
        self.types = other.types.take();
        self.own_types = std::mem::take(&mut other.own_types);
    }

    /// Loads one copy.
    pub fn load(&mut self, kind: &Kind) -> Result<OwnedFd, Error> {
        let name = kind.program();
        let kernel_functions = match kind {
            Kind::Sleep { .. } => {
                KFUNCS.iter().map(|name| self.function_id(name)).collect::<Result<_, _>>()?
            }
            _ => vec![],
        };
        let program =
            self.object.programs.get(name).ok_or_else(|| Error::Parse(format!("no program {name}")))?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| Error::Parse(format!("no code for program {name}")))?;
        let (hook, slot) = kind.places();
        let namespace = match kind {
            Kind::NetEgressWithLines { namespace } => *namespace,
            Kind::NetArrival { namespace } => namespace | ARRIVING,
            _ => 0,
        };
        let instructions: Vec<u64> = function
            .instructions
            .iter()
            .map(|instruction| with_constant(*instruction, HOOK_MAGIC, hook))
            .map(|instruction| with_constant(instruction, SLOT_MAGIC, slot))
            .map(|instruction| with_constant(instruction, NAMESPACE_MAGIC, namespace))
            .map(|instruction| with_kernel_function(instruction, &kernel_functions))
            .map(|instruction| encode(without_fetch(instruction, self.exact)))
            .collect();
        // The same for all copies of a program.
        self.own_types.entry(name).or_insert_with(|| {
            let others = self.object.functions.values();
            let linkable = others.map(|other| (&other.name[..], &other.instructions[..]));
            let parts = functions::parts(name, &function.instructions, linkable);
            (!parts.is_empty()).then(|| Types::of(&parts))
        });
        let attach_btf_id = match kind {
            Kind::Lsm { hook, .. } | Kind::Sleep { hook } => self.function_id(&format!("bpf_lsm_{hook}"))?,
            Kind::Entry { function }
            | Kind::Stop { function, .. }
            | Kind::Security { function, .. }
            | Kind::WatchBegin { function, .. }
            | Kind::WatchEnd { function, .. } => self.function_id(function)?,
            _ => 0,
        };
        let (program_type, attach_type) = kind.types();
        let what = bpf::Load {
            name,
            program_type,
            attach_type,
            instructions: &instructions,
            attach_btf_id,
            sleepable: matches!(kind, Kind::Sleep { .. }),
            types: self.own_types.get(name).and_then(Option::as_ref),
        };
        bpf::load(&what).map_err(|(source, log)| Error::Refused { program: name.to_owned(), source, log })
    }

    /// Id of a kernel function in the kernel's type information. Only who needs it pays for reading that.
    fn function_id(&mut self, function: &str) -> Result<u32, Error> {
        if self.types.is_none() {
            self.types = Some(KernelTypes::read().ok_or(Error::NoBtf)?);
        }
        let found = self.types.as_ref().and_then(|types| types.function(function));
        found.ok_or_else(|| Error::NoFunction(function.to_owned()))
    }
}

/// Writes a value over its placeholder.
fn with_constant(mut instruction: bpf_insn, placeholder: u32, value: u32) -> bpf_insn {
    const MOV32_IMM: u8 = 0xb4;
    const MOV64_IMM: u8 = 0xb7;
    const STORE_IMM32: u8 = 0x62;
    const STORE_IMM64: u8 = 0x7a;
    if instruction.imm == placeholder as i32
        && matches!(instruction.code, MOV32_IMM | MOV64_IMM | STORE_IMM32 | STORE_IMM64)
    {
        instruction.imm = value as i32;
    }
    instruction
}

/// Makes a call of a placeholder one of the kernel's function for which it stands.
fn with_kernel_function(mut instruction: bpf_insn, ids: &[u32]) -> bpf_insn {
    const CALL: u8 = 0x85;
    /// `BPF_PSEUDO_KFUNC_CALL` of include/uapi/linux/bpf.h.
    const KERNEL_FUNCTION: u8 = 2;
    let place = (instruction.imm as u32).wrapping_sub(KFUNC_MAGIC) as usize;
    if instruction.code == CALL
        && instruction.src_reg() == 0
        && let Some(id) = ids.get(place)
    {
        instruction.set_src_reg(KERNEL_FUNCTION);
        instruction.imm = *id as i32;
    }
    instruction
}

/// Kernels before 5.12 refuse fetching atomics even where they cannot be reached (`resolve_pseudo_ldimm64`,
/// kernel/bpf/verifier.c of 5.10). Without an exact rule they are unreachable, so any form serves.
fn without_fetch(mut instruction: bpf_insn, exact: bool) -> bpf_insn {
    const ATOMIC64: u8 = 0xdb;
    const FETCH: i32 = 1;
    if !exact && instruction.code == ATOMIC64 && instruction.imm & FETCH != 0 {
        // An addition without a result: every kernel knows that one.
        instruction.imm = 0;
    }
    instruction
}

/// `struct bpf_insn` as the kernel reads it: code, both registers, offset, immediate.
fn encode(instruction: bpf_insn) -> u64 {
    let registers = instruction.dst_reg() | instruction.src_reg() << 4;
    u64::from(instruction.code)
        | u64::from(registers) << 8
        | u64::from(instruction.off as u16) << 16
        | u64::from(instruction.imm as u32) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_taken_from_the_log() {
        let log = "0: R1=ctx\nunknown func bpf_override_return#58\nprocessed 3 insns (limit 1000000)\n";
        assert_eq!(first_reason(log), " (unknown func bpf_override_return#58)");
        assert_eq!(first_reason(""), "");
    }

    #[test]
    fn names_fit_the_kernels_limit() {
        let function = || "x".to_owned();
        for kind in [
            Kind::NetEgress,
            Kind::NetArrival { namespace: 0 },
            Kind::LineA,
            Kind::LineB,
            Kind::NetIngress,
            Kind::Witness,
            Kind::Namespace,
            Kind::Kprobe,
            Kind::KprobeMulti,
            Kind::Slow,
            Kind::Entry { function: function() },
            Kind::Lsm { hook: "x", id: 1 },
            Kind::Sleep { hook: "x" },
            Kind::Stop { function: function(), arguments: 1 },
            Kind::Security { function: function(), id: 1 },
            Kind::Socket { attach_type: AttachType::Inet4Connect, slot: 0 },
            Kind::Exec,
            Kind::Exit,
            Kind::Fork,
            Kind::WatchBegin { function: function(), slot: 0 },
            Kind::WatchEnd { function: function(), slot: 0, arguments: 1 },
        ] {
            assert!(kind.program().len() <= 15 && kind.program().starts_with("kc_"));
        }
    }
}
