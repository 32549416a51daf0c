//! Golden files: sources in `testdata/convert`, each with what it becomes beside it. UPDATE=1 writes them anew.

use super::{table::Fate, *};
use crate::experiment::findings::{element, field};
use proptest::prelude::*;
use std::{fs, path::PathBuf};

fn sources() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/convert");
    let mut all: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension != "expected"));
    all.sort();
    assert!(all.len() >= 120, "{}", all.len());
    all
}

/// What the first line of a source says behind `# flags:`.
fn options(text: &str) -> Options {
    let mut options = Options::default();
    let flags = text.lines().next().and_then(|line| line.strip_prefix("# flags:")).unwrap_or_default();
    let mut words = flags.split_whitespace();
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        match flag {
            "--target" => {
                let (kind, name) = value.split_once('=').unwrap();
                options.targets.push((kind.to_owned(), name.to_owned()));
            }
            "--remote" => options.remotes.push(value.to_owned()),
            "--duration" => options.duration = Some(value.to_owned()),
            other => panic!("{other}"),
        }
    }
    options
}

/// Paths of all single values.
fn leaves(node: &Node, path: &str, found: &mut Vec<String>) {
    match &node.value {
        Value::Map(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, _, value)| leaves(value, &field(path, name), found));
        }
        Value::List(list) if !list.is_empty() => {
            list.iter().enumerate().for_each(|(number, value)| leaves(value, &element(path, number), found));
        }
        _ => found.push(path.to_owned()),
    }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Map(fields) => fields.iter().map(|(name, _, value)| (name.clone(), json(value))).collect(),
        Value::List(list) => list.iter().map(json).collect(),
        Value::Scalar { text, plain: true } if text == "true" => true.into(),
        Value::Scalar { text, plain: true } => {
            text.parse::<u64>().map_or_else(|_| text.as_str().into(), Into::into)
        }
        Value::Scalar { text, .. } => text.as_str().into(),
    }
}

#[test]
fn sources_become_what_is_beside_them() {
    let validator = jsonschema::validator_for(&experiment::schema()).unwrap();
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = vec![];
    for path in sources() {
        let name = path.display();
        let text = fs::read_to_string(&path).unwrap();
        let found = match convert(&text, &options(&text)) {
            Ok(converted) => {
                if let Some(file) = &converted.file {
                    experiment::read("file", file).unwrap_or_else(|error| panic!("{name}: {error}\n{file}"));
                    assert!(validator.is_valid(&json(&yaml::read(file).unwrap()[0])), "{name}:\n{file}");
                }
                assert!(converted.file.is_some() || converted.table.refusals() > 0, "{name}");
                assert!(converted.table.0.iter().all(|row| !row.note.is_empty()), "{name}");
                every_field_is_there(&text, &converted.table, &name.to_string());
                format!("{}---\n{}", converted.table.text(), converted.file.unwrap_or_default())
            }
            Err(error) => format!("error: {error}\n"),
        };
        let beside = path.with_extension("expected");
        if update {
            fs::write(&beside, &found).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != found {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nothing is ignored silently: each value of a document, and each word of a command line, has its row.
fn every_field_is_there(text: &str, table: &Table, name: &str) {
    let rows: Vec<&str> = table.0.iter().map(|row| row.field.as_str()).collect();
    if let Some(lines) = commands(text).unwrap() {
        let mut said: Vec<_> = rows.iter().flat_map(|row| row.split_whitespace()).collect();
        said.extend(["tc", "random"]);
        for word in lines.iter().flatten().flat_map(|word| word.split_whitespace()) {
            assert!(said.contains(&word), "{name}: {word} has no row");
        }
        return;
    }
    let mut found = vec![];
    leaves(&document(text).unwrap(), "", &mut found);
    for leaf in found {
        let covered = rows.iter().any(|row| {
            leaf.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        assert!(covered, "{name}: {leaf} has no row");
    }
}

#[test]
fn a_host_is_asked_for_what_it_cannot_know() {
    let line = "tc qdisc add dev eth0 root netem loss 1%";
    let found = convert(line, &Options::default()).unwrap();
    assert!(found.file.is_none());
    let refused: Vec<_> = found.table.0.iter().filter(|row| row.fate == Fate::Refused).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].note.contains("--target") && refused[1].note.contains("--duration"), "{refused:?}");
    let told = Options {
        targets: vec![("unit".into(), "web.service".into())],
        duration: Some("1m".into()),
        ..Options::default()
    };
    let found = convert(line, &told).unwrap();
    assert_eq!(found.table.refusals(), 0);
    let file = experiment::read("f", &found.file.unwrap()).unwrap();
    assert_eq!(file.spec.faults, crate::cli::faults_of("--loss 1%").unwrap());
}

#[test]
fn control_characters_of_a_source_do_not_reach_a_terminal() {
    let mut table = Table::default();
    table.refused("a\u{1b}[2Jb", "c\nd");
    assert_eq!(table.text().matches('?').count(), 2);
    assert_eq!(table.text().lines().count(), 1);
}

/// What is written without refused fields hits no more than the source does.
#[test]
fn nothing_is_widened_by_leaving_something_out() {
    let told = Options {
        targets: vec![("unit".into(), "web.service".into())],
        duration: None,
        ..Options::default()
    };
    let head = "apiVersion: chaos-mesh.org/v1alpha1\nmetadata: {name: x}\n";
    let network =
        "kind: NetworkChaos\nspec: {selector: {nodes: [a]}, duration: 1m, action: loss, loss: {loss: 5}";
    let io =
        "kind: IOChaos\nspec: {selector: {nodes: [a]}, duration: 1m, action: fault, errno: 5, volumePath: /d";
    for (rest, is_written) in [
        (format!("{network}, mode: all, colour: red}}"), true),
        (format!("{network}, mode: some}}"), false),
        (format!("{network}, mode: all, target: {{mode: all}}}}"), false),
        (format!("{network}, mode: all, externalTargets: [\"a b\"]}}"), false),
        (format!("{network}, mode: all, direction: up}}"), false),
        (format!("{io}, mode: all, methods: [open, flush]}}"), true),
        (format!("{io}, mode: all, path: /e/x}}"), false),
        (format!("{io}, mode: all, percent: 101}}"), false),
        (
            format!(
                "kind: Schedule\nspec: {{type: IOChaos, {}, mode: some}}}}",
                io.replace("kind: IOChaos\nspec:", "ioChaos:")
            ),
            false,
        ),
    ] {
        let found = convert(&format!("{head}{rest}"), &told).unwrap();
        assert!(found.table.refusals() > 0, "{rest}");
        assert_eq!(found.file.is_some(), is_written, "{rest}:\n{}", found.table.text());
    }
}

proptest! {
    /// Whatever is cut out of a source or put into it: an experiment that can be read, a table that says why not, or an error.
    #[test]
    fn any_change_of_a_source_is_converted_or_refused(
        which in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        cut in 0usize..30,
        put in "[a-z{}:,\\-\\[\\] 0-9%\n'\"]{0,6}",
    ) {
        let sources = sources();
        let text = fs::read_to_string(&sources[which.index(sources.len())]).unwrap();
        let letters: Vec<char> = text.chars().collect();
        let begin = at.index(letters.len());
        let end = (begin + cut).min(letters.len());
        let changed: String =
            letters[..begin].iter().copied().chain(put.chars()).chain(letters[end..].iter().copied()).collect();
        match convert(&changed, &Options::default()) {
            Ok(Converted { file: Some(file), .. }) => {
                let read = experiment::read("file", &file);
                prop_assert!(read.is_ok(), "{}\n{file}\n---\n{changed}", read.err().unwrap());
            }
            Ok(Converted { file: None, table }) => prop_assert!(table.refusals() > 0, "{changed}"),
            Err(error) => prop_assert!(!error.is_empty()),
        }
    }
}
