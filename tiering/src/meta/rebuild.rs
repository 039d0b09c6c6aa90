//! Making the index anew from the newest good snapshot and the journal after it; and reading the journal for people.

use super::marker::{IndexState, Layout, Marker};
use super::open::{Recovery, TornTail, Wish, recover, replay};
use super::snapshot::{self, SnapshotInfo};
use super::{MetaError, MetaSettings, Op, Reason, SledIndex};
use crate::clock::{Clock, Timestamp};
use crate::disk;
use crate::journal::{Tail, list_segments, parse_ops, read_from, sync_dir};
use std::path::Path;

/// Entries loaded between two reports of progress.
const PROGRESS_EVERY: u64 = 10_000;

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildProgress {
    /// Entries of the snapshot loaded so far.
    Snapshot {
        /// Entries loaded.
        entries: u64,
    },
    /// The snapshot is loaded; the journal comes now.
    Journal {
        /// Bytes of journal on disk, an upper bound of what is to be read.
        bytes: u64,
    },
}

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildReport {
    /// The snapshot that it began with; `None` for the beginning of the journal.
    pub snapshot: Option<u64>,
    /// Journal records applied.
    pub records: u64,
    /// The latest record.
    pub last_seq: u64,
    /// Where a torn tail was cut off.
    pub torn_tail: Option<TornTail>,
}

/// One record of the journal, for `journal dump`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedRecord {
    /// Sequence number.
    pub seq: u64,
    /// Epoch of the process that wrote it.
    pub epoch: u64,
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The changes: table, key bytes, value bytes.
    pub ops: Vec<Op>,
}

/// Throws the index of the store in `data_dir` away and makes it anew; the store must not be in use. A journal that
/// ends before what the index knew is accepted here, and only here: snapshots that reach beyond its end are set aside.
pub fn rebuild(
    data_dir: &Path,
    settings: &MetaSettings,
    clock: &dyn Clock,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<RebuildReport, MetaError> {
    let found = recover(data_dir, settings, clock, Wish { rebuild: Some("asked for"), progress })?;
    let (snapshot, records) = match found.recovery {
        Recovery::Rebuilt { snapshot, records, .. } => (snapshot, records),
        _ => (None, 0),
    };
    found.index.close()?;
    Marker::new(IndexState::Clean, found.generation, found.last_seq).save(data_dir)?;
    Ok(RebuildReport { snapshot, records, last_seq: found.last_seq, torn_tail: found.torn_tail })
}

/// Calls `each` for every record from `from_seq` on (from the oldest kept one when that is later), in order. Reads only
/// and takes no lock; beside a running server it ends at some record near the end.
pub fn dump(data_dir: &Path, from_seq: u64, each: &mut dyn FnMut(DumpedRecord)) -> Result<(), MetaError> {
    let layout = Layout::new(data_dir);
    let oldest = list_segments(&layout.journal)?.first().map_or(1, |s| s.first_seq);
    read_from(&layout.journal, from_seq.max(oldest), &mut |header, body| {
        let ops = parse_ops(body, header.ops)
            .map_err(|what| MetaError::Invalid(format!("journal record {}: {what}", header.seq)))?;
        let ops =
            ops.iter().map(|op| Op { table: op.table, key: op.key.to_vec(), value: op.value.map(<[u8]>::to_vec) });
        each(DumpedRecord {
            seq: header.seq,
            epoch: header.epoch,
            time: Timestamp(header.time_ms),
            reason: Reason::from_code(header.reason),
            ops: ops.collect(),
        });
        Ok(())
    })
    .map(drop)
}

/// What to rebuild from.
pub(crate) struct Source<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) cache_bytes: u64,
    pub(crate) generation: u128,
    /// Snapshots beyond the journal's end are set aside instead of being kept.
    pub(crate) forced: bool,
}

/// A new index from the newest snapshot that is whole and that the journal continues, or from the journal alone.
pub(crate) fn rebuild_index(
    source: &Source<'_>,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<(SledIndex, Tail, Option<u64>), MetaError> {
    let layout = source.layout;
    let segments = list_segments(&layout.journal)?;
    let oldest = segments.first().map_or(1, |s| s.first_seq);
    let bytes = segments.iter().map(|s| s.len).sum();
    let last = match segments.last() {
        Some(s) => read_from(&layout.journal, s.first_seq, &mut |_, _| Ok(()))?.map_or(0, |tail| tail.last_seq),
        None => 0,
    };
    let mut refused: Option<MetaError> = None;
    for candidate in snapshot::list(&layout.snapshots)? {
        if candidate.start_seq.saturating_add(1) < oldest {
            continue;
        }
        let index = SledIndex::create(&layout.sled, source.cache_bytes, source.generation)?;
        let (start, end) = match load(&candidate, &index, progress) {
            Ok(ends) => ends,
            Err(e @ MetaError::Corrupt { .. }) => {
                tracing::error!(error = %e, "a snapshot is damaged; trying an older one");
                refused = Some(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        if end.end_seq > last {
            let what = format!("it needs journal record {}, but the journal ends at {last}", end.end_seq);
            refused = Some(MetaError::corrupt(&candidate.path, 0, what, "Bring the missing journal segments back"));
            if source.forced {
                set_aside(layout, &candidate)?;
            }
            continue;
        }
        progress(RebuildProgress::Journal { bytes });
        let mut tail = replay(&layout.journal, &index, start.seq)?;
        tail.epoch = tail.epoch.max(start.epoch);
        return Ok((index, tail, Some(start.seq)));
    }
    if oldest > 1 {
        let what = "no usable snapshot reaches the oldest journal segment".to_owned();
        let help = "Bring a snapshot file back from a backup";
        return Err(refused.unwrap_or_else(|| MetaError::corrupt(&layout.snapshots, 0, what, help)));
    }
    let index = SledIndex::create(&layout.sled, source.cache_bytes, source.generation)?;
    progress(RebuildProgress::Journal { bytes });
    let tail = replay(&layout.journal, &index, 0)?;
    Ok((index, tail, None))
}

/// Loads a snapshot into an empty index.
fn load(
    info: &SnapshotInfo,
    index: &SledIndex,
    progress: &mut dyn FnMut(RebuildProgress),
) -> Result<(snapshot::Start, snapshot::End), MetaError> {
    let mut entries = 0u64;
    snapshot::read(&info.path, &mut |table, key, value| {
        index.apply(table, key, Some(value))?;
        entries = entries.saturating_add(1);
        if entries.is_multiple_of(PROGRESS_EVERY) {
            progress(RebuildProgress::Snapshot { entries });
        }
        Ok(())
    })
}

/// Takes a snapshot out of use without deleting it: sequence numbers after the journal's end will be used again.
fn set_aside(layout: &Layout, info: &SnapshotInfo) -> Result<(), MetaError> {
    let to = info.path.with_extension("snap.set-aside");
    disk::rename(&info.path, &to).map_err(|e| MetaError::io("rename", &info.path, &e))?;
    sync_dir(&layout.snapshots)
}
