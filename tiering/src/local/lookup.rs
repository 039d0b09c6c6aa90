//! Questions that read no bytes.

use super::{LocalError, LocalStore};
use crate::chunk::ChunkId;
use crate::pack::PackId;
use std::sync::atomic::Ordering;

impl LocalStore {
    /// Length in bytes of a chunk's stored form (without the frame's header); none when it is not here.
    pub fn stored_len(&self, id: &ChunkId) -> Option<u32> {
        let shard = self.inner.index.lock(id);
        shard.find(id).map(|at| shard.location(at).stored_len)
    }

    /// The pack that holds a chunk; none when it is not here.
    pub fn pack_of(&self, id: &ChunkId) -> Option<PackId> {
        let shard = self.inner.index.lock(id);
        let slot = shard.find(id).map(|at| shard.location(at).slot)?;
        self.inner.packs.get(slot).map(|pack| pack.id)
    }

    /// Whether the disk could not read a chunk's frame the last time.
    pub(crate) fn is_suspect(&self, id: &ChunkId) -> bool {
        self.inner.suspects.contains(id)
    }

    /// The error that every write gets since a sync failed, if one did.
    pub fn writes_refused(&self) -> Option<LocalError> {
        self.inner.packs.check_writable().err()
    }

    /// How many frames were set aside as damaged since the store was opened.
    pub fn set_aside_count(&self) -> u64 {
        self.inner.counters.corrupt_chunks.load(Ordering::Relaxed)
    }
}
