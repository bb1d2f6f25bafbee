//! Rules about the source that no compiler checks: layers, length, where things may not point.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The layers, lowest first; a package may depend on packages of lower layers, or of its own.
const LAYERS: [&[&str]; 6] = [
    &["litefs-types"],
    &["litefs-ltx", "litefs-sqlite", "litefs-config", "litefs-api", "litefs-systemd"],
    &["litefs-core"],
    &["litefs-store", "litefs-lease", "litefs-backup"],
    &["litefsd", "litefsctl", "litefs-proxy"],
    &["litefs-tests"],
];

/// Exceptions to "of its own layer": formats know nothing of each other, programs neither.
const ALONE: [usize; 2] = [1, 4];

/// The longest source file, in lines.
const LONGEST: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&name))
}

#[test]
fn no_lower_layer_names_a_higher_one() {
    let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let data: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in data["packages"].as_array().unwrap() {
        // What only tests use does not count: `kind` is null for what the program itself needs.
        let dependencies = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"] != "dev");
        let names = dependencies.map(|d| d["name"].as_str().unwrap().to_owned());
        graph.insert(package["name"].as_str().unwrap().to_owned(), names.collect());
    }
    assert!(graph.len() >= 10, "all packages of the workspace: {graph:?}");
    for (name, dependencies) in &graph {
        let own = layer(name).unwrap_or_else(|| panic!("{name} has no layer: add it to LAYERS"));
        for other in dependencies.iter().filter(|d| graph.contains_key(*d)) {
            let its = layer(other).unwrap();
            assert!(
                its < own || (its == own && !ALONE.contains(&own)),
                "{name} (layer {own}) depends on {other} ({its})"
            );
        }
    }
    for (name, allowed) in [
        ("litefsctl", &["litefs-types", "litefs-api", "litefs-config", "litefs-ltx"][..]),
        ("litefs-proxy", &["litefs-types", "litefs-api", "litefs-config", "litefs-systemd"][..]),
    ] {
        for other in graph.get(name).into_iter().flatten().filter(|d| graph.contains_key(*d)) {
            assert!(allowed.contains(&other.as_str()), "{name} depends on {other}");
        }
    }
}

fn tracked_files() -> Vec<PathBuf> {
    fn walk(dir: &Path, all: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                if name != "target" && name != ".git" && name != "vectors" {
                    walk(&path, all);
                }
            } else {
                all.push(path);
            }
        }
    }
    let mut all = Vec::new();
    walk(&root(), &mut all);
    all
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.contains(&e))
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut bad = Vec::new();
    for path in tracked_files().iter().filter(|p| has_ending(p, &["rs"])) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().count();
        if lines > LONGEST {
            bad.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            bad.push(format!("{}: does not open with //!", path.display()));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn nothing_points_at_one_machine() {
    // Spelt in pieces, so that this file does not find itself.
    let words = [["/wo", "rk/"], ["../sha", "red"], ["/ho", "me/"], ["/ro", "ot/"]].map(|w| w.concat());
    let mut bad = Vec::new();
    for path in tracked_files()
        .iter()
        .filter(|p| has_ending(p, &["rs", "md", "toml", "yml", "sh", "yaml", "service"]))
    {
        let text = std::fs::read_to_string(path).unwrap();
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|w| line.contains(w.as_str())) {
                bad.push(format!("{}:{}: {word}", path.display(), i + 1));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn the_core_has_no_std() {
    let core = root().join("litefsd/crates/core/src");
    let lib = std::fs::read_to_string(core.join("lib.rs")).unwrap();
    assert!(lib.lines().any(|l| l.trim().starts_with("#![") && l.contains("no_std")), "core is no_std");
    for path in tracked_files().iter().filter(|p| p.starts_with(&core)) {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let uses = code.lines().map(str::trim).filter(|l| !l.starts_with("//")).find(|l| l.contains("std::"));
        assert!(uses.is_none() || path.ends_with("tests.rs"), "{}: {uses:?}", path.display());
    }
}

#[test]
fn every_library_states_its_invariant() {
    for crate_dir in std::fs::read_dir(root().join("litefsd/crates")).unwrap().flatten() {
        let lib = crate_dir.path().join("src/lib.rs");
        let text = std::fs::read_to_string(&lib).unwrap();
        assert!(
            text.lines().any(|l| l.starts_with("//!") && l.contains("*Invariant:*")),
            "{}",
            lib.display()
        );
    }
}
