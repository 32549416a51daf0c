//! A plan in sentences.

use super::{EntryHook, Mechanism, Plan, SecurityHook, syscall::security_function};
use crate::spec::syscall::Call;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// A path may contain anything; nothing of it may steer a terminal.
pub fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

/// What somebody wrote, with control characters as Rust writes them.
pub fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Paths that people are shown of many.
const PATHS_SHOWN: usize = 10;

/// Some paths and how many more there are.
pub fn paths(all: &[PathBuf]) -> String {
    let shown: Vec<_> = all.iter().take(PATHS_SHOWN).map(|path| shown(path)).collect();
    let more = all.len().saturating_sub(PATHS_SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(", ") + &more
}

/// Says what would be attached where, for `target` (in words), and what else to know of its devices.
pub fn explain(plan: &Plan, target: &str, warnings: &[String]) -> String {
    let mut text = String::new();
    let counted = if plan.observe { " (only counted, not carried out)" } else { "" };
    let _ = writeln!(text, "Target: {target}.");
    match plan.duration {
        Some(duration) => {
            let _ = writeln!(text, "Duration: {duration:?}, enforced in the kernel.");
        }
        None => {
            let _ = writeln!(text, "Duration: until the command ends.");
        }
    }
    for (number, rule) in plan.rules.iter().enumerate() {
        let _ = writeln!(text, "{}. {}: {}{counted}.", number + 1, rule.name, rule.fault);
        if rule.calls.len() > 1 {
            text.push_str(&calls(&rule.calls));
            if let Some(holding) = rule.mechanisms.iter().find(|mechanism| mechanism.only_holds()) {
                let _ = writeln!(text, "   The first of them, likewise the others: {}", sentence(holding));
            }
        } else {
            let mut stops = false;
            for mechanism in &rule.mechanisms {
                // What it means is said once.
                let said = match mechanism {
                    Mechanism::Stop { function, .. } if stops => {
                        format!("The same at the end of {function}.")
                    }
                    _ => sentence(mechanism),
                };
                stops |= matches!(mechanism, Mechanism::Stop { .. });
                let _ = writeln!(text, "   {said}");
            }
        }
        for limit in &rule.limits {
            let _ = writeln!(text, "   {limit}");
        }
    }
    for warning in warnings {
        let _ = writeln!(text, "Warning: {warning}.");
    }
    text
}

/// The calls of a class by the mechanism that reaches them, and what that does at the first of its hooks.
fn calls(calls: &[(Call, Vec<Mechanism>)]) -> String {
    let mut groups: Vec<(&Mechanism, Vec<&str>)> = vec![];
    for (call, hooks) in calls {
        let Some(hook) = hooks.first() else { continue };
        match groups.iter_mut().find(|(first, _)| first.name() == hook.name()) {
            Some((_, names)) => names.push(call.name()),
            None => groups.push((hook, vec![call.name()])),
        }
    }
    let mut text = String::new();
    for (first, names) in groups {
        let _ = writeln!(text, "   By {}: {}.", first.name(), names.join(", "));
        let _ = writeln!(text, "   The first of them, likewise the others: {}", sentence(first));
    }
    text
}

/// `__bpf_prog_enter_recur`, kernel/bpf/trampoline.c.
const SKIPPED: &str = " On preemptible kernels a call is let through while another task is interrupted inside the same \
                       program on the same processor; the summary says how often.";

fn sentence(mechanism: &Mechanism) -> String {
    match mechanism {
        Mechanism::Tcx => "A tcx program on every device of the target's network namespaces looks at each leaving packet \
             and acts on those whose socket was created in the target; the sender is not told. The link goes with its \
             owner."
            .to_owned(),
        Mechanism::Clsact => "A clsact filter on every device of the target's network namespaces does it: this kernel has \
             no tcx links. Where a device has no clsact yet, adding and removing it makes the kernel drop what passes the device in \
             that instant, of every process. After a kill -9 the filter stays behind without effect until the guardian or `kchaos clean` \
             removes it."
            .to_owned(),
        Mechanism::Arrival => "A tcx program on every device of the target's network namespaces looks up the socket of each \
             arriving packet, of every process, and judges those whose socket was created in the target. What shows no \
             socket there (ICMP, multicast, later fragments, packets before NAT) is not held back and counts as spared by error."
            .to_owned(),
        Mechanism::Line => "Held-back packets go through a veth pair (kc-...) with netem on it, one for loopback and one for all other \
             devices of a network namespace, and then go on at their own device. Its other end is in a namespace that \
             only kchaos holds, so that it goes with its owner. They lose skb->mark and skb->priority on the way."
            .to_owned(),
        Mechanism::CgroupSkb => "A cgroup_skb program on the target judges arriving packets; no other process runs it.".to_owned(),
        Mechanism::Entry { by: EntryHook::Look, function } => format!(
            "A kprobe on {function} meets it as it begins, for tasks of the target, and changes no result. Every caller of \
             this system call on the host pays for one look at its cgroup. io_uring does not pass here."
        ),
        Mechanism::Spin => "The program that meets it spins until the time is over: exact, at most 1 ms, on the processor of the \
             calling task, which at a kprobe nobody else gets meanwhile. Signals wait so long, SIGKILL too; so does the end of \
             the run, which is less than its lease."
            .to_owned(),
        Mechanism::Stop { function, .. } => format!(
            "Behind the call: a program at the end of {function} (fexit) stops the whole process by SIGSTOP, and a process of \
             kchaos (kchaos-continuer) lets it go on by SIGCONT when the time is over, which begins when it stands still. All its \
             threads stand still, calls of the others that wait may fail with EINTR; its parent is told (waitpid with WUNTRACED: a \
             shell takes its job back), and a handler of SIGCONT runs. Traced processes, and those that somebody else is stopping, are left \
             alone; one that somebody else stops meanwhile stays stopped. If kchaos dies, or kchaos-continuer does, all go \
             on at once; if kchaos is stopped, within 1.1 s; if kchaos-continuer is, within 3.2 s. Only if kchaos, \
             kchaos-continuer and kchaos-guardian are all killed at once does a process that stands still then need a SIGCONT \
             from somebody else."
        ),
        Mechanism::Entry { by, function } => {
            let how = match by {
                EntryHook::FmodRet => "A trampoline (fmod_ret)",
                EntryHook::KprobeMulti => "A kprobe.multi link",
                EntryHook::Kprobe | EntryHook::Look => "A kprobe",
            };
            format!(
                "{how} on {function} sets its result for tasks of the target, before the call does anything. Every \
                 caller of this system call on the host pays for one look at its cgroup. io_uring does not pass here.{}",
                if *by == EntryHook::FmodRet { SKIPPED } else { "" }
            )
        }
        Mechanism::Sleep { hook } => format!(
            "A BPF LSM program that may sleep, behind the other one on {hook}, holds it back: it reads an attribute of a \
             file that only kchaos serves, whose answer takes its time (precision: a thousandth of the time plus some \
             0.1 ms; the call takes no processor meanwhile). The task is held in the kernel: signals wait until the time \
             is over, SIGKILL ends it within some 10 ms. If the sleeper process of kchaos or its owner dies, all are let \
             go at once; if the owner is stopped, within 1.1 s; if the sleeper is stopped, within 3.2 s."
        ),
        Mechanism::Security { by, hook, .. } => {
            let how = match by {
                SecurityHook::Lsm => format!("A BPF LSM program on {hook}"),
                SecurityHook::FmodRet => format!("A trampoline (fmod_ret) on {}", security_function(hook)),
            };
            format!(
                "{how} fails it for tasks of the target that entered the kernel by this very system call, or by \
                 io_uring where that can ask for it (from Linux 5.12 on). Every task that passes this hook pays for \
                 one look at its cgroup. A call that fails by itself before it comes to the hook keeps its own errno.{}",
                if *by == SecurityHook::FmodRet { SKIPPED } else { "" }
            )
        }
        Mechanism::Notification => "The command is started behind a seccomp filter by which the kernel asks a process of kchaos \
             (kchaos-receiver) before each of these calls, also of threads, children and 32-bit callers, whatever cgroup they \
             move to; no other process runs the filter. Such a call costs two switches of tasks (some 10 us, below Linux 6.6 more), also after the run: \
             a filter cannot be taken away, and the receiver lives until the last process behind it has gone. SIGKILL ends \
             a wait at once. If kchaos dies or the receiver does, all are let go; if kchaos is stopped, within 1.1 s; if \
             the receiver is stopped, within 3.3 s. Only if the receiver and its stand-by are both killed do these calls \
             fail with ENOSYS. Below Linux 5.19 a signal with a handler ends the wait: the call begins again, or fails with \
             EINTR where the handler is set without SA_RESTART."
            .to_owned(),
        Mechanism::Socket(hook) => format!(
            "A {} program on the target fails it for sockets that were created in the target, whoever uses them: IPv4 \
             and IPv6 only, and only sends that name an address. io_uring is left alone. No other cgroup runs it.",
            hook.name()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_steer_the_terminal() {
        assert_eq!(shown("/a\n\u{1b}[2Jb".as_ref()), "/a\\n\\u{1b}[2Jb");
        assert_eq!(paths(&["/\u{1b}[2J".into(), "/b".into()]), "/\\u{1b}[2J, /b");
        let many: Vec<_> = (0..12).map(|number| PathBuf::from(format!("/{number}"))).collect();
        assert!(paths(&many).ends_with("/9 and 2 more"), "{}", paths(&many));
    }
}
