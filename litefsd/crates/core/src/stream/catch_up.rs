//! What one database of one replica needs next. A pure decision; see [`next_step`].

use litefs_types::{Checksum, Pos, Txid};

/// What is known about the log entry that begins with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// Database checksum before it.
    pub pre_apply: Checksum,
    /// The position after it.
    pub post: Pos,
}

/// Why a replica gets the whole database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotReason {
    /// It has nothing. (A first transaction is a snapshot by definition.)
    Nothing,
    /// It is ahead of us: its history is another one.
    Ahead,
    /// It has the same transaction with another checksum.
    Diverged,
    /// The next transaction is no longer in the log.
    NotInLog,
    /// The next transaction does not start from what the replica has.
    OtherHistory,
}

impl SnapshotReason {
    /// A few words for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "replica has nothing",
            Self::Ahead => "replica is ahead",
            Self::Diverged => "checksums differ",
            Self::NotInLog => "no longer in the log",
            Self::OtherHistory => "replica has another history",
        }
    }
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    UpToDate,
    /// That the database does not exist here.
    DropDb,
    /// The log entry that begins with this transaction; the replica is at its `post` then.
    Entry {
        /// First transaction of the entry.
        txid: Txid,
        /// The position after it.
        post: Pos,
    },
    /// The whole database, at any position from the current one on.
    Snapshot(SnapshotReason),
}

/// Decides what a replica at `client` needs of a database that is at `server` here (`None`: not here;
/// as far as replicas may see it). `log` looks an entry up by its first transaction.
///
/// A history is recognised by its checksums: an entry is sent only to a replica whose checksum it
/// starts from, and equal transaction numbers with different checksums are different histories.
pub fn next_step(client: Pos, server: Option<Pos>, log: impl FnOnce(Txid) -> Option<LogFacts>) -> Step {
    let Some(server) = server else { return Step::DropDb };
    let (have, want) = (client.txid_raw(), server.txid_raw());
    if server.is_zero() {
        // A database without a transaction cannot be sent, whatever the replica has.
        return Step::UpToDate;
    }
    if have > want {
        return Step::Snapshot(SnapshotReason::Ahead);
    }
    if have == want {
        return if client.checksum() == server.checksum() {
            Step::UpToDate
        } else {
            Step::Snapshot(SnapshotReason::Diverged)
        };
    }
    let txid = client.next_txid();
    if txid == Txid::FIRST {
        return Step::Snapshot(SnapshotReason::Nothing);
    }
    match log(txid) {
        None => Step::Snapshot(SnapshotReason::NotInLog),
        Some(facts) if facts.pre_apply != client.checksum() => Step::Snapshot(SnapshotReason::OtherHistory),
        // An entry that does not lead on would be sent for ever.
        Some(facts) if facts.post.txid_raw() < txid.get() => Step::Snapshot(SnapshotReason::NotInLog),
        Some(facts) => Step::Entry { txid, post: facts.post },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pos(txid: u64, sum: u64) -> Pos {
        Txid::new(txid).map_or(Pos::ZERO, |t| Pos::new(t, Checksum::new(sum)))
    }

    #[test]
    fn table() {
        use SnapshotReason::{Ahead, Diverged, NotInLog, Nothing, OtherHistory};
        let server = Some(pos(5, 55));
        // The log holds 4 and 5.
        let log = |t: Txid| {
            (t.get() >= 4).then(|| LogFacts {
                pre_apply: Checksum::new(t.get() * 11 - 11),
                post: pos(t.get(), t.get() * 11),
            })
        };
        let entry = |t| Step::Entry { txid: Txid::new(t).unwrap(), post: pos(t, t * 11) };
        for (client, server, want) in [
            (pos(5, 55), server, Step::UpToDate),
            (pos(5, 54), server, Step::Snapshot(Diverged)),
            (pos(6, 66), server, Step::Snapshot(Ahead)),
            (pos(4, 44), server, entry(5)),
            (pos(3, 33), server, entry(4)),
            (pos(3, 34), server, Step::Snapshot(OtherHistory)),
            (pos(2, 22), server, Step::Snapshot(NotInLog)),
            (pos(0, 0), server, Step::Snapshot(Nothing)),
            (pos(0, 0), Some(Pos::ZERO), Step::UpToDate),
            (pos(3, 33), Some(Pos::ZERO), Step::UpToDate),
            (pos(3, 33), None, Step::DropDb),
            (pos(0, 0), None, Step::DropDb),
        ] {
            assert_eq!(next_step(client, server, log), want, "{client} {server:?}");
        }
        let stuck = |_| Some(LogFacts { pre_apply: Checksum::new(33), post: pos(3, 33) });
        assert_eq!(next_step(pos(3, 33), server, stuck), Step::Snapshot(NotInLog));
    }
}
