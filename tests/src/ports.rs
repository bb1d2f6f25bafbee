//! Free TCP ports that stay ours.
//!
//! "Bind to 0, close, use the number" races with every other test. Here a number is claimed by an
//! abstract Unix socket, which the kernel gives to one process at a time and takes back when it ends,
//! so that nothing is left on the disk.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below the kernel's range for outgoing connections (32768 and up), so that no client takes one.
const FIRST: u16 = 21_000;
const LAST: u16 = 31_000;

/// A port that nobody listens on and that no other test of this machine gets.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Claims one.
    pub fn claim() -> Self {
        let span = LAST - FIRST;
        let start = (std::process::id() as u16).wrapping_mul(37) % span;
        for step in 0..span {
            let number = FIRST + (start + step) % span;
            let name = format!("litefs-test-port-{number}");
            let address = SocketAddr::from_abstract_name(name).expect("an abstract socket name");
            let Ok(claim) = UnixListener::bind_addr(&address) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no free port in {FIRST}..{LAST}");
    }

    /// Its number.
    pub const fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_differ() {
        let (a, b) = (Port::claim(), Port::claim());
        assert_ne!(a.number(), b.number());
    }
}
