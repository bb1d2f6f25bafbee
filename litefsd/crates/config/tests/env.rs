//! Expansion of variables: the original's rules, byte for byte, and what we notice beyond them.

#![allow(clippy::unwrap_used, clippy::panic)] // test helpers fail by panicking

use litefs_config::Env;
use litefs_config::env::expand;

fn env() -> Env {
    [("X", "1"), ("FOO", "foo"), ("BAR", "bar"), ("FOO2", "foo"), ("EMPTY", ""), ("9", "nine"), ("$", "pid")]
        .into_iter()
        .collect()
}

fn x(text: &str) -> String {
    expand(text, &env()).text
}

#[test]
fn names_with_and_without_braces() {
    assert_eq!(x("$X ${X} ${ X } a$FOO/b$FOO2"), "1 1 1 afoo/bfoo");
    assert_eq!(x("$FOO-$BAR.$UNSET."), "foo-bar..");
    // The longest name counts: FOO_ is another variable.
    assert_eq!(x("$FOO_x"), "");
}

#[test]
fn one_character_names() {
    assert_eq!(x("$99"), "nine9");
    assert_eq!(x("$$"), "pid");
    assert_eq!(x("a$*b$#c$@d$!e$?f$-g"), "abcdefg");
    assert_eq!(x("${*}|${9}"), "|nine");
}

#[test]
fn syntax_that_is_removed_or_kept() {
    assert_eq!(x("a${}b"), "ab");
    assert_eq!(x("a${X"), "aX");
    assert_eq!(x("5 $ and $. and $"), "5 $ and $. and $");
    assert_eq!(x("$ä"), "$ä");
    assert_eq!(x("${A:-b}${X:-b}${a b}"), "");
}

#[test]
fn comparisons() {
    assert_eq!(x("${FOO == 'foo'}${FOO=='bar'}${FOO != 'foo'}"), "truefalsefalse");
    assert_eq!(x(r#"${FOO == "foo"}${FOO!="x"}${FOO == ""}"#), "truetruefalse");
    assert_eq!(x("${FOO == FOO2}${FOO == BAR}${FOO != BAR}"), "truefalsetrue");
    assert_eq!(x("${UNSET == ''}${UNSET != ''}${UNSET == OTHER}"), "truefalsetrue");
    assert_eq!(x("${FOO ==\n'foo'}"), "true");
    assert_eq!(x("${FOO == 'it's'}"), "false");
    // No operators beyond these two, no nesting.
    assert_eq!(x("${FOO == 'foo' && X == '1'}"), "false");
    assert_eq!(x("${FOO = 'foo'}${FOO < BAR}${! X}"), "");
    assert_eq!(x("${FOO == ${X}}"), "}");
}

#[test]
fn values_are_pasted_without_quoting_and_not_expanded_again() {
    let env: Env = [("A", "$B\nb: ${B}"), ("B", "no")].into_iter().collect();
    assert_eq!(expand("a: $A # $A", &env).text, "a: $B\nb: ${B} # $B\nb: ${B}");
}

#[test]
fn places_are_remembered() {
    let e = expand("a: $X\nb: ${UNSET}\nc: ${P == Q}\nd: ${P != Q}\ne: ${FOO == Q}", &env());
    let seen: Vec<_> =
        e.places.iter().map(|p| (p.source.as_str(), p.line, p.empty.join(","), p.equal_by_absence)).collect();
    assert_eq!(
        seen,
        [
            ("$X", 1, String::new(), false),
            ("${UNSET}", 2, "UNSET".into(), false),
            ("${P == Q}", 3, "P,Q".into(), true),
            ("${P != Q}", 4, "P,Q".into(), false),
            ("${FOO == Q}", 5, "Q".into(), false),
        ]
    );
    for p in &e.places {
        assert!(e.text.is_char_boundary(p.result.start) && e.text.is_char_boundary(p.result.end));
    }
    assert_eq!(&e.text[e.places[2].result.clone()], "true");
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_text_without_dollar_is_kept(s in "[a${}= '\"\\n!?é]{0,60}") {
        let e = expand(&s, &env());
        if !s.contains('$') {
            proptest::prop_assert_eq!(&e.text, &s);
        }
        for p in e.places {
            proptest::prop_assert!(e.text.get(p.result).is_some());
        }
    }
}
