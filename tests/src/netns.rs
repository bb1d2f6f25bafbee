//! Two network namespaces joined by a cable, with IPv6 only: what a private network of a cloud is.

use std::process::Command;

use crate::proc::run;

/// Two namespaces; the addresses are `fd00::1` and `fd00::2`, and there is no IPv4 address but that of
/// `lo`. Removed when the value goes.
#[derive(Debug)]
pub struct Pair {
    names: [String; 2],
}

/// The addresses of the two ends, as they stand in a URL.
pub const HOSTS: [&str; 2] = ["[fd00::1]", "[fd00::2]"];

impl Pair {
    /// Makes them.
    pub fn new() -> Self {
        let pid = std::process::id();
        let pair = Self { names: [format!("lft{pid}a"), format!("lft{pid}b")] };
        for name in &pair.names {
            run(Command::new("ip").args(["netns", "add", name]));
        }
        let [a, b] = &pair.names;
        run(Command::new("ip")
            .args(["link", "add", "lft0", "netns", a, "type", "veth", "peer", "name", "lft0", "netns", b]));
        for (name, host) in pair.names.iter().zip(HOSTS) {
            let address = format!("{}/64", host.trim_matches(['[', ']']));
            // Without duplicate address detection it can be used at once.
            pair.ip(name, &["addr", "add", &address, "dev", "lft0", "nodad"]);
            pair.ip(name, &["link", "set", "lft0", "up"]);
            pair.ip(name, &["link", "set", "lo", "up"]);
        }
        pair
    }

    fn ip(&self, name: &str, args: &[&str]) {
        debug_assert!(self.names.iter().any(|n| n == name));
        run(Command::new("ip").args(["-n", name]).args(args));
    }

    /// The name of one end (0 or 1).
    pub fn name(&self, end: usize) -> &str {
        &self.names[end]
    }

    /// Pulls the cable out, or puts it in: a dead peer sends nothing, not even a reset.
    pub fn set_link(&self, up: bool) {
        for name in &self.names {
            self.ip(name, &["link", "set", "lft0", if up { "up" } else { "down" }]);
        }
        if up {
            for (name, host) in self.names.iter().zip(HOSTS) {
                // An IPv6 address goes with its link.
                let address = format!("{}/64", host.trim_matches(['[', ']']));
                let _ = Command::new("ip")
                    .args(["-n", name, "addr", "replace", &address, "dev", "lft0", "nodad"])
                    .output();
            }
        }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
