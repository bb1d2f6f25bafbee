//! The verbs that look at files.

// Helpers fail by panicking, and the modules that test programs share have more than each one uses.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

use std::path::Path;

use common::{ctl, names, path, program, s};
use litefs_ltx::{Compression, Encoder, Header};
use litefs_types::{Checksum, PageNo, PageSize, Txid};

#[test]
fn usage_errors_are_2_and_help_is_0() {
    for args in [
        &["nope"][..],
        &[],
        &["import"],
        &["status", "extra"],
        &["import", "--name", "a/b", "x"],
        &["-q", "-v", "status"],
    ] {
        assert_eq!(ctl(args).code, 2, "{args:?}");
    }
    for args in [&["help"][..], &["--help"], &["help", "import"], &["import", "--help"]] {
        assert!(ctl(args).ok().contains("Usage:"), "{args:?}");
    }
}

#[test]
fn version_and_completions() {
    let version = format!("litefsctl {}", env!("CARGO_PKG_VERSION"));
    assert!(ctl(&["version"]).ok().starts_with(&version));
    assert!(ctl(&["--version"]).ok().starts_with(&version));
    assert!(ctl(&["--json", "version"]).ok().contains("\"version\""));
    for shell in ["bash", "zsh", "fish"] {
        assert!(ctl(&["completions", shell]).ok().contains("litefsctl"), "{shell}");
    }
}

#[test]
fn config_check_and_show() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "litefs.yml");
    let check = |text: &str, verb: &str| {
        std::fs::write(&file, text).unwrap();
        let mut c = program();
        c.args(["--config", s(&file), "config", verb]).env_remove("UNSET_A").env_remove("UNSET_B");
        common::Ran::from(c.output().unwrap())
    };
    let out = check("lease: {type: static}\ndata: {dir: /x}\n", "check").ok();
    assert!(out.ends_with(": valid\n"), "{out}");
    let ran = check("lease:\n  typ: static\nfuse: {dri: x}\n", "check");
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out.lines().count(), 2);
    assert!(
        ran.out.contains("litefs.yml: error: line 2: lease.typ: unknown key (did you mean \"type\"?)"),
        "{ran:?}"
    );
    let ran = check("lease: {type: static, candidate: ${UNSET_A == UNSET_B}}\n", "check");
    assert!(ran.code == 1 && ran.out.contains("UNSET_A and UNSET_B are not set"), "{ran:?}");
    let out = check("lease: {type: static, hostname: 'a${UNSET_A}b'}\n", "check").ok();
    assert!(out.contains("warning: line 1: lease.hostname: UNSET_A is not set"), "{out}");
    let out = check("lease: {type: static}\nbackup: {type: litefs-cloud, auth-token: s3cret}\n", "show").ok();
    assert!(out.contains("auth-token: \"[redacted]\"") && !out.contains("s3cret"), "{out}");
    check("lease: {}\n", "show").fails(1, "litefsctl: cannot unmarshal config file at ");
    ctl(&["--config", s(&path(&dir, "none")), "config", "check"]).fails(1, "litefsctl: open ");
}

#[test]
fn doctor_names_what_is_wrong_and_how_to_fix_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(&dir, "litefs.yml");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "lease: {{type: static}}\nfuse: {{dir: {0}/mnt}}\ndata: {{dir: {0}/data}}\nhttp: {{addr: '{1}'}}\napi: {{socket: {0}/s}}\n",
        dir.path().display(),
        port.local_addr().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let ran = ctl(&["--json", "--config", s(&file), "doctor"]);
    let checks: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let state = |name: &str| {
        let c = checks.as_array().unwrap().iter().find(|c| c["name"] == name);
        c.map(|c| (c["state"].as_str().unwrap().to_owned(), c["fix"].as_str().unwrap_or("").to_owned()))
    };
    assert_eq!(state("cluster port").unwrap().0, "fail");
    assert!(state("cluster port").unwrap().1.contains("http.addr"));
    assert_eq!(state("daemon").unwrap().0, "warn");
    assert_eq!(state("data").unwrap().0, "ok");
    for name in
        ["kernel", "/dev/fuse", "fusermount3", "clock", "mount", "disk space", "data file system", "config"]
    {
        assert!(state(name).is_some(), "{name}");
    }
    assert_eq!(ran.code, 1);
    drop(port);
    let out = ctl(&["--config", s(&file), "doctor"]).out;
    assert!(out.contains("ok    cluster port"), "{out}");
    let out = ctl(&["--config", s(&path(&dir, "none")), "doctor"]).out;
    assert!(out.contains("FAIL  config") && out.contains("fix: "), "{out}");
}

/// A transaction that sets these pages to one byte each.
fn transaction(txid: u64, commit: u32, pages: &[(u32, u8)], pre: Checksum, post: Checksum) -> Vec<u8> {
    let header = Header::new(PageSize::new(512).unwrap(), commit, Txid::new(txid).unwrap(), pre);
    let mut e = Encoder::new(Vec::new(), header, Compression::Lz4).unwrap();
    for (n, fill) in pages {
        e.page(PageNo::new(*n).unwrap(), &page(*n, *fill)).unwrap();
    }
    e.finish(post).unwrap().1
}

fn page(n: u32, fill: u8) -> Vec<u8> {
    let mut p = vec![fill; 512];
    if n == 1 {
        p[..16].copy_from_slice(b"SQLite format 3\0");
        p[16..18].copy_from_slice(&512u16.to_be_bytes());
        p[18..100].fill(0);
    }
    p
}

fn sum(pages: &[(u32, u8)]) -> Checksum {
    pages.iter().fold(Checksum::EMPTY, |s, (n, f)| {
        s.replace(
            Checksum::NONE,
            litefs_ltx::checksum::page_checksum(PageNo::new(*n).unwrap(), &page(*n, *f)),
        )
    })
}

/// Three transactions: three pages; page 2 changed; page 3 gone.
fn files(dir: &Path) -> [String; 3] {
    let (a, b, c) = ([(1, 1), (2, 2), (3, 3)], [(1, 1), (2, 9), (3, 3)], [(1, 7), (2, 9)]);
    let all = [
        transaction(1, 3, &a, Checksum::NONE, sum(&a)),
        transaction(2, 3, &[(2, 9)], sum(&a), sum(&b)),
        transaction(3, 2, &[(1, 7)], sum(&b), sum(&c)),
    ];
    let mut n = 0;
    all.map(|bytes| {
        n += 1;
        let path = dir.join(format!("{n:016x}-{n:016x}.ltx"));
        std::fs::write(&path, bytes).unwrap();
        s(&path).to_owned()
    })
}

#[test]
fn ltx_files() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = files(dir.path());
    let out = ctl(&["ltx", "list", "--dir", s(dir.path())]).ok();
    assert!(out.lines().count() == 4 && out.contains("0000000000000003  "), "{out}");
    assert_eq!(ctl(&["ltx", "list", "--dir", s(dir.path()), "--from", "3"]).ok().lines().count(), 2);
    let out = ctl(&["ltx", "dump", &b]).ok();
    assert!(
        out.contains("commit       3\n") && out.contains("         2  ") && out.contains("post_checksum "),
        "{out}"
    );
    let json: serde_json::Value = serde_json::from_str(&ctl(&["--json", "ltx", "dump", &a]).ok()).unwrap();
    assert_eq!((json["pages"].as_array().unwrap().len(), json["damage"].is_null()), (3, true));
    assert_eq!(ctl(&["ltx", "verify", &a, &b, &c]).ok().matches(": ok").count(), 3);
    let ran = ctl(&["ltx", "verify", &a, &c]);
    assert!(ran.code == 1 && ran.out.contains("starts at transaction 0000000000000003"), "{ran:?}");

    let mut bytes = std::fs::read(&b).unwrap();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    std::fs::write(&b, bytes).unwrap();
    assert_eq!(ctl(&["ltx", "verify", &a, &b, &c]).code, 1);
    ctl(&["ltx", "dump", &b]).fails(1, "litefsctl: ");
}

#[test]
fn ltx_apply() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = files(dir.path());
    let out = tempfile::tempdir().unwrap();
    let db = path(&out, "x.db");
    let ran = ctl(&["ltx", "apply", "--db", s(&db), &a, &b]);
    assert!(ran.err.contains("is at 0000000000000002/"), "{ran:?}");
    let image = |pages: &[(u32, u8)]| pages.iter().flat_map(|(n, f)| page(*n, *f)).collect::<Vec<u8>>();
    assert!(std::fs::read(&db).unwrap() == image(&[(1, 1), (2, 9), (3, 3)]));
    // Not what comes next: refused, nothing changed.
    let before = std::fs::read(&db).unwrap();
    ctl(&["ltx", "apply", "--db", s(&db), &b]).fails(1, "litefsctl: ");
    let mut damaged = std::fs::read(&c).unwrap();
    let at = damaged.len() - 20;
    damaged[at] ^= 1;
    let bad = path(&dir, "bad.ltx");
    std::fs::write(&bad, damaged).unwrap();
    ctl(&["ltx", "apply", "--db", s(&db), s(&bad)]).fails(1, "litefsctl: ");
    assert!(std::fs::read(&db).unwrap() == before);
    ctl(&["ltx", "apply", "--db", s(&db), &c]).ok();
    assert!(std::fs::read(&db).unwrap() == image(&[(1, 7), (2, 9)]));
    ctl(&["ltx", "apply", "--db", s(&db), &a]).ok();
    assert_eq!(std::fs::metadata(&db).unwrap().len(), 3 * 512, "a snapshot starts anew");
    assert_eq!(names(out.path()), ["x.db"]);
}
