//! Experiments of Chaos Toolkit: what is believed, what is done, and what a host cannot do for them.

use super::{
    Options,
    chaos_toolkit_constants::Constants,
    chaos_toolkit_probe,
    draft::{Draft, Out},
    read_commands,
    source::{Fields, scalar},
    table::Table,
};
use crate::experiment::yaml::{Node, Value};

/// What becomes of the strategy that is theirs if nothing is said.
const WHOLE: &str = "mode: continuous, also while the fault acts: theirs is asked before and after the method, where its fault still acts";
/// Longest name that is made of a title.
const NAME_MAX: usize = 60;

/// Whether a document is one.
pub fn is_it(node: &Node) -> bool {
    let Value::Map(fields) = &node.value else { return false };
    let has = |name: &str| fields.iter().any(|(given, _, _)| given == name);
    has("title") && (has("method") || has("steady-state-hypothesis"))
}

/// Reads an experiment.
pub fn read(node: &Node, options: &Options, draft: &mut Draft, table: &mut Table) {
    let Some(mut document) = Fields::of(node, "", table) else { return };
    draft.origin = "an experiment of Chaos Toolkit".to_owned();
    draft.name = "experiment".to_owned();
    document.without("version", "left out: kchaos has versions of its own", table);
    if let Some((path, title)) = document.text("title", table) {
        draft.name = name_of(title);
        draft.annotations.push(("title".to_owned(), Out::text(title)));
        table.exact(&path, format!("metadata.name: {}, and metadata.annotations.title", draft.name));
    }
    if let Some((path, text)) = document.text("description", table) {
        draft.annotations.push(("description".to_owned(), Out::text(text)));
        table.exact(&path, "metadata.annotations.description");
    }
    if let Some(tags) = document.texts("tags", table) {
        let all: Vec<_> = tags.iter().map(|(_, tag)| *tag).collect();
        draft.annotations.push(("tags".to_owned(), Out::text(all.join(", "))));
        tags.iter().for_each(|(path, _)| table.exact(path, "metadata.annotations.tags"));
    }
    let constants = Constants::read(&mut document, table);
    document.refuse("secrets", "kchaos keeps no secrets: leave out what needs them", table);
    document.refuse("controls", "kchaos runs no code around the steps", table);
    document.without("extensions", "left out: they belong to other tools", table);
    document.without("contributions", "left out: they change nothing that is done", table);
    let mode = read_runtime(&mut document, table);
    if let Some(mut hypothesis) = document.map("steady-state-hypothesis", table) {
        if let Some((path, title)) = hypothesis.text("title", table) {
            table.exact(&path, "hypothesis");
            draft.hypothesis = Some(title.to_owned());
        }
        hypothesis.refuse("controls", "kchaos runs no code around the steps", table);
        for (path, node) in hypothesis.list("probes", table).unwrap_or_default() {
            chaos_toolkit_probe::read(node, &path, mode, &constants, draft, table);
        }
        hypothesis.rest(table);
    }
    let mut time = Time::default();
    for (path, node) in document.list("method", table).unwrap_or_default() {
        read_step(node, &path, &constants, options, draft, &mut time, table);
    }
    let Time { seconds: length, .. } = time;
    if !draft.faults.is_empty() && length > 0.0 && draft.duration.is_none() && options.duration.is_none() {
        draft.duration = Some(format!("{length}s"));
        table.exact("(duration)", format!("{length}s: the pauses from the fault on"));
    }
    for (path, node) in document.list("rollbacks", table).unwrap_or_default() {
        read_rollback(node, &path, table);
    }
    document.rest(table);
}

/// A title as a name: letters, digits and dashes.
fn name_of(title: &str) -> String {
    let mut name = String::new();
    for letter in title.to_lowercase().chars() {
        if letter.is_ascii_alphanumeric() {
            name.push(letter);
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
        if name.len() >= NAME_MAX {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    if name.is_empty() { "experiment".to_owned() } else { name.to_owned() }
}

/// When probes are asked, by the strategy of the hypothesis.
fn read_runtime(document: &mut Fields<'_>, table: &mut Table) -> &'static str {
    // Theirs is asked before and after the method, where the fault of an open method still acts.
    let mut mode = "continuous";
    let Some(mut runtime) = document.map("runtime", table) else {
        table.approximated("(runtime.hypothesis.strategy)", WHOLE);
        return mode;
    };
    let mut is_said = false;
    runtime.without("rollbacks", "left out: kchaos takes everything away, whatever happens", table);
    if let Some(mut hypothesis) = runtime.map("hypothesis", table) {
        if let Some((path, strategy)) = hypothesis.text("strategy", table) {
            let known = [
                ("default", "continuous"),
                ("before-method-only", "start"),
                ("after-method-only", "during"),
                ("during-method-only", "during"),
                ("continuously", "continuous"),
            ];
            match known.iter().find(|(name, _)| *name == strategy) {
                Some((_, ours)) => {
                    match strategy {
                        "default" => table.approximated(&path, WHOLE),
                        "after-method-only" => table.approximated(
                            &path,
                            "mode: during: theirs is asked after the method, where its fault still acts",
                        ),
                        _ => table.exact(&path, format!("mode: {ours}")),
                    }
                    mode = ours;
                    is_said = true;
                }
                None => table.refused(&path, format!("'{strategy}' is not a strategy that probes can have")),
            }
        }
        hypothesis.rest(table);
    }
    runtime.rest(table);
    if !is_said {
        table.approximated("(runtime.hypothesis.strategy)", WHOLE);
    }
    mode
}

/// How long the fault of a method acts.
#[derive(Default)]
struct Time {
    seconds: f64,
    /// Whether a step has taken it away.
    is_over: bool,
}

/// A step of the method: a command of tc or pumba is a fault, and the pauses from there on are its time.
fn read_step(
    node: &Node,
    path: &str,
    constants: &Constants,
    options: &Options,
    draft: &mut Draft,
    time: &mut Time,
    table: &mut Table,
) {
    let Some(mut step) = Fields::of(node, path, table) else { return };
    step.refuse("ref", "write what it refers to in its place", table);
    let name = step.text("name", table);
    let kind = step.text("type", table);
    let had = draft.faults.len();
    match &kind {
        Some((at, "probe")) => {
            table.approximated(
                at,
                "left out with its provider: nothing there judges it; below steadyState it is judged",
            );
            for field in ["provider", "tolerance"] {
                step.without(field, "see type", table);
            }
        }
        Some((at, "action")) => {
            table.exact(at, "see its provider");
            match step.map("provider", table) {
                Some(provider) => read_action(provider, constants, options, draft, table),
                None => table.refused(&step.path("provider"), "it is missing"),
            }
        }
        Some((at, other)) => table.refused(at, format!("'{other}' is not one of action, probe")),
        None => {}
    }
    if let Some((at, name)) = name {
        let is_fault = draft.faults.len() > had;
        if is_fault && let Some((ours, ..)) = draft.faults.last_mut() {
            *ours = name_of(name);
        }
        table.exact(&at, if is_fault { "the fault's name" } else { "see type" });
    }
    // What takes the fault away ends its time.
    let ended = time.is_over;
    time.is_over |= takes_away(node);
    let acts = !draft.faults.is_empty() && !ended;
    if let Some(mut pauses) = step.map("pauses", table) {
        for side in ["before", "after"] {
            let Some((at, text)) = constants.text(&mut pauses, side, table) else { continue };
            match text.parse::<f64>() {
                Ok(seconds) if (0.0..=31_536_000.0).contains(&seconds) => {
                    // What is waited for before the fault is not its time.
                    let begins = draft.faults.len() > had;
                    let ends = time.is_over && !ended;
                    let counts = acts && !(begins && side == "before") && !(ends && side == "after");
                    if counts {
                        time.seconds += seconds;
                    }
                    let note = if counts { "part of duration" } else { "left out: no fault acts then" };
                    if counts { table.exact(&at, note) } else { table.approximated(&at, note) }
                }
                _ => table.refused(&at, format!("'{text}' is no number of seconds")),
            }
        }
        pauses.rest(table);
    }
    step.without("background", "left out: faults act until the end", table);
    for name in ["controls", "configuration", "secrets"] {
        step.refuse(name, "kchaos runs no code around the steps, and has one configuration", table);
    }
    step.rest(table);
}

fn read_action(
    mut provider: Fields<'_>,
    constants: &Constants,
    options: &Options,
    draft: &mut Draft,
    table: &mut Table,
) {
    match provider.text("type", table) {
        Some((at, "process")) => {
            table.exact(&at, "see arguments");
            let words = chaos_toolkit_probe::words(&mut provider, constants, table);
            provider.without("timeout", "left out: nothing is run that could hang", table);
            provider.rest(table);
            let Some(words) = words else { return };
            // They name what they read after themselves.
            let (origin, name) = (draft.origin.clone(), draft.name.clone());
            read_commands(&[words], options, draft, table);
            (draft.origin, draft.name) = (origin, name);
        }
        Some((at, "python")) => {
            table.refused(&at, "kchaos runs no Python: write the fault that the function inflicts");
            for name in ["module", "func", "arguments", "secrets"] {
                provider.refuse(name, "see type", table);
            }
            provider.rest(table);
        }
        Some((at, other)) => {
            table.refused(
                &at,
                format!("an action by '{other}' inflicts nothing that kchaos could: start it beside"),
            );
            for name in
                ["url", "method", "headers", "arguments", "timeout", "secrets", "verify_tls", "max_retries"]
            {
                provider.refuse(name, "see type", table);
            }
            provider.rest(table);
        }
        None => {
            table.refused(&provider.path("type"), "it is missing: write process, http or python");
            provider.rest(table);
        }
    }
}

fn read_rollback(node: &Node, path: &str, table: &mut Table) {
    if takes_away(node) {
        table.exact(path, "kchaos takes away everything itself, whatever happens");
    } else {
        table.refused(path, "kchaos undoes what it has done, and nothing else: do it beside");
    }
}

/// Whether a step does nothing but take a fault away: a qdisc, or those of kchaos.
fn takes_away(node: &Node) -> bool {
    fn entry<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
        let Value::Map(fields) = &node.value else { return None };
        fields.iter().find(|(given, _, _)| given == name).map(|(_, _, node)| node)
    }
    let Some(provider) = entry(node, "provider") else { return false };
    let mut words: Vec<&str> = entry(provider, "path").and_then(scalar).into_iter().collect();
    match entry(provider, "arguments") {
        Some(Node { value: Value::List(list), .. }) => words.extend(list.iter().filter_map(scalar)),
        Some(node) => words.extend(scalar(node).unwrap_or_default().split_whitespace()),
        None => {}
    }
    let is = |word: &str, name: &str| word.rsplit('/').next() == Some(name);
    let words = if words.first().is_some_and(|word| is(word, "sudo")) { &words[1..] } else { &words[..] };
    let has_shell = words.iter().any(|word| word.contains([';', '&', '|']));
    match words {
        [program, "qdisc", "del" | "delete", ..] => is(program, "tc") && !has_shell,
        [program, "stop" | "halt" | "clean", ..] => is(program, "kchaos") && !has_shell,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_become_names() {
        assert_eq!(name_of("Does it bear 5% loss?  (v2)"), "does-it-bear-5-loss-v2");
        assert_eq!(name_of("…"), "experiment");
        assert!(name_of(&"a ".repeat(100)).len() <= NAME_MAX);
    }
}
