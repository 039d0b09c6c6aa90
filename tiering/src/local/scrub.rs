//! Scrubbing: reading what nobody reads, a bounded piece of a pack a step.

use super::packs::Pack;
use super::packs::lock;
use super::store::{Inner, LocalStore, check};
use super::suspects::is_unreadable;
use super::sweep::SweepReport;
use super::{LocalError, damage, index::Location};
use crate::chunk::ChunkId;
use crate::pack::format::{FRAME_HEADER_LEN, FooterEntry};
use crate::pack::reader::{ReadError, read_at, read_sealed, scan};
use crate::pack::{FormatError, PackClass, PackId};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How far a scrub has come: all packs before this one, and of this one the frames before `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ScrubCursor {
    /// The pack.
    pub pack: PackId,
    /// Bytes from its start; [`ScrubCursor::END`] when all of it is done.
    pub offset: u32,
}

impl ScrubCursor {
    /// The offset behind every frame.
    pub const END: u32 = u32::MAX;
}

/// What one step of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScrubStep {
    /// Where the next step goes on.
    pub next: ScrubCursor,
    /// Chunks verified (those that the index places in this pack).
    pub chunks: u64,
    /// Bytes read for them.
    pub bytes: u64,
    /// Bytes of the pack that are done by this step, frames that nobody needs included.
    pub passed: u64,
    /// Chunks that are damaged and have been set aside: fetch them again, or report the loss.
    pub damaged: Vec<ChunkId>,
    /// Header or footer is damaged. Said by the step that ends the pack.
    pub framing_damaged: bool,
    /// The file is gone. Said by the step that ends the pack.
    pub file_missing: bool,
}

impl LocalStore {
    /// Begins a round: seals the open packs (the latest data is no less worth a look) and names the last pack of the round.
    /// None when there is none. Packs that come later hold what was just written or, from a sweep, what was verified
    /// when it was copied.
    ///
    /// # Errors
    /// [`LocalError::Io`] when sealing fails.
    pub fn begin_scrub(&self) -> Result<Option<PackId>, LocalError> {
        self.inner.seal_open_packs()?;
        Ok(self.inner.packs.all().iter().filter(|p| p.is_sealed()).map(|p| p.id).max())
    }

    /// Verifies frames behind `from` (the beginning for none), in the order of packs and places, until `most` bytes are read, but
    /// at least one and of one pack only. None when nothing is left up to the pack `until`.
    ///
    /// # Errors
    /// [`LocalError::Io`] when reading fails. Damage is not an error but a finding.
    pub fn scrub_some(
        &self,
        from: Option<ScrubCursor>,
        until: PackId,
        most: u64,
    ) -> Result<Option<ScrubStep>, LocalError> {
        let inner = &self.inner;
        let Some(pack) = inner.left_to_scrub(from, until).into_iter().min_by_key(|p| p.id) else { return Ok(None) };
        let start = from.filter(|f| f.pack == pack.id).map_or(0, |f| f.offset);
        inner.scrub(&pack, start, most).map(Some)
    }

    /// Packs and bytes that a round has before it.
    pub fn scrub_left(&self, from: Option<ScrubCursor>, until: PackId) -> (u64, u64) {
        let packs = self.inner.left_to_scrub(from, until);
        let done = |p: &Pack| from.filter(|f| f.pack == p.id).map_or(0, |f| u64::from(f.offset));
        let bytes = packs.iter().map(|p| p.appended.load(Ordering::Acquire).saturating_sub(done(p))).sum();
        (packs.len() as u64, bytes)
    }

    /// Makes the list of damaged frames durable: what was set aside stays aside, also after a loss of power.
    ///
    /// # Errors
    /// [`LocalError::Io`] when the sync fails.
    pub fn sync_damage(&self) -> Result<(), LocalError> {
        let dir = &self.inner.packs.dir;
        damage::sync(dir).map_err(|e| LocalError::io("sync the damage list in", dir, e))
    }

    /// Looks through all sealed packs for second copies of `wanted`, and of every chunk on the list of damaged frames that is in no
    /// index, and stores those that verify anew. Such copies are left over by a crash in the middle of a compaction, or by two
    /// writers of one chunk. Reads the footers of all packs when there is anything to look for. No sweep may run
    /// meanwhile: the packs would go away.
    ///
    /// # Errors
    /// Of reading. A copy that cannot be stored for want of room is as good as none.
    pub fn heal_from_copies(&self, wanted: &[ChunkId]) -> Result<HashSet<ChunkId>, LocalError> {
        let inner = &self.inner;
        let listed = damage::load(&inner.packs.dir)
            .map_err(|e| LocalError::io("read the damage list in", &inner.packs.dir, e))?;
        let mut missing: HashSet<ChunkId> = wanted.iter().filter(|id| !self.contains(id)).copied().collect();
        let packs: Vec<_> = inner.packs.all().into_iter().filter(|p| p.is_sealed()).collect();
        for pack in packs.iter().filter(|p| listed.iter().any(|(id, _)| *id == p.id)) {
            let Some(file) = inner.packs.file(pack)? else { continue };
            let entries = inner.entries_of(pack, &file)?.0;
            let lost = entries.iter().filter(|e| listed.contains(&(pack.id, e.offset)) && !self.contains(&e.id));
            missing.extend(lost.map(|e| e.id));
        }
        let mut healed = HashSet::new();
        for pack in &packs {
            if missing.is_empty() {
                break;
            }
            let Some(file) = inner.packs.file(pack)? else { continue };
            for entry in inner.entries_of(pack, &file)?.0 {
                if missing.contains(&entry.id)
                    && !listed.contains(&(pack.id, entry.offset))
                    && self.store_copy(pack, &file, &entry)?
                {
                    missing.remove(&entry.id);
                    healed.insert(entry.id);
                }
            }
        }
        Ok(healed)
    }

    /// Stores a frame of a pack anew, if it verifies and there is room.
    fn store_copy(&self, pack: &Pack, file: &File, entry: &FooterEntry) -> Result<bool, LocalError> {
        let len = FRAME_HEADER_LEN + entry.stored_len as usize;
        let bytes = match read_at(file, u64::from(entry.offset), len) {
            Ok(bytes) => bytes,
            Err(e) if is_unreadable(&e) || e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(LocalError::io("read", &pack.path(&self.inner.packs.dir), e)),
        };
        let Ok((frame, _)) = check(&entry.id, &bytes) else { return Ok(false) };
        match self.begin().put_frame(entry.id, &frame, PackClass::Main) {
            Ok(_) => Ok(true),
            Err(LocalError::Full { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Copies what lives in a pack whose header or footer is damaged into another one, and deletes it. False when it stays: frames in
    /// it cannot be read just now, or there is no room. No sweep may run meanwhile.
    ///
    /// # Errors
    /// Of reading and writing.
    pub fn rewrite_pack(&self, id: PackId) -> Result<bool, LocalError> {
        let Some(pack) = self.inner.packs.all().into_iter().find(|p| p.id == id && p.is_sealed()) else {
            return Ok(true);
        };
        let before = pack.live_count.load(Ordering::Acquire);
        self.inner.rewrite_whole(&pack, &mut SweepReport::default())?;
        let left = pack.live_count.load(Ordering::Acquire);
        tracing::info!(pack = %id, before, left, "a pack with a damaged header or footer was rewritten");
        Ok(left == 0)
    }
}

/// What a scrub finds of a frame.
enum Found {
    Whole,
    Damaged,
    Unreadable,
}

impl Inner {
    /// The entries of a pack's footer, or, when that is damaged, of its whole frames; and whether it is damaged.
    pub(super) fn entries_of(&self, pack: &Pack, file: &File) -> Result<(Vec<FooterEntry>, bool), LocalError> {
        let path = pack.path(&self.packs.dir);
        match read_sealed(file, pack.id) {
            Ok((_, entries)) => Ok((entries, false)),
            // Nothing of the pack can be told now; what the index names in it stays.
            Err(ReadError::Io(e)) if is_unreadable(&e) => Ok((Vec::new(), true)),
            Err(ReadError::Io(e)) => Err(LocalError::io("read", &path, e)),
            Err(ReadError::Format(_)) => match scan(file, pack.id) {
                Ok(found) => Ok((found.entries, true)),
                Err(ReadError::Io(e)) if is_unreadable(&e) => Ok((Vec::new(), true)),
                Err(ReadError::Io(e)) => Err(LocalError::io("read", &path, e)),
                Err(ReadError::Format(FormatError::Short { .. } | FormatError::Invalid { .. })) => {
                    Ok((Vec::new(), true))
                }
            },
        }
    }

    fn seal_open_packs(&self) -> Result<(), LocalError> {
        for lane in self.lanes.all() {
            let mut lane = lock(lane);
            if lane.as_ref().is_some_and(|open| !open.writer.is_empty()) {
                self.complete(&mut lane)?;
            }
        }
        self.packs.sync()
    }

    fn left_to_scrub(&self, from: Option<ScrubCursor>, until: PackId) -> Vec<Arc<Pack>> {
        let left = |p: &Arc<Pack>| {
            let behind = from.is_none_or(|f| p.id > f.pack || (p.id == f.pack && f.offset < ScrubCursor::END));
            p.is_sealed() && p.id <= until && behind
        };
        self.packs.all().into_iter().filter(left).collect()
    }

    fn scrub(&self, pack: &Arc<Pack>, start: u32, most: u64) -> Result<ScrubStep, LocalError> {
        let file = self.packs.file(pack)?;
        let sealed = file.as_ref().map(|file| read_sealed(file, pack.id));
        // Without a footer, frames that are damaged have no entry anywhere but in the index.
        let (mut places, framing_damaged) = match sealed {
            Some(Ok((_, entries))) => (entries.iter().map(|e| (e.offset, e.id)).collect::<Vec<_>>(), false),
            Some(Err(ReadError::Io(e))) if !is_unreadable(&e) => {
                return Err(LocalError::io("read", &pack.path(&self.packs.dir), e));
            }
            Some(Err(_)) | None => (self.placed_in(pack.slot), true),
        };
        places.retain(|(offset, _)| *offset >= start);
        places.sort_unstable_by_key(|(offset, _)| *offset);
        let end = ScrubCursor { pack: pack.id, offset: ScrubCursor::END };
        let (damaged, no) = (Vec::new(), false);
        let mut step =
            ScrubStep { next: end, chunks: 0, bytes: 0, passed: 0, damaged, framing_damaged: no, file_missing: no };
        for (offset, id) in places {
            if step.bytes >= most {
                step.next.offset = offset;
                break;
            }
            let Some(place) = self.index.get(&id) else { continue };
            if place.slot != pack.slot || place.offset != offset {
                continue;
            }
            step.chunks += 1;
            step.bytes += place.frame_len();
            let found = match &file {
                Some(file) => self.examine(pack, file, &id, &place)?,
                // It may have been moved away, and come back.
                None => Found::Unreadable,
            };
            match found {
                Found::Whole => {
                    self.suspects.remove(&id);
                    continue;
                }
                Found::Damaged => self.set_aside(&id, &place, pack),
                Found::Unreadable => self.suspects.add(&id),
            }
            step.damaged.push(id);
        }
        let ends = step.next == end;
        // A pack that a sweep has deleted meanwhile is none that is damaged.
        let ends_here = ends && self.packs.get(pack.slot).is_some();
        step.framing_damaged = ends_here && framing_damaged && file.is_some();
        step.file_missing = ends_here && file.is_none();
        let upto = if ends { pack.appended.load(Ordering::Acquire) } else { u64::from(step.next.offset) };
        step.passed = upto.saturating_sub(u64::from(start));
        Ok(step)
    }

    /// Everything that the index places in a pack. Walks the whole index.
    fn placed_in(&self, slot: u32) -> Vec<(u32, ChunkId)> {
        let mut found = Vec::new();
        for n in 0..=255u8 {
            let shard = self.index.lock_shard(n);
            let here = (0..shard.len()).map(|at| (shard.location(at), at)).filter(|(place, _)| place.slot == slot);
            found.extend(here.map(|(place, at)| (place.offset, shard.id(at))));
        }
        found
    }

    fn examine(&self, pack: &Pack, file: &File, id: &ChunkId, place: &Location) -> Result<Found, LocalError> {
        match read_at(file, u64::from(place.offset), FRAME_HEADER_LEN + place.stored_len as usize) {
            Ok(bytes) if check(id, &bytes).is_ok() => Ok(Found::Whole),
            Ok(_) => Ok(Found::Damaged),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Found::Damaged),
            Err(e) if is_unreadable(&e) => Ok(Found::Unreadable),
            Err(e) => Err(LocalError::io("read", &pack.path(&self.packs.dir), e)),
        }
    }
}
