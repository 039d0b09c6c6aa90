//! The engine: what S3 asks of a store, on top of journal, packs and tiers. See the crate's documentation for the map,
//! the invariants and the locking table.

mod accounts;
mod act;
mod blind;
mod body;
mod broken;
mod buckets;
mod capacity;
mod cipher;
mod claims;
mod deployment;
mod digest;
pub(crate) mod doom;
mod driven;
mod due;
pub mod error;
mod events;
pub(crate) mod examine;
mod follow;
pub mod fsck;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gc;
mod ingest;
pub(crate) mod keys;
mod lifecycle;
mod list;
mod list_versions;
mod listings;
mod lock;
pub(crate) mod manifests;
mod md5;
mod metrics;
mod multipart;
mod objects;
mod ops;
mod packbody;
mod plan;
mod plan_cost;
mod policy;
mod promoted;
mod protect;
mod read;
pub(crate) mod record;
mod record_older;
mod reindex;
mod remote;
mod remote_index;
pub mod report;
mod restore;
mod scheduler;
mod scrub;
mod settings;
mod ship;
mod shipmetrics;
mod snapshots;
mod standing;
mod state;
mod supersede;
pub(crate) mod transition;
pub mod types;
mod users;
mod versions;
mod walk;

pub use buckets::{BucketInfo, BucketSettings, Versioning};
pub use cipher::CustomerKey;
pub use driven::Step;
pub use error::EngineError;
pub use events::{
    Asks, Destination, Event, EventKind, EventQueueStats, NotificationRule, Origin, QueuedEvent,
    SETTING as NOTIFICATION_SETTING, asked_by, is_covered,
};
pub use follow::{FollowEnd, PromoteReport, StandbyStats};
pub use fsck::{
    Finding, FindingKind, FsckCost, FsckEstimate, FsckProgress, FsckReport, FsckRequest, FsckTotal, Repair, TierChecked,
};
pub(crate) use keys::split_object as object_name;
pub use lifecycle::{Ending, LifecycleWalks, SETTING as LIFECYCLE_SETTING};
pub use listings::*;
pub use lock::{BucketLock, DefaultRetention, LOCK_SETTING, Period, Retention, RetentionMode};
pub use multipart::{PartPage, UploadPartCopy};
pub use ops::describe_op;
pub use policy::validate_policy_tiers;
pub use protect::ProtectStats;
pub use read::ObjectHandle;
pub use report::*;
pub use restore::MAX_RESTORE_DAYS;
pub use scrub::{DamagedChunk, ScrubProgress, ScrubReport, ScrubRequest, ScrubStats};
pub use settings::{EngineSettings, HOT, LifecycleSettings, LimitSettings, Recall, ScrubSettings, TieringSettings};
pub use types::*;
pub use users::*;

use crate::clock::Clock;
use crate::local::{DiskBudget, LastEnd, LocalSettings, LocalStore};
use crate::meta::{DataSync, GroupStats, JournaledStore, MetaStore, Recovery};
use crate::tier::Tier;
use accounts::Accounts;
use broken::Broken;
use gc::MarkBarrier;
use metrics::Metrics;
use policy::Progress;
use read::ReadLeases;
use remote::InFlight;
use remote_index::RemoteIndex;
use scheduler::Scheduler;
use settings::ClassMap;
use state::{AccessBuffer, Claimed, TierErrors};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a shutdown waits for transition jobs: they can be taken up again at any point.
const SHUTDOWN_JOBS: Duration = Duration::from_secs(10);

/// What is passed in besides settings.
#[derive(Clone)]
pub struct Components {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Tiers by name.
    pub tiers: BTreeMap<String, Arc<dyn Tier>>,
    /// S3 storage class to name of a tier, or [`HOT`].
    pub classes: BTreeMap<String, String>,
    /// The lifecycle policy.
    pub policy: tidegate_policies::Policy,
    /// The text that it was parsed from: a change is noticed by it.
    pub policy_text: String,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
}

/// The engine. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) core: Arc<Core>,
    /// What has no timers takes its turns from outside.
    driven: Option<driven::Driven>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("data_dir", &self.core.settings.data_dir).finish_non_exhaustive()
    }
}

/// What all parts of the engine share.
pub(crate) struct Core {
    pub settings: EngineSettings,
    pub classes: ClassMap,
    pub clock: Arc<dyn Clock>,
    pub meta: JournaledStore,
    pub local: LocalStore,
    pub tiers: BTreeMap<String, Arc<dyn Tier>>,
    pub remote: RemoteIndex,
    pub inflight: InFlight,
    pub rules: Arc<lifecycle::Rules>,
    pub walks: lifecycle::Walks,
    pub progress: Progress,
    pub deployment: String,
    /// Shipping to the recovery tier.
    pub ship: Option<Arc<ship::Ship>>,
    /// Following of what another store ships: then this is a standby.
    pub follow: Option<Arc<follow::Follow>>,
    /// The disk was lost once: bytes that are nowhere are no surprise.
    pub recovered: bool,
    /// The latest epoch of packs that this namespace was made of, when it was made of nothing else.
    pub from_packs: Option<u64>,
    pub reads: ReadLeases,
    pub pieces: read::Pieces,
    pub md5: md5::Md5Pool,
    pub barrier: Arc<MarkBarrier>,
    pub accounts: Arc<Accounts>,
    pub users: Arc<users::UsersVersion>,
    pub events: events::Events,
    pub access: AccessBuffer,
    pub claimed: Claimed,
    pub making: transition::Making,
    pub tier_errors: TierErrors,
    pub dead_bytes: Mutex<gc::DeadBytes>,
    pub last_doubt: Mutex<blind::LastDoubt>,
    pub metrics: Arc<Metrics>,
    pub broken: Broken,
    pub runtime: tokio::runtime::Handle,
    pub jobs: TaskTracker,
    pub gc_running: Arc<tokio::sync::Mutex<()>>,
    pub scrub: scrub::ScrubState,
    pub wake: Notify,
    /// Packs may be waiting to be deleted remotely.
    pub doomed_wanted: AtomicBool,
    /// Cycles in a row that found nothing to free under pressure.
    pub fruitless: AtomicU32,
    pub restores_wanted: AtomicBool,
    pub retry_now: Mutex<bool>,
    /// The log says that protection is late.
    pub protect_warned: AtomicBool,
    pub stop: CancellationToken,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core")
    }
}

/// Packs are made durable before the journal refers to them. Empty until the packs are open: the journal, which takes
/// the store's lock, is opened first.
#[derive(Default)]
struct SyncPacks(OnceLock<LocalStore>);

impl DataSync for SyncPacks {
    fn sync(&self) -> std::io::Result<()> {
        self.0.get().map_or(Ok(()), |packs| packs.sync().map_err(std::io::Error::other))
    }

    fn failed(&self) -> Option<std::io::Error> {
        self.0.get()?.writes_refused().map(std::io::Error::other)
    }
}

/// Times of the journal's syncs, for the metric.
struct ObserveGroups(Arc<Metrics>);

impl crate::meta::CommitObserver for ObserveGroups {
    fn applied(&self, _seq: u64, _ops: &[crate::meta::AppliedOp]) {}

    fn group(&self, stats: &GroupStats) {
        self.0.journal_sync.observe(stats.journal_sync.as_secs_f64());
    }
}

impl Engine {
    /// Opens the store: takes its lock, recovers, dooms orphans of the last process, starts the background work on the
    /// current tokio runtime (which must be a multi-threaded one).
    ///
    /// # Errors
    /// A lock held by another process, damaged files, settings out of range; each says what and where.
    pub async fn open(settings: EngineSettings, components: Components) -> Result<Engine, EngineError> {
        let runtime = tokio::runtime::Handle::current();
        let opening = tokio::task::spawn_blocking(move || Core::open(settings, components, runtime));
        let core = Arc::new(opening.await.map_err(|e| EngineError::Internal(format!("open the store: {e}")))??);
        if let Some(follow) = core.follow.clone() {
            core.meta.add_observer(Arc::new(follow::FollowPacks(Arc::downgrade(&core))));
            follow.begin(&core).await;
            if !core.settings.driven {
                core.jobs.spawn(follow.run(Arc::clone(&core)));
            }
        }
        if let Some(ship) = core.ship.clone() {
            ship.begin(&core).await;
            if !core.settings.driven {
                core.jobs.spawn(ship.run(Arc::clone(&core)));
            }
        }
        if !core.is_fenced() {
            core.clear_orphans().await?;
        }
        if !core.is_fenced() {
            core.start_reindex_if_changed()?;
            core.start_walks()?;
            core.start_examination()?;
        }
        core.restores_wanted.store(true, std::sync::atomic::Ordering::Release);
        let scheduler = Scheduler::new(&core);
        if core.settings.driven {
            return Ok(Engine { core, driven: Some(driven::Driven::new(scheduler)) });
        }
        core.jobs.spawn(scheduler.run());
        Ok(Engine { core, driven: None })
    }

    /// Stops background work (bounded), syncs, marks the store as cleanly closed, gives the lock back.
    ///
    /// # Errors
    /// A failed sync.
    pub async fn shutdown(&self) -> Result<(), EngineError> {
        self.core.stop.cancel();
        self.core.wake.notify_one();
        self.core.jobs.close();
        if tokio::time::timeout(SHUTDOWN_JOBS, self.core.jobs.wait()).await.is_err() {
            tracing::warn!("a transition is still running; it will be taken up again at the next start");
        }
        // What fails here must not keep the journal from being closed and the lock from being given back.
        let flushed = if self.core.is_fenced() { Ok(()) } else { self.core.flush_access().await };
        if let Some(ship) = &self.core.ship {
            ship.finish(&self.core).await;
        }
        let core = Arc::clone(&self.core);
        let closing = tokio::task::spawn_blocking(move || -> Result<(), EngineError> {
            let synced = core.local.sync();
            if let Err(error) = core.local.save_index() {
                tracing::warn!(%error, "the index of local chunks was not saved; the next start reads all footers");
            }
            core.meta.close()?;
            Ok(synced?)
        });
        closing.await.map_err(|e| EngineError::Internal(format!("close the store: {e}")))?.and(flushed)
    }
}

/// What a recovery has not finished must not be served.
fn refuse_unfinished(data_dir: &std::path::Path) -> Result<(), EngineError> {
    let unfinished = data_dir.join(crate::recovery::UNFINISHED);
    if !unfinished.exists() {
        return Ok(());
    }
    Err(EngineError::InvalidArgument(format!(
        "{} says that a recovery into this directory is not finished: run `tidegate recover` again",
        unfinished.display()
    )))
}

fn new_follow(
    wanted: crate::recovery::StandbySettings,
    ships_to: Option<&str>,
    components: &Components,
) -> Result<Arc<follow::Follow>, EngineError> {
    if ships_to != Some(wanted.from.as_str()) {
        return Err(EngineError::InvalidArgument(wanted.needs_recovery()));
    }
    let tier = components.tiers.get(&wanted.from).map(Arc::clone);
    let tier = tier.ok_or_else(|| EngineError::InvalidArgument(format!("{:?} is no tier", wanted.from)))?;
    Ok(Arc::new(follow::Follow::new(wanted, tier, &components.registry)?))
}

fn new_ship(
    wanted: crate::recovery::RecoverySettings,
    components: &Components,
    meta: &JournaledStore,
) -> Result<Arc<ship::Ship>, EngineError> {
    let tier = components.tiers.get(&wanted.tier).map(Arc::clone).ok_or_else(|| {
        EngineError::InvalidArgument(format!("recovery.tier names {:?}, which is no tier", wanted.tier))
    })?;
    meta.hold_journal(wanted.max_backlog_bytes);
    Ok(Arc::new(ship::Ship::new(wanted, tier, &components.registry)?))
}

/// The namespace, and who carries its records away or brings them.
struct Namespace {
    meta: JournaledStore,
    /// The process before this one closed everything; the packs, too.
    clean: bool,
    follow: Option<Arc<follow::Follow>>,
    ship: Option<Arc<ship::Ship>>,
}

/// What must be right before anything is opened.
fn check(settings: &mut EngineSettings, components: &Components) -> Result<(), EngineError> {
    refuse_unfinished(&settings.data_dir)?;
    deployment::refuse_robbed(&settings.data_dir)?;
    follow::check_role(&settings.data_dir, settings.standby.is_some())?;
    if settings.standby.is_some() {
        // Nothing is put into local packs: the engine that is opened after a promotion finds them as they are.
        settings.tiering.recall = Recall::Stream;
    }
    validate_policy_tiers(&components.policy, &components.tiers)
        .and_then(|()| protect::validate_protection(&components.policy, &components.tiers))
        .map_err(EngineError::InvalidArgument)
}

fn open_namespace(
    settings: &EngineSettings,
    components: &Components,
    data: Arc<dyn DataSync>,
    observers: Vec<Arc<dyn crate::meta::CommitObserver>>,
) -> Result<Namespace, EngineError> {
    let (dir, its, clock) = (&settings.data_dir, settings.meta.clone(), Arc::clone(&components.clock));
    let (meta, opened) = match &settings.standby {
        Some(_) => JournaledStore::open_follower(dir, its, observers, clock),
        None => JournaledStore::open(dir, its, data, observers, clock),
    }
    .map_err(|e| deployment::with_recovery(e, settings.recovery.as_ref()))?;
    tracing::info!(?opened, "namespace");
    let ships_to = settings.recovery.as_ref().map(|recovery| recovery.tier.as_str());
    let follow = settings.standby.clone().map(|wanted| new_follow(wanted, ships_to, components)).transpose()?;
    // A standby ships nothing.
    let ships = settings.recovery.clone().filter(|_| follow.is_none());
    let ship = ships.map(|wanted| new_ship(wanted, components, &meta)).transpose()?;
    // The namespace of a standby says nothing of the packs that a primary left there.
    let clean = opened.recovery == Recovery::Clean && follow.is_none();
    Ok(Namespace { meta, clean, follow, ship })
}

/// The rules in force, before those of buckets are known.
fn rules_of(components: &Components, settings: &EngineSettings) -> Arc<lifecycle::Rules> {
    let classes = ClassMap(components.classes.clone());
    let (policy, text) = (components.policy.clone(), components.policy_text.clone());
    Arc::new(lifecycle::Rules::new(policy, text, classes, settings.lifecycle.clone()))
}

/// Who hears of each commit.
fn observers(
    metrics: &Arc<Metrics>,
    barrier: &Arc<MarkBarrier>,
    accounts: &Arc<Accounts>,
    (users, rules): (&Arc<users::UsersVersion>, &Arc<lifecycle::Rules>),
    events: &events::Events,
) -> Vec<Arc<dyn crate::meta::CommitObserver>> {
    vec![
        Arc::clone(barrier) as _,
        Arc::clone(accounts) as _,
        Arc::clone(users) as _,
        Arc::clone(rules) as _,
        Arc::clone(&events.subscriptions) as _,
        Arc::clone(&events.queues) as _,
        Arc::new(ObserveGroups(Arc::clone(metrics))),
    ]
}

/// The local store's settings, with what follows from others.
fn local_settings(settings: &EngineSettings, budget: &DiskBudget) -> LocalSettings {
    let wanted = settings.local.pack_bytes;
    // A pack that cannot be rewritten in a full store would keep its garbage for ever.
    let pack_bytes = budget.longest_pack().map_or(wanted, |most| wanted.min(most));
    if pack_bytes < wanted {
        tracing::info!(
            pack_bytes,
            wanted,
            "local packs are shorter than set, so that the compaction reserve takes two"
        );
    }
    LocalSettings { pack_bytes, zstd_level: settings.chunks.zstd_level, ..settings.local }
}

impl Core {
    fn open(
        mut settings: EngineSettings,
        components: Components,
        runtime: tokio::runtime::Handle,
    ) -> Result<Core, EngineError> {
        check(&mut settings, &components)?;
        let metrics = Arc::new(Metrics::new(&components.registry).map_err(|e| EngineError::Internal(e.to_string()))?);
        let barrier = Arc::new(MarkBarrier::default());
        let accounts = Arc::new(Accounts::default());
        let users = Arc::new(users::UsersVersion::default());
        let rules = rules_of(&components, &settings);
        let events = events::Events::new(&settings.notifications, &settings.data_dir);
        let observers = observers(&metrics, &barrier, &accounts, (&users, &rules), &events);
        let sync = Arc::new(SyncPacks::default());
        let data = Arc::clone(&sync) as Arc<dyn DataSync>;
        let Namespace { meta, clean, follow, ship } = open_namespace(&settings, &components, data, observers)?;
        let budget = Arc::new(DiskBudget::new(&settings.data_dir, settings.disk)?);
        let packs = settings.data_dir.join("packs");
        let local = local_settings(&settings, &budget);
        let last_end = if clean { LastEnd::Clean } else { LastEnd::Unknown };
        let (local, found) = LocalStore::open_after(last_end, &packs, local, budget, Arc::clone(&components.clock))?;
        tracing::info!(?found, "local packs");
        let _ = sync.0.set(local.clone());
        accounts.load(&meta)?;
        rules.load(&meta as &dyn MetaStore)?;
        events.load(&meta as &dyn MetaStore)?;
        let remote = RemoteIndex::default();
        let broken = Broken::new(metrics.broken_records.clone());
        remote.load(&meta as &dyn MetaStore, &broken)?;
        let deployment = deployment::deployment_id(&settings.data_dir, &meta, components.clock.now())?;
        remote.tell_tiers(&components.tiers, &transition::folder(&deployment));
        Ok(Core {
            classes: ClassMap(components.classes),
            clock: components.clock,
            from_packs: doom::from_packs(&meta)?,
            meta,
            local,
            tiers: components.tiers,
            ship,
            recovered: follow.is_some() || crate::recovery::bytes_may_be_missing(&settings.data_dir),
            follow,
            remote,
            inflight: InFlight::default(),
            rules,
            walks: lifecycle::Walks::default(),
            progress: Progress::default(),
            deployment,
            reads: ReadLeases::default(),
            pieces: read::Pieces::default(),
            md5: md5::Md5Pool::for_this_machine(),
            barrier,
            accounts,
            users,
            events,
            access: AccessBuffer::default(),
            claimed: Claimed::default(),
            making: transition::Making::default(),
            tier_errors: TierErrors::default(),
            dead_bytes: Mutex::default(),
            last_doubt: Mutex::default(),
            metrics,
            broken,
            runtime,
            jobs: TaskTracker::new(),
            gc_running: Arc::default(),
            scrub: scrub::ScrubState::load(&packs),
            wake: Notify::new(),
            doomed_wanted: AtomicBool::new(true),
            fruitless: AtomicU32::new(0),
            restores_wanted: AtomicBool::new(false),
            retry_now: Mutex::new(false),
            protect_warned: AtomicBool::new(false),
            stop: CancellationToken::new(),
            settings,
        })
    }

    /// What the last process left half done. On a full disk it stays until the next start: reads must not wait for it.
    async fn clear_orphans(&self) -> Result<(), EngineError> {
        let clearing = async {
            let orphans = self.doom_orphans().await?;
            if orphans > 0 {
                tracing::info!(orphans, "packs whose upload was cut short will be deleted");
            }
            let parts = self.drop_orphan_parts().await?;
            if parts > 0 {
                tracing::info!(parts, "parts of ended uploads were deleted");
            }
            Ok(())
        };
        match clearing.await {
            Err(e @ EngineError::SlowDown(_)) => {
                tracing::warn!(error = %e, "what the last process left half done stays until the next start");
                Ok(())
            }
            other => other,
        }
    }

    /// A tier by name.
    pub(crate) fn tier(&self, name: &str) -> Result<&Arc<dyn Tier>, EngineError> {
        self.tiers.get(name).ok_or_else(|| {
            EngineError::Unavailable(format!(
                "versions are in tier {name}, which the configuration does not name any more: put it back"
            ))
        })
    }

    /// Whether a tier's bytes can be read without a restore. Of a tier that is configured no more nothing can be read.
    pub(crate) fn tier_is_online(&self, name: &str) -> bool {
        self.tiers.get(name).is_none_or(|t| t.capabilities().online)
    }

    pub(crate) fn retry_bounds(&self) -> (Duration, Duration) {
        let settings = &self.settings.tiering;
        (Duration::from_millis(settings.retry_min_ms), Duration::from_millis(settings.retry_max_ms))
    }
}
