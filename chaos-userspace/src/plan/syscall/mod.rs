//! Which hook carries a system call fault.

pub mod arguments;
mod class;
pub mod entry;
pub mod hooks;
mod latency;
pub mod matches;

use super::{EntryHook, Mechanism, PlannedRule, SecurityHook, SocketHook};
use crate::{
    probe::{Abilities, Unable},
    spec::{
        Fault as SpecFault, Spec,
        returns::Needs,
        syscall::{Call, Calls, Fault, Mechanism as Wanted},
        target::Target,
    },
};

/// The order in which mechanisms are tried. First those that also see io_uring and cost others least; the call's own
/// entry is there for calls that pass no security hook.
pub const LADDER: [Wanted; 6] = [
    Wanted::Lsm,
    Wanted::FmodRetSecurity,
    Wanted::FmodRetSys,
    Wanted::KprobeMulti,
    Wanted::Kprobe,
    Wanted::CgroupSockAddr,
];

/// The same where calls come by the dozen: one link serves all entries.
const CLASS_LADDER: [Wanted; 6] = [
    Wanted::Lsm,
    Wanted::FmodRetSecurity,
    Wanted::KprobeMulti,
    Wanted::FmodRetSys,
    Wanted::Kprobe,
    Wanted::CgroupSockAddr,
];

/// Plans one fault of `spec`.
pub fn plan(fault: &Fault, spec: &Spec, abilities: &impl Abilities) -> Result<PlannedRule, Unable> {
    let choice = Choice::of(spec);
    let (calls, left_out) = match &fault.calls {
        Calls::One(call) => (vec![(*call, choice.mechanisms(*call, abilities)?)], vec![]),
        Calls::Class { class, allowed } => {
            class::members(*class, allowed, &fault.matches, &choice, abilities)?
        }
    };
    let mut limits = matches::limits(&fault.matches, &calls);
    limits.extend(left_out);
    let mut mechanisms: Vec<_> = calls.iter().flat_map(|(_, hooks)| hooks).cloned().collect();
    if calls.len() > 1 {
        mechanisms.sort_unstable();
        mechanisms.dedup();
    }
    match &calls[..] {
        [(call, hooks)] => limits.extend(self::limits(*call, hooks, abilities)),
        calls => limits.extend(class::limits(calls, abilities)),
    }
    let name = format!("{}={}", fault.calls.name(), fault.effect);
    Ok(PlannedRule { name, fault: SpecFault::Syscall(Box::new(fault.clone())), mechanisms, calls, limits })
}

/// What decides about the mechanism of a call. All faults on one call get the same one.
pub struct Choice<'a> {
    faults: Vec<&'a Fault>,
    wanted: Option<Wanted>,
    /// Whether the target is a command that is yet to be started.
    is_command: bool,
}

impl<'a> Choice<'a> {
    /// For the faults of a spec.
    pub fn of(spec: &'a Spec) -> Self {
        let calls = |fault: &'a SpecFault| match fault {
            SpecFault::Syscall(fault) => Some(&**fault),
            SpecFault::Network(_) => None,
        };
        Self {
            faults: spec.faults.iter().filter_map(calls).collect(),
            wanted: spec.mechanism,
            is_command: spec.targets == [Target::Fresh],
        }
    }

    /// For one fault.
    pub fn only(fault: &'a Fault, wanted: Option<Wanted>) -> Self {
        Self { faults: vec![fault], wanted, is_command: false }
    }

    /// Chooses the hooks for a call: the first mechanism of the ladder that reaches it here and can return what all
    /// faults on it ask for, or the one that was asked for.
    pub fn mechanisms(&self, call: Call, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
        let applies =
            |fault: &&&Fault| fault.calls.contain(call) && matches::unfit(&fault.matches, call).is_empty();
        let on_call: Vec<_> = self.faults.iter().filter(applies).collect();
        let needs = on_call.iter().fold(Needs::default(), |needs, fault| needs.and(fault.needs()));
        let has_class = self.faults.iter().any(|fault| matches!(fault.calls, Calls::Class { .. }));
        let usual = if has_class { &CLASS_LADDER } else { &LADDER };
        let holds_back = on_call.iter().any(|fault| fault.latency().is_some());
        if holds_back && !self.wanted.is_some_and(latency::holds_back) {
            return Err(latency::by_name_only(self.wanted));
        }
        let mut latencies = on_call.iter().filter_map(|fault| fault.latency());
        match self.wanted {
            Some(Wanted::Spin) => latencies.try_for_each(latency::can_spin)?,
            Some(Wanted::StopContinue) => latencies.try_for_each(latency::can_stop)?,
            _ => {}
        }
        let fails = on_call.iter().any(|fault| fault.returns().is_some());
        if self.wanted == Some(Wanted::Seccomp) && !self.is_command {
            return Err(Unable::new(
                "seccomp: a filter can only be put in front of a command that is started behind it",
                "start it by kchaos exec --mechanism seccomp, or choose another mechanism",
            ));
        }
        let ladder = match &self.wanted {
            // What only fails needs no program that sleeps.
            Some(Wanted::LsmSleep) if !holds_back => &[Wanted::Lsm],
            Some(Wanted::Spin | Wanted::StopContinue) if !holds_back => &usual[..],
            Some(Wanted::Spin) if fails => &latency::SPIN_LADDER,
            Some(Wanted::StopContinue) if fails => &latency::STOP_LADDER,
            Some(wanted) => std::slice::from_ref(wanted),
            None => &usual[..],
        };
        let mut unable: Option<Unable> = None;
        for mechanism in ladder {
            let serves = |hooks: &Vec<_>| {
                on_call.iter().try_for_each(|fault| matches::served_by(fault, hooks, abilities))
            };
            let chosen =
                by(*mechanism, call, needs, abilities).and_then(|hooks| serves(&hooks).map(|()| hooks));
            match chosen {
                Ok(mut hooks) => {
                    return match self.wanted {
                        Some(Wanted::Spin) if holds_back => {
                            hooks.push(Mechanism::Spin);
                            Ok(hooks)
                        }
                        Some(Wanted::StopContinue) if fails && holds_back => {
                            latency::with_stop(call, hooks, abilities)
                        }
                        _ => Ok(hooks),
                    };
                }
                Err(reason) => {
                    unable = Some(match unable {
                        None => reason,
                        Some(before) => before.and(reason),
                    });
                }
            }
        }
        Err(unable.unwrap_or_else(|| Unable::new("no mechanism is known", "report this as a bug")))
    }
}

/// The hooks that carry a call's faults by one mechanism, if it can return what they need.
pub fn by(
    mechanism: Wanted,
    call: Call,
    needs: Needs,
    abilities: &impl Abilities,
) -> Result<Vec<Mechanism>, Unable> {
    exists(call, abilities)?;
    let hook = |name: &str| {
        Err(Unable::new(
            format!("{name}: a hook can let {} fail, but not claim that it was done", call.name()),
            "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE, or name an errno",
        ))
    };
    match mechanism {
        Wanted::Lsm
        | Wanted::LsmSleep
        | Wanted::Spin
        | Wanted::StopContinue
        | Wanted::FmodRetSecurity
        | Wanted::CgroupSockAddr
            if !needs.is_none() =>
        {
            hook(mechanism.name())
        }
        Wanted::Lsm => security(SecurityHook::Lsm, call, |hook| abilities.lsm(hook)),
        Wanted::LsmSleep => {
            let hooks = security(SecurityHook::Lsm, call, |hook| abilities.lsm(hook))?;
            latency::with_sleep(call, hooks, abilities)
        }
        Wanted::FmodRetSecurity => security(SecurityHook::FmodRet, call, |hook| {
            abilities.fmod_ret_security(&security_function(hook))
        }),
        Wanted::FmodRetSys => {
            entry(EntryHook::FmodRet, call, needs, abilities, |f| abilities.fmod_ret_sys(f))
        }
        Wanted::KprobeMulti => {
            entry(EntryHook::KprobeMulti, call, needs, abilities, |f| abilities.kprobe_multi(f))
        }
        Wanted::Kprobe => entry(EntryHook::Kprobe, call, needs, abilities, |f| abilities.kprobe_override(f)),
        // A kprobe that finds what is to be held back.
        Wanted::StopContinue => {
            let hooks = entry(EntryHook::Look, call, needs, abilities, |f| abilities.kprobe(f))?;
            latency::with_stop(call, hooks, abilities)
        }
        Wanted::Spin => entry(EntryHook::Look, call, needs, abilities, |f| abilities.kprobe(f)),
        Wanted::CgroupSockAddr => socket(call, abilities),
        Wanted::Seccomp => abilities.seccomp().map(|()| vec![Mechanism::Notification]),
    }
}

/// A hook is there for many calls, also for those that came to the kernel later or were left out of it.
fn exists(call: Call, abilities: &impl Abilities) -> Result<(), Unable> {
    let known = |call: &str| abilities.has_function(&entry::function(call, false));
    // Without names of functions nothing is known of any call.
    if known(call.name()) || !known("read") {
        return Ok(());
    }
    Err(Unable::new(format!("this kernel does not have {}", call.name()), "name another call"))
}

/// The kernel's function that asks an LSM hook.
pub fn security_function(hook: &str) -> String {
    format!("security_{hook}")
}

fn security(
    by: SecurityHook,
    call: Call,
    able: impl Fn(&'static str) -> Result<(), Unable>,
) -> Result<Vec<Mechanism>, Unable> {
    let Some((hook, other)) = hooks::of(call.name()) else {
        return Err(Unable::new(
            format!("{}: no security hook is passed exactly once by {}", by.name(), call.name()),
            "use a kernel with CONFIG_BPF_KPROBE_OVERRIDE or CONFIG_FUNCTION_ERROR_INJECTION",
        ));
    };
    let hooks = std::iter::once(hook).chain(other);
    hooks
        .map(|hook| {
            able(hook)?;
            Ok(Mechanism::Security { by, hook, id: hooks::id(hook) })
        })
        .collect()
}

fn entry(
    by: EntryHook,
    call: Call,
    needs: Needs,
    abilities: &impl Abilities,
    able: impl Fn(&str) -> Result<(), Unable>,
) -> Result<Vec<Mechanism>, Unable> {
    let function = entry::function(call.name(), by == EntryHook::FmodRet);
    able(&function)?;
    if needs.value {
        abilities.claims_success(by, false)?;
    }
    if needs.zero {
        abilities.claims_success(by, true)?;
    }
    let (compat, _) = entry::compat_functions(call.name(), |name| abilities.has_function(name));
    let compat = compat.into_iter().filter(|function| able(function).is_ok());
    Ok(std::iter::once(function).chain(compat).map(|function| Mechanism::Entry { by, function }).collect())
}

fn socket(call: Call, abilities: &impl Abilities) -> Result<Vec<Mechanism>, Unable> {
    let hooks = match call.name() {
        "connect" => [SocketHook::Connect4, SocketHook::Connect6],
        "bind" => [SocketHook::Bind4, SocketHook::Bind6],
        "sendto" | "sendmsg" => [SocketHook::Send4, SocketHook::Send6],
        other => {
            return Err(Unable::new(
                format!("cgroup_sock_addr: no socket hook is passed by {other}"),
                "name connect, bind, sendto or sendmsg",
            ));
        }
    };
    abilities.socket_hooks()?;
    Ok(hooks.map(Mechanism::Socket).to_vec())
}

/// Names under which 32-bit callers escape these hooks.
pub fn compat_escapes(call: Call, hooks: &[Mechanism], abilities: &impl Abilities) -> Vec<&'static str> {
    if !abilities.has_compat_callers() {
        return vec![];
    }
    let mut escapes = match hooks.first() {
        Some(Mechanism::Entry { .. }) => {
            let taken = |name: &str| hooks.iter().any(|hook| hook.is_function(name));
            entry::compat_functions(call.name(), taken).1
        }
        _ => vec![],
    };
    escapes.extend(entry::multiplexer(call.name()));
    escapes
}

/// Whether io_uring can do what the call does without passing these hooks.
pub fn ring_escapes(call: Call, hooks: &[Mechanism]) -> bool {
    let at_security = matches!(hooks.first(), Some(Mechanism::Security { .. }));
    if at_security {
        !hooks::in_ring(call.name()) && hooks::ring_does(call.name())
    } else {
        hooks::ring_does(call.name())
    }
}

/// Of calls that the receiver of notifications judges.
const NOT_RECORDED: &str = "These calls are counted, but not among the single events that --events writes.";

/// What these hooks do not reach, in words.
pub fn limits(call: Call, hooks: &[Mechanism], abilities: &impl Abilities) -> Vec<String> {
    let mut limits = vec![];
    if hooks.contains(&Mechanism::Notification) {
        limits.push(NOT_RECORDED.to_owned());
    }
    let escapes = compat_escapes(call, hooks, abilities);
    if !escapes.is_empty() {
        limits.push(format!("32-bit programs escape when they call {}.", escapes.join(" or ")));
    }
    if ring_escapes(call, hooks) {
        limits.push(format!(
            "Programs escape that do this through io_uring instead of calling {}.",
            call.name()
        ));
    }
    limits
}

/// A call is judged at one place. Two rules for one call always choose the same one, unless a later change breaks that.
pub fn conflict(rules: &[PlannedRule]) -> Option<String> {
    let calls: Vec<_> = rules.iter().flat_map(|rule| &rule.calls).collect();
    let (call, _) = calls
        .iter()
        .find(|(call, ours)| calls.iter().any(|(other, theirs)| call == other && ours != theirs))?;
    Some(format!("{} would be judged at two hooks: choose one with --mechanism", call.name()))
}
