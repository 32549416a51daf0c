//! What is tolerated of an answer.

use super::value::{Unit, Value};
use regex::Regex;
use serde_json_path::JsonPath;
use std::fmt;

/// What is tolerated; all of it has to hold.
#[derive(Clone, Debug)]
pub struct Tolerance {
    /// What of a JSON text the checks are about, with the path as it was written.
    pub json_path: Option<(String, JsonPath)>,
    /// What has to hold.
    pub checks: Vec<Check>,
    /// What numbers are measured in.
    pub unit: Unit,
}

/// One thing that has to hold.
#[derive(Clone, Debug)]
pub enum Check {
    /// It is one of these.
    OneOf(Vec<Value>),
    /// It is at least this.
    AtLeast(f64),
    /// It is at most this.
    AtMost(f64),
    /// It has a place where this matches.
    Regex(Regex),
    /// It contains this.
    Contains(String),
}

impl Tolerance {
    /// Says what does not hold.
    pub fn check(&self, answer: &Value) -> Result<(), String> {
        let chosen = self.choose(answer)?;
        let shown = chosen.show(self.unit);
        for check in &self.checks {
            let holds = match (check, &chosen) {
                (Check::OneOf(values), chosen) => values.iter().any(|value| same(value, chosen)),
                (Check::AtLeast(least), value) => number(value).is_some_and(|number| number >= *least),
                (Check::AtMost(most), value) => number(value).is_some_and(|number| number <= *most),
                (Check::Regex(regex), Value::Text(text)) => regex.is_match(text),
                (Check::Regex(regex), Value::Number(number)) => regex.is_match(&number.to_string()),
                (Check::Contains(part), Value::Text(text)) => text.contains(part),
                (Check::Contains(part), Value::Number(number)) => number.to_string().contains(part),
            };
            if !holds {
                return Err(format!("{shown} is not {}", self.show(check)));
            }
        }
        Ok(())
    }

    fn choose(&self, answer: &Value) -> Result<Value, String> {
        let (Some((written, path)), Value::Text(text)) = (&self.json_path, answer) else {
            return Ok(answer.clone());
        };
        let json: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| format!("{} is no JSON: {error}", answer.show(self.unit)))?;
        let found = path.query(&json).all();
        match found[..] {
            [] => Err(format!("{written} leads to nothing in {}", answer.show(self.unit))),
            [one] => Ok(plain(one)),
            _ => Ok(Value::Text(serde_json::json!(found).to_string())),
        }
    }

    /// The largest and the smallest number that is tolerated, for a plot.
    pub fn bounds(&self) -> (Option<f64>, Option<f64>) {
        let (mut least, mut most) = (None, None);
        for check in &self.checks {
            match check {
                Check::AtLeast(bound) => least = Some(*bound),
                Check::AtMost(bound) => most = Some(*bound),
                Check::OneOf(values) => {
                    if let [Value::Number(only)] = values[..] {
                        (least, most) = (Some(only), Some(only));
                    }
                }
                Check::Regex(_) | Check::Contains(_) => {}
            }
        }
        (least, most)
    }

    fn show(&self, check: &Check) -> String {
        let of = self.json_path.as_ref().map(|(path, _)| format!(" at {path}")).unwrap_or_default();
        let text = match check {
            Check::OneOf(values) => {
                let shown: Vec<_> = values.iter().map(|value| value.show(self.unit)).collect();
                shown.join(" or ")
            }
            Check::AtLeast(least) => format!("at least {}", self.unit.show(*least)),
            Check::AtMost(most) => format!("at most {}", self.unit.show(*most)),
            Check::Regex(regex) => format!("matched by /{regex}/"),
            Check::Contains(part) => format!("with {part:?} in it"),
        };
        text + &of
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.checks.is_empty() {
            return f.write_str(if self.json_path.is_some() { "there" } else { "answered" });
        }
        let all: Vec<_> = self.checks.iter().map(|check| self.show(check)).collect();
        f.write_str(&all.join(" and "))
    }
}

fn plain(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Value::Text(text.clone()),
        other => Value::Text(other.to_string()),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
    }
}

fn same(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Number(wanted), found) => number(found).is_some_and(|found| found == *wanted),
        (Value::Text(wanted), Value::Text(found)) => wanted == found,
        (Value::Text(wanted), Value::Number(found)) => wanted.trim().parse::<f64>() == Ok(*found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tolerance(checks: Vec<Check>, json_path: Option<&str>) -> Tolerance {
        let json_path = json_path.map(|path| (path.to_owned(), JsonPath::parse(path).unwrap()));
        Tolerance { json_path, checks, unit: Unit::Text }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn all_that_is_named_has_to_hold() {
        let range = tolerance(vec![Check::AtLeast(200.0), Check::AtMost(299.0)], None);
        assert!(range.check(&Value::Number(204.0)).is_ok());
        let problem = range.check(&Value::Number(503.0)).unwrap_err();
        assert_eq!(problem, "503 is not at most 299");
        assert!(range.check(&text("x")).is_err());
        assert!(tolerance(vec![], None).check(&text("anything")).is_ok());
        let regex = tolerance(vec![Check::Regex(Regex::new("^ok").unwrap())], None);
        assert!(regex.check(&text("ok then")).is_ok() && regex.check(&text("not ok")).is_err());
    }

    #[test]
    fn a_path_chooses_within_json() {
        let body = text(r#"{"status": "up", "checks": [{"ms": 12}, {"ms": 30}]}"#);
        let up =
            |value: &str, path| tolerance(vec![Check::OneOf(vec![text(value)])], Some(path)).check(&body);
        assert!(up("up", "$.status").is_ok());
        assert!(up("down", "$.status").unwrap_err().contains("'up' is not 'down'"));
        assert!(up("up", "$.nothing").unwrap_err().contains("leads to nothing"));
        assert!(tolerance(vec![Check::AtMost(15.0)], Some("$.checks[0].ms")).check(&body).is_ok());
        assert!(tolerance(vec![Check::AtMost(15.0)], Some("$.checks[1].ms")).check(&body).is_err());
        assert!(tolerance(vec![], Some("$.status")).check(&text("no json")).unwrap_err().contains("no JSON"));
    }
}
