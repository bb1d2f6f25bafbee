//! Commands of the `exec` section.

/// One command that the container entrypoint runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecItem {
    /// The command line.
    pub cmd: String,
    /// Run only on nodes that may become primary.
    pub if_candidate: bool,
}
