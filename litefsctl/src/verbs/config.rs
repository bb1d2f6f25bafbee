//! `config check|show`

use std::fmt::Write as _;
use std::path::Path;

use litefs_config::{ConfigError, Env, Loaded, Shown, ShownValue, load};
use serde_json::{Map, Value, json};

use super::{Context, print_json};
use crate::cli::ConfigVerb;
use crate::exit::Failure;
use crate::output::Tone;

pub(crate) fn run(ctx: &Context, verb: &ConfigVerb) -> Result<(), Failure> {
    let (ConfigVerb::Check(args) | ConfigVerb::Show(args)) = verb;
    let result = load(ctx.global.config.as_deref(), !args.no_expand_env, &Env::from_process());
    match verb {
        ConfigVerb::Check(_) => check(ctx, result),
        ConfigVerb::Show(_) => show(ctx, &result.map_err(|e| Failure::failed(e.to_string()))?),
    }
}

fn check(ctx: &Context, result: Result<Loaded, ConfigError>) -> Result<(), Failure> {
    let (file, errors, warnings) = match result {
        Ok(loaded) => (loaded.path, Vec::new(), loaded.warnings),
        Err(ConfigError::Invalid { file, problems }) => (file, problems, Vec::new()),
        Err(e) => return Err(Failure::failed(e.to_string())),
    };
    if ctx.global.json {
        let list = |problems: &[litefs_config::Problem]| -> Vec<Value> {
            let one = |p: &litefs_config::Problem| json!({"key": p.key, "line": p.line, "message": p.message, "hint": p.hint});
            problems.iter().map(one).collect()
        };
        print_json(&json!({
            "file": file, "valid": errors.is_empty(), "errors": list(&errors), "warnings": list(&warnings),
        }))?;
    } else {
        for (tone, word, problems) in [(Tone::Bad, "error", &errors), (Tone::Warn, "warning", &warnings)] {
            for p in problems {
                println!("{}: {}: {p}", file.display(), ctx.style.paint(tone, word));
            }
        }
        if errors.is_empty() && !ctx.global.quiet {
            println!("{}: {}", file.display(), ctx.style.paint(Tone::Good, "valid"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::silent()) }
}

fn show(ctx: &Context, loaded: &Loaded) -> Result<(), Failure> {
    let shown = loaded.raw.show();
    if ctx.global.json {
        return print_json(&nest(&shown));
    }
    print!("{}", yaml(&shown, &loaded.path));
    Ok(())
}

fn value(v: &ShownValue) -> Value {
    match v {
        ShownValue::Bool(b) => json!(b),
        ShownValue::Int(n) => json!(n),
        ShownValue::Text(t) => json!(t),
        ShownValue::List(l) => json!(l),
        ShownValue::Null => Value::Null,
    }
}

/// The keys as nested objects.
fn nest(shown: &[Shown]) -> Value {
    fn insert(map: &mut Map<String, Value>, path: &[String], leaf: Value) {
        match path {
            [] => {}
            [key] => {
                map.insert(key.clone(), leaf);
            }
            [key, rest @ ..] => {
                let next = map.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(next) = next {
                    insert(next, rest, leaf);
                }
            }
        }
    }
    let mut root = Map::new();
    for s in shown {
        insert(&mut root, &s.path, value(&s.value));
    }
    Value::Object(root)
}

/// The keys as YAML that reads back: JSON's scalars and lists are YAML's. What is a default says so.
fn yaml(shown: &[Shown], file: &Path) -> String {
    let mut out = format!("# effective configuration of {}\n", file.display());
    let mut open: Vec<&str> = Vec::new();
    for s in shown {
        let Some((leaf, parents)) = s.path.split_last() else { continue };
        let same = open.iter().zip(parents).take_while(|(a, b)| **a == b.as_str()).count();
        open.truncate(same);
        for p in &parents[same..] {
            // Items of a list are numbered in paths; in YAML each is a dash on a line of its own.
            let numbered = p.bytes().all(|b| b.is_ascii_digit());
            let _ = writeln!(
                out,
                "{}{}",
                "  ".repeat(open.len()),
                if numbered { "-".into() } else { format!("{p}:") }
            );
            open.push(p);
        }
        let default = if s.written || parents.iter().any(|p| p == "exec" || p == "targets") {
            ""
        } else {
            "  # default"
        };
        let _ = writeln!(out, "{}{leaf}: {}{default}", "  ".repeat(open.len()), value(&s.value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        let text = "lease: {type: static, databases: []}\nexec: [{cmd: a}, {cmd: 'b \"c\"', if-candidate: yes}]\ndata: {retention: 90s}\nbackup: {targets: [{type: file, path: /b}]}\n";
        let (raw, _, _) = litefs_config::check(text, false, &Env::default()).unwrap();
        let shown = yaml(&raw.show(), Path::new("x.yml"));
        let (again, _, _) = litefs_config::check(&shown, false, &Env::default()).unwrap();
        let values =
            |r: &litefs_config::Raw| r.show().into_iter().map(|s| (s.path, s.value)).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&raw), "{shown}");
        assert!(
            shown.contains("retention: \"1m30s\"\n") && shown.contains("compress: true  # default\n"),
            "{shown}"
        );
        assert_eq!(nest(&raw.show())["data"]["retention"], "1m30s");
    }
}
