//! YAML as yaml.v3 reads it, as far as a configuration can tell.

#![allow(clippy::unwrap_used, clippy::panic)] // test helpers fail by panicking

use litefs_config::yaml::{Node, Value, parse, parse_int};

fn map(text: &str) -> Vec<(String, Node)> {
    match parse(text).unwrap().unwrap().value {
        Value::Map(entries) => entries.into_iter().map(|e| (e.key, e.node)).collect(),
        other => panic!("{other:?}"),
    }
}

fn text(node: &Node) -> &str {
    match &node.value {
        Value::Scalar { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn empty_documents() {
    assert_eq!(parse("").unwrap(), None);
    assert_eq!(parse("# only a comment\n\n").unwrap(), None);
    assert!(parse("---\n").unwrap().unwrap().is_null());
}

#[test]
fn only_the_first_document_counts() {
    assert_eq!(map("a: 1\n---\nb: [\n").len(), 1);
    assert_eq!(map("a: 1\n...\n}{\n").len(), 1);
}

#[test]
fn duplicate_keys_name_both_lines() {
    let e = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
    assert_eq!(e.line, Some(3));
    assert!(e.message.contains("mapping key \"a\" already defined at line 1"), "{e}");
}

#[test]
fn anchors_aliases_and_merges() {
    let m = map(
        "base: &b {x: 1, y: 2}\nuse: *b\nmerged:\n  y: own\n  <<: *b\nmany:\n  <<: [{p: 1}, {p: 2, q: 3}]\n",
    );
    assert_eq!(m[1].1.value, m[0].1.value);
    let Value::Map(merged) = &m[2].1.value else { panic!() };
    let pairs: Vec<_> = merged.iter().map(|e| (e.key.as_str(), text(&e.node))).collect();
    assert_eq!(pairs, [("y", "own"), ("x", "1")]);
    let Value::Map(many) = &m[3].1.value else { panic!() };
    let pairs: Vec<_> = many.iter().map(|e| (e.key.as_str(), text(&e.node))).collect();
    assert_eq!(pairs, [("p", "1"), ("q", "3")]);
    assert!(error("a:\n  <<: 5\n").contains("map merge requires"));
    assert!(error("a: *nope\n").starts_with("line 1"));
}

#[test]
fn bombs_are_bounded() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..9 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        bomb = format!("{bomb}a{i}: &a{i} [{refs}]\n");
    }
    assert!(error(&bomb).contains("more than"), "{}", error(&bomb));
    assert!(parse(&"[".repeat(5000)).is_err());
    assert!(error(&format!("{}x{}", "[".repeat(80), "]".repeat(80))).contains("nested deeper"));
    assert!(parse("a: &a [*a]\n").is_err());
}

#[test]
fn syntax_errors_have_a_line() {
    let e = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
    assert!(e.line.is_some_and(|l| l >= 2), "{e:?}");
    assert!(parse("a:\n\t- tab\n").is_err());
}

#[test]
fn quoting_is_remembered() {
    let m = map("a: true\nb: \"true\"\nc: !!str 5\nd: |\n  x\ne:\nf: ~\ng: 'null'\n");
    let tags: Vec<_> = m.iter().map(|(_, n)| n.tag()).collect();
    assert_eq!(tags, ["!!bool", "!!str", "!!str", "!!str", "!!null", "!!null", "!!str"]);
    assert_eq!(m.iter().map(|(_, n)| n.line).collect::<Vec<_>>()[..3], [1, 2, 3]);
    let m = map("a: 10\nb: 1.5\nc: 0x1F\nd: 1e3\ne: .inf\nf: 1_000\ng: 10m\nh: 1.2.3\ni: -5");
    let tags: Vec<_> = m.iter().map(|(_, n)| n.tag()).collect();
    assert_eq!(tags, ["!!int", "!!float", "!!int", "!!float", "!!float", "!!int", "!!str", "!!str", "!!int"]);
}

#[test]
fn integers() {
    let cases = [
        ("10", 10),
        ("-5", -5),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 15),
        ("0b101", 5),
        ("1_000", 1000),
    ];
    for (s, v) in cases {
        assert_eq!(parse_int(s), Some(v), "{s}");
    }
    for bad in ["", "-", "_1", "1a", "0x", "99999999999999999999", "--1", "0x-1", "1.0"] {
        assert_eq!(parse_int(bad), None, "{bad:?}");
    }
}

#[test]
fn flow_style_and_spans() {
    let source = "a: {b: 'x y', c: [1, \"zwei\"]} # end\nä: wert\n";
    let m = map(source);
    let Value::Map(inner) = &m[0].1.value else { panic!() };
    assert_eq!(&source[inner[0].node.span.clone()], "'x y'");
    assert_eq!(&source[m[1].1.span.clone()], "wert");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(s in "[a-c:{}\\[\\],&*<!|>'\"#%@` \\n\\-?~é]{0,80}") {
        let _ = parse(&s);
    }
}
