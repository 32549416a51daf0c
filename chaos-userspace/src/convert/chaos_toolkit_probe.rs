//! Probes of Chaos Toolkit.

use super::{
    chaos_toolkit_constants::{Constant, Constants},
    chaos_toolkit_tolerance,
    draft::{Draft, Out},
    source::{Fields, scalar},
    table::Table,
};
use crate::experiment::yaml::{Node, Value};

/// What a probe measures of the output of its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The status and the body of an answer.
    Http,
    /// The status and the output of a process.
    Process,
}

/// Reads a probe of the hypothesis.
pub fn read(
    node: &Node,
    path: &str,
    mode: &str,
    constants: &Constants,
    draft: &mut Draft,
    table: &mut Table,
) {
    let refusals = table.refusals();
    let Some(mut probe) = Fields::of(node, path, table) else { return };
    probe.refuse("ref", "write what it refers to in its place", table);
    if let Some((at, kind)) = probe.text("type", table) {
        match kind {
            "probe" => table.exact(&at, "steadyState"),
            other => {
                table.refused(&at, format!("'{other}' has nothing to say of a steady state: write probe"))
            }
        }
    }
    let mut fields = vec![];
    match probe.text("name", table) {
        Some((at, name)) => {
            table.exact(&at, "name");
            fields.push(("name".to_owned(), Out::text(name)));
        }
        None => table.refused(&probe.path("name"), "it is missing"),
    }
    let mut timeout = None;
    let (mut asked, mut retries) = (None, None);
    match probe.map("provider", table) {
        Some(mut provider) => {
            asked = match provider.text("type", table) {
                Some((at, "http")) => {
                    table.exact(&at, "http");
                    retries = read_retries(&mut provider, table);
                    read_http(&mut provider, constants, table).map(|fields| (Provider::Http, fields))
                }
                Some((at, "process")) => {
                    table.exact(&at, "command");
                    words(&mut provider, constants, table)
                        .map(|words| (Provider::Process, vec![("argv".to_owned(), Out::texts(words))]))
                }
                Some((at, other)) => {
                    let why = if other == "python" {
                        "kchaos runs no Python: write a command, or a request, that asks the same".to_owned()
                    } else {
                        format!("'{other}' is not one of http, process, python")
                    };
                    table.refused(&at, why);
                    for name in ["module", "func", "arguments", "secrets"] {
                        provider.refuse(name, "see type", table);
                    }
                    None
                }
                None => {
                    table.refused(&provider.path("type"), "it is missing: write http or process");
                    None
                }
            };
            let of = asked.as_ref().map(|(provider, _)| *provider);
            timeout = read_timeout(&mut provider, of, constants, table);
            provider.rest(table);
        }
        None => table.refused(&probe.path("provider"), "it is missing"),
    }
    let of = asked.as_ref().map(|(provider, _)| *provider);
    let tolerance = match (probe.take("tolerance", table), of) {
        (Some((at, node)), Some(of)) => chaos_toolkit_tolerance::read(node, &at, of, constants, table),
        (Some((at, _)), None) => {
            table.refused(&at, "see its provider");
            None
        }
        (None, _) => {
            table.refused(&probe.path("tolerance"), "it is missing: a probe of the hypothesis needs one");
            None
        }
    };
    probe.without("pauses", "left out: probes are asked at the same time, again and again (interval)", table);
    probe.without("background", "left out: nothing waits for a probe", table);
    for name in ["controls", "configuration", "secrets"] {
        probe.refuse(name, "kchaos runs no code around a probe, and has one configuration", table);
    }
    probe.rest(table);
    let (Some((of, mut asks)), Some((measure, tolerated))) = (asked, tolerance) else { return };
    if table.refusals() != refusals {
        return;
    }
    if let Some(measure) = measure {
        asks.push(("measure".to_owned(), Out::text(measure)));
    }
    fields.push((if of == Provider::Http { "http" } else { "command" }.to_owned(), Out::Map(asks)));
    fields.push(("tolerance".to_owned(), Out::Map(tolerated)));
    fields.push(("mode".to_owned(), Out::text(mode)));
    match timeout {
        Some(timeout) => fields.push(("timeout".to_owned(), Out::text(timeout))),
        None => {
            table.approximated(&format!("({path}.provider.timeout)"), "timeout: 5s; theirs waits for ever")
        }
    }
    fields.extend(retries.map(|retries| ("retries".to_owned(), Out::Bare(retries.to_string()))));
    draft.steady_state.push(Out::Map(fields));
}

fn read_retries(provider: &mut Fields<'_>, table: &mut Table) -> Option<u32> {
    let (at, text) = provider.text("max_retries", table)?;
    match text.parse() {
        Ok(0) => table.exact(&at, "none"),
        Ok(retries @ 1..=100) => {
            table.approximated(&at, format!("retries: {retries}, also if the answer is not tolerated"));
            return Some(retries);
        }
        _ => table.refused(&at, format!("'{text}' is no number from 0 to 100")),
    }
    None
}

fn read_http(
    provider: &mut Fields<'_>,
    constants: &Constants,
    table: &mut Table,
) -> Option<Vec<(String, Out)>> {
    let refusals = table.refusals();
    let mut fields = vec![];
    match constants.text(provider, "url", table) {
        Some((at, url)) => {
            table.exact(&at, "http.url");
            table.approximated(
                &format!("({at})"),
                "a redirect is an answer, and proxies of the environment are not asked; theirs follows and asks them",
            );
            fields.push(("url".to_owned(), Out::text(url)));
        }
        // Otherwise it was told why.
        None if table.refusals() == refusals => table.refused(&provider.path("url"), "it is missing"),
        None => {}
    }
    if let Some((at, method)) = constants.text(provider, "method", table) {
        let method = method.to_uppercase();
        if ["GET", "HEAD", "POST", "PUT", "DELETE"].contains(&method.as_str()) {
            table.exact(&at, format!("http.method: {method}"));
            fields.push(("method".to_owned(), Out::text(method)));
        } else {
            table.refused(&at, format!("'{method}' is not one of GET, HEAD, POST, PUT, DELETE"));
        }
    }
    if let Some((at, node)) = provider.take("headers", table) {
        let Value::Map(headers) = &node.value else {
            table.refused(&at, "it is no mapping of texts");
            return None;
        };
        let mut kept = vec![];
        for (name, _, value) in headers {
            let at = crate::experiment::findings::field(&at, name);
            let Some(text) = scalar(value) else {
                table.refused(&at, "it is no text: write a single value");
                continue;
            };
            // Otherwise it was told why.
            if let Some(text) = constants.fill(&at, text, table) {
                table.exact(&at, "http.headers");
                kept.push((name.clone(), Out::text(text)));
            }
        }
        fields.push(("headers".to_owned(), Out::Map(kept)));
    }
    provider.refuse(
        "arguments",
        "write a question's arguments behind ? in the url; a body is a text of its own in kchaos (http.body)",
        table,
    );
    if let Some((at, text)) = provider.text("verify_tls", table) {
        match text {
            "true" | "True" => table.exact(&at, "certificates are checked"),
            _ => table.refused(
                &at,
                "kchaos checks certificates: ask the server behind, or use curl -k as a command",
            ),
        }
    }
    provider.refuse("expected_status", "their code does not read it: write it as tolerance", table);
    provider.refuse("secrets", "kchaos keeps no secrets", table);
    Some(fields)
}

/// Seconds, or those for connecting and those for reading.
fn read_timeout(
    provider: &mut Fields<'_>,
    of: Option<Provider>,
    constants: &Constants,
    table: &mut Table,
) -> Option<String> {
    let (at, node) = provider.take("timeout", table)?;
    let seconds =
        |text: &str| text.parse::<f64>().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    match &node.value {
        Value::List(both) => {
            let both: Option<Vec<f64>> = both.iter().map(|one| scalar(one).and_then(seconds)).collect();
            match both.as_deref() {
                Some([connect, read]) => {
                    let sum = connect + read;
                    table.approximated(&at, format!("timeout: {sum}s for all of the answer"));
                    Some(format!("{sum}s"))
                }
                _ => {
                    table.refused(&at, "it is no pair of seconds");
                    None
                }
            }
        }
        _ => {
            let text = constants.fill(&at, scalar(node)?, table)?;
            match seconds(&text) {
                Some(seconds) => {
                    let note = format!("timeout: {seconds}s");
                    if of == Some(Provider::Http) {
                        let differs = "for all of the answer; theirs for connecting, and for each part of it";
                        table.approximated(&at, format!("{note} {differs}"));
                    } else {
                        table.exact(&at, note);
                    }
                    Some(format!("{seconds}s"))
                }
                None => {
                    table.refused(&at, "it is no number of seconds");
                    None
                }
            }
        }
    }
}

/// The words of a process, if all of them are known.
pub fn words(provider: &mut Fields<'_>, constants: &Constants, table: &mut Table) -> Option<Vec<String>> {
    let refusals = table.refusals();
    let mut words = vec![];
    match constants.text(provider, "path", table) {
        Some((at, path)) => {
            table.exact(&at, "the first word");
            words.push(path);
        }
        None if table.refusals() == refusals => table.refused(&provider.path("path"), "it is missing"),
        None => {}
    }
    if let Some((at, node)) = provider.take("arguments", table) {
        match &node.value {
            Value::List(list) => {
                for (number, node) in list.iter().enumerate() {
                    let at = crate::experiment::findings::element(&at, number);
                    add(node, &at, &mut words, constants, table);
                }
            }
            Value::Map(fields) => {
                for (name, _, value) in fields {
                    let at = crate::experiment::findings::field(&at, name);
                    words.push(name.clone());
                    add(value, &at, &mut words, constants, table);
                }
            }
            _ => read_line(node, &at, &mut words, constants, table),
        }
    }
    provider.refuse("secrets", "kchaos keeps no secrets", table);
    (table.refusals() == refusals).then_some(words)
}

fn add(node: &Node, at: &str, words: &mut Vec<String>, constants: &Constants, table: &mut Table) {
    if node.value.is_empty() || scalar(node) == Some("") {
        return table.exact(at, "nothing, as there");
    }
    let Some(value) = constants.value(at, node, table) else { return };
    let text = value.text().to_owned();
    match &value {
        Constant::Bool(_) => table.exact(at, format!("a word, {text}: what theirs makes of a truth value")),
        _ => table.exact(at, "a word"),
    }
    words.push(text);
}

/// A text of arguments runs through a shell there, and here only if it needs none.
fn read_line(node: &Node, at: &str, words: &mut Vec<String>, constants: &Constants, table: &mut Table) {
    let text = scalar(node).and_then(|text| constants.fill(at, text, table));
    let split =
        text.filter(|text| !text.contains(['|', '&', ';', '<', '>', '$', '`', '*', '?', '~', '(', '\n']));
    match split.as_deref().and_then(shlex::split) {
        Some(more) => {
            table.exact(at, "words; no shell is needed for them");
            words.extend(more);
        }
        None => table.refused(at, "it needs a shell, which kchaos does not start: write a script, or path: sh and arguments: [-c, …]"),
    }
}
