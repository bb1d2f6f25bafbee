//! The effective values, for people: every key with its value, secrets redacted.

use crate::raw::BackupTarget;
use crate::visit::{Section, Visit};
use crate::{ByteSize, ExecItem, GoDuration, Raw};

/// What stands where a secret would.
const REDACTED: &str = "[redacted]";

/// One key and its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Path, e.g. `["lease", "consul", "url"]`; list items are numbers.
    pub path: Vec<String>,
    /// The value.
    pub value: ShownValue,
    /// Whether the file says so, or it is the default.
    pub written: bool,
}

/// A value to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownValue {
    /// A boolean.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A text, duration or size.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// Nothing.
    Null,
}

impl Raw {
    /// Every key with its effective value, in the order of the documentation.
    pub fn show(&self) -> Vec<Shown> {
        let mut shower = Shower { path: Vec::new(), out: Vec::new(), raw: self };
        self.clone().each(&mut shower);
        shower.out
    }
}

struct Shower<'a> {
    path: Vec<String>,
    out: Vec<Shown>,
    raw: &'a Raw,
}

impl Shower<'_> {
    fn push(&mut self, key: &str, value: ShownValue) {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        let written = self.raw.line_of(&path.join(".")).is_some();
        self.out.push(Shown { path, value, written });
    }
}

impl Visit for Shower<'_> {
    fn bool(&mut self, key: &'static str, value: &mut bool) {
        self.push(key, ShownValue::Bool(*value));
    }

    fn string(&mut self, key: &'static str, value: &mut String) {
        self.push(key, ShownValue::Text(without_credentials(value)));
    }

    fn secret(&mut self, key: &'static str, value: &mut String) {
        let shown = if value.is_empty() { "" } else { REDACTED };
        self.push(key, ShownValue::Text(shown.to_owned()));
    }

    fn duration(&mut self, key: &'static str, value: &mut GoDuration) {
        self.push(key, ShownValue::Text(value.to_string()));
    }

    fn int(&mut self, key: &'static str, value: &mut i64) {
        self.push(key, ShownValue::Int(*value));
    }

    fn id(&mut self, key: &'static str, value: &mut Option<u32>) {
        self.push(key, value.map_or(ShownValue::Null, |v| ShownValue::Int(v.into())));
    }

    fn size(&mut self, key: &'static str, value: &mut ByteSize) {
        self.push(key, ShownValue::Text(value.to_string()));
    }

    fn strings(&mut self, key: &'static str, value: &mut Vec<String>) {
        self.push(key, ShownValue::List(value.iter().map(|v| without_credentials(v)).collect()));
    }

    fn exec(&mut self, key: &'static str, value: &mut Vec<ExecItem>) {
        self.path.push(key.to_owned());
        for (i, item) in value.iter().enumerate() {
            self.path.push(i.to_string());
            self.push("cmd", ShownValue::Text(item.cmd.clone()));
            self.push("if-candidate", ShownValue::Bool(item.if_candidate));
            self.path.pop();
        }
        self.path.pop();
    }

    fn targets(&mut self, key: &'static str, value: &mut Vec<BackupTarget>) {
        self.path.push(key.to_owned());
        for (i, target) in value.iter_mut().enumerate() {
            self.path.push(i.to_string());
            target.each(self);
            self.path.pop();
        }
        self.path.pop();
    }

    fn section(&mut self, key: &'static str, value: &mut dyn Section) {
        self.path.push(key.to_owned());
        value.each(self);
        self.path.pop();
    }
}

/// The text with `user:password@` of a URL, and its query, replaced.
pub(crate) fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (rest, query) = match rest.split_once('?') {
        Some((r, _)) => (r, format!("?{REDACTED}")),
        None => (rest, String::new()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{REDACTED}@{host}{path}{query}"),
        None => format!("{scheme}://{authority}{path}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn credentials_vanish() {
        assert_eq!(without_credentials("http://:tok@h:8500/x"), "http://[redacted]@h:8500/x");
        assert_eq!(without_credentials("https://h/x?token=1"), "https://h/x?[redacted]");
        assert_eq!(without_credentials("http://h:1/a@b"), "http://h:1/a@b");
    }
}
