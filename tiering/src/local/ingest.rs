//! Writing chunks.

use super::index::Location;
use super::packs::lock;
use super::store::Inner;
use super::{LocalError, Purpose};
use crate::chunk::{ChunkId, Codec, codec};
use crate::pack::format::{FrameHeader, check_frame};
use crate::pack::{Frame, FrameKind, PackClass};
use bytes::Bytes;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was there; it is pinned now.
    Duplicate,
    /// It was appended to an open pack. Durable after the next [`super::LocalStore::sync`].
    Stored {
        /// Stored bytes, without the frame's header.
        stored_len: u32,
    },
}

/// The chunks that one [`Ingest`] has touched. Shared with the store, which makes them live when a mark begins.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    ids: Vec<ChunkId>,
    /// Duplicates are squeezed out when the list reaches this length.
    squeeze_at: usize,
}

impl Pins {
    fn add(&mut self, id: ChunkId) {
        if self.ids.last() == Some(&id) {
            return;
        }
        if self.ids.len() >= self.squeeze_at.max(1024) {
            self.ids.sort_unstable();
            self.ids.dedup();
            self.squeeze_at = self.ids.len() * 2;
        }
        self.ids.push(id);
    }

    pub fn ids(&self) -> &[ChunkId] {
        &self.ids
    }
}

/// A writer's session. Every chunk that it touches stays, whatever a sweep does, until it is dropped. Keep it until the
/// commit that names the chunks has been applied (or was given up).
pub struct Ingest {
    store: Arc<Inner>,
    number: u64,
    pins: Arc<Mutex<Pins>>,
    scratch: Vec<u8>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").field("number", &self.number).field("pins", &lock(&self.pins).ids.len()).finish()
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        lock(&self.store.ingests).remove(&self.number);
    }
}

impl Ingest {
    pub(crate) fn new(store: Arc<Inner>) -> Self {
        let number = store.next_ingest.fetch_add(1, Ordering::Relaxed);
        let pins = Arc::new(Mutex::new(Pins::default()));
        lock(&store.ingests).insert(number, Arc::clone(&pins));
        Self { store, number, pins, scratch: Vec::new() }
    }

    /// Stores the chunk `raw`, whose BLAKE3 is `id` (the caller has computed it; a wrong one makes the chunk unreadable,
    /// never another's bytes). A chunk that is there is only pinned.
    ///
    /// # Errors
    /// [`LocalError::Full`], [`LocalError::Io`], [`LocalError::Poisoned`]; [`LocalError::Invalid`] above 16 MiB - 1.
    pub fn put(&mut self, kind: FrameKind, id: ChunkId, raw: &Bytes) -> Result<Put, LocalError> {
        let store = Arc::clone(&self.store);
        let counters = &store.counters;
        counters.offered_chunks.fetch_add(1, Ordering::Relaxed);
        counters.offered_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
        if self.pin_existing(&id) {
            counters.duplicate_chunks.fetch_add(1, Ordering::Relaxed);
            counters.duplicate_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
            return Ok(Put::Duplicate);
        }
        let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        let codec = codec::compress_into(raw, store.settings.zstd_level, &mut self.scratch);
        let scratch = std::mem::take(&mut self.scratch);
        let stored: &[u8] = if codec == Codec::Zstd { &scratch } else { raw };
        let stored_len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        let header = FrameHeader { kind, codec, raw_len, stored_len, id };
        let done = self.append(&header, stored, PackClass::Hot, Purpose::Ingest);
        self.scratch = scratch;
        done
    }

    /// Stores a chunk that is compressed already and was verified by the caller ([`Frame::verify`]), recalled from a tier.
    /// It may not take the last of the disk ([`Purpose::Recall`]). With [`PackClass::Cache`] a chunk that was evicted a short while ago goes to the main queue.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_frame(&mut self, id: ChunkId, frame: &Frame, class: PackClass) -> Result<Put, LocalError> {
        if self.pin_existing(&id) {
            return Ok(Put::Duplicate);
        }
        let class = match class {
            PackClass::Remote => {
                return Err(LocalError::Invalid("a remote pack is no place for a local chunk".into()));
            }
            PackClass::Cache if self.store.was_evicted_lately(&id) => PackClass::Main,
            other => other,
        };
        let mut header = frame.header(id).map_err(|e| LocalError::Invalid(format!("chunk {id}: {e}")))?;
        // A body may have the very bytes that a tier has in a frame of manifests; here they are a chunk like any other.
        if header.kind == FrameKind::Manifests {
            header.kind = FrameKind::Chunk;
        }
        self.append(&header, &frame.stored, class, Purpose::Recall)
    }

    /// Pins the chunk when it is there and not suspected to be unreadable.
    pub fn pin_existing(&mut self, id: &ChunkId) -> bool {
        // First on the list, then in the index: a mark that begins in between finds the pin, or the index entry gets
        // the new colour.
        lock(&self.pins).add(*id);
        !self.store.suspects.contains(id) && self.store.touch(id)
    }

    fn append(
        &mut self,
        header: &FrameHeader,
        stored: &[u8],
        class: PackClass,
        purpose: Purpose,
    ) -> Result<Put, LocalError> {
        let FrameHeader { kind, codec, raw_len, stored_len, id } = *header;
        check_frame(header).map_err(|e| LocalError::Invalid(format!("chunk {id}: {e}")))?;
        let appended = self.store.append(class, header, stored, purpose)?;
        let (slot, offset) = (appended.pack.slot, appended.offset);
        let (freq, colour, cached, spared, doubted) = (0, false, false, false, false);
        let place = Location { slot, offset, stored_len, kind, codec, freq, colour, cached, spared, doubted };
        if self.store.insert_or_touch(&id, place, &appended.pack)? {
            let counters = &self.store.counters;
            counters.stored_raw_bytes.fetch_add(u64::from(raw_len), Ordering::Relaxed);
            counters.stored_bytes.fetch_add(u64::from(stored_len), Ordering::Relaxed);
        }
        // Lost against another writer of the same chunk: our frame is dead weight until its pack is compacted.
        Ok(Put::Stored { stored_len })
    }
}
