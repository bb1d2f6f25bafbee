//! Ours: `api:` the control socket.

use crate::visit::{Section, Visit};

/// Where the daemon answers its tools unless the file says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/litefs/litefsd.sock";

/// `api:` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Path of the Unix socket.
    pub socket: String,
}

impl Default for Api {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.to_owned() }
    }
}

impl Section for Api {
    fn type_name(&self) -> &'static str {
        "api"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("socket", &mut self.socket);
    }
}
