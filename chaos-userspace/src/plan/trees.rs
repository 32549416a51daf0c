//! Processes that are hit without the others of their cgroups.

use super::Error;
use crate::{
    probe::{Abilities, Unable},
    spec::{
        Fault, Problems, Spec,
        select::Select,
        syscall::Mechanism,
        target::{Target, trees},
    },
};

/// The processes, if that is what is asked for and can be had.
pub fn check(spec: &Spec, abilities: &impl Abilities) -> Result<Vec<u32>, Error> {
    let trees = trees(&spec.targets);
    if trees.is_empty() {
        return Ok(trees);
    }
    let mut problems = Problems::default();
    for fault in &spec.faults {
        if matches!(fault, Fault::Network(_)) {
            problems.0.push(format!(
                "{fault}: a packet belongs to a socket, and a socket to a cgroup, not to a process: leave --pid-only out to hit \
                 the whole cgroup, or start the process by kchaos exec, in a cgroup of its own"
            ));
        }
    }
    if let Some(other) = spec.targets.iter().find(|target| !matches!(target, Target::Tree(_))) {
        problems.0.push(format!(
            "{other}: with --pid-only, processes are hit and not whole cgroups: ask for it in another run"
        ));
    }
    if spec.select != Select::All {
        problems.0.push("--select chooses among cgroups: leave it out with --pid-only".to_owned());
    }
    if spec.mechanism == Some(Mechanism::Seccomp) {
        problems.0.push(
            "seccomp notifies of the calls of a command of kchaos exec alone: leave --pid-only out"
                .to_owned(),
        );
    }
    problems.or(|| ())?;
    abilities
        .process_trees()
        .map_err(|missing: Unable| Error::Unable(vec![("--pid-only".to_owned(), missing)]))?;
    Ok(trees)
}
