//! Refuses targets that nobody means to hit, unless they are allowed by name.

use super::{exit, failure::Failure, target::Chosen};
use crate::{
    host::process,
    plan::safety::{self, Process, Scene},
    spec::{Spec, safety::Net},
};
use std::{collections::BTreeSet, path::Path};

/// What the nets catch among processes that have come into a target since, in words: nothing if it may be hit. `lineages` are
/// those of the processes for whose sake nets are spread.
pub fn caught_later(
    path: &Path,
    processes: &[i32],
    allowed: &BTreeSet<Net>,
    lineages: &[Vec<i32>],
) -> Option<String> {
    let processes = named(processes);
    let cgroups = [path];
    let caught = lineages.iter().flat_map(|lineage| {
        let scene =
            Scene { cgroups: &cgroups, matching: None, processes: &processes, lineage, duration: None };
        // What the path alone is caught for was allowed, or there were no run.
        safety::check(&scene, allowed).0
    });
    let reasons: BTreeSet<_> = caught.map(|caught| caught.to_string()).collect();
    (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join("; "))
}

fn named(processes: &[i32]) -> Vec<Process> {
    processes.iter().filter_map(|pid| Some(Process { pid: *pid, comm: process::comm(*pid)? })).collect()
}

/// Says which nets would have refused the run and are allowed, or refuses it, for all reasons at once.
///
/// `processes` are those of the targets, which are looked at once; who joins it later is hit with it.
pub fn check(chosen: &Chosen, processes: &[i32], spec: &Spec) -> Result<Vec<&'static str>, Failure> {
    check_for(chosen, processes, spec, &process::lineage())
}

/// The same for the sake of another process, with its ancestors.
pub fn check_for(
    chosen: &Chosen,
    processes: &[i32],
    spec: &Spec,
    lineage: &[i32],
) -> Result<Vec<&'static str>, Failure> {
    let processes = named(processes);
    let cgroups = chosen.whole();
    let scene = Scene {
        cgroups: &cgroups,
        matching: chosen.matching,
        processes: &processes,
        lineage,
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
