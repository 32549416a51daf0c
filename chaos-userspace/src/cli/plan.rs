//! `kchaos plan`: what would be attached where.

use super::{
    console, exit,
    failure::Failure,
    faults::Faults,
    file, join, run, safety,
    target::{Chosen, Targets},
};
use crate::{
    experiment::{Experiment, schedule::Dose, timetable::Turn},
    host::{
        cgroup::{Cgroup, Hierarchy},
        namespace::NetworkNamespace,
    },
    plan::{self, explain::paths},
    probe::kernel::Kernel,
    spec::{Spec, Target, select::Select},
};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `kchaos plan`.
#[derive(Args, Debug)]
pub struct Plan {
    /// An experiment file, in place of flags; - is standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

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
    let (spec, experiment) = match &arguments.file {
        None => (spec_of_flags(arguments)?, None),
        Some(file) => {
            if arguments.targets != Targets::default()
                || arguments.faults != Faults::default()
                || arguments.duration.is_some()
            {
                let message = format!("{}: the file says all: leave the flags out", file.display());
                return Err(Failure::new(exit::USAGE, message));
            }
            let experiment = file::read(file)?;
            (experiment.spec.clone(), Some(experiment))
        }
    };
    let hierarchy = Hierarchy::find()?;
    let (mut processes, mut chosen) = (vec![], None);
    let target = if spec.targets == [Target::Fresh] {
        format!("a fresh cgroup below {}", hierarchy.own()?.display())
    } else {
        let found = Chosen::find(&hierarchy, &spec)?;
        processes = found.processes();
        safety::check(&found, &processes, &spec)?;
        let target = in_words(&found, &processes, &spec);
        chosen = Some(found);
        target
    };
    let kernel = Kernel::default();
    let plan = plan::make(&spec, &kernel)?;
    let plan = match &experiment {
        Some(experiment) => experiment.named(plan),
        None => plan,
    };
    let watched = experiment.iter().flat_map(Experiment::watched_calls);
    let watched = plan::watch::watch(watched, &plan, &kernel)?;
    let mut warnings = run::look_at_devices(&plan, &processes)?;
    let escapes =
        chosen.as_ref().map(|found| run::look_at_sockets(&plan, found, &hierarchy)).unwrap_or_default();
    warnings.extend(escapes.foreign.any().then(|| escapes.foreign.to_string()));
    warnings.extend(escapes.problems);
    // Commands and experiments have engines of their own.
    let engine = if chosen.is_some() && experiment.is_none() { join::find() } else { None };
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
        console::out(format_args!(
            "{}",
            serde_json::json!({
                "event": "plan",
                "target": target,
                "chosen": chosen.iter().flat_map(|found| &found.cgroups).map(Cgroup::path).collect::<Vec<_>>(),
                "spared": chosen.iter().flat_map(|found| &found.spared).collect::<Vec<_>>(),
                "rules": rules,
                "warnings": warnings,
                "foreign_sockets": escapes.foreign,
                "bypasses": escapes.bypasses,
                "engine": engine.as_ref().filter(|_| plan.alone().is_none()).map(|host| host.pid),
                "schedule": experiment.iter().flat_map(|experiment| experiment.courses()).collect::<Vec<_>>(),
                "timetable": experiment.as_ref().and_then(timetable),
                "steady_state": experiment.iter().flat_map(|experiment| experiment.promises()).collect::<Vec<_>>(),
                "watched": watched.iter().map(plan::watch::Watched::functions).collect::<serde_json::Map<_, _>>(),
                "abort": experiment.iter().flat_map(|experiment| experiment.ends()).collect::<Vec<_>>(),
            })
        ));
    } else {
        if let Some(experiment) = &experiment {
            console::out(format_args!("Hypothesis: {}", experiment.hypothesis));
        }
        console::out_text(&plan::explain::explain(&plan, &target, &warnings));
        for bypass in &escapes.bypasses {
            console::out(format_args!("Not hit: {bypass}."));
        }
        if let Some(host) = &engine {
            let pid = host.pid;
            match plan.alone() {
                None => console::out(format_args!(
                    "Engine: inject joins that of process {pid}, or has its own with --own"
                )),
                Some(alone) => console::out(format_args!(
                    "Engine: one of its own, beside that of process {pid}: {alone}"
                )),
            }
        }
        if let Some(experiment) = &experiment {
            console::out_text(&(experiment.explain() + &plan::watch::explain(&watched)));
        }
    }
    Ok(exit::DONE)
}

/// The changes that are known beforehand: when, which fault, and its share in percent.
fn timetable(experiment: &Experiment) -> Option<serde_json::Value> {
    let turn = |turn: &Turn| {
        let own =
            experiment.spec.faults.get(turn.fault).map_or(0.0, |fault| fault.when().probability.percent());
        let share = match turn.dose {
            Dose::Rest => 0.0,
            Dose::Own => own,
            Dose::Share(share) => share.percent(),
        };
        let fault = experiment.fault_names.get(turn.fault);
        serde_json::json!({"at_s": turn.at.as_secs_f64(), "fault": fault, "share_percent": share})
    };
    Some(experiment.timetable()?.turns.iter().map(turn).collect())
}

pub(super) fn spec_of_flags(arguments: &Plan) -> Result<Spec, Failure> {
    let mut spec = arguments.faults.spec(arguments.duration.as_deref())?;
    // Without a name, a fresh cgroup as `exec` makes it.
    let targets = arguments.targets.named();
    if !targets.is_empty() {
        spec.targets = targets;
    }
    spec.select = arguments.targets.select()?;
    spec.select_seed = arguments.targets.select_seed();
    Ok(spec)
}

/// Who is hit and who is not, for people.
fn in_words(chosen: &Chosen, processes: &[i32], spec: &Spec) -> String {
    let within = format!(
        "{} processes in {} network namespaces",
        processes.len(),
        NetworkNamespace::of_processes(processes).len()
    );
    if chosen.trees_in_words().is_some() {
        return format!("{} ({} processes now)", chosen.in_words(), processes.len());
    }
    if let ([cgroup], []) = (&chosen.cgroups[..], &chosen.spared[..]) {
        let (path, id) = (cgroup.path().display(), cgroup.id());
        return format!("cgroup {path} (id {id}, {within}) and everything below it");
    }
    let hit: Vec<_> = chosen.cgroups.iter().map(|cgroup| cgroup.path().to_path_buf()).collect();
    let fitting = hit.len() + chosen.spared.len();
    let mut text = format!(
        "{} of {fitting} cgroups ({within}) and everything below them\n  hit: {}",
        hit.len(),
        paths(&hit)
    );
    if !chosen.spared.is_empty() {
        text += &format!("\n  spared: {}", paths(&chosen.spared));
    }
    if spec.select != Select::All && spec.select_seed.or(spec.seed).is_none() {
        text += "\n  drawn anew every time: add --select-seed to draw the same again";
    }
    text
}
