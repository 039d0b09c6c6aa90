//! Marking: which chunks are needed. Nothing is counted, so nothing can drift.
//!
//! A cycle flips one colour. The engine then walks everything that names chunks and calls [`Mark::live`] or
//! [`Mark::cached`] or [`Mark::spare`] for each; it also calls [`Mark::live`] for every commit that it observes until the sweep. A chunk
//! that a writer touches (put, dedup hit, pin) takes the new colour under the lock that a sweep needs to remove it, and
//! what running writers touched before takes it when the cycle begins. What still has the old colour when the walk is
//! complete is dead. A mark that is dropped instead of swept removes nothing.

use super::LocalError;
use super::packs::lock;
use super::store::{Inner, LocalStore};
use super::sweep::{SweepGoal, SweepReport};
use crate::chunk::ChunkId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether the walk could read everything that names chunks. Something that it could not (a damaged manifest, a record of a
/// newer version) may name any chunk that was here when it was written, and none that came later: what it names was
/// pinned until its commit, and has been marked ever since. So a doubt holds on to what is here when it comes up, and
/// what comes afterwards is judged by the walk alone. Chunks that were missing then (evicted, or set aside as damaged)
/// and came back count as later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The walk was complete.
    None,
    /// The walk missed nothing but what the sweeps since the last [`Doubt::New`] were told of.
    Known,
    /// The walk missed something else: every chunk that is here may be named by it.
    New,
}

/// A running mark cycle; there is one at a time.
#[derive(Debug)]
pub struct Mark {
    store: Arc<Inner>,
    colour: bool,
    complete: bool,
}

impl LocalStore {
    /// Begins a mark cycle. From this moment on everything that a writer touches counts as live until the cycle ends,
    /// as does everything that running writers have touched so far.
    ///
    /// # Errors
    /// [`LocalError::Invalid`] while another cycle runs.
    pub fn begin_mark(&self) -> Result<Mark, LocalError> {
        let store = Arc::clone(&self.inner);
        if store.marking.swap(true, Ordering::AcqRel) {
            return Err(LocalError::Invalid("a mark is running already; wait for its sweep".into()));
        }
        let colour = !store.colour.fetch_xor(true, Ordering::AcqRel);
        let mark = Mark { store, colour, complete: false };
        // After the flip: a writer that registers later touches with the new colour anyway. And a writer lists a chunk
        // before it touches it: either the touch came after the flip, or the chunk is on the list.
        let writers: Vec<_> = lock(&mark.store.ingests).values().cloned().collect();
        for pins in writers {
            for id in lock(&pins).ids() {
                mark.store.touch(id);
            }
        }
        Ok(mark)
    }
}

impl Mark {
    /// The chunk must be kept. False when it is not here.
    pub fn live(&self, id: &ChunkId) -> bool {
        self.store.touch(id)
    }

    /// The chunk is a clean copy of what the cloud has: it may be evicted, and stays while there is room. A chunk that
    /// is live as well stays live, in whatever order the two are said. False when it is not here.
    pub fn cached(&self, id: &ChunkId) -> bool {
        let mut shard = self.store.index.lock(id);
        let Some(at) = shard.find(id) else { return false };
        let mut place = shard.location(at);
        if place.colour != self.colour {
            (place.colour, place.cached, place.spared) = (self.colour, true, false);
            shard.store(at, place);
        }
        true
    }

    /// As [`Mark::cached`], for what is to stay as long as there is any other copy to evict. A chunk that is cached as well is
    /// spared, one that is live as well stays live, in whatever order they are said. False when it is not here.
    pub fn spare(&self, id: &ChunkId) -> bool {
        let mut shard = self.store.index.lock(id);
        let Some(at) = shard.find(id) else { return false };
        let mut place = shard.location(at);
        // With this cycle's colour, only this cycle's word can have made it evictable: every touch takes that away.
        if place.colour != self.colour || place.cached {
            (place.colour, place.cached, place.spared) = (self.colour, true, true);
            shard.store(at, place);
        }
        true
    }

    /// What a sweep would find dead now. Changes nothing; to be followed by dropping the mark, for a dry run.
    pub fn preview(&self, doubt: Doubt) -> SweepReport {
        let doubt = self.store.settle(doubt);
        let mut report = SweepReport { packs: self.store.packs.all().len() as u64, ..SweepReport::default() };
        for n in 0..=255u8 {
            let shard = self.store.index.lock_shard(n);
            let places = (0..shard.len()).map(|at| shard.location(at));
            for place in places.filter(|p| p.colour != self.colour) {
                let kept = doubt == Doubt::New || doubt == Doubt::Known && place.doubted;
                report.count_unreached(place.frame_len(), kept);
            }
        }
        report
    }

    /// Removes what is dead, and with [`SweepGoal::dead_only`] unset evicts cached chunks until enough is free. The
    /// caller has walked everything, and what could not be read is a `doubt`. `should_stop` is asked between packs.
    ///
    /// # Errors
    /// Of reading and writing packs. What was done until then is done; nothing needed is lost.
    pub fn sweep(
        mut self,
        goal: SweepGoal,
        doubt: Doubt,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<SweepReport, LocalError> {
        let mut report = SweepReport::default();
        let store = Arc::clone(&self.store);
        let doubt = store.settle(doubt);
        for n in 0..=255u8 {
            store.drop_dead(n, self.colour, doubt, &mut report);
        }
        store.doubting.store(doubt != Doubt::None, Ordering::Release);
        // Every entry has the cycle's colour now.
        self.complete = true;
        store.reclaim(&goal, should_stop, &mut report).map(|()| report)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if !self.complete {
            // Outside a cycle every entry has the store's colour: otherwise the next flip would make what this mark did
            // not reach look marked. That errs on the safe side, but for one cycle too long.
            for n in 0..=255u8 {
                let mut shard = self.store.index.lock_shard(n);
                for at in 0..shard.len() {
                    let mut place = shard.location(at);
                    if place.colour != self.colour {
                        place.colour = self.colour;
                        shard.store(at, place);
                    }
                }
            }
        }
        self.store.marking.store(false, Ordering::Release);
    }
}

impl Inner {
    /// A doubt is a known one only when the entries still carry its mark: that goes with the process.
    fn settle(&self, doubt: Doubt) -> Doubt {
        if doubt == Doubt::Known && !self.doubting.load(Ordering::Acquire) { Doubt::New } else { doubt }
    }

    /// Removes the entries of one shard that the mark did not reach and no doubt holds.
    fn drop_dead(&self, shard: u8, colour: bool, doubt: Doubt, report: &mut SweepReport) {
        let mut shard = self.index.lock_shard(shard);
        // Downwards: a removal moves the last entry, which was looked at already, into the gap.
        for at in (0..shard.len()).rev() {
            let mut place = shard.location(at);
            let reached = place.colour == colour;
            if doubt == Doubt::New && !place.doubted {
                place.doubted = true;
                shard.store(at, place);
            }
            if reached {
                continue;
            }
            let kept = doubt != Doubt::None && place.doubted;
            report.count_unreached(place.frame_len(), kept);
            if kept {
                // Not evictable either: that the cloud has it was true as of an earlier mark.
                (place.colour, place.cached, place.spared) = (colour, false, false);
                shard.store(at, place);
                continue;
            }
            let id = shard.id(at);
            shard.remove(&id);
            if let Some(pack) = self.packs.get(place.slot) {
                pack.remove_live(place.frame_len());
            }
        }
    }
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
