//! Refuses targets that nobody means to hit, unless they are allowed by name.

use super::{exit, failure::Failure, target::Chosen};
use crate::{
    host::{cgroup::Cgroup, process},
    plan::safety::{self, Process, Scene},
    spec::Spec,
};

/// Says which nets would have refused the run and are allowed, or refuses it, for all reasons at once.
///
/// `processes` are those of the targets, which are looked at once; who joins it later is hit with it.
pub fn check(chosen: &Chosen, processes: &[i32], spec: &Spec) -> Result<Vec<&'static str>, Failure> {
    let named = |pid: &i32| Some(Process { pid: *pid, comm: process::comm(*pid)? });
    let processes: Vec<_> = processes.iter().filter_map(named).collect();
    let lineage = process::lineage();
    let cgroups: Vec<_> = chosen.cgroups.iter().map(Cgroup::path).collect();
    let scene = Scene {
        cgroups: &cgroups,
        matching: chosen.matching,
        processes: &processes,
        lineage: &lineage,
        duration: spec.duration,
    };
    let (refused, allowed) = safety::check(&scene, &spec.allowed);
    if refused.is_empty() {
        Ok(allowed.iter().map(|caught| caught.net.name()).collect())
    } else {
        let reasons: Vec<_> = refused.iter().map(ToString::to_string).collect();
        Err(Failure::new(exit::REFUSED, reasons.join("\n")))
    }
}
