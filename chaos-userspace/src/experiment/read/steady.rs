//! What has to hold, and when to give up.

use super::{
    super::{
        document_steady::{self as document, CallsMeasure, CommandMeasure, HttpMeasure},
        findings::{Findings, element, field},
        text::{Share, Wanted},
    },
    time,
};
use crate::{
    spec::{
        syscall::Call,
        units::{self, Percent},
    },
    steady::{
        Ask, Probe,
        abort::Condition,
        tolerance::{Check, Tolerance},
        value::{Unit, Value},
    },
};
use regex::Regex;
use serde_json_path::JsonPath;
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

/// Time between two questions if nothing is said.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// Which quantile of requests' times counts if nothing is said, in thousandths of a percent: the longest.
const HTTP_PERCENTILE: u32 = 100_000;
/// Which quantile of calls' times counts if nothing is said, in thousandths of a percent.
const CALLS_PERCENTILE: u32 = 99_000;
/// How long an answer may take if nothing is said.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Shortest time between two questions: more would be load, not a look.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest time an answer may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Reads what has to hold.
pub fn probes(written: &[document::Probe], path: &str, findings: &mut Findings) -> Vec<Probe> {
    let mut names = BTreeSet::new();
    let mut probes = vec![];
    for (number, probe) in written.iter().enumerate() {
        let path = element(path, number);
        if let Some(name) = &probe.name {
            if name.trim().is_empty() {
                findings.add(&field(&path, "name"), "it is empty: say what holds, as in checkout-answers");
            } else if !names.insert(name.clone()) {
                findings.add(&field(&path, "name"), format!("'{name}' is the name of another probe too"));
            }
        }
        probes.extend(read_probe(probe, &path, findings));
    }
    probes
}

fn read_probe(written: &document::Probe, path: &str, findings: &mut Findings) -> Option<Probe> {
    let at = |name: &str| field(path, name);
    let ask = read_ask(written, path, findings);
    let tolerance = match &ask {
        Some(ask) => read_tolerance(written.tolerance.as_ref(), ask, path, findings),
        None => None,
    };
    let interval = time(written.interval.as_ref(), &at("interval"), findings).unwrap_or(INTERVAL_DEFAULT);
    if interval < INTERVAL_MIN {
        findings.add(&at("interval"), format!("{interval:?} is below the limit of {INTERVAL_MIN:?}"));
    }
    let timeout = time(written.timeout.as_ref(), &at("timeout"), findings).unwrap_or(TIMEOUT_DEFAULT);
    if timeout > TIMEOUT_MAX {
        findings.add(&at("timeout"), format!("{timeout:?} is above the limit of {TIMEOUT_MAX:?}"));
    }
    let budget = written.error_budget.as_ref();
    let budget = budget.and_then(|text| findings.take(&at("errorBudget"), text.parse::<Percent>()));
    let probe = Probe {
        name: written.name.clone()?,
        ask: ask?,
        tolerance: tolerance?,
        mode: written.mode.unwrap_or_default(),
        interval,
        timeout,
        retries: written.retries.unwrap_or(0),
        error_budget: budget.unwrap_or_default().percent(),
        stage: None,
    };
    if budget.is_some() && !probe.is_asked_during() {
        findings
            .add(&at("errorBudget"), "the probe is not asked under fault: write mode: during or continuous");
    }
    Some(probe)
}

fn read_ask(written: &document::Probe, path: &str, findings: &mut Findings) -> Option<Ask> {
    let at = |name: &str| field(path, name);
    let mut asks = vec![];
    if let Some(http) = &written.http {
        let url = http.url.as_deref().map(|url| read_url(url, &at("http.url"), findings));
        let percentile = read_percentile(http.percentile.as_ref(), &at("http.percentile"), findings);
        let measure = http.measure.unwrap_or_default();
        for (name, given) in [("samples", http.samples.is_some()), ("percentile", http.percentile.is_some())]
        {
            if given && measure != HttpMeasure::Latency {
                findings.add(&at(&format!("http.{name}")), "it is about latency: add measure: latency");
            }
        }
        asks.push(url.flatten().map(|url| Ask::Http {
            url,
            method: http.method.unwrap_or_default(),
            headers: http.headers.clone(),
            body: http.body.clone(),
            measure,
            samples: http.samples.unwrap_or(1),
            percentile: percentile.unwrap_or(HTTP_PERCENTILE),
        }));
    }
    if let Some(tcp) = &written.tcp {
        let address = tcp.address.as_deref();
        asks.push(
            address
                .and_then(|text| findings.take(&at("tcp.address"), address_of(text)))
                .map(|address| Ask::Tcp { address }),
        );
    }
    if let Some(dns) = &written.dns {
        if dns.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            findings.add(&at("dns.name"), "it is empty: write a host name");
        }
        asks.push(dns.name.clone().map(|name| Ask::Dns { name, measure: dns.measure.unwrap_or_default() }));
    }
    if let Some(command) = &written.command {
        let argv = command.argv.clone();
        if argv.as_ref().is_some_and(|argv| argv.first().is_some_and(String::is_empty)) {
            findings.add(&at("command.argv"), "the program's name is empty");
        }
        asks.push(argv.map(|argv| Ask::Command { argv, measure: command.measure.unwrap_or_default() }));
    }
    if let Some(prometheus) = &written.prometheus {
        let url = prometheus.url.as_deref().map(|url| read_url(url, &at("prometheus.url"), findings));
        asks.push(match (url.flatten(), &prometheus.query) {
            (Some(url), Some(query)) => Some(Ask::Prometheus { url, query: query.clone() }),
            _ => None,
        });
    }
    if let Some(calls) = &written.calls {
        asks.push(read_calls(calls, &at("calls"), findings));
    }
    asks.extend(written.cgroup.as_ref().map(|read| read.measure.map(Ask::Cgroup)));
    asks.extend(written.network.as_ref().map(|read| read.measure.map(Ask::Network)));
    match asks.len() {
        1 => asks.pop().flatten(),
        0 => {
            findings.lacks(
                path,
                "nothing is asked: write one of http, tcp, dns, command, prometheus, calls, cgroup and network",
            );
            None
        }
        _ => {
            findings.add(path, "several things are asked: write each as a probe of its own");
            None
        }
    }
}

/// In thousandths of a percent.
fn read_percentile(written: Option<&Share>, path: &str, findings: &mut Findings) -> Option<u32> {
    let percentile = findings.take(path, written?.parse::<Percent>())?;
    Some((percentile.percent() * 1000.0).round() as u32)
}

fn read_calls(written: &document::Calls, path: &str, findings: &mut Findings) -> Option<Ask> {
    let at = |name: &str| field(path, name);
    let measure = written.measure.unwrap_or_default();
    let percentile = read_percentile(written.percentile.as_ref(), &at("percentile"), findings);
    if percentile.is_some() && measure != CallsMeasure::Latency {
        findings.add(&at("percentile"), "it is about latency: leave it out, or write measure: latency");
    }
    let mut of: Vec<Call> = vec![];
    for (number, name) in written.of.as_ref()?.iter().enumerate() {
        let path = element(&at("of"), number);
        let Some(call) = findings.take(&path, name.parse::<Call>()) else { continue };
        if matches!(call.name(), "exit" | "exit_group") {
            findings.add(&path, format!("'{name}' never ends: name a call that returns"));
        } else if of.contains(&call) {
            findings.add(&path, format!("'{name}' is there twice"));
        } else {
            of.push(call);
        }
    }
    let percentile = percentile.unwrap_or(CALLS_PERCENTILE);
    (!of.is_empty()).then_some(Ask::Calls { of, measure, percentile })
}

fn read_url(text: &str, path: &str, findings: &mut Findings) -> Option<String> {
    let uri = text.parse::<ureq::http::Uri>();
    let fine =
        uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if fine {
        return Some(text.to_owned());
    }
    findings.add(
        path,
        format!("'{text}' is no address of a server: write http:// or https://, a host and a path"),
    );
    None
}

fn address_of(text: &str) -> Result<String, String> {
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(port) if port > 0 => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not HOST:PORT, as in db.example.org:5432 or [::1]:80")),
    }
}

/// What measures times, where a time is what something else is compared with.
fn remedy(ask: &Ask, bound: &str) -> String {
    let by = match ask {
        Ask::Http { measure: HttpMeasure::Status | HttpMeasure::Body, .. } => "latency",
        Ask::Command { measure: CommandMeasure::Exit | CommandMeasure::Stdout, .. } => "time",
        _ => return String::new(),
    };
    if units::duration(bound).is_err() {
        return String::new();
    }
    format!("; to compare how long it takes, add measure: {by} to the probe")
}

fn read_tolerance(
    written: Option<&document::Tolerance>,
    ask: &Ask,
    path: &str,
    findings: &mut Findings,
) -> Option<Tolerance> {
    let unit = ask.unit();
    let none = |checks| Some(Tolerance { json_path: None, checks, unit });
    let Some(written) = written else {
        return match ask {
            _ if ask.needs_tolerance() => {
                findings.lacks(
                    path,
                    "nothing says what is tolerated: add tolerance with equals, oneOf, atLeast, atMost, regex or contains",
                );
                None
            }
            Ask::Http { measure: HttpMeasure::Status, .. } => {
                none(vec![Check::AtLeast(200.0), Check::AtMost(299.0)])
            }
            Ask::Command { measure: CommandMeasure::Exit, .. } => {
                none(vec![Check::OneOf(vec![Value::Number(0.0)])])
            }
            _ => none(vec![]),
        };
    };
    let path = field(path, "tolerance");
    let at = |name: &str| field(&path, name);
    let mut checks = vec![];
    let numeric = unit != Unit::Text;
    let value = |text: &Wanted, path: &str, findings: &mut Findings| {
        if numeric {
            findings.take(path, unit.number(text)).map(Value::Number)
        } else {
            Some(Value::Text(text.0.clone()))
        }
    };
    if let Some(text) = &written.equals {
        checks.extend(value(text, &at("equals"), findings).map(|value| Check::OneOf(vec![value])));
    }
    let mut choices = vec![];
    for (number, text) in written.one_of.iter().enumerate() {
        choices.extend(value(text, &element(&at("oneOf"), number), findings));
    }
    if !written.one_of.is_empty() {
        checks.push(Check::OneOf(choices));
    }
    for (name, text) in [("atLeast", &written.at_least), ("atMost", &written.at_most)] {
        let Some(text) = text else { continue };
        let bound = unit.number(text).map_err(|problem| problem + &remedy(ask, text));
        if let Some(bound) = findings.take(&at(name), bound) {
            checks.push(if name == "atLeast" { Check::AtLeast(bound) } else { Check::AtMost(bound) });
        }
    }
    if let (Some(least), Some(most)) = (&written.at_least, &written.at_most)
        && let (Ok(low), Ok(high)) = (unit.number(least), unit.number(most))
        && low > high
    {
        findings.add(&path, format!("nothing is at least {} and at most {}", least.0, most.0));
    }
    if let Some(text) = &written.regex {
        let regex = Regex::new(text).map_err(|error| format!("'{text}' is no regular expression: {error}"));
        checks.extend(
            findings.take(&at("regex"), regex.map_err(|text| text.replace('\n', " "))).map(Check::Regex),
        );
    }
    checks.extend(written.contains.clone().map(Check::Contains));
    let json_path = written.json_path.as_ref().and_then(|text| {
        if numeric {
            findings
                .add(&at("jsonPath"), "what is measured is a number, not JSON: add measure: body or stdout");
            return None;
        }
        let parsed = JsonPath::parse(text).map_err(|error| {
            format!("'{text}' is no JSONPath of RFC 9535, as in $.status or $.checks[0].up: {error}")
        });
        findings.take(&at("jsonPath"), parsed).map(|path| (text.clone(), path))
    });
    if checks.is_empty() && written.json_path.is_none() && findings.is_fine() {
        findings.lacks(
            &path,
            "it tolerates everything: add equals, oneOf, atLeast, atMost, regex, contains or jsonPath",
        );
    }
    Some(Tolerance { json_path, checks, unit })
}

/// Reads when to give up.
pub fn conditions(
    written: &[document::Abort],
    probes: &[&document::Probe],
    path: &str,
    findings: &mut Findings,
) -> Vec<Condition> {
    let mut conditions = vec![];
    for (number, abort) in written.iter().enumerate() {
        let path = element(path, number);
        let at = |name: &str| field(&path, name);
        let kinds = [abort.probe.is_some(), abort.injections.is_some(), abort.file.is_some()];
        let counts = [abort.consecutive.is_some(), abort.failures.is_some(), abort.error_budget.is_some()];
        let count = |given: &[bool]| given.iter().filter(|given| **given).count();
        match (count(&kinds), count(&counts), abort.probe.is_some()) {
            (1, 1, true) | (1, 0, false) => {}
            (0, 0, _) => findings.lacks(&path, "no condition is named: write one of probe, injections and file"),
            (0 | 1, _, false) => findings.lacks(&path, "it counts failures of nobody: add probe"),
            (1, 0, true) => findings.lacks(
                &path,
                "nothing says how often the probe may fail: add consecutive: 3, failures: 10 or errorBudget: 5%",
            ),
            _ => findings.add(&path, "several conditions are named: write each as an element of its own"),
        }
        if let Some(name) = &abort.probe {
            let known: Vec<String> = probes.iter().filter_map(|probe| probe.name.clone()).collect();
            match probes.iter().find(|probe| probe.name.as_ref() == Some(name)) {
                None => {
                    let hint = match super::super::structure::closest(name, known.iter()) {
                        Some(close) => format!("did you mean {close}?"),
                        None if known.is_empty() => "there is none".to_owned(),
                        None => format!("there are {}", known.join(", ")),
                    };
                    findings.add(&at("probe"), format!("'{name}' is no probe of steadyState: {hint}"));
                }
                Some(probe) => {
                    let mode = probe.mode.unwrap_or_default();
                    if !matches!(mode, document::When::During | document::When::Continuous) {
                        findings.add(
                            &at("probe"),
                            format!("'{name}' is not asked under fault: give it mode: during or continuous"),
                        );
                    }
                }
            }
            let probe = name.clone();
            if let Some(count) = abort.consecutive {
                conditions.push(Condition::Consecutive { probe, count });
            } else if let Some(count) = abort.failures {
                conditions.push(Condition::Failures { probe, count });
            } else if let Some(share) = &abort.error_budget {
                let percent = findings.take(&at("errorBudget"), share.parse::<Percent>());
                conditions
                    .extend(percent.map(|percent| Condition::Budget { probe, percent: percent.percent() }));
            }
        }
        conditions.extend(abort.injections.map(Condition::Injections));
        if let Some(file) = &abort.file {
            if file.starts_with('/') {
                conditions.push(Condition::File(PathBuf::from(file)));
            } else {
                findings.add(
                    &at("file"),
                    format!("'{file}' depends on where kchaos is started: write it from the root on"),
                );
            }
        }
    }
    conditions
}
