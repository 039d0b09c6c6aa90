//! Settings of the engine: plain data with defaults, one section each in the gateway's configuration.

use crate::chunk::ChunkSettings;
use crate::local::{BudgetSettings, LocalSettings};
use crate::meta::MetaSettings;
use crate::recovery::{RecoverySettings, StandbySettings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All settings of the engine. Sizes are in bytes, durations in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct EngineSettings {
    /// Root of the store.
    pub data_dir: PathBuf,
    /// How bodies are cut and compressed.
    pub chunks: ChunkSettings,
    /// Local packs and their cache.
    pub local: LocalSettings,
    /// Disk limits.
    pub disk: BudgetSettings,
    /// Journal and index.
    pub meta: MetaSettings,
    /// Limits on what clients may send.
    pub limits: LimitSettings,
    /// Transitions, recalls, restores.
    pub tiering: TieringSettings,
    /// Reading what nobody reads.
    pub scrub: ScrubSettings,
    /// Shipping of the namespace to a tier, when it is wanted.
    pub recovery: Option<RecoverySettings>,
    /// Following of what another store ships: the engine is a standby then, and nothing is shipped.
    pub standby: Option<StandbySettings>,
    /// What plans count with.
    pub prices: tidegate_policies::PriceBook,
    /// How rules are read.
    pub lifecycle: LifecycleSettings,
    /// Targets of notifications by name, and how many events may wait for each.
    pub notifications: BTreeMap<String, u64>,
    /// No timers: the scheduler and shipping take a turn only when [`Engine::step`](super::Engine::step) is called. For simulations.
    pub driven: bool,
}

/// How the rules of lifecycles are read.
#[derive(Debug, Clone, Default)]
pub struct LifecycleSettings {
    /// Length of a day in milliseconds, for tests; `None`: 24 hours.
    pub day_ms: Option<u64>,
    /// All tiers of the configuration, with their storage classes where they have one.
    pub tiers: BTreeMap<String, Option<tidegate_policies::Class>>,
}

impl LifecycleSettings {
    pub(crate) fn day(&self) -> u64 {
        self.day_ms.unwrap_or(tidegate_policies::DAY)
    }
}

/// Which tier a declared storage class means.
#[derive(Debug, Clone)]
pub(crate) struct ClassMap(pub BTreeMap<String, String>);

/// The name that means "local disks" in the map of storage classes.
pub const HOT: &str = "hot";

impl ClassMap {
    /// The tier that `class` means; None for hot and for an undeclared class.
    pub(crate) fn tier_of(&self, class: Option<&str>) -> Option<&str> {
        self.0.get(class?).map(String::as_str).filter(|tier| *tier != HOT)
    }

    /// The class under which a version in `tier` is shown.
    pub(crate) fn class_of(&self, tier: &str) -> Option<&str> {
        self.0.iter().find(|(_, t)| *t == tier).map(|(class, _)| class.as_str())
    }
}

/// Limits on what clients may send: S3's own by default.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// One PUT or part: 5 GiB.
    pub max_put_bytes: u64,
    /// One object: 5 TiB.
    pub max_object_bytes: u64,
    /// Smallest part but the last: 5 MiB.
    pub min_part_bytes: u64,
    /// Parts of an upload: 10,000.
    pub max_parts: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { max_put_bytes: 5 << 30, max_object_bytes: 5 << 40, min_part_bytes: 5 << 20, max_parts: 10_000 }
    }
}

impl LimitSettings {
    /// The first setting that lets nothing in, and what it may be.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        [
            ("max_put_bytes", self.max_put_bytes == 0, "at least 1"),
            ("max_object_bytes", self.max_object_bytes == 0, "at least 1"),
            ("max_parts", !(1..=10_000).contains(&self.max_parts), "from 1 to 10000"),
        ]
        .into_iter()
        .find_map(|(name, wrong, want)| wrong.then_some((name, want)))
    }
}

/// Scrubbing of local packs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSettings {
    /// Bytes that a scrub reads in a second at most, where its caller names no other rate: 64 MiB. 0: as fast as the disk gives.
    pub bytes_per_second: u64,
}

impl Default for ScrubSettings {
    /// A third of what one hard disk reads, so that clients do not notice: some 5.5 TB a day.
    fn default() -> Self {
        Self { bytes_per_second: 64 << 20 }
    }
}

/// What a read of a cold version leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recall {
    /// The chunks stay as a cache on local disks.
    Promote,
    /// Nothing stays.
    Stream,
}

/// Transitions, recalls, restores.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TieringSettings {
    /// A remote pack is closed when it has this much: 48 MiB (32 to 64 are the sizes that D6 reckons with).
    pub pack_bytes: u64,
    /// How long a transition may wait for others to fill its pack: 60 s.
    pub linger_ms: u64,
    /// How long a body may wait for others before it is protected: 1 s.
    pub protect_linger_ms: u64,
    /// Bodies that wait longer to be protected make a warning: 30 s.
    pub protect_warn_ms: u64,
    /// How often the scheduler looks, when nobody wakes it: 1 s.
    pub poll_ms: u64,
    /// Entries of the due index that one look takes: 2,000.
    pub due_batch: usize,
    /// Versions that may wait for or be in transition at a time: 100,000 (about 200 bytes each).
    pub max_claims: usize,
    /// Versions with which a transition job begins, and by which it grows while its pack is not full: 4,000.
    pub max_group: usize,
    /// Jobs of each kind (moves, protections) that run side by side: 2.
    pub workers: usize,
    /// First wait after a failed job, doubled each time: 1 s.
    pub retry_min_ms: u64,
    /// Longest wait after a failed job: 5 min.
    pub retry_max_ms: u64,
    /// Reads of cold versions.
    pub recall: Recall,
    /// Ranges of one pack that lie closer than this are read in one request: 64 KiB.
    pub coalesce_gap: u64,
    /// Largest single ranged read of a pack: 4 MiB.
    pub coalesce_max: u64,
    /// How often a thaw is asked after: 30 s.
    pub thaw_poll_ms: u64,
    /// Days for which a tier is asked to keep a thawed pack: 1 (it is read as soon as it is there).
    pub thaw_days: u32,
    /// How often unreferenced chunks and packs are looked for: 10 min. 0: only by command and under pressure.
    pub gc_interval_ms: u64,
    /// Times of last access are kept to this precision: 1 h.
    pub access_granularity_ms: u64,
}

impl Default for TieringSettings {
    fn default() -> Self {
        Self {
            pack_bytes: 48 << 20,
            linger_ms: 60_000,
            protect_linger_ms: 1_000,
            protect_warn_ms: 30_000,
            poll_ms: 1_000,
            due_batch: 2_000,
            max_claims: 100_000,
            max_group: 4_000,
            workers: 2,
            retry_min_ms: 1_000,
            retry_max_ms: 300_000,
            recall: Recall::Promote,
            coalesce_gap: 64 << 10,
            coalesce_max: 4 << 20,
            thaw_poll_ms: 30_000,
            thaw_days: 1,
            gc_interval_ms: 600_000,
            access_granularity_ms: 3_600_000,
        }
    }
}

/// Smallest remote pack: below it a move of a disk would be millions of requests.
const MIN_PACK: u64 = 64 << 10;
/// Largest remote pack: twice what the price of requests asks for, and far below what a tier takes.
const MAX_PACK: u64 = 2 << 30;

impl TieringSettings {
    /// The first setting with which nothing would ever move, or no end would come to trying, and what it may be.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        [
            ("pack_bytes", !(MIN_PACK..=MAX_PACK).contains(&self.pack_bytes), "from 64KiB to 2GiB"),
            ("poll_ms", self.poll_ms == 0, "at least 1ms"),
            ("due_batch", self.due_batch == 0, "at least 1"),
            ("max_claims", self.max_claims == 0, "at least 1"),
            ("max_group", self.max_group == 0, "at least 1"),
            ("workers", !(1..=1024).contains(&self.workers), "from 1 to 1024"),
            ("retry_min_ms", self.retry_min_ms == 0, "at least 1ms"),
            ("retry_max_ms", self.retry_max_ms < self.retry_min_ms, "at least retry_min_ms"),
            ("coalesce_max", self.coalesce_max == 0, "at least 1"),
            ("thaw_poll_ms", self.thaw_poll_ms == 0, "at least 1ms"),
            ("thaw_days", self.thaw_days == 0, "at least 1"),
        ]
        .into_iter()
        .find_map(|(name, wrong, want)| wrong.then_some((name, want)))
    }
}
