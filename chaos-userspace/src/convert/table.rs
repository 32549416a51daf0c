//! What became of every field of a source.

use serde::Serialize;
use std::fmt::Write as _;

/// What became of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// The written file means the same.
    Exact,
    /// The written file means nearly the same; the note says where it differs.
    Approximated,
    /// The written file does without it; the note says why and what to do.
    Refused,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximated => "approximated",
            Self::Refused => "refused",
        }
    }
}

/// A field of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its path, as in `spec.delay.latency`; for a command line its words.
    pub field: String,
    /// What became of it.
    pub fate: Fate,
    /// What it became, why it is not the same, or why it was refused and what to do.
    pub note: String,
}

/// All fields of a source, in the order in which they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Table(pub Vec<Row>);

impl Table {
    fn add(&mut self, field: &str, fate: Fate, note: impl Into<String>) {
        let field = if field.is_empty() { "(the document)" } else { field };
        self.0.push(Row { field: field.to_owned(), fate, note: note.into() });
    }

    /// A field that means the same.
    pub fn exact(&mut self, field: &str, note: impl Into<String>) {
        self.add(field, Fate::Exact, note);
    }

    /// A field that means nearly the same, and where it differs.
    pub fn approximated(&mut self, field: &str, note: impl Into<String>) {
        self.add(field, Fate::Approximated, note);
    }

    /// A field that is left out: why, and what to do.
    pub fn refused(&mut self, field: &str, note: impl Into<String>) {
        self.add(field, Fate::Refused, note);
    }

    /// Fields that were refused.
    pub fn refusals(&self) -> usize {
        self.0.iter().filter(|row| row.fate == Fate::Refused).count()
    }

    /// For people: one line per field.
    pub fn text(&self) -> String {
        let width = self.0.iter().map(|row| row.field.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for row in &self.0 {
            // Values are the source's: nothing in them may steer a terminal.
            let line = format!("{:12}  {:width$}  {}", row.fate.name(), row.field, row.note);
            let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}
