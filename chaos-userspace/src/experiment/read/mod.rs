//! From what is written to what is meant, with the readers of the command line's values.

mod network;
mod schedule;
mod steady;
mod syscall;

use super::{
    Experiment,
    document::{self, Document, Mode},
    findings::{Findings, element, field},
    text::Time,
};
use crate::spec::{
    Fault, Spec,
    pod::{PodLabels, PodName},
    safety::Net,
    select::Select,
    syscall::{Call, Calls},
    target::{self, Target},
    units,
};
use chaos_common::watch::WATCHED_MAX;
use std::{collections::BTreeSet, str::FromStr, time::Duration};

/// How long the steady state may take to return if nothing is said.
const RECOVERY_DEFAULT: Duration = Duration::from_secs(30);

/// Reads a document. Without an experiment there is at least one finding.
pub fn experiment(document: Document, findings: &mut Findings) -> Option<Experiment> {
    let spec = document.spec?;
    let metadata = document.metadata.unwrap_or_default();
    let at = |name: &str| field("spec", name);
    for (path, text) in [("metadata.name", &metadata.name), ("spec.hypothesis", &spec.hypothesis)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            findings.add(path, "it is empty: say something");
        }
    }
    let recovery = time(spec.recovery.as_ref(), &at("recovery"), findings).unwrap_or(RECOVERY_DEFAULT);
    let targets = targets(spec.targets.as_deref().unwrap_or_default(), &at("targets"), findings);
    let (select, select_seed) = match &spec.selection {
        Some(selection) => {
            let count = selection.count.as_ref();
            let count = count.and_then(|text| findings.take(&at("selection.count"), text.parse::<Select>()));
            (count.unwrap_or_default(), selection.seed)
        }
        None => (Select::All, None),
    };
    let (calls, nets) = allowed(&spec.allow, &at("allow"), findings);
    let schedule::Plot { faults, names: fault_names, script, probes, duration } =
        schedule::plot(&spec, &calls, findings);
    let watched = super::watched_calls(&probes).count();
    if watched > WATCHED_MAX as usize {
        let text =
            format!("{watched} different calls are watched, above the limit of {WATCHED_MAX}: watch fewer");
        findings.add(&at("steadyState"), text);
    }
    let has_calls = spec.all_faults().any(|fault| fault.syscall.is_some());
    if spec.mechanism.is_some() && !has_calls {
        findings.add(&at("mechanism"), "it chooses how calls fail, and none is to: leave it out");
    }
    let abort = steady::conditions(&spec.abort, &spec.all_probes(), &at("abort"), findings);
    Some(Experiment {
        name: metadata.name?,
        hypothesis: spec.hypothesis?.trim().to_owned(),
        labels: metadata.labels,
        annotations: metadata.annotations,
        spec: Spec {
            targets,
            select,
            select_seed,
            faults,
            duration: Some(duration?),
            allowed: nets,
            observe: spec.mode == Some(Mode::Observe),
            seed: spec.seed,
            mechanism: spec.mechanism,
        },
        fault_names,
        script,
        with_bystander: spec.bystander.unwrap_or(true),
        probes,
        abort,
        recovery,
    })
}

/// Reads a time, if there is one.
fn time(text: Option<&Time>, path: &str, findings: &mut Findings) -> Option<Duration> {
    findings.take(path, units::duration(text?))
}

/// Reads a value in the form of the command line, if there is one.
fn value<T: FromStr>(text: Option<&str>, path: &str, findings: &mut Findings) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    findings.take(path, text?.parse())
}

fn targets(written: &[document::Target], path: &str, findings: &mut Findings) -> Vec<Target> {
    let mut targets = vec![];
    for (number, target) in written.iter().enumerate() {
        let path = element(path, number);
        let document::Target { cgroup, unit, pid, container, pod, pod_label } = target;
        let texts = [cgroup, unit, container, pod, pod_label];
        let count = texts.iter().filter(|given| given.is_some()).count() + usize::from(pid.is_some());
        match count {
            1 => {}
            0 => findings
                .lacks(&path, "nobody is named: write one of cgroup, unit, pid, container, pod and podLabel"),
            _ => findings
                .add(&path, "several are named: write each as an element of its own, as in '- unit: web'"),
        }
        if let Some(text) = cgroup {
            targets.extend(
                findings.take(&field(&path, "cgroup"), target::cgroup_path(text)).map(Target::Cgroup),
            );
        }
        targets.extend(value(unit.as_deref(), &field(&path, "unit"), findings).map(Target::Unit));
        targets.extend(pid.map(Target::Process));
        targets
            .extend(value(container.as_deref(), &field(&path, "container"), findings).map(Target::Container));
        let pod = value(pod.as_deref(), &field(&path, "pod"), findings);
        targets.extend(pod.map(|PodName(pods)| Target::Pods(pods)));
        let pod_label = value(pod_label.as_deref(), &field(&path, "podLabel"), findings);
        targets.extend(pod_label.map(|PodLabels(pods)| Target::Pods(pods)));
    }
    targets
}

fn allowed(written: &[String], path: &str, findings: &mut Findings) -> (Vec<Call>, BTreeSet<Net>) {
    let (mut calls, mut nets) = (vec![], BTreeSet::new());
    for (number, text) in written.iter().enumerate() {
        match (text.parse::<Net>(), text.parse::<Call>()) {
            (Ok(net), _) => drop(nets.insert(net)),
            (_, Ok(call)) => calls.push(call),
            (Err(no_net), Err(no_call)) => {
                findings.add(&element(path, number), format!("{no_call}; {no_net}"))
            }
        }
    }
    (calls, nets)
}

/// The faults, their names, which differ from those that are `given`, and the number of the element each comes from.
fn faults(
    written: &[super::document_fault::Fault],
    allowed: &[Call],
    path: &str,
    mut given: BTreeSet<String>,
    findings: &mut Findings,
) -> (Vec<Fault>, Vec<String>, Vec<usize>) {
    let (mut faults, mut names, mut elements) = (vec![], vec![], vec![]);
    let before = given.len();
    for (number, fault) in written.iter().enumerate() {
        let path = element(path, number);
        let fine_before = findings.is_fine();
        let mut read: Vec<Fault> = vec![];
        match (&fault.network, &fault.syscall) {
            (Some(network), None) => {
                let network = network::faults(network, &field(&path, "network"), findings);
                read.extend(network.into_iter().map(|fault| Fault::Network(Box::new(fault))));
            }
            (None, Some(syscall)) => {
                let syscall = syscall::faults(syscall, allowed, &field(&path, "syscall"), findings);
                read.extend(syscall.into_iter().map(|fault| Fault::Syscall(Box::new(fault))));
            }
            (None, None) => findings.lacks(&path, "nothing is inflicted: write network or syscall"),
            (Some(_), Some(_)) => findings
                .add(&path, "both network and syscall are inflicted: write each as an element of its own"),
        }
        if read.is_empty() && fine_before && findings.is_fine() {
            findings.add(&path, "nothing is inflicted");
        }
        for (place, one) in read.iter().enumerate() {
            let own = match one {
                Fault::Network(fault) => fault.effect.name(),
                Fault::Syscall(fault) => fault.calls.name(),
            };
            let name = match &fault.name {
                Some(name) if read.len() == 1 => name.clone(),
                Some(name) => format!("{name}: {own}"),
                None => own.to_owned(),
            };
            // Two delays of one fault, or two faults without a name.
            let name = if given.contains(&name) {
                format!("{name}#{}", before + faults.len() + place + 1)
            } else {
                name
            };
            given.insert(name.clone());
            names.push(name);
            elements.push(number);
        }
        faults.extend(read);
    }
    (faults, names, elements)
}

/// What a call lacks to be made to fail.
fn danger(calls: &Calls, allowed: &[Call]) -> Option<&'static str> {
    match calls {
        Calls::One(call) if !allowed.contains(call) => call.danger(),
        _ => None,
    }
}
