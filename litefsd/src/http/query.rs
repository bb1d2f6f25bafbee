//! Query strings of the cluster API, read as the original's URL parser reads them.
//!
//! Owns percent decoding and the lookup of one parameter; not what a parameter means. Tested here.

/// The first value of `key` in a raw query string, decoded; `None` if it is missing or does not decode
/// to UTF-8. A pair with a broken escape or a `;` is skipped (Go `net/url.ParseQuery`).
pub(crate) fn param(query: Option<&str>, key: &str) -> Option<String> {
    query?.split('&').filter(|pair| !pair.contains(';')).find_map(|pair| {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(k)? == key).then(|| decode(v)).flatten()
    })
}

/// Percent-decodes, `+` is a space.
fn decode(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => out.push(hex(bytes.next()?)? << 4 | hex(bytes.next()?)?),
            _ => out.push(b),
        }
    }
    String::from_utf8(out).ok()
}

fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}

/// Percent-encodes everything but the unreserved characters of RFC 3986, for a query value.
pub(crate) fn encode(s: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b as char);
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once() {
        let q = Some("x=1&name=my%20db%2B+a&name=second&bad=%zz&semi=a;b&empty=");
        assert_eq!(param(q, "name").as_deref(), Some("my db+ a"));
        assert_eq!(param(q, "empty").as_deref(), Some(""));
        assert_eq!(param(q, "bad"), None);
        assert_eq!(param(q, "semi"), None);
        assert_eq!(param(q, "missing"), None);
        assert_eq!(param(None, "name"), None);
        assert_eq!(param(Some("n=%2"), "n"), None);
        assert_eq!(param(Some("n=%ff"), "n"), None);
    }

    #[test]
    fn encode_is_undone_by_param() {
        let s = "a,b/ü &=%+";
        assert_eq!(param(Some(&format!("f={}", encode(s))), "f").as_deref(), Some(s));
    }
}
