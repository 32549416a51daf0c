//! Everything that is wrong with a file, each with its place.

use super::yaml::Mark;
use crate::spec::Problems;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub at: Mark,
    /// Which field, as in `spec.faults[0].network.loss`.
    pub path: String,
    /// What, and the remedy.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "{}: {}", self.at, self.text),
            path => write!(f, "{}: {path}: {}", self.at, self.text),
        }
    }
}

/// What is known of a file's fields while it is read.
#[derive(Debug, Default)]
pub struct Findings {
    marks: BTreeMap<String, Mark>,
    problems: Vec<Problem>,
    /// Fields whose value is missing here because it was told to be wrong.
    spoiled: BTreeSet<String>,
    /// Mappings with fields that are not known: one that is missing there may be one of them.
    odd: BTreeSet<String>,
}

/// The path of a field of what is at `path`.
pub fn field(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The path of an element of the list at `path`.
pub fn element(path: &str, number: usize) -> String {
    format!("{path}[{number}]")
}

impl Findings {
    /// Remembers where the value at `path` stands.
    pub fn place(&mut self, path: &str, at: Mark) {
        self.marks.insert(path.to_owned(), at);
    }

    /// Where the value at `path` stands, or what holds it.
    pub fn mark(&self, path: &str) -> Mark {
        let mut path = path;
        loop {
            if let Some(mark) = self.marks.get(path) {
                return *mark;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.marks.get("").copied().unwrap_or(Mark { line: 1, column: 1 }),
            }
        }
    }

    /// Tells what is wrong at a place.
    pub fn add_at(&mut self, at: Mark, path: &str, text: impl Into<String>) {
        self.problems.push(Problem { at, path: path.to_owned(), text: text.into() });
    }

    /// Tells what is wrong with a field, unless it was told that it cannot be read.
    pub fn add(&mut self, path: &str, text: impl Into<String>) {
        let within = |spoiled: &String| {
            path.strip_prefix(spoiled.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if !self.spoiled.iter().any(within) {
            self.add_at(self.mark(path), path, text);
        }
    }

    /// Tells what a mapping lacks, unless it has fields that are not known, which may have been meant.
    pub fn lacks(&mut self, path: &str, text: impl Into<String>) {
        if !self.odd.contains(path) {
            self.add(path, text);
        }
    }

    /// What is at `path` is left out of what is read.
    pub fn spoil(&mut self, path: &str) {
        self.spoiled.insert(path.to_owned());
    }

    /// The mapping at `path` has a field that is not known.
    pub fn is_odd(&mut self, path: &str) {
        self.odd.insert(path.to_owned());
    }

    /// Keeps the value or the problem.
    pub fn take<T>(&mut self, path: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|problem| self.add(path, problem.to_string())).ok()
    }

    /// Keeps the value or all problems.
    pub fn take_all<T>(&mut self, path: &str, result: Result<T, Problems>) -> Option<T> {
        result.map_err(|problems| problems.0.into_iter().for_each(|text| self.add(path, text))).ok()
    }

    /// How much is wrong so far.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Whether nothing is wrong so far.
    pub fn is_fine(&self) -> bool {
        self.problems.is_empty()
    }

    /// All problems in the order of the file.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems.dedup();
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stands_where_its_field_does_or_what_holds_it() {
        let mut findings = Findings::default();
        findings.place("", Mark { line: 1, column: 1 });
        findings.place("spec.faults[0]", Mark { line: 7, column: 5 });
        findings.add("spec.faults[0].network.loss", "x");
        findings.spoil("spec.a");
        findings.add("spec.a[1]", "told already");
        findings.add("spec.ab", "y");
        findings.is_odd("spec");
        findings.lacks("spec", "z");
        let shown: Vec<_> = findings.into_problems().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["1:1: spec.ab: y", "7:5: spec.faults[0].network.loss: x"]);
    }
}
