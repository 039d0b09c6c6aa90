//! Opening: decide what the index is worth, bring it up to the journal's end, and say what happened.

use super::lock::DataLock;
use super::marker::{IndexState, Layout, Marker, boot_id};
use super::rebuild::{RebuildProgress, Source, rebuild_index};
use super::{MetaError, MetaSettings, SledIndex};
use crate::clock::Clock;
use crate::disk;
use crate::journal::{SegmentHeader, SegmentWriter, Tail, list_segments, parse_ops, reach, read_from};
use crate::mutants::{self, Mutant};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOST: &str = "Bring the missing journal segments back; or run `tidegate index rebuild` to go on with what is \
                    there, knowing that acknowledged changes are lost";

/// What opening did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// How the index was brought up to date.
    pub recovery: Recovery,
    /// A write that a crash had cut short, never acknowledged, was cut off here.
    pub torn_tail: Option<TornTail>,
    /// The epoch that this opening began.
    pub epoch: u64,
    /// The latest record, the one that begins the epoch included.
    pub last_seq: u64,
    /// How long it took.
    pub took: Duration,
}

/// How the index was brought up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// A new, empty store was made.
    Created,
    /// The store had been closed cleanly; nothing was to be done.
    Clean,
    /// The process had died; the journal since the last checkpoint was applied again.
    Replayed {
        /// Records applied.
        records: u64,
    },
    /// The index was thrown away and made anew.
    Rebuilt {
        /// Why.
        reason: String,
        /// The snapshot that it began with, by its sequence number; `None` for the beginning of the journal.
        snapshot: Option<u64>,
        /// Journal records applied after it.
        records: u64,
    },
}

/// Where the journal was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Its length after the cut, in bytes.
    pub offset: u64,
}

/// A store ready to serve.
pub(crate) struct Recovered {
    pub(crate) lock: DataLock,
    pub(crate) layout: Layout,
    pub(crate) index: SledIndex,
    pub(crate) generation: u128,
    pub(crate) segment: SegmentWriter,
    /// The epoch to begin.
    pub(crate) epoch: u64,
    pub(crate) last_seq: u64,
    pub(crate) recovery: Recovery,
    pub(crate) torn_tail: Option<TornTail>,
    pub(crate) began: Instant,
}

/// What a caller wants beyond opening.
pub(crate) struct Wish<'a> {
    /// Rebuild for this reason even when the index is good, and accept a journal that ends early.
    pub(crate) rebuild: Option<&'a str>,
    pub(crate) progress: &'a mut dyn FnMut(RebuildProgress),
}

/// Brings the store in `root` to a state from which it can serve. On return the marker says `Open`.
pub(crate) fn recover(
    root: &Path,
    settings: &MetaSettings,
    clock: &dyn Clock,
    wish: Wish<'_>,
) -> Result<Recovered, MetaError> {
    let began = Instant::now();
    settings.check()?;
    disk::create_dirs(root).map_err(|e| MetaError::io("create", root, &e))?;
    let lock = DataLock::take(root, clock)?;
    let layout = Layout::new(root);
    layout.prepare()?;
    let marker = Marker::load(root)?;
    let segments = list_segments(&layout.journal)?;
    let Some(newest) = segments.last() else {
        return create(lock, layout, settings, clock, marker.as_ref());
    };
    match wish.rebuild {
        None => reach::check(&layout.journal, &segments, LOST)?,
        Some(_) => reach::note(&layout.journal, newest.first_seq)?,
    }
    let trusted = match wish.rebuild {
        Some(reason) => Err(reason.to_owned()),
        None => trust(&layout, settings, marker.as_ref())?,
    };
    let (index, generation, tail, recovery) = match trusted {
        Ok((index, base)) => {
            let generation = marker.as_ref().and_then(Marker::generation).unwrap_or_default();
            let clean = marker.as_ref().is_some_and(|m| m.state == IndexState::Clean);
            Marker::new(IndexState::Open, generation, base).save(root)?;
            let floor = index.position()?.max(base);
            let tail = replay(&layout.journal, &index, base)?;
            check_end(&tail, floor)?;
            let recovery =
                if clean && tail.visited == 0 { Recovery::Clean } else { Recovery::Replayed { records: tail.visited } };
            (index, generation, tail, recovery)
        }
        Err(reason) => {
            let forced = wish.rebuild.is_some();
            let floor = marker.as_ref().filter(|_| !forced).map_or(0, |m| m.seq);
            let generation = rand::random::<u128>();
            Marker::new(IndexState::Rebuilding, generation, floor).save(root)?;
            let source = Source { layout: &layout, cache_bytes: settings.index_cache_bytes, generation, forced };
            let (index, tail, snapshot) = rebuild_index(&source, wish.progress)?;
            check_end(&tail, floor)?;
            let recovery = Recovery::Rebuilt { reason, snapshot, records: tail.visited };
            (index, generation, tail, recovery)
        }
    };
    let clean = recovery == Recovery::Clean;
    let doubtful = if clean { tail.used } else { tail.doubtful };
    // Before the marker names its last record: a journal that ends before what the marker knows is refused.
    let segment = SegmentWriter::resume(&tail.path, doubtful, tail.used, settings.fill_ahead_bytes)?;
    index.set_position(tail.epoch, tail.last_seq)?;
    if !clean {
        index.flush()?;
        Marker::new(IndexState::Open, generation, tail.last_seq).save(root)?;
    }
    let torn_tail = tail.torn.then(|| TornTail { file: tail.path.clone(), offset: tail.used });
    let (epoch, last_seq) = (tail.epoch.saturating_add(1), tail.last_seq);
    Ok(Recovered { lock, layout, index, generation, segment, epoch, last_seq, recovery, torn_tail, began })
}

/// A store without a journal: new, or robbed of it.
fn create(
    lock: DataLock,
    layout: Layout,
    settings: &MetaSettings,
    clock: &dyn Clock,
    marker: Option<&Marker>,
) -> Result<Recovered, MetaError> {
    let began = Instant::now();
    let snapshots = super::snapshot::list(&layout.snapshots)?;
    // It says anything else than that the index is being made only after the first segment was there.
    let had_journal = marker.is_some_and(|m| m.seq > 0 || m.state != IndexState::Rebuilding);
    if had_journal || !snapshots.is_empty() {
        let what = "the journal is gone, but the store was in use".to_owned();
        return Err(MetaError::corrupt(&layout.journal, 0, what, "Bring the journal folder back from a backup"));
    }
    disk::sync_above(&layout.root).map_err(|e| MetaError::io("sync the folders above", &layout.root, &e))?;
    let generation = rand::random::<u128>();
    Marker::new(IndexState::Rebuilding, generation, 0).save(&layout.root)?;
    let index = SledIndex::create(&layout.sled, settings.index_cache_bytes, generation)?;
    let header = SegmentHeader { first_seq: 1, epoch: 1, created_ms: clock.now().millis() };
    let segment = SegmentWriter::create(&layout.journal, header, settings.fill_ahead_bytes)?;
    index.flush()?;
    Marker::new(IndexState::Open, generation, 0).save(&layout.root)?;
    let recovery = Recovery::Created;
    Ok(Recovered { lock, layout, index, generation, segment, epoch: 1, last_seq: 0, recovery, torn_tail: None, began })
}

/// Whether the index can be used, and from which record on the journal must be applied; else the reason why not.
fn trust(
    layout: &Layout,
    settings: &MetaSettings,
    marker: Option<&Marker>,
) -> Result<Result<(SledIndex, u64), String>, MetaError> {
    let Some(marker) = marker else { return Ok(Err("index.json is missing or unreadable".to_owned())) };
    let same_boot = !marker.boot_id.is_empty() && marker.boot_id == boot_id();
    match marker.state {
        IndexState::Clean => {}
        IndexState::Open if same_boot || mutants::active(Mutant::TrustIndexAfterPowerCut) => {}
        // sled writes without fsync while it runs, in place and in any order: after a power loss nothing of it counts.
        IndexState::Open => return Ok(Err("the machine restarted while the store was open".to_owned())),
        IndexState::Rebuilding => return Ok(Err("a rebuild did not finish".to_owned())),
    }
    let Some(generation) = marker.generation() else { return Ok(Err("index.json is unreadable".to_owned())) };
    let index = match SledIndex::open(&layout.sled, settings.index_cache_bytes, generation) {
        Ok(index) => index,
        Err(reason) => return Ok(Err(reason)),
    };
    match index.position() {
        Ok(position) if position < marker.seq => {
            return Ok(Err(format!("the index lost records {} to {}", position.saturating_add(1), marker.seq)));
        }
        Ok(_) => {}
        Err(e) => return Ok(Err(e.to_string())),
    }
    let first = list_segments(&layout.journal)?.first().map_or(1, |s| s.first_seq);
    if first > marker.seq.saturating_add(1) {
        return Ok(Err(format!("the journal begins at record {first}, after the index's last checkpoint")));
    }
    Ok(Ok((index, marker.seq)))
}

/// Applies every record after `base` to the index.
pub(crate) fn replay(journal: &Path, index: &SledIndex, base: u64) -> Result<Tail, MetaError> {
    let tail = read_from(journal, base.saturating_add(1), &mut |header, body| {
        let ops = parse_ops(body, header.ops)
            .map_err(|what| MetaError::Invalid(format!("journal record {}: {what}", header.seq)))?;
        ops.iter().try_for_each(|op| index.apply(op.table, op.key, op.value).map(drop))
    })?;
    tail.ok_or_else(|| MetaError::corrupt(journal, 0, "there is no segment", LOST))
}

/// Refuses a journal that ends before what is known to have been committed.
fn check_end(tail: &Tail, floor: u64) -> Result<(), MetaError> {
    if tail.last_seq >= floor {
        return Ok(());
    }
    let what = format!("the journal ends at record {}, but record {floor} had been committed", tail.last_seq);
    Err(MetaError::corrupt(&tail.path, tail.used, what, LOST))
}
