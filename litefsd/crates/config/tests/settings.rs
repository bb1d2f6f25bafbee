//! What a file means: validation with the original's messages, and finding the file.

#![allow(clippy::unwrap_used, clippy::panic)] // test helpers fail by panicking

use std::time::Duration;

use litefs_config::settings::{BackupKind, Forward, LeaseKind, LogFormat, ReplicaWrites};
use litefs_config::{ConfigError, Env, Settings, check, load};

fn with(text: &str, env: &Env) -> Result<Settings, Vec<String>> {
    check(text, true, env).map(|(_, s, _)| s).map_err(|p| p.iter().map(|p| p.message.clone()).collect())
}

fn ok(text: &str) -> Settings {
    with(text, &Env::default()).unwrap()
}

fn first_error(text: &str) -> String {
    with(text, &Env::default()).unwrap_err().remove(0)
}

#[test]
fn the_originals_checks_in_its_order() {
    assert_eq!(first_error("fuse: {dir: ''}\ndata: {dir: ''}"), "fuse directory required");
    assert_eq!(first_error("data: {dir: ''}"), "data directory required");
    assert_eq!(
        first_error("fuse: {dir: /x}\ndata: {dir: /x}"),
        "fuse directory and data directory cannot be the same path"
    );
    assert_eq!(
        first_error("fuse: {dir: /x}"),
        "invalid lease type, must be either 'consul' or 'static', got: ''"
    );
    assert_eq!(
        first_error("lease: {type: zookeeper, databases: [x]}"),
        "invalid lease type, must be either 'consul' or 'static', got: 'zookeeper'"
    );
    assert_eq!(
        first_error("lease: {type: static, databases: [x]}"),
        "cannot specify a database replication filter on candidate nodes"
    );
}

#[test]
fn messages_that_the_original_has_only_at_start() {
    for (text, message) in [
        ("log: {format: xml}", "init logger: invalid log format: \"xml\""),
        ("backup: {type: ftp}", "invalid backup client type: \"ftp\""),
        ("backup: {type: file}", "open file backup client: backup path required"),
        ("proxy: {target: ':1', addr: ':2'}", "proxy database name required"),
        ("proxy: {target: ':1', db: x}", "proxy bind address required"),
    ] {
        assert_eq!(first_error(&format!("{text}\nlease: {{type: static}}")), message);
    }
    assert!(first_error("lease: {type: consul}").ends_with("must specify a consul key"));
}

#[test]
fn a_minimal_file() {
    let s = ok("lease: {type: static}");
    assert_eq!(s.lease.kind, LeaseKind::Static);
    assert_eq!((s.data.retention, s.data.max_log_size), (Some(Duration::from_secs(600)), Some(1 << 30)));
    assert_eq!(s.http.snapshot_timeout, s.data.retention);
    assert_eq!(s.http.addr.to_string(), ":20202");
    assert_eq!(s.fuse.replica_writes, ReplicaWrites::Busy);
    assert!(s.proxy.is_none() && s.backup.is_empty() && s.tracing.is_none());
    assert_eq!(s.socket.to_str(), Some("/run/litefs/litefsd.sock"));
}

#[test]
fn what_switches_off() {
    let s =
        ok("data: {retention: '0', retention-monitor-interval: -1s, max-log-size: 0}\nlease: {type: static}");
    assert_eq!(
        (s.data.retention, s.data.retention_monitor_interval, s.data.max_log_size),
        (None, None, None)
    );
    assert_eq!(s.http.snapshot_timeout, None);
    assert!(first_error("lease: {type: static, reconnect-delay: -1s}").contains("must not be negative"));
}

#[test]
fn our_own_keys() {
    let s = ok("fuse: {replica-writes: readonly, low-latency: false, uid: 1000, gid: 1000, mode: 0640}
data: {max-log-size: 256MiB}
api: {socket: /tmp/x.sock}
proxy: {target: ':3000', addr: '[::1]:80', db: a.db, forward: redirect}
log: {format: json}
tracing: {path: /t.log}
lease: {type: etcd, etcd: {endpoints: ['http://a:2379', 'http://[fd00::1]:2379'], key: k}}
backup: {targets: [{type: s3, bucket: b, path-style: yes}, {type: file, path: /b}]}");
    assert_eq!(
        (s.fuse.replica_writes, s.fuse.uid, s.fuse.mode),
        (ReplicaWrites::ReadOnly, Some(1000), Some(0o640))
    );
    assert!(!s.fuse.low_latency && ok("lease: {type: static}").fuse.low_latency);
    assert_eq!(s.data.max_log_size, Some(256 << 20));
    let proxy = s.proxy.unwrap();
    assert_eq!((proxy.forward, proxy.target.as_str()), (Forward::Redirect, "localhost:3000"));
    assert_eq!(s.log.format, LogFormat::Json);
    assert_eq!(s.tracing.unwrap().max_size, 64 << 20);
    let LeaseKind::Etcd(etcd) = s.lease.kind else { panic!() };
    assert_eq!((etcd.endpoints.len(), etcd.ttl), (2, Duration::from_secs(10)));
    assert_eq!(s.backup.iter().map(|b| b.kind).collect::<Vec<_>>(), [BackupKind::S3, BackupKind::File]);
    for (text, part) in [
        ("fuse: {replica-writes: never}", "must be busy or readonly"),
        ("fuse: {mode: 888}", "octal"),
        ("fuse: {mode: 07777}", "octal"),
        ("proxy: {target: x:1, addr: ':2', db: a/b}", "one path component"),
        ("proxy: {target: x:1, addr: '2', db: a}", "has no port"),
        ("http: {addr: '::1:20202'}", "too many colons"),
        ("tracing: {max-size: 0}", "at least 1"),
        ("backup: {targets: [{bucket: x}]}", "needs a type"),
        ("backup: {type: s3}", "a bucket is required"),
    ] {
        let e = first_error(&format!("{text}\nlease: {{type: static}}"));
        assert!(e.contains(part), "{text}: {e}");
    }
}

#[test]
fn static_replicas_need_an_address() {
    assert!(first_error("lease: {type: static, candidate: no}").contains("needs the primary's URL"));
    let s = ok(
        "lease: {type: static, candidate: no, hostname: p, advertise-url: 'http://p:20202', databases: [a.db]}",
    );
    assert_eq!(s.lease.advertise_url.unwrap().to_string(), "http://p:20202");
    assert_eq!(first_error("lease: {type: static, advertise-url: 'p:20202'}"), "invalid URL scheme");
    assert!(
        first_error("lease: {type: static, candidate: no, advertise-url: 'http://p', databases: ['../x']}")
            .contains("one path component")
    );
}

#[test]
fn variables_of_the_original() {
    let env = |v: &[(&str, &str)]| -> Env { v.iter().copied().collect() };
    let text = "lease: {type: static}";
    let s =
        with(text, &env(&[("LITEFS_CLOUD_TOKEN", " tok\n"), ("LITEFS_CLOUD_ENDPOINT", "http://e")])).unwrap();
    assert_eq!((s.backup[0].kind, s.backup[0].auth_token.as_deref()), (BackupKind::LitefsCloud, Some("tok")));
    assert_eq!(s.backup[0].target.url, "http://e");
    assert!(!format!("{s:?}").contains("tok"), "a token in a debug line");
    let s =
        with("lease: {type: static}\nbackup: {type: file, path: /b}", &env(&[("LITEFS_CLOUD_TOKEN", "tok")]))
            .unwrap();
    assert_eq!(s.backup[0].kind, BackupKind::File);
    assert!(with(text, &env(&[("LITEFS_CLOUD_ENDPOINT", "http://e")])).unwrap().backup.is_empty());
    let s = with(text, &env(&[("LITEFS_SOCKET", "/run/other.sock")])).unwrap();
    assert_eq!(s.socket.to_str(), Some("/run/other.sock"));
}

#[test]
fn finding_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let home: Env = [("HOME", dir.path().to_str().unwrap())].into_iter().collect();
    let e = load(Some(&dir.path().join("none.yml")), true, &home).unwrap_err();
    assert_eq!(e.to_string(), format!("open {}/none.yml: no such file or directory", dir.path().display()));

    let path = dir.path().join("litefs.yml");
    std::fs::write(&path, "lease: {type: static}\ndata: {dir: /dev/shm/x}\n").unwrap();
    let loaded = load(None, true, &home).unwrap();
    assert_eq!(loaded.path, path);
    assert!(loaded.warnings[0].to_string().starts_with("line 2: data.dir: /dev/shm/x is on tmpfs"));

    std::fs::write(&path, "lease: {type: static}\nfoo: 1\n").unwrap();
    let e = load(None, true, &home).unwrap_err();
    let text = format!("cannot unmarshal config file at {}: line 2: foo: unknown key", path.display());
    assert!(e.to_string().starts_with(&text), "{e}");

    std::fs::write(&path, b"\xff\xfe").unwrap();
    let e = load(None, true, &home).unwrap_err();
    assert!(e.to_string().starts_with(&format!("cannot read config file at {}: ", path.display())), "{e}");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(load(Some(&path), true, &home), Err(ConfigError::Open { .. })));
    std::fs::remove_file(&path).unwrap();
    if !std::path::Path::new("/etc/litefs.yml").exists() {
        let e = load(None, true, &home).unwrap_err();
        assert!(e.to_string().starts_with("config file not found"), "{e}");
    }
}
