//! From the YAML tree into [`Raw`](super::Raw), with yaml.v3's idea of which value fits which type.

use std::collections::BTreeMap;

use super::BackupTarget;
use crate::nearest::nearest;
use crate::visit::{Section, Visit};
use crate::yaml::{Entry, Node, Value, parse_bool, parse_int};
use crate::{ByteSize, ExecItem, GoDuration, Problem};

/// Fills `into` from `root`. Returns the lines of the keys and every problem found.
pub(super) fn decode(root: &Node, into: &mut dyn Section) -> (BTreeMap<String, u32>, Vec<Problem>) {
    let mut found = Found::default();
    section("", root, into, &mut found);
    (found.lines, found.problems)
}

#[derive(Default)]
struct Found {
    lines: BTreeMap<String, u32>,
    problems: Vec<Problem>,
}

/// Decodes one mapping and reports the keys nobody asked for.
fn section(path: &str, node: &Node, into: &mut dyn Section, found: &mut Found) {
    let Value::Map(entries) = &node.value else {
        if !node.is_null() {
            found.problems.push(mismatch(path, node, into.type_name()));
        }
        return;
    };
    let mut fields = Fields { path, entries, known: Vec::new(), found };
    into.each(&mut fields);
    let known = fields.known;
    for e in entries.iter().filter(|e| !known.contains(&e.key.as_str())) {
        let p = Problem::at(&join(path, &e.key), Some(e.line), "unknown key");
        found.problems.push(match nearest(&e.key, &known) {
            Some(near) => p.hint(format!("did you mean {near:?}?")),
            None => p.hint(format!("known here: {}", known.join(", "))),
        });
    }
}

struct Fields<'a> {
    path: &'a str,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    found: &'a mut Found,
}

impl<'a> Fields<'a> {
    /// The value of a key if it is there and not null.
    fn take(&mut self, key: &'static str) -> Option<(String, &'a Node)> {
        self.known.push(key);
        let e = self.entries.iter().find(|e| e.key == key)?;
        let path = join(self.path, key);
        self.found.lines.insert(path.clone(), e.line);
        (!e.node.is_null()).then_some((path, &e.node))
    }

    fn scalar<T>(
        &mut self,
        key: &'static str,
        type_name: &str,
        value: &mut T,
        read: impl Fn(&str, bool) -> Result<T, Option<String>>,
    ) {
        let Some((path, node)) = self.take(key) else { return };
        let result = match &node.value {
            Value::Scalar { text, plain } => read(text, *plain),
            Value::Seq(_) | Value::Map(_) => Err(None),
        };
        match result {
            Ok(v) => *value = v,
            Err(hint) => {
                let mut p = mismatch(&path, node, type_name);
                p.hint = hint;
                self.found.problems.push(p);
            }
        }
    }
}

impl Visit for Fields<'_> {
    fn bool(&mut self, key: &'static str, value: &mut bool) {
        self.scalar(key, "bool", value, |text, plain| {
            if plain && let Some(b) = parse_bool(text) {
                return Ok(b);
            }
            // YAML 1.1's words work quoted, too; `"true"` does not.
            match text {
                "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(true),
                "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(false),
                _ => Err(Some("write true or false, without quotes".to_owned())),
            }
        });
    }

    fn string(&mut self, key: &'static str, value: &mut String) {
        self.scalar(key, "string", value, |text, _| Ok(text.to_owned()));
    }

    fn secret(&mut self, key: &'static str, value: &mut String) {
        self.string(key, value);
    }

    fn duration(&mut self, key: &'static str, value: &mut GoDuration) {
        self.scalar(key, "time.Duration", value, |text, plain| {
            if plain && parse_int(text).is_some() {
                return Err(Some(if text == "0" {
                    "write \"0s\"".to_owned()
                } else {
                    format!("a duration needs a unit, such as {text}s")
                }));
            }
            text.parse().map_err(|e: crate::InvalidDuration| Some(e.to_string()))
        });
    }

    fn int(&mut self, key: &'static str, value: &mut i64) {
        self.scalar(key, "int", value, |text, plain| {
            if !plain {
                return Err(Some("write the number without quotes".to_owned()));
            }
            // yaml.v3 cuts a floating-point number that fits.
            let cut = || text.parse::<f64>().ok().filter(|f| f.abs() < 9.0e15).map(|f| f as i64);
            parse_int(text).or_else(cut).ok_or(None)
        });
    }

    fn id(&mut self, key: &'static str, value: &mut Option<u32>) {
        self.scalar(key, "a user or group id", value, |text, _| {
            text.parse().map(Some).map_err(|_| Some("write the number, as `id` prints it".to_owned()))
        });
    }

    fn size(&mut self, key: &'static str, value: &mut ByteSize) {
        self.scalar(key, "a size", value, |text, _| {
            text.parse().map_err(|e: crate::InvalidSize| Some(e.to_string()))
        });
    }

    fn strings(&mut self, key: &'static str, value: &mut Vec<String>) {
        let Some((path, node)) = self.take(key) else {
            if self.entries.iter().any(|e| e.key == key) {
                value.clear();
            }
            return;
        };
        let Value::Seq(items) = &node.value else {
            self.found.problems.push(mismatch(&path, node, "[]string").hint("write a list: [a, b]"));
            return;
        };
        value.clear();
        for (i, item) in items.iter().enumerate() {
            match &item.value {
                Value::Scalar { .. } if item.is_null() => value.push(String::new()),
                Value::Scalar { text, .. } => value.push(text.clone()),
                _ => self.found.problems.push(mismatch(&format!("{path}[{i}]"), item, "string")),
            }
        }
    }

    fn exec(&mut self, key: &'static str, value: &mut Vec<ExecItem>) {
        let Some((path, node)) = self.take(key) else { return };
        value.clear();
        match &node.value {
            Value::Scalar { text, .. } => {
                if text.trim().is_empty() {
                    self.found.problems.push(Problem::at(&path, Some(node.line), "empty command"));
                }
                value.push(ExecItem { cmd: text.clone(), if_candidate: false });
            }
            Value::Seq(items) => {
                for (i, item) in items.iter().enumerate() {
                    exec_item(&format!("{path}[{i}]"), item, value, self.found);
                }
            }
            Value::Map(_) => {
                let p = Problem::at(&path, Some(node.line), "invalid exec config format");
                self.found.problems.push(p.hint("write a command, or a list of {cmd: …, if-candidate: …}"));
            }
        }
    }

    fn targets(&mut self, key: &'static str, value: &mut Vec<BackupTarget>) {
        let Some((path, node)) = self.take(key) else { return };
        let Value::Seq(items) = &node.value else {
            self.found.problems.push(mismatch(&path, node, "[]main.BackupConfig"));
            return;
        };
        for (i, item) in items.iter().enumerate() {
            let mut target = BackupTarget::default();
            let item_path = format!("{path}[{i}]");
            self.found.lines.insert(item_path.clone(), item.line);
            section(&item_path, item, &mut target, self.found);
            value.push(target);
        }
    }

    fn section(&mut self, key: &'static str, value: &mut dyn Section) {
        if let Some((path, node)) = self.take(key) {
            section(&path, node, value, self.found);
        }
    }
}

/// One `{cmd, if-candidate}`; other keys are ignored here, as the original's own decoder does.
fn exec_item(path: &str, item: &Node, into: &mut Vec<ExecItem>, found: &mut Found) {
    struct Item(ExecItem);
    impl Section for Item {
        fn type_name(&self) -> &'static str {
            "main.ExecConfig"
        }
        fn each(&mut self, v: &mut dyn Visit) {
            v.string("cmd", &mut self.0.cmd);
            v.bool("if-candidate", &mut self.0.if_candidate);
        }
    }
    let mut one = Item(ExecItem { cmd: String::new(), if_candidate: false });
    match &item.value {
        Value::Map(entries) => {
            one.each(&mut Fields { path, entries, known: Vec::new(), found });
            if one.0.cmd.trim().is_empty() {
                found.problems.push(Problem::at(path, Some(item.line), "empty command").hint("write cmd: …"));
            }
            into.push(one.0);
        }
        _ if item.is_null() => found.problems.push(Problem::at(path, Some(item.line), "empty command")),
        _ => found.problems.push(mismatch(path, item, one.type_name()).hint("write - cmd: …")),
    }
}

/// The original's words for a value of the wrong type.
fn mismatch(path: &str, node: &Node, type_name: &str) -> Problem {
    let shown = match &node.value {
        Value::Scalar { text, .. } if text.chars().count() > 10 => {
            format!(" `{}...`", text.chars().take(7).collect::<String>())
        }
        Value::Scalar { text, .. } => format!(" `{text}`"),
        Value::Seq(_) | Value::Map(_) => String::new(),
    };
    Problem::at(path, Some(node.line), format!("cannot unmarshal {}{shown} into {type_name}", node.tag()))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
