//! Numbers for people.

use std::time::Duration;

/// `12.0 KiB`
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `3d 4h`, `2m 5s`, `1.2s`, `12ms`
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match (s / 86400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, 0) => format!("{ms}ms"),
        (0, 0, 0, s) if s < 10 => format!("{s}.{}s", ms % 1000 / 100),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

/// As Go prints a duration: `12.345678ms`, `1.5s`, `2m3.5s`.
pub(crate) fn go_duration(d: Duration) -> String {
    let trim = |whole: u64, frac: u64, digits: usize, unit: &str| {
        let text = format!("{whole}.{frac:0digits$}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => trim(ns / 1_000, ns % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => trim(ns / 1_000_000, ns % 1_000_000, 6, "ms"),
        _ => {
            let (s, frac) = (ns / 1_000_000_000, ns % 1_000_000_000);
            let (h, m) = (s / 3600, s / 60 % 60);
            let hours = if h > 0 { format!("{h}h") } else { String::new() };
            let minutes = if s >= 60 { format!("{m}m") } else { String::new() };
            format!("{hours}{minutes}{}", trim(s % 60, frac, 9, "s"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!((bytes(0), bytes(1023), bytes(12288)), ("0 B".into(), "1023 B".into(), "12.0 KiB".into()));
        assert_eq!((bytes(1 << 30), bytes((1 << 20) - 1)), ("1.0 GiB".into(), "1.0 MiB".into()));
        assert_eq!(
            (duration(12), duration(1234), duration(61_000)),
            ("12ms".into(), "1.2s".into(), "1m 1s".into())
        );
        assert_eq!((duration(3_700_000), duration(90_000_000)), ("1h 1m".into(), "1d 1h".into()));
        let go = |ns| go_duration(Duration::from_nanos(ns));
        assert_eq!(
            (go(12_345_678), go(1_500_000_000), go(1_500)),
            ("12.345678ms".into(), "1.5s".into(), "1.5µs".into())
        );
        assert_eq!(
            (go(123_500_000_000), go(3_600_000_000_000), go(0)),
            ("2m3.5s".into(), "1h0m0s".into(), "0s".into())
        );
    }
}
