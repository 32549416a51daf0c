//! `kchaos exec`: a command in a fresh cgroup under faults.

use super::{
    command::{self, Command, Gate},
    events::Events,
    exit,
    failure::Failure,
    faults::Faults,
    run,
    session::{self, News, Session, Watch},
    signals::Arrived,
    target::Chosen,
};
use crate::{
    host::cgroup::{self, Cgroup, Hierarchy},
    plan,
    probe::kernel::Kernel,
    report::event::Sink,
};
use clap::Args;
use nix::sys::signal::{self, SigSet};
use std::{ffi::OsString, io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

/// Arguments of `kchaos exec`.
#[derive(Args, Debug)]
pub struct Exec {
    #[command(flatten)]
    faults: Faults,

    /// End the faults after this time; the command goes on without them
    #[arg(long, value_name = "DURATION")]
    duration: Option<String>,

    /// Run a bystander in a sibling cgroup and report what it felt
    #[arg(long)]
    bystander: bool,

    #[command(flatten)]
    events: Events,

    /// Exit with 125 if nothing was injected
    #[arg(long)]
    require_hit: bool,

    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    command: Vec<OsString>,
}

/// Runs the command.
pub fn run(arguments: &Exec, verbose: u8, sink: &mut Sink) -> Result<u8, Failure> {
    let spec = arguments.faults.spec(arguments.duration.as_deref())?;
    run::check_privileges(spec.has_packets())?;
    let plan = plan::make(&spec, &Kernel::default())?;
    run::warn_of_devices(&plan, &[])?;
    let hierarchy = Hierarchy::find()?;
    let fresh = Fresh(Chosen::only(hierarchy.make_fresh(&plan.run)?));
    let cgroup = fresh.0.first()?;
    check_joinable(cgroup)?;
    let watch = Watch { with_bystander: arguments.bystander, events: &arguments.events, verbose };
    session::block_on(async {
        let mut session = Session::open(&plan, &fresh.0, true, watch, sink)?;
        let mask = session.mask_before();
        let filter = session.filter();
        let mut receive = |listener| session.receive(listener);
        let gate = filter.map(|filter| Gate { filter, receive: &mut receive });
        let mut child = spawn(&arguments.command, cgroup, mask, gate)?;
        session.arm(Some(child.pid().as_raw() as u32), sink)?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(Failure::internal)?,
                news = session.next(sink) => match news? {
                    News::Signal(arrived) => pass_on(arrived, &child),
                    // The command goes on without faults.
                    News::Over => session.close(),
                }
            }
        };
        session.ending.exit_status = status.code();
        session.ending.signal = status.signal();
        session.close();
        // The command is gone, but the kernel may still be counting it out of its cgroup.
        cgroup::wait_empty(cgroup.path(), Some(Duration::from_millis(20)));
        let summary = session.finish(sink).await?;
        Ok(exec_status(status, summary.code, arguments.require_hit))
    })
}

/// The command's own status, unless kchaos has something worse to tell.
fn exec_status(status: ExitStatus, code: u8, require_hit: bool) -> u8 {
    let of_command = match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => exit::SIGNAL_BASE + signal as u8,
        (None, None) => exit::INTERNAL,
    };
    match code {
        exit::ROLLBACK_INCOMPLETE => exit::EXEC_FAILED,
        exit::NOTHING_INJECTED if require_hit => exit::EXEC_FAILED,
        _ => of_command,
    }
}

/// The fresh cgroup before an engine owns it: removed on every way out. With processes in it, that fails, and the
/// guardian removes it later.
struct Fresh(Chosen);

impl Drop for Fresh {
    fn drop(&mut self) {
        for cgroup in &self.0.cgroups {
            let _ = cgroup::remove(cgroup.path());
        }
    }
}

/// Finds out whether a process can join before the command is at stake: below a threaded cgroup only threads can.
fn check_joinable(cgroup: &Cgroup) -> Result<(), Failure> {
    let kind = std::fs::read_to_string(cgroup.path().join("cgroup.type")).map_err(Failure::internal)?;
    if kind.trim() == "domain" {
        return Ok(());
    }
    let path = cgroup.path().display();
    let message =
        format!("no process can join {path} ({}): start kchaos outside of threaded cgroups", kind.trim());
    Err(Failure::new(exit::UNABLE, message))
}

fn spawn(
    words: &[OsString],
    cgroup: &Cgroup,
    signal_mask: SigSet,
    gate: Option<Gate<'_>>,
) -> Result<Command, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::new(exit::USAGE, "no command is given: write it behind --"));
    };
    Command::start(program, arguments, cgroup, &signal_mask, gate).map_err(|error| {
        let error = match error {
            command::Error::Exec(error) => error,
            other => return Failure::new(exit::UNABLE, other.to_string()),
        };
        let shown = program.to_string_lossy();
        let (status, why) = if error.kind() == io::ErrorKind::NotFound {
            (exit::EXEC_NOT_FOUND, "was not found")
        } else {
            (exit::EXEC_CANNOT_RUN, "cannot be run")
        };
        let mut failure = Failure::new(exit::USAGE, format!("the command '{shown}' {why}: {error}"));
        failure.exec_status = Some(status);
        failure
    })
}

/// The terminal has told the command itself.
fn pass_on(arrived: Arrived, child: &Command) {
    if !arrived.from_terminal {
        let _ = signal::kill(child.pid(), arrived.signal);
    }
}
