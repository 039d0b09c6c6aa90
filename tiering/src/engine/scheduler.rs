//! The one loop of background work. It reads what is due and nothing else (D7), hands transitions to jobs, and never
//! waits for one: back-pressure makes it pass on to the next entry.

use super::Core;
use super::claims::{Claim, Grouping, backoff};
use super::due::Action;
use super::error::EngineError;
use super::keys::{self, DueKind};
use super::record::{ObjectRecord, Record, RemotePackRecord, RemotePackState, UploadRecord};
use super::transition::Transition;
use super::types::Residency;
use crate::clock::Timestamp;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use std::collections::{BTreeMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Where one look at the due index ended, so that the next goes on behind it and nothing starves.
#[derive(Debug, Default)]
struct Cursor(Option<Vec<u8>>);

/// Background work of one engine.
pub(crate) struct Scheduler {
    core: Arc<Core>,
    objects: Cursor,
    uploads: Cursor,
    last_gc: Timestamp,
    last_access_flush: Timestamp,
    last_thaw_poll: Timestamp,
    doomed_failures: u32,
    doomed_not_before: Timestamp,
    /// Work that asks tiers runs beside the loop, one of each kind: a slow tier must not hold up what is due elsewhere.
    deleting: Option<Beside>,
    restoring: Option<Beside>,
}

type Beside = tokio::task::JoinHandle<Result<(), EngineError>>;

/// The outcome of work that has ended; None while it runs or when there is none.
async fn ended(slot: &mut Option<Beside>) -> Option<Result<(), EngineError>> {
    let task = slot.take_if(|task| task.is_finished())?;
    Some(task.await.unwrap_or_else(|e| Err(EngineError::Internal(format!("background work: {e}")))))
}

impl Scheduler {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        let now = core.clock.now();
        Self {
            core: Arc::clone(core),
            objects: Cursor::default(),
            uploads: Cursor::default(),
            last_gc: now,
            last_access_flush: now,
            last_thaw_poll: Timestamp(0),
            doomed_failures: 0,
            doomed_not_before: Timestamp(0),
            deleting: None,
            restoring: None,
        }
    }

    /// Runs until the engine shuts down.
    pub(crate) async fn run(mut self) {
        let poll = Duration::from_millis(self.core.settings.tiering.poll_ms.max(1));
        while !self.core.stop.is_cancelled() {
            let busy = match self.turn().await {
                Ok(busy) => busy,
                Err(e) => {
                    self.core.metrics.scheduler_errors.inc();
                    tracing::error!(error = %e, "background work failed and will be tried again");
                    false
                }
            };
            self.core.metrics.scheduler_last_turn.set(seconds(self.core.clock.now()));
            if busy {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = self.core.stop.cancelled() => {}
                () = self.core.wake.notified() => {}
                () = tokio::time::sleep(poll) => {}
            }
        }
    }

    /// One small unit of everything; true when there is more to do at once.
    async fn turn(&mut self) -> Result<bool, EngineError> {
        let now = self.core.clock.now();
        if std::mem::take(&mut *self.core.retry_now.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.doomed_not_before = Timestamp(0);
            self.last_thaw_poll = Timestamp(0);
            self.core.claims().retry_now();
        }
        let mut busy = self.due_objects(now).await?;
        busy |= self.due_uploads(now).await?;
        busy |= self.start_jobs(now);
        self.delete_doomed(now).await?;
        self.restores(now).await?;
        self.flush_access(now).await?;
        self.reclaim(now).await?;
        self.core.update_lag(now)?;
        Ok(busy)
    }

    async fn due_objects(&mut self, now: Timestamp) -> Result<bool, EngineError> {
        let mut progress = false;
        loop {
            for key in self.page(DueKind::Object, now)? {
                let Some((at, subject)) = keys::split_due(&key) else { continue };
                progress |= self.core.act(at, subject, now).await?;
            }
            // On to the index's end when all of a page waits already, so that what stands behind it is not held up.
            if progress || self.objects.0.is_none() {
                return Ok(progress);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn due_uploads(&mut self, now: Timestamp) -> Result<bool, EngineError> {
        let entries = self.page(DueKind::Upload, now)?;
        let full = entries.len() >= self.core.settings.tiering.due_batch;
        for key in entries {
            let Some((_, subject)) = keys::split_due(&key) else { continue };
            let Some((_, _, id)) = keys::split_upload(subject) else { continue };
            match self.core.abort_upload(subject, id).await {
                Ok(()) => self.core.metrics.aborted_uploads.inc(),
                // Completed or aborted meanwhile; its commit has taken the entry out.
                Err(EngineError::NoSuchUpload(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(full)
    }

    /// The next page of what is due, behind where the last one ended; from the start again after the end.
    fn page(&mut self, kind: DueKind, now: Timestamp) -> Result<Vec<Vec<u8>>, EngineError> {
        let cursor = match kind {
            DueKind::Upload => &mut self.uploads,
            _ => &mut self.objects,
        };
        let (first, end) = keys::due_until(kind, now);
        let start = cursor.0.take().map_or(first, Bound::Excluded);
        let limit = self.core.settings.tiering.due_batch.max(1);
        let page = self.core.meta.scan(Table::Due, (start, end), limit, false)?;
        if page.len() >= limit {
            cursor.0 = page.last().map(|(key, _)| key.clone());
        }
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// Starts the jobs that are worth it; true when one was started.
    fn start_jobs(&self, now: Timestamp) -> bool {
        let settings = self.core.settings.tiering;
        let rule = Grouping {
            bytes: settings.pack_bytes,
            members: settings.max_group,
            linger: Duration::from_millis(settings.linger_ms),
            workers: settings.workers,
        };
        let mut started = false;
        while let Some((tier, group)) = self.core.claims().next_group(now, rule) {
            started = true;
            let core = Arc::clone(&self.core);
            self.core.jobs.spawn(async move {
                let outcome = Transition::new(&core, &tier).run(&group).await;
                let mut group = group;
                let failed = match outcome {
                    Ok((moved, waiting)) => {
                        tracing::info!(%tier, ?moved, thawing = waiting.len(), "transition");
                        core.clear_tier_error(&tier);
                        let put_off: HashSet<&[u8]> = waiting.iter().map(|claim| claim.subject.as_slice()).collect();
                        group.retain(|claim| !put_off.contains(claim.subject.as_slice()));
                        drop(put_off);
                        let poll = Duration::from_millis(core.settings.tiering.thaw_poll_ms);
                        core.claims().postpone(&tier, waiting, core.clock.now().plus(poll));
                        None
                    }
                    Err(e) => {
                        core.note_tier_error(&tier, "transition", &e);
                        let (min, max) = core.retry_bounds();
                        Some((core.clock.now(), min, max))
                    }
                };
                core.claims().finish(&tier, group, failed);
                core.wake.notify_one();
            });
        }
        started
    }

    async fn delete_doomed(&mut self, now: Timestamp) -> Result<(), EngineError> {
        match ended(&mut self.deleting).await {
            None => {}
            Some(Ok(())) => self.doomed_failures = 0,
            Some(Err(e)) => {
                let (min, max) = self.core.retry_bounds();
                self.doomed_not_before = now.plus(backoff(self.doomed_failures, min, max));
                self.doomed_failures = self.doomed_failures.saturating_add(1);
                let tier = if let EngineError::Tier { tier, .. } = &e { tier.clone() } else { String::new() };
                self.core.note_tier_error(&tier, "delete", &e);
            }
        }
        if self.deleting.is_some() || now < self.doomed_not_before {
            return Ok(());
        }
        let doomed = self.core.remote_packs(RemotePackState::Doomed)?;
        if !doomed.is_empty() {
            let core = Arc::clone(&self.core);
            self.deleting = Some(self.core.jobs.spawn(async move {
                let outcome = core.delete_doomed(&doomed).await;
                core.wake.notify_one();
                outcome.map(drop)
            }));
        }
        Ok(())
    }

    /// Advances restore jobs: on a schedule, and at once when a new one has come.
    async fn restores(&mut self, now: Timestamp) -> Result<(), EngineError> {
        if let Some(outcome) = ended(&mut self.restoring).await {
            outcome?;
        }
        let poll = Duration::from_millis(self.core.settings.tiering.thaw_poll_ms);
        let wanted = &self.core.restores_wanted;
        if self.restoring.is_some() || (!wanted.load(Ordering::Acquire) && now < self.last_thaw_poll.plus(poll)) {
            return Ok(());
        }
        wanted.store(false, Ordering::Release);
        self.last_thaw_poll = now;
        let core = Arc::clone(&self.core);
        self.restoring = Some(self.core.jobs.spawn(async move {
            let outcome = core.advance_restores().await;
            core.wake.notify_one();
            outcome
        }));
        Ok(())
    }

    async fn flush_access(&mut self, now: Timestamp) -> Result<(), EngineError> {
        let every = Duration::from_millis((self.core.settings.tiering.access_granularity_ms / 4).max(1));
        if now >= self.last_access_flush.plus(every) {
            self.last_access_flush = now;
            self.core.flush_access().await?;
        }
        Ok(())
    }

    /// Looks for garbage on a schedule, and at once when the disk is filling up.
    async fn reclaim(&mut self, now: Timestamp) -> Result<(), EngineError> {
        let interval = self.core.settings.tiering.gc_interval_ms;
        let scheduled = interval > 0 && now >= self.last_gc.plus(Duration::from_millis(interval));
        let pressure = self.core.bytes_over_watermark();
        // Under pressure a mark a second is enough: what it frees needs writers to be used up.
        let pressing = pressure > 0 && now >= self.last_gc.plus(Duration::from_secs(1));
        if scheduled || pressing {
            self.last_gc = now;
            let report = self.core.collect_garbage(false, pressure).await?;
            if pressing && report.freed_bytes < pressure {
                self.core.transition_by_capacity(now)?;
            }
        }
        Ok(())
    }
}

impl Core {
    /// Does what is due for one version. False when nothing could be done now (claimed already, or a full table).
    async fn act(self: &Arc<Self>, at: Timestamp, subject: &[u8], now: Timestamp) -> Result<bool, EngineError> {
        let stored = self.meta.get(Table::Object, subject)?;
        let Some((stored, record)) = stored.and_then(|s| ObjectRecord::decode(&s).ok().map(|r| (s, r))) else {
            // Entry and version go in one commit, so this is a race with a delete that is being applied.
            return Ok(false);
        };
        if record.due != Some(at) || self.claims().holds(subject) {
            return Ok(false);
        }
        let (bucket, key) =
            keys::split_object(subject).ok_or_else(|| EngineError::Corrupt("a due entry names no object".into()))?;
        let plan = self.plan(bucket, key, &record, now);
        let outcome = match plan.action {
            Action::Transition { tier, .. } => {
                let claim = Claim { subject: subject.to_vec(), version: record.version, size: record.size };
                return Ok(self.claims().claim(&tier, claim, now, self.settings.tiering.max_claims));
            }
            Action::Expire { rule } => {
                tracing::debug!(bucket, key, %rule, "expire");
                self.metrics.expired_versions.inc();
                self.commit_delete(subject, &stored, &record, Reason::Expire).await
            }
            Action::ExpireRestored => {
                let mut next = record.clone();
                if let Residency::Restored { tier, .. } = &record.residency {
                    next.residency = Residency::Cold { tier: tier.clone() };
                }
                self.replace(subject, &stored, &record, next, Reason::RestoreExpired).await?
            }
            Action::Keep => self.replace(subject, &stored, &record, record.clone(), Reason::Reindex).await?,
        };
        match outcome {
            // A client's write won: its commit has set the due time anew.
            Ok(()) | Err(MetaError::Conflict { .. }) => Ok(true),
            Err(other) => Err(other.into()),
        }
    }

    /// Replaces the record of exactly this version; computes its due time anew.
    pub(crate) async fn replace(
        &self,
        subject: &[u8],
        stored: &[u8],
        old: &ObjectRecord,
        mut next: ObjectRecord,
        reason: Reason,
    ) -> Result<Result<(), MetaError>, EngineError> {
        let (bucket, key) = keys::split_object(subject)
            .ok_or_else(|| EngineError::Corrupt("an object key does not come apart".into()))?;
        let mut batch = Batch::new(reason).expect(Expect::Equals(Table::Object, subject.to_vec(), stored.to_vec()));
        self.put_version(&mut batch, (bucket, key), Some(old), &mut next)?;
        Ok(self.meta.commit(batch).await.map(drop))
    }

    /// Remote packs in a state, by key.
    pub(crate) fn remote_packs(
        &self,
        state: RemotePackState,
    ) -> Result<BTreeMap<Vec<u8>, RemotePackRecord>, EngineError> {
        let mut out = BTreeMap::new();
        let mut failed = None;
        self.meta.scan_each(Table::RemotePack, (Bound::Unbounded, Bound::Unbounded), &mut |key, value| {
            match RemotePackRecord::decode(value) {
                Ok(record) if record.state == state => drop(out.insert(key.to_vec(), record)),
                Ok(_) => {}
                Err(e) => {
                    failed = Some(e);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(out), Err)
    }

    /// What was being uploaded when the last process ended is an orphan: its name is never used again.
    pub(crate) async fn doom_orphans(&self) -> Result<u64, EngineError> {
        let mut count = 0;
        for (key, record) in self.remote_packs(RemotePackState::Uploading)? {
            let (tier, pack) = keys::split_remote_pack(&key)
                .ok_or_else(|| EngineError::Corrupt("a remote pack's key does not come apart".into()))?;
            let stored = record.encode()?;
            self.doom_pack(tier, crate::pack::PackId(pack.to_be_bytes()), &stored, record).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Moves idle hot versions where the policy's fill-level triggers want them, the longest idle first.
    pub(crate) fn transition_by_capacity(&self, now: Timestamp) -> Result<u64, EngineError> {
        let active = self.policy();
        let fill = self.fill_percent();
        if active.policy.lowest_fill_trigger().is_none_or(|lowest| fill < lowest) {
            return Ok(0);
        }
        let mut wanted = self.bytes_over_watermark();
        let mut claimed = 0;
        let page =
            self.meta.scan(Table::Due, keys::due_until(DueKind::Idle, now), self.settings.tiering.due_batch, false)?;
        for (key, _) in page {
            if wanted == 0 {
                break;
            }
            let Some((_, subject)) = keys::split_due(&key) else { continue };
            let Some(stored) = self.meta.get(Table::Object, subject)? else { continue };
            let record = ObjectRecord::decode(&stored)?;
            let Some((bucket, name)) = keys::split_object(subject) else { continue };
            let facts = super::due::facts(bucket, name, &record, self.last_access(bucket, name));
            let Some((tier, _)) = active.policy.capacity_candidates(fill, &facts) else { continue };
            let claim = Claim { subject: subject.to_vec(), version: record.version, size: record.size };
            if self.claims().claim(tier, claim, now, self.settings.tiering.max_claims) {
                claimed += 1;
                wanted = wanted.saturating_sub(record.size);
            }
        }
        Ok(claimed)
    }

    /// How late the oldest due action is, for the metric and the alert on it.
    pub(crate) fn oldest_due_lag(&self, now: Timestamp) -> Result<Duration, EngineError> {
        let mut oldest = now;
        for kind in [DueKind::Object, DueKind::Upload] {
            if let Some((key, _)) = self.meta.scan(Table::Due, keys::due_until(kind, now), 1, false)?.first()
                && let Some((at, _)) = keys::split_due(key)
            {
                oldest = oldest.min(at);
            }
        }
        Ok(now.since(oldest))
    }

    fn update_lag(&self, now: Timestamp) -> Result<(), EngineError> {
        self.metrics.oldest_due_lag.set(self.oldest_due_lag(now)?.as_secs_f64());
        Ok(())
    }

    /// Recomputes every due time after the rules changed. The only walk over the namespace, and only then.
    pub(crate) async fn reindex(self: &Arc<Self>) -> Result<(), EngineError> {
        self.progress.begin(self.clock.now(), self.accounts.objects());
        for table in [Table::Object, Table::Upload] {
            let mut start = Bound::Unbounded;
            loop {
                let page = self.meta.scan(table, (start, Bound::Unbounded), 500, false)?;
                let Some((last, _)) = page.last() else { break };
                start = Bound::Excluded(last.clone());
                for (key, stored) in page {
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                    match table {
                        Table::Object => self.reindex_object(&key, &stored).await?,
                        _ => self.reindex_upload(&key, &stored).await?,
                    }
                }
            }
        }
        self.progress.end(self.clock.now());
        self.wake.notify_one();
        Ok(())
    }

    async fn reindex_object(&self, subject: &[u8], stored: &[u8]) -> Result<(), EngineError> {
        let record = ObjectRecord::decode(stored)?;
        let (bucket, key) = keys::split_object(subject)
            .ok_or_else(|| EngineError::Corrupt("an object key does not come apart".into()))?;
        let now = self.clock.now();
        let due = self.plan(bucket, key, &record, now).due(now);
        let idle_wanted = self.policy().policy.lowest_fill_trigger().is_some() && record.residency == Residency::Hot;
        self.progress.step();
        if due == record.due && idle_wanted == record.idle.is_some() {
            return Ok(());
        }
        match self.replace(subject, stored, &record, record.clone(), Reason::Reindex).await? {
            // A client's write came first: it has been evaluated by the new rules.
            Ok(()) | Err(MetaError::Conflict { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    async fn reindex_upload(&self, subject: &[u8], stored: &[u8]) -> Result<(), EngineError> {
        let mut record = UploadRecord::decode(stored)?;
        let Some((bucket, key, _)) = keys::split_upload(subject) else { return Ok(()) };
        let after = self.policy().policy.abort_uploads_after(bucket, key).map(|(ms, _)| ms);
        let due = after.map(|ms| Timestamp(record.initiated.millis().saturating_add(ms)));
        if due == record.due {
            return Ok(());
        }
        let mut batch =
            Batch::new(Reason::Reindex).expect(Expect::Equals(Table::Upload, subject.to_vec(), stored.to_vec()));
        if let Some(at) = record.due {
            batch = batch.delete(Table::Due, keys::due(DueKind::Upload, at, subject));
        }
        if let Some(at) = due {
            batch = batch.put(Table::Due, keys::due(DueKind::Upload, at, subject), Vec::new());
        }
        record.due = due;
        match self.meta.commit(batch.put(Table::Upload, subject, record.encode()?)).await {
            Ok(_) | Err(MetaError::Conflict { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    Duration::from_millis(at.millis()).as_secs_f64()
}
