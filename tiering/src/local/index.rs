//! The chunk index: an in-memory table from chunk id to the place of its frame, at most 48 bytes a chunk.
//!
//! 256 shards by the first byte of the id. A shard keeps its entries dense in segments (the other 31 bytes of the id and
//! 11 bytes of place, so nothing is copied when it grows) and a table of 32-bit slots with linear probing: 22 bits of
//! entry number, 10 bits of tag. The tag makes a wrong full comparison a one in a thousand event; the load may therefore
//! go up to 0.85 with growth by an eighth. What answers is always the comparison of the full id.

use super::LocalError;
use crate::chunk::{ChunkId, Codec};
use crate::pack::FrameKind;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Number of shards: one per value of the id's first byte.
pub const SHARDS: usize = 256;
/// Entries of one segment: 21 KiB.
const SEGMENT: usize = 512;
const ENTRY: usize = 42;
const INDEX_BITS: u32 = 22;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
/// Most entries of a shard; 256 times that is a thousand million chunks, 48 TiB at 48 KiB.
const MAX_SHARD: usize = INDEX_MASK as usize - 1;
/// Packs are numbered with 24 bits in one run of the process.
pub const MAX_SLOT: u32 = (1 << 24) - 1;

/// The bits of the kind that say a chunk is spared.
const SPARED_CHUNK: u8 = 0;

/// Where a chunk's frame stands, and what eviction and marking know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number of the pack in this run of the process; below 2^24.
    pub slot: u32,
    /// Where the frame starts, bytes from the start of the pack.
    pub offset: u32,
    /// Length of the stored bytes; below 2^24.
    pub stored_len: u32,
    /// What the frame holds.
    pub kind: FrameKind,
    /// How it is compressed.
    pub codec: Codec,
    /// Reads since it was placed, saturating at 3.
    pub freq: u8,
    /// Mark colour.
    pub colour: bool,
    /// The cloud has it, too (as of the last mark).
    pub cached: bool,
    /// Of what is `cached`, this goes last: a hot body that a tier has as well. Never set for a manifest node.
    pub spared: bool,
    /// Something that a mark could not read may name it (see [`super::gc::Doubt`]).
    pub doubted: bool,
}

impl Location {
    /// Length of the whole frame in bytes.
    pub const fn frame_len(&self) -> u64 {
        crate::pack::format::FRAME_HEADER_LEN as u64 + self.stored_len as u64
    }

    pub(crate) fn pack_bits(&self) -> [u8; 11] {
        // Two bits for two kinds of frames have room for one thing more.
        let kind = if self.spared && self.kind == FrameKind::Chunk { SPARED_CHUNK } else { self.kind as u8 & 3 };
        let flags = kind
            | (self.codec as u8 & 1) << 2
            | u8::from(self.doubted) << 3
            | (self.freq & 3) << 4
            | u8::from(self.colour) << 6
            | u8::from(self.cached) << 7;
        let (o, l, s) = (self.offset.to_le_bytes(), self.stored_len.to_le_bytes(), self.slot.to_le_bytes());
        [o[0], o[1], o[2], o[3], l[0], l[1], l[2], s[0], s[1], s[2], flags]
    }

    pub(crate) fn from_bits(b: &[u8; 11]) -> Self {
        let flags = b[10];
        Self {
            offset: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            stored_len: u32::from_le_bytes([b[4], b[5], b[6], 0]),
            slot: u32::from_le_bytes([b[7], b[8], b[9], 0]),
            kind: if flags & 3 == FrameKind::ManifestNode as u8 { FrameKind::ManifestNode } else { FrameKind::Chunk },
            codec: if (flags >> 2) & 1 == Codec::Zstd as u8 { Codec::Zstd } else { Codec::Raw },
            freq: (flags >> 4) & 3,
            colour: flags & 0x40 != 0,
            cached: flags & 0x80 != 0,
            spared: flags & 3 == SPARED_CHUNK,
            doubted: flags & 0x08 != 0,
        }
    }
}

/// The table. All methods are quick and take one shard's lock at most.
#[derive(Debug)]
pub struct ChunkIndex {
    shards: Vec<Mutex<Shard>>,
    /// Differs by process, so that nobody can choose chunks that collide in the slot tables.
    seed: u64,
}

impl Default for ChunkIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), seed: rand::random() }
    }

    /// Locks the shard of `id`.
    pub fn lock(&self, id: &ChunkId) -> ShardGuard<'_> {
        self.lock_shard(id.0[0])
    }

    /// Locks shard `n`.
    pub fn lock_shard(&self, n: u8) -> ShardGuard<'_> {
        let shard = self.shards[n as usize].lock().unwrap_or_else(PoisonError::into_inner);
        ShardGuard { shard, first: n, seed: self.seed }
    }

    /// Where `id` stands, as of now.
    pub fn get(&self, id: &ChunkId) -> Option<Location> {
        let guard = self.lock(id);
        guard.find(id).map(|at| guard.location(at))
    }

    /// Number of chunks.
    pub fn len(&self) -> u64 {
        (0..=255u8).map(|n| self.lock_shard(n).len() as u64).sum()
    }

    /// True without chunks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that the index takes, in bytes, slots and unused room included.
    pub fn bytes(&self) -> u64 {
        (0..=255u8).map(|n| self.lock_shard(n).shard.bytes()).sum::<u64>() + size_of::<Self>() as u64
    }
}

/// A locked shard. Positions are good until the next insert or removal.
#[derive(Debug)]
pub struct ShardGuard<'a> {
    shard: MutexGuard<'a, Shard>,
    first: u8,
    seed: u64,
}

impl ShardGuard<'_> {
    /// The position of `id`.
    pub fn find(&self, id: &ChunkId) -> Option<usize> {
        self.shard.find(id, self.hash(id)).map(|(_, at)| at)
    }

    /// What stands at position `at`.
    pub fn location(&self, at: usize) -> Location {
        let mut bits = [0; 11];
        bits.copy_from_slice(&self.shard.entry(at)[31..]);
        Location::from_bits(&bits)
    }

    /// The id at position `at`.
    pub fn id(&self, at: usize) -> ChunkId {
        self.shard.id(self.first, at)
    }

    /// Changes what stands at position `at`.
    pub fn store(&mut self, at: usize, location: Location) {
        self.shard.entry_mut(at)[31..].copy_from_slice(&location.pack_bits());
    }

    /// Adds `id`, which must not be there (see [`find`](Self::find)).
    ///
    /// # Errors
    /// [`LocalError::Full`] beyond four million chunks in one shard of 256.
    pub fn insert(&mut self, id: &ChunkId, location: Location) -> Result<(), LocalError> {
        debug_assert!(self.find(id).is_none() && id.0[0] == self.first);
        let (hash, first, seed) = (self.hash(id), self.first, self.seed);
        self.shard.insert(id, hash, location, |shard, at| mix(&shard.id(first, at), seed))
    }

    /// Removes `id` and says where it stood. The last entry moves into its position.
    pub fn remove(&mut self, id: &ChunkId) -> Option<Location> {
        let (hash, first, seed) = (self.hash(id), self.first, self.seed);
        let (slot, at) = self.shard.find(id, hash)?;
        let location = self.location(at);
        self.shard.remove(slot, at, |shard, at| mix(&shard.id(first, at), seed));
        Some(location)
    }

    /// Makes room for `more` entries at once.
    pub fn reserve(&mut self, more: usize) {
        let (first, seed) = (self.first, self.seed);
        let wanted = self.shard.len + more;
        let slots = wanted + wanted / 4 + 8;
        if slots > self.shard.slots.len() {
            self.shard.rehash(slots, |shard, at| mix(&shard.id(first, at), seed));
        }
    }

    /// Number of entries; positions go from 0 to one below.
    pub fn len(&self) -> usize {
        self.shard.len
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.shard.len == 0
    }

    fn hash(&self, id: &ChunkId) -> u64 {
        mix(id, self.seed)
    }
}

/// Ids are uniform already; the seed and the multiplication keep the slot order unknown to the outside.
fn mix(id: &ChunkId, seed: u64) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&id.0[8..16]);
    let x = (u64::from_le_bytes(word) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 29
}

#[derive(Debug, Default)]
struct Shard {
    /// 0 is free; else tag in the upper 10 bits, entry number plus one in the lower 22.
    slots: Vec<u32>,
    segments: Vec<Vec<[u8; ENTRY]>>,
    len: usize,
}

impl Shard {
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    fn entry(&self, at: usize) -> &[u8; ENTRY] {
        &self.segments[at / SEGMENT][at % SEGMENT]
    }

    fn entry_mut(&mut self, at: usize) -> &mut [u8; ENTRY] {
        &mut self.segments[at / SEGMENT][at % SEGMENT]
    }

    fn id(&self, first: u8, at: usize) -> ChunkId {
        let mut id = [first; 32];
        id[1..].copy_from_slice(&self.entry(at)[..31]);
        ChunkId(id)
    }

    /// (slot, position) of `id`.
    fn find(&self, id: &ChunkId, hash: u64) -> Option<(usize, usize)> {
        if self.len == 0 {
            return None;
        }
        let mut slot = self.home(hash);
        loop {
            let word = self.slots[slot];
            if word == 0 {
                return None;
            }
            if word >> INDEX_BITS == tag(hash) {
                let at = (word & INDEX_MASK) as usize - 1;
                if self.entry(at)[..31] == id.0[1..] {
                    return Some((slot, at));
                }
            }
            slot = self.next(slot);
        }
    }

    fn next(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }

    fn insert(
        &mut self,
        id: &ChunkId,
        hash: u64,
        location: Location,
        hash_of: impl Fn(&Shard, usize) -> u64,
    ) -> Result<(), LocalError> {
        if self.len >= MAX_SHARD {
            return Err(LocalError::Full {
                reason: format!("the chunk index holds {} chunks in one shard, its most; raise chunk.avg", self.len),
            });
        }
        if (self.len + 1) * 20 > self.slots.len() * 17 {
            let now = self.slots.len();
            self.rehash(now + (if now < 1024 { now / 2 } else { now / 8 }) + 16, hash_of);
        }
        let mut entry = [0; ENTRY];
        entry[..31].copy_from_slice(&id.0[1..]);
        entry[31..].copy_from_slice(&location.pack_bits());
        if self.len == self.segments.len() * SEGMENT {
            // The first segment grows as it needs; a store of few chunks stays small.
            let room = if self.segments.is_empty() { 0 } else { SEGMENT };
            self.segments.push(Vec::with_capacity(room));
        }
        let at = self.len;
        self.segments[at / SEGMENT].push(entry);
        self.len += 1;
        self.claim(hash, at);
        Ok(())
    }

    fn claim(&mut self, hash: u64, at: usize) {
        let mut slot = self.home(hash);
        while self.slots[slot] != 0 {
            slot = self.next(slot);
        }
        self.slots[slot] = tag(hash) << INDEX_BITS | (at as u32 + 1);
    }

    fn rehash(&mut self, slots: usize, hash_of: impl Fn(&Shard, usize) -> u64) {
        // The old table is freed first: it holds nothing that the entries do not.
        self.slots = Vec::new();
        self.slots = vec![0; slots];
        for at in 0..self.len {
            let hash = hash_of(self, at);
            self.claim(hash, at);
        }
    }

    fn remove(&mut self, slot: usize, at: usize, hash_of: impl Fn(&Shard, usize) -> u64) {
        self.vacate(slot, &hash_of);
        let last = self.len - 1;
        if at != last {
            // The last entry moves into the gap, and the slot that names it follows.
            let hash = hash_of(self, last);
            let mut moved = self.home(hash);
            while self.slots[moved] & INDEX_MASK != last as u32 + 1 {
                moved = self.next(moved);
            }
            self.slots[moved] = tag(hash) << INDEX_BITS | (at as u32 + 1);
            *self.entry_mut(at) = *self.entry(last);
        }
        self.segments[last / SEGMENT].pop();
        self.len = last;
        if last.is_multiple_of(SEGMENT) {
            self.segments.pop();
        }
        if self.slots.len() > 256 && self.len * 3 < self.slots.len() {
            self.rehash(self.slots.len() / 2, hash_of);
        }
    }

    /// Frees a slot by shifting back what was displaced past it: no tombstones, so lookups never slow down.
    fn vacate(&mut self, slot: usize, hash_of: &impl Fn(&Shard, usize) -> u64) {
        let size = self.slots.len();
        let (mut gap, mut probe) = (slot, self.next(slot));
        while self.slots[probe] != 0 {
            let home = self.home(hash_of(self, (self.slots[probe] & INDEX_MASK) as usize - 1));
            let distance = |from: usize, to: usize| if to >= from { to - from } else { to + size - from };
            if distance(home, probe) >= distance(gap, probe) {
                self.slots[gap] = self.slots[probe];
                gap = probe;
            }
            probe = self.next(probe);
        }
        self.slots[gap] = 0;
    }

    fn bytes(&self) -> u64 {
        let entries: usize = self.segments.iter().map(|s| s.capacity() * ENTRY).sum();
        let lists = self.segments.capacity() * size_of::<Vec<[u8; ENTRY]>>();
        (self.slots.capacity() * 4 + entries + lists + size_of::<Mutex<Shard>>()) as u64
    }
}

fn tag(hash: u64) -> u32 {
    (hash & 0x3ff) as u32
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
