//! `kchaos inject`: faults for a cgroup that exists.

use super::{
    Common, console, detach,
    events::Events,
    exit,
    failure::Failure,
    faults::Faults,
    join, run, safety,
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

    /// Use an engine of its own, also where one hosts runs on this machine (kchaos engine) and could host this one
    #[arg(long)]
    own: bool,

    /// Run a bystander in a sibling of our own cgroup and report what it felt
    #[arg(long)]
    bystander: bool,

    #[command(flatten)]
    events: Events,

    #[command(flatten)]
    faults: Faults,
}

impl Inject {
    /// What is to be done, to whom.
    pub(super) fn spec(&self) -> Result<Spec, Failure> {
        let targets = self.targets.named();
        if targets.is_empty() {
            let message = "no target is named: add --cgroup PATH, --unit NAME, --pid PID, --container NAME or --pod NAMESPACE/NAME";
            return Err(Failure::new(exit::USAGE, message));
        }
        let select = self.targets.select()?;
        let select_seed = self.targets.select_seed();
        Ok(Spec { targets, select, select_seed, ..self.faults.spec(Some(&self.duration))? })
    }

    /// What is asked for that an engine does for a run of its own alone, if there is something.
    pub(super) fn alone(&self) -> Option<&'static str> {
        self.events.are_asked_for().then_some("single events (--events) are recorded for one run")
    }

    /// Whether it goes on without who has started it.
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Whether somebody is to feel nothing beside.
    pub(super) fn with_bystander(&self) -> bool {
        self.bystander
    }
}

/// Runs the command.
pub fn run(arguments: &Inject, words: &[OsString], common: &Common, sink: &mut Sink) -> Result<u8, Failure> {
    if arguments.detach {
        if arguments.events.are_on_stderr() {
            return Err(Failure::new(exit::USAGE, "--events -: a detached run has no terminal: name a file"));
        }
        return detach::start(words);
    }
    let spec = arguments.spec()?;
    run::check_privileges(spec.has_packets())?;
    let hierarchy = Hierarchy::find()?;
    let chosen = Chosen::find(&hierarchy, &spec)?;
    let processes = chosen.processes();
    let allowed = safety::check(&chosen, &processes, &spec)?;
    let plan = plan::make(&spec, &Kernel::default())?;
    let watch =
        Watch { with_bystander: arguments.bystander, events: &arguments.events, verbose: common.verbose };
    run::warn_of_devices(&plan, &processes)?;
    let host = if arguments.own { None } else { join::find() };
    match (host, arguments.alone().or_else(|| plan.alone())) {
        (Some(host), None) => {
            return join::run(host, words, arguments.detached, common.json.is_some(), sink);
        }
        (Some(host), Some(alone)) => {
            let pid = host.pid;
            let told = format!("kchaos: an engine of its own, beside that of process {pid}: {alone}\n");
            console::tell(sink, &told, false);
        }
        (None, _) => {}
    }
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
