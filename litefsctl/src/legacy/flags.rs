//! Flags as Go's `flag` package reads them: `-x v`, `-x=v`, `--x`, up to the first other word or `--`.

/// Why the flags were not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FlagError {
    /// `-h` or `-help`.
    Help,
    /// In Go's words.
    Bad(String),
}

/// Fills the named flags, all of which take a value, and returns the other words.
pub(super) fn parse<'a>(
    args: &'a [String],
    flags: &mut [(&str, &mut String)],
) -> Result<&'a [String], FlagError> {
    let mut rest = args;
    while let Some((first, tail)) = rest.split_first() {
        let Some(name) = first.strip_prefix('-').filter(|n| !n.is_empty()) else { break };
        if name == "-" {
            return Ok(tail);
        }
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.starts_with(['-', '=']) {
            return Err(FlagError::Bad(format!("bad flag syntax: {first}")));
        }
        let (name, inline) = match name.split_once('=') {
            Some((n, v)) => (n, Some(v.to_owned())),
            None => (name, None),
        };
        let Some((_, value)) = flags.iter_mut().find(|(n, _)| *n == name) else {
            if matches!(name, "h" | "help") {
                return Err(FlagError::Help);
            }
            return Err(FlagError::Bad(format!("flag provided but not defined: -{name}")));
        };
        rest = tail;
        **value = match inline {
            Some(v) => v,
            None => match rest.split_first() {
                Some((v, tail)) => {
                    rest = tail;
                    v.clone()
                }
                None => return Err(FlagError::Bad(format!("flag needs an argument: -{name}"))),
            },
        };
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(args: &[&str]) -> Result<(String, String, Vec<String>), FlagError> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let (mut url, mut name) = ("default".to_owned(), String::new());
        let rest = parse(&args, &mut [("url", &mut url), ("name", &mut name)])?.to_vec();
        Ok((url, name, rest))
    }

    #[test]
    fn as_go_reads_them() {
        let ok = |a: &[&str]| p(a).unwrap();
        assert_eq!(ok(&["-name", "a", "--url=u", "p"]), ("u".into(), "a".into(), vec!["p".into()]));
        assert_eq!(ok(&["p", "-name", "a"]).2.len(), 3);
        assert_eq!(ok(&["-name=", "--", "-x"]), ("default".into(), String::new(), vec!["-x".into()]));
        assert_eq!(ok(&["-"]).2, ["-"]);
        assert_eq!(ok(&["-name", "-url"]).1, "-url");
        let bad = |a: &[&str]| match p(a) {
            Err(FlagError::Bad(m)) => m,
            other => panic!("{other:?}"),
        };
        assert_eq!(bad(&["-foo"]), "flag provided but not defined: -foo");
        assert_eq!(bad(&["-name"]), "flag needs an argument: -name");
        assert_eq!(bad(&["---name", "x"]), "bad flag syntax: ---name");
        assert_eq!(p(&["-h"]), Err(FlagError::Help));
        assert_eq!(p(&["--help"]), Err(FlagError::Help));
    }
}
