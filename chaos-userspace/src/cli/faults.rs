//! Flags that say what is inflicted. They are kept as text here, so that all problems can be told at once.

use super::packets::PacketFlags;
use crate::spec::{self, Fault, Problems, Spec, Target, safety::Net, select::Select, syscall, units};
use clap::Args;
use std::collections::BTreeSet;

/// Flags shared by `exec`, `inject` and `plan`.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Faults {
    #[command(flatten)]
    packets: PacketFlags,

    /// Make a system call, or a class of them such as %file, fail or claim success (return=N), all or a share of its
    /// calls; repeat for more
    #[arg(
        long,
        value_name = "SYSCALL=RESULT[:WEIGHT][,...][@PERCENT][,every=N][,after=N][,limit=N][,when=FIRST[..LAST][+[STEP]]][,per=process][,comm=NAME[*]][,uid=USER][,path=PATH][,fd=KIND][,size>=N][,access=write][,remote=CIDR][,remote-port=PORT]",
        help_heading = "Faults"
    )]
    fail: Vec<String>,

    /// Hold a system call back, or a class of them such as %net, then let it go on; needs --mechanism spin, stop_continue,
    /// lsm_sleep or seccomp (kchaos help slow); repeat for more
    #[arg(
        long,
        value_name = "SYSCALL=TIME[@PERCENT][,jitter=TIME][,every=N][,...as for --fail]",
        help_heading = "Faults"
    )]
    slow: Vec<String>,

    /// Allow --fail for a call whose failure can make a process unusable, such as execve or munmap, or a target that a
    /// safety net keeps from being hit
    #[arg(long, value_name = "SYSCALL|NET", help_heading = "Faults")]
    allow: Vec<String>,

    /// Make every random draw the same again (for one flow or one thread)
    #[arg(long, value_name = "NUMBER", help_heading = "Faults")]
    seed: Option<u64>,

    /// Insist on one mechanism for system call faults
    #[arg(long, value_enum, help_heading = "Faults")]
    mechanism: Option<syscall::Mechanism>,

    /// Count what would be hit, but act on nothing
    #[arg(long, help_heading = "Faults")]
    observe: bool,
}

impl Faults {
    /// The spec these flags describe, for a fresh cgroup. `duration` is the text of `--duration`.
    pub fn spec(&self, duration: Option<&str>) -> Result<Spec, Problems> {
        let mut problems = Problems::default();
        let mut faults = vec![];
        faults.extend(
            self.packets.read(&mut problems).into_iter().map(|fault| Fault::Network(Box::new(fault))),
        );
        if faults.iter().any(|fault| fault.when().per_process) {
            problems.0.push("per=process: packets belong to sockets, not to processes".to_owned());
        }
        let (mut allow, mut allowed) = (vec![], BTreeSet::new());
        for text in &self.allow {
            match (text.parse::<Net>(), text.parse::<syscall::Call>()) {
                (Ok(net), _) => drop(allowed.insert(net)),
                (_, Ok(call)) => allow.push(call),
                (Err(no_net), Err(no_call)) => problems.0.push(format!("--allow: {no_call}; {no_net}")),
            }
        }
        // Before what fails: behind that there would be nothing left to hold back.
        for text in &self.slow {
            match syscall::Fault::slow(text) {
                Ok(mut fault) => {
                    // Whoever waits is not unusable.
                    if let syscall::Calls::Class { allowed, .. } = &mut fault.calls {
                        *allowed = syscall::Call::all().collect();
                    }
                    faults.push(Fault::Syscall(Box::new(fault)));
                }
                Err(more) => {
                    problems.0.extend(more.0.into_iter().map(|problem| format!("--slow: {problem}")))
                }
            }
        }
        for text in &self.fail {
            match text.parse::<syscall::Fault>() {
                Ok(mut fault) => {
                    let needs_allowing = match &mut fault.calls {
                        syscall::Calls::One(call) if !allow.contains(call) => call.danger(),
                        syscall::Calls::One(_) => None,
                        syscall::Calls::Class { allowed, .. } => {
                            allowed.clone_from(&allow);
                            None
                        }
                    };
                    let name = fault.calls.name();
                    match needs_allowing {
                        Some(why) => {
                            problems
                                .0
                                .push(format!("--fail {name}: {why}; if that is meant, add --allow {name}"));
                        }
                        None => faults.push(Fault::Syscall(Box::new(fault))),
                    }
                }
                Err(more) => {
                    problems.0.extend(more.0.into_iter().map(|problem| format!("--fail: {problem}")))
                }
            }
        }
        if self.mechanism.is_some() && self.fail.is_empty() && self.slow.is_empty() {
            problems.0.push(
                "--mechanism chooses how calls fail or wait: add --fail SYSCALL=ERRNO or --slow SYSCALL=TIME"
                    .to_owned(),
            );
        }
        let duration = duration
            .and_then(|text| problems.take(units::duration(text).map_err(|e| format!("--duration: {e}"))));
        // With a problem there may be fewer than were asked for.
        if problems.0.is_empty() {
            spec::check_count(&faults, &mut problems);
        }
        problems.or(|| Spec {
            targets: vec![Target::Fresh],
            select: Select::All,
            select_seed: None,
            faults,
            duration,
            allowed,
            observe: self.observe,
            seed: self.seed,
            mechanism: self.mechanism,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        let flags = Faults {
            packets: PacketFlags {
                loss: Some("5".into()),
                remote: vec!["10.0.0.0/40".into()],
                remote_port: vec!["70000".into()],
                ..PacketFlags::default()
            },
            fail: vec!["opnat=EIO".into(), "openat=EIOO@101%".into()],
            slow: vec!["openat=61s".into()],
            ..Faults::default()
        };
        let problems = flags.spec(Some("5")).unwrap_err();
        assert_eq!(problems.0.len(), 8, "{problems}");
    }

    #[test]
    fn dangerous_calls_need_to_be_allowed() {
        let flags = Faults { fail: vec!["execve=EIO".into()], ..Faults::default() };
        let problems = flags.spec(None).unwrap_err().to_string();
        assert!(problems.contains("--allow execve"), "{problems}");
        let flags = Faults { allow: vec!["execve".into()], ..flags };
        assert_eq!(flags.spec(None).unwrap().faults.len(), 1);
        let flags = Faults { allow: vec!["execv".into()], ..flags };
        assert!(flags.spec(None).unwrap_err().to_string().contains("did you mean execve"));
    }

    #[test]
    fn a_match_without_a_fault_is_refused() {
        let flags = Faults {
            packets: PacketFlags { remote: vec!["10.0.0.0/8".into()], ..PacketFlags::default() },
            ..Faults::default()
        };
        assert!(flags.spec(None).unwrap_err().to_string().contains("add a packet fault"));
        assert!(Faults::default().spec(None).unwrap_err().to_string().contains("no fault"));
    }
}
