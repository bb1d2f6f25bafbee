//! The file as written: keys, types, defaults, and what unset variables do.

#![allow(clippy::unwrap_used, clippy::panic)] // test helpers fail by panicking

use litefs_config::{Env, ExecItem, GoDuration, Problem, Raw};

fn parse(text: &str) -> Result<(Raw, Vec<Problem>), Vec<Problem>> {
    Raw::parse(text, true, &Env::default())
}

fn ok(text: &str) -> Raw {
    match parse(text) {
        Ok((raw, warnings)) => {
            assert_eq!(warnings, []);
            raw
        }
        Err(e) => panic!("{e:?}"),
    }
}

/// All problems, one text each.
fn errors(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

fn error(text: &str) -> String {
    let mut all = errors(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn every_key_of_the_original() {
    let raw = ok(include_str!("data/full.yml"));
    let shown: Vec<String> = raw.show().iter().filter(|s| !s.written).map(|s| s.path.join(".")).collect();
    // What is not in the file: our own keys, and what exec and targets list under numbers.
    let ours: Vec<&str> = shown.iter().map(String::as_str).filter(|p| !p.starts_with("exec.")).collect();
    assert_eq!(
        ours,
        [
            "fuse.replica-writes",
            "fuse.low-latency",
            "fuse.uid",
            "fuse.gid",
            "fuse.mode",
            "data.max-log-size",
            "proxy.forward",
            "lease.allow-stale",
            "lease.etcd.endpoints",
            "lease.etcd.key",
            "lease.etcd.ttl",
            "backup.bucket",
            "backup.prefix",
            "backup.endpoint",
            "backup.region",
            "backup.path-style",
            "api.socket",
        ]
    );
    assert!(!raw.exit_on_error && raw.skip_sync && raw.strict_verify);
    assert_eq!((raw.data.dir.as_str(), raw.data.compress), ("/path/to/data", false));
    assert_eq!(raw.data.retention.to_string(), "1h30m");
    assert_eq!(raw.proxy.passthrough, ["/debug/*", "*.png"]);
    assert_eq!(raw.lease.consul.lock_delay, GoDuration::secs(2));
    assert_eq!((raw.tracing.max_size, raw.tracing.max_count), (10, 4));
    assert_eq!(raw.backup.target.auth_token, "s3cret");
    let cmd = |c: &str, if_candidate| ExecItem { cmd: c.into(), if_candidate };
    assert_eq!(raw.exec, [cmd("rails db:migrate", true), cmd("rails server", false)]);
    assert_eq!(raw.line_of("data.retention"), Some(13));
}

#[test]
fn defaults_of_the_original() {
    let raw = ok("lease: {type: static}");
    let shown: Vec<String> =
        raw.show().iter().map(|s| format!("{}={:?}", s.path.join("."), s.value)).collect();
    let golden = include_str!("data/defaults.txt");
    assert_eq!(shown.join("\n"), golden.trim_end());
}

#[test]
fn unknown_keys_name_path_line_and_the_nearest_key() {
    assert_eq!(
        error("data:\n  retension: 1m\n"),
        "line 2: data.retension: unknown key (did you mean \"retention\"?)"
    );
    assert_eq!(error("leese: {}\n"), "line 1: leese: unknown key (did you mean \"lease\"?)");
    assert!(
        error("lease:\n  consul:\n    elephant: 1\n")
            .contains("lease.consul.elephant: unknown key (known here: url, key,")
    );
    assert!(error("api: {sockett: x}").contains("did you mean \"socket\"?"));
    assert!(error("lease: {etcd: {endpoint: x}}").contains("did you mean \"endpoints\"?"));
    assert_eq!(errors("a: 1\nlog: {b: 2}\nfuse: {dri: x}\n").len(), 3);
    assert!(errors("Data: {}\n")[0].contains("did you mean \"data\"?"));
}

#[test]
fn unknown_keys_inside_exec_items_are_ignored() {
    let raw = ok("exec:\n  - cmd: a\n    wherever: 1\n");
    assert_eq!(raw.exec[0].cmd, "a");
}

#[test]
fn empty_documents() {
    assert!(error("").starts_with("EOF"));
    assert!(error("# nothing\n").starts_with("EOF"));
    ok("---\n");
    assert_eq!(error("just text"), "line 1: cannot unmarshal !!str `just text` into main.Config");
    assert_eq!(error("[1]"), "line 1: cannot unmarshal !!seq into main.Config");
}

#[test]
fn null_keeps_the_default() {
    let raw =
        ok("data:\nfuse: ~\nlease:\n  candidate:\n  type:\n  databases:\nlog:\n  format: null\nexec:\n");
    assert_eq!(raw.data.dir, "/var/lib/litefs");
    assert!(raw.lease.candidate);
    assert_eq!(raw.log.format, "text");
    assert!(raw.exec.is_empty() && raw.lease.databases.is_empty());
}

#[test]
fn booleans() {
    for yes in ["true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "'yes'", "\"on\""] {
        assert!(ok(&format!("log: {{debug: {yes}}}")).log.debug, "{yes}");
    }
    for no in ["false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF", "'off'", "\"n\""] {
        assert!(!ok(&format!("data: {{compress: {no}}}")).data.compress, "{no}");
    }
    assert!(error("log: {debug: \"true\"}").contains("cannot unmarshal !!str `true` into bool"));
    assert!(error("log: {debug: tRue}").contains("cannot unmarshal !!str `tRue` into bool"));
    assert!(error("log: {debug: 1}").contains("cannot unmarshal !!int `1` into bool"));
    assert!(error("log: {debug: [true]}").contains("cannot unmarshal !!seq into bool"));
    assert!(error("log: {debug: yES}").contains("into bool"));
}

#[test]
fn strings_take_any_scalar_literally() {
    let raw =
        ok("proxy: {db: 123, addr: 1.50, target: true}\nlease: {hostname: 0x10, databases: [1, no, ~]}");
    assert_eq!(
        (raw.proxy.db.as_str(), raw.proxy.addr.as_str(), raw.proxy.target.as_str()),
        ("123", "1.50", "true")
    );
    assert_eq!(raw.lease.hostname, "0x10");
    assert_eq!(raw.lease.databases, ["1", "no", ""]);
    assert!(error("data: {dir: {a: b}}").contains("cannot unmarshal !!map into string"));
    assert!(error("proxy: {passthrough: abc}").contains("cannot unmarshal !!str `abc` into []string"));
}

#[test]
fn durations() {
    assert_eq!(ok("data: {retention: 1h30m}").data.retention, GoDuration::secs(5400));
    assert_eq!(ok("data: {retention: \"0\"}").data.retention, GoDuration::secs(0));
    assert!(error("data: {retention: 10}").contains("cannot unmarshal !!int `10` into time.Duration"));
    assert!(error("data: {retention: 10}").contains("a duration needs a unit, such as 10s"));
    assert!(error("data: {retention: 0}").contains("write \"0s\""));
    assert!(error("data: {retention: abc}").contains("cannot unmarshal !!str `abc` into time.Duration"));
    assert!(error("data: {retention: abcdefghijkl}").contains("!!str `abcdefg...`"));
    assert!(error("data: {retention: 1.5}").contains("!!float `1.5`"));
    assert!(error("data: {retention: true}").contains("!!bool `true`"));
}

#[test]
fn integers() {
    assert_eq!(ok("tracing: {max-size: 0x10, max-count: 2.0}").tracing.max_size, 16);
    assert!(error("tracing: {max-size: \"8\"}").contains("cannot unmarshal !!str `8` into int"));
    assert!(error("tracing: {max-size: many}").contains("!!str `many` into int"));
}

#[test]
fn exec_forms() {
    assert!(ok("fuse: {}").exec.is_empty());
    assert_eq!(ok("exec: run -x").exec, [ExecItem { cmd: "run -x".into(), if_candidate: false }]);
    assert_eq!(ok("exec: [{cmd: a}]").exec.len(), 1);
    assert!(error("exec: {cmd: a}").contains("invalid exec config format"));
    assert!(error("exec: [foo]").contains("cannot unmarshal !!str `foo` into main.ExecConfig"));
    assert!(error("exec: ''").contains("empty command"));
    assert!(error("exec: [{if-candidate: true}]").contains("exec[0]: empty command"));
    assert!(error("exec:\n  -\n").contains("empty command"));
}

#[test]
fn duplicates_and_second_documents() {
    assert!(
        error("data: {}\nfuse: {}\ndata: {}\n").contains("mapping key \"data\" already defined at line 1")
    );
    ok("log: {debug: yes}\n---\nnonsense: [\n");
}

#[test]
fn a_candidate_that_expands_to_nothing_is_refused() {
    let e = error("lease:\n  type: static\n  candidate: ${IS_PRIMARY}\n");
    assert_eq!(
        e,
        "line 3: lease.candidate: IS_PRIMARY is not set: an empty value would make this node a candidate (set it to true or false)"
    );
    assert!(error("lease:\n  candidate:\n    $A$B\n  type: static\n").contains("A and B are not set"));
    assert!(error("lease: {candidate: \"$A\"}").contains("A is not set"));
    assert!(error("lease: {candidate: $A }").contains("A is not set"));
    // Nothing was expanded: the default, as ever.
    assert!(ok("lease:\n  candidate: # $A\n  type: static\n").lease.candidate);
    let env: Env = [("A", "")].into_iter().collect();
    assert!(Raw::parse("lease: {candidate: $A}", true, &env).is_err());
    let env: Env = [("A", "false")].into_iter().collect();
    assert!(!Raw::parse("lease: {candidate: $A}", true, &env).unwrap().0.lease.candidate);
}

#[test]
fn an_equality_of_two_unset_variables_is_refused() {
    let text = "lease:\n  type: consul\n  candidate: ${FLY_REGION == PRIMARY_REGION}\n";
    let e = error(text);
    assert!(
        e.starts_with("line 3: lease.candidate: ${FLY_REGION == PRIMARY_REGION} is true only because"),
        "{e}"
    );
    assert!(e.contains("FLY_REGION and PRIMARY_REGION are not set"), "{e}");
    assert!(error("log: {debug: ${A == A}}").contains("A is not set"));
    for env in [[("FLY_REGION", "ord")], [("PRIMARY_REGION", "ord")]] {
        let (raw, _) = Raw::parse(text, true, &env.into_iter().collect()).unwrap();
        assert!(!raw.lease.candidate);
    }
    // A comment does nothing, and neither does an inequality.
    ok("lease:\n  # candidate: ${A == B}\n  type: static\n");
    assert!(!ok("lease: {candidate: ${A != B}}").lease.candidate);
    // Without expansion there are no variables.
    assert!(Raw::parse(text, false, &Env::default()).unwrap_err()[0].message.contains("into bool"));
}

#[test]
fn a_hole_in_a_string_is_a_warning() {
    let text = "lease:\n  type: static\n  advertise-url: \"http://${ID}.vm.$APP.internal:20202\"\n  # $COMMENT\n  hostname: $HOST\n";
    let (raw, warnings) = parse(text).unwrap();
    assert_eq!(raw.lease.advertise_url, "http://.vm..internal:20202");
    assert_eq!(raw.lease.hostname, "");
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "line 3: lease.advertise-url: ID is not set: the value becomes \"http://.vm..internal:20202\"",
            "line 3: lease.advertise-url: APP is not set: the value becomes \"http://.vm..internal:20202\"",
        ]
    );
    let (_, warnings) = parse("exec:\n  - cmd: run $P\n  - cmd: run2$P # x\n").unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (_, warnings) = parse("lease: {consul: {url: \"http://:tok@${H}x\"}}").unwrap();
    assert!(!warnings[0].message.contains("tok"), "{}", warnings[0]);
}

#[test]
fn shown_values_hide_secrets() {
    let raw = ok(
        "backup: {type: litefs-cloud, auth-token: s3cret}\nlease: {consul: {url: 'http://:tok@h:8500?token=t'}}",
    );
    let shown = format!("{:?}", raw.show());
    assert!(
        shown.contains("[redacted]")
            && !shown.contains("s3cret")
            && !shown.contains("tok@")
            && !shown.contains("=t")
    );
}
