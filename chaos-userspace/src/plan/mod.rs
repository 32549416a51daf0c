//! A spec resolved on this host: legal, bounded, with the mechanism chosen per fault. The only thing that can be
//! encoded and injected.

pub mod explain;
pub mod network;
pub mod syscall;

use crate::{
    inject::program::Kind,
    probe::{Abilities, Unable},
    spec::{Fault, Problems, Spec},
};
use chaos_common::limits::RULES_MAX;
use std::time::Duration;

/// One run, ready to be injected.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its id.
    pub run: String,
    /// What is inflicted, in order.
    pub rules: Vec<PlannedRule>,
    /// How long; `None` ends with the command.
    pub duration: Option<Duration>,
    /// Count only.
    pub observe: bool,
    /// Makes every random draw the same again.
    pub seed: Option<u64>,
    /// Whether the kernel can find a task's target by its ancestor (5.12); otherwise it walks the targets.
    pub task_ancestor: bool,
}

/// One fault with the hooks that carry it.
#[derive(Clone, Debug)]
pub struct PlannedRule {
    /// Shown in reports; unique within the plan.
    pub name: String,
    /// What was asked for.
    pub fault: Fault,
    /// The hooks.
    pub mechanisms: Vec<Mechanism>,
}

/// A kernel hook that carries a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// tcx link on every device of the target's network namespaces.
    Tcx,
    /// clsact filter on every such device: below 6.6.
    Clsact,
    /// Delay line between every such device and itself.
    Line,
    /// cgroup_skb link on the target.
    CgroupSkb,
    /// kprobe on a function, overriding its return value.
    Kprobe {
        /// The function.
        function: String,
    },
    /// BPF LSM hook.
    Lsm {
        /// Name of the hook.
        hook: &'static str,
        /// Its id in the call table.
        id: u32,
    },
}

impl Mechanism {
    /// Its short name, as in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Line => "line",
            Self::CgroupSkb => "cgroup_skb",
            Self::Kprobe { .. } => "kprobe",
            Self::Lsm { .. } => "lsm",
        }
    }

    /// The program that serves it.
    pub fn program(&self) -> Kind {
        match self {
            Self::Tcx | Self::Clsact | Self::Line => Kind::NetEgress,
            Self::CgroupSkb => Kind::NetIngress,
            Self::Kprobe { .. } => Kind::Kprobe,
            Self::Lsm { hook, id } => Kind::Lsm { hook, id: *id },
        }
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec cannot be meant.
    #[error(transparent)]
    Spec(#[from] Problems),
    /// This kernel cannot do it.
    #[error("this host cannot do what was asked for:\n{}", list(.0))]
    Unable(Vec<(String, Unable)>),
}

fn list(unable: &[(String, Unable)]) -> String {
    let lines: Vec<_> = unable.iter().map(|(fault, unable)| format!("  {fault}: {unable}")).collect();
    lines.join("\n")
}

/// Plans a spec. Nothing is attached to the target.
pub fn make(spec: &Spec, abilities: &impl Abilities) -> Result<Plan, Error> {
    let mut problems = Problems::default();
    if spec.faults.is_empty() {
        problems.0.push("no fault is asked for: add --loss 5% or --fail openat=EIO, for example".to_owned());
    }
    if spec.faults.len() > RULES_MAX {
        problems.0.push(format!("{} faults are above the limit of {RULES_MAX}", spec.faults.len()));
    }
    problems.or(|| ())?;
    let mut rules: Vec<PlannedRule> = vec![];
    let mut unable = vec![];
    for fault in &spec.faults {
        if (fault.is_exact() || (spec.seed.is_some() && !fault.is_per_flow())) && !abilities.exact_counting()
        {
            let why = "counting across CPUs (every, after, limit, seed) needs atomic operations that return a value";
            unable.push((fault.to_string(), Unable::new(why, "use Linux 5.12 or later, or leave them out")));
            continue;
        }
        let mechanisms = match fault {
            Fault::Network(fault) => network::mechanisms(fault, abilities),
            Fault::Syscall(fault) => {
                syscall::mechanism(fault, spec.mechanism, abilities).map(|one| vec![one])
            }
        };
        let base = match fault {
            Fault::Network(fault) => fault.effect.name().to_owned(),
            Fault::Syscall(fault) => format!("{}={}", fault.call.name(), fault.error.name()),
        };
        match mechanisms {
            Ok(mechanisms) => {
                let same = rules.iter().filter(|rule| rule.name.split('#').next() == Some(&base)).count();
                let name = if same == 0 { base } else { format!("{base}#{}", same + 1) };
                rules.push(PlannedRule { name, fault: fault.clone(), mechanisms });
            }
            Err(reason) => unable.push((fault.to_string(), reason)),
        }
    }
    if let Some(problem) = syscall::conflict(&rules) {
        return Err(Error::Spec(Problems(vec![problem])));
    }
    if unable.is_empty() {
        Ok(Plan {
            run: new_run_id(),
            rules,
            duration: spec.duration,
            observe: spec.observe,
            seed: spec.seed,
            task_ancestor: abilities.task_ancestor(),
        })
    } else {
        Err(Error::Unable(unable))
    }
}

/// A name that no other run of this host has: the pid and the time in base 36.
fn new_run_id() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |t| t.as_micros() as u64);
    let mut number = now ^ u64::from(std::process::id()).rotate_left(40);
    let mut id = String::new();
    for _ in 0..8 {
        let digit = (number % 36) as u32;
        id.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    id
}
