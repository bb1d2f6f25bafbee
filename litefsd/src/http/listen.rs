//! Listening sockets: which addresses an `http.addr` means, and how they are bound.
//!
//! Owns binding; not the accept loop (`server.rs`). Sockets that a supervisor opened already are made
//! into the same type with [`Listeners::from_std`]. Tested here and in `tests/tests/http_port.rs`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use super::addr::HostPort;

/// Connections the kernel holds for us until they are accepted; Linux caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// The sockets of one configured address: one, or one for each address of a host name.
#[derive(Debug)]
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Binds `addr`.
    ///
    /// Without a host, and for `[::]`, one socket takes IPv6 and IPv4; where the kernel has no IPv6, an
    /// empty host means IPv4 alone. A name is looked up now and every address of it that this machine
    /// has is bound. Port 0 takes a free port, the same one for all addresses.
    pub async fn bind(addr: &HostPort) -> io::Result<Self> {
        if addr.host().is_empty() {
            return match listen((Ipv6Addr::UNSPECIFIED, addr.port()).into()) {
                Ok(l) => Ok(Self(vec![l])),
                Err(e) if lacks_family(&e) => {
                    Ok(Self(vec![listen((Ipv4Addr::UNSPECIFIED, addr.port()).into())?]))
                }
                Err(e) => Err(e),
            };
        }
        let mut bound: Vec<TcpListener> = Vec::new();
        let mut port = addr.port();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{addr}: no such host"));
        let mut seen = Vec::new();
        for mut sa in lookup_host((addr.host(), addr.port())).await? {
            if seen.contains(&sa.ip()) {
                continue;
            }
            seen.push(sa.ip());
            sa.set_port(port);
            match listen(sa) {
                Ok(l) => {
                    port = l.local_addr()?.port();
                    bound.push(l);
                }
                // A name may list addresses this machine does not have (at the moment); a taken port is an error.
                Err(e) if lacks_family(&e) || e.kind() == io::ErrorKind::AddrNotAvailable => failure = e,
                Err(e) => return Err(e),
            }
        }
        if bound.is_empty() { Err(failure) } else { Ok(Self(bound)) }
    }

    /// Takes sockets that listen already.
    pub fn from_std(sockets: Vec<std::net::TcpListener>) -> io::Result<Self> {
        sockets
            .into_iter()
            .map(|s| {
                s.set_nonblocking(true)?;
                TcpListener::from_std(s)
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// What was bound.
    pub fn local_addrs(&self) -> io::Result<Vec<SocketAddr>> {
        self.0.iter().map(TcpListener::local_addr).collect()
    }

    pub(super) fn into_inner(self) -> Vec<TcpListener> {
        self.0
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restarted daemon must get its port back while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if addr.is_ipv6() {
        // Said explicitly: the default is a sysctl (net.ipv6.bindv6only).
        setsockopt(&socket, sockopt::Ipv6V6Only, &!addr.ip().is_unspecified())?;
    }
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Whether the kernel has no sockets of this address family (or has them switched off).
fn lacks_family(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bound(addr: &str) -> Listeners {
        Listeners::bind(&addr.parse().unwrap()).await.unwrap()
    }

    async fn reaches(l: &Listeners, ip: &str) -> bool {
        let port = l.local_addrs().unwrap()[0].port();
        tokio::net::TcpStream::connect((ip, port)).await.is_ok()
    }

    /// Whether this machine (or namespace) has the address.
    fn exists(ip: &str) -> bool {
        std::net::TcpListener::bind((ip, 0)).is_ok()
    }

    #[tokio::test]
    async fn no_host_is_both_families_on_one_socket() {
        let l = bound(":0").await;
        assert_eq!(l.0.len(), 1);
        assert!(exists("127.0.0.1") || exists("::1"));
        for ip in ["127.0.0.1", "::1"] {
            assert_eq!(reaches(&l, ip).await, exists(ip), "{ip}");
        }
    }

    #[tokio::test]
    async fn a_given_address_is_the_only_one() {
        for (addr, ip, other) in [
            ("0.0.0.0:0", "127.0.0.1", "::1"),
            ("127.0.0.1:0", "127.0.0.1", "::1"),
            ("[::1]:0", "::1", "127.0.0.1"),
        ] {
            if exists(ip) {
                let l = bound(addr).await;
                assert!(reaches(&l, ip).await && !reaches(&l, other).await, "{addr}");
            }
        }
    }

    #[tokio::test]
    async fn a_name_is_bound_with_one_port_and_a_taken_port_is_an_error() {
        let l = match Listeners::bind(&"localhost:0".parse().unwrap()).await {
            Ok(l) => l,
            // The name may stand for an address that a namespace does not have.
            Err(e) => return assert_eq!(e.kind(), io::ErrorKind::AddrNotAvailable),
        };
        let ports: Vec<_> = l.local_addrs().unwrap().iter().map(SocketAddr::port).collect();
        assert!(ports.iter().all(|p| *p == ports[0]), "{ports:?}");
        let again: HostPort = format!("localhost:{}", ports[0]).parse().unwrap();
        assert_eq!(Listeners::bind(&again).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
