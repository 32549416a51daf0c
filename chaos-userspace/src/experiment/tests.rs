//! Files against what flags mean, examples against the schema, mistakes against both.

use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

fn examples() -> Vec<(String, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    all.sort();
    assert!(all.len() >= 14, "{all:?}");
    all
}

/// A tree as JSON, without the schema's help: what an editor would check.
fn json(node: &yaml::Node) -> serde_json::Value {
    match &node.value {
        yaml::Value::Map(fields) => {
            fields.iter().map(|(name, _, value)| (name.clone(), json(value))).collect()
        }
        yaml::Value::List(list) => list.iter().map(json).collect(),
        yaml::Value::Scalar { text, plain: false } => text.as_str().into(),
        yaml::Value::Scalar { text, plain: true } => match text.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            text => text.parse::<u64>().map_or_else(|_| text.into(), Into::into),
        },
    }
}

fn validates(text: &str) -> bool {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    validator.is_valid(&json(&yaml::read(text).unwrap()[0]))
}

fn with(faults: &str) -> String {
    format!(
        "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: x}}\nspec:\n  hypothesis: h\n  duration: 10s\n  \
         targets: [{{cgroup: /x}}]\n  faults:\n{faults}\n"
    )
}

fn problems(text: &str) -> Vec<Problem> {
    read("f", text).unwrap_err().problems
}

#[test]
fn examples_are_read_and_validate() {
    for (name, text) in examples() {
        let experiment = read(&name, &text).unwrap_or_else(|error| panic!("{error}"));
        assert!(!experiment.spec.faults.is_empty() && !experiment.explain().is_empty(), "{name}");
        assert!(validates(&text), "{name} does not fit the schema");
    }
}

/// The same faults in both languages.
const SAME: &[(&str, &str)] = &[
    ("network: {loss: 5%}", "--loss 5%"),
    (
        "network: {loss: {every: 7, after: 3, limit: 9}, direction: both, match: {protocol: udp, remote: [10.0.0.0/8, \
         \"!10.1.0.0/16\", db.example.org], remotePorts: [53, 6000-6010], localPorts: [\"!80\"]}}",
        "--loss every=7,after=3,limit=9 --direction both --protocol udp --remote 10.0.0.0/8 --remote !10.1.0.0/16 --remote \
         db.example.org --remote-port 53 --remote-port 6000-6010 --local-port !80",
    ),
    (
        "network: {loss: {model: gemodel, p: 1%, r: 10%, h: 30%, k: 99.5%}}",
        "--loss-model gemodel:p=1%,r=10%,1-h=70%,1-k=0.5%",
    ),
    ("network: {loss: {model: state, p13: 1%, p31: 20%}}", "--loss-model state:p13=1%,p31=20%"),
    ("network: {partition: true}", "--partition"),
    ("network: {reset: 3%, perFlow: true}", "--reset 3% --per-flow"),
    (
        "network: {delay: {time: 100ms, jitter: 20ms, distribution: pareto, correlation: 25%, probability: 50%}, reorder: 5%, \
         duplicate: 1%, corrupt: {probability: 2%, payload: true}, rate: 10mbit}",
        "--delay 100ms@50% --jitter 20ms --distribution pareto --correlation 25% --reorder 5% --duplicate 1% --corrupt \
         2%:payload --rate 10mbit",
    ),
    (
        "network: {delay: [{time: 10ms}, {time: 20ms, rate: 1mbit, queue: 10}]}",
        "--delay 10ms --delay 20ms --rate 2gbit --rate 1mbit --queue 5 --queue 10",
    ),
    ("network: {rate: 10mbit}", "--rate 10mbit"),
    ("syscall: {calls: [openat], error: EIO, probability: 10%}", "--fail openat=EIO@10%"),
    (
        "syscall: {calls: [write, \"%file\"], errors: [{errno: EIO, weight: 3}, {return: 0}], when: 3..9+2, per: process}",
        "--fail write=EIO:3,return=0:1,when=3..9+2,per=process --fail %file=EIO:3,return=0:1,when=3..9+2,per=process",
    ),
    (
        "syscall: {calls: [write], error: 5, every: 2, match: {comm: [nginx, \"!re*\"], uid: [1000], path: [\"/a,b/*\"], fd: \
         [file], size: {min: 1, max: 9}, access: write, remote: [10.0.0.0/8], remotePorts: [80, \"!81\"]}}",
        "--fail write=5,every=2,comm=nginx,comm=!re*,uid=1000,path=/a\\,b/*,fd=file,size>=1,size<=9,access=write,\
         remote=10.0.0.0/8,remote-port=80,remote-port=!81",
    ),
    (
        "syscall: {calls: [read], match: {pathPrefix: /a/}, return: 3}",
        "--fail read=return=3,path=/a,path=/a/*",
    ),
    (
        "syscall: {calls: [connect], latency: {time: 20ms, jitter: 5ms}, probability: 10%}",
        "--slow connect=20ms@10%,jitter=5ms",
    ),
];

#[test]
fn a_file_means_what_flags_mean() {
    for (number, (file, flags)) in SAME.iter().enumerate() {
        // The one delay whose rate a flag cannot leave out.
        let file = if number == 7 {
            "network: {delay: [{time: 10ms, rate: 2gbit, queue: 5}, {time: 20ms, rate: 1mbit, queue: 10}]}"
        } else {
            file
        };
        let text = with(&format!("    - {file}"));
        let of_file = read("f", &text).unwrap_or_else(|error| panic!("{file}: {error}")).spec;
        assert!(validates(&text), "{file}");
        let of_flags = crate::cli::faults_of(flags).unwrap_or_else(|error| panic!("{flags}: {error}"));
        assert_eq!(of_file.faults, of_flags, "{file} and {flags}");
    }
}

/// Twenty mistakes, each with its line, column and a word of its message.
const MISTAKES: &str = r#"apiVersion: kchaos.dev/v1beta9
kind: Experimnt
metadata:
  name: ""
  lables: {}
spec:
  hypothesis: h
  duration: 60
  mode: destroy
  seed: many
  targets:
    - unit: multi-user.target
    - {pid: 0}
    - {}
  selection: {count: 30 %}
  allow: [exece]
  faults:
    - network:
        direction: sideways
        match: {remote: [10.0.0.1/8], remotePorts: [70000], protocl: tcp}
        loss: 5
        delay: {time: 100, jitter: 5ms}
    - syscall: {calls: [opnat], error: EIOO, probability: 110%}
    - netwrok: {loss: 5%}
  steadyState:
    - name: a
      http: {url: "ftp://x/"}
    - name: a
      cgroup: {measure: cpu}
      tolerance: {atMost: 50}
      retries: -1
  abort:
    - {probe: b, consecutive: 3}
    - {file: stop}
"#;

const FOUND: &[(usize, usize, &str)] = &[
    (1, 13, "did you mean kchaos.dev/v1alpha1?"),
    (2, 7, "did you mean Experiment?"),
    (4, 9, "empty"),
    (5, 3, "did you mean labels?"),
    (8, 13, "unit"),
    (9, 9, "enforce"),
    (10, 9, "whole number"),
    (12, 13, "has no processes"),
    (13, 13, "from 1"),
    (14, 7, "nobody is named"),
    (15, 22, "'30 %'"),
    (16, 11, "execve"),
    (19, 20, "egress"),
    (20, 26, "did you mean 10.0.0.0/8?"),
    (20, 53, "65535"),
    (20, 61, "did you mean protocol?"),
    (21, 15, "write the unit"),
    (22, 23, "is not a duration"),
    (23, 25, "did you mean openat?"),
    (23, 40, "did you mean EIO?"),
    (23, 59, "above the limit of 100%"),
    (24, 7, "did you mean network?"),
    (27, 19, "http://"),
    (28, 13, "another probe"),
    (30, 27, "write the unit"),
    (31, 16, "whole number"),
    (33, 15, "no probe"),
    (34, 14, "from the root"),
];

#[test]
fn every_mistake_is_told_once_with_its_place_and_remedy() {
    let found = problems(MISTAKES);
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    for (line, column, words) in FOUND {
        let there: Vec<_> = found
            .iter()
            .filter(|problem| problem.at == yaml::Mark { line: *line, column: *column })
            .collect();
        assert_eq!(there.len(), 1, "{line}:{column} {words}:\n{}", shown.join("\n"));
        assert!(there[0].text.contains(words), "{line}:{column} {words}: {}", there[0]);
    }
    assert_eq!(found.len(), FOUND.len(), "{}", shown.join("\n"));
    assert!(!validates(MISTAKES));
}

/// Single mistakes that the schema has to know as well.
#[test]
fn mistakes_do_not_validate() {
    for bad in [
        "network: {loss: 5}",
        "network: {loss: 5 percent}",
        "network: {delay: 100}",
        "network: {delay: {time: 100ms, jiter: 5ms}}",
        "network: {rate: 10}",
        "network: {direction: up}",
        "network: {match: {remotePorts: [abc]}}",
        "network: {loss: {every: 0}}",
        "syscall: {error: EIO}",
        "syscall: {calls: [], error: EIO}",
        "syscall: {calls: [openat], errors: [{errno: EIO, weight: 0}]}",
        "syscall: {calls: openat, error: EIO}",
        "network: {partition: 1}",
    ] {
        let text = with(&format!("    - {bad}"));
        assert!(!validates(&text), "{bad}");
        assert!(read("f", &text).is_err(), "{bad}");
    }
    // What no schema can say.
    for (bad, words) in [
        ("network: {reset: 5%, match: {protocol: udp}}", "no connections"),
        ("network: {reorder: 5%}", "overtaken"),
        ("network: {loss: {every: 2}, perFlow: true}", "draws a share"),
        ("network: {loss: 5%, partition: true}", "both ways"),
        ("network: {loss: {p: 5%}}", "model"),
        ("network: {loss: {model: gemodel, p13: 5%}}", "p, r, h, k"),
        ("network: {delay: {jitter: 5ms}}", "time"),
        ("network: {delay: {time: 1ms, correlation: 5%}}", "jitter"),
        ("network: {direction: both}", "nothing happens"),
        ("syscall: {calls: [execve], error: EIO}", "spec.allow"),
        ("syscall: {calls: [write]}", "error: EIO"),
        ("syscall: {calls: [write], error: EIO, return: 0}", "one of error"),
        ("syscall: {calls: [write], error: EIO, when: 3, every: 2}", "when="),
        ("syscall: {calls: [write], error: EIO, latency: {time: 20ms}}", "elements of their own"),
        ("syscall: {calls: [write], latency: {time: 5ms, jitter: 6ms}}", "6ms"),
        ("syscall: {calls: [write], latency: {jitter: 6ms}}", "'time' is missing"),
        ("{}", "network or syscall"),
    ] {
        let text = with(&format!("    - {bad}"));
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert!(found[0].text.contains(words), "{bad}: {}", found[0]);
    }
}

#[test]
fn a_file_holds_one_experiment() {
    assert!(problems("")[0].text.contains("0 documents"));
    let two = with("    - network: {loss: 5%}") + "---\na: b\n";
    let found = problems(&two);
    assert_eq!((found.len(), found[0].at.line), (1, 11), "{found:?}");
    assert!(problems("[1]")[0].text.contains("a mapping"));
    let found = problems("apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\n");
    assert!(found.iter().all(|problem| problem.text.contains("is missing")), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

proptest! {
    /// Whatever is cut out of an example or put into it, there is an experiment or a problem with a place, and the types
    /// take what the structure lets through.
    #[test]
    fn any_change_of_an_example_is_read_or_refused(which in 0usize..14, at in 0usize..900, cut in 0usize..30, put in "[a-z{}:,\\-\\[\\] 0-9%\n]{0,6}") {
        let (_, text) = &examples()[which];
        let begin = at.min(text.len());
        let end = (begin + cut).min(text.len());
        let changed = format!("{}{put}{}", &text[..begin], &text[end..]);
        if let Err(error) = read("f", &changed) {
            prop_assert!(!error.problems.is_empty());
            for problem in &error.problems {
                prop_assert!(problem.at.line > 0 && problem.at.column > 0);
                prop_assert!(!problem.text.contains("cannot be read") && !problem.text.contains("incomplete"), "{problem}\n{changed}");
            }
        }
    }
}

/// Mistakes in schedules, each with its line, column and a word of its message.
const WRONG_SCHEDULES: &str = r#"apiVersion: kchaos.dev/v1alpha1
kind: Experiment
metadata: {name: x}
spec:
  hypothesis: h
  duration: 60s
  targets: [{cgroup: /x}]
  faults:
    - network: {loss: 5%}
      schedule: {ramp: {from: 1%, to: 120%, over: 10s}}
    - network: {loss: 5%}
      schedule: {ramp: {from: 1%, to: 2%, over: 100ms, steps: 50}}
    - network: {loss: 5%}
      schedule: {ramp: {from: 5%, to: 5%, over: 10s}}
    - network: {loss: 5%}
      schedule: {pulse: {on: 5ms, off: 0s}}
    - network: {loss: 5%}
      schedule: {windows: [{from: 5s, to: 9s}, {from: 8s, to: 10s}, {from: 10s, to: 12s}, {from: 20s, to: 15s}]}
    - network: {loss: 5%}
      schedule: {pulse: {on: 5s, off: 5s}, ramp: {from: 1%, to: 2%, over: 1s}}
    - network: {loss: 5%}
      schedule: {repeat: 3, start: {after: 1s}}
    - network: {loss: 5%}
      schedule: {}
    - network: {loss: 5%}
      schedule: {steps: [{share: 5%}, {share: 7%, for: 1s}]}
    - network: {loss: 5%}
      schedule: {steps: [{share: 5%, for: 50s}, {share: 7%, for: 11s}]}
    - network: {loss: 5%}
      schedule: {start: {after: 30s, within: 30s}}
    - network: {loss: {model: gemodel, p: 1%}}
      schedule: {ramp: {from: 1%, to: 2%, over: 1s}}
    - network: {loss: 5%}
      schedule: {pulse: {on: 1s, of: 1s}}
    - network: {loss: 5%}
      schedule: {ramp: {from: 1%, to: 2%, over: 1s, steps: 1001}}
  schedule: {pulse: {on: 5s, off: 5s}, repeat: 0}
"#;

const WRONG_SCHEDULES_FOUND: &[(usize, usize, &str)] = &[
    (10, 39, "above the limit of 100%"),
    (12, 63, "at most 10"),
    (14, 39, "begins and ends at 5%"),
    (16, 30, "below the limit of 10ms"),
    (16, 40, "no time at all"),
    (18, 55, "without overlap"),
    (18, 76, "make them one"),
    (18, 91, "from 20s to 15s"),
    (20, 17, "ramp and pulse are given"),
    (22, 26, "nothing is there to be repeated"),
    (24, 17, "nothing is said about when"),
    (26, 26, "only the last step"),
    (28, 17, "61s, longer than the duration of 60s"),
    (30, 17, "it may begin only at 60s"),
    (31, 23, "use pulse or windows"),
    (34, 34, "did you mean off?"),
    (36, 60, "from 2 to 1000"),
    (37, 13, "leave it out"),
    (37, 48, "from 1 to 10000"),
];

fn check_found(text: &str, wanted: &[(usize, usize, &str)]) {
    let found = problems(text);
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    for (line, column, words) in wanted {
        let at = yaml::Mark { line: *line, column: *column };
        let there: Vec<_> = found.iter().filter(|problem| problem.at == at).collect();
        assert_eq!(there.len(), 1, "{line}:{column} {words}:\n{}", shown.join("\n"));
        assert!(there[0].text.contains(words), "{line}:{column} {words}: {}", there[0]);
    }
    assert_eq!(found.len(), wanted.len(), "{}", shown.join("\n"));
}

#[test]
fn mistakes_of_schedules_are_told_all_at_once() {
    check_found(WRONG_SCHEDULES, WRONG_SCHEDULES_FOUND);
}

const HEAD: &str = "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {name: x}\nspec:\n  hypothesis: h\n  targets: \
                    [{cgroup: /x}]\n";

#[test]
fn mistakes_of_stages_are_told_all_at_once() {
    let text = format!(
        "{HEAD}  duration: 5s\n  faults: [{{network: {{loss: 5%}}}}]\n  stages:\n    - {{name: a, duration: 5s, faults: \
         [{{network: {{loss: 5%}}}}], schedule: {{pulse: {{on: 6s, off: 1s}}, repeat: 1}}}}\n    - {{name: a, faults: []}}\n    - \
         name: b\n      duration: 1s\n      faults: [{{network: {{loss: 5%}}}}]\n      steadyState:\n        - {{name: p, tcp: \
         {{address: \"h:1\"}}, mode: edge}}\n        - {{name: q, tcp: {{address: \"h:1\"}}}}\n        - {{name: q, tcp: \
         {{address: \"h:1\"}}}}\n  abort: [{{probe: q, consecutive: 1}}]\n"
    );
    check_found(
        &text,
        &[
            (7, 13, "its own duration"),
            (8, 11, "its own faults"),
            (10, 74, "6s, longer than the duration of 5s"),
            (11, 7, "'duration' is missing"),
            (11, 14, "another stage"),
            (11, 25, "the list is empty"),
            (16, 50, "not asked in its stage"),
            (18, 18, "another probe"),
        ],
    );
    assert!(!validates(&text));
}

#[test]
fn without_stages_there_are_faults_and_a_duration() {
    let found = problems(HEAD);
    let texts: Vec<_> = found.iter().map(|problem| problem.text.as_str()).collect();
    assert!(
        texts.len() == 2
            && texts[0].contains("'duration' is missing")
            && texts[1].contains("'faults' is missing"),
        "{texts:?}"
    );
    assert!(!validates(HEAD));
    let stages =
        format!("{HEAD}  stages: [{{name: a, duration: 5s, faults: [{{network: {{loss: 5%}}}}]}}]\n");
    assert!(validates(&stages));
    let experiment = read("f", &stages).unwrap();
    assert_eq!(experiment.spec.duration, Some(std::time::Duration::from_secs(5)));
    assert!(!validates(&stages.replace("hypothesis: h", "hypothesis: h\n  duration: 5s")));
}

#[test]
fn changes_have_a_limit() {
    let text = with("    - network: {loss: 5%}\n      schedule: {pulse: {on: 10ms, off: 10ms}}")
        .replace("10s", "10h");
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].text.contains("above the limit of 10000"), "{found:?}");
}

#[test]
fn a_schedule_is_told_with_its_moments() {
    let text = with(
        "    - name: a\n      network: {loss: 5%}\n    - name: b\n      network: {loss: {model: gemodel, p: 1%}}\n      schedule: \
         {windows: [{from: 0s, to: 1s}, {from: 3s, to: 4s}]}\n  schedule: {steps: [{share: 50%, for: 2s}, {share: 0%, for: 1s}], \
         repeat: 2}",
    );
    let told = read("f", &text).unwrap().explain();
    for words in [
        "a acts on 50% for 2s, 0% for 1s, 2 times, and rests.",
        "b acts from 0ns to 1s, from 3s to 4s, and rests otherwise.",
        "0.000 s  a at 50%, b acts",
        "1.000 s  b rests",
        "3.000 s  a at 50%, b acts",
        "5.000 s  a rests",
    ] {
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
    let drawn = with("    - {network: {loss: 5%}, schedule: {start: {within: 5s}}}");
    assert!(read("f", &drawn).unwrap().explain().contains("add seed: 42"));
    let seeded = drawn.replace("duration: 10s", "duration: 10s\n  seed: 4");
    assert!(read("f", &seeded).unwrap().timetable().is_some());
}

fn with_calls(calls: &str) -> String {
    with("    - network: {loss: 5%}")
        + &format!("  steadyState:\n    - {{name: c, calls: {{{calls}}}, tolerance: {{atMost: 1s}}}}\n")
}

#[test]
fn a_time_that_is_no_measure_of_a_probe_names_the_measure() {
    for (probe, measure) in [
        ("http: {url: \"http://a/\"}", "latency"),
        ("http: {url: \"http://a/\", measure: body}", "latency"),
        ("command: {argv: [a]}", "time"),
    ] {
        let steady = format!("  steadyState: [{{name: c, {probe}, tolerance: {{atMost: 1s}}}}]\n");
        let found = problems(&(with("    - network: {loss: 5%}\n") + &steady));
        let wanted = format!("add measure: {measure} to the probe");
        assert!(found.len() == 1 && found[0].text.contains(&wanted), "{probe}: {found:?}");
        let plain = steady.replace("1s", "many");
        let found = problems(&(with("    - network: {loss: 5%}\n") + &plain));
        assert!(found.len() == 1 && !found[0].text.contains("add measure"), "{probe}: {found:?}");
    }
}

#[test]
fn calls_are_watched_by_name() {
    let text = with_calls("of: [fsync, openat]");
    assert!(validates(&text));
    let experiment = read("f", &text).unwrap();
    assert_eq!(
        experiment.promises()[0],
        "c: the 99% quantile of the time that the target's fsync, openat takes is at most 1 s (asked before, while the faults act, \
         afterwards, every 1s)"
    );
    assert_eq!(experiment.watched_calls().map(|call| call.name()).collect::<Vec<_>>(), ["fsync", "openat"]);
    let told = |calls: &str| {
        let found = problems(&with_calls(calls));
        found.iter().map(|problem| problem.text.clone()).collect::<Vec<_>>().join("\n")
    };
    let all = told("of: [opnat, exit_group, read, read], measure: rate, percentile: 50%");
    for words in
        ["'opnat' is not an x86-64 system call", "'exit_group' never ends", "there twice", "leave it out"]
    {
        assert!(all.contains(words), "{words}: {all}");
    }
    let names: Vec<_> = crate::spec::syscall::Call::all().map(|call| call.name()).take(17).collect();
    assert!(
        told(&format!("of: [{}]", names.join(", ")))
            .contains("17 different calls are watched, above the limit of 16")
    );
    assert!(told("of: []").contains("needs at least 1"));
}
