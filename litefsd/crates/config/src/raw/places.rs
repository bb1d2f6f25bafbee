//! What unset variables did to the file.
//!
//! `candidate: $UNSET` is null and keeps its default, true; `${A == B}` with both unset is true. Either
//! makes a node primary that nobody meant to be, so both are errors here. A variable that is missing
//! inside a longer string (`http://.vm..internal`) is only a warning: it may be meant.

use crate::Problem;
use crate::env::{Expanded, Place};
use crate::yaml::{Node, Value};

/// Looks at every place that was expanded. Places in comments do nothing and are ignored.
pub(super) fn check(
    expanded: &Expanded,
    root: &Node,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let mut scalars = Vec::new();
    collect("", root, &mut scalars);
    for place in &expanded.places {
        let inside = scalars
            .iter()
            .find(|s| s.node.span.start <= place.result.start && place.result.end <= s.node.span.end);
        let Some(scalar) = inside else { continue };
        if place.equal_by_absence {
            let message = format!("{} is true only because {} not set", place.source, are(&place.empty));
            let p = Problem::at(&scalar.path, Some(place.line), message);
            problems.push(p.hint("set them, or write true or false"));
        } else if place.result.is_empty() && !place.empty.is_empty() && !scalar.text().is_empty() {
            let message = format!(
                "{} not set: the value becomes {:?}",
                are(&place.empty),
                redact(&scalar.path, scalar.text())
            );
            warnings.push(Problem::at(&scalar.path, Some(place.line), message));
        }
    }
    if let Some(p) = candidate(expanded, root) {
        // The same value may already have been refused as no boolean; this says why.
        problems.retain(|q| q.key != p.key);
        problems.push(p);
    }
}

struct Scalar<'a> {
    path: String,
    node: &'a Node,
}

impl Scalar<'_> {
    fn text(&self) -> &str {
        match &self.node.value {
            Value::Scalar { text, .. } => text,
            _ => "",
        }
    }
}

fn collect<'a>(path: &str, node: &'a Node, into: &mut Vec<Scalar<'a>>) {
    match &node.value {
        Value::Scalar { .. } => into.push(Scalar { path: path.to_owned(), node }),
        Value::Seq(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(&format!("{path}[{i}]"), item, into);
            }
        }
        Value::Map(entries) => {
            for e in entries {
                let path = if path.is_empty() { e.key.clone() } else { format!("{path}.{}", e.key) };
                collect(&path, &e.node, into);
            }
        }
    }
}

/// `lease.candidate` that a variable left empty.
fn candidate(expanded: &Expanded, root: &Node) -> Option<Problem> {
    let entry = get(&get(root, "lease")?.node, "candidate")?;
    let empty =
        entry.node.is_null() || matches!(&entry.node.value, Value::Scalar { text, .. } if text.is_empty());
    if !empty {
        return None;
    }
    // Between the key and the place there is nothing but the colon, blanks and a quote.
    let belongs = |p: &Place| {
        expanded.text.get(entry.span.end..p.result.start).is_some_and(|between| {
            between.chars().all(|c| c.is_whitespace() || matches!(c, ':' | '"' | '\''))
        })
    };
    let names: Vec<String> = expanded
        .places
        .iter()
        .filter(|p| p.result.is_empty() && belongs(p))
        .flat_map(|p| p.empty.iter().cloned())
        .collect();
    if names.is_empty() {
        return None;
    }
    let message = format!("{} not set: an empty value would make this node a candidate", are(&names));
    Some(Problem::at("lease.candidate", Some(entry.line), message).hint("set it to true or false"))
}

fn get<'a>(node: &'a Node, key: &str) -> Option<&'a crate::yaml::Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|e| e.key == key),
        _ => None,
    }
}

/// `A is`, `A and B are`.
fn are(names: &[String]) -> String {
    let mut unique: Vec<&str> = names.iter().map(String::as_str).collect();
    unique.dedup();
    match unique.as_slice() {
        [one] => format!("{one} is"),
        _ => format!("{} are", unique.join(" and ")),
    }
}

/// Values of secret keys, and credentials in URLs, stay out of warnings.
fn redact(path: &str, text: &str) -> String {
    if path.ends_with("auth-token") { "…".to_owned() } else { crate::show::without_credentials(text) }
}
