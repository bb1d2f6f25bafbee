//! Names of LTX files: `<min>-<max>.ltx`, 16 lower-case hexadecimal digits each.

use std::fmt;
use std::str::FromStr;

use litefs_types::Txid;

/// The name of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// First transaction.
    pub min: Txid,
    /// Last transaction, not before the first.
    pub max: Txid,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.ltx", self.min, self.max)
    }
}

/// Not the name of an LTX file. Temporary files beside them are expected, so this is no alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an LTX file")]
pub struct InvalidFileName;

impl FromStr for FileName {
    type Err = InvalidFileName;

    fn from_str(s: &str) -> Result<Self, InvalidFileName> {
        let (min, max) = s.strip_suffix(".ltx").and_then(|s| s.split_once('-')).ok_or(InvalidFileName)?;
        // Only the lower-case form is ours: two spellings of one name would be two files.
        if s.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidFileName);
        }
        let parse = |t: &str| t.parse::<Txid>().map_err(|_| InvalidFileName);
        let name = Self { min: parse(min)?, max: parse(max)? };
        if name.min <= name.max { Ok(name) } else { Err(InvalidFileName) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form() {
        let s = "0000000000000001-00000000000000ff.ltx";
        assert_eq!(s.parse::<FileName>().unwrap().to_string(), s);
        for bad in [
            "0000000000000001-00000000000000FF.ltx",
            "0000000000000001-00000000000000ff.ltx.tmp",
            "0000000000000002-0000000000000001.ltx",
            "0000000000000000-0000000000000001.ltx",
            "1-1.ltx",
            "",
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
    }
}
