//! Reclaiming, by marks and never by counts: a chunk or pack goes only when a complete walk has proved it dead, so there
//! is nothing that could drift. The proof is in `docs/adr/0008-marking-not-counting.md`; the engine's part of it is
//! the order of steps in [`Core::collect_garbage`] and the barrier below.

use super::Core;
use super::body::{BodyRef, ChunkRef, NodeRef, decode_node};
use super::error::EngineError;
use super::keys;
use super::record::{ObjectRecord, PartRecord, Record, RemotePackRecord, RemotePackState};
use super::report::GcReport;
use super::types::Residency;
use crate::local::{Mark, SweepGoal};
use crate::meta::{AppliedOp, CommitObserver, MetaStore, Table};
use crate::pack::PackId;
use std::collections::{BTreeMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Hears of every commit while a mark is running: references made behind the walk's back (a copy to a key that the
/// walk has passed, whose source is deleted before the walk reaches it) are marked along with it.
#[derive(Debug, Default)]
pub(crate) struct MarkBarrier {
    /// None while no mark is running.
    seen: Mutex<Option<Seen>>,
}

/// What was written since the walk last looked.
#[derive(Debug, Default)]
struct Seen {
    /// Values with their tables.
    values: Vec<(Table, Vec<u8>)>,
    bytes: usize,
    /// More came than is kept: the mark is not complete any more.
    missed: bool,
}

/// Most bytes of values that wait for the walk. It looks every [`LISTEN_EVERY`] values, so this is far off unless writers
/// outrun it; then the mark is given up.
const MAX_SEEN_BYTES: usize = 128 << 20;

/// Values walked between two looks at what was written meanwhile.
const LISTEN_EVERY: usize = 1024;

/// While this lives, the barrier is open.
struct Listening<'a>(&'a MarkBarrier);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl MarkBarrier {
    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Listening<'_> {
        *self.lock() = Some(Seen::default());
        Listening(self)
    }

    fn take(&self) -> Result<Vec<(Table, Vec<u8>)>, EngineError> {
        match self.lock().as_mut().map(std::mem::take) {
            Some(seen) if !seen.missed => Ok(seen.values),
            _ => Err(EngineError::SlowDown("more is written than a mark can follow; nothing was removed".into())),
        }
    }
}

impl CommitObserver for MarkBarrier {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        if let Some(seen) = self.lock().as_mut() {
            for AppliedOp { op, .. } in ops.iter().filter(|o| matches!(o.op.table, Table::Object | Table::Part)) {
                let Some(value) = &op.value else { continue };
                seen.bytes = seen.bytes.saturating_add(value.len());
                seen.missed |= seen.bytes > MAX_SEEN_BYTES;
                if seen.missed {
                    seen.values = Vec::new();
                    return;
                }
                seen.values.push((op.table, value.clone()));
            }
        }
    }
}

/// Bytes of remote packs that no version refers to, by tier: as of the last mark.
pub(crate) type DeadBytes = BTreeMap<String, u64>;

/// One walk: what it marks locally and what it counts remotely.
struct Walk<'a> {
    core: &'a Arc<Core>,
    mark: &'a Mark,
    /// Packs that something in a tier lives in, with the bytes that live: each chunk counts once in a pack.
    remote: BTreeMap<(u32, PackId), u64>,
    /// Chunks whose bytes are counted, by tier and the first eight bytes of their ids: enough for a sum of bytes, and
    /// whether a pack lives does not depend on it.
    counted: HashSet<(u32, u64)>,
    /// Tiers met on the way. Not those of the configuration: a tier that is missing there for a while must not
    /// look empty, or all its packs would be taken for dead.
    tiers: Vec<String>,
}

/// Live bytes by tier and pack.
type LivePacks = BTreeMap<(String, PackId), u64>;

impl Core {
    /// One cycle: mark, sweep local packs, doom unreferenced remote packs. `bytes_to_free` above zero also evicts clean
    /// copies of cold versions. With `dry_run` nothing is changed.
    ///
    /// # Errors
    /// Whatever the walk meets: then nothing at all is removed (when information is missing, keep the data).
    pub(crate) async fn collect_garbage(
        self: &Arc<Self>,
        dry_run: bool,
        bytes_to_free: u64,
    ) -> Result<GcReport, EngineError> {
        // Goes with the mark: a caller who gives up must not let another cycle in, which would take the barrier away
        // from the one that still runs.
        let only_one = Arc::clone(&self.gc_running).lock_owned().await;
        // What may be doomed is fixed before the walk: packs that come later are out of its reach, and a version that
        // comes to refer to one of these raises its counter, which fails the doom's compare-and-swap. (A copy of a cold
        // version raises none: its commit expects the source to stand, and the source was marked or observed.)
        let candidates = self.remote_packs(RemotePackState::Live)?;
        let core = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || (core.mark_and_sweep(dry_run, bytes_to_free), only_one));
        let (outcome, _only_one) = task.await.map_err(|e| EngineError::Internal(format!("collect garbage: {e}")))?;
        let (mut report, live) = outcome?;
        let mut dead: DeadBytes = BTreeMap::new();
        for (key, record) in candidates {
            let (tier, pack) = keys::split_remote_pack(&key)
                .ok_or_else(|| EngineError::Corrupt("a remote pack's key does not come apart".into()))?;
            let pack = PackId(pack.to_be_bytes());
            if let Some(live_bytes) = live.get(&(tier.to_owned(), pack)) {
                let overhead = record.bytes.saturating_sub(*live_bytes);
                *dead.entry(tier.to_owned()).or_default() += overhead;
            } else if dry_run || self.doom_candidate(tier, pack, record).await? {
                report.remote_packs_doomed += 1;
            }
        }
        *self.dead_bytes.lock().unwrap_or_else(PoisonError::into_inner) = dead;
        Ok(report)
    }

    async fn doom_candidate(&self, tier: &str, pack: PackId, record: RemotePackRecord) -> Result<bool, EngineError> {
        // A job that has just uploaded a pack refers to it with its next commit. Without a job, a pack that nobody
        // ever referred to was left by a crash.
        if record.references == 0 && self.making.holds(&pack) {
            return Ok(false);
        }
        let stored = record.encode()?;
        self.doom_pack(tier, pack, &stored, record).await
    }

    fn mark_and_sweep(
        self: &Arc<Self>,
        dry_run: bool,
        bytes_to_free: u64,
    ) -> Result<(GcReport, LivePacks), EngineError> {
        let listening = self.barrier.open();
        let mark = self.local.begin_mark()?;
        let mut walk =
            Walk { core: self, mark: &mark, remote: BTreeMap::new(), counted: HashSet::new(), tiers: Vec::new() };
        walk.everything()?;
        walk.readers()?;
        // A commit can be seen in the index a moment before the barrier hears of it: a completed upload, whose parts the
        // walk found gone already and whose object it had passed. Behind this request the committer has told all that
        // the walk can have seen. With relaxed durability it also keeps a crash from bringing names back whose chunks
        // are swept below.
        self.meta.sync()?;
        walk.listen()?;
        drop(listening);
        let live = walk.live_packs();
        let mut report = GcReport { dry_run, ..Default::default() };
        if dry_run {
            let dead = mark.preview();
            report.dead_bytes = dead.dead_bytes;
            report.dead_chunks = dead.dead_chunks;
            report.packs = dead.packs;
            return Ok((report, live));
        }
        let stop = self.stop.clone();
        let swept = mark.sweep(SweepGoal { bytes_to_free, ..SweepGoal::default() }, &|| stop.is_cancelled())?;
        report.packs = swept.packs;
        report.packs_deleted = swept.packs_deleted;
        report.packs_compacted = swept.packs_compacted;
        report.dead_chunks = swept.dead_chunks;
        report.dead_bytes = swept.dead_bytes;
        report.freed_bytes = swept.freed_bytes;
        report.kept_bytes = swept.kept_bytes;
        self.metrics.reclaimed_bytes.inc_by(swept.freed_bytes);
        Ok((report, live))
    }

    /// Bytes by which local packs stand above the watermark that leaves a margin for writers.
    pub(crate) fn bytes_over_watermark(&self) -> u64 {
        let budget = self.local.budget();
        let settings = budget.settings();
        let client_limit = settings.max_bytes.saturating_sub(settings.compaction_reserve);
        let over_limit = budget.used().saturating_sub(client_limit / 100 * WATERMARK_PERCENT);
        over_limit.max(budget.short_of_floor(client_limit / 100 * (100 - WATERMARK_PERCENT)))
    }

    /// How full the local packs' share of the disk is, in percent.
    pub(crate) fn fill_percent(&self) -> u8 {
        let budget = self.local.budget();
        let percent = budget.used().saturating_mul(100) / budget.settings().max_bytes.max(1);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

/// Reclaiming begins here, so that writers meet a margin and not the limit.
const WATERMARK_PERCENT: u64 = 90;

impl Walk<'_> {
    /// Every version and every part of an unfinished upload.
    fn everything(&mut self) -> Result<(), EngineError> {
        let mut walked = 0usize;
        for table in [Table::Object, Table::Part] {
            let mut failed = None;
            let core = Arc::clone(self.core);
            core.meta.scan_each(table, (Bound::Unbounded, Bound::Unbounded), &mut |_, value| {
                walked += 1;
                let mut step = self.value(table, value);
                if step.is_ok() && walked.is_multiple_of(LISTEN_EVERY) {
                    step = self.listen();
                }
                if step.is_ok() && core.stop.is_cancelled() {
                    step = Err(EngineError::Unavailable("shutting down".into()));
                }
                match step {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => {
                        failed = Some(e);
                        ControlFlow::Break(())
                    }
                }
            })?;
            if let Some(e) = failed {
                return Err(e);
            }
        }
        Ok(())
    }

    /// Marks what was committed since the last look.
    fn listen(&mut self) -> Result<(), EngineError> {
        self.core.barrier.take()?.into_iter().try_for_each(|(table, value)| self.value(table, &value))
    }

    fn live_packs(self) -> LivePacks {
        let name = |number: u32| self.tiers.get(number as usize).cloned().unwrap_or_default();
        self.remote.iter().map(|((tier, pack), bytes)| ((name(*tier), *pack), *bytes)).collect()
    }

    /// Bodies that are being read, whether or not their versions are still there: reads win.
    fn readers(&mut self) -> Result<(), EngineError> {
        self.core.reads.current().iter().try_for_each(|record| self.record(record))
    }

    fn value(&mut self, table: Table, value: &[u8]) -> Result<(), EngineError> {
        match table {
            Table::Object => self.record(&ObjectRecord::decode(value)?),
            _ => self.body(&PartRecord::decode(value)?.body, true, None),
        }
    }

    fn record(&mut self, record: &ObjectRecord) -> Result<(), EngineError> {
        let (keep, tier) = match &record.residency {
            Residency::Hot => (true, None),
            Residency::Restored { tier, .. } => (true, Some(tier.as_str())),
            // What a restore has brought so far must not be taken away again under its hands.
            Residency::Cold { tier } => (record.restoring.is_some(), Some(tier.as_str())),
        };
        self.body(&record.body, keep, tier)
    }

    fn body(&mut self, body: &BodyRef, keep: bool, tier: Option<&str>) -> Result<(), EngineError> {
        match body {
            BodyRef::Inline(chunks) => {
                self.chunks(chunks, keep, tier);
                Ok(())
            }
            BodyRef::Nodes(nodes) => nodes.iter().try_for_each(|node| {
                // Manifests stay local for ever: they are metadata.
                self.mark.live(&node.id);
                self.count_remote(node.id, tier);
                let chunks = self.read_node(node, tier)?;
                self.chunks(&chunks, keep, tier);
                Ok(())
            }),
        }
    }

    fn chunks(&mut self, chunks: &[ChunkRef], keep: bool, tier: Option<&str>) {
        for chunk in chunks {
            if keep {
                self.mark.live(&chunk.id);
            } else {
                self.mark.cached(&chunk.id);
            }
            self.count_remote(chunk.id, tier);
        }
    }

    fn count_remote(&mut self, id: crate::chunk::ChunkId, tier: Option<&str>) {
        let Some(tier) = tier else { return };
        let number = self.tiers.iter().position(|t| t == tier).unwrap_or_else(|| {
            self.tiers.push(tier.to_owned());
            self.tiers.len() - 1
        });
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let mut front = [0; 8];
        front.copy_from_slice(&id.0[..8]);
        let fresh = self.counted.insert((number, u64::from_le_bytes(front)));
        // Every pack that has the chunk stays: which of them a job gives up in the end is not known yet.
        for (pack, stored_len) in self.core.remote.places(tier, &id) {
            let frame = crate::pack::format::FRAME_HEADER_LEN as u64 + u64::from(stored_len);
            *self.remote.entry((number, pack)).or_default() += if fresh { frame } else { 0 };
        }
    }

    fn read_node(&self, node: &NodeRef, tier: Option<&str>) -> Result<Vec<ChunkRef>, EngineError> {
        if let Some(chunks) = self.core.local_node(node)? {
            return Ok(chunks);
        }
        // Damaged locally: the tier has it, or the walk fails and nothing is removed.
        let len = u32::try_from(super::body::node_len(node.chunks)).unwrap_or(u32::MAX);
        let wanted = [ChunkRef { id: node.id, len }];
        let found = self.core.runtime.block_on(self.core.recall(&wanted, tier))?;
        decode_node(found.get(&node.id).map_or(&[][..], |raw| raw))
    }
}
