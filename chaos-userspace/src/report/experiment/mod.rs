//! Reports of an experiment, each a pure function of its record.

mod conclusions;
mod html;
mod journal;
mod junit;
mod markdown;
mod plot;
mod radius;
mod schedule;
mod time;

use crate::experiment::record::Record;
use std::path::Path;

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The record itself.
    Json,
    /// One page that needs nothing else.
    Html,
    /// The same as text.
    Markdown,
    /// For CI systems.
    Junit,
    /// A journal of Chaos Toolkit.
    Journal,
}

impl Form {
    /// The form that a file's name asks for.
    pub fn of(path: &Path) -> Result<Self, &'static str> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let forms = [
            (".journal.json", Self::Journal),
            (".json", Self::Json),
            (".html", Self::Html),
            (".md", Self::Markdown),
            (".xml", Self::Junit),
        ];
        (forms.into_iter().find(|(end, _)| name.ends_with(end)).map(|(_, form)| form))
            .ok_or("its name has to end in .html, .md, .json, .xml (JUnit) or .journal.json (Chaos Toolkit)")
    }

    /// Writes it.
    pub fn write(self, record: &Record) -> String {
        match self {
            Self::Json => serde_json::to_string_pretty(record).unwrap_or_default() + "\n",
            Self::Html => html::page(record),
            Self::Markdown => markdown::text(record),
            Self::Junit => junit::xml(record),
            Self::Journal => {
                serde_json::to_string_pretty(&journal::journal(record)).unwrap_or_default() + "\n"
            }
        }
    }
}

/// A text in which nothing is markup of HTML or XML. Characters that XML 1.0 does not have are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            character => escaped.push(character),
        }
    }
    escaped
}

/// The command that repeats it, for a shell.
fn command_line(record: &Record) -> String {
    let plain = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c))
    };
    let quoted =
        |word: &String| if plain(word) { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) };
    record.command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
