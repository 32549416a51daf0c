//! Flags that say who is hit, and who that is.

use super::{exit, failure::Failure};
use crate::{
    host::{
        cgroup::{Cgroup, Hierarchy},
        process,
    },
    plan::{explain::paths, selection},
    spec::{
        Problems, Spec,
        pod::{PodLabels, PodName},
        safety::Net,
        select::Select,
        target::{self, Container, Target, Unit},
    },
};
use clap::Args;
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Flags shared by `inject` and `plan`.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// A cgroup v2 directory, or its path below the mount, with everything below it; with *, ?, [a-z] and ** all that fit.
    /// One that is removed and made again is hit again. Targets of all kinds can be repeated and mixed
    #[arg(long, value_name = "PATH|PATTERN", value_parser = target::cgroup_path, help_heading = "Target")]
    cgroup: Vec<PathBuf>,

    /// The cgroup of a systemd unit: web.service, system-web.slice; web stands for web.service, web@ for all instances of
    /// the template, 'web-*' for all that fit. A restarted unit is hit again
    #[arg(long, value_name = "NAME|PATTERN", help_heading = "Target")]
    unit: Vec<Unit>,

    /// The cgroup that this process is in, with all its other processes. Not followed if it is made again
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Target")]
    pid: Vec<u32>,

    /// Of the cgroup of --pid only that process, and what descends from it. For system calls: packets know no process
    #[arg(long, requires = "pid", help_heading = "Target")]
    pid_only: bool,

    /// The cgroup of a container of Docker, containerd, CRI-O or Podman: its id, the beginning of it, or its name. A
    /// restarted container is hit again
    #[arg(long, value_name = "NAME|ID", help_heading = "Target")]
    container: Vec<Container>,

    /// A pod of this node, with all its containers, also those that are started again; or only one of them
    #[arg(long, value_name = "NAMESPACE/NAME[:CONTAINER]", help_heading = "Target")]
    pod: Vec<PodName>,

    /// All pods of this node with these labels, as app=web,tier=front; or only one container of each
    #[arg(long, value_name = "KEY=VALUE,...[:CONTAINER]", help_heading = "Target")]
    pod_label: Vec<PodLabels>,

    /// How many of the targets are hit: all, one, 3, 30% or random-max:30%; which ones is drawn
    #[arg(long, value_name = "HOW MANY", help_heading = "Target")]
    select: Option<Select>,

    /// Draw the same targets again; without it --seed does
    #[arg(long, value_name = "NUMBER", requires = "select", help_heading = "Target")]
    select_seed: Option<u64>,
}

impl Targets {
    /// All that are named.
    pub fn named(&self) -> Vec<Target> {
        let Self { cgroup, unit, pid, pid_only, container, pod, pod_label, .. } = self.clone();
        let process = if pid_only { Target::Tree } else { Target::Process };
        (cgroup.into_iter().map(Target::Cgroup))
            .chain(unit.into_iter().map(Target::Unit))
            .chain(pid.into_iter().map(process))
            .chain(container.into_iter().map(Target::Container))
            .chain(pod.into_iter().map(|PodName(pods)| Target::Pods(pods)))
            .chain(pod_label.into_iter().map(|PodLabels(pods)| Target::Pods(pods)))
            .collect()
    }

    /// What draws the same of them again.
    pub fn select_seed(&self) -> Option<u64> {
        self.select_seed
    }

    /// How many of them are hit.
    pub fn select(&self) -> Result<Select, Problems> {
        match self.select {
            Some(_) if self.named().is_empty() => Err(Problems(vec![
                "--select chooses among targets: name them, as with --cgroup 'web-*'".to_owned(),
            ])),
            select => Ok(select.unwrap_or_default()),
        }
    }
}

/// Who is hit.
#[derive(Debug)]
pub struct Chosen {
    /// Those that are, by path; none of them lies below another one.
    pub cgroups: Vec<Cgroup>,
    /// Those that fit as well.
    pub spared: Vec<PathBuf>,
    /// If a pattern fits several: how many there are to choose from.
    pub matching: Option<usize>,
    /// Safety nets that may be passed.
    pub allowed: BTreeSet<Net>,
    /// If not all of them is hit: the processes that are, with what they start, and when they began.
    roots: Vec<(u32, Option<u64>)>,
}

impl Chosen {
    /// One and no other.
    pub fn only(cgroup: Cgroup) -> Self {
        Self {
            cgroups: vec![cgroup],
            spared: vec![],
            matching: None,
            allowed: BTreeSet::new(),
            roots: vec![],
        }
    }

    /// Looks for the targets of a spec and chooses among them.
    pub fn find(hierarchy: &Hierarchy, spec: &Spec) -> Result<Self, Failure> {
        // Before their cgroups are looked for, which are those of the same processes if they are still there in the end.
        let roots = target::trees(&spec.targets).into_iter().map(|pid| (pid, process::start(pid as i32)));
        let roots = roots.collect();
        let candidates = hierarchy.resolve_all(&spec.targets).map_err(Failure::from)?;
        let name = |cgroup: &Cgroup| {
            let below = cgroup.path().strip_prefix(hierarchy.mount()).unwrap_or(cgroup.path());
            below.as_os_str().as_bytes().to_vec()
        };
        let names: Vec<_> = candidates.iter().map(name).collect();
        let names: Vec<_> = names.iter().map(Vec::as_slice).collect();
        // Random keys are what a hasher of the standard library starts with.
        let seed =
            spec.select_seed.or(spec.seed).unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let is_chosen = selection::choose(&names, spec.select, seed)
            .map_err(|problem| Failure::new(exit::USAGE, problem))?;
        let has_choice = candidates.len() > 1 && spec.targets.iter().any(Target::is_pattern);
        let mut chosen = Self {
            cgroups: vec![],
            spared: vec![],
            matching: has_choice.then_some(candidates.len()),
            allowed: spec.allowed.clone(),
            roots,
        };
        for (cgroup, is_chosen) in candidates.into_iter().zip(is_chosen) {
            if is_chosen {
                chosen.cgroups.push(cgroup);
            } else {
                chosen.spared.push(cgroup.path().to_path_buf());
            }
        }
        Ok(chosen)
    }

    /// The first of them; there is always one.
    pub fn first(&self) -> Result<&Cgroup, Failure> {
        self.cgroups.first().ok_or_else(|| Failure::internal("no target is left"))
    }

    /// Their paths, for people.
    pub fn in_words(&self) -> String {
        let all: Vec<_> = self.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf()).collect();
        match &self.trees_in_words() {
            Some(trees) => format!("{trees}, in {}", paths(&all)),
            None => paths(&all),
        }
    }

    /// Who is hit of them, if it is not all that is in them.
    pub fn trees_in_words(&self) -> Option<String> {
        let pids: Vec<_> = self.roots.iter().map(|(pid, _)| pid.to_string()).collect();
        match &pids[..] {
            [] => None,
            [pid] => Some(format!("process {pid} and what it starts")),
            _ => Some(format!("processes {} and what they start", pids.join(", "))),
        }
    }

    /// Their paths, where all that is in them is hit.
    pub fn whole(&self) -> Vec<&Path> {
        if self.roots.is_empty() { self.cgroups.iter().map(Cgroup::path).collect() } else { vec![] }
    }

    /// Processes that are hit.
    pub fn processes(&self) -> Vec<i32> {
        if self.roots.is_empty() {
            return self.cgroups.iter().flat_map(Cgroup::processes).collect();
        }
        let roots: Vec<_> = self.roots.iter().map(|(pid, _)| *pid).collect();
        process::trees(&roots).into_iter().collect()
    }

    /// Refuses those that have gone, or whose name another one has taken.
    pub fn check_current(&self) -> Result<(), Failure> {
        let ended = self.roots.iter().find(|(pid, start)| process::start(*pid as i32) != *start);
        if let Some((pid, _)) = ended {
            return Err(Failure::new(exit::USAGE, format!("process {pid} ended while the run was set up")));
        }
        let gone: Vec<_> = self.cgroups.iter().filter(|cgroup| !cgroup.is_current()).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let gone: Vec<_> = gone.iter().map(|cgroup| cgroup.path().to_path_buf()).collect();
        let names = paths(&gone);
        Err(Failure::new(
            exit::USAGE,
            format!("{names}: the target went while the run was set up: start it again"),
        ))
    }
}
