//! `kchaos inject`: faults for a cgroup that exists.

use super::{
    failure::Failure,
    faults::Faults,
    run,
    session::{self, Session},
};
use crate::{host::cgroup::Hierarchy, plan, probe::kernel::Kernel, report::event::Sink, spec::Target};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `kchaos inject`.
#[derive(Args, Debug)]
pub struct Inject {
    /// The target: a cgroup v2 directory, or its path below the mount
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,

    /// How long, as in 60s; enforced in the kernel
    #[arg(long, value_name = "DURATION")]
    duration: String,

    /// Run a bystander in a sibling of our own cgroup and report what it felt
    #[arg(long)]
    bystander: bool,

    #[command(flatten)]
    faults: Faults,
}

/// Runs the command.
pub fn run(arguments: &Inject, verbose: u8, sink: &mut Sink) -> Result<u8, Failure> {
    let spec = arguments.faults.spec(Target::Cgroup(arguments.cgroup.clone()), Some(&arguments.duration))?;
    run::check_privileges()?;
    let cgroup = Hierarchy::find()?.open(&arguments.cgroup)?;
    let plan = plan::make(&spec, &Kernel::default())?;
    session::block_on(async {
        let mut session = Session::open(&plan, &cgroup, false, arguments.bystander, verbose)?;
        session.arm(None, sink)?;
        session.next(sink).await?;
        Ok(session.finish(sink).await?.code)
    })
}
