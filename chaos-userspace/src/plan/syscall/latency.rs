//! Which hooks calls can be held back at.

use super::{
    super::{EntryHook, Mechanism, watch},
    Call, Wanted, entry,
};
use crate::{
    probe::{Abilities, Unable},
    spec::latency::Latency,
};
use chaos_common::limits::{SPIN_MAX_NS, STOP_MIN_NS};
use std::time::Duration;

/// Where programs spin, in the order in which mechanisms are tried, for calls that fail as well. A socket hook does not
/// know who calls.
pub const SPIN_LADDER: [Wanted; 5] =
    [Wanted::Lsm, Wanted::FmodRetSecurity, Wanted::FmodRetSys, Wanted::KprobeMulti, Wanted::Kprobe];

/// The same for calls behind which the process is stopped: what overrides at a kprobe does not go with a program behind the
/// function.
pub const STOP_LADDER: [Wanted; 3] = [Wanted::Lsm, Wanted::FmodRetSecurity, Wanted::FmodRetSys];

/// Whether calls can be held back by it.
pub fn holds_back(wanted: Wanted) -> bool {
    matches!(wanted, Wanted::LsmSleep | Wanted::Spin | Wanted::StopContinue | Wanted::Seccomp)
}

/// Whether a program may spin for so long.
pub fn can_spin(latency: Latency) -> Result<(), Unable> {
    let (longest, limit) = (latency.time + latency.jitter, Duration::from_nanos(SPIN_MAX_NS));
    if longest <= limit {
        return Ok(());
    }
    Err(Unable::new(
        format!(
            "spin: {longest:?} is above the limit of {limit:?}, so long a processor would do nothing else"
        ),
        "ask for less (time and jitter together), or choose another mechanism: kchaos help slow",
    ))
}

/// Mechanisms that can hold a process are chosen by name.
pub fn by_name_only(wanted: Option<Wanted>) -> Unable {
    let why = match wanted {
        Some(other) => format!("{} cannot hold calls back", other.name()),
        None => "whatever holds calls back can hold a process that does not answer any more, so it has to be asked for by \
                 name"
            .to_owned(),
    };
    Unable::new(
        why,
        "add --mechanism lsm_sleep (Linux 6.12) or stop_continue, up to 1 ms also --mechanism spin, or with kchaos exec \
         --mechanism seccomp; kchaos plan then says what that means",
    )
}

/// Whether a process can be stopped for so short a time.
pub fn can_stop(latency: Latency) -> Result<(), Unable> {
    let (shortest, limit) = (latency.time.saturating_sub(latency.jitter), Duration::from_nanos(STOP_MIN_NS));
    if shortest >= limit {
        return Ok(());
    }
    Err(Unable::new(
        format!(
            "stop_continue: {shortest:?} is below the limit of {limit:?}, which stopping and continuing take themselves"
        ),
        "ask for more (time without jitter), or use --mechanism spin",
    ))
}

/// Adds to the hooks of a call the programs that stop the process behind it.
pub fn with_stop(
    call: Call,
    mut hooks: Vec<Mechanism>,
    abilities: &impl Abilities,
) -> Result<Vec<Mechanism>, Unable> {
    if matches!(call.name(), "exit" | "exit_group") {
        return Err(Unable::new(
            format!(
                "stop_continue: {} does not return, and a process is stopped behind the call",
                call.name()
            ),
            "name another call",
        ));
    }
    abilities.stop()?;
    let ends = watch::watched(call, abilities)?.functions;
    // What is not stopped behind the call need not be met before it.
    let ended = |hook: &Mechanism| match hook {
        Mechanism::Entry { by: EntryHook::Look, function } => {
            *function == entry::function(call.name(), false) || ends.iter().any(|end| end.name == *function)
        }
        _ => true,
    };
    hooks.retain(ended);
    let stop = |end: watch::Function| Mechanism::Stop { function: end.name, arguments: end.arguments };
    hooks.extend(ends.into_iter().map(stop));
    Ok(hooks)
}

/// What else waits while a task sleeps at this hook, if the kernel calls it with a lock held that others want.
fn lock(hook: &str) -> Option<&'static str> {
    Some(match hook {
        // i_rwsem of the directory (fs/namei.c) or of the file (`notify_change`, fs/attr.c).
        "inode_unlink" | "inode_mkdir" | "inode_rmdir" | "inode_rename" | "inode_link" | "inode_symlink"
        | "inode_mknod" | "inode_create" => "everybody who wants to change the same directory",
        "inode_setattr" => "everybody who wants to change the same file",
        // mmap_lock (mm/mprotect.c).
        "file_mprotect" => "every other thread that gets or gives back memory",
        // kernel/signal.c.
        "task_kill" => "everybody who waits for a grace period of RCU",
        _ => return None,
    })
}

/// Adds to the hooks of a call the programs that sleep there.
pub fn with_sleep(
    call: Call,
    mut hooks: Vec<Mechanism>,
    abilities: &impl Abilities,
) -> Result<Vec<Mechanism>, Unable> {
    let mut sleeping = vec![];
    for mechanism in &hooks {
        let Mechanism::Security { hook, .. } = mechanism else { continue };
        if let Some(others) = lock(hook) {
            return Err(Unable::new(
                format!("lsm_sleep: with {}, {others} would have to wait too", call.name()),
                "name another call",
            ));
        }
        abilities.sleep(hook)?;
        sleeping.push(Mechanism::Sleep { hook });
    }
    hooks.extend(sleeping);
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::{super::hooks, *};

    #[test]
    fn what_holds_others_up_is_refused() {
        for call in ["unlink", "mkdirat", "renameat2", "chmod", "truncate", "mprotect"] {
            let (hook, _) = hooks::of(call).unwrap();
            assert!(lock(hook).is_some(), "{call}");
        }
        for call in ["openat", "connect", "accept4", "sendmsg", "execve", "clone", "statx", "mmap"] {
            let (hook, _) = hooks::of(call).unwrap();
            assert!(lock(hook).is_none(), "{call}");
        }
    }

    #[test]
    fn nobody_spins_for_long() {
        let latency = |time, jitter| Latency {
            time: Duration::from_micros(time),
            jitter: Duration::from_micros(jitter),
        };
        assert!(can_spin(latency(1000, 0)).is_ok() && can_spin(latency(600, 400)).is_ok());
        let said = can_spin(latency(900, 200)).unwrap_err().to_string();
        assert!(said.contains("1.1ms is above the limit of 1ms") && said.contains("ask for less"), "{said}");
    }

    #[test]
    fn nobody_is_stopped_for_less_than_that_takes() {
        let latency = |time, jitter| Latency {
            time: Duration::from_micros(time),
            jitter: Duration::from_micros(jitter),
        };
        assert!(can_stop(latency(1000, 0)).is_ok() && can_stop(latency(6000, 5000)).is_ok());
        let said = can_stop(latency(6000, 5001)).unwrap_err().to_string();
        assert!(
            said.contains("999µs is below the limit of 1ms") && said.contains("--mechanism spin"),
            "{said}"
        );
    }

    #[test]
    fn it_is_asked_for_by_name() {
        assert!(by_name_only(None).to_string().contains("--mechanism lsm_sleep"));
        assert!(by_name_only(Some(Wanted::Kprobe)).to_string().contains("kprobe cannot"));
    }
}
