//! An experiment file in the making.

use serde_json::Value as Json;
use std::fmt::Write as _;

/// A value of the file; mappings keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    /// A text, quoted where YAML could take it for something else.
    Text(String),
    /// A number or a truth value, as it stands.
    Bare(String),
    /// A list.
    List(Vec<Out>),
    /// Fields.
    Map(Vec<(String, Out)>),
}

impl Out {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// Fields, of which empty mappings and lists are left out.
    pub fn map<const N: usize>(fields: [(&str, Self); N]) -> Self {
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        Self::Map(fields.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Map(fields) => fields.is_empty(),
            Self::Text(_) | Self::Bare(_) => false,
        }
    }

    fn inline(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Bare(text) => text.clone(),
            Self::List(list) => format!("[{}]", list.iter().map(Self::inline).collect::<Vec<_>>().join(", ")),
            Self::Map(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| format!("{}: {}", quoted(name), value.inline()))
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
        }
    }

    /// As block of fields; what has only single values stands on one line.
    fn block(&self, indent: usize, text: &mut String) {
        let Self::Map(fields) = self else {
            let _ = writeln!(text, "{:indent$}{}", "", self.inline());
            return;
        };
        for (name, value) in fields {
            let name = quoted(name);
            match value {
                Self::Map(_) if value.inline().len() > 60 || value.is_deep() => {
                    let _ = writeln!(text, "{:indent$}{name}:", "");
                    value.block(indent + 2, text);
                }
                Self::List(list) if value.inline().len() > 60 || list.iter().any(|one| one.is_nested()) => {
                    let _ = writeln!(text, "{:indent$}{name}:", "");
                    for one in list {
                        let mut element = String::new();
                        one.block(indent + 4, &mut element);
                        let _ = writeln!(text, "{:indent$}  - {}", "", element.trim());
                    }
                }
                value => {
                    let _ = writeln!(text, "{:indent$}{name}: {}", "", value.inline());
                }
            }
        }
    }

    fn is_nested(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }

    /// Whether something nested holds something nested.
    fn is_deep(&self) -> bool {
        matches!(self, Self::Map(fields) if fields.iter().any(|(_, value)| matches!(value, Self::Map(_))))
    }
}

/// A text as YAML: plain where that can mean nothing else, or as JSON has it, which YAML reads too.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " ._-/%".contains(c))
        && !text.ends_with(' ')
        && text.parse::<f64>().is_err()
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Json::from(text).to_string() }
}

/// The file.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// What it is made of.
    pub origin: String,
    /// Its name.
    pub name: String,
    /// What is believed, in the source's words.
    pub hypothesis: Option<String>,
    /// The source's labels.
    pub labels: Vec<(String, Out)>,
    /// The source's notes.
    pub annotations: Vec<(String, Out)>,
    /// How long the faults act.
    pub duration: Option<String>,
    /// Whether faults are counted only.
    pub observes: bool,
    /// When the faults act.
    pub schedule: Option<Out>,
    /// How many of the targets are hit.
    pub count: Option<String>,
    /// Who is hit.
    pub targets: Vec<Out>,
    /// What they are hit with: name, `network` or `syscall`, and the fields of that.
    pub faults: Vec<(String, &'static str, Out)>,
    /// How calls are held back or fail.
    pub mechanism: Option<&'static str>,
    /// What has to hold.
    pub steady_state: Vec<Out>,
}

impl Draft {
    /// The file's text.
    pub fn text(&self) -> String {
        let mut spec = vec![];
        let mut add = |name: &str, value: Out| spec.push((name.to_owned(), value));
        let hypothesis = self.hypothesis.clone();
        add(
            "hypothesis",
            Out::Text(
                hypothesis.unwrap_or_else(|| format!("The service bears {} (write yours here).", self.name)),
            ),
        );
        if let Some(duration) = &self.duration {
            add("duration", Out::text(duration));
        }
        if self.observes {
            add("mode", Out::text("observe"));
        }
        if !self.targets.is_empty() {
            add("targets", Out::List(self.targets.clone()));
        }
        if let Some(count) = &self.count {
            add("selection", Out::map([("count", Out::text(count))]));
        }
        let faults = self
            .faults
            .iter()
            .map(|(name, kind, fields)| Out::map([("name", Out::text(name)), (kind, fields.clone())]));
        let faults: Vec<_> = faults.collect();
        if !faults.is_empty() {
            add("faults", Out::List(faults));
        }
        if let Some(schedule) = &self.schedule {
            add("schedule", schedule.clone());
        }
        if let Some(mechanism) = self.mechanism {
            add("mechanism", Out::text(mechanism));
        }
        if !self.steady_state.is_empty() {
            add("steadyState", Out::List(self.steady_state.clone()));
        }
        let metadata = Out::map([
            ("name", Out::text(&self.name)),
            ("labels", Out::Map(self.labels.clone())),
            ("annotations", Out::Map(self.annotations.clone())),
        ]);
        let mut text = format!("# Converted by kchaos from {}.\n", self.origin);
        Out::map([
            ("apiVersion", Out::text("kchaos.dev/v1alpha1")),
            ("kind", Out::text("Experiment")),
            ("metadata", metadata),
            ("spec", Out::Map(spec)),
        ])
        .block(0, &mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_could_take_for_something_else_is_quoted() {
        for text in
            ["on", "5", "1e3", "", "a: b", "#x", "- a", "~", "*a", "&a", "{", "a\nb", " a", "!x", "yes", "é"]
        {
            assert!(quoted(text).starts_with('"'), "{text}: {}", quoted(text));
        }
        for text in ["web.service", "5%", "100ms", "/var/lib", "a b"] {
            assert_eq!(quoted(text), text);
        }
    }
}
