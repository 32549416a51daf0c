//! A source's tree, read so that no field of it can be forgotten.

use super::{table::Table, units};
use crate::experiment::{
    findings::{element, field},
    structure::closest,
    yaml::{Node, Value},
};

/// The fields of a mapping. What was never asked for is refused by [`Fields::rest`].
pub struct Fields<'a> {
    path: String,
    entries: Vec<(&'a str, &'a Node)>,
    known: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Of a mapping; anything else is refused.
    pub fn of(node: &'a Node, path: &str, table: &mut Table) -> Option<Self> {
        match &node.value {
            Value::Map(fields) => Some(Self {
                path: path.to_owned(),
                entries: fields.iter().map(|(name, _, value)| (name.as_str(), value)).collect(),
                known: vec![],
            }),
            other => {
                table.refused(path, format!("{} stands here: write a mapping", other.kind()));
                None
            }
        }
    }

    /// The path of a field.
    pub fn path(&self, name: &str) -> String {
        field(&self.path, name)
    }

    /// A field, if it is there, also if it says nothing. Who takes it says what becomes of it.
    pub fn any(&mut self, name: &str) -> Option<(String, &'a Node)> {
        self.known.push(name.to_owned());
        let at = self.entries.iter().position(|(given, _)| *given == name)?;
        let (_, node) = self.entries.remove(at);
        Some((self.path(name), node))
    }

    /// A field, if it is there and says something.
    pub fn take(&mut self, name: &str, table: &mut Table) -> Option<(String, &'a Node)> {
        let (path, node) = self.any(name)?;
        if node.value.is_empty() {
            table.exact(&path, "empty");
            return None;
        }
        Some((path, node))
    }

    /// A mapping.
    pub fn map(&mut self, name: &str, table: &mut Table) -> Option<Fields<'a>> {
        let (path, node) = self.take(name, table)?;
        if matches!(&node.value, Value::Map(fields) if fields.is_empty()) {
            table.exact(&path, "empty");
        }
        Fields::of(node, &path, table)
    }

    /// A single value.
    pub fn text(&mut self, name: &str, table: &mut Table) -> Option<(String, &'a str)> {
        let (path, node) = self.take(name, table)?;
        match scalar(node) {
            Some(text) => Some((path, text)),
            None => {
                table.refused(&path, format!("{} stands here: write a single value", node.value.kind()));
                None
            }
        }
    }

    /// A time in Go's words, as ours; `becomes` is what it becomes in the file. What is none is refused.
    pub fn duration(&mut self, name: &str, becomes: &str, table: &mut Table) -> Option<String> {
        let (path, text) = self.text(name, table)?;
        match units::go_duration(text) {
            Ok(time) => {
                table.exact(&path, format!("{becomes}: {time}"));
                Some(time)
            }
            Err(why) => {
                table.refused(&path, why);
                None
            }
        }
    }

    /// A list.
    pub fn list(&mut self, name: &str, table: &mut Table) -> Option<Vec<(String, &'a Node)>> {
        let (path, node) = self.take(name, table)?;
        match &node.value {
            Value::List(list) => {
                if list.is_empty() {
                    table.exact(&path, "empty");
                }
                Some(list.iter().enumerate().map(|(number, node)| (element(&path, number), node)).collect())
            }
            other => {
                table.refused(&path, format!("{} stands here: write a list", other.kind()));
                None
            }
        }
    }

    /// A list of single values; others are refused.
    pub fn texts(&mut self, name: &str, table: &mut Table) -> Option<Vec<(String, &'a str)>> {
        let list = self.list(name, table)?;
        let mut texts = vec![];
        for (path, node) in list {
            match scalar(node) {
                Some(text) => texts.push((path, text)),
                None => {
                    table.refused(&path, format!("{} stands here: write a single value", node.value.kind()));
                }
            }
        }
        Some(texts)
    }

    /// Refuses a field for this reason, if it is there.
    pub fn refuse(&mut self, name: &str, why: &str, table: &mut Table) {
        if let Some((path, _)) = self.take(name, table) {
            table.refused(&path, why);
        }
    }

    /// Says of a field, if it is there, that the file does without it, which changes nothing of what is inflicted.
    pub fn without(&mut self, name: &str, why: &str, table: &mut Table) {
        if let Some((path, _)) = self.take(name, table) {
            table.approximated(&path, why);
        }
    }

    /// Says of a mapping, if it is there, that the file does without it, field by field: other fields are refused by name.
    pub fn all_without(&mut self, name: &str, known: &[&str], why: &str, table: &mut Table) {
        let Some(mut fields) = self.map(name, table) else { return };
        for name in known {
            fields.without(name, why, table);
        }
        fields.rest(table);
    }

    /// Refuses what was never asked for, by name.
    pub fn rest(self, table: &mut Table) {
        for (name, _) in &self.entries {
            let hint = match closest(name, self.known.iter()) {
                Some(known) => format!("did you mean {known}?"),
                None => "take it out".to_owned(),
            };
            table.refused(&self.path(name), format!("not a field that is known here: {hint}"));
        }
    }
}

/// The text of a single value.
pub fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}
