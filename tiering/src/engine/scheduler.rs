//! The one loop of background work. It reads what is due and nothing else (D7), hands transitions to jobs, and never
//! waits for one: back-pressure makes it pass on to the next entry.

use super::Core;
use super::claims::{Aim, Claim, Failure, Grouping, Work, backoff};
use super::error::EngineError;
use super::keys::{self, DueKind};
use super::record::RemotePackState;
use super::transition::{Done, Transition};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Table};
use crate::tier::TierErrorKind;
use futures::{FutureExt, StreamExt};
use std::collections::HashSet;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
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
    /// Versions that wait to be protected.
    waiting: Cursor,
    last_gc: Timestamp,
    last_access_flush: Timestamp,
    last_thaw_poll: Timestamp,
    doomed_failures: u32,
    doomed_not_before: Timestamp,
    /// Work that asks tiers runs beside the loop, one of each kind: a slow tier must not hold up what is due elsewhere.
    deleting: Option<Beside>,
    restoring: Option<Beside>,
    /// A mark walks the whole namespace: what is due must not wait for it either.
    reclaiming: Option<Beside>,
    /// The lowest fill level of the policy was reached at the last look.
    level_reached: bool,
    /// [`Claims::moved`](super::claims::Claims::moved) when the last cycle began: what has moved since can be evicted.
    moved_before: u64,
}

/// Pages of due entries that one turn looks at when nothing can be done for any of them.
const PAGES_A_TURN: usize = 8;

/// Due entries that are worked on at a time: their commits share the journal's syncs.
const SIDE_BY_SIDE: usize = 64;

/// Waits between cycles under pressure: what one frees, writers need time to use up; and one that frees nothing is a
/// walk for nothing.
const PRESSING_MIN: Duration = Duration::from_secs(1);
const PRESSING_MAX: Duration = Duration::from_secs(60);

/// The same under a fill level of the policy that is below the watermark: writers still have room, so that fewer walks do.
const LEVEL_MIN: Duration = Duration::from_secs(10);
const LEVEL_MAX: Duration = Duration::from_secs(600);

/// How soon packs are looked at again that are kept for recoveries to an earlier moment.
const DOOMED_AGAIN: Duration = Duration::from_secs(60);

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
            waiting: Cursor::default(),
            last_gc: now,
            last_access_flush: now,
            last_thaw_poll: Timestamp(0),
            doomed_failures: 0,
            doomed_not_before: Timestamp(0),
            deleting: None,
            restoring: None,
            reclaiming: None,
            level_reached: false,
            moved_before: 0,
        }
    }

    /// Runs until the engine shuts down.
    pub(crate) async fn run(mut self) {
        let poll = Duration::from_millis(self.core.settings.tiering.poll_ms.max(1));
        while !self.core.stop.is_cancelled() {
            let turn = AssertUnwindSafe(self.turn()).catch_unwind().await;
            // A panic in one turn must not end all background work in silence.
            let core = Arc::clone(&self.core);
            let busy =
                turn.unwrap_or_else(|_| noted(&core, "a turn", Err(EngineError::Internal("it panicked".into()))));
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
    /// What fails is noted and tried again; it holds up nothing else.
    pub(super) async fn turn(&mut self) -> bool {
        let core = Arc::clone(&self.core);
        let now = core.clock.now();
        if core.is_fenced() {
            return false;
        }
        if std::mem::take(&mut *self.core.retry_now.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.doomed_not_before = Timestamp(0);
            self.last_thaw_poll = Timestamp(0);
            self.core.claims().retry_now();
        }
        let mut busy = noted(&core, "what is due", self.due_objects(now).await);
        busy |= noted(&core, "what waits to be protected", self.waiting_objects(now).await);
        busy |= noted(&core, "uploads to abort", self.due_uploads(now).await);
        busy |= self.start_jobs(now);
        noted(&core, "remote deletes", self.delete_doomed(now).await);
        noted(&core, "restores", self.restores(now).await);
        noted(&core, "last reads", self.flush_access(now).await);
        noted(&core, "reclaiming", self.reclaim(now).await);
        noted(&core, "the lag", core.update_lag(now));
        noted(&core, "the lag of protection", core.watch_protection(now));
        busy
    }

    async fn due_objects(&mut self, now: Timestamp) -> Result<bool, EngineError> {
        let core = Arc::clone(&self.core);
        let mut progress = false;
        for _ in 0..PAGES_A_TURN {
            let acts = self.page(DueKind::Object, now)?.into_iter().map(|key| {
                let core = Arc::clone(&core);
                async move {
                    match keys::split_due(&key) {
                        Some((at, subject)) => core.act(at, subject, now).await,
                        None => {
                            core.broken.report(Table::Due, &key, &EngineError::Corrupt("it is too short".into()));
                            Ok(false)
                        }
                    }
                }
            });
            let mut outcomes = futures::stream::iter(acts).buffer_unordered(SIDE_BY_SIDE);
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Err(e @ EngineError::Unavailable(_)) => return Err(e),
                    other => progress |= noted(&core, "one version", other),
                }
            }
            if progress || self.objects.0.is_none() {
                return Ok(progress);
            }
            // On when all of a page waits already, so that what stands behind it is not held up; the next turn goes on
            // where this one ends.
            tokio::task::yield_now().await;
        }
        Ok(false)
    }

    /// Claims what waits to be protected, the oldest first.
    async fn waiting_objects(&mut self, now: Timestamp) -> Result<bool, EngineError> {
        for _ in 0..PAGES_A_TURN {
            let mut progress = false;
            for key in self.page(DueKind::Protect, now)? {
                let Some((at, subject)) = keys::split_due(&key) else {
                    self.core.broken.report(Table::Due, &key, &EngineError::Corrupt("it is too short".into()));
                    continue;
                };
                match self.core.act_waiting(at, subject, now) {
                    Err(e @ EngineError::Unavailable(_)) => return Err(e),
                    other => progress |= noted(&self.core, "one version", other),
                }
            }
            if progress || self.waiting.0.is_none() {
                return Ok(progress);
            }
            tokio::task::yield_now().await;
        }
        Ok(false)
    }

    async fn due_uploads(&mut self, now: Timestamp) -> Result<bool, EngineError> {
        let entries = self.page(DueKind::Upload, now)?;
        let full = entries.len() >= self.core.settings.tiering.due_batch;
        for key in entries {
            let split = keys::split_due(&key).and_then(|(at, s)| Some((at, s, keys::split_upload(s)?.2)));
            let Some((at, subject, id)) = split else {
                self.core.broken.report(Table::Due, &key, &EngineError::Corrupt("it names no upload".into()));
                continue;
            };
            match self.core.abort_due_upload(subject, id, at).await {
                Ok(()) => self.core.metrics.aborted_uploads.inc(),
                // Completed or aborted meanwhile; its commit has taken the entry out.
                Err(EngineError::NoSuchUpload(_)) => {}
                Err(e @ EngineError::Unavailable(_)) => return Err(e),
                other => noted(&self.core, "one upload", other),
            }
        }
        Ok(full)
    }

    /// The next page of what is due, behind where the last one ended; from the start again after the end.
    fn page(&mut self, kind: DueKind, now: Timestamp) -> Result<Vec<Vec<u8>>, EngineError> {
        let cursor = match kind {
            DueKind::Upload => &mut self.uploads,
            DueKind::Protect => &mut self.waiting,
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
            protect_linger: Duration::from_millis(settings.protect_linger_ms),
            workers: settings.workers,
        };
        let mut started = false;
        while let Some((aim, group)) = self.core.claims().next_group(now, rule) {
            started = true;
            let core = Arc::clone(&self.core);
            self.core.jobs.spawn(core.run_job(aim, group));
        }
        started
    }

    async fn delete_doomed(&mut self, now: Timestamp) -> Result<(), EngineError> {
        match ended(&mut self.deleting).await {
            None => {}
            Some(Ok(())) => {
                self.doomed_failures = 0;
                if self.core.ship.is_some() {
                    // Some may wait for the end of `recovery.keep`.
                    self.core.doomed_wanted.store(true, Ordering::Release);
                    self.doomed_not_before = now.plus(DOOMED_AGAIN);
                }
            }
            Some(Err(e)) => {
                self.core.doomed_wanted.store(true, Ordering::Release);
                let (min, max) = self.core.retry_bounds();
                self.doomed_not_before = now.plus(backoff(self.doomed_failures, min, max));
                self.doomed_failures = self.doomed_failures.saturating_add(1);
                tracing::warn!(error = %e, "what could not be deleted will be tried again");
            }
        }
        let wanted = &self.core.doomed_wanted;
        if self.deleting.is_some() || now < self.doomed_not_before || !wanted.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let doomed = self.core.remote_packs(RemotePackState::Doomed);
        let doomed = doomed.inspect_err(|_| wanted.store(true, Ordering::Release))?;
        if !doomed.is_empty() {
            let core = Arc::clone(&self.core);
            self.deleting = Some(self.core.jobs.spawn(async move {
                let outcome = core.delete_doomed_durably(&doomed).await;
                core.wake.notify_one();
                outcome
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
        if let Some(outcome) = ended(&mut self.reclaiming).await {
            outcome?;
        }
        if self.reclaiming.is_some() {
            return Ok(());
        }
        let (pressure, pressing) = self.pressure(now);
        if scheduled || pressing {
            self.last_gc = now;
            self.moved_before = self.core.claims().moved();
            let core = Arc::clone(&self.core);
            self.reclaiming = Some(self.core.jobs.spawn(async move {
                let outcome = core.reclaim(now, pressure, pressing).await;
                core.wake.notify_one();
                outcome
            }));
        }
        Ok(())
    }
}

impl Scheduler {
    /// Bytes that the hot disks should give back, and whether it is time for a cycle because of them. A few numbers are
    /// compared, no table is asked: every turn does this.
    fn pressure(&mut self, now: Timestamp) -> (u64, bool) {
        let over_watermark = self.core.bytes_over_watermark();
        let over_level = self.core.bytes_over_lowest_level();
        if over_level > 0 && !self.level_reached {
            // Cycles that found nothing below the level say nothing about what a rule frees now.
            self.core.expect_garbage();
        }
        self.level_reached = over_level > 0;
        let (min, max) = if over_watermark > 0 { (PRESSING_MIN, PRESSING_MAX) } else { (LEVEL_MIN, LEVEL_MAX) };
        let rested = now >= self.last_gc.plus(backoff(self.core.fruitless.load(Ordering::Acquire), min, max));
        let (moved, on_its_way) = {
            let claims = self.core.claims();
            (claims.moved(), claims.on_its_way(self.moved_before))
        };
        // While all that is over the level is on its way, a walk could only find that out.
        let by_level = over_level > on_its_way || (over_level > 0 && moved != self.moved_before);
        (over_watermark.max(over_level), rested && (over_watermark > 0 || by_level))
    }
}

/// Whether a job failed because of its tier (or the store), so that any other job would have, too. Else one of its
/// versions may be to blame, and smaller jobs find out which.
fn is_of_tier(e: &EngineError) -> bool {
    match e {
        EngineError::Unavailable(_) => true,
        EngineError::Tier { source, .. } => matches!(
            source.kind(),
            TierErrorKind::Throttled { .. } | TierErrorKind::Unavailable | TierErrorKind::Denied
        ),
        _ => false,
    }
}

/// Notes a failure and goes on with nothing.
fn noted<T: Default>(core: &Core, what: &str, outcome: Result<T, EngineError>) -> T {
    outcome.unwrap_or_else(|e| {
        core.metrics.scheduler_errors.inc();
        tracing::error!(what, error = %e, "background work failed and will be tried again");
        T::default()
    })
}

impl Core {
    /// Runs one job and gives its claims back, whatever becomes of it.
    async fn run_job(self: Arc<Self>, aim: Aim, mut group: Vec<Claim>) {
        let work = async {
            match aim.work {
                Work::Release => self.release_all(&aim.tier, &group).await,
                Work::Move | Work::Protect | Work::Tell => Transition::new(&self, &aim).run(&mut group).await,
            }
        };
        let run = AssertUnwindSafe(work).catch_unwind().await;
        let outcome = run.unwrap_or_else(|_| Err(EngineError::Internal("the job panicked".into())));
        let (min, max) = self.retry_bounds();
        let now = self.clock.now();
        let failed = match outcome {
            Ok(done) => {
                let Done { moved, waiting, resting } = done;
                tracing::info!(job = %aim, ?moved, thawing = waiting.len(), resting = resting.len(), "done");
                if resting.is_empty() {
                    self.clear_tier_error(&aim.tier);
                }
                if moved.versions > 0 {
                    // Their local copies can be evicted now.
                    self.expect_garbage();
                }
                let put_off: HashSet<&[u8]> = waiting.iter().chain(&resting).map(|c| c.subject.as_slice()).collect();
                group.retain(|claim| !put_off.contains(claim.subject.as_slice()));
                drop(put_off);
                let poll = Duration::from_millis(self.settings.tiering.thaw_poll_ms);
                let mut claims = self.claims();
                claims.postpone(&aim, waiting, now.plus(poll));
                claims.rest(resting, now, (min, max));
                None
            }
            Err(e) => {
                self.note_tier_error(&aim.tier, &aim.to_string(), &e);
                Some(Failure { now, min, max, of_tier: is_of_tier(&e) })
            }
        };
        self.claims().finish(&aim, group, failed);
        self.wake.notify_one();
    }

    async fn reclaim(self: &Arc<Self>, now: Timestamp, pressure: u64, pressing: bool) -> Result<(), EngineError> {
        let moved_before = self.claims().moved();
        let report = self.collect_garbage(false, pressure).await;
        let freed = report.as_ref().map_or(0, |r| r.freed_bytes);
        if pressing && freed == 0 {
            self.fruitless.fetch_add(1, Ordering::AcqRel);
        } else {
            self.fruitless.store(0, Ordering::Release);
        }
        // Also after a failure: what can leave the disks by another way shall.
        if pressing && freed < pressure {
            self.transition_by_capacity(now, moved_before)?;
        }
        report.map(drop)
    }

    /// Something local is named no more: cycles that freed nothing say nothing about the next one, and whoever deletes
    /// to make room on a full disk waits for it.
    pub(crate) fn expect_garbage(&self) {
        self.fruitless.store(0, Ordering::Release);
    }

    async fn abort_due_upload(&self, subject: &[u8], id: &str, at: Timestamp) -> Result<(), EngineError> {
        let (stored, upload) = self.stored_upload(subject, id)?;
        if upload.due != Some(at) {
            return Ok(());
        }
        // The rule may have gone, and the walk for it may not have come here yet.
        match keys::split_upload(subject) {
            Some((bucket, key, _)) if self.upload_due(bucket, key, &upload) != Some(at) => {
                self.reindex_upload(subject, &stored).await
            }
            _ => self.abort_upload(subject, id).await,
        }
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
}

fn seconds(at: Timestamp) -> f64 {
    Duration::from_millis(at.millis()).as_secs_f64()
}
