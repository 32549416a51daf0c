//! The configuration of an experiment of Chaos Toolkit: what stands for `${NAME}`.

use super::{
    source::{Fields, scalar},
    table::Table,
};
use crate::experiment::yaml::{Node, Value};
use std::collections::BTreeMap;

/// A single value as theirs reads it: what it is compared with depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constant {
    /// A number, written as theirs writes it.
    Number(String),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

impl Constant {
    /// What a single value is; `None` for lists and mappings, for nothing, and for numbers that are not decimal everywhere.
    pub fn of(node: &Node) -> Option<Self> {
        let Value::Scalar { text, plain } = &node.value else { return None };
        if node.value.is_empty() {
            return None;
        }
        if !plain {
            return Some(Self::Text(text.clone()));
        }
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => return Some(Self::Bool(true)),
            "false" | "no" | "off" => return Some(Self::Bool(false)),
            _ => {}
        }
        let digits = text.trim_start_matches(['-', '+']);
        if is_ambiguous(digits) {
            return None;
        }
        if text.parse::<f64>().is_err() || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return Some(Self::Text(text.clone()));
        }
        Self::number(text)
    }

    fn number(text: &str) -> Option<Self> {
        let number = match text.parse::<i64>() {
            Ok(whole) => whole.to_string(),
            Err(_) => format!("{:?}", text.parse::<f64>().ok().filter(|number| number.is_finite())?),
        };
        Some(Self::Number(number))
    }

    /// As it stands in a text.
    pub fn text(&self) -> &str {
        match self {
            Self::Number(text) | Self::Text(text) => text,
            Self::Bool(true) => "True",
            Self::Bool(false) => "False",
        }
    }

    /// What `env_var_type` makes of a default.
    fn of_type(self, kind: &str) -> Result<Self, String> {
        let text = self.text().to_owned();
        let wrong = || format!("its default '{text}' is no {kind}");
        match kind {
            "str" | "string" => Ok(self),
            "int" | "integer" => {
                text.parse::<i64>().map(|number| Self::Number(number.to_string())).map_err(|_| wrong())
            }
            // Theirs writes 80.0 for 80.
            "float" | "number" => {
                let number =
                    text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong)?;
                Ok(Self::Number(format!("{number:?}")))
            }
            "bool" => Ok(Self::Bool(!["false", "0", "no"].contains(&text.to_ascii_lowercase().as_str()))),
            other => Err(format!("'{other}' is not one of str, int, float, bool")),
        }
    }
}

/// Whether their YAML (1.1) takes digits for another number than JSON does: 010 is 8, 1_000 is 1000, 0x10 is 16, 1:30 is 90,
/// and 1e3 is a text.
fn is_ambiguous(digits: &str) -> bool {
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '_');
    let is_sixtieth = |text: &str| text.len() <= 2 && text.parse::<u8>().is_ok_and(|number| number < 60);
    let mut parts = digits.split(':');
    let is_time = parts.next().is_some_and(is_number) && digits.contains(':') && parts.all(is_sixtieth);
    let is_octal = digits.len() > 1 && digits.starts_with('0') && is_number(digits);
    let is_other = digits.starts_with("0x") || digits.starts_with("0b");
    let has_exponent = digits.contains(['e', 'E']) && digits.parse::<f64>().is_ok();
    is_time || is_octal || is_other || has_exponent || (digits.contains('_') && is_number(digits))
}

/// Values that stand for `${NAME}`; nothing of those that only a run of the source knows.
#[derive(Debug, Default)]
pub struct Constants(BTreeMap<String, Option<Constant>>);

impl Constants {
    /// Reads `configuration`.
    pub fn read(document: &mut Fields<'_>, table: &mut Table) -> Self {
        let mut constants = Self::default();
        let Some((path, node)) = document.take("configuration", table) else { return constants };
        let Value::Map(fields) = &node.value else {
            table.refused(&path, format!("{} stands here: write a mapping", node.value.kind()));
            return constants;
        };
        for (name, _, node) in fields {
            let path = crate::experiment::findings::field(&path, name);
            let constant = match &node.value {
                Value::Map(fields) if is_variable(fields) => read_variable(name, node, &path, table),
                _ => {
                    let constant = Constant::of(node);
                    match &constant {
                        Some(_) => table.exact(&path, format!("stands for ${{{name}}}")),
                        None => unknown(
                            name,
                            "what it is depends on the run, or it is no single value",
                            &path,
                            table,
                        ),
                    }
                    constant
                }
            };
            constants.0.insert(name.clone(), constant);
        }
        constants
    }

    /// A text with its values filled in; what cannot be is refused.
    pub fn fill(&self, path: &str, text: &str, table: &mut Table) -> Option<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            filled += before;
            let Some((name, behind)) = after.split_once('}') else {
                rest = &rest[before.len()..];
                break;
            };
            match self.0.get(name) {
                Some(Some(value)) => filled += value.text(),
                _ => {
                    table.refused(
                        path,
                        format!("what ${{{name}}} is, is not known here: write its value into the source"),
                    );
                    return None;
                }
            }
            rest = behind;
        }
        // Their templates know names without braces as well.
        let is_name = |next: char| next.is_ascii_alphabetic() || next == '_' || next == '$';
        if text.split('$').skip(1).any(|after| after.starts_with(is_name)) || text.contains("$$") {
            table.refused(path, "'$' before a name or another '$': write ${NAME}, or the value");
            return None;
        }
        Some(filled + rest)
    }

    /// A single value: a text that is nothing but `${NAME}` is what that is, number or not; what cannot be is refused.
    pub fn value(&self, path: &str, node: &Node, table: &mut Table) -> Option<Constant> {
        let Some(value) = Constant::of(node) else {
            table
                .refused(path, "it is no single value that is the same everywhere: write a number or a text");
            return None;
        };
        let Constant::Text(text) = &value else { return Some(value) };
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        match name.and_then(|name| self.0.get(name)) {
            Some(Some(constant)) => Some(constant.clone()),
            _ => self.fill(path, text, table).map(Constant::Text),
        }
    }

    /// A single value of a mapping, filled in.
    pub fn text(&self, fields: &mut Fields<'_>, name: &str, table: &mut Table) -> Option<(String, String)> {
        let (path, text) = fields.text(name, table)?;
        let text = self.fill(&path, text, table)?;
        Some((path, text))
    }
}

/// Whether a value is looked up in the environment.
fn is_variable(fields: &[(String, crate::experiment::yaml::Mark, Node)]) -> bool {
    fields.iter().any(|(name, _, node)| name == "type" && scalar(node) == Some("env"))
}

fn unknown(name: &str, why: &str, path: &str, table: &mut Table) {
    table.approximated(path, format!("left out: {why}; where ${{{name}}} is used is refused"));
}

/// A variable of the environment, of which only the default is known here.
fn read_variable(name: &str, node: &Node, path: &str, table: &mut Table) -> Option<Constant> {
    let mut fields = Fields::of(node, path, table)?;
    let _ = fields.any("type");
    let key = fields.any("key").and_then(|(_, node)| scalar(node)).unwrap_or(name);
    let kind = fields.any("env_var_type").and_then(|(_, node)| scalar(node)).unwrap_or("str");
    let default = fields.any("default").and_then(|(_, node)| Constant::of(node));
    fields.rest(table);
    match default.map(|default| default.of_type(kind)) {
        Some(Ok(constant)) => {
            let shown = constant.text();
            table.approximated(
                path,
                format!("${{{name}}} is its default, '{shown}'; theirs asks the environment for {key} first"),
            );
            Some(constant)
        }
        Some(Err(why)) => {
            unknown(name, &why, path, table);
            None
        }
        None => {
            unknown(
                name,
                &format!(
                    "{key} of the environment is looked up when the source is run, and no default says what it is otherwise"
                ),
                path,
                table,
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::yaml;

    #[test]
    fn what_stands_for_something_else_is_filled_in_or_refused() {
        let one = Some(Constant::Number("1".to_owned()));
        let constants = Constants(BTreeMap::from([("a".to_owned(), one), ("b".to_owned(), None)]));
        let mut table = Table::default();
        let mut fill = |text: &str| constants.fill("x", text, &mut table);
        assert_eq!(fill("${a}-${a}$").as_deref(), Some("1-1$"));
        assert_eq!(fill("${a").as_deref(), Some("${a"));
        assert_eq!((fill("${b}"), fill("${c}"), fill("$a"), fill("x$$")), (None, None, None, None));
        assert_eq!(fill("$.state").as_deref(), Some("$.state"));
        assert_eq!(table.refusals(), 4);
    }

    #[test]
    fn a_value_is_what_theirs_reads() {
        let of = |text: &str| Constant::of(&yaml::read(text).unwrap()[0]);
        let number = |text: &str| Some(Constant::Number(text.to_owned()));
        let text = |text: &str| Some(Constant::Text(text.to_owned()));
        assert_eq!((of("200"), of("1.50"), of("-3")), (number("200"), number("1.5"), number("-3")));
        assert_eq!((of("\"200\""), of("inf"), of("1.2.3")), (text("200"), text("inf"), text("1.2.3")));
        assert_eq!((of("yes"), of("False")), (Some(Constant::Bool(true)), Some(Constant::Bool(false))));
        assert_eq!((of("010"), of("[1]"), of("~")), (None, None, None));
        assert_eq!((of("1_000"), of("0x1F"), of("1:30"), of("1e3")), (None, None, None, None));
        assert_eq!((of("8080:80"), of("-3.5"), of("0")), (text("8080:80"), number("-3.5"), number("0")));
        assert_eq!((of("2001:db8::1"), of("1e")), (text("2001:db8::1"), text("1e")));
        let typed = |text: &str, kind: &str| of(text).unwrap().of_type(kind);
        assert_eq!(typed("\"80\"", "int").ok(), number("80"));
        assert_eq!(typed("80", "float").ok(), number("80.0"));
        assert_eq!(typed("\"no\"", "bool"), Ok(Constant::Bool(false)));
        assert!(typed("x", "int").is_err() && typed("x", "json").is_err());
    }
}
