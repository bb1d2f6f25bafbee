//! The `process_*` series, from `/proc/self`.
//!
//! Owns reading and parsing these files; a file that cannot be read leaves its series out. Tested here
//! and with the page in `tests/tests/http_port.rs`.

use std::fs;

use super::text::{Kind, Page};

pub(super) fn series(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = parse_stat(&stat);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let ticks = ticks_per_second();
    let mut add = |name, kind, help, value: Option<f64>| {
        if let Some(v) = value {
            page.family(name, kind, help);
            page.value(name, &[], v);
        }
    };
    add(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        stat.as_ref().map(|s| s.cpu_ticks as f64 / ticks),
    );
    add(
        "process_max_fds",
        Kind::Gauge,
        "Maximum number of open file descriptors.",
        limit(&limits, "Max open files"),
    );
    add(
        "process_open_fds",
        Kind::Gauge,
        "Number of open file descriptors.",
        fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as f64),
    );
    add(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory size in bytes.",
        stat.as_ref().map(|s| s.resident_pages as f64 * page_size()),
    );
    add(
        "process_start_time_seconds",
        Kind::Gauge,
        "Start time of the process since unix epoch in seconds.",
        stat.as_ref().and_then(|s| Some(boot_time()? + s.start_ticks as f64 / ticks)),
    );
    add(
        "process_virtual_memory_bytes",
        Kind::Gauge,
        "Virtual memory size in bytes.",
        stat.as_ref().map(|s| s.virtual_bytes as f64),
    );
    add(
        "process_virtual_memory_max_bytes",
        Kind::Gauge,
        "Maximum amount of virtual memory available in bytes.",
        limit(&limits, "Max address space"),
    );
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// proc_pid_stat(5): fields are counted from 1; the name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |n: usize| rest.get(n - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)?.checked_add(field(15)?)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// The soft limit; "unlimited" is the largest number, as Go's client shows it.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let soft = limits.lines().find_map(|l| l.strip_prefix(name))?.split_ascii_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX as f64) } else { soft.parse().ok() }
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

fn ticks_per_second() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

fn page_size() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=24).map(|n| n.to_string()).collect();
        let line = format!("12 (a) b (c)) S {}", fields.join(" "));
        assert_eq!(
            parse_stat(&line),
            Some(Stat { cpu_ticks: 29, start_ticks: 22, virtual_bytes: 23, resident_pages: 24 })
        );
        assert_eq!(parse_stat("12 (x) S 1"), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(parse_stat(&own).unwrap().resident_pages > 0);
    }

    #[test]
    fn limits_are_found_by_name() {
        let text = "Limit  Soft  Hard  Units\nMax open files            1024  4096  files\nMax address space  unlimited unlimited bytes\n";
        assert_eq!(limit(text, "Max open files"), Some(1024.0));
        assert_eq!(limit(text, "Max address space"), Some(18_446_744_073_709_551_615.0));
        assert_eq!(limit(text, "Max nothing"), None);
    }
}
