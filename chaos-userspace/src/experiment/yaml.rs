//! YAML as a tree in which everything knows its line and column.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use std::{borrow::Cow, collections::HashMap, fmt};

/// A place in a file, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Mark {
    fn of(marker: &saphyr_parser::Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it begins.
    pub at: Mark,
    /// What it is.
    pub value: Value,
}

/// What a value can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A single value as it is written; what it means is for the schema to say.
    Scalar {
        /// Its text.
        text: String,
        /// Whether it stands without quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Fields with their names' places, in order.
    Map(Vec<(String, Mark, Node)>),
}

impl Value {
    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scalar { .. } => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// Why a text is no tree, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where.
    pub at: Mark,
    /// Why.
    pub text: String,
}

impl From<ScanError> for Unreadable {
    fn from(error: ScanError) -> Self {
        Self { at: Mark::of(error.marker()), text: format!("this is no YAML: {}", error.info()) }
    }
}

/// Longest file that is read.
pub const BYTES_MAX: usize = 1 << 20;
/// So many values a file may have, those that aliases stand for included: a few lines of aliases of aliases would
/// otherwise fill the memory.
const NODES_MAX: usize = 100_000;
/// So deep may they lie in one another.
const DEPTH_MAX: usize = 64;

/// Reads the documents of a file.
pub fn read(text: &str) -> Result<Vec<Node>, Unreadable> {
    if text.len() > BYTES_MAX {
        let text = format!("{} bytes are above the limit of {BYTES_MAX}: split the file", text.len());
        return Err(Unreadable { at: Mark { line: 1, column: 1 }, text });
    }
    let mut tree = Tree { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = vec![];
    loop {
        match tree.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                let first = tree.next()?;
                documents.push(tree.node(first, 0)?);
                // Anchors end with their document.
                tree.anchors.clear();
            }
            _ => {}
        }
    }
}

struct Tree<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Tree<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Unreadable> {
        match self.parser.next_event() {
            Some(event) => Ok(event?),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn count(&mut self, more: usize, at: Mark) -> Result<(), Unreadable> {
        self.nodes += more;
        if self.nodes > NODES_MAX {
            return Err(Unreadable { at, text: format!("more than {NODES_MAX} values, aliases included") });
        }
        Ok(())
    }

    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Node, Unreadable> {
        let at = Mark::of(&span.start);
        self.count(1, at)?;
        if depth > DEPTH_MAX {
            return Err(Unreadable { at, text: format!("more than {DEPTH_MAX} levels") });
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(&tag, at)?;
                (anchor, Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(&tag, at)?;
                let mut list = vec![];
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        event => list.push(self.node(event, depth + 1)?),
                    }
                }
                (anchor, Value::List(list))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(&tag, at)?;
                (anchor, Value::Map(self.fields(depth)?))
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Unreadable { at, text: "an alias of something that holds it".to_owned() });
                };
                self.count(size(&node), at)?;
                return Ok(Node { at, ..node });
            }
            _ => return Err(Unreadable { at, text: "nothing is written here".to_owned() }),
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.count(size(&node), at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn fields(&mut self, depth: usize) -> Result<Vec<(String, Mark, Node)>, Unreadable> {
        let mut fields: Vec<(String, Mark, Node)> = vec![];
        loop {
            let (name, at) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(fields),
                (Event::Scalar(name, _, _, _), span) => (name.into_owned(), Mark::of(&span.start)),
                (_, span) => {
                    return Err(Unreadable {
                        at: Mark::of(&span.start),
                        text: "a field's name is a single value".to_owned(),
                    });
                }
            };
            if let Some((_, first, _)) = fields.iter().find(|(other, _, _)| *other == name) {
                let text = format!("'{name}' stands here a second time: the first is at {first}");
                return Err(Unreadable { at, text });
            }
            let value = self.next()?;
            let value = self.node(value, depth + 1)?;
            fields.push((name, at, value));
        }
    }
}

/// A tag can turn a value into something that is not written.
fn refuse_tag(tag: &Option<Cow<'_, saphyr_parser::Tag>>, at: Mark) -> Result<(), Unreadable> {
    match tag {
        None => Ok(()),
        Some(tag) => {
            let text = format!("the tag {}{} is not known: leave it out", tag.handle, tag.suffix);
            Err(Unreadable { at, text })
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(list) => list.iter().map(size).sum(),
        Value::Map(fields) => fields.iter().map(|(_, _, value)| size(value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(node: &Node) -> &[(String, Mark, Node)] {
        match &node.value {
            Value::Map(fields) => fields,
            other => panic!("{}", other.kind()),
        }
    }

    #[test]
    fn everything_has_its_place() {
        let document = read("a: 1\nb:\n  - x\n  - {c: \"on\"}\n").unwrap().remove(0);
        let [(a, a_at, one), (_, _, list)] = fields(&document) else { panic!("{document:?}") };
        assert_eq!(
            (a.as_str(), *a_at, one.at),
            ("a", Mark { line: 1, column: 1 }, Mark { line: 1, column: 4 })
        );
        let Value::List(list) = &list.value else { panic!("{list:?}") };
        assert_eq!(list[0].at, Mark { line: 3, column: 5 });
        let (_, _, on) = &fields(&list[1])[0];
        assert_eq!(on.value, Value::Scalar { text: "on".into(), plain: false });
    }

    #[test]
    fn aliases_stand_for_what_they_name_within_bounds() {
        let document = read("a: &x [1, 2]\nb: *x\n").unwrap().remove(0);
        assert_eq!(fields(&document)[0].2.value, fields(&document)[1].2.value);
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            laughs += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
        }
        assert!(read(&laughs).unwrap_err().text.contains("aliases included"));
        assert!(read(&"[".repeat(100)).unwrap_err().text.contains("levels"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_where_it_stands() {
        let error = read("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((error.at, error.text.contains("a second time")), (Mark { line: 3, column: 1 }, true));
        assert!(read("a: !!int 5").unwrap_err().text.contains("tag"));
        assert!(read("a: [1").is_err());
        assert!(read(&" ".repeat(BYTES_MAX + 1)).unwrap_err().text.contains("limit"));
        assert_eq!(read("a: 1\n---\nb: 2\n").unwrap().len(), 2);
        assert_eq!(read("").unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([a-z:&*!\\[\\]{},\\-\"'| \n]|\\PC){0,60}") {
            let _ = read(&text);
        }
    }
}
