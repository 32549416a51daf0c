//! The calls of a class that can be reached here.

use super::{Choice, NOT_RECORDED, compat_escapes, entry, matches, ring_escapes};
use crate::{
    plan::Mechanism,
    probe::{Abilities, Unable},
    spec::{call_class::Class, syscall::Call, syscall_match::Match},
};

use std::collections::BTreeMap;

/// Calls with their hooks.
type Reached = Vec<(Call, Vec<Mechanism>)>;

/// The calls of a class with their hooks, and what is left out, in words.
pub fn members(
    class: Class,
    allowed: &[Call],
    wanted: &Match,
    choice: &Choice<'_>,
    abilities: &impl Abilities,
) -> Result<(Reached, Vec<String>), Unable> {
    let (mut reached, mut dangerous, mut unknown, mut unreached) = (vec![], vec![], vec![], vec![]);
    let (mut reason, mut unfit) = (None, BTreeMap::<_, Vec<_>>::new());
    for call in class.calls() {
        if let Some((key, why)) = matches::unfit(wanted, call).first() {
            unfit.entry(format!("{key} leaves out what {why}")).or_default().push(call.name());
        } else if call.danger().is_some() && !allowed.contains(&call) {
            dangerous.push(call.name());
        } else if !abilities.has_function(&entry::function(call.name(), false)) {
            unknown.push(call.name());
        } else {
            match choice.mechanisms(call, abilities) {
                Ok(hooks) => reached.push((call, hooks)),
                Err(unable) => {
                    unreached.push(call.name());
                    reason.get_or_insert(unable);
                }
            }
        }
    }
    if reached.is_empty() {
        let reason = reason.unwrap_or_else(|| {
            Unable::new("this kernel has none of its calls", "mount /proc and read it as root")
        });
        return Err(Unable::new(format!("no call of {class} can be reached: {}", reason.why), reason.remedy));
    }
    let mut limits = vec![];
    let mut say = |names: &[&str], why: &str| {
        if !names.is_empty() {
            limits.push(format!("{why}: {}.", names.join(", ")));
        }
    };
    unfit.iter().for_each(|(why, names)| say(names, why));
    say(&unreached, "No mechanism reaches these of the class here");
    say(&dangerous, "Left out because a process without them is unusable (add --allow CALL)");
    say(&unknown, "This kernel does not have");
    Ok((reached, limits))
}

/// What the hooks of the calls do not reach, in words.
pub fn limits(calls: &[(Call, Vec<Mechanism>)], abilities: &impl Abilities) -> Vec<String> {
    let mut escapes: Vec<_> =
        calls.iter().flat_map(|(call, hooks)| compat_escapes(*call, hooks, abilities)).collect();
    escapes.sort_unstable();
    escapes.dedup();
    let mut limits = vec![];
    if calls.iter().any(|(_, hooks)| hooks.contains(&Mechanism::Notification)) {
        limits.push(NOT_RECORDED.to_owned());
    }
    if !escapes.is_empty() {
        limits.push(format!("32-bit programs escape when they call {}.", escapes.join(" or ")));
    }
    let rings = calls.iter().filter(|(call, hooks)| ring_escapes(*call, hooks)).map(|(call, _)| call.name());
    let rings: Vec<_> = rings.collect();
    if !rings.is_empty() {
        limits.push(format!(
            "Programs escape that do this through io_uring instead of calling {}.",
            rings.join(" or ")
        ));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::super::{Choice, plan};
    use crate::{
        plan::{EntryHook, Mechanism, PlannedRule, Registers, syscall::conflict},
        probe::{Abilities, Unable},
        spec::{Fault, Spec, Target, syscall},
    };

    /// A kernel with BPF LSM, and perhaps kprobe override.
    struct Host {
        overrides: bool,
    }

    impl Host {
        fn no() -> Result<(), Unable> {
            Err(Unable::new("not on this host", "use another one"))
        }
        fn overrides(&self) -> Result<(), Unable> {
            if self.overrides { Ok(()) } else { Self::no() }
        }
    }

    impl Abilities for Host {
        fn tcx(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn clsact(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn seccomp(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn process_trees(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn line(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn arrival(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn cgroup_skb(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn sleep(&self, _: &str) -> Result<(), Unable> {
            Self::no()
        }
        fn kprobe_override(&self, _: &str) -> Result<(), Unable> {
            self.overrides()
        }
        fn kprobe_multi(&self, _: &str) -> Result<(), Unable> {
            self.overrides()
        }
        fn fmod_ret_sys(&self, _: &str) -> Result<(), Unable> {
            self.overrides()
        }
        fn fmod_ret_security(&self, _: &str) -> Result<(), Unable> {
            Self::no()
        }
        fn stop(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn kprobe(&self, _: &str) -> Result<(), Unable> {
            Self::no()
        }
        fn fentry(&self, _: &str) -> Result<(), Unable> {
            Self::no()
        }
        fn lsm(&self, _: &str) -> Result<(), Unable> {
            Ok(())
        }
        fn socket_hooks(&self) -> Result<(), Unable> {
            Self::no()
        }
        fn claims_success(&self, by: EntryHook, zero: bool) -> Result<(), Unable> {
            if by == EntryHook::FmodRet && zero { Self::no() } else { self.overrides() }
        }
        fn has_function(&self, function: &str) -> bool {
            function != "__x64_sys_uselib"
        }
        fn registers(&self) -> Registers {
            Registers::default()
        }
        fn task_ancestor(&self) -> Result<bool, Unable> {
            Ok(true)
        }
        fn exact_counting(&self) -> Result<bool, Unable> {
            Ok(true)
        }
    }

    fn spec(faults: &[&str]) -> Spec {
        Spec {
            targets: vec![Target::Fresh],
            select: Default::default(),
            select_seed: None,
            allowed: Default::default(),
            faults: faults.iter().map(|fault| Fault::Syscall(Box::new(fault.parse().unwrap()))).collect(),
            duration: None,
            observe: false,
            seed: None,
            mechanism: None,
        }
    }

    fn rules(faults: &[&str], overrides: bool) -> Vec<PlannedRule> {
        let spec = spec(faults);
        let fault = |fault: &Fault| match fault {
            Fault::Syscall(fault) => plan(fault, &spec, &Host { overrides }).unwrap(),
            Fault::Network(_) => unreachable!(),
        };
        spec.faults.iter().map(fault).collect()
    }

    fn mechanism_of(rule: &PlannedRule, call: &str) -> Option<&'static str> {
        let (_, hooks) = rule.calls.iter().find(|(known, _)| known.name() == call)?;
        hooks.first().map(Mechanism::name)
    }

    #[test]
    fn what_is_left_out_of_a_class_is_named() {
        let rule = &rules(&["%file=EIO"], false)[0];
        assert_eq!(mechanism_of(rule, "openat"), Some("lsm"));
        assert_eq!(mechanism_of(rule, "access"), None);
        let [unreached, dangerous, unknown] = &rule.limits[..] else { panic!("{:?}", rule.limits) };
        assert!(unreached.contains("access") && !unreached.contains("openat"), "{unreached}");
        assert!(dangerous.contains("execve, execveat"), "{dangerous}");
        assert!(unknown.ends_with("uselib."), "{unknown}");
        let rule = &rules(&["%file=EIO"], true)[0];
        assert_eq!(mechanism_of(rule, "access"), Some("kprobe_multi"));
        assert_eq!(mechanism_of(rule, "execve"), None);
    }

    #[test]
    fn allowed_calls_are_part_of_a_class() {
        let mut spec = spec(&["%memory=ENOMEM"]);
        let Some(Fault::Syscall(fault)) = spec.faults.first_mut() else { panic!() };
        let syscall::Calls::Class { allowed, .. } = &mut fault.calls else { panic!() };
        allowed.push("munmap".parse().unwrap());
        let fault = fault.clone();
        let rule = plan(&fault, &spec, &Host { overrides: true }).unwrap();
        assert!(mechanism_of(&rule, "munmap").is_some() && mechanism_of(&rule, "brk").is_none());
    }

    #[test]
    fn calls_that_do_not_fit_a_match_are_left_out() {
        let all = rules(&["%desc=return=0,size>=5", "fcntl=EIO", "read=EIO"], true);
        assert_eq!(mechanism_of(&all[0], "read"), Some("kprobe_multi"));
        assert_eq!(mechanism_of(&all[0], "fcntl"), None);
        assert!(
            all[0].limits.iter().any(|limit| limit.starts_with("size leaves out") && limit.contains("fcntl"))
        );
        // Where a rule does not fit, it does not decide about the mechanism.
        assert_eq!(mechanism_of(&all[1], "fcntl"), Some("lsm"));
        assert_eq!(mechanism_of(&all[2], "read"), Some("kprobe_multi"));
    }

    #[test]
    fn all_rules_on_a_call_share_the_mechanism_that_can_do_all() {
        let all = rules(&["%file=EIO", "openat=return=0", "mkdirat=return=3", "close=EIO"], true);
        assert_eq!(mechanism_of(&all[0], "openat"), Some("kprobe_multi"));
        assert_eq!(mechanism_of(&all[0], "renameat"), Some("lsm"));
        assert_eq!(mechanism_of(&all[1], "openat"), Some("kprobe_multi"));
        assert_eq!(conflict(&all), None);
        // Without a class, the cheaper hook comes first, unless it cannot return 0.
        let single = rules(&["close=return=3", "fsync=return=0"], true);
        assert_eq!(mechanism_of(&single[0], "close"), Some("fmod_ret_sys"));
        assert_eq!(mechanism_of(&single[1], "fsync"), Some("kprobe_multi"));
    }

    #[test]
    fn a_lie_without_a_mechanism_is_refused_with_the_reasons() {
        let spec = spec(&["write=EIO:3,return=1"]);
        let call = "write".parse().unwrap();
        let why = Choice::of(&spec).mechanisms(call, &Host { overrides: false }).unwrap_err().to_string();
        assert!(why.contains("lsm: a hook can let write fail, but not claim"), "{why}");
    }
}
