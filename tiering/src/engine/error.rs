//! Errors of the engine: each variant tells the caller what to do.

use crate::tier::TierError;

/// Why the engine refused or failed. One file of the gateway maps these to S3's codes, each by name: a new variant does
/// not compile until it is mapped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No such bucket.
    #[error("the bucket {0} does not exist")]
    NoSuchBucket(String),
    /// The bucket exists already.
    #[error("the bucket {0} exists already")]
    BucketExists(String),
    /// Only an empty bucket can be deleted.
    #[error("the bucket {0} is not empty")]
    BucketNotEmpty(String),
    /// No such key.
    #[error("the key {key} does not exist in bucket {bucket}")]
    NoSuchKey {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
    },
    /// No such version of a key.
    #[error("the version {version} of key {key} does not exist in bucket {bucket}")]
    NoSuchVersion {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
        /// As it was named.
        version: String,
    },
    /// What was asked for is a delete marker: it has no bytes, no metadata and no tags.
    #[error("{}", if *named { "that version is a delete marker" } else { "the key is deleted: its latest version is a delete marker" })]
    DeleteMarker {
        /// The marker.
        version: super::types::VersionId,
        /// Clients see its id as `null`.
        null: bool,
        /// When it was made.
        modified: crate::clock::Timestamp,
        /// It was named by its id; else it is the latest version of the key.
        named: bool,
    },
    /// No such upload: never begun, completed or aborted.
    #[error("the upload {0} does not exist; it may have been completed or aborted")]
    NoSuchUpload(String),
    /// A part of CompleteMultipartUpload is missing or has another ETag.
    #[error("part {number} was not uploaded or has another ETag")]
    InvalidPart {
        /// Part number.
        number: u32,
    },
    /// Parts must ascend.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is too small.
    #[error("part {number} has {size} bytes; every part but the last needs {min}")]
    PartTooSmall {
        /// Part number.
        number: u32,
        /// Its bytes.
        size: u64,
        /// Minimum in bytes.
        min: u64,
    },
    /// The body or object is larger than allowed.
    #[error("{size} bytes are more than the {limit} allowed")]
    TooLarge {
        /// Bytes so far.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// `If-Match` or `If-None-Match` of a write does not hold.
    #[error("the precondition {0} does not hold")]
    PreconditionFailed(&'static str),
    /// A concurrent write of the same key won again and again.
    #[error("a conflicting operation on this key is in progress; try again")]
    Conflict,
    /// `Content-MD5` or a checksum does not fit the body.
    #[error("the {what} that was sent does not fit the body: expected {expected}, computed {computed}")]
    BadDigest {
        /// `Content-MD5`, `x-amz-checksum-crc32`, ...
        what: &'static str,
        /// What the client sent.
        expected: String,
        /// What the body has.
        computed: String,
    },
    /// The body ended early; nothing was stored.
    #[error("{0}")]
    Body(#[from] super::types::BodyError),
    /// The client's key (SSE-C) is not the one that the object was encrypted with.
    #[error("the key is not the one that the object was encrypted with")]
    WrongKey,
    /// Object lock protects the version.
    #[error("Access Denied because object protected by object lock: {0}")]
    Locked(String),
    /// What is set for the bucket forbids it.
    #[error("{0}")]
    InvalidBucketState(String),
    /// The version is archived and not restored.
    #[error("the object is in class {class}; restore it first")]
    InvalidObjectState {
        /// The class as S3 shows it.
        class: String,
    },
    /// A restore of this object is running.
    #[error("a restore of this object is in progress")]
    RestoreInProgress,
    /// RestoreObject on an object that is not archived.
    #[error("the object is in class {class}, which needs no restore")]
    NotArchived {
        /// The class as S3 shows it.
        class: String,
    },
    /// A range that lies outside the object.
    #[error("the range is not satisfiable for a size of {size} bytes")]
    InvalidRange {
        /// Size of the object in bytes.
        size: u64,
    },
    /// A request that makes no sense; the message names the field and the way out.
    #[error("{0}")]
    InvalidArgument(String),
    /// A request that contradicts what it refers to; the message says how.
    #[error("{0}")]
    InvalidRequest(String),
    /// No room, or too many requests: try again later. The message gives the reason.
    #[error("slow down: {0}")]
    SlowDown(String),
    /// The tier that has the bytes cannot be reached now.
    #[error("the tier {tier} cannot serve this now: {source}")]
    Tier {
        /// Name of the tier.
        tier: String,
        /// What it said.
        source: TierError,
    },
    /// Bytes failed their digest and no other copy is at hand. Never served.
    #[error("data corruption: {0}")]
    Corrupt(String),
    /// The store refuses writes after an I/O error until it is reopened, or is shutting down.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// A failure of the disk or a bug; the message says where.
    #[error("internal error: {0}")]
    Internal(String),
}

impl EngineError {
    /// Whether the same request may succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict | Self::SlowDown(_) | Self::RestoreInProgress => true,
            Self::Tier { source, .. } => source.is_retryable(),
            _ => false,
        }
    }
}

impl From<crate::meta::MetaError> for EngineError {
    fn from(error: crate::meta::MetaError) -> Self {
        use crate::meta::MetaError as M;
        match error {
            M::Conflict { .. } => Self::Conflict,
            M::Poisoned { .. } | M::Fenced { .. } | M::Closed | M::Locked { .. } => {
                Self::Unavailable(error.to_string())
            }
            M::Corrupt { .. } => Self::Corrupt(error.to_string()),
            // Clients see the message: without the path.
            M::Io { kind: std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded, message, .. } => {
                Self::SlowDown(message)
            }
            M::Io { .. } => Self::Internal(error.to_string()),
            M::Invalid(_) => Self::InvalidArgument(error.to_string()),
        }
    }
}

impl From<crate::local::LocalError> for EngineError {
    fn from(error: crate::local::LocalError) -> Self {
        use crate::local::LocalError as L;
        match error {
            L::Full { .. } => Self::SlowDown(error.to_string()),
            L::Corrupt { .. } => Self::Corrupt(error.to_string()),
            L::Poisoned { .. } => Self::Unavailable(error.to_string()),
            L::Io { .. } | L::Invalid(_) => Self::Internal(error.to_string()),
        }
    }
}
