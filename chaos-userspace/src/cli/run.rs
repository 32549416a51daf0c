//! The two ends of every run: what is checked before, and the summary.

use super::{console, exit, failure::Failure, target::Chosen};
use crate::{
    host::{
        cgroup::{Cgroup, Hierarchy},
        privilege,
    },
    inject::engine::{Closed, Options, Recording},
    observe::{bystander::Bystander, recorder::Recorder},
    plan::{
        self, Plan,
        sockets::{Escapes, ForeignSockets},
    },
    report::{
        event::{Event, Sink},
        restarts::Restarts,
        summary::{EventCount, RuleSummary, Summary, Undone},
    },
};
use std::path::Path;

/// Refuses early, with the capability that is missing; those for faults of packets among them if there are such.
pub fn check_privileges(packets: bool) -> Result<(), Failure> {
    let missing = privilege::missing(packets);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(exit::UNABLE, format!("missing {}: run as root", missing.join(", "))))
    }
}

/// Refuses devices of these processes' network namespaces that the plan cannot serve; returns what it changes beside what
/// was asked for.
pub fn look_at_devices(plan: &Plan, processes: &[i32]) -> Result<Vec<String>, Failure> {
    let findings = plan::devices::look(plan, processes).map_err(Failure::internal)?;
    if findings.unable.is_empty() {
        Ok(findings.warnings)
    } else {
        Err(plan::Error::Unable(findings.unable).into())
    }
}

/// The same at the start of a run, where warnings are told at once.
pub fn warn_of_devices(plan: &Plan, processes: &[i32]) -> Result<(), Failure> {
    for warning in look_at_devices(plan, processes)? {
        log::warn!("{warning}");
    }
    Ok(())
}

/// Looks for traffic of the targets that the plan's faults do not reach.
pub fn look_at_sockets(plan: &Plan, chosen: &Chosen, hierarchy: &Hierarchy) -> Escapes {
    if plan::sockets::matter(plan) {
        plan::sockets::look(hierarchy, &chosen.cgroups, &chosen.processes())
    } else {
        Escapes::default()
    }
}

/// The same at the start of a run, where sockets that the target did not create are told at once.
pub fn warn_of_sockets(plan: &Plan, chosen: &Chosen, hierarchy: &Hierarchy) -> ForeignSockets {
    let escapes = look_at_sockets(plan, chosen, hierarchy);
    for problem in escapes.problems {
        log::warn!("what the target did not create itself cannot be told: {problem}");
    }
    if escapes.foreign.any() {
        log::warn!("{}", escapes.foreign);
    }
    escapes.foreign
}

/// How the engine is run. Messages of the kernel programs cost the target time, so only `-vv` asks for them.
pub fn options(made_cgroup: bool, verbose: u8, recording: Option<Recording>) -> Options<'static> {
    let log_level = if verbose >= 2 { log::Level::Debug as u8 } else { 0 };
    Options { made_cgroup, log_level, recording, ..Options::default() }
}

/// How the watched thing ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    /// Exit status of the command.
    pub exit_status: Option<i32>,
    /// Signal that ended the command.
    pub signal: Option<i32>,
    /// Whether all runs of the host were halted.
    pub halted: bool,
    /// Whether a condition of its experiment was met.
    pub aborted: bool,
    /// Signal that ended the run itself.
    pub interrupted_by: Option<i32>,
}

/// What there is to tell of a run.
pub struct Account<'a> {
    /// What was to be done.
    pub plan: &'a Plan,
    /// To whom.
    pub chosen: &'a Chosen,
    /// Those of them that went, and came again.
    pub restarted: Vec<Restarts>,
    /// Safety nets that would have refused it.
    pub allowed: Vec<&'static str>,
    /// Sockets that they use and did not create.
    pub foreign_sockets: ForeignSockets,
    /// What the engine left.
    pub closed: Closed,
    /// Who was to feel nothing.
    pub bystander: Option<Bystander>,
    /// Who writes single events.
    pub recorder: Option<Recorder>,
    /// How it ended.
    pub ending: Ending,
}

/// Finishes the rollback, tells the summary and returns it.
pub fn summarize(account: Account<'_>, sink: &mut Sink) -> Summary {
    let Account { plan, chosen, restarted, allowed, foreign_sockets, closed, bystander, recorder, ending } =
        account;
    let mut problems = closed.problems.clone();
    let mut rules = RuleSummary::all(plan, &closed.counters, &closed.missed, &closed.held);
    for (sum, rule) in rules.iter_mut().zip(&plan.rules) {
        sum.note_overtaken(rule, &closed.overtaken);
    }
    let (programs, took, queue) = (closed.programs_left, closed.took, closed.queue);
    let (events_lost, left_out) = (closed.events_lost, closed.left_out);
    let escaped = closed.escaped.clone();
    let cgroup_removed = closed.finish();
    let bystander = bystander.and_then(|bystander| {
        bystander
            .finish()
            .map_err(|error| problems.push(format!("the bystander did not answer: {error}")))
            .ok()
    });
    let events = recorder.map(|recorder| EventCount::new(recorder.finish(), events_lost));
    let hit: Vec<_> = chosen.cgroups.iter().map(Cgroup::path).map(Path::to_path_buf).collect();
    let mut summary = Summary {
        run: plan.run.clone(),
        code: exit::DONE,
        outcome: "",
        exit_status: ending.exit_status,
        signal: ending.signal,
        cgroup: hit.first().cloned().unwrap_or_default(),
        chosen: hit,
        spared: chosen.spared.clone(),
        allowed,
        foreign_sockets,
        restarted,
        left_out,
        rules,
        queue,
        events,
        unanswered: escaped.as_ref().map(|escaped| escaped.unanswered.clone()).unwrap_or_default(),
        escaped: escaped.map(|escaped| escaped.packets),
        bystander,
        undone: Undone { links: 0, programs, cgroup_removed, took_ms: took.as_secs_f64() * 1e3, problems },
    };
    summary.code = if !summary.undone.problems.is_empty() {
        exit::ROLLBACK_INCOMPLETE
    } else if ending.halted || ending.aborted {
        exit::ABORTED
    } else if let Some(signal) = ending.interrupted_by {
        exit::SIGNAL_BASE + signal as u8
    } else if summary.injected() == 0 && !plan.observe {
        exit::NOTHING_INJECTED
    } else {
        exit::DONE
    };
    summary.outcome = if ending.aborted && !ending.halted && summary.code == exit::ABORTED {
        "aborted"
    } else {
        exit::name(summary.code)
    };
    console::tell(sink, &summary.text(), true);
    sink.write(&Event::Summary(&summary));
    summary
}
