//! Checked `backup:`.

use super::{Checker, non_empty};
use crate::Env;
use crate::raw::{Backup, BackupTarget};

/// Which kind of store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupKind {
    /// A directory.
    File,
    /// The retired service of the original.
    LitefsCloud,
    /// S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

/// One backup target.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupSettings {
    /// Which kind of store.
    pub kind: BackupKind,
    /// The values of the section for this target.
    pub target: BackupTarget,
    /// Token of the original's service. Never log it.
    pub auth_token: Option<String>,
}

/// Without the token.
impl std::fmt::Debug for BackupSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupSettings").field("kind", &self.kind).finish_non_exhaustive()
    }
}

pub(super) fn check(raw: &Backup, env: &Env, c: &mut Checker<'_>) -> Vec<BackupSettings> {
    let mut first = raw.target.clone();
    cloud_environment(&mut first, env);
    if !raw.targets.is_empty() && !raw.target.kind.is_empty() {
        c.problem("backup.targets", "write either one target or a list of targets, not both");
    }
    let mut all: Vec<_> = target("backup", &first, c).into_iter().collect();
    for (i, t) in raw.targets.iter().enumerate() {
        let path = format!("backup.targets[{i}]");
        c.require(!t.kind.is_empty(), &path, "a target needs a type");
        all.extend(target(&path, t, c));
    }
    all
}

/// The original's variables: a token alone selects its service, the endpoint even overrides the file.
fn cloud_environment(target: &mut BackupTarget, env: &Env) {
    let token = env.get("LITEFS_CLOUD_TOKEN").unwrap_or("").trim();
    if token.is_empty() || !matches!(target.kind.as_str(), "" | "litefs-cloud") {
        return;
    }
    "litefs-cloud".clone_into(&mut target.kind);
    if target.auth_token.is_empty() {
        token.clone_into(&mut target.auth_token);
    }
    if let Some(endpoint) = env.get("LITEFS_CLOUD_ENDPOINT").filter(|e| !e.is_empty()) {
        endpoint.clone_into(&mut target.url);
    }
}

fn target(path: &str, raw: &BackupTarget, c: &mut Checker<'_>) -> Option<BackupSettings> {
    let key = |leaf: &str| format!("{path}.{leaf}");
    let kind = match raw.kind.as_str() {
        "" => return None,
        "file" => {
            c.require(!raw.path.is_empty(), &key("path"), "open file backup client: backup path required");
            BackupKind::File
        }
        "litefs-cloud" => BackupKind::LitefsCloud,
        "s3" => BackupKind::S3,
        "gcs" => BackupKind::Gcs,
        "azure" => BackupKind::Azure,
        other => {
            c.problem(&key("type"), format!("invalid backup client type: {other:?}"));
            return None;
        }
    };
    if matches!(kind, BackupKind::S3 | BackupKind::Gcs | BackupKind::Azure) {
        c.require(!raw.bucket.is_empty(), &key("bucket"), "a bucket is required");
    }
    Some(BackupSettings { kind, target: raw.clone(), auth_token: non_empty(&raw.auth_token) })
}
