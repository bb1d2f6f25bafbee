//! YAML as a tree that remembers where each value stands and whether it was quoted.
//!
//! The rules are those of Go's yaml.v3 as the original uses it: only the first document counts, a
//! key twice is an error, anchors, aliases and `<<` merges work, and what a plain word means is
//! decided by the type that is asked for (see [`crate::raw`]), not here. Tested by `tests/yaml.rs`.

use std::collections::HashMap;
use std::ops::Range;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::Problem;

/// Most nodes in a document, aliases expanded: a bound against alias bombs.
const MAX_NODES: usize = 100_000;
/// Deepest nesting. The configuration needs four.
const MAX_DEPTH: usize = 64;

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Line from 1.
    pub line: u32,
    /// Byte range in the text.
    pub span: Range<usize>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A scalar, not yet interpreted.
    Scalar {
        /// After unquoting and escapes.
        text: String,
        /// Written without quotes (and not as a block, nor tagged `!!str`): may be a boolean, number or null.
        plain: bool,
    },
    /// A sequence.
    Seq(Vec<Node>),
    /// A mapping in the order of the file, merges applied.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key's text.
    pub key: String,
    /// Where the key stands, line from 1.
    pub line: u32,
    /// Byte range of the key.
    pub span: Range<usize>,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Whether it is null: nothing, `~`, `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The kind of value in YAML's words, for messages: `!!int`, `!!map`, …
    pub fn tag(&self) -> &'static str {
        match &self.value {
            Value::Seq(_) => "!!seq",
            Value::Map(_) => "!!map",
            Value::Scalar { text, plain } => {
                if !plain {
                    "!!str"
                } else if self.is_null() {
                    "!!null"
                } else if parse_bool(text).is_some() {
                    "!!bool"
                } else if parse_int(text).is_some() {
                    "!!int"
                } else if is_float(text) {
                    "!!float"
                } else {
                    "!!str"
                }
            }
        }
    }
}

/// `true True TRUE false False FALSE`: what YAML itself calls a boolean.
pub fn parse_bool(s: &str) -> Option<bool> {
    match s {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A YAML integer: decimal, `0x`, `0o`, `0b`, old octal with a leading zero, `_` between digits.
pub fn parse_int(s: &str) -> Option<i64> {
    let (sign, digits) = match s.as_bytes().first()? {
        b'-' => ("-", &s[1..]),
        b'+' => ("", &s[1..]),
        _ => ("", s),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') && digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) => {
            (8, &digits[1..])
        }
        _ => (10, digits.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// Whether YAML reads the word as a floating-point number.
fn is_float(s: &str) -> bool {
    let body = s.trim_start_matches(['-', '+']);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(s, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.bytes().any(|b| b.is_ascii_digit())
        && body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_'))
        && body.replace('_', "").parse::<f64>().is_ok()
}

/// The first document of `text`; `Ok(None)` if there is none.
pub fn parse(text: &str) -> Result<Option<Node>, Problem> {
    let mut tree = Tree { anchors: HashMap::new(), nodes: 0, text };
    let mut parser = Parser::new_from_str(text);
    let mut next = || match parser.next() {
        Some(Ok(pair)) => Ok(pair),
        Some(Err(e)) => Err(Problem::at("", Some(e.marker().line() as u32), format!("yaml: {}", e.info()))),
        None => Ok((Event::StreamEnd, Span::default())),
    };
    loop {
        match next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(None),
            (event, span) => {
                let root = tree.node(event, &span, &mut next, 0)?;
                // The end of the document is still checked: `a: 1` followed by a stray `]` is an error,
                // while a broken second document is nobody's business.
                next()?;
                return Ok(Some(root));
            }
        }
    }
}

/// Builds nodes from events.
struct Tree<'t> {
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: &'t str,
}

impl<'t> Tree<'t> {
    fn node(
        &mut self,
        event: Event<'t>,
        span: &Span,
        next: &mut dyn FnMut() -> Result<(Event<'t>, Span), Problem>,
        depth: usize,
    ) -> Result<Node, Problem> {
        let line = span.start.line() as u32;
        if depth > MAX_DEPTH {
            return Err(Problem::at("", Some(line), format!("yaml: nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, line)?;
        let start = self.byte_offset(span.start.byte_offset(), span.start.index());
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !tag.as_deref().is_some_and(is_str_tag);
                (Value::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, &span, next, depth + 1)?),
                    }
                }
                (Value::Seq(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (Value::Map(self.mapping(next, depth)?), anchor),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(Problem::at("", Some(line), "yaml: an anchor contains itself"));
                };
                self.count(size(&node), line)?;
                return Ok(node);
            }
            other => return Err(Problem::at("", Some(line), format!("yaml: unexpected {other:?}"))),
        };
        let end = self.byte_offset(span.end.byte_offset(), span.end.index());
        let node = Node { value, line, span: start..end.max(start) };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The entries of a mapping whose start was read, up to its end.
    fn mapping(
        &mut self,
        next: &mut dyn FnMut() -> Result<(Event<'t>, Span), Problem>,
        depth: usize,
    ) -> Result<Vec<Entry>, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, &span, next, depth + 1)?;
            let (event, span) = next()?;
            let node = self.node(event, &span, next, depth + 1)?;
            let Value::Scalar { text, plain } = key.value else {
                return Err(Problem::at("", Some(key.line), "yaml: a key must be a scalar"));
            };
            if plain && text == "<<" {
                merge(&node, &mut merged)?;
                continue;
            }
            if let Some(first) = entries.iter().find(|e| e.key == text) {
                let message = format!("yaml: mapping key {text:?} already defined at line {}", first.line);
                return Err(Problem::at("", Some(key.line), message));
            }
            entries.push(Entry { key: text, line: key.line, span: key.span, node });
        }
        // Keys of the mapping itself win over merged ones wherever the merge stands.
        merged.retain(|m| entries.iter().all(|e| e.key != m.key));
        entries.append(&mut merged);
        Ok(entries)
    }

    fn count(&mut self, n: usize, line: u32) -> Result<(), Problem> {
        self.nodes += n;
        if self.nodes > MAX_NODES {
            return Err(Problem::at(
                "",
                Some(line),
                format!("yaml: more than {MAX_NODES} values, aliases expanded"),
            ));
        }
        Ok(())
    }

    fn byte_offset(&self, byte: Option<usize>, chars: usize) -> usize {
        byte.unwrap_or_else(|| self.text.char_indices().nth(chars).map_or(self.text.len(), |(i, _)| i))
    }
}

/// Adds what `<<: node` brings; of several mappings the first one that has a key wins.
fn merge(node: &Node, into: &mut Vec<Entry>) -> Result<(), Problem> {
    let maps: &[Node] = match &node.value {
        Value::Map(_) => std::slice::from_ref(node),
        Value::Seq(items) => items,
        Value::Scalar { .. } => &[],
    };
    if maps.is_empty() && !matches!(node.value, Value::Seq(_)) {
        return Err(Problem::at(
            "",
            Some(node.line),
            "yaml: map merge requires map or sequence of maps as the value",
        ));
    }
    for map in maps {
        let Value::Map(entries) = &map.value else {
            return Err(Problem::at(
                "",
                Some(map.line),
                "yaml: map merge requires map or sequence of maps as the value",
            ));
        };
        for e in entries {
            if into.iter().all(|have| have.key != e.key) {
                into.push(e.clone());
            }
        }
    }
    Ok(())
}

fn is_str_tag(tag: &Tag) -> bool {
    tag.handle() == "tag:yaml.org,2002:" && tag.suffix() == "str"
        || tag.handle() == "!!" && tag.suffix() == "str"
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::Seq(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|e| size(&e.node)).sum(),
    }
}
