//! Reclaiming, by marks and never by counts: a chunk or pack goes only when a complete walk has proved it dead, so there
//! is nothing that could drift. The proof is in `docs/adr/0008-marking-not-counting.md`; the engine's part of it is
//! the order of steps in [`Core::collect_garbage`] and the barrier below.

use super::Core;
use super::blind::{Blind, Lost};
use super::doom::RemotePack;
use super::error::EngineError;
use super::record::RemotePackState;
use super::report::GcReport;
use super::walk::{Gone, LivePacks, Walk, Walked};
use crate::local::{RECALL_PERCENT, SweepGoal};
use crate::meta::{AppliedOp, CommitObserver, Op, Table, Value};
use std::collections::BTreeMap;
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
    /// Values with their tables and keys.
    values: Vec<Op>,
    bytes: usize,
    /// More came than is kept: the mark is not complete any more.
    missed: bool,
}

/// Most bytes of values that wait for the walk. It looks after every thousand of its own values, so this is far off unless writers
/// outrun it; then the mark is given up.
const MAX_SEEN_BYTES: usize = 128 << 20;

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

    pub(super) fn take(&self) -> Result<Vec<Op>, EngineError> {
        match self.lock().as_mut().map(std::mem::take) {
            Some(seen) if !seen.missed => Ok(seen.values),
            _ => Err(EngineError::SlowDown("more is written than a mark can follow; nothing was removed".into())),
        }
    }
}

impl CommitObserver for MarkBarrier {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        if let Some(seen) = self.lock().as_mut() {
            for AppliedOp { op, .. } in
                ops.iter().filter(|o| matches!(o.op.table, Table::Object | Table::Version | Table::Part))
            {
                let Some(value) = &op.value else { continue };
                seen.bytes = seen.bytes.saturating_add(value.len() + op.key.len());
                seen.missed |= seen.bytes > MAX_SEEN_BYTES;
                if seen.missed {
                    seen.values = Vec::new();
                    return;
                }
                seen.values.push(op.clone());
            }
        }
    }
}

/// Bytes of remote packs that no version refers to, by tier: as of the last mark.
pub(crate) type DeadBytes = BTreeMap<String, u64>;

/// What a walk and the sweep behind it came to.
struct Marked {
    report: GcReport,
    live: LivePacks,
    blind: Blind,
    affected: Lost,
}

/// How a cycle is run.
#[derive(Default)]
struct Cycle {
    dry_run: bool,
    bytes_to_free: u64,
    gone: Gone,
}

impl Core {
    /// One cycle: mark, sweep local packs, doom unreferenced remote packs. `bytes_to_free` above zero also evicts clean
    /// copies of cold versions. With `dry_run` nothing is changed.
    ///
    /// What the walk cannot read does not end it: everything that it may name is kept (see [`super::blind`]).
    ///
    /// # Errors
    /// Of the index, or of a shutdown: then nothing at all is removed (when information is missing, keep the data).
    pub(crate) async fn collect_garbage(
        self: &Arc<Self>,
        dry_run: bool,
        bytes_to_free: u64,
    ) -> Result<GcReport, EngineError> {
        let cycle = Cycle { dry_run, bytes_to_free, gone: Gone::default() };
        self.run_cycle(cycle).await.map(|(report, _)| report)
    }

    /// Finds what cannot be read in full if what is in `gone` is, and which bodies name chunks there. Changes nothing.
    ///
    /// # Errors
    /// As [`collect_garbage`](Self::collect_garbage).
    pub(super) async fn examine(self: &Arc<Self>, gone: Gone) -> Result<(GcReport, Lost), EngineError> {
        self.run_cycle(Cycle { dry_run: true, bytes_to_free: 0, gone }).await
    }

    async fn run_cycle(self: &Arc<Self>, cycle: Cycle) -> Result<(GcReport, Lost), EngineError> {
        let dry_run = cycle.dry_run;
        // Goes with the mark: a caller who gives up must not let another cycle in, which would take the barrier away
        // from the one that still runs.
        let only_one = Arc::clone(&self.gc_running).lock_owned().await;
        // What may be doomed is fixed before the walk: packs that come later are out of its reach, and a version that
        // comes to refer to one of these raises its counter, which fails the doom's compare-and-swap. (A copy of a cold
        // version raises none: its commit expects the source to stand, and the source was marked or observed.)
        let candidates = self.remote_packs(RemotePackState::Live)?;
        let mut fences = BTreeMap::new();
        for found in &candidates {
            if !fences.contains_key(&found.tier) {
                fences.insert(found.tier.clone(), self.fence(&found.tier)?);
            }
        }
        let core = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || (core.mark_and_sweep(&cycle), only_one));
        let (outcome, _only_one) = task.await.map_err(|e| EngineError::Internal(format!("collect garbage: {e}")))?;
        let Marked { mut report, live, blind, affected } = outcome?;
        let mut dead: DeadBytes = BTreeMap::new();
        for found in candidates {
            if let Some(live_bytes) = live.get(&(found.tier.clone(), found.pack)) {
                let overhead = found.record.bytes.saturating_sub(*live_bytes);
                *dead.entry(found.tier).or_default() += overhead;
            } else if blind.may_need(&found.tier)
                || !self.remote.holds(&found.tier, &found.pack)
                || self.is_untold(&found)
            {
                report.remote_packs_kept += 1;
            } else if dry_run || self.doom_candidate(found, &fences).await? {
                report.remote_packs_doomed += 1;
            }
        }
        *self.dead_bytes.lock().unwrap_or_else(PoisonError::into_inner) = dead;
        self.tell_blind(&blind, &mut report);
        if !dry_run {
            self.thaw_for_walk(&blind).await;
        }
        Ok((report, affected))
    }

    async fn doom_candidate(
        &self,
        found: RemotePack,
        fences: &BTreeMap<String, Option<Value>>,
    ) -> Result<bool, EngineError> {
        // A job that has just uploaded a pack refers to it with its next commit. Without a job, a pack that nobody
        // ever referred to was left by a crash.
        if found.record.references == 0 && self.making.holds(&found.pack) {
            return Ok(false);
        }
        let fence = fences.get(&found.tier).and_then(Option::as_ref);
        self.doom_marked(found, fence).await
    }

    fn mark_and_sweep(self: &Arc<Self>, cycle: &Cycle) -> Result<Marked, EngineError> {
        let Cycle { dry_run, bytes_to_free, ref gone } = *cycle;
        let listening = self.barrier.open();
        let mark = self.local.begin_mark()?;
        self.remote.begin_count();
        let mut walk = Walk::new(self, &mark, (dry_run, gone));
        walk.everything()?;
        walk.readers()?;
        // A commit can be seen in the index a moment before the barrier hears of it: a completed upload, whose parts the
        // walk found gone already and whose object it had passed. Behind this request the committer has told all that
        // the walk can have seen. With relaxed durability it also keeps a crash from bringing names back whose chunks
        // are swept below.
        self.meta.sync()?;
        walk.listen()?;
        drop(listening);
        let Walked { live, mut blind, lost, affected } = walk.end();
        let mut report = GcReport { dry_run, ..Default::default() };
        self.tell_lost(lost, &mut report);
        let doubt = self.doubt_of(&mut blind);
        if dry_run {
            let dead = mark.preview(doubt);
            report.dead_bytes = dead.dead_bytes;
            report.dead_chunks = dead.dead_chunks;
            report.doubted_bytes = dead.doubted_bytes;
            report.packs = dead.packs;
            return Ok(Marked { report, live, blind, affected });
        }
        let stop = self.stop.clone();
        let goal = SweepGoal { bytes_to_free, ..SweepGoal::default() };
        let swept = mark.sweep(goal, doubt, &|| stop.is_cancelled())?;
        self.remember_doubt(&blind);
        report.packs = swept.packs;
        report.packs_deleted = swept.packs_deleted;
        report.packs_compacted = swept.packs_compacted;
        report.dead_chunks = swept.dead_chunks;
        report.dead_bytes = swept.dead_bytes;
        report.doubted_bytes = swept.doubted_bytes;
        report.freed_bytes = swept.freed_bytes;
        report.kept_bytes = swept.kept_bytes;
        report.notes.extend(swept.damaged.iter().map(|d| format!("damaged, its pack stays: {d}")));
        self.metrics.reclaimed_bytes.inc_by(swept.freed_bytes);
        Ok(Marked { report, live, blind, affected })
    }

    /// Bytes by which local packs stand above the watermark that leaves a margin for writers.
    pub(crate) fn bytes_over_watermark(&self) -> u64 {
        let over_limit = self.local.budget().used().saturating_sub(self.client_bytes() / 100 * WATERMARK_PERCENT);
        over_limit.max(self.bytes_short_of_floor())
    }

    /// Whether `bytes` of recalled chunks may be kept, as a cache or of a restore; the budget has the last word. They may stand
    /// above the watermark, or what is there already would never give way to them, but not take all of the margin: a
    /// client's write would be refused for bytes that a tier has.
    pub(crate) fn has_room_to_recall(&self, bytes: u64) -> bool {
        let budget = self.local.budget();
        budget.used().saturating_add(bytes) <= budget.capacity() / 100 * RECALL_PERCENT
    }

    /// Bytes by which the file system is short of its floor and the same margin.
    pub(crate) fn bytes_short_of_floor(&self) -> u64 {
        let budget = self.local.budget();
        budget.short_of_floor(budget.capacity() / 100 * (100 - WATERMARK_PERCENT))
    }
}

/// Reclaiming begins here, so that writers meet a margin and not the limit.
const WATERMARK_PERCENT: u64 = 90;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: usize) -> AppliedOp {
        let op = Op { table: Table::Object, key: b"b\0k".to_vec(), value: Some(vec![0; bytes]) };
        AppliedOp { op, old: None }
    }

    #[test]
    fn more_commits_than_a_mark_can_hold_end_it_and_take_no_more_memory_and_the_next_mark_begins_anew() {
        let barrier = MarkBarrier::default();
        barrier.applied(1, &[written(10)]);
        let listening = barrier.open();
        barrier.applied(2, &[written(10)]);
        assert_eq!(barrier.take().unwrap().len(), 1, "what came before it began is none of its business");
        for seq in 3..6 {
            barrier.applied(seq, &[written(MAX_SEEN_BYTES / 2)]);
        }
        assert!(barrier.lock().as_ref().is_some_and(|seen| seen.values.capacity() == 0));
        assert!(matches!(barrier.take(), Err(EngineError::SlowDown(_))));
        drop(listening);
        let _listening = barrier.open();
        barrier.applied(6, &[written(10)]);
        assert_eq!(barrier.take().unwrap().len(), 1);
    }
}
