//! Pins the JSON of `/v1`. A difference is a break of the contract, or a new field: then say so in the
//! change log and run once with `UPDATE_GOLDEN=1`.

#![allow(clippy::expect_used)] // a helper fails by panicking

use std::collections::BTreeMap;
use std::path::PathBuf;

use litefs_api::{
    ApiError, DataStatus, DatabaseList, DatabaseStatus, Dropped, ErrorCode, Event, Health, Imported,
    LeaseStatus, LogStatus, LtxEntry, LtxList, MountStatus, NodeStatus, Position, PrimaryStatus,
    ReplicaDatabase, ReplicaStatus, Role, Status, Waited,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn pinned<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(value).expect("serialise") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("write golden file");
    }
    let golden = std::fs::read_to_string(&path).expect("golden file");
    assert_eq!(text, golden, "{name}");
    assert_eq!(&serde_json::from_str::<T>(&golden).expect("read back"), value, "{name}");
    // A newer daemon may say more: an older tool must not mind.
    let mut more: serde_json::Value = serde_json::from_str(&golden).expect("json");
    more["field-of-the-future"] = serde_json::json!({"a": [1]});
    assert_eq!(&serde_json::from_value::<T>(more).expect("unknown fields are ignored"), value, "{name}");
}

fn position(n: u64) -> Position {
    Position { txid: format!("{n:016x}"), checksum: "96951701e0698edb".into() }
}

fn database() -> DatabaseStatus {
    DatabaseStatus {
        name: "my.db".into(),
        position: position(31),
        page_size: 4096,
        page_count: 3,
        size: 12288,
        journal_mode: "wal".into(),
        dropped: false,
        log: LogStatus {
            bytes: 8192,
            first_txid: Some("0000000000000002".into()),
            last_txid: Some("000000000000001f".into()),
        },
        open_handles: Some(2),
        last_change: Some("2026-11-23T00:58:18.960Z".into()),
        trouble: None,
    }
}

fn status() -> Status {
    Status {
        node: NodeStatus {
            id: "9FC2C35C50D4EE3A".into(),
            name: "node1".into(),
            hostname: "node1".into(),
            version: "0.1.0".into(),
            pid: 42,
            uptime_ms: 61_000,
            advertise_url: Some("http://node1:20202".into()),
        },
        cluster_id: Some("LFSC0000000000000007".into()),
        role: Role::Primary,
        primary: Some(PrimaryStatus { hostname: "node1".into(), url: Some("http://node1:20202".into()) }),
        lease: LeaseStatus { r#type: "consul".into(), candidate: true, held: true, remaining_ms: Some(7500) },
        epoch: Some(4),
        lag_ms: Some(0),
        mount: MountStatus { path: "/litefs".into(), mounted: true },
        data: DataStatus { path: "/var/lib/litefs".into(), free: Some(1 << 40), total: Some(1 << 41) },
        health: Health { ok: true, reasons: vec![] },
        replicas: vec![ReplicaStatus {
            id: Some("4830FFC82B0CA170".into()),
            name: Some("node2".into()),
            address: "10.0.0.2:41234".into(),
            connected_ms: 5000,
            lag_ms: Some(3),
            databases: BTreeMap::from([(
                "my.db".into(),
                ReplicaDatabase {
                    txid: "000000000000001e".into(),
                    behind: 1,
                    applied: Some("000000000000001d".into()),
                    durable: Some("000000000000001c".into()),
                    unapplied: Some(2),
                    held: None,
                },
            )]),
        }],
        databases: vec![database()],
    }
}

#[test]
fn json_is_pinned() {
    pinned("status", &status());
    let mut replica = status();
    replica.role = Role::Starting;
    (replica.primary, replica.cluster_id, replica.epoch, replica.lag_ms) = (None, None, None, None);
    (replica.lease.remaining_ms, replica.data.free, replica.data.total) = (None, None, None);
    replica.health = Health { ok: false, reasons: vec!["waiting for the primary".into()] };
    replica.replicas.clear();
    replica.databases.clear();
    pinned("status-starting", &replica);
    pinned("databases", &DatabaseList { databases: vec![database()] });
    let mut bad = database();
    (bad.trouble, bad.open_handles, bad.last_change) = (Some("quarantined".into()), None, None);
    bad.log = LogStatus::default();
    pinned("database-trouble", &bad);
    pinned(
        "imported",
        &Imported { name: "my.db".into(), position: position(1), size: 12288, replaced: true },
    );
    pinned("dropped", &Dropped { name: "my.db".into(), position: position(2) });
    pinned("waited", &Waited { name: "my.db".into(), position: position(2) });
    pinned("health", &Health { ok: false, reasons: vec!["the mount is gone".into()] });
    let entry = LtxEntry {
        min_txid: "0000000000000001".into(),
        max_txid: "0000000000000001".into(),
        pre_checksum: "0000000000000000".into(),
        post_checksum: "96951701e0698edb".into(),
        page_size: 4096,
        commit: 2,
        timestamp: "2026-11-23T00:58:18.960Z".into(),
        size: 8420,
    };
    pinned("ltx", &LtxList { entries: vec![entry], next: Some("0000000000000002".into()) });
    let error = ApiError::new(ErrorCode::NotPrimary, "node2 is a replica").hint("ask node1");
    pinned("error", &error);
}

#[test]
fn error_codes_are_stable_words() {
    let all = [
        (ErrorCode::BadRequest, "bad-request", 400),
        (ErrorCode::NotFound, "not-found", 404),
        (ErrorCode::MethodNotAllowed, "method-not-allowed", 405),
        (ErrorCode::NotPrimary, "not-primary", 409),
        (ErrorCode::NoPrimary, "no-primary", 503),
        (ErrorCode::Exists, "exists", 409),
        (ErrorCode::InvalidDatabase, "invalid-database", 422),
        (ErrorCode::Refused, "refused", 409),
        (ErrorCode::Busy, "busy", 503),
        (ErrorCode::TooLarge, "too-large", 413),
        (ErrorCode::Timeout, "timeout", 408),
        (ErrorCode::NotReady, "not-ready", 503),
        (ErrorCode::DiskFull, "disk-full", 507),
        (ErrorCode::Internal, "internal", 500),
    ];
    for (code, word, status) in all {
        assert_eq!((code.as_str(), code.status().as_u16()), (word, status));
        assert_eq!(serde_json::to_value(code).expect("json"), word);
    }
    let future: ApiError = serde_json::from_str(r#"{"code":"of-tomorrow","message":"m"}"#).expect("read");
    assert_eq!((future.code, future.hint.as_str()), (ErrorCode::Unknown, ""));
}

#[test]
fn events_of_the_original_are_read_and_written_as_they_are() {
    for line in [
        r#"{"type":"init","data":{"isPrimary":false,"hostname":"P-host"}}"#,
        r#"{"type":"primaryChange","data":{"isPrimary":true}}"#,
    ] {
        let event: Event = serde_json::from_str(line).expect("event");
        assert_eq!(event.data["isPrimary"], line.contains("primaryChange"));
    }
    let tx = r#"{"type":"tx","db":"d.db","data":{"txID":"0000000000000001","commit":2}}"#;
    let event: Event = serde_json::from_str(tx).expect("event");
    assert_eq!((event.db.as_deref(), event.data["commit"].as_u64()), (Some("d.db"), Some(2)));
}
