//! Whether a mechanism can tell what a fault's match asks for.

use super::{super::Mechanism, arguments};
use crate::{
    probe::{Abilities, Unable},
    spec::{
        syscall::{Call, Calls, Fault},
        syscall_match::{Match, Size, User},
    },
};
use chaos_common::{
    layout::{MEMBERS, SOCK_REMOTE_V6, SOCKET_TO_CGROUPS, UNKNOWN},
    limits::PATH_COMPONENTS_MAX,
    syscall_match::SUBJECT_NONE,
};

/// What of a match a call has no argument for: the key, and what the call does instead.
pub fn unfit(matches: &Match, call: Call) -> Vec<(&'static str, &'static str)> {
    let call = call.name();
    let positions = arguments::of(call);
    let unfit = [
        ("path=", !matches.path.is_empty() && !positions.has_path(), "works on nothing that has a path"),
        (
            "fd=",
            !matches.kind.is_empty() && positions.file.is_none(),
            "takes no descriptor of what it works on",
        ),
        (
            "size",
            matches.size != Size::default() && arguments::size(call).is_none(),
            "takes no number of bytes",
        ),
        ("access=", matches.access.is_some() && arguments::flags(call).is_none(), "does not open anything"),
        (
            "remote=, remote-port=",
            matches.has_remote() && arguments::peer(call).is_none(),
            "shows no remote end",
        ),
    ];
    unfit.into_iter().filter(|(_, unfit, _)| *unfit).map(|(key, _, why)| (key, why)).collect()
}

/// Refuses a match that fits the call not at all, or no call of the class.
fn check(fault: &Fault) -> Result<(), String> {
    let problems: Vec<_> = match &fault.calls {
        Calls::One(call) => {
            let unfit = unfit(&fault.matches, *call).into_iter();
            unfit.map(|(key, why)| format!("{key}: {} {why}: leave it out", call.name())).collect()
        }
        Calls::Class { class, .. } => {
            let unfit: Vec<_> = class.calls().into_iter().map(|call| unfit(&fault.matches, call)).collect();
            if unfit.iter().any(Vec::is_empty) {
                return Ok(());
            }
            let of_all =
                |(key, _): &(&str, &str)| unfit.iter().all(|keys| keys.iter().any(|(k, _)| k == key));
            let mut keys: Vec<_> = unfit.iter().flatten().filter(|unfit| of_all(unfit)).copied().collect();
            keys.sort_unstable();
            keys.dedup();
            let of_none =
                keys.iter().map(|(key, why)| format!("{key}: every call of {class} {why}: leave it out"));
            let mut problems: Vec<_> = of_none.collect();
            if problems.is_empty() {
                problems.push(format!(
                    "no call of {class} has all that the match asks for: leave a part of it out"
                ));
            }
            problems
        }
    };
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// The fault's match with users by number, if it fits the calls.
pub fn resolved(fault: &Fault, abilities: &impl Abilities) -> Result<Match, String> {
    check(fault)?;
    let mut matches = fault.matches.clone();
    for user in matches.uid.only.iter_mut().chain(&mut matches.uid.except) {
        if let User::Name(name) = user {
            let uid = abilities.uid(name).ok_or_else(|| {
                format!("uid={name}: /etc/passwd of this host has no such user: give the number")
            })?;
            *user = User::Uid(uid);
        }
    }
    Ok(matches)
}

/// Refuses hooks that cannot tell what is asked for.
pub fn served_by(fault: &Fault, hooks: &[Mechanism], abilities: &impl Abilities) -> Result<(), Unable> {
    if fault.matches.has_arguments() {
        let layout = abilities.registers().layout;
        // Kernels without IPv6 have no remote address of it; arriving packets alone ask for their socket's cgroups.
        let needless = |member| member == SOCK_REMOTE_V6 || SOCKET_TO_CGROUPS.contains(&member);
        let missing = MEMBERS.iter().zip(layout).enumerate();
        let mut missing = missing.filter(|(member, (_, offset))| *offset == UNKNOWN && !needless(*member));
        if let Some((_, ((structure, member), _))) = missing.next() {
            return Err(Unable::new(
                format!(
                    "matching arguments needs {structure}.{member}, which this kernel's type information does not have"
                ),
                "use a kernel with CONFIG_DEBUG_INFO_BTF, or leave the match out",
            ));
        }
    }
    if hooks.contains(&Mechanism::Notification)
        && (fault.matches.has_caller() || fault.matches.has_arguments())
    {
        return Err(Unable::new(
            "seccomp: who calls and with what is not looked at there: none of these matches is served",
            "leave them out",
        ));
    }
    let at_socket = hooks.iter().any(|hook| matches!(hook, Mechanism::Socket(_)));
    if at_socket && (fault.matches.has_caller() || fault.matches.has_arguments()) {
        return Err(Unable::new(
            "cgroup_sock_addr: socket hooks choose by socket, whoever uses it and however: none of these matches is \
             served there",
            "leave them out",
        ));
    }
    Ok(())
}

/// Whether these hooks see where the file of a call is, rather than the path that the caller gives.
fn resolves(call: Call, hooks: &[Mechanism]) -> bool {
    let subject = |hook: &Mechanism| match hook {
        Mechanism::Security { hook, .. } => arguments::subject(hook),
        _ => SUBJECT_NONE,
    };
    let mut judging = hooks.iter().filter(|hook| !hook.only_holds());
    judging.all(|hook| subject(hook) != SUBJECT_NONE) || arguments::of(call.name()).file.is_some()
}

/// What is matched and what is not, in words.
pub fn limits(matches: &Match, calls: &[(Call, Vec<Mechanism>)]) -> Vec<String> {
    let mut limits = vec![];
    if matches.has_caller() {
        limits.push(
            "comm= is the name of the calling thread (/proc/PID/task/TID/comm) and uid= its real user as this host \
             numbers it, both at the time of the call; a ring's own threads (iou-...) have names of their own."
                .to_owned(),
        );
    }
    if !matches.path.is_empty() {
        limits.extend(path_limits(calls));
    }
    let in_registers = matches.size != Size::default() || matches.has_remote();
    let hooks = || calls.iter().flat_map(|(_, hooks)| hooks);
    if in_registers && hooks().any(|hook| matches!(hook, Mechanism::Security { .. })) {
        limits.push(
            "size, remote= and remote-port= are read from the caller's registers and memory: calls of io_uring go \
             through and count as unreadable."
                .to_owned(),
        );
    }
    if matches.has_remote() {
        limits.push(
            "The remote end is the one the call names, else the one its socket is connected to; calls without either, \
             and sockets that are not of the internet, do not match."
                .to_owned(),
        );
    }
    limits
}

fn path_limits(calls: &[(Call, Vec<Mechanism>)]) -> Vec<String> {
    let of = |resolving: bool| {
        let names = calls.iter().filter(|(call, hooks)| resolves(*call, hooks) == resolving);
        let names: Vec<_> = names.map(|(call, _)| call.name()).collect();
        // One call needs no name.
        let words = if calls.len() > 1 { format!(" of {}", names.join(", ")) } else { String::new() };
        (!names.is_empty()).then_some(words)
    };
    let where_it_is = of(true).map(|of| {
        format!(
            "path={of} is compared with where the file is, seen from the caller's root: links, .. and relative paths \
             are resolved. Pipes, sockets and memory files have no path."
        )
    });
    let as_given = of(false).map(|of| {
        format!(
            "path={of} is compared with the path as the caller gives it, a relative one behind where its directory is: \
             symbolic links and .. in it are not followed. Of two paths, one has to match. A path that cannot be read \
             goes through and counts as unreadable, as do calls of io_uring."
        )
    });
    let bounds = format!(
        "Paths more than {PATH_COMPONENTS_MAX} directories deep, or of more than 3800 resolved bytes, go through and \
         count as unreadable."
    );
    where_it_is.into_iter().chain(as_given).chain([bounds]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_no_call_is_refused_with_every_reason() {
        for (fault, words) in [
            ("openat=EIO,path=/a,access=write", &[][..]),
            ("%file=EIO,path=/a,access=write", &[]),
            (
                "getpid=EIO,path=/a,fd=pipe",
                &["path=: getpid works on nothing", "fd=: getpid takes no descriptor"],
            ),
            ("%memory=EIO,access=write", &["access=: every call of %memory does not open"]),
            ("%network=EIO,path=/a,size=1", &["path=: every call of %network works on nothing"]),
            ("%desc=EIO,size=1,access=write", &["no call of %desc has all"]),
        ] {
            let said = check(&fault.parse().unwrap()).err().unwrap_or_default();
            assert!(
                words.iter().all(|word| said.contains(word)) && words.is_empty() == said.is_empty(),
                "{fault}: {said}"
            );
        }
    }

    #[test]
    fn a_plan_says_of_which_calls_it_knows_where_the_file_is() {
        let by = crate::plan::SecurityHook::Lsm;
        let call = |name: &str, hook| (name.parse().unwrap(), vec![Mechanism::Security { by, hook, id: 9 }]);
        let calls =
            [call("openat", "file_open"), call("unlink", "inode_unlink"), call("ftruncate", "inode_setattr")];
        let fault: Fault = "%file=EIO,path=/a".parse().unwrap();
        let said = limits(&fault.matches, &calls);
        assert!(
            said[0].starts_with("path= of openat, ftruncate is compared with where the file is"),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("path= of unlink is compared with the path as the caller gives it"),
            "{said:?}"
        );
        assert!(limits(&fault.matches, &calls[..1])[0].starts_with("path= is compared with where"));
    }
}
