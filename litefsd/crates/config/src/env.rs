//! Variables in the text of the file: `$NAME`, `${NAME}`, `${A == 'b'}`.
//!
//! The expansion is the original's, byte for byte: it works on the raw text before YAML is read,
//! comments included, and knows no escape and no default. What we add is *noticing*: every place is
//! remembered with the variables that were unset there, so that [`crate::Raw::parse`] can refuse a
//! node that would become primary by accident. Tested by `tests/env.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

/// The environment that is consulted.
#[derive(Clone, Debug, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// This process's environment, with `HOSTNAME` set from the kernel where it is empty.
    pub fn from_process() -> Self {
        let mut env = Self(
            std::env::vars_os()
                .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
                .collect(),
        );
        if env.value("HOSTNAME").is_empty()
            && let Ok(name) = nix::unistd::gethostname()
        {
            env.0.insert("HOSTNAME".to_owned(), name.to_string_lossy().into_owned());
        }
        env
    }

    /// The value of a variable; `None` if it is unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value as the expansion sees it: unset is empty.
    fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// One place where something was expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What stood there, e.g. `${FLY_REGION == PRIMARY_REGION}`.
    pub source: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// Byte range of the result in the expanded text.
    pub result: Range<usize>,
    /// The variables of this place that are unset or empty.
    pub empty: Vec<String>,
    /// It was `A == B` of two variables that are both unset or empty, which is true.
    pub equal_by_absence: bool,
}

/// The expanded text and what was expanded in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// In the order of the text.
    pub places: Vec<Place>,
}

/// Expands all variables of `text`.
pub fn expand(text: &str, env: &Env) -> Expanded {
    let mut out = String::with_capacity(text.len());
    let mut places = Vec::new();
    let mut rest = text;
    let mut line = 1u32;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        line += newlines(before);
        let (width, name) = reference(&from[1..]);
        let source = &from[..=width];
        match name {
            Name::Literal => out.push('$'),
            Name::Nothing => {}
            Name::Inner(inner) => {
                let start = out.len();
                let mut place = Place {
                    source: source.to_owned(),
                    line,
                    result: start..start,
                    empty: Vec::new(),
                    equal_by_absence: false,
                };
                out.push_str(&evaluate(inner, env, &mut place));
                place.result.end = out.len();
                places.push(place);
            }
        }
        line += newlines(source);
        rest = &from[1 + width..];
    }
    out.push_str(rest);
    Expanded { text: out, places }
}

fn newlines(s: &str) -> u32 {
    s.bytes().filter(|b| *b == b'\n').count() as u32
}

/// What follows a `$`.
enum Name<'a> {
    /// No reference: the dollar sign stays.
    Literal,
    /// Bad syntax that is removed: `${}` or `${` without an end.
    Nothing,
    /// The name, or the text between braces.
    Inner(&'a str),
}

/// How many bytes after the `$` belong to the reference, and what they name.
fn reference(after: &str) -> (usize, Name<'_>) {
    const SPECIAL: &[u8] = b"*#$@!?-0123456789";
    match after.as_bytes().first() {
        None => (0, Name::Literal),
        Some(b'{') => match after.find('}') {
            None => (1, Name::Nothing),
            Some(1) => (2, Name::Nothing),
            Some(end) => (end + 1, Name::Inner(&after[1..end])),
        },
        Some(c) if SPECIAL.contains(c) => (1, Name::Inner(&after[..1])),
        Some(_) => {
            let n = after.bytes().take_while(|b| is_word(*b)).count();
            if n == 0 { (0, Name::Literal) } else { (n, Name::Inner(&after[..n])) }
        }
    }
}

fn is_word(b: u8) -> bool {
    b == b'_' || b.is_ascii_alphanumeric()
}

/// The value of what stands between braces.
fn evaluate(inner: &str, env: &Env, place: &mut Place) -> String {
    let inner = inner.trim();
    let mut look_up = |name: &str| {
        let value = env.value(name);
        if value.is_empty() {
            place.empty.push(name.to_owned());
        }
        value.to_owned()
    };
    let Some(cmp) = Comparison::parse(inner) else { return look_up(inner) };
    let left = look_up(cmp.left);
    let right = match cmp.right {
        Right::Text(text) => text.to_owned(),
        Right::Variable(name) => look_up(name),
    };
    let both_variables = matches!(cmp.right, Right::Variable(_));
    place.equal_by_absence = both_variables && cmp.equal && left.is_empty() && right.is_empty();
    ((left == right) == cmp.equal).to_string()
}

struct Comparison<'a> {
    left: &'a str,
    equal: bool,
    right: Right<'a>,
}

enum Right<'a> {
    Text(&'a str),
    Variable(&'a str),
}

impl<'a> Comparison<'a> {
    /// `NAME (==|!=) 'text' | "text" | NAME`; `None` if it is anything else.
    fn parse(s: &'a str) -> Option<Self> {
        let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}');
        let n = s.bytes().take_while(|b| is_word(*b)).count();
        let (left, rest) = s.split_at(n);
        if left.is_empty() {
            return None;
        }
        let rest = rest.trim_start_matches(space);
        let (equal, rest) = match (rest.strip_prefix("=="), rest.strip_prefix("!=")) {
            (Some(r), _) => (true, r),
            (_, Some(r)) => (false, r),
            _ => return None,
        };
        let rest = rest.trim_start_matches(space);
        let quoted = |q: char| rest.strip_prefix(q)?.strip_suffix(q).filter(|t| !t.contains('\n'));
        let right = match quoted('\'').or_else(|| quoted('"')) {
            Some(text) => Right::Text(text),
            None if !rest.is_empty() && rest.bytes().all(is_word) => Right::Variable(rest),
            None => return None,
        };
        Some(Self { left, equal, right })
    }
}
