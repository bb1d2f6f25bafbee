//! Sizes in bytes with units: `1073741824`, `512MB`, `1GiB`, `1.5G`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

/// The text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a size: bytes, or a number with KiB, MiB, GiB, TiB (1024) or KB, MB, GB, TB (1000)")]
pub struct InvalidSize;

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(s: &str) -> Result<Self, InvalidSize> {
        let s = s.trim();
        let n = s.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.' || *b == b'_').count();
        let (number, unit) = s.split_at(n);
        let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            // A bare letter is binary, as systemd reads it.
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            _ => return Err(InvalidSize),
        };
        let number = number.replace('_', "");
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(InvalidSize);
        }
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or(InvalidSize);
        }
        let value = number.parse::<f64>().map_err(|_| InvalidSize)? * scale as f64;
        // Beyond 2^53 a fraction says nothing exact any more.
        if scale > 1 && value < 9_007_199_254_740_992.0 { Ok(Self(value as u64)) } else { Err(InvalidSize) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let v = |s: &str| s.parse::<ByteSize>().ok().map(|b| b.0);
        assert_eq!(
            (v("0"), v("1073741824"), v("1GiB"), v("1G")),
            (Some(0), Some(1 << 30), Some(1 << 30), Some(1 << 30))
        );
        assert_eq!((v("512MB"), v("1.5 KiB"), v("1_000")), (Some(512_000_000), Some(1536), Some(1000)));
        for bad in ["", "GiB", "-1", "1.5", "1XB", ".5G", "99999999999TiB", "1..5K", "1e3"] {
            assert_eq!(v(bad), None, "{bad:?}");
        }
        assert_eq!(
            (ByteSize(1 << 30).to_string(), ByteSize(1500).to_string()),
            ("1GiB".into(), "1500".into())
        );
    }
}
