//! What the operational methods of the engine give and get: plain data that the admin API shows as JSON and the
//! command line as tables. Sizes are bytes, points in time are milliseconds since the epoch, lengths of time say `_ms`.
//! Fields are only ever added, so that an older command line understands a newer server.

mod plan;

pub use plan::*;

use super::lock::Retention;
use super::protect::ProtectStats;
use super::types::{Checksum, Residency};
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// A number of objects and their logical bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Logical bytes: before deduplication and compression.
    pub bytes: u64,
}

/// The whole store at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatsReport {
    /// When this was taken.
    pub time: Timestamp,
    /// Buckets.
    pub buckets: u64,
    /// Objects in all residencies: every version that has a body.
    pub objects: u64,
    /// Their logical bytes.
    pub logical_bytes: u64,
    /// Unfinished multipart uploads.
    pub uploads: u64,
    /// Of the objects, versions that are not the latest of their key.
    pub noncurrent: Amount,
    /// Delete markers.
    pub delete_markers: u64,
    /// Objects that are on local disks only.
    pub hot: Amount,
    /// Objects that are in a tier.
    pub cold: Amount,
    /// Objects that are in a tier and restored locally.
    pub restored: Amount,
    /// Objects that are hot and in a tier as well.
    pub protected: Amount,
    /// The local chunk store.
    pub local: LocalStats,
    /// The local disk and its limits.
    pub disk: DiskStats,
    /// Each tier, by name.
    pub tiers: Vec<TierStats>,
    /// Jobs, by kind and state; only those that are there.
    pub jobs: Vec<JobStats>,
    /// How late the oldest due action is, in milliseconds; 0 when nothing is late.
    pub oldest_due_lag_ms: u64,
    /// Shipping to the recovery tier, when it is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStats>,
    /// Protection, where the policy asks for it or anything is protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protect: Option<ProtectStats>,
    /// Scrubbing of local packs.
    pub scrub: super::ScrubStats,
    /// How far a standby is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<super::StandbyStats>,
    /// Walks over buckets whose lifecycle changed, while there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle_walks: Option<super::LifecycleWalks>,
    /// Events that wait for the targets of notifications, where there are targets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<super::EventQueueStats>,
    /// The length of a day of all rules in seconds, when it is shortened for tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_day_seconds: Option<u64>,
}

/// How far the recovery tier is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecoveryStats {
    /// The tier.
    pub tier: String,
    /// The term that was claimed; 0 before.
    pub term: u64,
    /// The last record that is there.
    pub shipped_sequence: u64,
    /// Durable records that are not.
    pub lag_records: u64,
    /// The age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
    /// When the newest snapshot there began.
    pub last_snapshot: Option<Timestamp>,
    /// Why this store must not write any more, if another has taken its place.
    pub fenced: Option<String>,
    /// Why the last turn failed, if it did.
    pub last_error: Option<String>,
}

/// The local chunk store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalStats {
    /// Distinct chunks.
    pub unique_chunks: u64,
    /// Their bytes before compression.
    pub unique_bytes: u64,
    /// Their bytes as stored in packs, frames included.
    pub stored_bytes: u64,
    /// Logical bytes of what is local, divided by `unique_bytes`; 1 when there is nothing.
    pub dedup_ratio: f64,
    /// `unique_bytes` divided by `stored_bytes`; 1 when there is nothing.
    pub compression_ratio: f64,
    /// Pack files.
    pub pack_files: u64,
    /// Their bytes on disk.
    pub pack_bytes: u64,
    /// Bytes in packs that nothing refers to any more.
    pub dead_bytes: u64,
}

/// The local disk and its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStats {
    /// `hot.max_bytes`.
    pub max_bytes: u64,
    /// What the store uses of it.
    pub used_bytes: u64,
    /// `hot.free_floor`: what must stay free on the file system.
    pub free_floor_bytes: u64,
    /// What is free on the file system.
    pub free_bytes: u64,
}

/// What lies in a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TierStats {
    /// Name of the tier.
    pub name: String,
    /// Objects in it.
    pub objects: u64,
    /// Their logical bytes.
    pub logical_bytes: u64,
    /// Remote packs.
    pub packs: u64,
    /// Their bytes: what is billed, before minimum sizes.
    pub stored_bytes: u64,
    /// Bytes of remote packs that belong to no object any more.
    pub dead_bytes: u64,
}

/// How many jobs of a kind are in a state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStats {
    /// `transition`, `restore`, `delete`, ...
    pub kind: String,
    /// `waiting`, `running`, `backing_off`, ...
    pub state: String,
    /// How many.
    pub count: u64,
}

/// Everything that is known about one object: where it is, why, and what comes next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectStatusReport {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Version, 32 hex digits.
    pub version: String,
    /// Logical bytes.
    pub size: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Last modification by a client.
    pub last_modified: Timestamp,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// Whole-object checksum.
    pub checksum: Option<Checksum>,
    /// Parts of a multipart object; 0 for a single PUT.
    pub parts: u32,
    /// Until when object lock keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// It is under legal hold.
    #[serde(default)]
    pub legal_hold: bool,
    /// The class that the client declared; what is physically true is `residency`.
    pub declared_class: String,
    /// The class that S3 clients see.
    pub class_shown: String,
    /// Where the bytes are.
    pub residency: Residency,
    /// `x-amz-restore`: a restore is running.
    pub restore_ongoing: bool,
    /// Chunks of the body.
    pub chunks: u64,
    /// How many of them can be read from local disks.
    pub local_chunks: u64,
    /// The packs that hold the chunks.
    pub packs: Vec<PackReport>,
    /// What the policy does next; `None`: nothing, ever, as things stand.
    pub next: Option<NextAction>,
    /// What each rule says about this object, in the order of the policy.
    pub explanation: Vec<RuleExplanation>,
    /// The job that works on this object now.
    pub job: Option<JobReport>,
}

/// A pack that holds chunks of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PackReport {
    /// `None`: a local pack; else the name of the tier.
    pub tier: Option<String>,
    /// Local id, or remote name below the tier's prefix.
    pub name: String,
    /// Chunks of this object in it.
    pub chunks: u64,
}

/// What happens to an object next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NextAction {
    /// When.
    pub when: Timestamp,
    /// `transition to ia`, `expire`, ...
    pub decision: String,
    /// The rule that it comes from.
    pub rule: Option<String>,
}

/// What a rule says about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleExplanation {
    /// Id of the rule.
    pub rule: String,
    /// Whether its filter matches.
    pub matches: bool,
    /// Why it acts, waits, is outranked or does not match.
    pub reason: String,
}

/// A job at work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobReport {
    /// `transition`, `restore`, `delete`, ...
    pub kind: String,
    /// `waiting`, `running`, `backing_off`, ...
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is tried again.
    pub next_attempt: Option<Timestamp>,
    /// What the last attempt said.
    pub last_error: Option<String>,
}

/// How far the background re-evaluation after a change of policy has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReindexProgress {
    /// Whether one runs.
    pub running: bool,
    /// Objects evaluated.
    pub done: u64,
    /// Objects to evaluate (as counted at the beginning).
    pub total: u64,
    /// When it began; `None`: there was none since the start.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// A tier: what it is, what it can do, what lies there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TierReport {
    /// Name.
    pub name: String,
    /// `oss`, `s3`, `directory`.
    pub kind: String,
    /// Where it is, without secrets.
    pub target: String,
    /// Storage class there, where there is one.
    pub class: Option<String>,
    /// Reads need no restore.
    pub online: bool,
    /// Restores exist.
    pub restore: bool,
    /// The server confirms a checksum of what it stored.
    pub server_checksum: bool,
    /// Smallest size, in bytes, that an object is billed as.
    pub min_billable_bytes: u64,
    /// Days for which an object is billed at least.
    pub min_duration_days: u32,
    /// What lies there.
    pub stats: TierStats,
    /// The last request failed with this; `None`: it worked, or there was none.
    pub last_error: Option<String>,
}

/// A pack in a tier, as the namespace knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TierPackReport {
    /// Name below the tier's prefix.
    pub name: String,
    /// `uploading`, `live` or `doomed` (its deletion is in the queue). Only a live one must be there. `unreadable`: the record
    /// does not decode, and the name is its end only.
    pub state: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its frames.
    pub chunks: u32,
    /// When its upload was begun.
    pub created: Timestamp,
    /// CRC-64 that the store confirmed, where it has one.
    pub crc64: Option<u64>,
}

impl TierPackReport {
    /// A record that does not decode.
    pub(crate) fn unreadable(name: String) -> Self {
        let state = "unreadable".to_owned();
        Self { name, state, bytes: 0, chunks: 0, created: Timestamp(0), crc64: None }
    }
}

/// Asks for a garbage collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcRequest {
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What a garbage collection found and gave back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Local packs looked at.
    pub packs: u64,
    /// Local packs deleted because nothing in them lives.
    pub packs_deleted: u64,
    /// Local packs rewritten without their dead chunks.
    pub packs_compacted: u64,
    /// Chunks that nothing refers to.
    pub dead_chunks: u64,
    /// Their bytes as stored.
    pub dead_bytes: u64,
    /// Bytes given back to the disk (or that would be).
    pub freed_bytes: u64,
    /// Dead bytes that are kept because their grace has not passed or something is unknown.
    pub kept_bytes: u64,
    /// Bytes of chunks that nothing known refers to, kept because something unreadable may.
    pub doubted_bytes: u64,
    /// Remote packs whose deletion was put into the queue (or would be).
    pub remote_packs_doomed: u64,
    /// Remote packs that nothing known refers to, kept because something unreadable may, or because it is not
    /// known what is in them or (after a recovery from packs alone) what they are for.
    pub remote_packs_kept: u64,
    /// What could not be read: the first hundred.
    pub unreadable: Vec<Unreadable>,
    /// How much could not be read.
    pub unreadable_total: u64,
    /// Bodies of which chunks are neither local nor in a tier: the first hundred.
    pub lossy: Vec<LossyBody>,
    /// How many such bodies there are.
    pub lossy_total: u64,
    /// What else is to be said, such as why something was kept.
    pub notes: Vec<String>,
}

/// Something that a mark could not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unreadable {
    /// Object, upload part or record.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
}

/// An object or upload part that cannot be read in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossyBody {
    /// Bucket and key, or upload and part.
    pub what: String,
    /// Chunks (and manifest nodes) of it that are nowhere; uploading the same bytes again brings them back.
    pub chunks: u64,
}

/// A snapshot that was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotReport {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// What an immediate run of everything that is due came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunDueReport {
    /// Objects that were due.
    pub due: u64,
    /// Jobs that are still waiting or running.
    pub jobs_open: u64,
}

/// What a rebuild of the index made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexRebuilt {
    /// The snapshot that it began with, by its sequence number; `None` for the beginning of the journal.
    pub snapshot: Option<u64>,
    /// Journal records applied.
    pub records: u64,
    /// Sequence number of the latest record.
    pub last_sequence: u64,
    /// What was odd and how it was treated.
    pub notes: Vec<String>,
}

/// One record of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalLine {
    /// Sequence number.
    pub sequence: u64,
    /// Epoch of the process that wrote it.
    pub epoch: u64,
    /// When it was written.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
    /// What it changed.
    pub changes: Vec<JournalChange>,
}

/// One change of a journal record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalChange {
    /// Table.
    pub table: String,
    /// Key, decoded.
    pub key: String,
    /// The new value, decoded, or `deleted`.
    pub value: String,
}
