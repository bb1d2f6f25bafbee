//! The daemon itself, and its ports.

use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use litefs_api::Status;
use litefs_api::client::ClientError;
use litefs_config::{ListenAddr, Settings};

use super::Check;
use crate::check::reason;
use crate::verbs::Context;

/// Time to connect to a port of this machine.
const CONNECT: Duration = Duration::from_secs(2);

/// Asks the daemon; its answer if it gave one.
pub(super) async fn check(ctx: &Context, checks: &mut Vec<Check>) -> Option<Status> {
    let client = match ctx.client() {
        Ok(client) => client,
        Err(e) => {
            checks.push(Check::fail("daemon", e.message, "see the configuration"));
            return None;
        }
    };
    match client.status().await {
        Ok(status) => {
            let role = status.role.as_str();
            checks.push(if status.health.ok {
                Check::ok("daemon", format!("{} answers, {role}, ready", client.socket().display()))
            } else {
                Check::warn(
                    "daemon",
                    format!("{role}, not ready: {}", status.health.reasons.join("; ")),
                    "see its log",
                )
            });
            for d in &status.databases {
                if let Some(trouble) = &d.trouble {
                    checks.push(Check::fail(
                        "database",
                        format!("{}: {trouble}", d.name),
                        "see the daemon's log",
                    ));
                }
            }
            Some(status)
        }
        Err(e @ ClientError::Unreachable { .. }) => {
            checks.push(Check::warn(
                "daemon",
                e.to_string(),
                "start litefsd, or name its socket with --socket",
            ));
            None
        }
        Err(e) => {
            checks.push(Check::fail("daemon", e.to_string(), "see its log"));
            None
        }
    }
}

/// A running daemon listens on its ports; one that is to start needs them free.
pub(super) fn ports(settings: &Settings, running: bool, checks: &mut Vec<Check>) {
    port("cluster port", &settings.http.addr, running, checks);
}

fn port(name: &'static str, addr: &ListenAddr, running: bool, checks: &mut Vec<Check>) {
    if addr.port == 0 {
        checks.push(Check::ok(name, "chosen by the kernel"));
        return;
    }
    let loopback = ["127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let any = ["0.0.0.0", "::"].map(str::to_owned).to_vec();
    let hosts = match (&addr.host, running) {
        (Some(h), _) => vec![h.clone()],
        (None, true) => loopback,
        (None, false) => any,
    };
    let targets: Vec<_> =
        hosts.iter().flat_map(|h| (h.as_str(), addr.port).to_socket_addrs().into_iter().flatten()).collect();
    if targets.is_empty() {
        checks.push(Check::fail(name, format!("{addr} cannot be resolved"), "correct http.addr"));
        return;
    }
    if running {
        let answers = targets.iter().any(|t| TcpStream::connect_timeout(t, CONNECT).is_ok());
        checks.push(if answers {
            Check::ok(name, format!("{addr} accepts connections"))
        } else {
            Check::fail(
                name,
                format!("nothing accepts connections at {addr}"),
                "see the daemon's log, and the firewall",
            )
        });
        return;
    }
    // A kernel without IPv6 refuses those addresses: one family is enough.
    let mut last = None;
    for t in targets {
        match TcpListener::bind(t) {
            Ok(_) => {
                checks.push(Check::ok(name, format!("{addr} is free")));
                return;
            }
            Err(e) => last = Some(e),
        }
    }
    let why = last.map(|e| reason(&e)).unwrap_or_default();
    checks.push(Check::fail(
        name,
        format!("{addr}: {why}"),
        "stop what listens there (`ss -ltnp`), or change http.addr",
    ));
}
