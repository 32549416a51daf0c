//! The closing table of a run, and the last line that says it all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::results::{Collector, Outcome, TestResult};
use crate::room;

/// How many of the slowest test files are named per step.
const SLOWEST: usize = 8;

/// What one step came to.
#[derive(Serialize)]
pub struct Line {
    pub step: String,
    /// The kernel that ran, as uname says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    pub passed: usize,
    pub failed: usize,
    /// Those left to a soak among them.
    pub skipped: usize,
    pub seconds: f64,
    /// What went wrong beside tests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub complaints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestResult>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Value>,
}

impl Line {
    /// A step that is one check.
    pub fn of_check(step: &str, result: Result<()>, took: Duration) -> Self {
        let complaints: Vec<String> = result.err().map(|error| format!("{error:#}")).into_iter().collect();
        Self::of_counts(step, usize::from(complaints.is_empty()), 0, 0, took).with_complaints(complaints)
    }

    /// A step that counted for itself.
    pub fn of_counts(step: &str, passed: usize, failed: usize, skipped: usize, took: Duration) -> Self {
        Self {
            step: step.to_owned(),
            kernel: None,
            passed,
            failed,
            skipped,
            seconds: took.as_secs_f64(),
            complaints: Vec::new(),
            tests: Vec::new(),
            measures: Vec::new(),
        }
    }

    /// A step that ran integration tests.
    pub fn of_tests(step: &str, collector: Collector, kernel: Option<String>, took: Duration) -> Self {
        let count = |wanted: fn(&Outcome) -> bool| {
            collector.tests.iter().filter(|test| wanted(&test.outcome)).count()
        };
        Self {
            kernel,
            ..Self::of_counts(
                step,
                count(|outcome| *outcome == Outcome::Passed),
                count(|outcome| *outcome == Outcome::Failed),
                count(|outcome| matches!(outcome, Outcome::Skipped(_) | Outcome::Left(_))),
                took,
            )
        }
        .holding(collector)
    }

    fn holding(mut self, collector: Collector) -> Self {
        self.tests = collector.tests;
        self.measures = collector.measures;
        self
    }

    /// Each complaint is one more failure.
    pub fn with_complaints(mut self, complaints: Vec<String>) -> Self {
        self.failed += complaints.len();
        self.complaints.extend(complaints);
        self
    }

    /// Whether anything went wrong.
    pub fn failed(&self) -> bool {
        self.failed > 0
    }

    /// The step and how many tests it left out, if any.
    fn left(&self) -> Option<String> {
        let left = self.tests.iter().filter(|test| matches!(test.outcome, Outcome::Left(_))).count();
        (left > 0).then(|| format!("{left} by {}", self.step))
    }

    /// The files whose tests took longest, and their seconds. None of a short run.
    fn slowest(&self) -> Vec<(&str, f64)> {
        let mut files = BTreeMap::<&str, f64>::new();
        for test in &self.tests {
            let file = test.name.split("::").next().unwrap_or_default();
            *files.entry(file).or_default() += test.seconds;
        }
        if files.len() <= SLOWEST {
            return Vec::new();
        }
        let mut files: Vec<_> = files.into_iter().filter(|(_, seconds)| *seconds > 0.0).collect();
        files.sort_by(|one, other| other.1.total_cmp(&one.1));
        files.truncate(SLOWEST);
        files
    }

    /// The three numbers, for people.
    pub fn counts(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// All steps of a run.
#[derive(Default, Serialize)]
pub struct Report {
    pub steps: Vec<Line>,
}

impl Report {
    /// Adds a step.
    pub fn add(&mut self, line: Line) {
        self.steps.push(line);
    }

    /// Prints the table and the closing line; an error if anything failed.
    pub fn conclude(&self) -> Result<()> {
        print!("{}", self.table());
        let total = |number: fn(&Line) -> usize| self.steps.iter().map(number).sum::<usize>();
        let (passed, failed, skipped) =
            (total(|line| line.passed), total(|line| line.failed), total(|line| line.skipped));
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 {
            if let Some(want) = room::want() {
                println!("{want}");
            }
            bail!("{failed} failed");
        }
        if passed + skipped == 0 {
            bail!("no test ran");
        }
        Ok(())
    }

    fn table(&self) -> String {
        let width = self.steps.iter().map(|line| line.step.len()).max().unwrap_or_default().max(4);
        let mut text = format!("\n{:width$}  passed  failed  skipped  seconds\n", "step");
        for line in &self.steps {
            let Line { step, passed, failed, skipped, seconds, .. } = line;
            let kernel = line.kernel.as_deref().unwrap_or_default();
            let row = format!("{step:width$}  {passed:6}  {failed:6}  {skipped:7}  {seconds:7.0}  {kernel}");
            text.push_str(row.trim_end());
            text.push('\n');
        }
        let left: Vec<String> = self.steps.iter().filter_map(Line::left).collect();
        if !left.is_empty() {
            text.push_str(&format!(
                "left to other kernels and to soaks by tests/matrix.toml: {}\n",
                left.join(", ")
            ));
        }
        for line in &self.steps {
            let slowest: Vec<String> =
                line.slowest().into_iter().map(|(file, s)| format!("{file} {s:.0}")).collect();
            if !slowest.is_empty() {
                let tests: f64 = line.tests.iter().map(|test| test.seconds).sum();
                text.push_str(&format!(
                    "slowest of {}, of {tests:.0} s in tests: {}\n",
                    line.step,
                    slowest.join(", ")
                ));
            }
        }
        for line in &self.steps {
            let failures = line.tests.iter().filter(|test| test.outcome == Outcome::Failed);
            let failures = failures.map(|test| format!("{}: {}", test.name, test.reason()));
            for what in failures.chain(line.complaints.iter().cloned()) {
                text.push_str(&format!("FAILED {}: {what}\n", line.step));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_files_are_named_by_the_sums_of_their_tests() {
        let mut collector = Collector::default();
        let mut add = |name: &str, seconds| {
            let (name, outcome) = (name.to_owned(), Outcome::Passed);
            collector.tests.push(TestResult { name, outcome, seconds, output: String::new() });
        };
        add("delay::rate", 3.0);
        add("loss::udp", 4.0);
        add("delay::jitter", 2.0);
        for file in 0..SLOWEST {
            add(&format!("short{file}::test"), 1.0);
        }
        let mut report = Report::default();
        report.add(Line::of_tests("vm old", collector, None, Duration::from_secs(20)));
        let table = report.table();
        assert!(table.contains("slowest of vm old, of 17 s in tests: delay 5, loss 4, short0 1"), "{table}");
        assert!(!table.contains("short7"), "{table}");
    }
}
