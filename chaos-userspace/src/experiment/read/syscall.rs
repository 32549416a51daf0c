//! Faults on system calls.

use super::{
    super::{
        document_fault::{Access, CallMatch, Per, Syscall, Turns},
        findings::{Findings, element, field},
    },
    danger,
    network::ports,
};
use crate::spec::{
    Problems,
    latency::Latency,
    returns::Returns,
    syscall::{Call, Calls, Effect, Fault},
    syscall_match::Match,
};

/// The faults of one element: one for each of its calls.
pub fn faults(written: &Syscall, allowed: &[Call], path: &str, findings: &mut Findings) -> Vec<Fault> {
    let at = |name: &str| field(path, name);
    let effect = effect(written, path, findings);
    let matches = matches(&written.matches, &at("match"), findings);
    let turns = Turns { per_process: written.per == Some(Per::Process), ..written.turns() };
    let when = turns.read(path, findings);
    let mut faults = vec![];
    for (number, text) in written.calls.iter().flatten().enumerate() {
        let path = element(&at("calls"), number);
        let Some(mut calls) = findings.take(&path, text.parse::<Calls>()) else { continue };
        let name = calls.name();
        if let Some(why) = danger(&calls, allowed) {
            findings.add(&path, format!("{name}: {why}; if that is meant, add {name} to spec.allow"));
        }
        if let Calls::Class { allowed: own, .. } = &mut calls {
            *own = allowed.to_vec();
        }
        if let (Some(effect), Some(when)) = (&effect, when) {
            faults.push(Fault { calls, effect: effect.clone(), matches: matches.clone(), when });
        }
    }
    faults
}

/// What becomes of the calls.
fn effect(written: &Syscall, path: &str, findings: &mut Findings) -> Option<Effect> {
    let Some(latency) = &written.latency else {
        return returns(written, path, findings).map(Effect::Return);
    };
    if written.error.is_some() || written.returns.is_some() || !written.errors.is_empty() {
        findings.add(
            path,
            "calls are held back and fail: write latency and error as elements of their own; those that wait then fail",
        );
    }
    let path = field(path, "latency");
    let Some(time) = &latency.time else {
        findings.lacks(&path, "nothing says for how long calls are held back: add time: 20ms, for example");
        return None;
    };
    let jitter = latency.jitter.as_ref().map(|jitter| format!(",jitter={}", jitter.0));
    let (read, _) = Latency::split(&format!("{}{}", time.0, jitter.unwrap_or_default()));
    findings.take_all(&path, read).map(Effect::Latency)
}

/// What the calls return.
fn returns(written: &Syscall, path: &str, findings: &mut Findings) -> Option<Returns> {
    let given = [written.error.is_some(), written.returns.is_some(), !written.errors.is_empty()];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => {
            findings.lacks(
                path,
                "nothing says what the calls return: add error: EIO, or latency: {time: 20ms}, for example",
            );
            return None;
        }
        _ => {
            findings
                .add(path, "several fields say what the calls return: write one of error, return and errors");
            return None;
        }
    }
    if let Some(error) = &written.error {
        return findings.take_all(&field(path, "error"), Returns::read(&[&format!("{}:1", error.0)]));
    }
    if let Some(value) = written.returns {
        return findings.take_all(&field(path, "return"), Returns::read(&[&format!("return={value}")]));
    }
    let mut parts = vec![];
    for (number, outcome) in written.errors.iter().enumerate() {
        let path = element(&field(path, "errors"), number);
        let weight = outcome.weight.unwrap_or(1);
        let part = match (&outcome.errno, outcome.returns) {
            (Some(errno), None) => format!("{}:{weight}", errno.0),
            (None, Some(value)) => format!("return={value}:{weight}"),
            (None, None) => {
                findings.lacks(&path, "nothing is returned: write errno or return");
                continue;
            }
            (Some(_), Some(_)) => {
                findings.add(&path, "two things are returned: write errno or return");
                continue;
            }
        };
        if findings.take_all(&path, Returns::read(&[&part])).is_some() {
            parts.push(part);
        }
    }
    if parts.len() < written.errors.len() {
        return None;
    }
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    findings.take_all(&field(path, "errors"), Returns::read(&parts))
}

fn matches(written: &CallMatch, path: &str, findings: &mut Findings) -> Match {
    let mut matches = Match::default();
    let mut read = |path: &str, option: String, findings: &mut Findings| {
        let mut problems = Problems::default();
        matches.read(&option, &mut problems);
        problems.0.into_iter().for_each(|problem| findings.add(path, problem));
    };
    let uids: Vec<_> = written.uid.iter().map(|uid| uid.0.clone()).collect();
    let remote: Vec<_> = written.remote.iter().map(|remote| remote.0.clone()).collect();
    for (name, key, texts) in [
        ("comm", "comm", &written.comm),
        ("uid", "uid", &uids),
        ("path", "path", &written.path),
        ("fd", "fd", &written.fd),
        ("remote", "remote", &remote),
    ] {
        for (number, text) in texts.iter().enumerate() {
            read(&element(&field(path, name), number), format!("{key}={text}"), findings);
        }
    }
    if let Some(prefix) = &written.path_prefix {
        let prefix = prefix.trim_end_matches('/');
        let at = field(path, "pathPrefix");
        if prefix.is_empty() || prefix.contains('*') {
            findings.add(&at, "write a directory below the root, as in /var/lib/app; path takes patterns");
        } else {
            read(&at, format!("path={prefix}"), findings);
            read(&at, format!("path={prefix}/*"), findings);
        }
    }
    if let Some(size) = &written.size {
        let at = field(path, "size");
        if let Some(min) = size.min {
            read(&at, format!("size>={min}"), findings);
        }
        if let Some(max) = size.max {
            read(&at, format!("size<={max}"), findings);
        }
        if size.min.is_none() && size.max.is_none() {
            findings.lacks(&at, "no size is named: write min or max");
        }
    }
    if let Some(access) = written.access {
        let word = if access == Access::Read { "read" } else { "write" };
        read(&field(path, "access"), format!("access={word}"), findings);
    }
    matches.remote_ports = ports(&written.remote_ports, &field(path, "remotePorts"), findings);
    matches
}
