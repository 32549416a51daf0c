//! `kchaos inject`: faults for a cgroup that exists.

use super::{
    exit,
    failure::Failure,
    faults::Faults,
    run::{self, Ending},
    signals::Signals,
};
use crate::{
    host::cgroup::Hierarchy,
    inject::engine::{Engine, Placement},
    observe::bystander::Bystander,
    plan,
    probe::kernel::Kernel,
    report::event::{Event, Sink},
    spec::Target,
};
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
    let bystander = arguments.bystander.then(|| Bystander::start(&plan.run)).transpose()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    runtime
        .block_on(async {
            // Before any thread is started, so that the signals wait for us on all of them.
            let mut signals = Signals::take().map_err(Failure::internal)?;
            let placement = Placement { plan: &plan, cgroup: &cgroup, await_exec: false };
            let mut engine = Engine::open(&[placement], run::options(false, verbose))?;
            let kernel_log = run::forward_kernel_log(&engine, verbose);
            engine.arm(0);
            let mut news = run::watch_devices(&mut engine)?;
            for attachment in engine.attachments() {
                log::info!("attached {attachment}");
            }
            sink.write(&Event::Armed { run: &plan.run, pid: None, cgroup: cgroup.path() });
            let mut ending = Ending::default();
            let over = tokio::time::sleep(plan.duration.unwrap_or_default());
            tokio::pin!(over);
            loop {
                tokio::select! {
                    arrived = signals.next() => {
                        ending.interrupted_by = Some(arrived.map_err(Failure::internal)?.signal as i32);
                        break;
                    }
                    Some(()) = news.recv() => run::follow_devices(&mut engine),
                    () = &mut over => break,
                }
            }
            engine.disarm(0);
            let closed = engine.close();
            if let Some(kernel_log) = kernel_log {
                kernel_log.finish().await;
            }
            let summary = run::summarize(&plan, cgroup.path(), closed, bystander, ending, sink);
            Ok(summary.code)
        })
        .inspect(|code| log::debug!("code {code} ({})", exit::name(*code)))
}
