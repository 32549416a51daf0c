//! `kchaos plan`: what would be attached where.

use super::{exit, failure::Failure, faults::Faults, run, safety, target::Targets};
use crate::{
    host::{cgroup::Hierarchy, namespace::NetworkNamespace},
    plan,
    probe::kernel::Kernel,
    spec::Target,
};
use clap::Args;

/// Arguments of `kchaos plan`.
#[derive(Args, Debug)]
pub struct Plan {
    #[command(flatten)]
    targets: Targets,

    /// How long, as in 60s
    #[arg(long, value_name = "DURATION")]
    duration: Option<String>,

    #[command(flatten)]
    faults: Faults,
}

/// Runs the command.
pub fn run(arguments: &Plan, json: bool) -> Result<u8, Failure> {
    // Without a name, a fresh cgroup as `exec` makes it.
    let target = arguments.targets.named().unwrap_or(Target::Fresh);
    let spec = arguments.faults.spec(target, arguments.duration.as_deref())?;
    let hierarchy = Hierarchy::find()?;
    let mut processes = vec![];
    let target = match &spec.target {
        Target::Fresh => format!("a fresh cgroup below {}", hierarchy.own()?.display()),
        named => {
            let cgroup = hierarchy.resolve(named)?;
            processes = cgroup.processes();
            safety::check(&cgroup, &processes, &spec)?;
            let namespaces = NetworkNamespace::of_processes(&processes).len();
            format!(
                "cgroup {} (id {}, {} processes in {} network namespaces) and everything below it",
                cgroup.path().display(),
                cgroup.id(),
                processes.len(),
                namespaces
            )
        }
    };
    let plan = plan::make(&spec, &Kernel::default())?;
    let warnings = run::look_at_devices(&plan, &processes)?;
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
        println!(
            "{}",
            serde_json::json!({"event": "plan", "target": target, "rules": rules, "warnings": warnings})
        );
    } else {
        print!("{}", plan::explain::explain(&plan, &target, &warnings));
    }
    Ok(exit::DONE)
}
