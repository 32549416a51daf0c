//! What tests print, and what it means: libtest's JSON events, `SKIP` and `MEASURE` lines between them.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

/// Arguments that make a test program print what we read here.
const ARGUMENTS: [&str; 5] =
    ["--include-ignored", "--test-threads=1", "-Zunstable-options", "--format=json", "--report-time"];

/// The arguments with which `program` runs those tests whose `program::function` contains one of the filters: all
/// without filters; nothing if it has none for sure.
pub fn arguments(program: &str, filters: &[String]) -> Option<Vec<String>> {
    let mut functions = Vec::new();
    for filter in filters {
        if program.contains(filter.as_str()) {
            functions.clear();
            break;
        }
        match filter.split_once("::") {
            Some((file, function)) if program.ends_with(file) => functions.push(function.to_owned()),
            Some(_) => {}
            None => functions.push(filter.clone()),
        }
    }
    let whole = filters.is_empty() || filters.iter().any(|filter| program.contains(filter.as_str()));
    if !whole && functions.is_empty() {
        return None;
    }
    Some(ARGUMENTS.map(str::to_owned).into_iter().chain(functions).collect())
}

/// More arguments, with which a program leaves out those of these tests (`file::function`) that are its own.
pub fn leaving_out<'a>(program: &str, left: impl Iterator<Item = &'a str>) -> Vec<String> {
    let own = left.filter_map(|test| test.strip_prefix(program)?.strip_prefix("::"));
    let mut arguments: Vec<_> = own.flat_map(|function| ["--skip", function]).map(str::to_owned).collect();
    if !arguments.is_empty() {
        // Otherwise every test whose name contains one of these would be left out.
        arguments.push("--exact".to_owned());
    }
    arguments
}

/// The arguments with which `program` runs those of these tests (`file::function`) that are its own; nothing if none are.
pub fn only<'a>(program: &str, tests: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    let own = tests.filter_map(|test| test.strip_prefix(program)?.strip_prefix("::"));
    let own: Vec<_> = own.filter(|function| *function != "*").map(str::to_owned).collect();
    if own.is_empty() {
        return None;
    }
    Some(ARGUMENTS.map(str::to_owned).into_iter().chain(own).chain(["--exact".to_owned()]).collect())
}

/// The environment variable without which a stable test program refuses them.
pub const UNSTABLE: (&str, &str) = ("RUSTC_BOOTSTRAP", "1");

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    /// With the reason the test gave.
    Skipped(String),
    /// Small samples leave it to a soak on this kernel, and say which kernels run it.
    Left(String),
}

/// One test of one machine.
#[derive(Clone, Debug, Serialize)]
pub struct TestResult {
    /// `file::function`
    pub name: String,
    pub outcome: Outcome,
    pub seconds: f64,
    /// Output of a failed test.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// Characters of a failure's reason in the closing table.
const REASON: usize = 400;

impl TestResult {
    /// Why it failed, in one line: the error it returned, the panic's message, or the last it said.
    pub fn reason(&self) -> String {
        let lines = || self.output.lines().map(str::trim).filter(|line| !line.is_empty());
        let from = |start: fn(&&str) -> bool| {
            let said: Vec<&str> = lines().skip_while(|line| !start(line)).collect();
            let said = said.into_iter().take_while(|line| !line.starts_with("Stack backtrace"));
            Some(said.collect::<Vec<_>>().join(" ")).filter(|said| !said.is_empty())
        };
        let reason =
            from(|line| line.starts_with("Error: ")).or_else(|| from(|line| line.contains("panicked at")));
        let reason = reason.or_else(|| lines().next_back().map(str::to_owned)).unwrap_or_default();
        reason.chars().take(REASON).collect()
    }
}

/// Reads the lines of test programs, one program after the other.
#[derive(Default)]
pub struct Collector {
    pub tests: Vec<TestResult>,
    /// Figures for the soak.
    pub measures: Vec<Value>,
    program: String,
    running: Option<Running>,
}

struct Running {
    name: String,
    since: Instant,
    skip: Option<Outcome>,
    output: String,
}

impl Collector {
    /// A test program begins.
    pub fn program_started(&mut self, name: &str) {
        name.clone_into(&mut self.program);
    }

    /// A test program ended; a test it did not finish is a failure.
    pub fn program_ended(&mut self, status: &str) {
        if let Some(running) = self.running.take() {
            let output = format!("{}the test program ended in this test: {status}\n", running.output);
            self.finish(running, Outcome::Failed, None, output);
        }
    }

    /// A test that is not run here.
    pub fn left(&mut self, name: &str, others: &str) {
        let outcome = Outcome::Left(format!("{others} run it"));
        self.tests.push(TestResult { name: name.to_owned(), outcome, seconds: 0.0, output: String::new() });
    }

    /// Takes one line; returns the test it finished.
    pub fn line(&mut self, line: &str) -> Option<&TestResult> {
        let event = serde_json::from_str::<Value>(line).ok().filter(|value| value["type"].is_string());
        match event {
            Some(event) if event["type"] == "test" => self.test_event(&event),
            Some(_) => None,
            None => {
                self.text(line);
                None
            }
        }
    }

    fn test_event(&mut self, event: &Value) -> Option<&TestResult> {
        let name = format!("{}::{}", self.program, event["name"].as_str()?);
        let outcome = match event["event"].as_str()? {
            "started" => {
                self.running =
                    Some(Running { name, since: Instant::now(), skip: None, output: String::new() });
                return None;
            }
            "ok" => Outcome::Passed,
            "failed" => Outcome::Failed,
            _ => return None,
        };
        let running = self.running.take()?;
        // What print! wrote was captured; it comes now.
        let captured = event["stdout"].as_str().unwrap_or_default();
        let output = format!("{}{captured}", running.output);
        self.finish(running, outcome, event["exec_time"].as_f64(), output);
        self.tests.last()
    }

    fn finish(&mut self, running: Running, outcome: Outcome, seconds: Option<f64>, output: String) {
        let outcome = match (outcome, running.skip) {
            (Outcome::Passed, Some(skipped)) => skipped,
            (outcome, _) => outcome,
        };
        let output = if outcome == Outcome::Failed { output } else { String::new() };
        let seconds = seconds.unwrap_or_else(|| running.since.elapsed().as_secs_f64());
        self.tests.push(TestResult { name: running.name, outcome, seconds, output });
    }

    fn text(&mut self, line: &str) {
        if let Some(figures) = line.strip_prefix("MEASURE ").and_then(|json| serde_json::from_str(json).ok())
        {
            self.measures.push(figures);
        }
        if let Some(running) = &mut self.running {
            let reason = |word| Some(line.strip_prefix(word)?.split_once(": ")?.1.to_owned());
            let skipped = reason("SKIP ").map(Outcome::Skipped);
            running.skip = skipped.or_else(|| reason("LEFT ").map(Outcome::Left)).or(running.skip.take());
            running.output.push_str(line);
            running.output.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(lines: &[&str]) -> Collector {
        let mut collector = Collector::default();
        collector.program_started("loss");
        for line in lines {
            collector.line(line);
        }
        collector.program_ended("signal SIGSEGV");
        collector
    }

    #[test]
    fn a_failure_says_why_in_one_line() {
        let reason = |output: &str| {
            let (name, seconds) = ("loss::udp".to_owned(), 0.0);
            TestResult { name, outcome: Outcome::Failed, seconds, output: output.to_owned() }.reason()
        };
        assert_eq!(
            reason("armed\nError: no victim\n\nCaused by:\n    it ended\n\nStack backtrace:\n   0: main\n"),
            "Error: no victim Caused by: it ended"
        );
        assert_eq!(
            reason("x\nthread 'udp' panicked at a.rs:1:2:\nleft\n"),
            "thread 'udp' panicked at a.rs:1:2: left"
        );
        assert_eq!(reason("one\ntwo\n"), "two");
        assert_eq!(reason(&"x".repeat(1000)).len(), REASON);
    }

    #[test]
    fn filters_name_files_or_functions() {
        let functions = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
            arguments("loss", &filters).map(|arguments| arguments[ARGUMENTS.len()..].to_vec())
        };
        assert_eq!(functions(&[]), Some(vec![]));
        assert_eq!(functions(&["loss"]), Some(vec![]));
        assert_eq!(functions(&["udp"]), Some(vec!["udp".to_owned()]));
        assert_eq!(functions(&["loss::udp", "exec::"]), Some(vec!["udp".to_owned()]));
        assert_eq!(functions(&["udp", "loss"]), Some(vec![]));
        assert_eq!(functions(&["exec::udp"]), None);
    }

    #[test]
    fn shared_tests_are_left_out_by_their_whole_name() {
        let left = || ["loss::udp", "loss_models::tcp", "loss::lo"].into_iter();
        assert_eq!(leaving_out("loss", left()), ["--skip", "udp", "--skip", "lo", "--exact"]);
        assert_eq!(leaving_out("exec", left()), [""; 0]);
        let only = only("loss", left()).unwrap_or_default();
        assert_eq!(only.split_at(ARGUMENTS.len()).1, ["udp", "lo", "--exact"]);
        assert_eq!(super::only("exec", left()).or(super::only("exec", ["exec::*"].into_iter())), None);
    }

    #[test]
    fn outcomes_are_told_apart() {
        let collector = collect(&[
            r#"{ "type": "suite", "event": "started", "test_count": 3 }"#,
            r#"{ "type": "test", "event": "started", "name": "a" }"#,
            r#"{ "type": "test", "name": "a", "event": "ok", "exec_time": 1.5 }"#,
            r#"{ "type": "test", "event": "started", "name": "b" }"#,
            r#"MEASURE {"name":"b","packets":3}"#,
            "SKIP loss::b: no such mechanism",
            r#"{ "type": "test", "name": "b", "event": "ok", "exec_time": 0.5 }"#,
            r#"{ "type": "test", "event": "started", "name": "d" }"#,
            "LEFT loss::d: run on others",
            r#"{ "type": "test", "name": "d", "event": "ok", "exec_time": 0.1 }"#,
            r#"{ "type": "test", "event": "started", "name": "c" }"#,
            "before",
            r#"{ "type": "test", "name": "c", "event": "failed", "exec_time": 0.1, "stdout": "panicked" }"#,
        ]);
        let outcomes: Vec<_> =
            collector.tests.iter().map(|test| (test.name.as_str(), test.outcome.clone())).collect();
        assert_eq!(
            outcomes,
            [
                ("loss::a", Outcome::Passed),
                ("loss::b", Outcome::Skipped("no such mechanism".to_owned())),
                ("loss::d", Outcome::Left("run on others".to_owned())),
                ("loss::c", Outcome::Failed),
            ]
        );
        assert_eq!(collector.tests[3].output, "before\npanicked");
        assert_eq!(collector.measures[0]["packets"], 3);
    }

    #[test]
    fn a_program_that_dies_fails_its_test() {
        let collector = collect(&[r#"{ "type": "test", "event": "started", "name": "a" }"#, "last words"]);
        assert_eq!(collector.tests[0].outcome, Outcome::Failed);
        assert!(collector.tests[0].output.contains("SIGSEGV"), "{}", collector.tests[0].output);
    }
}
