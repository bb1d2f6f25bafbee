//! `backup:` where copies of the log go.

use crate::visit::{Section, Visit};

/// `backup:` as written: one target, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Backup {
    /// The only target, written without a list.
    pub target: BackupTarget,
    /// `targets:`
    pub targets: Vec<BackupTarget>,
}

/// One backup target as written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BackupTarget {
    /// Empty (none), `file`, `litefs-cloud`, `s3`, `gcs`, `azure`.
    pub kind: String,
    /// `file`: the directory.
    pub path: String,
    /// `litefs-cloud`: base URL.
    pub url: String,
    /// `litefs-cloud`: cluster name.
    pub cluster: String,
    /// `litefs-cloud`: token.
    pub auth_token: String,
    /// Object stores: the bucket.
    pub bucket: String,
    /// Object stores: what every key starts with.
    pub prefix: String,
    /// Object stores: address other than the provider's.
    pub endpoint: String,
    /// Object stores: region.
    pub region: String,
    /// Object stores: bucket in the path instead of the host name.
    pub path_style: bool,
}

impl Section for BackupTarget {
    fn type_name(&self) -> &'static str {
        "main.BackupConfig"
    }

    fn each(&mut self, v: &mut dyn Visit) {
        v.string("type", &mut self.kind);
        v.string("path", &mut self.path);
        v.string("url", &mut self.url);
        v.string("cluster", &mut self.cluster);
        v.secret("auth-token", &mut self.auth_token);
        v.string("bucket", &mut self.bucket);
        v.string("prefix", &mut self.prefix);
        v.string("endpoint", &mut self.endpoint);
        v.string("region", &mut self.region);
        v.bool("path-style", &mut self.path_style);
    }
}

impl Section for Backup {
    fn type_name(&self) -> &'static str {
        self.target.type_name()
    }

    fn each(&mut self, v: &mut dyn Visit) {
        self.target.each(v);
        v.targets("targets", &mut self.targets);
    }
}
