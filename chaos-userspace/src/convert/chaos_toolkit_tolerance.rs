//! What a probe of Chaos Toolkit tolerates.

use super::{
    chaos_toolkit_constants::{Constant, Constants},
    chaos_toolkit_probe::Provider,
    draft::Out,
    source::{Fields, scalar},
    table::Table,
};
use crate::experiment::yaml::{Node, Value};

/// What is measured, if it is not the status, and what is tolerated of it.
pub type Tolerated = (Option<&'static str>, Vec<(String, Out)>);

/// Reads a tolerance; nothing if it was refused.
pub fn read(
    node: &Node,
    at: &str,
    of: Provider,
    constants: &Constants,
    table: &mut Table,
) -> Option<Tolerated> {
    match &node.value {
        Value::Scalar { .. } => match constants.value(at, node, table)? {
            Constant::Number(number) if number.parse::<i64>().is_ok() => {
                table.exact(at, format!("tolerance.equals: {number}, of the status"));
                Some((None, vec![("equals".to_owned(), Out::Bare(number))]))
            }
            other => {
                table.refused(
                    at,
                    format!(
                        "'{}' is compared with an output that has parts, and never holds: write a status as a whole number without quotes, or a mapping",
                        other.text()
                    ),
                );
                None
            }
        },
        Value::List(list) => {
            // In lists theirs fills nothing in, and a text is no status.
            let whole = |one: &Node| match Constant::of(one)? {
                Constant::Number(number) => number.parse::<i64>().ok(),
                _ => None,
            };
            let all: Option<Vec<i64>> = list.iter().map(whole).collect();
            match all {
                Some(all) if !all.is_empty() => {
                    table.exact(at, "tolerance.oneOf, of the status: also of two, they are no range");
                    let all = all.iter().map(|status| Out::Bare(status.to_string())).collect();
                    Some((None, vec![("oneOf".to_owned(), Out::List(all))]))
                }
                _ => {
                    table.refused(
                        at,
                        "a status is a whole number without quotes, and nothing is filled in here: write those that are tolerated",
                    );
                    None
                }
            }
        }
        Value::Map(_) => {
            let mut fields = Fields::of(node, at, table)?;
            let refusals = table.refusals();
            let tolerated = read_check(&mut fields, of, constants, table);
            fields.rest(table);
            tolerated.filter(|_| table.refusals() == refusals)
        }
    }
}

/// What a check is about; theirs fills nothing in there.
fn read_target(fields: &mut Fields<'_>, of: Provider, table: &mut Table) -> Option<Option<&'static str>> {
    let text = if of == Provider::Http { "body" } else { "stdout" };
    match fields.text("target", table) {
        Some((at, "status")) => {
            table.exact(&at, "the status");
            Some(None)
        }
        Some((at, name)) if name == text => {
            if of == Provider::Process {
                table.approximated(
                    &at,
                    "measure: stdout, without blanks and line ends around it; an exit status other than 0 is a failure too",
                );
            } else {
                table.exact(&at, "measure: body");
            }
            Some(Some(text))
        }
        Some((at, name)) => {
            table.refused(&at, format!("'{name}' is not measured: write status or {text}"));
            None
        }
        None => {
            table.refused(&fields.path("target"), format!("it is missing: write status or {text}"));
            None
        }
    }
}

fn read_check(
    fields: &mut Fields<'_>,
    of: Provider,
    constants: &Constants,
    table: &mut Table,
) -> Option<Tolerated> {
    let kind = fields.text("type", table);
    fields.without("name", "left out: a tolerance has no name", table);
    let measure = read_target(fields, of, table);
    let (at, kind) = kind?;
    match kind {
        "regex" => {
            table.exact(&at, "tolerance.regex");
            let (at, pattern) = constants.text(fields, "pattern", table)?;
            let measure = measure?;
            if measure.is_none() {
                table.refused(&at, "a status is a number: write those that are tolerated");
                return None;
            }
            if let Err(error) = regex::Regex::new(&pattern) {
                let error = error.to_string();
                table.refused(
                    &at,
                    format!("it is no regular expression here: {}", error.lines().last().unwrap_or_default()),
                );
                return None;
            }
            let end =
                if pattern.contains('$') { ", and $ is its very end, behind a last line end" } else { "" };
            if of == Provider::Http {
                table.approximated(
                    &at,
                    format!("tolerance.regex, of the body's text{end}; theirs fails where the answer is application/json"),
                );
            } else {
                table.exact(&at, "tolerance.regex");
            }
            Some((measure, vec![("regex".to_owned(), Out::text(pattern))]))
        }
        "range" => {
            table.exact(&at, "tolerance.atLeast and atMost");
            let range = fields.texts("range", table)?;
            let ends: Vec<_> = range.iter().filter_map(|(_, text)| text.parse::<f64>().ok()).collect();
            let [low, high] = ends[..] else {
                table.refused(&fields.path("range"), "it is no pair of numbers");
                return None;
            };
            range.iter().for_each(|(at, text)| table.exact(at, *text));
            let bare = |number: f64| Out::Bare(number.to_string());
            Some((measure?, vec![("atLeast".to_owned(), bare(low)), ("atMost".to_owned(), bare(high))]))
        }
        "jsonpath" => {
            table.exact(&at, "tolerance.jsonPath");
            fields.refuse("count", "how often a path matches is not counted: write expect", table);
            let (at, path) = constants.text(fields, "path", table)?;
            let path = if path.starts_with('$') { path } else { format!("$.{path}") };
            table.approximated(&at, format!("tolerance.jsonPath: {path}, read as RFC 9535 says"));
            let mut tolerated = vec![("jsonPath".to_owned(), Out::text(path))];
            if let Some((at, node)) = fields.any("expect") {
                tolerated.push(("equals".to_owned(), read_expect(&at, node, constants, table)?));
            }
            Some((measure?, tolerated))
        }
        other => {
            let why = if other == "probe" {
                "a probe that judges another is code: write a regular expression, a range or a JSONPath"
                    .to_owned()
            } else {
                format!("'{other}' is not one of regex, range, jsonpath, probe")
            };
            table.refused(&at, why);
            for name in ["provider", "pattern", "path", "range", "expect", "count"] {
                fields.refuse(name, "see type", table);
            }
            None
        }
    }
}

/// What the path leads to: theirs wants one match with exactly this value, which may be nothing (`null`).
fn read_expect(at: &str, node: &Node, constants: &Constants, table: &mut Table) -> Option<Out> {
    let node = match &node.value {
        Value::List(list) => match &list[..] {
            [one] if scalar(one).is_some() => one,
            _ => {
                table.refused(at, "several matches cannot be compared: write a path that leads to one value");
                return None;
            }
        },
        _ => node,
    };
    if node.value.is_empty() {
        table.approximated(
            at,
            "tolerance.equals: null, which the path has to lead to; the text \"null\" is tolerated too",
        );
        return Some(Out::text("null"));
    }
    let value = constants.value(at, node, table)?;
    let (shown, wanted) = match value {
        Constant::Number(number) => (number.clone(), Out::Bare(number)),
        Constant::Bool(truth) => (truth.to_string(), Out::text(truth.to_string())),
        Constant::Text(text) => (text.clone(), Out::text(text)),
    };
    let is_alike = match &wanted {
        Out::Text(text) => {
            text.trim().parse::<f64>().is_ok() || ["true", "false", "null"].contains(&text.as_str())
        }
        _ => true,
    };
    if is_alike {
        table.approximated(
            at,
            format!("tolerance.equals: {shown}; with quotes in the answer and without is the same here"),
        );
    } else {
        table.exact(at, format!("tolerance.equals: {shown}"));
    }
    Some(wanted)
}
