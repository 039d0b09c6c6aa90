//! Cold tiers: where packs go when their objects are cold. The trait stands here, where the engine uses it; the
//! implementations are [`oss`] (native), and S3-compatible stores and directories through `object_store`.
//!
//! Every remote name is fresh (D9): an implementation may assume that nothing under a name that it is asked to
//! write is ever read by anybody else, and that a second write of one name carries the same bytes.

#[doc(hidden)]
pub mod contract;
pub mod error;
mod folder;
pub mod memory;
pub mod metrics;
pub mod object;
pub mod oss;
pub mod probe;
pub mod secret;
mod settings;
mod transfer;

pub use error::{ErrorDetails, TierError, TierErrorKind};
pub use metrics::{Operation, Outcome, TierMetrics};
pub use settings::{TierSettings, build};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A body that can be opened again from any offset: what makes retries and multipart uploads possible without
/// holding it in memory.
pub trait BodySource: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// True for a body of no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A stream of exactly the bytes of `range`; opened again, it yields the same bytes.
    fn open(&self, range: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>>;
}

/// A body in memory, for small writes and tests.
impl BodySource for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn open(&self, range: Range<u64>) -> BoxStream<'static, std::io::Result<Bytes>> {
        let piece = usize::try_from(range.start)
            .and_then(|start| usize::try_from(range.end).map(|end| start..end))
            .ok()
            .filter(|r| r.start <= r.end && r.end <= Bytes::len(self))
            .map(|r| self.slice(r))
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidInput, "range outside the body"));
        Box::pin(futures::stream::once(async move { piece }))
    }
}

/// What a tier can do, as found out from its configuration and by `tidegate tier probe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Capabilities {
    /// Reads need no restore.
    pub online: bool,
    /// Restores exist (archive classes).
    pub restore: bool,
    /// The server confirms a checksum of what it stored.
    pub server_checksum: bool,
    /// Smallest size, in bytes, that an object is billed as.
    pub min_billable_bytes: u64,
    /// Days for which an object is billed at least.
    pub min_duration_days: u32,
}

/// How urgently a restore is wanted. A tier maps what its class does not know to the nearest that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum RestorePriority {
    /// Cheapest, slowest.
    Bulk,
    /// The default.
    Standard,
    /// Fastest, dearest.
    Expedited,
}

/// What the store answered to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReceipt {
    /// The store's ETag, kept beside the client's (never instead of it).
    pub etag: Option<String>,
    /// CRC-64 (ECMA-182, reflected) that the server computed, already compared with ours.
    pub crc64: Option<u64>,
    /// The version written, on a versioned bucket.
    pub version_id: Option<String>,
}

/// Where the restore of an archived object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreState {
    /// Never asked for, or expired; or the class needs none.
    None,
    /// Running.
    Ongoing,
    /// Readable until this point.
    Restored {
        /// When the store drops the restored copy.
        until: crate::clock::Timestamp,
    },
}

/// What came of a write that was to replace nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Written.
    New,
    /// Something is under that name; it stays. After an attempt whose answer was lost it may be one's own.
    Exists,
}

/// A remote object as HEAD or a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMeta {
    /// Name below the tier's prefix.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Storage class as the store names it, when it says so.
    pub class: Option<String>,
    /// Whole-object CRC-64, when the store says so.
    pub crc64: Option<u64>,
    /// Restore state (HEAD only; listings say `None` where the store does not tell).
    pub restore: RestoreState,
}

/// One version of a remote object, or a marker that hides the versions before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteVersion {
    /// Name below the tier's prefix.
    pub name: String,
    /// The store's name for the version; empty where the store keeps none.
    pub version: String,
    /// Length in bytes; of a marker 0.
    pub size: u64,
    /// It is what a request without a version gets.
    pub latest: bool,
    /// It is a marker: nothing can be read of it.
    pub marker: bool,
}

/// What came of asking for a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreReceipt {
    /// Accepted now (202).
    Started,
    /// Was running already (409).
    AlreadyRunning,
    /// Is restored already; its period was extended (200).
    AlreadyRestored,
    /// The object is readable without a restore.
    NotNeeded,
}

/// One cold tier. Names are relative to the tier's configured prefix. All methods retry by themselves what is worth
/// retrying at once; an error that comes out is for the job's back-off.
#[async_trait]
pub trait Tier: Send + Sync + fmt::Debug {
    /// What this tier can do.
    fn capabilities(&self) -> Capabilities;
    /// Writes `body` under `name` in the tier's storage class, in parts above the tier's multipart threshold, and
    /// returns only when the store has confirmed it (checksum compared where the store has one, length otherwise).
    async fn put(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError>;
    /// Writes `body` (at most 5 GiB) under `name`, readable without a restore whatever the tier's class, if nothing is there yet.
    /// Where a store cannot tell (an OSS bucket that keeps versions, an S3-compatible store that ignores `If-None-Match`), it
    /// may replace what is there: whoever needs to know reads it back.
    async fn create(&self, name: &str, body: Arc<dyn BodySource>) -> Result<Created, TierError> {
        match self.head(name).await {
            Ok(_) => Ok(Created::Exists),
            Err(e) if e.is_not_found() => self.put(name, body).await.map(|_| Created::New),
            Err(e) => Err(e),
        }
    }
    /// Streams `range` (bytes) of `name`. The stream ends with an error when fewer bytes come; a range beyond the end is
    /// `Invalid`. An empty range asks nothing of the store.
    async fn get(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError>;
    /// Size, class and restore state.
    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError>;
    /// Deletes `name`, with all its versions where the tier can tell them; a name that is not there counts as deleted. Also
    /// aborts unfinished multipart uploads of it.
    async fn delete(&self, name: &str) -> Result<(), TierError>;
    /// As `delete`, of a name of which the receipt of the only write is known: exactly that version, in one request. Where a
    /// tier knows no versions, it is `delete`.
    async fn delete_version(&self, name: &str, _version: &str) -> Result<(), TierError> {
        self.delete(name).await
    }
    /// Up to `max` objects whose names start with `prefix` and sort after `start_after`.
    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError>;
    /// As `list`, with every version and marker of each name, newest first: up to `max` of them behind `after`. None where the
    /// tier knows no versions.
    async fn list_versions(
        &self,
        _prefix: &str,
        _after: Option<&RemoteVersion>,
        _max: usize,
    ) -> Result<Option<Vec<RemoteVersion>>, TierError> {
        Ok(None)
    }
    /// Whether an answer told so far that versions are kept.
    fn keeps_versions(&self) -> bool {
        false
    }
    /// Says that `folder` holds objects that were written here earlier. A tier that can be away without an error (a share that
    /// is not mounted leaves an empty folder) must then not take itself for empty.
    fn expect(&self, _folder: &str) {}
    /// Asks for a readable copy for `days` days.
    async fn restore(&self, name: &str, days: u32, priority: RestorePriority) -> Result<RestoreReceipt, TierError>;
}
