//! Opening, reading and syncing the local chunk store.

use super::ghost::Ghosts;
use super::index::{ChunkIndex, Location};
use super::ingest::{Ingest, Pins};
use super::lanes::Lanes;
use super::packs::{Pack, PackSet, lock};
use super::suspects::{Suspects, is_unreadable};
use super::{DiskBudget, LastEnd, LocalError, RecoveryReport};
use crate::chunk::ChunkId;
use crate::clock::Clock;
use crate::disk;
use crate::pack::format::{FRAME_HEADER_LEN, decode_frame};
use crate::pack::reader::{self, read_at};
use crate::pack::{Frame, PackId};
use bytes::Bytes;
use rustix::fs::Advice;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Settings of the local chunk store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSettings {
    /// An open pack is sealed when it would grow beyond this many bytes; 64 KiB to 2 GiB.
    pub pack_bytes: u64,
    /// Packs that clients' chunks are appended to at a time; 1 to 64.
    pub open_packs: usize,
    /// Sealed packs whose files are kept open; at least 8.
    pub max_open_files: usize,
    /// Writeback is started each time this many bytes were appended to a pack; 0 leaves it all to the sync.
    pub writeback_bytes: u64,
    /// zstd level of new chunks, 1 to 19. No setting of its own: the engine puts that of
    /// [`ChunkSettings`](crate::chunk::ChunkSettings) here, and a configuration that names it is refused.
    #[serde(skip, default = "default_level")]
    pub zstd_level: i32,
    /// How many evicted chunks are remembered (16 bytes each), to admit them to the main queue when they come back.
    pub ghost_entries: usize,
}

fn default_level() -> i32 {
    LocalSettings::default().zstd_level
}

impl Default for LocalSettings {
    /// 64 MiB packs, two open; 512 files; writeback every 8 MiB; zstd level 1; 65,536 ghosts (1 MiB).
    fn default() -> Self {
        Self {
            pack_bytes: 64 << 20,
            open_packs: 2,
            max_open_files: 512,
            writeback_bytes: 8 << 20,
            zstd_level: 1,
            ghost_entries: 65_536,
        }
    }
}

impl LocalSettings {
    /// Checks the ranges that the fields' documentation gives.
    ///
    /// # Errors
    /// [`LocalError::Invalid`] that names the field and what it may be.
    pub fn validate(&self) -> Result<(), LocalError> {
        let bad = |text: String| Err(LocalError::Invalid(text));
        if !(64 << 10..=2 << 30).contains(&self.pack_bytes) {
            return bad(format!("hot.pack_bytes is {}: 64 KiB to 2 GiB is needed", self.pack_bytes));
        }
        if !(1..=64).contains(&self.open_packs) {
            return bad(format!("hot.open_packs is {}: 1 to 64 is needed", self.open_packs));
        }
        if !(1..=19).contains(&self.zstd_level) {
            return bad(format!("chunk.zstd_level is {}: 1 to 19 is needed", self.zstd_level));
        }
        Ok(())
    }
}

/// Sums since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub offered_chunks: AtomicU64,
    pub offered_bytes: AtomicU64,
    pub duplicate_chunks: AtomicU64,
    pub duplicate_bytes: AtomicU64,
    pub stored_raw_bytes: AtomicU64,
    pub stored_bytes: AtomicU64,
    pub read_chunks: AtomicU64,
    pub read_bytes: AtomicU64,
    pub corrupt_chunks: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub settings: LocalSettings,
    pub budget: Arc<DiskBudget>,
    pub clock: Arc<dyn Clock>,
    pub packs: PackSet,
    pub lanes: Lanes,
    pub index: ChunkIndex,
    /// The colour of chunks that count as live. Flips when a mark begins.
    pub colour: AtomicBool,
    /// A mark cycle runs.
    pub marking: AtomicBool,
    /// The entries carry the mark of a doubt (see [`super::gc::Doubt`]).
    pub doubting: AtomicBool,
    pub ghosts: Mutex<Ghosts>,
    pub next_ingest: AtomicU64,
    pub ingests: Mutex<HashMap<u64, Arc<Mutex<Pins>>>>,
    pub suspects: Suspects,
    pub counters: Counters,
}

/// How the local disk is used, in bytes and counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LocalUsage {
    /// Pack files.
    pub packs: u64,
    /// Of those, not yet sealed.
    pub open_packs: u64,
    /// Length of all pack files.
    pub file_bytes: u64,
    /// What the budget holds: files, footers to come, rounding.
    pub charged_bytes: u64,
    /// Chunks in the index.
    pub chunks: u64,
    /// Frames that the index points to.
    pub live_bytes: u64,
    /// Frames that nothing points to: what compaction can give back.
    pub dead_bytes: u64,
    /// Raw length of the chunks in the index, estimated from each pack's ratio.
    pub raw_bytes: u64,
    /// Memory of the chunk index.
    pub index_bytes: u64,
    /// Since opening: chunks offered by writers.
    pub offered_chunks: u64,
    /// Since opening: their bytes.
    pub offered_bytes: u64,
    /// Since opening: chunks that were there already.
    pub duplicate_chunks: u64,
    /// Since opening: their bytes.
    pub duplicate_bytes: u64,
    /// Since opening: raw bytes of the chunks that were stored.
    pub stored_raw_bytes: u64,
    /// Since opening: what they took after compression.
    pub stored_bytes: u64,
    /// Since opening: chunks read.
    pub read_chunks: u64,
    /// Since opening: raw bytes read.
    pub read_bytes: u64,
    /// Since opening: chunks set aside because they were damaged.
    pub corrupt_chunks: u64,
}

/// The local chunk store. Cheap to clone; all methods block, none takes long except [`sync`](Self::sync) and sweeps.
#[derive(Debug, Clone)]
pub struct LocalStore {
    pub(crate) inner: Arc<Inner>,
}

/// Frames closer together than this (bytes) are asked from the disk as one span.
const READ_GAP: u64 = 128 << 10;

/// A chunk found in the index may move to another pack while it is read; after so many moves something else is wrong.
const MAX_READ_ATTEMPTS: usize = 16;

impl LocalStore {
    /// Opens the store in `dir` (created when missing), recovers packs that were open, and loads the index. The caller
    /// holds the lock of the data directory.
    ///
    /// # Errors
    /// [`LocalError::Invalid`] for settings, [`LocalError::Io`] when the folder cannot be read or written.
    pub fn open(
        dir: &Path,
        settings: LocalSettings,
        budget: Arc<DiskBudget>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), LocalError> {
        Self::open_after(LastEnd::Unknown, dir, settings, budget, clock)
    }

    /// The same when it is known how the last process ended.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_after(
        last_end: LastEnd,
        dir: &Path,
        settings: LocalSettings,
        budget: Arc<DiskBudget>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, RecoveryReport), LocalError> {
        settings.validate()?;
        disk::create_dirs(dir).map_err(|e| LocalError::io("create", dir, e))?;
        let inner = Inner {
            settings,
            budget,
            clock,
            packs: PackSet::new(dir, settings.max_open_files)?,
            lanes: Lanes::new(settings.open_packs),
            index: ChunkIndex::new(),
            colour: AtomicBool::new(false),
            marking: AtomicBool::new(false),
            doubting: AtomicBool::new(false),
            ghosts: Mutex::new(Ghosts::new(settings.ghost_entries)),
            next_ingest: AtomicU64::new(0),
            ingests: Mutex::default(),
            suspects: Suspects::default(),
            counters: Counters::default(),
        };
        let report = inner.recover(last_end)?;
        Ok((Self { inner: Arc::new(inner) }, report))
    }

    /// Begins a writer's session.
    pub fn begin(&self) -> Ingest {
        Ingest::new(Arc::clone(&self.inner))
    }

    /// True when the chunk is in the index. Only an [`Ingest::pin_existing`] makes sure that it stays.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.inner.index.get(id).is_some()
    }

    /// The raw chunk, verified; none when it is not here.
    ///
    /// # Errors
    /// [`LocalError::Corrupt`] when its bytes are damaged: it is then set aside, so that the next put or recall stores
    /// it afresh. [`LocalError::Io`] when reading fails.
    pub fn read(&self, id: &ChunkId) -> Result<Option<Bytes>, LocalError> {
        Ok(self.inner.read_verified(id)?.map(|(_, raw)| raw))
    }

    /// Reads the raw chunk into `out`, whose length is the chunk's, if that needs no waiting for the disk; verified as
    /// [`read`](Self::read) does. False when it is not here, not in the page cache, or not as it should be: `read` then
    /// tells which, and does what is needed about it. Meant for threads that serve many connections.
    pub fn read_cached(&self, id: &ChunkId, out: &mut [u8]) -> bool {
        self.inner.read_cached(id, out)
    }

    /// Says that these chunks will be read soon, so that the disk can begin, with neighbours in one request. The system's own
    /// read-ahead does not see such readers: they share one open file, and their places in it look random together.
    pub fn will_read(&self, ids: &[ChunkId]) {
        self.inner.will_read(ids);
    }

    /// The stored frame, verified as [`read`](Self::read) does; none when it is not here.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_frame(&self, id: &ChunkId) -> Result<Option<Frame>, LocalError> {
        Ok(self.inner.read_verified(id)?.map(|(frame, _)| frame))
    }

    /// Everything that was put before this call is durable when it returns. Call it before the record that names the
    /// chunks is written.
    ///
    /// # Errors
    /// [`LocalError::Io`] when a sync fails; from then on [`LocalError::Poisoned`] for every write.
    pub fn sync(&self) -> Result<(), LocalError> {
        self.inner.packs.sync()
    }

    /// How the disk is used. Walks all packs: for `stats` and metrics, not for every request.
    pub fn usage(&self) -> LocalUsage {
        let inner = &self.inner;
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &inner.counters;
        let mut usage = LocalUsage {
            chunks: inner.index.len(),
            index_bytes: inner.index.bytes(),
            offered_chunks: get(&c.offered_chunks),
            offered_bytes: get(&c.offered_bytes),
            duplicate_chunks: get(&c.duplicate_chunks),
            duplicate_bytes: get(&c.duplicate_bytes),
            stored_raw_bytes: get(&c.stored_raw_bytes),
            stored_bytes: get(&c.stored_bytes),
            read_chunks: get(&c.read_chunks),
            read_bytes: get(&c.read_bytes),
            corrupt_chunks: get(&c.corrupt_chunks),
            ..LocalUsage::default()
        };
        for pack in inner.packs.all() {
            let live = get(&pack.live_bytes);
            let stored = get(&pack.stored_total);
            let frames = stored + get(&pack.frames) * FRAME_HEADER_LEN as u64;
            usage.packs += 1;
            usage.open_packs += u64::from(!pack.is_sealed());
            usage.file_bytes += get(&pack.appended);
            usage.charged_bytes += get(&pack.charged) + get(&pack.fill_charge);
            usage.live_bytes += live;
            usage.dead_bytes += frames.saturating_sub(live);
            let raw = u128::from(live) * u128::from(get(&pack.raw_total)) / u128::from(frames.max(1));
            usage.raw_bytes += u64::try_from(raw).unwrap_or(u64::MAX);
        }
        usage
    }

    /// Number of [`Ingest`] sessions that are alive.
    pub fn ingests(&self) -> usize {
        lock(&self.inner.ingests).len()
    }

    /// The budget that this store reserves from.
    pub fn budget(&self) -> &Arc<DiskBudget> {
        &self.inner.budget
    }
}

impl Inner {
    /// Makes an existing chunk live in the running mark cycle, under the lock that a sweep takes to remove it.
    pub fn touch(&self, id: &ChunkId) -> bool {
        let mut shard = self.index.lock(id);
        let Some(at) = shard.find(id) else { return false };
        self.make_live(&mut shard, at);
        true
    }

    fn make_live(&self, shard: &mut super::index::ShardGuard<'_>, at: usize) {
        let mut place = shard.location(at);
        // Read under the shard's lock: see the mark's own order.
        let colour = self.colour.load(Ordering::Acquire);
        if place.colour != colour || place.cached {
            (place.colour, place.cached, place.spared) = (colour, false, false);
            shard.store(at, place);
        }
    }

    /// Adds a chunk that was just appended to `pack`, in place of a suspect, or makes the one live that another writer added
    /// meanwhile. True when ours was added.
    pub fn insert_or_touch(&self, id: &ChunkId, mut place: Location, pack: &Pack) -> Result<bool, LocalError> {
        let mut shard = self.index.lock(id);
        place.colour = self.colour.load(Ordering::Acquire);
        if let Some(at) = shard.find(id) {
            if !self.suspects.remove(id) {
                self.make_live(&mut shard, at);
                return Ok(false);
            }
            let old = shard.location(at);
            if let Some(pack) = self.packs.get(old.slot) {
                pack.remove_live(old.frame_len());
            }
            shard.store(at, place);
            pack.add_live(place.frame_len());
            return Ok(true);
        }
        shard.insert(id, place)?;
        pack.add_live(place.frame_len());
        Ok(true)
    }

    /// Place and pack of a chunk, read together under the shard's lock, so that the pack is the one that the place
    /// means. Counts a read.
    fn locate(&self, id: &ChunkId) -> Option<(Location, Arc<Pack>)> {
        let mut shard = self.index.lock(id);
        let at = shard.find(id)?;
        let mut place = shard.location(at);
        if place.freq < 3 {
            place.freq += 1;
            shard.store(at, place);
        }
        let pack = self.packs.get(place.slot)?;
        Some((place, pack))
    }

    fn will_read(&self, ids: &[ChunkId]) {
        // (slot, start, end) of frames, neighbours joined.
        let mut spans: Vec<(u32, u64, u64)> = Vec::new();
        for place in ids.iter().filter_map(|id| self.index.get(id)) {
            let start = u64::from(place.offset);
            let end = start + place.frame_len();
            match spans.last_mut() {
                Some((slot, from, to)) if *slot == place.slot && start >= *from && start <= *to + READ_GAP => {
                    *to = (*to).max(end);
                }
                _ => spans.push((place.slot, start, end)),
            }
        }
        for (slot, start, end) in spans {
            let Some(pack) = self.packs.get(slot) else { continue };
            let Ok(Some(file)) = self.packs.file(&pack) else { continue };
            // A hint: the read itself meets every error.
            let _ = rustix::fs::fadvise(&file, start, NonZeroU64::new(end - start), Advice::WillNeed);
        }
    }

    fn read_cached(&self, id: &ChunkId, out: &mut [u8]) -> bool {
        let Some((place, pack)) = self.locate(id) else { return false };
        let Ok(Some(file)) = self.packs.file(&pack) else { return false };
        let read =
            reader::read_frame_cached(&file, u64::from(place.offset), place.stored_len as usize, place.codec, out);
        let whole = matches!(read, Some(header) if header.id == *id) && ChunkId::of(out) == *id;
        if whole {
            self.counters.read_chunks.fetch_add(1, Ordering::Relaxed);
            self.counters.read_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        }
        whole
    }

    fn read_verified(&self, id: &ChunkId) -> Result<Option<(Frame, Bytes)>, LocalError> {
        let mut last = None;
        for _ in 0..MAX_READ_ATTEMPTS {
            let Some((place, pack)) = self.locate(id) else { return Ok(None) };
            // Gone since: the chunk has moved, or was dropped.
            let Some(file) = self.packs.file(&pack)? else {
                last = Some((place, pack));
                continue;
            };
            let checked = match read_at(&file, u64::from(place.offset), FRAME_HEADER_LEN + place.stored_len as usize) {
                Ok(bytes) => check(id, &bytes),
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err("the file ends before it".into()),
                Err(e) if is_unreadable(&e) => {
                    self.suspects.add(id);
                    let detail = format!("the disk cannot read it: {e}");
                    return Err(LocalError::Corrupt { id: *id, pack: pack.id, offset: place.offset, detail });
                }
                Err(e) => return Err(LocalError::io("read", &pack.path(&self.packs.dir), e)),
            };
            return match checked {
                Ok((frame, raw)) => {
                    self.suspects.remove(id);
                    self.counters.read_chunks.fetch_add(1, Ordering::Relaxed);
                    self.counters.read_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
                    Ok(Some((frame, raw)))
                }
                Err(detail) => {
                    self.set_aside(id, &place, &pack);
                    Err(LocalError::Corrupt { id: *id, pack: pack.id, offset: place.offset, detail })
                }
            };
        }
        // Somebody moved the file away. The next put shall store the chunk, not find that it is there.
        self.suspects.add(id);
        let (pack, offset) = last.map_or((PackId([0; 16]), 0), |(place, pack)| (pack.id, place.offset));
        let detail = "its pack is missing from the disk though the index names it".into();
        Err(LocalError::Corrupt { id: *id, pack, offset, detail })
    }

    /// Takes a damaged chunk out of the index, unless it has moved meanwhile.
    pub fn set_aside(&self, id: &ChunkId, place: &Location, pack: &Pack) {
        let mut shard = self.index.lock(id);
        let same = shard.find(id).map(|at| shard.location(at));
        if same.is_some_and(|now| now.slot == place.slot && now.offset == place.offset) {
            shard.remove(id);
            pack.remove_live(place.frame_len());
            self.counters.corrupt_chunks.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = super::damage::remember(&self.packs.dir, pack.id, place.offset) {
                tracing::warn!(%id, pack = %pack.id, %error, "cannot note a damaged frame; it will be found again");
            }
        }
    }

    /// True when the chunk was evicted a short while ago.
    pub fn was_evicted_lately(&self, id: &ChunkId) -> bool {
        lock(&self.ghosts).contains(id)
    }
}

/// The frame and raw chunk that `bytes` hold, when they are those of `id`.
pub(crate) fn check(id: &ChunkId, bytes: &Bytes) -> Result<(Frame, Bytes), String> {
    let (header, frame) = decode_frame(bytes).map_err(|e| e.to_string())?;
    if header.id != *id {
        return Err(format!("the frame there is that of chunk {}", header.id));
    }
    let raw = frame.verify(id).map_err(|e| e.to_string())?;
    Ok((frame, raw))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
