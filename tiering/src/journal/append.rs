//! Records of another store's journal, put behind the last segment of this one as they are.
//!
//! A group of records is there whole or not at all, so that each says of what is before it what is true here too: a record
//! names records that were durable when it was written, and a write that a power cut tore would make a liar of it. So the
//! group is a new file, or a new version of the last one while that is short.

use super::committer::Committer;
use super::follow::{Lying, Piece, Records};
use super::record::parse_ops;
use super::segment::{SEGMENT_HEADER_BYTES, segment_name, sync_dir};
use crate::disk;
use crate::failpoint;
use crate::meta::{Committed, MetaError, Op};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The last segment is written anew up to this length: 86,400 small groups a day are not to be as many files.
const GROW_BYTES: u64 = 256 << 10;

/// A file that waits for its name.
struct Draft {
    tmp: PathBuf,
    path: PathBuf,
}

/// Writes what is to be put behind the segment `last`. An error does no harm.
fn draft(dir: &Path, last: &Path, piece: &Piece) -> Result<Draft, MetaError> {
    let read = |e: std::io::Error| MetaError::io("read", last, &e);
    let length = std::fs::metadata(last).map_err(read)?.len();
    let records = piece.bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
    let (path, bytes) = if length.saturating_add(records.len() as u64) <= GROW_BYTES {
        let mut whole = std::fs::read(last).map_err(read)?;
        whole.extend_from_slice(records);
        (last.to_owned(), whole)
    } else {
        (dir.join(segment_name(piece.first)), piece.bytes.clone())
    };
    let tmp = path.with_extension("seg.tmp");
    disk::write_synced(&tmp, &bytes).map_err(|e| MetaError::io("write", &tmp, &e))?;
    failpoint::hit("follow.before_rename");
    Ok(Draft { tmp, path })
}

impl Draft {
    /// Gives it its name, durably. After an error it may have it or not.
    fn name(self, dir: &Path) -> Result<PathBuf, MetaError> {
        disk::rename(&self.tmp, &self.path).map_err(|e| MetaError::io("rename", &self.tmp, &e))?;
        sync_dir(dir)?;
        failpoint::hit("follow.after_rename");
        Ok(self.path)
    }
}

impl Committer {
    /// Takes over records of another store's journal: durable as they are, then applied one by one.
    pub(super) fn append(&mut self, piece: &Piece) -> Result<Committed, MetaError> {
        if self.last_seq.checked_add(1) != Some(piece.first) {
            let what = format!("records {} to {} do not follow record {}", piece.first, piece.last, self.last_seq);
            return Err(MetaError::Invalid(what));
        }
        let invalid = |what: String| MetaError::Invalid(format!("records from {} on: {what}", piece.first));
        // Before anything is written: records that cannot be applied must not get into the journal.
        let (mut records, mut epoch) = (Vec::new(), self.epoch);
        let mut found = Records::of(&piece.bytes).map_err(invalid)?;
        while let Some(Lying { header, body, .. }) = found.next().map_err(invalid)? {
            if header.epoch < epoch {
                return Err(invalid(format!("record {} is of an earlier epoch than the one before it", header.seq)));
            }
            epoch = header.epoch;
            let ops = parse_ops(body, header.ops).map_err(invalid)?;
            let owned =
                ops.iter().map(|op| Op { table: op.table, key: op.key.to_vec(), value: op.value.map(<[u8]>::to_vec) });
            records.push((header.seq, owned.collect()));
        }
        self.check_room()?;
        let draft = draft(&self.dir, &self.last_segment, piece)?;
        self.last_segment = draft.name(&self.dir).map_err(|e| self.shared.set_poison(e.to_string()))?;
        (self.last_seq, self.epoch) = (piece.last, epoch);
        self.durable = piece.last;
        self.shared.durable.store(piece.last, Ordering::Release);
        let written = self.shared.written.fetch_add(piece.bytes.len() as u64, Ordering::Relaxed);
        let applied = records.into_iter().try_for_each(|(seq, ops)| self.apply_one(seq, ops));
        let noted = applied.and_then(|()| self.shared.index()?.set_position(self.epoch, piece.last));
        noted.map_err(|e| self.shared.set_poison(e.to_string()))?;
        failpoint::hit("follow.after_apply");
        (self.after_group)(written.saturating_add(piece.bytes.len() as u64));
        Ok(Committed { seq: piece.last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::journal::follow::{Taken, empty_segment};
    use crate::journal::list_segments;
    use crate::meta::{Batch, DumpedRecord, JournaledStore, MetaSettings, MetaStore, NoData, Reason, Table, dump};
    use std::sync::Arc;

    fn records(dir: &Path) -> Vec<DumpedRecord> {
        let mut all = Vec::new();
        dump(dir, 1, &mut |record| all.push(record)).unwrap();
        all
    }

    #[tokio::test]
    async fn shipped_records_are_taken_over_as_they_are_and_no_others() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = || Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
        let open = || JournaledStore::open(one.path(), MetaSettings::default(), Arc::new(NoData), Vec::new(), clock());
        let mut store = open().unwrap().0;
        for n in 0..150u32 {
            if n == 75 {
                store.close().unwrap();
                store = open().unwrap().0;
            }
            let put = Batch::new(Reason::PutObject).put(Table::Object, format!("k{}", n % 100), vec![n as u8; 5_000]);
            store.commit(put).await.unwrap();
        }
        std::fs::create_dir(two.path().join("journal")).unwrap();
        let follower = || JournaledStore::open_follower(two.path(), MetaSettings::default(), Vec::new(), clock());
        assert!(matches!(follower(), Err(MetaError::Invalid(_))), "there is no journal");
        std::fs::write(two.path().join("journal").join(segment_name(1)), empty_segment(1, 0, 0)).unwrap();
        let mut standby = follower().unwrap().0;
        let mut source = store.follow(1);
        let (mut pieces, mut last) = (0, None);
        while let Taken::Piece(piece) = source.take(store.durable_seq(), 20_000).unwrap() {
            standby.append_shipped(piece.clone()).await.unwrap();
            (pieces, last) = (pieces + 1, Some(piece));
            if pieces == 10 {
                standby.snapshot_now().unwrap();
                standby.close().unwrap();
                standby = follower().unwrap().0;
            }
        }
        let segments = list_segments(&two.path().join("journal")).unwrap();
        assert!(segments.len() > 1 && segments.len() < pieces / 5, "{} of {pieces}", segments.len());
        assert_eq!(standby.last_seq(), store.last_seq());
        let again = standby.append_shipped(last.unwrap()).await.unwrap_err();
        assert!(again.to_string().contains("do not follow"), "{again}");
        let put = Batch::new(Reason::PutObject).put(Table::Object, "mine", "x");
        assert!(matches!(standby.commit(put).await, Err(MetaError::Fenced { .. })));
        for n in 0..100 {
            let key = format!("k{n}");
            let (ours, theirs) = (standby.get(Table::Object, key.as_bytes()), store.get(Table::Object, key.as_bytes()));
            assert_eq!(ours.unwrap(), theirs.unwrap());
        }
        assert_eq!(records(two.path()), records(one.path()));
        standby.close().unwrap();
        let promoted = JournaledStore::open(two.path(), MetaSettings::default(), Arc::new(NoData), Vec::new(), clock());
        assert_eq!(promoted.unwrap().1.epoch, store.epoch() + 1);
    }
}
