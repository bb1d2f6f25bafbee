//! Durations as Go writes them: `10m`, `1h30m`, `500ms`, `-1.5s`, `0`.

use std::fmt;
use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5
    ("μs", 1_000), // U+03BC
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A signed duration in nanoseconds, as in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct GoDuration(i64);

/// The text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: a number with a unit ns, us, ms, s, m or h, such as 10m or 1h30m")]
pub struct InvalidDuration;

impl GoDuration {
    /// Whole seconds.
    pub const fn secs(s: i64) -> Self {
        Self(s * 1_000_000_000)
    }

    /// In nanoseconds; may be negative.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// `None` if it is zero or negative: the original's "off".
    pub const fn positive(self) -> Option<Duration> {
        if self.0 > 0 { Some(Duration::from_nanos(self.0 as u64)) } else { None }
    }

    /// `None` if it is negative.
    pub const fn non_negative(self) -> Option<Duration> {
        if self.0 >= 0 { Some(Duration::from_nanos(self.0 as u64)) } else { None }
    }
}

impl std::str::FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(s: &str) -> Result<Self, InvalidDuration> {
        let (negative, mut rest) = match s.as_bytes().first() {
            Some(b'-') => (true, &s[1..]),
            Some(b'+') => (false, &s[1..]),
            _ => (false, s),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(InvalidDuration);
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (value, tail) = component(rest)?;
            total += value;
            if total > i128::from(i64::MAX) + 1 {
                return Err(InvalidDuration);
            }
            rest = tail;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(Self).map_err(|_| InvalidDuration)
    }
}

/// One `<number><unit>` at the start of `s`, in nanoseconds, and what follows it.
fn component(s: &str) -> Result<(i128, &str), InvalidDuration> {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, mut tail) = s.split_at(digits(s));
    let mut fraction = "";
    if let Some(after) = tail.strip_prefix('.') {
        (fraction, tail) = after.split_at(digits(after));
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(InvalidDuration);
    }
    let unit_len = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(unit_len);
    let (_, scale) = UNITS.iter().find(|(u, _)| *u == unit).ok_or(InvalidDuration)?;
    let scale = i128::from(*scale);
    // 19 digits already exceed the range; more could overflow the arithmetic below.
    if whole.trim_start_matches('0').len() > 19 {
        return Err(InvalidDuration);
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| InvalidDuration)? };
    // Digits beyond the 15th are below a nanosecond of an hour.
    let fraction = &fraction[..fraction.len().min(15)];
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| InvalidDuration)? };
    Ok((whole * scale + part * scale / 10i128.pow(fraction.len() as u32), tail))
}

/// The shortest form that reads back as the same value: `10m`, not `10m0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        for unit in ["h", "m", "s", "ms", "us", "ns"] {
            let scale = UNITS.iter().find(|(u, _)| *u == unit).map_or(1, |(_, s)| *s);
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(s: &str) -> Option<i64> {
        s.parse::<GoDuration>().ok().map(GoDuration::nanos)
    }

    #[test]
    fn go_grammar() {
        assert_eq!(ns("10m"), Some(600_000_000_000));
        assert_eq!(ns("1h30m"), Some(5_400_000_000_000));
        assert_eq!(ns("-1.5s"), Some(-1_500_000_000));
        assert_eq!(ns("+5us"), Some(5_000));
        assert_eq!((ns("1µs"), ns("1μs")), (Some(1_000), Some(1_000)));
        assert_eq!((ns(".5s"), ns("1.s"), ns("0")), (Some(500_000_000), Some(1_000_000_000), Some(0)));
        assert_eq!(ns("1m1m"), Some(120_000_000_000));
        for bad in
            ["", "10", "abc", "s", ".s", "1.", "1d", "1 s", "--1s", "1S", "9223372036854775808ns", "9999999h"]
        {
            assert_eq!(ns(bad), None, "{bad:?}");
        }
        assert_eq!(ns("-9223372036854775808ns"), Some(i64::MIN));
        assert_eq!(ns(&format!("{}h", "9".repeat(400))), None);
        assert_eq!(ns("0.1234567890123456789h"), Some(444_444_440_444));
    }

    proptest::proptest! {
        #[test]
        fn display_reads_back(n: i64) {
            let d = GoDuration(n);
            proptest::prop_assert_eq!(d.to_string().parse::<GoDuration>(), Ok(d));
        }
        #[test]
        fn no_text_panics(s in "[-+0-9.a-zµ ]{0,40}") {
            let _ = s.parse::<GoDuration>();
        }
    }
}
