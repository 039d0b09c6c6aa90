//! RestoreObject: a durable job before the client sees 202, thaws merged over all jobs, polling by schedule (no thread
//! waits), then the same frames stored again and one compare-and-swap to `Restored`.

use super::body::{BodyRef, ChunkRef, NodeRef, decode_node, node_len};
use super::doom::is_silence;
use super::due::Look;
use super::error::EngineError;
use super::events::EventKind;
use super::keys;
use super::record::{ObjectRecord, Record, RestoreJob, ThawRecord};
use super::types::{Residency, RestoreOutcome, RestoreRequest};
use super::versions::Stored;
use super::{Core, Engine};
use crate::chunk::ChunkId;
use crate::clock::Timestamp;
use crate::failpoint;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use crate::pack::PackClass;
use crate::pack::PackId;
use crate::tier::{RestorePriority, RestoreState};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a commit is tried again after conflicts.
const MAX_RACES: usize = 8;

/// Bytes of chunks that are recalled in one go.
const RECALL_BATCH: u64 = 8 << 20;

/// Jobs that are taken together: what their versions have in the same packs is read together.
const WINDOW: usize = 256;

/// Packs whose thaw is remembered within a round: about 100 bytes each. Beyond it, packs are asked after again.
const MAX_THAWED: usize = 100_000;

/// Packs that are asked after at a time.
const SIDE_BY_SIDE: usize = 16;

/// What one round has learnt of thaws: true when the pack can be read. Forgetting costs a HEAD, no more.
#[derive(Debug, Default)]
pub(crate) struct Thawed(BTreeMap<(String, PackId), bool>);

impl Thawed {
    fn get(&self, tier: &str, pack: PackId) -> Option<bool> {
        self.0.get(&(tier.to_owned(), pack)).copied()
    }

    fn note(&mut self, tier: &str, pack: PackId, ready: bool) {
        if self.0.len() >= MAX_THAWED {
            self.0.clear();
        }
        self.0.insert((tier.to_owned(), pack), ready);
    }
}

fn read_job(key: &[u8], value: &[u8]) -> Result<(u128, RestoreJob), EngineError> {
    let id: [u8; 16] = key.try_into().map_err(|_| EngineError::Corrupt("a job's key is not 16 bytes long".into()))?;
    Ok((u128::from_be_bytes(id), RestoreJob::decode(value)?))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A job whose packs can all be read, with the version as it was found.
struct Ready {
    id: u128,
    job: RestoreJob,
    found: Stored,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Engine {
    /// Asks for a readable copy of an archived version.
    ///
    /// # Errors
    /// [`EngineError::RestoreInProgress`], [`EngineError::NotArchived`], [`EngineError::NoSuchKey`].
    pub async fn restore_object(&self, restore: RestoreRequest) -> Result<RestoreOutcome, EngineError> {
        if restore.days == 0 || restore.days > MAX_RESTORE_DAYS {
            let message = format!("Days is {}; 1 to {MAX_RESTORE_DAYS} are possible", restore.days);
            return Err(EngineError::InvalidArgument(message));
        }
        for _ in 0..MAX_RACES {
            match self.core.try_restore(&restore).await {
                Err(EngineError::Conflict) => {}
                other => return other,
            }
        }
        Err(EngineError::Conflict)
    }
}

/// As S3: two years are allowed by no console, ten by its API's schema; a year is what OSS allows.
pub const MAX_RESTORE_DAYS: u32 = 365;

impl Core {
    async fn try_restore(&self, restore: &RestoreRequest) -> Result<RestoreOutcome, EngineError> {
        let found = self.find(&restore.bucket, &restore.key, restore.version)?;
        let mut batch = Batch::new(Reason::RestoreRequest).expect(found.unchanged());
        let Stored { subject, record, .. } = found;
        let now = self.clock.now();
        let mut next = record.clone();
        let outcome = match &record.residency {
            _ if self.restore_runs(&record)? => return Err(EngineError::RestoreInProgress),
            Residency::Restored { tier, .. } => {
                next.residency = Residency::Restored { tier: tier.clone(), until: now.plus(DAY * restore.days) };
                RestoreOutcome::Extended
            }
            Residency::Cold { tier } if !self.tier_is_online(tier) => {
                let id = keys::fresh_id(now);
                next.restoring = Some(id);
                let job = RestoreJob {
                    bucket: restore.bucket.clone(),
                    key: restore.key.clone(),
                    version: record.version,
                    tier: tier.clone(),
                    days: restore.days,
                    priority: restore.priority,
                    requested: now,
                };
                batch = batch.put(Table::Job, keys::job(id), job.encode()?);
                RestoreOutcome::Accepted
            }
            _ => return Err(EngineError::NotArchived { class: self.class_shown(&record) }),
        };
        self.put_version(&mut batch, &subject, (Some(&record), Look::AsPlanned), &mut next)?;
        if outcome == RestoreOutcome::Accepted {
            self.tell(&mut batch, EventKind::RestorePost, (&restore.bucket, &restore.key), &next)?;
        }
        match self.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => return Err(EngineError::Conflict),
            other => other?,
        };
        failpoint::hit("restore.after_accept");
        self.restores_wanted.store(true, Ordering::Release);
        self.wake.notify_one();
        Ok(outcome)
    }

    /// Whether a restore of this version is under way. One whose job is gone or cannot be read will never end: a new one may begin.
    fn restore_runs(&self, record: &ObjectRecord) -> Result<bool, EngineError> {
        let Some(id) = record.restoring else { return Ok(false) };
        let key = keys::job(id);
        let stored = self.meta.get(Table::Job, &key)?;
        Ok(stored.is_some_and(|job| self.usable(Table::Job, &key, read_job(&key, &job)).is_some()))
    }

    /// How many restores are open, and when the oldest was asked for. Jobs that cannot be read count as well.
    pub(crate) fn open_restores(&self) -> Result<(u64, Option<Timestamp>), EngineError> {
        let (mut count, mut oldest) = (0, None::<Timestamp>);
        self.meta.scan_each(Table::Job, (Bound::Unbounded, Bound::Unbounded), &mut |key, value| {
            count += 1;
            if let Some((_, job)) = self.usable(Table::Job, key, read_job(key, value)) {
                oldest = Some(oldest.map_or(job.requested, |at| at.min(job.requested)));
            }
            ControlFlow::Continue(())
        })?;
        Ok((count, oldest))
    }

    /// Takes every restore job one step further, a window at a time. A job that fails says so and is tried again by the
    /// next poll; neither it nor one that cannot be read holds up the others.
    pub(crate) async fn advance_restores(self: &Arc<Self>) -> Result<(), EngineError> {
        let mut thawed = Thawed::default();
        let mut silent = BTreeSet::new();
        // Up to the newest job of now: those that come meanwhile are for the next round, or a steady stream of them would
        // keep the older ones from ever being looked at again.
        let newest = self.meta.scan(Table::Job, (Bound::Unbounded, Bound::Unbounded), 1, true)?;
        let Some((newest, _)) = newest.into_iter().next() else { return Ok(()) };
        let mut start = Bound::Unbounded;
        loop {
            let page = self.meta.scan(Table::Job, (start, Bound::Included(newest.clone())), WINDOW, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            start = Bound::Excluded(last.clone());
            let jobs: Vec<_> =
                page.iter().filter_map(|(key, value)| self.usable(Table::Job, key, read_job(key, value))).collect();
            self.thaw_ahead(&jobs, &mut thawed, &mut silent).await;
            let mut ready = Vec::new();
            for (id, job) in &jobs {
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                // Each of thousands of jobs would wait for the same time-out, and so would those of tiers that answer.
                if silent.contains(&job.tier) {
                    continue;
                }
                match self.ready_to_restore(*id, job, &mut thawed).await {
                    Ok(found) => ready.extend(found),
                    Err(e) => self.note_restore_error(&job.tier, &e, &mut silent),
                }
            }
            let (small, large): (Vec<_>, Vec<_>) =
                ready.into_iter().partition(|r| matches!(r.found.record.body, BodyRef::Inline(_)));
            self.prefetch(&small).await;
            // Small ones side by side, so that their commits make few groups; large ones one after the other, so that
            // memory stays bounded.
            futures::future::join_all(small.iter().map(|r| self.finish_and_note(r))).await;
            for ready in &large {
                if !silent.contains(&ready.job.tier) && self.finish_and_note(ready).await {
                    silent.insert(ready.job.tier.clone());
                }
            }
        }
    }

    fn note_restore_error(&self, tier: &str, e: &EngineError, silent: &mut BTreeSet<String>) {
        self.note_tier_error(tier, "restore", e);
        if is_silence(e) {
            silent.insert(tier.to_owned());
        }
    }

    /// Asks after the packs of many small bodies side by side; what is learnt spares their jobs the question. A tier that
    /// does not answer becomes `silent`; other failures are met again by the job that they concern.
    async fn thaw_ahead(
        self: &Arc<Self>,
        jobs: &[(u128, RestoreJob)],
        thawed: &mut Thawed,
        silent: &mut BTreeSet<String>,
    ) {
        let mut wanted = BTreeMap::new();
        for (id, job) in jobs {
            let found = self.awaiting(*id, job).ok().flatten().map(|found| found.record);
            let Some(record) = found.filter(|r| matches!(r.body, BodyRef::Inline(_))) else { continue };
            let Ok((packs, _)) = self.packs_to_thaw(&record, &job.tier) else { continue };
            for (pack, name) in packs {
                if thawed.get(&job.tier, pack).is_none() {
                    // The most urgent of those who want it.
                    let urgency = wanted.entry((job.tier.clone(), pack)).or_insert((name, job.priority));
                    urgency.1 = urgency.1.max(job.priority);
                }
            }
        }
        let stop = Mutex::new(silent);
        let asked = wanted.into_iter().map(|((tier, pack), (name, priority))| {
            let stop = &stop;
            async move {
                if lock(stop).contains(&tier) || self.stop.is_cancelled() {
                    return None;
                }
                match self.thaw(&tier, pack, &name, priority).await {
                    Ok(ready) => Some((tier, pack, ready)),
                    Err(e) => {
                        if is_silence(&e) && !lock(stop).contains(&tier) {
                            self.note_restore_error(&tier, &e, &mut lock(stop));
                        }
                        None
                    }
                }
            }
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(SIDE_BY_SIDE);
        while let Some(answer) = answers.next().await {
            if let Some((tier, pack, ready)) = answer {
                thawed.note(&tier, pack, ready);
            }
        }
    }

    /// Looks after the thaws that a job needs; the job with its version when all of them are done.
    async fn ready_to_restore(
        self: &Arc<Self>,
        id: u128,
        job: &RestoreJob,
        thawed: &mut Thawed,
    ) -> Result<Option<Ready>, EngineError> {
        let Some(found) = self.awaiting(id, job)? else {
            // Overwritten or deleted meanwhile: nobody waits for this any more.
            self.meta.commit(Batch::new(Reason::Job).delete(Table::Job, keys::job(id))).await?;
            return Ok(None);
        };
        let all_thawed = self.all_thawed(&found.record, (&job.tier, job.priority), thawed).await?;
        Ok(all_thawed.then(|| Ready { id, job: job.clone(), found }))
    }

    /// The version that waits for a job: the one that it names, or what a change of metadata has made of that since, which has
    /// another id and is the visible one.
    fn awaiting(&self, id: u128, job: &RestoreJob) -> Result<Option<Stored>, EngineError> {
        let waits = |found: &Stored| found.record.restoring == Some(id);
        match self.by_id(&job.bucket, &job.key, job.version)?.filter(waits) {
            Some(found) => Ok(Some(found)),
            None => Ok(self.stored(keys::object(&job.bucket, &job.key))?.filter(waits)),
        }
    }

    /// Brings the chunks of many small bodies at once, in the order in which they lie in their packs: neighbours come
    /// with one request, whatever object they belong to. What fails here is asked for again by its own job.
    async fn prefetch(self: &Arc<Self>, ready: &[Ready]) {
        let mut by_tier: BTreeMap<&str, Vec<(PackId, u32, ChunkRef)>> = BTreeMap::new();
        for Ready { job, found, .. } in ready {
            let BodyRef::Inline(chunks) = &found.record.body else { continue };
            let places =
                chunks.iter().filter_map(|c| self.remote.locate(&job.tier, &c.id).map(|at| (at.pack, at.offset, *c)));
            by_tier.entry(&job.tier).or_default().extend(places);
        }
        for (tier, mut places) in by_tier {
            places.sort_by_key(|(pack, offset, _)| (*pack, *offset));
            places.dedup_by_key(|(_, _, chunk)| chunk.id);
            let chunks: Vec<ChunkRef> = places.into_iter().map(|(_, _, chunk)| chunk).collect();
            if let Err(e) = self.recall_all(&chunks, tier).await {
                tracing::debug!(tier, error = %e, "a restore's read for many versions failed");
            }
        }
    }

    /// True when the tier does not answer.
    async fn finish_and_note(self: &Arc<Self>, ready: &Ready) -> bool {
        match self.finish_restore(ready).await {
            Ok(done) => {
                self.clear_tier_error(&ready.job.tier);
                self.metrics.restored_versions.inc_by(u64::from(done));
                false
            }
            Err(e) => {
                self.note_tier_error(&ready.job.tier, "restore", &e);
                is_silence(&e)
            }
        }
    }

    /// Brings what is still missing and makes the version `Restored`; false when it has changed meanwhile.
    async fn finish_restore(self: &Arc<Self>, ready: &Ready) -> Result<bool, EngineError> {
        let Ready { id, job, found } = ready;
        let record = &found.record;
        self.recall_body(record, &job.tier).await?;
        failpoint::hit("restore.after_recall");
        let mut next = record.clone();
        next.restoring = None;
        let until = self.clock.now().plus(DAY * job.days);
        next.residency = Residency::Restored { tier: job.tier.clone(), until };
        let mut batch =
            Batch::new(Reason::Restored).expect(found.unchanged()).delete(Table::Job, keys::job(*id)).with_data();
        self.put_version(&mut batch, &found.subject, (Some(record), Look::AsPlanned), &mut next)?;
        self.tell(&mut batch, EventKind::RestoreCompleted, (&job.bucket, &job.key), &next)?;
        match self.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// Makes sure that everything of a version that is not local is being thawed in `tier`; true when all of it can be
    /// read. `thawed` spares asking twice after one pack.
    pub(crate) async fn all_thawed(
        self: &Arc<Self>,
        record: &ObjectRecord,
        (tier, priority): (&str, RestorePriority),
        thawed: &mut Thawed,
    ) -> Result<bool, EngineError> {
        loop {
            let (packs, unknown) = self.packs_to_thaw(record, tier)?;
            let mut all = true;
            for (pack, name) in packs {
                let ready = match thawed.get(tier, pack) {
                    Some(ready) => ready,
                    None => self.thaw(tier, pack, &name, priority).await?,
                };
                thawed.note(tier, pack, ready);
                all &= ready;
            }
            if !all || unknown.is_empty() {
                return Ok(all);
            }
            // Now that the nodes can be read, they tell of more packs. They stay local, so this ends.
            self.recall_all(&unknown, tier).await?;
        }
    }

    /// Makes sure that a thaw of a pack is running; true when the pack can be read.
    pub(crate) async fn thaw(
        &self,
        tier: &str,
        pack: PackId,
        name: &str,
        priority: RestorePriority,
    ) -> Result<bool, EngineError> {
        let failed = |source| EngineError::Tier { tier: tier.to_owned(), source };
        let remote = self.tier(tier)?;
        match remote.head(name).await.map_err(failed)?.restore {
            RestoreState::Restored { .. } => return Ok(true),
            RestoreState::Ongoing => return Ok(false),
            RestoreState::None => {}
        }
        let key = keys::remote_pack(tier, u128::from_be_bytes(pack.0));
        let record = ThawRecord { requested: self.clock.now(), priority };
        let batch = Batch::new(Reason::Thaw).expect(Expect::Present(Table::RemotePack, key.clone())).put(
            Table::Thaw,
            key,
            record.encode()?,
        );
        match self.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => return Ok(false),
            other => other?,
        };
        failpoint::hit("restore.after_thaw_intent");
        let answer = remote.restore(name, self.settings.tiering.thaw_days, priority).await.map_err(failed)?;
        self.metrics.thaws.inc();
        use crate::tier::RestoreReceipt as R;
        Ok(matches!(answer, R::AlreadyRestored | R::NotNeeded))
    }

    /// The packs that hold what of a version is not local, and the nodes that must be read to know all of them.
    fn packs_to_thaw(&self, record: &ObjectRecord, tier: &str) -> Result<ToThaw, EngineError> {
        let mut packs = BTreeMap::new();
        let mut unknown = Vec::new();
        let mut want = |id: &ChunkId| -> Result<(), EngineError> {
            if self.local.contains(id) {
                return Ok(());
            }
            let at = self.remote.locate(tier, id).ok_or_else(|| {
                EngineError::Corrupt(format!("chunk {id} is neither in a local pack nor in tier {tier}"))
            })?;
            packs.insert(at.pack, at.name);
            Ok(())
        };
        match &record.body {
            BodyRef::Inline(chunks) => chunks.iter().try_for_each(|c| want(&c.id))?,
            BodyRef::Nodes(nodes) => {
                for node in nodes {
                    match self.local_node(node)? {
                        Some(chunks) => chunks.iter().try_for_each(|c| want(&c.id))?,
                        None => {
                            want(&node.id)?;
                            unknown.push(ChunkRef { id: node.id, len: node_bytes(node)? });
                        }
                    }
                }
            }
        }
        Ok((packs, unknown))
    }

    /// The chunks of a node that is local.
    pub(crate) fn local_node(&self, node: &NodeRef) -> Result<Option<Vec<ChunkRef>>, EngineError> {
        self.read_local(&ChunkRef { id: node.id, len: node_bytes(node)? })?.map(|raw| decode_node(&raw)).transpose()
    }

    /// Brings all of a body to local packs, a bounded batch at a time.
    pub(super) async fn recall_body(self: &Arc<Self>, record: &ObjectRecord, tier: &str) -> Result<(), EngineError> {
        match &record.body {
            BodyRef::Inline(chunks) => self.recall_all(chunks, tier).await,
            BodyRef::Nodes(nodes) => {
                for node in nodes {
                    self.recall_all(&[ChunkRef { id: node.id, len: node_bytes(node)? }], tier).await?;
                    let chunks = self.node(node, Some(tier.to_owned())).await?;
                    self.recall_all(&chunks, tier).await?;
                }
                Ok(())
            }
        }
    }

    async fn recall_all(self: &Arc<Self>, chunks: &[ChunkRef], tier: &str) -> Result<(), EngineError> {
        // Touching what is here takes it out of the reach of an eviction that is on its way; a later mark sees the restore.
        let mut session = self.local.begin();
        let missing: Vec<ChunkRef> = chunks.iter().filter(|c| !session.pin_existing(&c.id)).copied().collect();
        drop(session);
        let mut rest = missing.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0u64;
            let take = rest.iter().take_while(|c| {
                let fits = bytes < RECALL_BATCH;
                bytes += u64::from(c.len);
                fits
            });
            let take = take.count();
            let (batch, after) = rest.split_at(take);
            rest = after;
            if !self.has_room_to_recall(bytes) {
                let why = format!(
                    "a restore waits for room on the disk: {bytes} bytes more would leave too little for writes"
                );
                return Err(EngineError::SlowDown(why));
            }
            let frames = self.recall_frames(batch, Some(tier), false).await?;
            let core = Arc::clone(self);
            let stored = tokio::task::spawn_blocking(move || {
                let mut session = core.local.begin();
                frames.iter().try_for_each(|(id, f)| session.put_frame(*id, f, PackClass::Hot).map(drop))
            });
            stored.await.map_err(|e| EngineError::Internal(format!("store recalled chunks: {e}")))??;
        }
        Ok(())
    }
}

/// Packs by id with their names, and nodes of the manifest that are not local.
type ToThaw = (BTreeMap<PackId, Arc<str>>, Vec<ChunkRef>);

/// Length of a node's encoding in bytes.
fn node_bytes(node: &NodeRef) -> Result<u32, EngineError> {
    u32::try_from(node_len(node.chunks)).map_err(|_| EngineError::Corrupt("a manifest node of impossible size".into()))
}
