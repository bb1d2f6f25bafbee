//! Network addresses as configuration, flags and URLs write them.
//!
//! Owns the text forms; not the lookup of names (that happens at every bind and every connect, because
//! a name's addresses change while the daemon runs). Tested here.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest host name in DNS (RFC 1035, 2.3.4).
const MAX_HOST_LEN: usize = 253;

/// A host, which may be empty ("every address of this machine"), and a port.
///
/// Accepted: `:20202`, `0.0.0.0:20202`, `[::]:20202`, `[fd00::1%eth0]:20202`, `localhost:20202`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidAddress {
    /// No `:port` at the end.
    #[error("an address ends in ':' and a port number, as in ':20202' or '[fd00::1]:20202'")]
    MissingPort,
    /// The port is not a number from 0 to 65535.
    #[error("a port is a number from 0 to 65535")]
    InvalidPort,
    /// An IPv6 address without brackets, or brackets around something else.
    #[error("an IPv6 address is written in brackets, as in '[fd00::1]:20202'")]
    Brackets,
    /// Too long, or with characters no host name has.
    #[error("not a host name or IP address")]
    InvalidHost,
    /// Not `http://` or `https://`.
    #[error("invalid URL scheme")]
    InvalidScheme,
    /// A URL without a host.
    #[error("URL host required")]
    MissingHost,
}

impl HostPort {
    /// From a host (without brackets) and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The host without brackets; empty if the address names none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 0 for "any free one".
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The scheme, host and port of a base URL. Path, query and user are ignored, as the original does;
    /// so is the `s` of `https`: the cluster protocol is cleartext, only the default port follows it.
    pub fn from_url(url: &str) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(InvalidAddress::InvalidScheme)?;
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(InvalidAddress::InvalidScheme),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host_port = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        if host_port.is_empty() || host_port.starts_with(':') {
            return Err(InvalidAddress::MissingHost);
        }
        let has_port = match host_port.rfind(']') {
            Some(end) => host_port[end..].contains(':'),
            None => host_port.contains(':'),
        };
        if has_port { host_port.parse() } else { format!("{host_port}:{default_port}").parse() }
    }
}

impl FromStr for HostPort {
    type Err = InvalidAddress;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (host, port) = s.rsplit_once(':').ok_or(InvalidAddress::MissingPort)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidAddress::InvalidPort);
        }
        let port = port.parse().map_err(|_| InvalidAddress::InvalidPort)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or(InvalidAddress::Brackets)?;
                let ip = inner.split_once('%').map_or(inner, |(ip, _zone)| ip);
                if !matches!(ip.parse(), Ok(IpAddr::V6(_))) {
                    return Err(InvalidAddress::Brackets);
                }
                inner
            }
            None if host.contains(':') || host.contains(']') => return Err(InvalidAddress::Brackets),
            None => host,
        };
        let ok = host.len() <= MAX_HOST_LEN
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:%".contains(&b) || b >= 0x80);
        if !ok {
            return Err(InvalidAddress::InvalidHost);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_read_and_written_back() {
        for (text, host, port) in [
            (":20202", "", 20202),
            ("0.0.0.0:1", "0.0.0.0", 1),
            ("[::]:1", "::", 1),
            ("localhost:1", "localhost", 1),
            ("[fd00::1]:20202", "fd00::1", 20202),
            ("[fe80::1%eth0]:0", "fe80::1%eth0", 0),
            ("a.vm.my-app.internal:65535", "a.vm.my-app.internal", 65535),
        ] {
            let a: HostPort = text.parse().unwrap();
            assert_eq!((a.host(), a.port()), (host, port), "{text}");
            assert_eq!(a.to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        use InvalidAddress::*;
        for (text, why) in [
            ("20202", MissingPort),
            ("host:", InvalidPort),
            ("host:65536", InvalidPort),
            ("host:+1", InvalidPort),
            ("fd00::1:20202", Brackets),
            ("[localhost]:1", Brackets),
            ("[::1:1", Brackets),
            ("a b:1", InvalidHost),
            ("a/b:1", InvalidHost),
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(why), "{text}");
        }
    }

    #[test]
    fn urls_are_cut_down_to_host_and_port() {
        for (url, want) in [
            ("http://node1:20202", "node1:20202"),
            ("http://[fd00::1]:20202/", "[fd00::1]:20202"),
            ("http://[fd00::1]", "[fd00::1]:80"),
            ("https://node1/path?x=1", "node1:443"),
            ("HTTP://user:pw@10.0.0.1:1/x", "10.0.0.1:1"),
        ] {
            assert_eq!(HostPort::from_url(url).unwrap().to_string(), want, "{url}");
        }
        assert_eq!(HostPort::from_url("node1:20202"), Err(InvalidAddress::InvalidScheme));
        assert_eq!(HostPort::from_url("ftp://x"), Err(InvalidAddress::InvalidScheme));
        assert_eq!(HostPort::from_url("http://:20202"), Err(InvalidAddress::MissingHost));
        assert_eq!(HostPort::from_url("http://"), Err(InvalidAddress::MissingHost));
    }
}
