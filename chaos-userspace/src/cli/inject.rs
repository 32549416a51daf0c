//! `kchaos inject`: faults for a cgroup that exists.

use super::{
    Common, detach,
    events::Events,
    exit,
    failure::Failure,
    faults::Faults,
    run, safety,
    session::{self, Session, Watch},
    target::Targets,
};
use crate::{host::cgroup::Hierarchy, plan, probe::kernel::Kernel, report::event::Sink};
use clap::Args;
use std::ffi::OsString;

/// Arguments of `kchaos inject`.
#[derive(Args, Debug)]
pub struct Inject {
    #[command(flatten)]
    targets: Targets,

    /// How long, as in 60s; enforced in the kernel
    #[arg(long, value_name = "DURATION")]
    duration: String,

    /// Go on without this terminal once the faults are live, and print the run's id; --json=FILE keeps its events
    #[arg(long)]
    detach: bool,

    /// The process that goes on
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,

    /// Run a bystander in a sibling of our own cgroup and report what it felt
    #[arg(long)]
    bystander: bool,

    #[command(flatten)]
    events: Events,

    #[command(flatten)]
    faults: Faults,
}

/// Runs the command.
pub fn run(arguments: &Inject, words: &[OsString], common: &Common, sink: &mut Sink) -> Result<u8, Failure> {
    if arguments.detach {
        if arguments.events.are_on_stderr() {
            return Err(Failure::new(exit::USAGE, "--events -: a detached run has no terminal: name a file"));
        }
        return detach::start(words);
    }
    let target = arguments.targets.named().ok_or_else(|| {
        Failure::new(
            exit::USAGE,
            "no target is named: add --cgroup PATH, --unit NAME, --pid PID or --container ID",
        )
    })?;
    let spec = arguments.faults.spec(target, Some(&arguments.duration))?;
    run::check_privileges()?;
    let hierarchy = Hierarchy::find()?;
    let cgroup = hierarchy.resolve(&spec.target)?;
    let processes = cgroup.processes();
    let allowed = safety::check(&cgroup, &processes, &spec)?;
    let plan = plan::make(&spec, &Kernel::default())?;
    let watch =
        Watch { with_bystander: arguments.bystander, events: &arguments.events, verbose: common.verbose };
    run::warn_of_devices(&plan, &processes)?;
    session::block_on(async {
        let mut session = Session::open(&plan, &cgroup, false, watch, sink)?;
        session.allowed = allowed;
        if arguments.detached && !session.is_reachable() {
            return Err(Failure::new(exit::UNABLE, "a run that nobody can reach must not be detached"));
        }
        session.arm(None, sink)?;
        if arguments.detached {
            detach::leave(&plan.run, common.json.is_some()).map_err(Failure::internal)?;
        }
        session.next(sink).await?;
        Ok(session.finish(sink).await?.code)
    })
}
