//! What a primary had acknowledged that is not in the history which others went on with.

use super::plan::Shipped;
use super::{RecoveryError, local};
use crate::clock::{Clock, Timestamp};
use crate::engine::object_name;
use crate::engine::record::{ObjectRecord, Record};
use crate::journal::list_segments;
use crate::meta::{self, DumpedRecord, JournaledStore, MetaSettings, MetaStore, Op, Reason, Table};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// The list, a change a line.
pub(crate) const FILE: &str = "rejoined-lost.jsonl";

/// A change that a client was promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostChange {
    /// Bucket.
    pub bucket: String,
    /// Key; none for the bucket itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// `written` or `deleted`.
    pub change: String,
    /// When.
    pub at: Timestamp,
    /// The record of the old journal.
    pub sequence: u64,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub lost: u64,
    pub complete: bool,
}

/// The last record that a store of term `mine` has in common with the history.
pub(super) fn common(shipped: &Shipped, mine: u64) -> u64 {
    let first_of_others =
        shipped.pieces.iter().filter(|(piece, _, _)| piece.term > mine).map(|(p, _, _)| p.first).min();
    // Only what counts: of an earlier term there may be later records on a branch that ended.
    let last_shipped = shipped.runs().iter().flatten().filter(|part| part.piece.term <= mine).map(|part| part.to).max();
    // Where nothing of it is there any more, all that its journal holds is compared.
    first_of_others.map_or(u64::MAX, |first| first.saturating_sub(1)).min(last_shipped.unwrap_or(0))
}

/// Compares what the journal in `aside` has after record `common` with the namespace in `dir`, and writes the list there.
pub(super) fn list(
    dir: &Path,
    aside: &Path,
    common: u64,
    (settings, clock): (MetaSettings, Arc<dyn Clock>),
) -> Result<Found, RecoveryError> {
    let path = dir.join(FILE);
    let failed = |e: std::io::Error| local("write", &path, &e);
    let oldest = list_segments(&aside.join("journal"))?.first().map_or(1, |s| s.first_seq);
    let (store, _) = JournaledStore::open_follower(dir, settings, Vec::new(), clock)?;
    let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
    let mut found = Found { lost: 0, complete: oldest <= common.saturating_add(1) };
    let mut outcome = Ok(());
    meta::dump(aside, common.saturating_add(1), &mut |record| {
        if outcome.is_ok() {
            outcome = changes(&store, &record).and_then(|changes| {
                for change in changes {
                    let line = serde_json::to_string(&change).map_err(|e| RecoveryError::Local(e.to_string()))?;
                    writeln!(out, "{line}").map_err(failed)?;
                    found.lost += 1;
                }
                Ok(())
            });
        }
    })?;
    outcome?;
    out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed)?;
    store.close()?;
    Ok(found)
}

/// Those changes of a record that a client was promised and that the history has not.
fn changes(store: &JournaledStore, record: &DumpedRecord) -> Result<Vec<LostChange>, RecoveryError> {
    use Reason as R;
    // The others are the store's own doing: moves, expiry, jobs.
    let promised = matches!(
        record.reason,
        R::PutObject
            | R::CopyObject
            | R::DeleteObject
            | R::DeleteVersion
            | R::CompleteUpload
            | R::UpdateObject
            | R::LockObject
            | R::CreateBucket
            | R::DeleteBucket
    );
    let mut lost = Vec::new();
    for Op { table, key, value } in record.ops.iter().filter(|_| promised) {
        let name = match table {
            Table::Object if record.reason == R::DeleteVersion && value.is_some() => None,
            Table::Version if !is_promised(record.reason, value.as_deref()) => None,
            Table::Object | Table::Version => {
                object_name(key).map(|(bucket, key)| (bucket.to_owned(), Some(key.to_owned())))
            }
            Table::Bucket => Some((String::from_utf8_lossy(key).into_owned(), None)),
            _ => None,
        };
        let Some((bucket, name)) = name else { continue };
        if store.get(*table, key)?.as_deref() == value.as_deref() {
            continue;
        }
        let written = value.is_some() && (*table != Table::Version || changes_in_place(record.reason));
        let change = if written { "written" } else { "deleted" };
        let is_same = |known: &LostChange| known.bucket == bucket && known.key == name && known.change == change;
        if lost.iter().any(is_same) {
            continue;
        }
        lost.push(LostChange { bucket, key: name, change: change.to_owned(), at: record.time, sequence: record.seq });
    }
    Ok(lost)
}

/// Whether a change in the table Version is one that a client asked for: a delete marker, the end of a version, new attributes. The
/// others are versions that move because another came or went.
fn is_promised(reason: Reason, value: Option<&[u8]>) -> bool {
    match value {
        None => reason == Reason::DeleteVersion,
        Some(_) if changes_in_place(reason) => true,
        Some(value) => ObjectRecord::decode(value).is_ok_and(|r| r.marker && r.noncurrent_since.is_none()),
    }
}

/// Whether a client changed a version where it stands.
fn changes_in_place(reason: Reason) -> bool {
    matches!(reason, Reason::UpdateObject | Reason::LockObject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::names::PieceName;

    #[test]
    fn what_is_in_common_ends_where_others_began_or_where_nothing_was_shipped() {
        let piece = |term, first, last| {
            let piece = PieceName { term, first, last, last_ms: 1 };
            (piece, piece.to_name("d"), 100)
        };
        let shipped = |pieces: &[(PieceName, String, u64)]| Shipped { pieces: pieces.to_vec(), snapshots: Vec::new() };
        assert_eq!(common(&shipped(&[piece(1, 1, 9), piece(2, 8, 12)]), 1), 7);
        assert_eq!(common(&shipped(&[piece(1, 1, 9)]), 1), 9, "the new one has shipped nothing yet");
        assert_eq!(common(&shipped(&[piece(1, 1, 20), piece(2, 8, 12), piece(3, 13, 14)]), 2), 12, "not 20");
        assert_eq!(common(&shipped(&[piece(3, 50, 60)]), 2), 0, "what it had shipped is removed: all is compared");
    }
}
