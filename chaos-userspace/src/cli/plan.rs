//! `kchaos plan`: what would be attached where.

use super::{exit, failure::Failure, faults::Faults};
use crate::{
    host::{cgroup::Hierarchy, namespace::NetworkNamespace},
    plan,
    probe::kernel::Kernel,
    spec::Target,
};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `kchaos plan`.
#[derive(Args, Debug)]
pub struct Plan {
    /// The target: a cgroup v2 directory, or its path below the mount; without it, a fresh cgroup as `exec` makes it
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// How long, as in 60s
    #[arg(long, value_name = "DURATION")]
    duration: Option<String>,

    #[command(flatten)]
    faults: Faults,
}

/// Runs the command.
pub fn run(arguments: &Plan, json: bool) -> Result<u8, Failure> {
    let target = arguments.cgroup.clone().map_or(Target::Fresh, Target::Cgroup);
    let spec = arguments.faults.spec(target, arguments.duration.as_deref())?;
    let hierarchy = Hierarchy::find()?;
    let target = match &spec.target {
        Target::Cgroup(path) => {
            let cgroup = hierarchy.open(path)?;
            let processes = cgroup.processes();
            let namespaces = NetworkNamespace::of_processes(&processes).len();
            format!(
                "cgroup {} (id {}, {} processes in {} network namespaces) and everything below it",
                cgroup.path().display(),
                cgroup.id(),
                processes.len(),
                namespaces
            )
        }
        Target::Fresh => format!("a fresh cgroup below {}", hierarchy.own()?.display()),
    };
    let plan = plan::make(&spec, &Kernel::default())?;
    if json {
        let rules: Vec<_> = plan
            .rules
            .iter()
            .map(|rule| {
                serde_json::json!({
                    "name": rule.name,
                    "fault": rule.fault.to_string(),
                    "calls": rule.calls.iter().map(|(call, _)| call.name()).collect::<Vec<_>>(),
                    "mechanisms": plan::Mechanism::names(&rule.mechanisms),
                    "limits": rule.limits,
                })
            })
            .collect();
        println!("{}", serde_json::json!({"event": "plan", "target": target, "rules": rules}));
    } else {
        print!("{}", plan::explain::explain(&plan, &target));
    }
    Ok(exit::DONE)
}
