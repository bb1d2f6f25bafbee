//! The Prometheus text format 0.0.4.
//!
//! Owns escaping and numbers; not which series exist. Tested here.

use std::fmt::Write as _;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A page being written.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// Starts a family.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family.
    pub(super) fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (key, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(key);
            self.0.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0.push(' ');
        self.0.push_str(&number(value));
        self.0.push('\n');
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Shortest form that reads back the same, with an exponent from 1e6 on and below 1e-4 (Go's `%g`).
fn number(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let scientific = format!("{v:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v == 0.0 || (-4..6).contains(&exponent) {
        return format!("{v}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_like_the_originals() {
        for (v, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (20000.0, "20000"),
            (999_999.0, "999999"),
            (1_446_622.0, "1.446622e+06"),
            (19_771_392.0, "1.9771392e+07"),
            (1.795_395_495_54e9, "1.79539549554e+09"),
            (1.844_674_407_370_955_2e19, "1.8446744073709552e+19"),
            (0.177, "0.177"),
            (5.7605e-5, "5.7605e-05"),
            (-0.5, "-0.5"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(v), text);
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut p = Page::default();
        p.family("m", Kind::Gauge, "Help.");
        p.value("m", &[("db", "a\"b\\c\nd"), ("type", "x")], 1.0);
        assert_eq!(p.finish(), "# HELP m Help.\n# TYPE m gauge\nm{db=\"a\\\"b\\\\c\\nd\",type=\"x\"} 1\n");
    }
}
