//! A journal of Chaos Toolkit (chaoslib's journal.json), so that its report tools read our runs.

use super::time::rfc3339;
use crate::{
    cli::exit,
    experiment::record::{FaultRecord, ProbeRecord, Record},
    steady::ask::Answer,
};
use serde_json::{Value, json};

/// The version of chaoslib whose journal this is.
const CHAOSLIB: &str = "1.44.0";

/// The journal.
pub fn journal(record: &Record) -> Value {
    let at = |seconds: f64| rfc3339(record.started_unix_ms + (seconds * 1000.0) as u64);
    let status = match record.verdict.code {
        exit::DONE | exit::DEVIATED | exit::NOTHING_INJECTED => "completed",
        exit::NOT_MET => "failed",
        exit::ABORTED => "aborted",
        code if code > exit::SIGNAL_BASE => "interrupted",
        _ => "failed",
    };
    let result = |probe: &ProbeRecord, answer: &Answer| {
        json!({
            "activity": activity(probe),
            "status": if answer.value.is_some() { "succeeded" } else { "failed" },
            "start": at((answer.at_s - answer.took_s).max(0.0)),
            "end": at(answer.at_s),
            "duration": answer.took_s,
            "output": answer.value,
            "tolerance_met": answer.holds,
            "exception": answer.problem.iter().map(String::as_str).collect::<Vec<_>>(),
        })
    };
    let state = |answers: Vec<(&ProbeRecord, &Answer)>| {
        (!answers.is_empty()).then(|| {
            json!({
                "steady_state_met": answers.iter().all(|(_, answer)| answer.holds),
                "probes": answers.iter().map(|(probe, answer)| result(probe, answer)).collect::<Vec<_>>(),
            })
        })
    };
    let last = |of: fn(&ProbeRecord) -> &Vec<Answer>| {
        let answers = record.probes.iter().filter_map(|probe| Some((probe, of(probe).last()?)));
        state(answers.collect())
    };
    let during: Vec<_> = record
        .probes
        .iter()
        .flat_map(|probe| {
            probe.during.iter().filter_map(|answer| state(vec![(probe, answer)])).collect::<Vec<_>>()
        })
        .collect();
    let interval = record.faults_interval();
    // Once for each fault would be enough; its course is in the record.
    let output = |fault: &FaultRecord| {
        let mut output = serde_json::to_value(fault).unwrap_or_default();
        if let Some(fields) = output.as_object_mut() {
            fields.remove("course");
        }
        output
    };
    let run = |(fault, from, to, share): (&FaultRecord, f64, f64, Option<f64>)| {
        let share = share.map(|share| format!(" at {share}%")).unwrap_or_default();
        json!({
            "activity": {
                "type": "action",
                "name": format!("{}{share}", fault.name),
                "provider": {"type": "process", "path": "kchaos", "arguments": record.command.get(1..).unwrap_or_default()},
            },
            "status": "succeeded",
            "start": at(from),
            "end": at(to),
            "duration": to - from,
            "output": output(fault),
        })
    };
    // A fault with a schedule is an action for each time in which it acted.
    let mut actions: Vec<_> = record
        .faults
        .iter()
        .flat_map(|fault| {
            let acting = fault.course.iter().filter(|dose| dose.share_percent > 0.0);
            let acting: Vec<_> =
                acting.map(|dose| (fault, dose.from_s, dose.to_s, Some(dose.share_percent))).collect();
            let (from, to) = interval.unwrap_or_default();
            if fault.course.is_empty() { vec![(fault, from, to, None)] } else { acting }
        })
        .collect();
    actions.sort_by(|one, other| one.1.total_cmp(&other.1));
    let undone = record.summary.as_ref().map(|summary| summary["undone"].clone());
    let rollback = |undone: Value| {
        let left = undone["problems"].as_array().is_some_and(|problems| !problems.is_empty());
        json!({
            "activity": {"type": "action", "name": "take everything away", "provider": {"type": "process", "path": "kchaos"}},
            "status": if left { "failed" } else { "succeeded" },
            "duration": undone["took_ms"].as_f64().unwrap_or(0.0) / 1000.0,
            "output": undone,
        })
    };
    json!({
        "chaoslib-version": CHAOSLIB,
        "platform": format!("Linux {}", record.environment.kernel),
        "node": record.environment.host,
        "experiment": {
            "title": record.name,
            "description": record.hypothesis,
            "steady-state-hypothesis": {
                "title": record.hypothesis,
                "probes": record.probes.iter().map(activity).collect::<Vec<_>>(),
            },
            "method": [],
            "rollbacks": [],
            "extensions": [{"name": "kchaos", "verdict": record.verdict, "run": record.run, "seed": record.seed,                 "stages": record.stages}],
        },
        "start": at(0.0),
        "end": at(record.took_s),
        "duration": record.took_s,
        "status": status,
        "deviated": record.verdict.code == exit::DEVIATED,
        "steady_states": {
            "before": last(|probe| &probe.before),
            "after": last(|probe| &probe.after),
            "during": during,
        },
        "run": actions.into_iter().map(run).collect::<Vec<_>>(),
        "rollbacks": undone.map(rollback).into_iter().collect::<Vec<_>>(),
    })
}

fn activity(probe: &ProbeRecord) -> Value {
    json!({
        "type": "probe",
        "name": probe.name,
        "tolerance": probe.tolerated,
        "provider": {"type": "process", "path": "kchaos", "arguments": probe.asks},
    })
}
