//! Which live pack of a tier has which chunk, in memory. The table is that of the local chunks ([`ChunkIndex`]): at most 48
//! bytes for a chunk in a pack. The truth are the footers that the namespace keeps; it is made from them at start.

use super::broken::Broken;
use super::doom::RemotePack;
use super::error::EngineError;
use super::record::{Record, RemoteEntry, RemoteFooter, RemotePackState};
use crate::chunk::{ChunkId, Codec};
use crate::local::index::{ChunkIndex, Location, MAX_SLOT};
use crate::meta::{MetaStore, Table, Value};
use crate::pack::format::FRAME_HEADER_LEN;
use crate::pack::{FrameKind, PackId};
use crate::tier::Tier;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A chunk in a pack of a tier.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub pack: PackId,
    /// Name of the pack in the tier.
    pub name: Arc<str>,
    /// Of the frame's header.
    pub offset: u32,
    /// Length of the frame's payload.
    pub stored_len: u32,
}

#[derive(Debug, Default)]
struct TierIndex {
    /// By slot; None for packs that are gone. A slot is not used again: about 130 bytes for each pack of some 1,500 chunks.
    packs: Vec<Option<(PackId, Arc<str>)>>,
    slots: HashMap<PackId, u32>,
    /// First places. Of a [`Location`], `cached` says here that there are further ones, and `colour` that the running count
    /// has seen the chunk; what the frame holds and how is not needed.
    chunks: ChunkIndex,
    /// Further places, of chunks that two jobs have sent at the same time: when the first pack goes, the next one serves.
    /// The n-th stands under [`nth`] of the id.
    spare: ChunkIndex,
    /// Live packs whose record or footer cannot be read: what the tier has is not all known.
    unreadable: u64,
}

/// The key of a chunk's n-th further place. Ids are digests, so no chunk has it for its own.
fn nth(id: &ChunkId, n: u32) -> ChunkId {
    let mut key = *id;
    for (byte, with) in key.0[28..].iter_mut().zip(n.to_le_bytes()) {
        *byte ^= with;
    }
    key
}

fn place(slot: u32, entry: &RemoteEntry) -> Location {
    Location {
        slot,
        offset: entry.offset,
        stored_len: entry.stored_len,
        kind: FrameKind::Chunk,
        codec: Codec::Raw,
        freq: 0,
        colour: false,
        cached: false,
        spared: false,
        doubted: false,
    }
}

impl TierIndex {
    fn add(&self, id: &ChunkId, place: Location) -> Result<(), EngineError> {
        let mut shard = self.chunks.lock(id);
        let Some(at) = shard.find(id) else { return Ok(shard.insert(id, place)?) };
        let first = shard.location(at);
        shard.store(at, Location { cached: true, ..first });
        drop(shard);
        let key = (1..).map(|n| nth(id, n)).find(|key| self.spare.get(key).is_none());
        let key = key.ok_or_else(|| EngineError::Internal("a chunk in too many packs".into()))?;
        Ok(self.spare.lock(&key).insert(&key, place)?)
    }

    fn further(&self, id: &ChunkId) -> impl Iterator<Item = Location> {
        (1..).map_while(|n| self.spare.get(&nth(id, n)))
    }

    /// Removes a chunk's place in the pack of `slot`. The others keep their order.
    fn remove(&self, id: &ChunkId, slot: u32) -> Result<(), EngineError> {
        let Some(first) = self.chunks.get(id) else { return Ok(()) };
        let further: Vec<Location> = if first.cached { self.further(id).collect() } else { Vec::new() };
        if first.slot != slot && further.iter().all(|p| p.slot != slot) {
            return Ok(());
        }
        self.chunks.lock(id).remove(id);
        for n in (1..).take(further.len()) {
            let key = nth(id, n);
            self.spare.lock(&key).remove(&key);
        }
        let rest = std::iter::once(first).chain(further).filter(|p| p.slot != slot);
        rest.map(|p| Location { cached: false, colour: first.colour, ..p }).try_for_each(|p| self.add(id, p))
    }

    /// Removes everything in the pack of `slot` by looking at every chunk: for a pack whose footer cannot be read.
    fn remove_all(&self, slot: u32) -> Result<(), EngineError> {
        for n in 0..=255u8 {
            let shard = self.chunks.lock_shard(n);
            let concerned = |at: &usize| shard.location(*at).slot == slot || shard.location(*at).cached;
            let ids: Vec<ChunkId> = (0..shard.len()).filter(concerned).map(|at| shard.id(at)).collect();
            drop(shard);
            ids.iter().try_for_each(|id| self.remove(id, slot))?;
        }
        Ok(())
    }
}

/// Of every tier: which live pack has which chunk. Packs are added and removed under the lock held exclusively, looked up
/// under the shared one.
#[derive(Debug, Default)]
pub(crate) struct RemoteIndex {
    tiers: RwLock<BTreeMap<String, TierIndex>>,
}

impl RemoteIndex {
    /// Reads the footers of all live packs. One that cannot be read is reported and left out; whatever is in that pack
    /// cannot be located until the record is mended, and the pack is never deleted meanwhile (see `holds`).
    pub(crate) fn load(&self, meta: &dyn MetaStore, broken: &Broken) -> Result<(), EngineError> {
        let mut failed = None;
        let everything = (Bound::Unbounded, Bound::Unbounded);
        meta.scan_each(
            Table::RemotePack,
            everything,
            &mut |key, value| match self.load_one(meta, key, value, broken) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(()), Err)
    }

    fn load_one(&self, meta: &dyn MetaStore, key: &[u8], value: &Value, broken: &Broken) -> Result<(), EngineError> {
        let found = match RemotePack::read(key, value) {
            Ok(found) if found.record.state == RemotePackState::Live => found,
            Ok(_) => return Ok(()),
            Err(e) => {
                broken.report(Table::RemotePack, key, &e);
                self.note_unreadable(super::keys::split_remote_pack(key).map(|(tier, _)| tier));
                return Ok(());
            }
        };
        let stored = meta.get(Table::Manifest, key)?;
        let missing = || EngineError::Corrupt(format!("the footer of pack {} is missing", found.record.name));
        let footer = stored.ok_or_else(missing).and_then(|f| RemoteFooter::decode(&f));
        match footer.and_then(|f| f.check().map(|()| f)) {
            Ok(footer) => self.add(&found.tier, found.pack, &found.record.name, &footer),
            Err(e) => {
                broken.report(Table::Manifest, key, &e);
                self.note_unreadable(Some(&found.tier));
                Ok(())
            }
        }
    }

    pub(crate) fn note_unreadable(&self, tier: Option<&str>) {
        let mut tiers = self.tiers.write().unwrap_or_else(PoisonError::into_inner);
        tiers.entry(tier.unwrap_or_default().to_owned()).or_default().unreadable += 1;
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, TierIndex>> {
        self.tiers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a pack. A chunk that another pack has too keeps its first place, so that marks name one pack only.
    ///
    /// # Errors
    /// [`EngineError::SlowDown`] when the table is full: a thousand million chunks, or sixteen million packs in one run.
    pub(crate) fn add(&self, tier: &str, pack: PackId, name: &str, footer: &RemoteFooter) -> Result<(), EngineError> {
        let mut tiers = self.tiers.write().unwrap_or_else(PoisonError::into_inner);
        let index = tiers.entry(tier.to_owned()).or_default();
        let slot = u32::try_from(index.packs.len()).ok().filter(|slot| *slot <= MAX_SLOT).ok_or_else(|| {
            EngineError::SlowDown(format!("tier {tier} got {MAX_SLOT} packs since the start, its most; restart"))
        })?;
        index.packs.push(Some((pack, name.into())));
        index.slots.insert(pack, slot);
        footer.entries.iter().try_for_each(|entry| index.add(&entry.id, place(slot, entry)))
    }

    /// Removes a doomed pack; slower without its footer.
    pub(crate) fn remove(&self, tier: &str, pack: PackId, footer: Option<&RemoteFooter>) -> Result<(), EngineError> {
        let mut tiers = self.tiers.write().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = tiers.get_mut(tier) else { return Ok(()) };
        let Some(slot) = index.slots.remove(&pack) else { return Ok(()) };
        match footer {
            Some(footer) => footer.entries.iter().try_for_each(|entry| index.remove(&entry.id, slot))?,
            None => index.remove_all(slot)?,
        }
        if let Some(gone) = index.packs.get_mut(slot as usize) {
            *gone = None;
        }
        Ok(())
    }

    /// Where `tier` has a chunk.
    pub(crate) fn locate(&self, tier: &str, id: &ChunkId) -> Option<Located> {
        let tiers = self.read();
        let index = tiers.get(tier)?;
        let place = index.chunks.get(id)?;
        let (pack, name) = index.packs.get(place.slot as usize)?.as_ref()?;
        Some(Located { pack: *pack, name: Arc::clone(name), offset: place.offset, stored_len: place.stored_len })
    }

    /// Whether a pack's footer is known here. What is in a pack that is not, nobody can say.
    pub(crate) fn holds(&self, tier: &str, pack: &PackId) -> bool {
        self.read().get(tier).is_some_and(|index| index.slots.contains_key(pack))
    }

    /// Tiers with live packs, also with such as cannot be read.
    pub(crate) fn tiers_in_use(&self) -> Vec<String> {
        let used = |index: &TierIndex| index.unreadable > 0 || !index.slots.is_empty();
        self.read().iter().filter(|(_, index)| used(index)).map(|(name, _)| name.clone()).collect()
    }

    /// Tells the tiers that have packs below `folder`, and the log of those that are not configured.
    pub(crate) fn tell_tiers(&self, tiers: &BTreeMap<String, Arc<dyn Tier>>, folder: &str) {
        for name in self.tiers_in_use().into_iter().filter(|name| !name.is_empty()) {
            match tiers.get(&name) {
                Some(tier) => tier.expect(folder),
                None => {
                    tracing::warn!(tier = name, "packs are in a tier that the configuration does not name any more")
                }
            }
        }
    }

    /// Whether all live packs of `tier` are known here.
    pub(crate) fn is_complete(&self, tier: &str) -> bool {
        let tiers = self.read();
        // Under the empty name stand packs whose key does not even tell the tier.
        [tier, ""].iter().all(|name| tiers.get(*name).is_none_or(|index| index.unreadable == 0))
    }

    /// All tiers that have a chunk.
    pub(crate) fn tiers_with(&self, id: &ChunkId) -> Vec<String> {
        let tiers = self.read();
        tiers.iter().filter(|(_, index)| index.chunks.get(id).is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Forgets what [`count`](Self::count) has seen.
    pub(crate) fn begin_count(&self) {
        for index in self.read().values() {
            for n in 0..=255u8 {
                let mut shard = index.chunks.lock_shard(n);
                for at in 0..shard.len() {
                    let place = shard.location(at);
                    if place.colour {
                        shard.store(at, Location { colour: false, ..place });
                    }
                }
            }
        }
    }

    /// Calls `visit` with every live pack of `tier` that holds a chunk, and the bytes of its frame there that no earlier
    /// call since [`begin_count`](Self::begin_count) has given. False when the tier has none.
    pub(crate) fn count(&self, tier: &str, id: &ChunkId, mut visit: impl FnMut(PackId, u64)) -> bool {
        let tiers = self.read();
        let Some(index) = tiers.get(tier) else { return false };
        let mut shard = index.chunks.lock(id);
        let Some(at) = shard.find(id) else { return false };
        let first = shard.location(at);
        if !first.colour {
            shard.store(at, Location { colour: true, ..first });
        }
        drop(shard);
        let further = first.cached.then(|| index.further(id)).into_iter().flatten();
        let mut found = false;
        for place in std::iter::once(first).chain(further) {
            if let Some((pack, _)) = index.packs.get(place.slot as usize).and_then(Option::as_ref) {
                found = true;
                let frame = FRAME_HEADER_LEN as u64 + u64::from(place.stored_len);
                visit(*pack, if first.colour { 0 } else { frame });
            }
        }
        found
    }

    /// Places of chunks in packs, and the memory that they take in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        let of = |t: &TierIndex| (t.chunks.len() + t.spare.len(), t.chunks.bytes() + t.spare.bytes());
        self.read().values().map(of).fold((0, 0), |(n, bytes), (more, and)| (n + more, bytes + and))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> RemoteEntry {
        RemoteEntry { id: ChunkId::of(&n.to_le_bytes()), offset: (n % 1_000) as u32, stored_len: 1 + (n % 7) as u32 }
    }

    fn packs_of(index: &RemoteIndex, id: &ChunkId) -> Vec<u8> {
        let mut packs = Vec::new();
        index.count("ia", id, |pack, _| packs.push(pack.0[0]));
        packs
    }

    #[test]
    fn a_chunk_in_several_packs_is_found_in_those_that_are_left_in_whatever_order_they_go() {
        let footer = RemoteFooter { entries: (0..5).map(entry).collect() };
        let id = footer.entries[0].id;
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [2, 4, 1, 3], [3, 1, 4, 2]] {
            let index = RemoteIndex::default();
            for n in 1..=4u8 {
                index.add("ia", PackId([n; 16]), &format!("pack {n}"), &footer).unwrap();
            }
            let mut left = vec![1, 2, 3, 4];
            for (step, n) in order.into_iter().enumerate() {
                assert_eq!(packs_of(&index, &id), left);
                assert_eq!(index.locate("ia", &id).map(|l| l.name.to_string()), Some(format!("pack {}", left[0])));
                // By the footer and without it.
                index.remove("ia", PackId([n; 16]), (step % 2 == 0).then_some(&footer)).unwrap();
                left.retain(|l| *l != n);
            }
            assert!(index.locate("ia", &id).is_none() && packs_of(&index, &id).is_empty());
            assert_eq!(index.size().0, 0);
        }
    }

    #[test]
    fn the_bytes_of_a_chunk_count_once_a_round() {
        let index = RemoteIndex::default();
        let footer = RemoteFooter { entries: vec![entry(6)] };
        index.add("ia", PackId([1; 16]), "one", &footer).unwrap();
        let count = || {
            let mut sum = 0;
            assert!(index.count("ia", &footer.entries[0].id, |_, bytes| sum += bytes));
            sum
        };
        for _ in 0..2 {
            index.begin_count();
            assert_eq!((count(), count()), (FRAME_HEADER_LEN as u64 + 7, 0));
        }
    }

    #[test]
    fn a_remote_chunk_takes_as_little_memory_as_a_local_one() {
        const PACKS: u64 = 300;
        const EACH: u64 = 1_500;
        let index = RemoteIndex::default();
        for n in 0..PACKS {
            let footer = RemoteFooter { entries: (n * EACH..(n + 1) * EACH).map(entry).collect() };
            index.add("ia", PackId(u128::from(n).to_be_bytes()), "name", &footer).unwrap();
        }
        let (places, bytes) = index.size();
        assert_eq!(places, PACKS * EACH);
        // Half-filled segments of 256 shards count for 6 bytes at this size and for 0.2 at 16 million.
        assert!(bytes / places <= 54, "{} bytes a chunk", bytes / places);
    }
}
