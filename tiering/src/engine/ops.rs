//! What operators ask: statistics, the state of one object, tiers, reclaiming, snapshots.

use super::accounts::Place;
use super::body::{BodyRef, ChunkRef};
use super::due::facts;
use super::events::Event;
use super::keys;
use super::read::restore_status;
use super::record::{
    AccessRecord, BucketRecord, ObjectRecord, PartRecord, Record, RemoteFooter, RemotePackRecord, RemotePackState,
    RestoreJob, ThawRecord, UploadRecord,
};
use super::report::{
    Amount, DiskStats, GcReport, GcRequest, JobReport, JobStats, LocalStats, ObjectStatusReport, PackReport,
    RuleExplanation, RunDueReport, SnapshotReport, StatsReport, TierPackReport, TierReport, TierStats,
};
use super::types::RestoreStatus;
use super::{Core, Engine, EngineError};
use crate::meta::{MetaStore, Table};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};
use tidegate_policies::{ActionState, Decision, Version};

impl Engine {
    /// Sums of the whole store. Costs a look at the packs and at the due index, no walk over the namespace.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn stats(&self) -> Result<StatsReport, EngineError> {
        let core = &self.core;
        let now = core.clock.now();
        let totals = core.accounts.totals();
        let mut report = StatsReport {
            time: now,
            buckets: totals.buckets,
            uploads: totals.uploads,
            noncurrent: totals.noncurrent,
            delete_markers: totals.delete_markers,
            ..Default::default()
        };
        for (place, amount) in &totals.places {
            let sum = match place {
                Place::Hot => &mut report.hot,
                Place::Cold(_) => &mut report.cold,
                Place::Restored(_) => &mut report.restored,
                Place::Protected(_) => &mut report.protected,
            };
            sum.objects += amount.objects;
            sum.bytes += amount.bytes;
            report.objects += amount.objects;
            report.logical_bytes += amount.bytes;
        }
        report.local = core.local_stats();
        report.disk = core.disk_stats();
        report.tiers = core.tiers.keys().map(|name| core.tier_stats(name)).collect::<Result<_, _>>()?;
        report.jobs = core.job_stats()?;
        report.recovery = core.recovery_stats();
        report.protect = core.protect_stats(now)?;
        report.scrub = core.scrub.stats();
        report.standby = core.standby_stats();
        report.lifecycle_walks =
            Some(self.lifecycle_walks()).filter(|walks| walks.bucket.is_some() || walks.waiting > 0);
        report.test_day_seconds = self.test_day_seconds();
        report.notifications = self.event_queues()?;
        report.oldest_due_lag_ms = u64::try_from(core.oldest_due_lag(now)?.as_millis()).unwrap_or(u64::MAX);
        Ok(report)
    }

    /// Sets the gauges that are read off rather than counted along. Called before metrics are shown.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn refresh_metrics(&self) -> Result<(), EngineError> {
        let stats = self.stats()?;
        let metrics = &self.core.metrics;
        let mut places = self.core.accounts.totals().places;
        // What has no object yet is shown as none, not left out.
        places.entry(Place::Hot).or_default();
        for tier in self.core.tiers.keys() {
            places.entry(Place::Cold(tier.clone())).or_default();
        }
        for tier in self.core.policy().policy.protecting_tiers() {
            places.entry(Place::Protected(tier.to_owned())).or_default();
        }
        for (place, amount) in places {
            let (tier, residency) = match &place {
                Place::Hot => ("", "hot"),
                Place::Cold(tier) => (tier.as_str(), "cold"),
                Place::Restored(tier) => (tier.as_str(), "restored"),
                Place::Protected(tier) => (tier.as_str(), "protected"),
            };
            metrics.objects.with_label_values(&[tier, residency]).set(gauge(amount.objects));
            metrics.bytes.with_label_values(&[tier, residency]).set(gauge(amount.bytes));
        }
        for tier in &stats.tiers {
            metrics.remote_bytes.with_label_values(&[&tier.name, "stored"]).set(gauge(tier.stored_bytes));
            metrics.remote_bytes.with_label_values(&[&tier.name, "dead"]).set(gauge(tier.dead_bytes));
            metrics.queue.with_label_values(&[&tier.name]).set(0);
        }
        let mut failures: BTreeMap<String, u32> = BTreeMap::new();
        for queue in self.core.claims().lengths() {
            let waiting = (queue.waiting + queue.thawing) as u64;
            metrics.queue.with_label_values(&[&queue.aim.tier]).add(gauge(waiting));
            let most = failures.entry(queue.aim.tier).or_default();
            *most = queue.failures.max(*most);
        }
        for (tier, failures) in failures {
            metrics.tier_failures.with_label_values(&[&tier]).set(i64::from(failures));
        }
        for queue in &stats.notifications {
            metrics.events_queued.with_label_values(&[&queue.target]).set(gauge(queue.queued));
            metrics.events_oldest.with_label_values(&[&queue.target]).set(ratio(queue.oldest_age_ms, 1_000));
        }
        self.core.watch_protection(stats.time)?;
        let pending = stats.protect.as_ref().map_or_else(Amount::default, |p| p.pending);
        metrics.protect_pending_objects.set(gauge(pending.objects));
        metrics.protect_pending_bytes.set(gauge(pending.bytes));
        metrics.scrub_running.set(i64::from(stats.scrub.running));
        metrics.scrub_position.set(ratio(stats.scrub.bytes_done, stats.scrub.bytes_total));
        let complete = stats.scrub.last_complete.map_or(0, |at| at.millis());
        metrics.scrub_last_complete.set(ratio(complete, 1_000));
        let (open, oldest) = self.core.open_restores()?;
        metrics.restores_open.set(ratio(open, 1));
        metrics.oldest_restore_age.set(oldest.map_or(0.0, |at| stats.time.since(at).as_secs_f64()));
        metrics.doomed_packs.set(ratio(self.core.doomed_packs()?, 1));
        let oldest_dirty = self.core.accounts.oldest_dirty();
        metrics.oldest_dirty_age.set(oldest_dirty.map_or(0.0, |at| stats.time.since(at).as_secs_f64()));
        metrics.unique_bytes.set(ratio(stats.local.unique_bytes, 1));
        metrics.stored_bytes.set(ratio(stats.local.stored_bytes, 1));
        metrics.pack_bytes.set(ratio(stats.local.pack_bytes, 1));
        metrics.writes_refused.set(i64::from(self.writes_refused().is_some()));
        metrics.remote_index_bytes.set(ratio(self.core.remote.size().1, 1));
        metrics.local_index_bytes.set(ratio(self.core.local.usage().index_bytes, 1));
        metrics.max_bytes.set(ratio(stats.disk.max_bytes, 1));
        Ok(())
    }

    /// Why all writes are refused until the store is opened again, if they are. Reads go on.
    pub fn writes_refused(&self) -> Option<String> {
        let fenced = || self.core.meta.fenced().filter(|_| self.core.follow.is_none());
        let journal = self.core.meta.poisoned().or_else(fenced).map(|e| e.to_string());
        journal.or_else(|| self.core.local.writes_refused().map(|e| e.to_string()))
    }

    /// What an operator should look at although requests are served: the cloud is behind, this standby is, or a tier is gone.
    pub fn warnings(&self) -> Vec<String> {
        let shipping = self.core.recovery_warning().into_iter().chain(self.core.protect_warning());
        let shipping = shipping.filter(|_| !self.core.is_fenced());
        shipping
            .chain(self.core.standby_warning())
            .chain(self.core.tier_warning())
            .chain(self.core.event_warning())
            .collect()
    }

    /// Everything about one object: where it is, why, and what comes next.
    ///
    /// # Errors
    /// [`EngineError::NoSuchKey`].
    pub fn object_status(&self, bucket: &str, key: &str) -> Result<ObjectStatusReport, EngineError> {
        let handle = self.open_object(bucket, key)?;
        let (info, record) = (handle.info(), handle.record());
        let spread = self.core.spread(record)?;
        let mut report = ObjectStatusReport {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: info.version.to_string(),
            size: info.size,
            etag: info.etag.clone(),
            last_modified: info.last_modified,
            content_type: info.attributes.headers.content_type.clone(),
            tags: info.attributes.tags.clone(),
            checksum: info.checksum.clone(),
            parts: u32::try_from(info.parts.len()).unwrap_or(u32::MAX),
            retention: info.attributes.retention,
            legal_hold: info.attributes.legal_hold == Some(true),
            declared_class: info.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".into()),
            class_shown: info.class_shown.clone(),
            residency: info.residency.clone(),
            restore_ongoing: restore_status(record) == Some(RestoreStatus::Ongoing),
            chunks: record.body.chunks(),
            local_chunks: spread.local,
            packs: spread.packs,
            next: self.core.next_action(bucket, key, record),
            explanation: Vec::new(),
            job: None,
        };
        let active = self.core.rules_of(bucket);
        let kept_until = self.core.kept_until(bucket, record, Version::Current)?;
        let access = self.core.last_access(bucket, key, record);
        let facts = facts((bucket, key), record, access, Version::Current, kept_until);
        report.explanation = active
            .policy
            .explain(&facts, self.core.clock.now().millis())
            .iter()
            .map(|e| RuleExplanation {
                rule: e.rule.to_string(),
                matches: e.enabled && e.mismatch.is_none(),
                reason: explain(e),
            })
            .chain(self.core.explain_protection(bucket, record))
            .collect();
        report.job = self.core.job_of(bucket, key, record)?;
        Ok(report)
    }

    /// Names of the configured tiers.
    pub fn tier_names(&self) -> Vec<String> {
        self.core.tiers.keys().cloned().collect()
    }

    /// What a tier can do and what is in it. What only the configuration knows (`kind`, `target`, `class`) is left empty.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] for an unknown tier.
    pub fn tier_report(&self, name: &str) -> Result<TierReport, EngineError> {
        let can = self.core.tier(name)?.capabilities();
        Ok(TierReport {
            name: name.to_owned(),
            online: can.online,
            restore: can.restore,
            server_checksum: can.server_checksum,
            min_billable_bytes: can.min_billable_bytes,
            min_duration_days: can.min_duration_days,
            stats: self.core.tier_stats(name)?,
            last_error: self.core.tier_error(name),
            ..Default::default()
        })
    }

    /// The packs that the namespace has in a tier, in the order of their beginnings: up to `max` of them behind the one called
    /// `after`. Together with a listing of the tier it tells what is missing there and what is nobody's.
    ///
    /// # Errors
    /// A failure of the index; [`EngineError::InvalidArgument`] when `after` is no pack's name.
    pub fn tier_packs(&self, tier: &str, after: Option<&str>, max: usize) -> Result<Vec<TierPackReport>, EngineError> {
        let (first, end) = keys::remote_packs_of(tier);
        let start = match after {
            None => first,
            Some(name) => Bound::Excluded(keys::remote_pack(tier, pack_number(name)?)),
        };
        let page = self.core.meta.scan(Table::RemotePack, (start, end), max, false)?;
        page.iter()
            .map(|(key, value)| {
                // One record that cannot be read must not hide the others.
                let Ok(record) = RemotePackRecord::decode(value) else {
                    let pack = keys::split_remote_pack(key).map_or(0, |(_, pack)| pack);
                    return Ok(TierPackReport::unreadable(format!("{pack:032x}.pack")));
                };
                let state = match record.state {
                    RemotePackState::Uploading => "uploading",
                    RemotePackState::Live => "live",
                    RemotePackState::Doomed => "doomed",
                };
                let RemotePackRecord { name, bytes, chunks, created, crc64, .. } = record;
                Ok(TierPackReport { name, state: state.to_owned(), bytes, chunks, created, crc64 })
            })
            .collect()
    }

    /// A tier itself, for `tier probe`.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] for an unknown tier.
    pub fn tier(&self, name: &str) -> Result<Arc<dyn crate::tier::Tier>, EngineError> {
        self.core.tier(name).map(Arc::clone)
    }

    /// One cycle of reclaiming.
    ///
    /// # Errors
    /// Whatever the walk meets; then nothing was removed.
    pub async fn gc(&self, request: GcRequest) -> Result<GcReport, EngineError> {
        if self.core.follow.is_some() && !request.dry_run {
            let what =
                "a standby gives nothing back: what it will need is decided once it is promoted; --dry-run works";
            return Err(EngineError::InvalidRequest(what.to_owned()));
        }
        self.core.collect_garbage(request.dry_run, self.core.bytes_over_watermark()).await
    }

    /// Drops local copies that a tier has too, until `bytes` are free or none are left.
    ///
    /// # Errors
    /// As [`Engine::gc`].
    pub async fn evict(&self, bytes: u64) -> Result<GcReport, EngineError> {
        self.core.collect_garbage(false, bytes).await
    }

    /// Writes a snapshot of the namespace.
    ///
    /// # Errors
    /// An I/O error.
    pub async fn snapshot(&self) -> Result<SnapshotReport, EngineError> {
        let core = Arc::clone(&self.core);
        let task = tokio::task::spawn_blocking(move || core.meta.snapshot_now());
        let made = task.await.map_err(|e| EngineError::Internal(format!("snapshot: {e}")))??;
        Ok(SnapshotReport { name: made.path.display().to_string(), bytes: made.bytes })
    }

    /// Lets everything that waits for a back-off try again at once, and says how much is due.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn run_due_now(&self) -> Result<RunDueReport, EngineError> {
        *self.core.retry_now.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.core.wake.notify_one();
        let until = self.core.clock.now();
        let limit = self.core.settings.tiering.max_claims;
        let range = keys::due_until(keys::DueKind::Object, until);
        let due = self.core.meta.scan(Table::Due, range, limit, false)?.len() as u64;
        let jobs_open = self.core.job_stats()?.iter().map(|j| j.count).sum();
        Ok(RunDueReport { due, jobs_open })
    }
}

/// The number in a pack's name, which ends in 32 hex digits and `.pack`.
fn pack_number(name: &str) -> Result<u128, EngineError> {
    let id = name.strip_suffix(".pack").map(|front| front.rsplit('/').next().unwrap_or(front));
    id.filter(|id| id.len() == 32)
        .and_then(|id| u128::from_str_radix(id, 16).ok())
        .ok_or_else(|| EngineError::InvalidArgument(format!("{name:?} is not the name of a pack")))
}

/// Where the chunks of a version are.
#[derive(Default)]
struct Spread {
    local: u64,
    packs: Vec<PackReport>,
}

impl Core {
    fn spread(&self, record: &ObjectRecord) -> Result<Spread, EngineError> {
        let mut spread = Spread::default();
        let mut packs: BTreeMap<(Option<String>, String), u64> = BTreeMap::new();
        let mut visit = |chunks: &[ChunkRef]| {
            for chunk in chunks {
                if let Some(pack) = self.local.pack_of(&chunk.id) {
                    spread.local += 1;
                    *packs.entry((None, pack.to_string())).or_default() += 1;
                }
                for tier in self.remote.tiers_with(&chunk.id) {
                    if let Some(at) = self.remote.locate(&tier, &chunk.id) {
                        *packs.entry((Some(tier), at.name.to_string())).or_default() += 1;
                    }
                }
            }
        };
        match &record.body {
            BodyRef::Inline(chunks) => visit(chunks),
            BodyRef::Nodes(nodes) => {
                for node in nodes {
                    visit(&self.local_node(node)?.unwrap_or_default());
                }
            }
        }
        spread.packs = packs.into_iter().map(|((tier, name), chunks)| PackReport { tier, name, chunks }).collect();
        Ok(spread)
    }

    fn local_stats(&self) -> LocalStats {
        let usage = self.local.usage();
        let local = |p: &Place| matches!(p, Place::Hot | Place::Protected(_));
        let logical: u64 = self.accounts.totals().places.iter().filter(|(p, _)| local(p)).map(|(_, a)| a.bytes).sum();
        LocalStats {
            unique_chunks: usage.chunks,
            unique_bytes: usage.raw_bytes,
            stored_bytes: usage.live_bytes,
            dedup_ratio: ratio(logical, usage.raw_bytes),
            compression_ratio: ratio(usage.raw_bytes, usage.live_bytes),
            pack_files: usage.packs,
            pack_bytes: usage.file_bytes,
            dead_bytes: usage.dead_bytes,
        }
    }

    fn disk_stats(&self) -> DiskStats {
        let budget = self.local.budget();
        let limits = budget.settings();
        DiskStats {
            max_bytes: limits.max_bytes,
            used_bytes: budget.used(),
            free_floor_bytes: limits.free_floor,
            free_bytes: budget.free_bytes(),
        }
    }

    fn tier_stats(&self, name: &str) -> Result<TierStats, EngineError> {
        let mut stats = TierStats { name: name.to_owned(), ..Default::default() };
        for (place, amount) in self.accounts.totals().places {
            if matches!(&place, Place::Cold(t) | Place::Restored(t) | Place::Protected(t) if t == name) {
                stats.objects += amount.objects;
                stats.logical_bytes += amount.bytes;
            }
        }
        self.each_remote_pack(|pack| {
            if pack.tier == name && pack.record.state == RemotePackState::Live {
                stats.packs += 1;
                stats.stored_bytes += pack.record.bytes;
            }
        })?;
        let dead = self.dead_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        stats.dead_bytes = dead.get(name).copied().unwrap_or(0);
        Ok(stats)
    }

    fn job_stats(&self) -> Result<Vec<JobStats>, EngineError> {
        let job =
            |kind: &str, state: &str, count: u64| JobStats { kind: kind.to_owned(), state: state.to_owned(), count };
        let mut out = Vec::new();
        for queue in self.claims().lengths() {
            let kind = queue.aim.to_string();
            let state = if queue.failures > 0 { "waiting after a failure" } else { "waiting" };
            out.push(job(&kind, state, queue.waiting as u64));
            out.push(job(&kind, "running", queue.running as u64));
            out.push(job(&kind, "thawing", queue.thawing as u64));
        }
        out.push(job("restore", "open", self.open_restores()?.0));
        out.push(job("delete pack", "waiting", self.doomed_packs()?));
        out.retain(|j| j.count > 0);
        Ok(out)
    }

    fn job_of(&self, bucket: &str, key: &str, record: &ObjectRecord) -> Result<Option<JobReport>, EngineError> {
        if let Some(id) = record.restoring {
            let stored = self.meta.get(Table::Job, &keys::job(id))?;
            let job = stored.as_deref().map(RestoreJob::decode).transpose()?;
            return Ok(job.map(|job| JobReport {
                kind: "restore".into(),
                state: "thawing".into(),
                last_error: self.tier_error(&job.tier),
                ..Default::default()
            }));
        }
        if !self.claims().holds(&keys::object(bucket, key)) {
            return Ok(None);
        }
        let last_error = self.tiers.keys().find_map(|tier| self.tier_error(tier));
        Ok(Some(JobReport {
            kind: "transition".into(),
            state: "waiting or running".into(),
            last_error,
            ..Default::default()
        }))
    }
}

fn explain(e: &tidegate_policies::RuleExplanation<'_>) -> String {
    if !e.enabled {
        return "disabled".into();
    }
    if let Some(field) = &e.mismatch {
        return format!("does not match: {field:?}");
    }
    let states: Vec<String> = e
        .actions
        .iter()
        .map(|action| {
            let what = match action.decision {
                Decision::Keep => "keep".to_owned(),
                Decision::Transition { tier } => format!("transition to {tier}"),
                Decision::Expire => "expire".to_owned(),
                Decision::Protect { tier } => format!("protect in {tier}"),
                Decision::Release => "release".to_owned(),
            };
            let state = match action.state {
                ActionState::Decides => "decides",
                ActionState::Overruled => "overruled",
                ActionState::Disabled => "disabled",
                ActionState::Waiting => "waiting",
                ActionState::Done => "done",
                ActionState::WaitsForFill => "waits for the disk to fill",
                ActionState::OtherVersions => "about other versions",
            };
            format!("{what}: {state}")
        })
        .collect();
    states.join(", ")
}

/// One operation of the journal as people read it: table, key and value, decoded as far as this build knows them.
pub fn describe_op(op: &crate::meta::Op) -> (String, String, String) {
    let shown = |value: &[u8]| -> Result<String, EngineError> {
        Ok(match op.table {
            Table::Bucket => format!("{:?}", BucketRecord::decode(value)?),
            Table::Object | Table::Version => format!("{:?}", ObjectRecord::decode(value)?),
            Table::Upload => format!("{:?}", UploadRecord::decode(value)?),
            Table::Part => format!("{:?}", PartRecord::decode(value)?),
            Table::Job => format!("{:?}", RestoreJob::decode(value)?),
            Table::RemotePack => format!("{:?}", RemotePackRecord::decode(value)?),
            Table::Manifest => format!("footer of {} frames", RemoteFooter::decode(value)?.entries.len()),
            Table::Access => format!("{:?}", AccessRecord::decode(value)?),
            Table::Thaw => format!("{:?}", ThawRecord::decode(value)?),
            Table::User => super::users::describe(&op.key, value)?,
            Table::Event => format!("{:?}", Event::decode(value)?),
            Table::System | Table::Due => text(value),
        })
    };
    let key = describe_key(op.table, &op.key);
    let value = match &op.value {
        None => "deleted".to_owned(),
        Some(value) => shown(value).unwrap_or_else(|e| format!("{e} ({} bytes)", value.len())),
    };
    (format!("{:?}", op.table), key, value)
}

/// A key as people read it.
pub(crate) fn describe_key(table: Table, key: &[u8]) -> String {
    match table {
        Table::Due => keys::split_due(key).map_or_else(|| hex::encode(key), |(at, s)| format!("{at} {}", subject(s))),
        Table::RemotePack | Table::Manifest | Table::Thaw => keys::split_remote_pack(key)
            .map_or_else(|| hex::encode(key), |(tier, pack)| format!("{tier} / {pack:032x}")),
        Table::Job => hex::encode(key),
        Table::Version => subject(key),
        Table::Part => match key.split_at_checked(keys::UPLOAD_ID_LEN) {
            Some((id, number)) => format!("{} / part {}", text(id), hex::encode(number)),
            None => hex::encode(key),
        },
        _ => text(key),
    }
}

/// The key of an object or of a version of it.
fn subject(key: &[u8]) -> String {
    keys::split_version(key)
        .map_or_else(|| text(key), |(object, version)| format!("{} / version {version}", text(object)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', " / ")
}

pub(crate) fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// `a` over `b`, zero when there is nothing to divide by.
#[allow(clippy::cast_precision_loss)] // figures for people
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
