//! Identities of nodes and clusters.

use core::fmt;
use core::str::FromStr;

/// The *stream id* of a node: random at every start, on the wire and in LTX headers.
///
/// Never persisted: a reused one makes Go peers skip transactions that they do not have.
/// Text form: 16 upper-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// The id with this value.
    pub const fn new(v: u64) -> Self {
        Self(v)
    }

    /// The value.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// Not 1 to 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNodeId;

impl fmt::Display for InvalidNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid node id")
    }
}

impl core::error::Error for InvalidNodeId {}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    /// As lenient as the original: 1 to 16 hexadecimal digits of either case.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() || s.len() > 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidNodeId);
        }
        u64::from_str_radix(s, 16).map(Self).map_err(|_| InvalidNodeId)
    }
}

/// Length of a cluster id.
const CLUSTER_ID_LEN: usize = 20;
/// How every cluster id starts.
const CLUSTER_ID_PREFIX: &str = "LFSC";

/// The id of a cluster: 20 characters, `LFSC` and normally 16 upper-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClusterId(String);

impl ClusterId {
    /// A new id from 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self(format!("{CLUSTER_ID_PREFIX}{bits:016X}"))
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not 20 printable ASCII characters that start with `LFSC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClusterId;

impl fmt::Display for InvalidClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid cluster id")
    }
}

impl core::error::Error for InvalidClusterId {}

impl FromStr for ClusterId {
    type Err = InvalidClusterId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = s.len() == CLUSTER_ID_LEN
            && s.starts_with(CLUSTER_ID_PREFIX)
            && s.bytes().all(|b| b.is_ascii_graphic());
        if ok { Ok(Self(s.to_owned())) } else { Err(InvalidClusterId) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        assert_eq!("1f".parse::<NodeId>().unwrap().to_string(), "000000000000001F");
        assert!("".parse::<NodeId>().is_err() && "12345678901234567".parse::<NodeId>().is_err());
        let c = ClusterId::from_random(7);
        assert_eq!(c.as_str().parse::<ClusterId>(), Ok(c));
        assert!("XFSC0000000000000007".parse::<ClusterId>().is_err());
    }
}
