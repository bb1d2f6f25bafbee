//! Exit codes, and the one line on stderr.

use std::process::ExitCode;

use litefs_api::ErrorCode;
use litefs_api::client::ClientError;

/// What an exit code means to a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// 1: it did not work.
    Failed = 1,
    /// 2: it was asked for in a wrong way.
    Usage = 2,
    /// 3: there is no such thing.
    NotFound = 3,
    /// 4: wrong role, or not eligible.
    Refused = 4,
    /// 5: no daemon answers.
    Unreachable = 5,
    /// 6: it did not happen in time.
    TimedOut = 6,
}

/// Why the command failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What failed and why.
    pub(crate) message: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
    /// Everything has been said already: only the code counts.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: String::new(), silent: false }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The command has printed what is wrong.
    pub(crate) fn silent() -> Self {
        Self { silent: true, ..Self::failed("") }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same, with what was being done in front.
    pub(crate) fn while_doing(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Prints the line and gives the exit code.
    pub(crate) fn report(&self, program: &str) -> ExitCode {
        if !self.silent {
            let hint = if self.hint.is_empty() { String::new() } else { format!("; {}", self.hint) };
            // One line, whatever a server or a path put into it.
            eprintln!("{}", format!("{program}: {}{hint}", self.message).replace(['\n', '\r'], " "));
        }
        ExitCode::from(self.kind as u8)
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let text = e.to_string();
        match e {
            ClientError::Unreachable { target, source } => {
                let text = format!("cannot connect to {target}: {}", crate::check::reason(&source));
                let hint = match source.kind() {
                    std::io::ErrorKind::PermissionDenied => "run as root, or join the group litefs",
                    _ => "is litefsd running? Name its socket with --socket or LITEFS_SOCKET",
                };
                Self::new(Kind::Unreachable, text).hint(hint)
            }
            ClientError::Timeout { .. } => Self::new(Kind::TimedOut, text).hint("see the daemon's log"),
            ClientError::Api(api) => {
                let kind = match api.code {
                    ErrorCode::NotFound => Kind::NotFound,
                    ErrorCode::NotPrimary | ErrorCode::NoPrimary | ErrorCode::Exists | ErrorCode::Refused => {
                        Kind::Refused
                    }
                    ErrorCode::Timeout => Kind::TimedOut,
                    ErrorCode::NotReady => Kind::Unreachable,
                    _ => Kind::Failed,
                };
                Self::new(kind, api.message).hint(api.hint)
            }
            ClientError::Protocol(_) => Self::failed(text)
                .hint("is it a litefsd that listens there, and of a version like this tool's?"),
            ClientError::Lost(_) => Self::failed(text).hint("did the daemon stop? See its log"),
            ClientError::Local(_) => Self::failed(text),
        }
    }
}
