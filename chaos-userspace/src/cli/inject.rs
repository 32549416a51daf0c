//! `kchaos inject`: faults for a cgroup that exists.

use super::{
    Common, detach,
    events::Events,
    exit,
    failure::Failure,
    faults::Faults,
    run, safety,
    session::{self, Session, Watch},
    target::{Chosen, Targets},
};
use crate::{host::cgroup::Hierarchy, plan, probe::kernel::Kernel, report::event::Sink, spec::Spec};
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
    let targets = arguments.targets.named();
    if targets.is_empty() {
        let message = "no target is named: add --cgroup PATH, --unit NAME, --pid PID, --container NAME or --pod NAMESPACE/NAME";
        return Err(Failure::new(exit::USAGE, message));
    }
    let select = arguments.targets.select()?;
    let select_seed = arguments.targets.select_seed();
    let spec = Spec { targets, select, select_seed, ..arguments.faults.spec(Some(&arguments.duration))? };
    run::check_privileges()?;
    let hierarchy = Hierarchy::find()?;
    let chosen = Chosen::find(&hierarchy, &spec)?;
    let processes = chosen.processes();
    let allowed = safety::check(&chosen, &processes, &spec)?;
    let plan = plan::make(&spec, &Kernel::default())?;
    let watch =
        Watch { with_bystander: arguments.bystander, events: &arguments.events, verbose: common.verbose };
    run::warn_of_devices(&plan, &processes)?;
    session::block_on(async {
        let mut session = Session::open(&plan, &chosen, false, watch, sink)?;
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
