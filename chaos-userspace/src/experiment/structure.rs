//! A tree against a JSON Schema: what is not known, missing or of another kind, all at once, with places.
//!
//! Only as much of JSON Schema is known as `schemars` makes of the types in [`super::document`]. What a single value means
//! follows from the schema alone: `5432` is a text where a text is wanted.

use super::{
    findings::{Findings, element, field},
    yaml::{Node, Value},
};
use serde_json::{Map, Value as Json};

/// Reads a tree as the schema wants it. What is wrong is told and left out.
pub fn read(node: &Node, schema: &Json, findings: &mut Findings) -> Json {
    let walk = Walk { root: schema };
    walk.value(node, schema, "", findings).unwrap_or_else(|| Json::Object(Map::new()))
}

struct Walk<'a> {
    root: &'a Json,
}

impl<'a> Walk<'a> {
    /// Follows references.
    fn resolve(&self, mut schema: &'a Json) -> &'a Json {
        while let Some(name) = schema["$ref"].as_str() {
            schema = name.strip_prefix('#').and_then(|path| self.root.pointer(path)).unwrap_or(&Json::Null);
        }
        schema
    }

    /// What a value may be: one schema, or several of which one fits its kind.
    fn alternatives(&self, schema: &'a Json) -> Vec<&'a Json> {
        let schema = self.resolve(schema);
        match schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            Some(all) => all.iter().flat_map(|one| self.alternatives(one)).collect(),
            None => vec![schema],
        }
    }

    fn value(&self, node: &Node, schema: &'a Json, path: &str, findings: &mut Findings) -> Option<Json> {
        findings.place(path, node.at);
        let all = self.alternatives(schema);
        let kinds: &[&str] = match &node.value {
            Value::Scalar { .. } => &["string", "integer", "number", "boolean"],
            Value::List(_) => &["array"],
            Value::Map(_) => &["object"],
        };
        let fitting: Vec<_> =
            all.iter().copied().filter(|one| kinds.iter().any(|kind| has_type(one, kind))).collect();
        let (Some(first), false) = (fitting.first(), node.value.is_empty()) else {
            let found = if node.value.is_empty() { "nothing" } else { node.value.kind() };
            findings.add_at(node.at, path, format!("{found} stands here: write {}", wanted(&all)));
            findings.spoil(path);
            return None;
        };
        match &node.value {
            Value::Map(fields) => Some(self.object(node, fields, first, path, findings)),
            Value::List(list) => {
                let items = &first["items"];
                let mut read = vec![];
                for (number, item) in list.iter().enumerate() {
                    let path = element(path, number);
                    read.push(self.value(item, items, &path, findings).unwrap_or_else(|| self.empty(items)));
                }
                let least = first["minItems"].as_u64().unwrap_or(0);
                if (list.len() as u64) < least {
                    findings.add_at(node.at, path, format!("the list is empty: it needs at least {least}"));
                    findings.spoil(path);
                }
                Some(Json::Array(read))
            }
            Value::Scalar { text, plain } => match scalar(text, *plain, &fitting) {
                Ok(value) => Some(value),
                Err(problem) => {
                    findings.add_at(node.at, path, problem);
                    findings.spoil(path);
                    None
                }
            },
        }
    }

    /// What stands for an element of a list that cannot be read, so that the others keep their numbers.
    fn empty(&self, schema: &'a Json) -> Json {
        match self.alternatives(schema).first() {
            Some(first) if has_type(first, "object") => Json::Object(Map::new()),
            Some(first) if has_type(first, "integer") => Json::from(0),
            _ => Json::from(""),
        }
    }

    fn object(
        &self,
        node: &Node,
        fields: &[(String, super::yaml::Mark, Node)],
        schema: &'a Json,
        path: &str,
        findings: &mut Findings,
    ) -> Json {
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let rest = &schema["additionalProperties"];
        let mut read = Map::new();
        let mut meant = vec![];
        let mut unread = false;
        for (name, at, value) in fields {
            let schema = match properties.get(name) {
                Some(schema) => schema,
                None if rest.is_object() => rest,
                None => {
                    let close = closest(name, properties.keys());
                    let hint = match close {
                        Some(known) => {
                            meant.push(known.clone());
                            format!("did you mean {known}?")
                        }
                        None => {
                            let known: Vec<_> = properties.keys().map(String::as_str).collect();
                            format!("known are {}", known.join(", "))
                        }
                    };
                    findings.add_at(*at, &field(path, name), format!("'{name}' is not known here: {hint}"));
                    findings.is_odd(path);
                    continue;
                }
            };
            let path = field(path, name);
            match self.value(value, schema, &path, findings) {
                Some(value) => drop(read.insert(name.clone(), value)),
                None => unread = true,
            }
        }
        if unread {
            findings.is_odd(path);
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            let given = fields.iter().any(|(given, _, _)| given == name);
            if !given && !meant.iter().any(|meant| meant == name) {
                let what = self.resolve(&properties[name])["description"]
                    .as_str()
                    .or(properties[name]["description"].as_str())
                    .map(first_sentence);
                let what = what.map(|what| format!(" ({what})")).unwrap_or_default();
                findings.add_at(node.at, path, format!("'{name}' is missing{what}: add it"));
                findings.is_odd(path);
            }
        }
        Json::Object(read)
    }
}

fn first_sentence(text: &str) -> String {
    let end = text.find(['.', ';', ':']).unwrap_or(text.len());
    text[..end].replace('\n', " ").to_lowercase()
}

/// Whether a schema allows this type. One that says nothing allows all.
fn has_type(schema: &Json, kind: &str) -> bool {
    match &schema["type"] {
        Json::String(one) => one == kind,
        Json::Array(several) => several.iter().any(|one| one == kind),
        // Constants without a type are texts here; a schema without anything allows all.
        _ => schema["const"].is_null() || kind == "string",
    }
}

/// The constants a schema allows.
fn constants(schemas: &[&Json]) -> Vec<String> {
    let mut all = vec![];
    for schema in schemas {
        all.extend(schema["const"].as_str().map(str::to_owned));
        all.extend(
            schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned),
        );
    }
    all
}

/// What may stand somewhere, for people.
fn wanted(schemas: &[&Json]) -> String {
    let mut words: Vec<String> = vec![];
    for schema in schemas {
        if let Some(constant) = schema["const"].as_str() {
            words.push(constant.to_owned());
            continue;
        }
        for (kind, word) in [
            ("object", "a mapping"),
            ("array", "a list"),
            ("integer", "a whole number"),
            ("number", "a number"),
            ("boolean", "true or false"),
            ("string", "a text"),
        ] {
            if !schema["type"].is_null() && has_type(schema, kind) {
                words.push(match (kind, schema["examples"][0].as_str()) {
                    ("string", Some(example)) => format!("a text such as {example}"),
                    ("object", _) => {
                        let names: Vec<_> = schema["properties"]
                            .as_object()
                            .into_iter()
                            .flatten()
                            .map(|(name, _)| name)
                            .collect();
                        let some: Vec<_> = names.iter().take(3).map(|name| name.as_str()).collect();
                        format!("{word} with {}", some.join(", "))
                    }
                    _ => word.to_owned(),
                });
            }
        }
    }
    words.dedup();
    if words.is_empty() { "a value".to_owned() } else { words.join(" or ") }
}

fn scalar(text: &str, plain: bool, schemas: &[&Json]) -> Result<Json, String> {
    let constants = constants(schemas);
    if !constants.is_empty() && schemas.iter().all(|one| !one["const"].is_null() || !one["enum"].is_null()) {
        return match constants.iter().find(|known| *known == text) {
            Some(known) => Ok(Json::from(known.as_str())),
            None => {
                let hint = match closest(text, constants.iter()) {
                    Some(known) => format!("did you mean {known}?"),
                    None => format!("write {}", constants.join(", ")),
                };
                Err(format!("'{text}' is not known here: {hint}"))
            }
        };
    }
    let any = |kind| schemas.iter().any(|one| has_type(one, kind));
    if any("string") {
        return Ok(Json::from(text));
    }
    if any("integer") {
        let least = schemas.iter().find_map(|one| one["minimum"].as_u64()).unwrap_or(0);
        let most = schemas.iter().find_map(|one| one["maximum"].as_u64()).unwrap_or(u64::MAX);
        let number = text.parse::<u64>().ok().filter(|number| plain && (least..=most).contains(number));
        let upper = if most == u64::MAX { String::new() } else { format!(" to {most}") };
        return number.map(Json::from).ok_or_else(|| {
            format!("'{text}' is not a whole number from {least}{upper}: write it without quotes and unit")
        });
    }
    if any("boolean") {
        return match text {
            "true" if plain => Ok(Json::from(true)),
            "false" if plain => Ok(Json::from(false)),
            _ => Err(format!("'{text}' is neither true nor false")),
        };
    }
    let number = text.parse::<f64>().ok().filter(|number| plain && number.is_finite());
    number.map(Json::from).ok_or_else(|| format!("'{text}' is not a number"))
}

/// The name that was probably meant.
pub fn closest<'n>(text: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    let lower = text.to_lowercase();
    let near = |name: &&String| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    let nearest = names.min_by_key(near)?;
    (near(&nearest) <= 1 + text.len() / 4).then_some(nearest)
}
