//! Schedules and stages.

use super::{
    super::{
        document::Spec,
        document_fault::Fault as WrittenFault,
        document_schedule as document,
        findings::{Findings, element, field},
        schedule::{RAMP_STEPS, STEP_MIN, Schedule, Shape},
        text::{Offset, Share, Time},
        timetable::{Role, Script, Stage, TURNS_MAX},
    },
    steady, time,
};
use crate::{
    spec::{
        Fault,
        syscall::Call,
        units::{self, DURATION_MAX, Percent},
    },
    steady::Probe,
};
use std::{collections::BTreeSet, time::Duration};

/// Stages of one experiment, as the schema says too: each has a fault at least, and more there is no room for.
const STAGES_MAX: usize = 64;

/// What is inflicted and when, and what has to hold.
#[derive(Default)]
pub struct Plot {
    /// All faults, of all stages.
    pub faults: Vec<Fault>,
    /// Their names.
    pub names: Vec<String>,
    /// When they act.
    pub script: Script,
    /// What has to hold.
    pub probes: Vec<Probe>,
    /// How long it takes altogether.
    pub duration: Option<Duration>,
}

/// Some faults with the time they have.
struct Part<'a> {
    stage: Option<usize>,
    written: &'a [WrittenFault],
    schedule: Option<&'a document::Schedule>,
    lasts: Option<Duration>,
    path: String,
}

/// Reads faults, schedules, stages and probes.
pub fn plot(spec: &Spec, calls: &[Call], findings: &mut Findings) -> Plot {
    let at = |name: &str| field("spec", name);
    let mut plot =
        Plot { duration: time(spec.duration.as_ref(), &at("duration"), findings), ..Plot::default() };
    plot.probes = steady::probes(&spec.steady_state, &at("steadyState"), findings);
    let Some(stages) = &spec.stages else {
        for (name, given, what) in [
            ("duration", spec.duration.is_some(), "how long the faults act"),
            ("faults", spec.faults.is_some(), "what is inflicted"),
        ] {
            if !given {
                findings.lacks("spec", format!("'{name}' is missing ({what}): add it"));
            }
        }
        let written = spec.faults.as_deref().unwrap_or_default();
        let part = Part {
            stage: None,
            written,
            schedule: spec.schedule.as_ref(),
            lasts: plot.duration,
            path: "spec".into(),
        };
        read_part(&part, calls, &mut plot, findings);
        check(&plot, "spec.faults", findings);
        return plot;
    };
    for (name, given) in [
        ("duration", spec.duration.is_some()),
        ("faults", spec.faults.is_some()),
        ("schedule", spec.schedule.is_some()),
    ] {
        if given {
            findings.add(
                &at(name),
                format!("each stage has its own {name}: write it there, and leave it out here"),
            );
        }
    }
    read_stages(stages, calls, &mut plot, findings);
    plot
}

fn read_stages(stages: &[document::Stage], calls: &[Call], plot: &mut Plot, findings: &mut Findings) {
    if stages.len() > STAGES_MAX {
        findings.add("spec.stages", format!("{} stages are above the limit of {STAGES_MAX}", stages.len()));
    }
    let mut names = BTreeSet::new();
    let mut total = Some(Duration::ZERO);
    for (number, stage) in stages.iter().enumerate() {
        let path = element("spec.stages", number);
        let name = stage.name.clone().unwrap_or_default();
        if stage.name.is_some() && name.trim().is_empty() {
            findings.add(&field(&path, "name"), "it is empty: say what happens, as in slow-database");
        } else if !names.insert(name.clone()) && stage.name.is_some() {
            findings.add(&field(&path, "name"), format!("'{name}' is the name of another stage too"));
        }
        let lasts = time(stage.duration.as_ref(), &field(&path, "duration"), findings);
        total = total.zip(lasts).map(|(total, lasts)| total.saturating_add(lasts));
        plot.script.stages.push(Stage { name, lasts: lasts.unwrap_or_default() });
        let part = Part {
            stage: Some(number),
            written: stage.faults.as_deref().unwrap_or_default(),
            schedule: stage.schedule.as_ref(),
            lasts,
            path: path.clone(),
        };
        read_part(&part, calls, plot, findings);
        let probes = steady::probes(&stage.steady_state, &field(&path, "steadyState"), findings);
        for (place, mut probe) in probes.into_iter().enumerate() {
            let path = element(&field(&path, "steadyState"), place);
            if plot.probes.iter().any(|other| other.name == probe.name) {
                findings
                    .add(&field(&path, "name"), format!("'{}' is the name of another probe too", probe.name));
            }
            if !probe.is_asked_during() {
                findings.add(
                    &field(&path, "mode"),
                    "it is not asked in its stage: write mode: during or continuous, or move it to spec.steadyState",
                );
            }
            probe.stage = Some(number);
            plot.probes.push(probe);
        }
    }
    if let Some(total) = total {
        if total > DURATION_MAX {
            findings.add("spec.stages", format!("{total:?} altogether is above the limit of 168h (7 days)"));
        }
        plot.duration = Some(total);
    }
    check(plot, "spec.stages", findings);
}

fn read_part(part: &Part<'_>, calls: &[Call], plot: &mut Plot, findings: &mut Findings) {
    let path = field(&part.path, "faults");
    // All faults without a schedule of their own share this one, and begin together.
    let shared =
        part.schedule.map(|written| read(written, part.lasts, &field(&part.path, "schedule"), findings));
    let mut shared_at = None;
    let given: BTreeSet<_> = plot.names.iter().cloned().collect();
    let (faults, names, elements) = super::faults(part.written, calls, &path, given, findings);
    let mut own: Vec<Option<usize>> = vec![];
    for (number, fault) in part.written.iter().enumerate() {
        let path = element(&path, number);
        let schedule = match &fault.schedule {
            Some(written) => {
                let schedule = read(written, part.lasts, &field(&path, "schedule"), findings);
                schedule.map(|schedule| plot.script.add(schedule))
            }
            None => shared
                .clone()
                .flatten()
                .map(|schedule| *shared_at.get_or_insert_with(|| plot.script.add(schedule))),
        };
        if let Some(number) = schedule {
            let has_model = fault.network.as_ref().is_some_and(|network| {
                matches!(&network.loss, Some(super::super::document_fault::Loss::More(more)) if more.model.is_some())
            });
            let shares = plot
                .script
                .schedules
                .get(number)
                .is_some_and(|schedule| matches!(schedule.shape, Shape::Ramp { .. } | Shape::Steps(_)));
            if has_model && shares {
                findings.add(
                    &field(&path, "network.loss"),
                    "a model says itself what is lost, and has no share that a ramp or steps could change: use pulse or windows",
                );
            }
        }
        own.push(schedule);
    }
    if part.schedule.is_some()
        && shared_at.is_none()
        && !part.written.is_empty()
        && shared.flatten().is_some()
    {
        findings.add(&field(&part.path, "schedule"), "all faults have a schedule of their own: leave it out");
    }
    for number in elements {
        let schedule = own.get(number).copied().flatten();
        plot.script.roles.push(Role { stage: part.stage, schedule });
    }
    plot.faults.extend(faults);
    plot.names.extend(names);
}

/// What only all faults together can have too much of.
fn check(plot: &Plot, path: &str, findings: &mut Findings) {
    if findings.is_fine() {
        let mut problems = crate::spec::Problems::default();
        crate::spec::check_count(&plot.faults, &mut problems);
        problems.0.into_iter().for_each(|problem| findings.add(path, problem));
    }
    let Some(length) = plot.duration else { return };
    let length_of = |role: &Role| match role.stage {
        Some(stage) => plot.script.stages.get(stage).map_or(Duration::ZERO, |stage| stage.lasts),
        None => length,
    };
    let changes = plot.script.roles.iter().filter_map(|role| {
        let schedule = plot.script.schedules.get(role.schedule?)?;
        Some(schedule.changes(length_of(role)))
    });
    let changes = changes.fold(0u64, u64::saturating_add);
    if changes > TURNS_MAX {
        findings.add(
            path,
            format!("the schedules make {changes} changes, above the limit of {TURNS_MAX}: make them longer or fewer"),
        );
    }
}

/// Reads a schedule that has `lasts` of time.
fn read(
    written: &document::Schedule,
    lasts: Option<Duration>,
    path: &str,
    findings: &mut Findings,
) -> Option<Schedule> {
    let at = |name: &str| field(path, name);
    let fine_before = findings.count();
    let start = written.start.as_ref();
    let after = time_or_zero(start.and_then(|start| start.after.as_ref()), &at("start.after"), findings);
    let within = time_or_zero(start.and_then(|start| start.within.as_ref()), &at("start.within"), findings);
    let shapes: Vec<&str> = [
        ("ramp", written.ramp.is_some()),
        ("steps", written.steps.is_some()),
        ("pulse", written.pulse.is_some()),
        ("windows", written.windows.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    if shapes.len() > 1 {
        findings.add(
            path,
            format!(
                "{} are given: a schedule has one of ramp, steps, pulse and windows",
                shapes.join(" and ")
            ),
        );
    } else if shapes.is_empty() && start.is_none() {
        findings.lacks(path, "nothing is said about when: write start, ramp, steps, pulse or windows");
    } else if shapes.is_empty() && written.repeat.is_some() {
        findings.add(
            &at("repeat"),
            "nothing is there to be repeated: add pulse: {on: 5s, off: 10s}, for example",
        );
    }
    let shape = read_shape(written, path, findings);
    if findings.count() > fine_before || shapes.len() > 1 {
        return None;
    }
    let times = match &shape {
        Some(Shape::Pulse { .. }) => written.repeat,
        _ => Some(written.repeat.unwrap_or(1)),
    };
    let schedule = Schedule { after, within, shape: shape.unwrap_or(Shape::Steady), times };
    if let Some(lasts) = lasts {
        let needs = schedule.needs();
        let latest = after.saturating_add(within);
        let problem = match needs {
            _ if latest >= lasts => {
                format!(
                    "it may begin only at {latest:?}, when the duration of {lasts:?} is over: let it begin earlier"
                )
            }
            Some(needs) if needs <= lasts => return Some(schedule),
            Some(needs) => format!(
                "it needs {needs:?}, longer than the duration of {lasts:?}: shorten it, or lengthen the duration"
            ),
            None => "it is repeated more often than there is time for: repeat it less often".to_owned(),
        };
        findings.add(path, problem);
        return None;
    }
    Some(schedule)
}

fn read_shape(written: &document::Schedule, path: &str, findings: &mut Findings) -> Option<Shape> {
    let at = |name: &str| field(path, name);
    if let Some(ramp) = &written.ramp {
        let at = |name: &str| field(&at("ramp"), name);
        let from = share(ramp.from.as_ref(), &at("from"), findings);
        let to = share(ramp.to.as_ref(), &at("to"), findings);
        let over = step_time(ramp.over.as_ref(), &at("over"), findings);
        let fitting =
            |over: Duration| u32::try_from(over.as_nanos() / STEP_MIN.as_nanos()).unwrap_or(u32::MAX);
        let steps = match (ramp.steps, over) {
            (Some(steps @ ..2), _) | (Some(steps @ 1001..), _) => {
                findings.add(&at("steps"), format!("{steps} is not from 2 to 1000"));
                None
            }
            (Some(steps), Some(over)) if steps > fitting(over) => {
                findings.add(
                    &at("steps"),
                    format!(
                        "{steps} steps over {over:?} are shorter than {STEP_MIN:?} each: write at most {}",
                        fitting(over)
                    ),
                );
                None
            }
            (Some(steps), _) => Some(steps),
            (None, Some(over)) if fitting(over) < 2 => {
                findings.add(&at("over"), format!("{over:?} has no room for two steps of {STEP_MIN:?}"));
                None
            }
            (None, over) => Some(over.map_or(RAMP_STEPS, |over| RAMP_STEPS.min(fitting(over)))),
        };
        if let (Some(from), Some(to)) = (from, to)
            && from == to
        {
            findings.add(
                &at("to"),
                format!("the ramp begins and ends at {to}: leave it out, or write another share"),
            );
        }
        return Some(Shape::Ramp { from: from?, to: to?, over: over?, steps: steps? });
    }
    if let Some(steps) = &written.steps {
        let mut read = vec![];
        for (number, step) in steps.iter().enumerate() {
            let path = element(&at("steps"), number);
            let share = share(step.share.as_ref(), &field(&path, "share"), findings);
            let lasts = step_time(step.lasts.as_ref(), &field(&path, "for"), findings);
            let is_last = number + 1 == steps.len();
            if step.lasts.is_none() && !(is_last && written.repeat.is_none()) {
                findings.lacks(
                    &path,
                    "'for' is missing: only the last step can last until the end, and only without repeat",
                );
            }
            read.extend(share.map(|share| (share, lasts)));
        }
        return (read.len() == steps.len()).then_some(Shape::Steps(read));
    }
    if let Some(pulse) = &written.pulse {
        let at = |name: &str| field(&at("pulse"), name);
        let on = step_time(pulse.on.as_ref(), &at("on"), findings);
        let off = step_time(pulse.off.as_ref(), &at("off"), findings);
        return Some(Shape::Pulse { on: on?, off: off? });
    }
    let windows = written.windows.as_ref()?;
    let mut read: Vec<(Duration, Duration)> = vec![];
    let mut whole = true;
    for (number, window) in windows.iter().enumerate() {
        let path = element(&at("windows"), number);
        let from = offset(window.from.as_ref(), &field(&path, "from"), findings);
        let to = time(window.to.as_ref(), &field(&path, "to"), findings);
        let (Some(from), Some(to)) = (from, to) else {
            whole = false;
            continue;
        };
        if to < from.saturating_add(STEP_MIN) {
            findings.add(&path, format!("from {from:?} to {to:?} is no time of at least {STEP_MIN:?}"));
        }
        let before = read.last().map_or(Duration::ZERO, |(_, to)| *to);
        if number > 0 && from < before {
            findings.add(
                &field(&path, "from"),
                format!("it begins before the window before it ends, at {before:?}: write windows in order, without overlap"),
            );
        } else if from != before && from < before.saturating_add(STEP_MIN) || (number > 0 && from == before) {
            findings.add(
                &field(&path, "from"),
                format!(
                    "less than {STEP_MIN:?} lies between it and {before:?}: make them one, or wider apart"
                ),
            );
        }
        read.push((from, to));
    }
    whole.then_some(Shape::Windows(read))
}

fn share(text: Option<&Share>, path: &str, findings: &mut Findings) -> Option<Percent> {
    findings.take(path, text?.parse())
}

fn time_or_zero(text: Option<&Time>, path: &str, findings: &mut Findings) -> Duration {
    time(text, path, findings).unwrap_or_default()
}

/// A time between two changes.
fn step_time(text: Option<&Time>, path: &str, findings: &mut Findings) -> Option<Duration> {
    let lasts = time(text, path, findings)?;
    if lasts < STEP_MIN {
        findings.add(path, format!("{lasts:?} is below the limit of {STEP_MIN:?}"));
        return None;
    }
    Some(lasts)
}

/// A time from a beginning on, which may be the beginning itself.
fn offset(text: Option<&Offset>, path: &str, findings: &mut Findings) -> Option<Duration> {
    let text = text?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if !digits.is_empty() && digits.len() < text.len() && digits.chars().all(|digit| digit == '0') {
        return Some(Duration::ZERO);
    }
    findings.take(path, units::duration(text))
}
