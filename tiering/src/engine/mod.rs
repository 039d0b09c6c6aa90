//! PLACEHOLDER with the final signatures; the engine's author replaces this file at the merge.
#![allow(missing_docs, unused_variables, clippy::unused_async)]
pub mod error;
pub mod report;
pub mod types;
pub use error::EngineError;
pub use report::*;
pub use types::*;
use std::ops::Range;
use std::sync::Arc;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, EngineError>;
fn gone<T>() -> Result<T> { Err(EngineError::Unavailable("placeholder".into())) }

/// Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine(Arc<()>);

/// An object found; reading it later reads exactly this version.
#[derive(Debug)]
pub struct ObjectHandle { info: ObjectInfo }
impl ObjectHandle {
    pub fn info(&self) -> &ObjectInfo { &self.info }
    /// Err(InvalidObjectState) at once for an archived version that is not restored.
    pub fn check_readable(&self) -> Result<()> { gone() }
    /// `range` must lie inside 0..size. Resolves when the first bytes are at hand, so that errors still get a status.
    pub async fn read(&self, range: Range<u64>) -> Result<BodyOut> { gone() }
    /// The byte range of a part (for `?partNumber=`); a single-PUT object has one part, number 1.
    pub fn part_range(&self, number: u32) -> Option<Range<u64>> { None }
}

/// UploadPartCopy.
pub struct UploadPartCopy {
    pub bucket: String, pub key: String, pub upload_id: String, pub number: u32,
    pub source: ObjectHandle, pub range: Range<u64>,
}
/// A page of parts.
#[derive(Debug, Clone)]
pub struct PartPage { pub upload: UploadInfo, pub parts: Vec<PartInfo>, pub next: Option<u32> }

/// Settings of the engine: one section each in the gateway's YAML (serde, deny_unknown_fields, all with defaults).
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct EngineSettings {
    /// Root of the store.
    pub data_dir: PathBuf,
    // chunks: {min, avg, max, zstd_level}; packs: {...}; hot: {max_bytes, free_floor}; durability: strict|relaxed; journal: {...}; tiering: {...}; limits: {max_object_bytes, max_put_bytes, max_parts, min_part_bytes, ...}
}

/// What is passed in besides settings.
#[derive(Clone)]
pub struct Components {
    pub clock: Arc<dyn crate::clock::Clock>,
    pub tiers: BTreeMap<String, Arc<dyn crate::tier::Tier>>,
    /// S3 storage class -> name of a tier, or `hot`.
    pub classes: BTreeMap<String, String>,
    pub policy: tidegate_policies::Policy,
    pub policy_text: String,
    pub registry: prometheus::Registry,
}

impl Engine {
    /// Opens the store (takes its lock, recovers, starts the background workers on the current tokio runtime).
    pub async fn open(settings: EngineSettings, components: Components) -> Result<Engine> { gone() }
    /// Stops background work (bounded), syncs, writes the clean mark, gives the lock back.
    pub async fn shutdown(&self) -> Result<()> { gone() }

    pub async fn create_bucket(&self, name: &str) -> Result<()> { gone() }
    pub async fn delete_bucket(&self, name: &str) -> Result<()> { gone() }
    pub fn bucket(&self, name: &str) -> Result<BucketInfo> { gone() }
    pub fn buckets(&self) -> Result<Vec<BucketInfo>> { gone() }

    pub async fn put_object(&self, put: PutObject, body: BodyIn) -> Result<Written> { gone() }
    pub fn open_object(&self, bucket: &str, key: &str) -> Result<ObjectHandle> { gone() }
    /// True when there was something to delete. `if_match`: ETag without quotes.
    pub async fn delete_object(&self, bucket: &str, key: &str, if_match: Option<&str>) -> Result<bool> { gone() }
    /// One answer per key, in order.
    pub async fn delete_objects(&self, bucket: &str, keys: &[String]) -> Result<Vec<Result<bool>>> { gone() }
    pub async fn copy_object(&self, copy: CopyObject) -> Result<Written> { gone() }
    pub fn list_objects(&self, list: &ListObjects) -> Result<ListPage> { gone() }

    pub async fn create_upload(&self, create: CreateUpload) -> Result<String> { gone() }
    pub async fn upload_part(&self, part: UploadPart, body: BodyIn) -> Result<PartInfo> { gone() }
    pub async fn upload_part_copy(&self, copy: UploadPartCopy) -> Result<PartInfo> { gone() }
    pub fn list_parts(&self, bucket: &str, key: &str, upload_id: &str, after: u32, max: usize) -> Result<PartPage> { gone() }
    pub fn list_uploads(&self, list: &ListUploads) -> Result<UploadPage> { gone() }
    pub async fn complete_upload(&self, complete: CompleteUpload) -> Result<Written> { gone() }
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload_id: &str) -> Result<()> { gone() }

    pub async fn restore_object(&self, restore: RestoreRequest) -> Result<RestoreOutcome> { gone() }

    // Operation: the admin API and the command line.
    pub fn stats(&self) -> Result<StatsReport> { gone() }
    pub fn object_status(&self, bucket: &str, key: &str) -> Result<ObjectStatusReport> { gone() }
    /// The source text of the policy in force; empty when there is none.
    pub fn policy_text(&self) -> String { String::new() }
    pub async fn set_policy(&self, policy: tidegate_policies::Policy, text: String) -> Result<()> { gone() }
    pub fn reindex_progress(&self) -> ReindexProgress { ReindexProgress::default() }
    pub fn plan(&self, request: &PlanRequest) -> Result<PlanReport> { gone() }
    pub fn tier_names(&self) -> Vec<String> { Vec::new() }
    /// Err(InvalidArgument) when there is no such tier.
    pub fn tier_report(&self, name: &str) -> Result<TierReport> { gone() }
    pub async fn probe_tier(&self, name: &str) -> Result<ProbeReport> { gone() }
    pub async fn gc(&self, request: GcRequest) -> Result<GcReport> { gone() }
    pub async fn scrub(&self, progress: impl FnMut(ScrubProgress) + Send) -> Result<ScrubReport> { gone() }
    pub async fn snapshot(&self) -> Result<SnapshotReport> { gone() }
    pub async fn run_due_now(&self) -> Result<RunDueReport> { gone() }

    // Offline: take the lock of the store (the error says who holds it), work, give it back. Blocking.
    /// Rebuilds sled and the chunk index from journal and packs.
    pub fn rebuild_index(settings: &EngineSettings, progress: impl FnMut(RebuildProgress)) -> Result<RebuildReport> { gone() }
    /// Calls `each` per record until it says false.
    pub fn dump_journal(settings: &EngineSettings, request: &JournalDumpRequest, each: impl FnMut(JournalLine) -> bool) -> Result<()> { gone() }
}
