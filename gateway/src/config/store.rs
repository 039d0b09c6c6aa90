//! The `store` section: the engine's settings as operators know them.

use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_policies::PriceBook;
use tidegate_tiering::chunk::ChunkSettings;
use tidegate_tiering::engine::{EngineSettings, LimitSettings, ScrubSettings, TieringSettings};
use tidegate_tiering::local::{BudgetSettings, LocalSettings, default_max_bytes};
use tidegate_tiering::meta::{Durability, MetaSettings};

/// The storage engine. Every section and field may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// `strict` (acknowledged means fsynced) or `relaxed`.
    pub durability: DurabilityName,
    /// With `relaxed`: the longest time between a commit and its fdatasync, in milliseconds.
    pub relaxed_sync_ms: RelaxedSync,
    /// How bodies are cut and compressed.
    pub chunks: ChunkSection,
    /// Limits of the local disk.
    pub hot: HotSection,
    /// Local pack files.
    pub packs: LocalSettings,
    /// Journal and index.
    pub journal: JournalSection,
    /// Limits on what clients may send.
    pub limits: LimitSettings,
    /// Transitions, recalls, restores.
    pub tiering: TieringSettings,
    /// Reading what nobody reads.
    pub scrub: ScrubSettings,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityName {
    /// After fdatasync: it survives power loss.
    #[default]
    Strict,
    /// After the write: it survives the death of the process; power loss takes up to `relaxed_sync_ms`.
    Relaxed,
}

/// Milliseconds between a commit and its sync with `durability: relaxed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RelaxedSync(pub u64);

impl Default for RelaxedSync {
    /// A second: what a power cut may take, and enough for a disk to gather writes.
    fn default() -> Self {
        Self(1000)
    }
}

/// How bodies are cut and compressed. Changing it only costs deduplication against what was stored before.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkSection {
    /// Shortest chunk in bytes, but for the last of a body.
    pub min: u32,
    /// Length aimed at, in bytes.
    pub avg: u32,
    /// Longest chunk in bytes.
    pub max: u32,
    /// zstd level, 1 to 19.
    pub zstd_level: i32,
}

impl Default for ChunkSection {
    /// The engine's.
    fn default() -> Self {
        let ChunkSettings { min, avg, max, zstd_level } = ChunkSettings::default();
        Self { min, avg, max, zstd_level }
    }
}

/// Limits of the local disk.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HotSection {
    /// The packs never take more than this, in bytes. Default: nine tenths of the file system that holds the data
    /// directory, less `free_floor`.
    pub max_bytes: Option<u64>,
    /// The file system keeps at least this much free, in bytes.
    pub free_floor: u64,
    /// Part of `max_bytes` that only compaction may take, in bytes. Default: an eighth of `max_bytes`, at most 256 MiB.
    pub compaction_reserve: Option<u64>,
}

impl Default for HotSection {
    /// The engine's.
    fn default() -> Self {
        Self { max_bytes: None, free_floor: BudgetSettings::default().free_floor, compaction_reserve: None }
    }
}

/// Journal and index.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSection {
    /// Commits that may wait for the committer.
    pub queue_depth: usize,
    /// Most batches in one group commit.
    pub max_group_records: usize,
    /// Most bytes in one group commit.
    pub max_group_bytes: usize,
    /// Size at which a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// How far ahead of the records a segment is filled with zeros, in bytes.
    pub fill_ahead_bytes: u64,
    /// Memory for the index's page cache, in bytes.
    pub index_cache_bytes: u64,
    /// Journal written between two checkpoints of the index, in bytes.
    pub checkpoint_bytes: u64,
    /// Least journal written between two snapshots, in bytes.
    pub snapshot_bytes: u64,
    /// Snapshots kept.
    pub keep_snapshots: usize,
    /// Commits are refused while the file system has less than this free, in bytes.
    pub least_free_bytes: u64,
}

impl Default for JournalSection {
    /// The engine's.
    fn default() -> Self {
        let meta = MetaSettings::default();
        Self {
            queue_depth: meta.queue_depth,
            max_group_records: meta.max_group_records,
            max_group_bytes: meta.max_group_bytes,
            segment_bytes: meta.segment_bytes,
            fill_ahead_bytes: meta.fill_ahead_bytes,
            index_cache_bytes: meta.index_cache_bytes,
            checkpoint_bytes: meta.checkpoint_bytes,
            snapshot_bytes: meta.snapshot_bytes,
            keep_snapshots: meta.keep_snapshots,
            least_free_bytes: meta.least_free_bytes,
        }
    }
}

/// Reserve for compaction: two packs' worth are enough to make progress, and a small store keeps room for data.
const RESERVE_SHARE: u64 = 8;

impl StoreSettings {
    /// The engine's settings for the store in `data_dir`, with the default prices.
    pub fn engine(&self, data_dir: PathBuf) -> EngineSettings {
        let HotSection { max_bytes, free_floor, compaction_reserve } = self.hot;
        let max_bytes = max_bytes.unwrap_or_else(|| default_max_bytes(&data_dir, free_floor));
        let most = BudgetSettings::default().compaction_reserve;
        let compaction_reserve = compaction_reserve.unwrap_or_else(|| most.min(max_bytes / RESERVE_SHARE));
        let ChunkSection { min, avg, max, zstd_level } = self.chunks;
        EngineSettings {
            data_dir,
            chunks: ChunkSettings { min, avg, max, zstd_level },
            local: self.packs,
            disk: BudgetSettings { max_bytes, free_floor, compaction_reserve },
            meta: self.meta(),
            limits: self.limits,
            tiering: self.tiering,
            scrub: self.scrub,
            recovery: None,
            standby: None,
            prices: PriceBook::default(),
            lifecycle: Default::default(),
            notifications: Default::default(),
            driven: false,
        }
    }

    fn meta(&self) -> MetaSettings {
        let journal = self.journal;
        MetaSettings {
            durability: match self.durability {
                DurabilityName::Strict => Durability::Strict,
                DurabilityName::Relaxed => {
                    Durability::Relaxed { sync_every: Duration::from_millis(self.relaxed_sync_ms.0) }
                }
            },
            queue_depth: journal.queue_depth,
            max_group_records: journal.max_group_records,
            max_group_bytes: journal.max_group_bytes,
            segment_bytes: journal.segment_bytes,
            fill_ahead_bytes: journal.fill_ahead_bytes,
            index_cache_bytes: journal.index_cache_bytes,
            checkpoint_bytes: journal.checkpoint_bytes,
            snapshot_bytes: journal.snapshot_bytes,
            keep_snapshots: journal.keep_snapshots,
            least_free_bytes: journal.least_free_bytes,
        }
    }

    /// What the engine would refuse, or what would make it stand still: the setting, and a sentence.
    pub fn problems(&self) -> Vec<(String, String)> {
        let engine = self.engine(PathBuf::new());
        let mut found = Vec::new();
        if let Err(message) = engine.chunks.validate() {
            found.push(named("store.chunks", &message));
        }
        if let Err(error) = engine.local.validate() {
            found.push(named("store.packs", &error.to_string()));
        }
        if let Err(error) = engine.meta.check() {
            found.push(named("store.journal", &error.to_string()));
        }
        if engine.disk.compaction_reserve >= engine.disk.max_bytes {
            let message = "compaction_reserve leaves nothing of max_bytes for data: lower it or raise max_bytes";
            found.push(("store.hot".to_owned(), message.to_owned()));
        }
        let limits = engine.limits.problem().map(|(name, want)| ("limits", name, want));
        let tiering = engine.tiering.problem().map(|(name, want)| ("tiering", name, want));
        for (section, name, want) in limits.into_iter().chain(tiering) {
            found.push((format!("store.{section}.{name}"), format!("this value cannot work: write {want}")));
        }
        found
    }
}

/// The setting that a message of the engine begins with becomes part of the path.
fn named(section: &str, message: &str) -> (String, String) {
    let after = ["chunk.", "hot.", "meta setting "].iter().find_map(|mark| message.strip_prefix(mark));
    match after.and_then(|rest| rest.split_once(' ')) {
        Some(("durability.sync_every", what)) => ("store.relaxed_sync_ms".to_owned(), what.to_owned()),
        Some((name, what)) => (format!("{section}.{name}"), what.to_owned()),
        None => (section.to_owned(), message.to_owned()),
    }
}
