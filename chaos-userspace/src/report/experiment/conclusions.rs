//! What an experiment shows, in sentences with their numbers, and what it does not.

use crate::{
    cli::exit,
    experiment::{
        record::{FaultRecord, Finding, ProbeRecord, Record, StageOutcome},
        share::Achieved,
    },
};

/// What was found out: of each fault, of each thing that was watched under fault, and of the way back.
pub fn shown(record: &Record) -> Vec<String> {
    let mut shown: Vec<String> = record.faults.iter().filter_map(inflicted).collect();
    if !shown.is_empty() {
        shown.extend(record.probes.iter().filter_map(watched));
    }
    if let Some(recovery) = record.recovery {
        shown.push(match recovery.took_s {
            Some(took) => {
                format!(
                    "The steady state was back {took:.2} s after the faults; {} s were allowed.",
                    recovery.limit_s
                )
            }
            None => format!("The steady state was not back within {} s after the faults.", recovery.limit_s),
        });
    }
    if shown.is_empty() {
        shown.push("Nothing: no fault was inflicted.".to_owned());
    }
    shown
}

/// What came of a fault, if it was inflicted.
fn inflicted(fault: &FaultRecord) -> Option<String> {
    if fault.injected == 0 {
        return None;
    }
    let events = if fault.matched == 1 { "event" } else { "events" };
    let share = fault.achieved.map(|share| {
        format!(
            "; of those whose turn it was {:.2}% ({:.2}% to {:.2}%), where {} were asked for",
            share.percent,
            share.low,
            share.high,
            fault.asked_share()
        )
    });
    Some(format!(
        "{} was inflicted {} of {} matching {events}{}{}.",
        fault.name,
        match fault.injected {
            1 => "on 1".to_owned(),
            count => format!("on {count}"),
        },
        fault.matched,
        if fault.course.is_empty() { "" } else { " by its schedule" },
        share.unwrap_or_default()
    ))
}

/// What was seen of a probe under fault. Failures are an estimate of how often it fails: a few good answers prove little.
fn watched(probe: &ProbeRecord) -> Option<String> {
    let (failures, answers) = (u64::from(probe.tally.failures), u64::from(probe.tally.answers));
    let share = Achieved::of(failures, answers)?;
    let budget = match probe.error_budget {
        0.0 => String::new(),
        percent => format!("; {percent}% were tolerated"),
    };
    Some(match failures {
        0 => format!(
            "{} held in all of {answers} answers under fault: that rules out (95%) that more than {:.1}% of them fail.",
            probe.name, share.high
        ),
        _ => format!(
            "{} failed in {failures} of {answers} answers under fault: {:.1}% ({:.1}% to {:.1}%){budget}.",
            probe.name, share.percent, share.low, share.high
        ),
    })
}

/// What the measurement does not tell.
pub fn limits(record: &Record) -> Vec<String> {
    let mut limits: Vec<String> = vec![];
    for fault in &record.faults {
        let stage = record.stages.iter().find(|stage| fault.stage.as_ref() == Some(&stage.name));
        let why = match fault.finding {
            Finding::Confirmed => continue,
            _ if stage.is_some_and(|stage| stage.outcome == StageOutcome::NotReached) => {
                "its stage was not reached"
            }
            Finding::NoMatch => "the target did nothing that it is about",
            Finding::Inconclusive if fault.injected == 0 => "it matched, but its turn did not come",
            Finding::Inconclusive => "not all that it is about was seen",
        };
        limits.push(format!(
            "Of {} nothing was found out: {why} ({}).",
            fault.name,
            fault.finding.in_words()
        ));
    }
    if record.abort.is_some() || record.verdict.code > exit::SIGNAL_BASE {
        limits.push("It was cut short: what would have come later is not known.".to_owned());
    }
    let unwatched =
        record.faults_interval().is_some() && record.probes.iter().all(|probe| probe.tally.answers == 0);
    if unwatched {
        limits.push(
            "Nothing was watched while the faults acted: how the service fared under them is not known."
                .to_owned(),
        );
    }
    limits.extend(record.faults.iter().flat_map(|fault| fault.limits.clone()));
    if record.faults_interval().is_some() && record.verdict.code != exit::NOT_MET {
        limits.push(
            "It was tried with the load there was, on this host and for this time; larger shares, other faults and more targets \
             were not."
                .to_owned(),
        );
    }
    if record.faults.iter().any(|fault| fault.achieved.is_some()) {
        limits.push(
            "Intervals are Wilson's of 95%: of twenty, one may lie outside its own by chance. Those of probes take answers as \
             independent of each other, which answers in quick succession are not."
                .to_owned(),
        );
    }
    if !record.probes.is_empty() {
        limits.push(
            "Probes see what they ask for when they ask; what happens between two questions is not seen."
                .to_owned(),
        );
    }
    if record.probes.iter().any(|probe| probe.kind == "network") {
        limits.push(
            "Network counters are those of the target's network namespace, with all other processes in it."
                .to_owned(),
        );
    }
    if record.faults.iter().any(|fault| !fault.course.is_empty()) {
        limits.push(
            "Of a fault with a schedule, the share that was asked for is the mean of its shares over the events they were drawn \
             for; events that were judged while one share took the place of another count for neither."
                .to_owned(),
        );
    }
    limits.push(match record.seed {
        Some(_) => {
            "The seed repeats every draw; which event meets which draw depends on their order, which it does not repeat.".to_owned()
        }
        None => "Without a seed, every run draws anew.".to_owned(),
    });
    let mut told = std::collections::BTreeSet::new();
    limits.retain(|limit| told.insert(limit.clone()));
    limits
}
