//! Addresses to listen on and URLs of other nodes.

use std::fmt;
use std::str::FromStr;

/// The text is no address or URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

fn invalid(why: impl Into<String>) -> InvalidAddress {
    InvalidAddress(why.into())
}

/// Where a server listens: `:20202`, `10.0.0.1:20202`, `[fd00::1]:20202`, `localhost:8080`.
///
/// Not resolved here: names are looked up when the socket is bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAddr {
    /// Without brackets; `None` = every address of both families.
    pub host: Option<String>,
    /// 0 = the kernel chooses.
    pub port: u16,
}

impl FromStr for ListenAddr {
    type Err = InvalidAddress;

    fn from_str(s: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = split_host_port(s)?;
        let port =
            port.ok_or_else(|| invalid(format!("address {s:?} has no port; write host:port or :port")))?;
        Ok(Self { host: (!host.is_empty()).then_some(host), port })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, self.host.as_deref().unwrap_or(""))?;
        write!(f, ":{}", self.port)
    }
}

/// Scheme of a node's URL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Cleartext, port 80.
    Http,
    /// Port 443. The original speaks cleartext there, too.
    Https,
}

/// The URL of a node. As the original does, only scheme, host and port count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Name or address, without brackets, never empty.
    pub host: String,
    /// As written.
    pub port: Option<u16>,
}

impl HttpUrl {
    /// The port, or the scheme's default.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// `host:port` for a `Host` header or a connection, the host in brackets where it needs them.
    pub fn authority(&self) -> String {
        ListenAddr { host: Some(self.host.clone()), port: self.port_or_default() }.to_string()
    }
}

impl FromStr for HttpUrl {
    type Err = InvalidAddress;

    fn from_str(s: &str) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = s.split_once("://").ok_or_else(|| invalid("invalid URL scheme"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(invalid("invalid URL scheme")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        // Credentials in a node's URL are dropped by the original, too.
        let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
        let (host, port) = split_host_port(authority)?;
        if host.is_empty() {
            return Err(invalid("URL host required"));
        }
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        })?;
        write_host(f, &self.host)?;
        match self.port {
            Some(p) => write!(f, ":{p}"),
            None => Ok(()),
        }
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]") } else { f.write_str(host) }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, `:port`.
fn split_host_port(s: &str) -> Result<(String, Option<u16>), InvalidAddress> {
    let (host, port) = if let Some(rest) = s.strip_prefix('[') {
        let (host, tail) =
            rest.split_once(']').ok_or_else(|| invalid(format!("missing ']' in address {s:?}")))?;
        let port = match tail.strip_prefix(':') {
            Some(p) => Some(p),
            None if tail.is_empty() => None,
            None => return Err(invalid(format!("address {s:?}: expected ':' and a port after ']'"))),
        };
        if host.split('%').next().is_none_or(|a| a.parse::<std::net::Ipv6Addr>().is_err()) {
            return Err(invalid(format!("{host:?} is no IPv6 address")));
        }
        (host, port)
    } else {
        match s.split_once(':') {
            Some((_, p)) if p.contains(':') => {
                return Err(invalid(format!(
                    "too many colons in address {s:?}; write an IPv6 address as [address]:port"
                )));
            }
            Some((h, p)) => (h, Some(p)),
            None => (s, None),
        }
    };
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(invalid(format!("host {host:?} holds white space")));
    }
    let port = match port {
        None => None,
        Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
            Some(p.parse().map_err(|_| invalid(format!("port {p} is not from 0 to 65535")))?)
        }
        Some(p) => return Err(invalid(format!("port {p:?} is not a number"))),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        for ok in [":20202", "10.0.0.1:80", "[fd00::1]:20202", "localhost:0", "[fe80::1%eth0]:1"] {
            assert_eq!(ok.parse::<ListenAddr>().unwrap().to_string(), ok);
        }
        for bad in
            ["", "20202", "host", "::1:80", "[::1]", "[::1", "[x]:1", "a:b", "h:99999", "a b:1", "[::1]x:2"]
        {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn urls() {
        let u: HttpUrl = "http://user:pw@[fd00::1]:20202/path?x#y".parse().unwrap();
        assert_eq!(
            (u.to_string(), u.authority()),
            ("http://[fd00::1]:20202".into(), "[fd00::1]:20202".into())
        );
        assert_eq!("HTTPS://a".parse::<HttpUrl>().unwrap().authority(), "a:443");
        assert_eq!("http://:80".parse::<HttpUrl>().unwrap_err().to_string(), "URL host required");
        assert_eq!("ftp://x".parse::<HttpUrl>().unwrap_err().to_string(), "invalid URL scheme");
        assert_eq!("localhost:20202".parse::<HttpUrl>().unwrap_err().to_string(), "invalid URL scheme");
    }
}
