//! Giving disk space back: dead packs are deleted, packs with much to reclaim are rewritten, cached chunks evicted, those that
//! are spared (hot bodies that a tier has as well) last.
//!
//! A pack is rewritten in one order only: copy what is needed to the open pack of the main queue, make that durable
//! (bytes and name), move the index entries one by one, delete the old file. A crash anywhere leaves duplicates, never
//! a loss.

use super::index::Location;
use super::lanes::{Appended, PACK_OVERHEAD};
use super::packs::{Pack, lock};
use super::store::{Inner, check};
use super::suspects::is_unreadable;
use super::{LocalError, Purpose};
use crate::chunk::ChunkId;
use crate::failpoint;
use crate::mutants::{self, Mutant};
use crate::pack::PackClass;
use crate::pack::format::{ENTRY_LEN, FRAME_HEADER_LEN, FooterEntry};
use crate::pack::reader::read_at;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a sweep shall reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SweepGoal {
    /// Stop when so many bytes net were given back. With 0 all dead bytes that are worth it go, and nothing is evicted.
    pub bytes_to_free: u64,
    /// Keep cached chunks.
    pub dead_only: bool,
    /// Rewrite a pack when at least this share of its frames' bytes is dead; 0.0 to 1.0.
    pub min_dead_fraction: f64,
}

impl Default for SweepGoal {
    /// What is dead and at least a quarter of its pack; no eviction.
    fn default() -> Self {
        Self { bytes_to_free: 0, dead_only: false, min_dead_fraction: WORTHWHILE }
    }
}

/// What a sweep did, or (from [`super::Mark::preview`]) would find. Bytes are frames with their headers, except where
/// said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Packs there were.
    pub packs: u64,
    /// Chunks that the mark did not reach.
    pub dead_chunks: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Chunks that the mark did not reach, kept because something that could not be read may name them.
    pub doubted_chunks: u64,
    /// Their bytes.
    pub doubted_bytes: u64,
    /// Cached chunks that were dropped.
    pub evicted_chunks: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Chunks that were copied out of rewritten packs.
    pub moved_chunks: u64,
    /// Bytes that this wrote, footer entries included.
    pub moved_bytes: u64,
    /// Packs deleted because nothing in them was needed.
    pub packs_deleted: u64,
    /// Packs rewritten without what was not needed, and then deleted.
    pub packs_compacted: u64,
    /// Bytes on disk that deleted packs took.
    pub unlinked_bytes: u64,
    /// Bytes on disk that were given back: `unlinked_bytes` less `moved_bytes`.
    pub freed_bytes: u64,
    /// Dead bytes that stay on disk, in packs that are not worth rewriting, still open, or damaged.
    pub kept_bytes: u64,
    /// Packs that could not be rewritten because frames in them are damaged; they stay.
    pub damaged: Vec<String>,
    /// Why the sweep ended before its goal, when it did.
    pub stopped: Option<String>,
}

impl SweepReport {
    pub(super) fn count_unreached(&mut self, bytes: u64, kept: bool) {
        let (chunks, sum) = match kept {
            true => (&mut self.doubted_chunks, &mut self.doubted_bytes),
            false => (&mut self.dead_chunks, &mut self.dead_bytes),
        };
        *chunks += 1;
        *sum += bytes;
    }

    fn net_freed(&self) -> u64 {
        self.unlinked_bytes.saturating_sub(self.moved_bytes)
    }
}

/// Which cached chunks of a victim go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evict {
    /// None.
    No,
    /// Those that were not read since they came; the others get another turn in the main queue.
    Unread,
    /// All: the second round, when the first did not give enough.
    All,
    /// All, and those spared chunks that were not read since they came.
    SparedUnread,
    /// All, the spared ones included.
    Spared,
}

impl Evict {
    /// The rounds of eviction, each only when those before it did not give enough.
    const ROUNDS: [Evict; 4] = [Evict::Unread, Evict::All, Evict::SparedUnread, Evict::Spared];

    /// Whether a chunk may go in this round, read or not.
    fn concerns(self, place: &Location) -> bool {
        match self {
            Evict::No => false,
            Evict::Unread | Evict::All => place.cached && !place.spared,
            Evict::SparedUnread | Evict::Spared => place.cached,
        }
    }

    /// Whether chunks that were read go as well.
    fn takes_read(self) -> bool {
        matches!(self, Evict::All | Evict::Spared)
    }
}

/// Share of the cached bytes that the small queue may hold before victims are taken from it (S3-FIFO's 10%).
const SMALL_QUEUE_SHARE: u64 = 10;
/// In the first round of eviction a victim gives back at least a quarter of its bytes, so that writing stays below three
/// times what is freed.
const WORTHWHILE: f64 = 0.25;
/// When nothing else gives room: twenty bytes written for one that is freed are better than a client that is refused.
const LAST_RESORT: f64 = 0.05;

/// Bytes of cached chunks in a pack.
#[derive(Debug, Clone, Copy, Default)]
struct CachedIn {
    all: u64,
    /// Of those, not read since they came.
    unread: u64,
}

/// What became of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// There is no room for the copies that it needs; others may need none.
    Full,
    /// The sweep shall end.
    Stop,
}

struct Move {
    id: ChunkId,
    from: Location,
    to: Location,
    /// Keeps the target from being swept or snapshotted before the index names it.
    target: Appended,
}

/// Bytes of all frames of a pack, headers included.
fn frame_bytes(pack: &Pack) -> u64 {
    pack.stored_total.load(Ordering::Relaxed) + pack.frames.load(Ordering::Relaxed) * FRAME_HEADER_LEN as u64
}

/// Share of a pack's bytes that is not in `kept`.
fn share_gone(pack: &Pack, kept: u64) -> f64 {
    let all = frame_bytes(pack).max(1);
    1.0 - kept as f64 / all as f64
}

impl Inner {
    /// The part of a sweep that follows the removal of dead entries from the index.
    pub(super) fn reclaim(
        &self,
        goal: &SweepGoal,
        should_stop: &dyn Fn() -> bool,
        report: &mut SweepReport,
    ) -> Result<(), LocalError> {
        report.packs = self.packs.all().len() as u64;
        let outcome = self.reclaim_dead(goal, should_stop, report);
        report.freed_bytes = report.net_freed();
        if goal.bytes_to_free > 0 && report.freed_bytes >= goal.bytes_to_free {
            // One pack had no room for its copies, and others were enough.
            report.stopped = None;
        }
        let dead = |p: &Arc<Pack>| frame_bytes(p).saturating_sub(p.live_bytes.load(Ordering::Relaxed));
        report.kept_bytes = self.packs.all().iter().map(dead).sum();
        outcome
    }

    fn reclaim_dead(
        &self,
        goal: &SweepGoal,
        should_stop: &dyn Fn() -> bool,
        report: &mut SweepReport,
    ) -> Result<(), LocalError> {
        let enough = |r: &SweepReport| goal.bytes_to_free > 0 && r.net_freed() >= goal.bytes_to_free;
        let goes_on = self.compact(goal, goal.min_dead_fraction, should_stop, report)?;
        if !goes_on || goal.dead_only || goal.bytes_to_free == 0 || enough(report) {
            return Ok(());
        }
        if !self.evict(goal, should_stop, report)? || enough(report) {
            return Ok(());
        }
        // What is left are packs with a little garbage each, which may be a fifth of the disk.
        if goal.min_dead_fraction > LAST_RESORT && !self.compact(goal, LAST_RESORT, should_stop, report)? {
            return Ok(());
        }
        if !enough(report) && report.stopped.is_none() {
            report.stopped = Some("nothing more can be evicted".into());
        }
        Ok(())
    }

    /// Rewrites packs of which at least `share` is dead. False when the sweep shall end.
    fn compact(
        &self,
        goal: &SweepGoal,
        share: f64,
        should_stop: &dyn Fn() -> bool,
        report: &mut SweepReport,
    ) -> Result<bool, LocalError> {
        let share = share.max(0.01);
        let dead_share = |p: &Pack| share_gone(p, p.live_bytes.load(Ordering::Relaxed));
        // Open packs that are mostly dead are completed, or a small store would never give anything back.
        self.complete_lanes(&|p| dead_share(p) >= share)?;
        let mut packs: Vec<(f64, Arc<Pack>)> = self
            .sweepable()
            .into_iter()
            .map(|p| (dead_share(&p), p))
            .filter(|(dead, p)| p.live_count.load(Ordering::Acquire) == 0 || *dead >= share)
            .collect();
        // Most dead first: most given back for each byte written.
        packs.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, pack) in packs {
            if goal.bytes_to_free > 0 && report.net_freed() >= goal.bytes_to_free {
                break;
            }
            let kept = pack.live_bytes.load(Ordering::Relaxed);
            if self.step(&pack, (Evict::No, kept), should_stop, report)? == Step::Stop {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sealed packs into which nobody is about to place an index entry.
    fn sweepable(&self) -> Vec<Arc<Pack>> {
        let ready = |p: &Arc<Pack>| p.is_sealed() && p.pending.load(Ordering::Acquire) == 0;
        self.packs.all().into_iter().filter(ready).collect()
    }

    /// Completes the open packs that are `worth` it, so that they can be swept.
    fn complete_lanes(&self, worth: &dyn Fn(&Pack) -> bool) -> Result<(), LocalError> {
        for lane in self.lanes.all() {
            let mut lane = lock(lane);
            let wanted = lane.as_ref().is_some_and(|open| {
                let idle = open.pack.pending.load(Ordering::Acquire) == 0;
                idle && !open.writer.is_empty() && worth(&open.pack)
            });
            if wanted {
                self.complete(&mut lane)?;
            }
        }
        self.packs.sync()
    }

    /// S3-FIFO laid out on packs: the hot and cache packs are the small queue, the main packs the main queue, both in
    /// order of creation. False when the sweep shall end.
    fn evict(
        &self,
        goal: &SweepGoal,
        should_stop: &dyn Fn() -> bool,
        report: &mut SweepReport,
    ) -> Result<bool, LocalError> {
        for round in Evict::ROUNDS {
            let mut cached = self.cached_bytes(round);
            let worth = |p: &Pack| {
                let gone = cached.get(&p.slot).map_or(0, |c| c.all);
                let kept = p.live_bytes.load(Ordering::Relaxed).saturating_sub(gone);
                gone > 0 && (round.takes_read() || share_gone(p, kept) >= WORTHWHILE)
            };
            // A small store, or one that was just filled, has most of its chunks in packs that are still open.
            self.complete_lanes(&worth)?;
            let mut packs = self.sweepable();
            packs.sort_by_key(|p| p.id);
            packs.retain(|p| worth(p));
            let (main, small): (Vec<_>, Vec<_>) = packs.into_iter().partition(|p| p.class == PackClass::Main);
            let sum = |list: &[Arc<Pack>], cached: &HashMap<u32, CachedIn>| -> u64 {
                list.iter().filter_map(|p| cached.get(&p.slot)).map(|c| c.all).sum()
            };
            let (mut small_left, mut main_left) = (sum(&small, &cached), sum(&main, &cached));
            let (mut small, mut main) = (small.into_iter().peekable(), main.into_iter().peekable());
            while report.net_freed() < goal.bytes_to_free {
                let from_small = small_left * SMALL_QUEUE_SHARE > small_left + main_left;
                let next = if from_small || main.peek().is_none() { small.next() } else { main.next() };
                let Some(pack) = next.or_else(|| main.next()) else { break };
                let here = cached.remove(&pack.slot).unwrap_or_default();
                let queue = if pack.class == PackClass::Main { &mut main_left } else { &mut small_left };
                *queue = queue.saturating_sub(here.all);
                let goes = if round.takes_read() { here.all } else { here.unread };
                let kept = pack.live_bytes.load(Ordering::Relaxed).saturating_sub(goes);
                if self.step(&pack, (round, kept), should_stop, report)? == Step::Stop {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Bytes of cached chunks that a round concerns, by pack.
    fn cached_bytes(&self, round: Evict) -> HashMap<u32, CachedIn> {
        let mut sums: HashMap<u32, CachedIn> = HashMap::new();
        for n in 0..=255u8 {
            let shard = self.index.lock_shard(n);
            for place in (0..shard.len()).map(|at| shard.location(at)).filter(|p| round.concerns(p)) {
                let sum = sums.entry(place.slot).or_default();
                sum.all += place.frame_len();
                sum.unread += if place.freq == 0 { place.frame_len() } else { 0 };
            }
        }
        sums
    }

    /// One pack, of which about `kept` bytes are to be copied. Without room for them it is left alone: half a copy would
    /// take the last room and give none back.
    fn step(
        &self,
        pack: &Arc<Pack>,
        (evict, kept): (Evict, u64),
        should_stop: &dyn Fn() -> bool,
        report: &mut SweepReport,
    ) -> Result<Step, LocalError> {
        if should_stop() {
            report.stopped = Some("asked to stop".into());
            return Ok(Step::Stop);
        }
        let rewritten = pack.live_count.load(Ordering::Acquire) > 0;
        if rewritten {
            let room = if kept > 0 { self.room_for_copies(pack, kept) } else { Ok(()) };
            match room.and_then(|()| self.rewrite(pack, evict, report)) {
                Ok(()) => {}
                Err(LocalError::Full { reason }) => {
                    report.stopped = Some(format!("no room to compact: {reason}"));
                    return Ok(Step::Full);
                }
                Err(e) => return Err(e),
            }
        }
        if pack.live_count.load(Ordering::Acquire) == 0 {
            failpoint::hit("compaction.before_unlink");
            report.unlinked_bytes += self.packs.retire(pack, &self.budget)?;
            let count = if rewritten { &mut report.packs_compacted } else { &mut report.packs_deleted };
            *count += 1;
        }
        Ok(Step::Done)
    }

    /// Rewrites a pack without evicting anything and deletes it when nothing is left in it.
    pub(super) fn rewrite_whole(&self, pack: &Arc<Pack>, report: &mut SweepReport) -> Result<(), LocalError> {
        if pack.pending.load(Ordering::Acquire) > 0 {
            return Ok(());
        }
        let kept = pack.live_bytes.load(Ordering::Relaxed);
        self.step(pack, (Evict::No, kept), &|| false, report).map(drop)
    }

    /// Whether the copies fit, with their footer entries and the overhead of two packs that they may begin.
    fn room_for_copies(&self, pack: &Pack, kept: u64) -> Result<(), LocalError> {
        let entries = pack.live_count.load(Ordering::Acquire) * ENTRY_LEN as u64;
        self.budget.check(kept + entries + 2 * PACK_OVERHEAD, Purpose::Compaction)
    }

    /// Copies what is needed out of a pack and makes the index name the copies.
    fn rewrite(&self, pack: &Arc<Pack>, evict: Evict, report: &mut SweepReport) -> Result<(), LocalError> {
        let Some(file) = self.packs.file(pack)? else { return Ok(()) };
        let mut moves = Vec::new();
        let mut outcome = Ok(());
        for entry in self.entries_of(pack, &file)?.0 {
            let Some(place) = self.claim(pack, &entry, evict, report) else { continue };
            match self.copy(pack, &file, &entry, place) {
                Ok(Some(moved)) => moves.push(moved),
                Ok(None) => {
                    report.damaged.push(format!("pack {}: chunk {} at byte {}", pack.id, entry.id, entry.offset));
                }
                Err(e) => {
                    // What was copied so far is moved all the same: its bytes are spent.
                    outcome = Err(e);
                    break;
                }
            }
        }
        failpoint::hit("compaction.copied");
        let mut targets: Vec<&Arc<Pack>> = moves.iter().map(|m| &m.target.pack).collect();
        targets.dedup_by_key(|p| p.slot);
        for target in targets.into_iter().filter(|_| !mutants::active(Mutant::UnlinkBeforeCopiesSynced)) {
            self.packs.sync_one(target)?;
        }
        failpoint::hit("compaction.synced");
        for m in moves {
            self.finish_move(pack, &m, evict, report)?;
        }
        outcome
    }

    /// Where a frame's chunk stands when the index names this frame and it must be copied. Evicts it when it may go.
    fn claim(&self, pack: &Pack, entry: &FooterEntry, evict: Evict, report: &mut SweepReport) -> Option<Location> {
        let mut shard = self.index.lock(&entry.id);
        let place = shard.location(shard.find(&entry.id)?);
        if place.slot != pack.slot || place.offset != entry.offset {
            return None;
        }
        // `cached` is taken away by every touch, so a pinned chunk is never dropped.
        let goes = evict.concerns(&place) && (evict.takes_read() || place.freq == 0);
        if !goes {
            return Some(place);
        }
        shard.remove(&entry.id);
        pack.remove_live(place.frame_len());
        drop(shard);
        lock(&self.ghosts).add(&entry.id);
        report.evicted_chunks += 1;
        report.evicted_bytes += place.frame_len();
        None
    }

    /// Appends a verified copy to the main queue. None when the frame is damaged or unreadable: it stays where it is, and so does its
    /// pack, until a read or a scrub has set the chunk aside.
    fn copy(
        &self,
        pack: &Arc<Pack>,
        file: &File,
        entry: &FooterEntry,
        from: Location,
    ) -> Result<Option<Move>, LocalError> {
        let bytes = match read_at(file, u64::from(entry.offset), FRAME_HEADER_LEN + from.stored_len as usize) {
            Ok(bytes) => bytes,
            Err(e) if is_unreadable(&e) || e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(LocalError::io("read", &pack.path(&self.packs.dir), e)),
        };
        // What was verified is what is written: kind and codec come from the frame, not from the footer.
        let whole = check(&entry.id, &bytes).ok();
        let Some((frame, header)) = whole.and_then(|(frame, _)| frame.header(entry.id).ok().map(|h| (frame, h))) else {
            return Ok(None);
        };
        let target = self.append(PackClass::Main, &header, &frame.stored, Purpose::Compaction)?;
        let to = Location { slot: target.pack.slot, offset: target.offset, ..from };
        Ok(Some(Move { id: entry.id, from, to, target }))
    }

    fn finish_move(&self, pack: &Pack, m: &Move, evict: Evict, report: &mut SweepReport) -> Result<(), LocalError> {
        let mut shard = self.index.lock(&m.id);
        report.moved_chunks += 1;
        report.moved_bytes += m.to.frame_len() + ENTRY_LEN as u64;
        let Some(at) = shard.find(&m.id) else { return Ok(()) };
        let now = shard.location(at);
        if now.slot != m.from.slot || now.offset != m.from.offset {
            return Ok(());
        }
        // Colour, freshness and reads are those of now: a writer or reader may have come by during the copy.
        let freq = if evict.concerns(&now) { now.freq.saturating_sub(1) } else { now.freq };
        shard.store(at, Location { freq, slot: m.to.slot, offset: m.to.offset, ..now });
        m.target.pack.add_live(m.to.frame_len());
        pack.remove_live(m.from.frame_len());
        Ok(())
    }
}
