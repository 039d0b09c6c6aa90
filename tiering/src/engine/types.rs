//! What callers of the engine give and get: plain data in the words of S3, without its HTTP or XML.

use super::cipher::CustomerKey;
use super::error::EngineError;
use super::lifecycle::Ending;
use super::lock::Retention;
use crate::clock::Timestamp;
use crate::tier::RestorePriority;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A request body on its way in. An `Err` item (client gone, signature of a chunk wrong, ...) leaves no object.
pub type BodyIn = BoxStream<'static, Result<Bytes, BodyError>>;

/// An object body on its way out. An `Err` item must break the connection: a right length is not a right body.
pub type BodyOut = BoxStream<'static, Result<Bytes, EngineError>>;

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client closed the connection, sent less than it announced, or was too slow.
    #[error("the request body ended early: {0}")]
    Incomplete(String),
    /// The body contradicts its signature or framing.
    #[error("the request body is malformed: {0}")]
    Malformed(String),
}

/// Identifies one version of one object for ever: 16 bytes, time-ordered, shown as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionId(pub u128);

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Which version of a key is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum VersionRef {
    /// The latest: none was named.
    #[default]
    Current,
    /// The one whose id clients see as `null`.
    Null,
    /// The one with this id.
    Id(VersionId),
}

impl VersionRef {
    /// Of an id as clients give it: `null`, or 32 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |t: &str| t.len() == 32 && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text {
            "null" => Some(Self::Null),
            id if digits(id) => u128::from_str_radix(id, 16).ok().map(|id| Self::Id(VersionId(id))),
            _ => None,
        }
    }
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("latest"),
            Self::Null => f.write_str("null"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// The checksum algorithms of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// A checksum as S3 shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// Base64 of the value; a composite one ends in `-<parts>`.
    pub value: String,
    /// Over the parts' checksums (COMPOSITE) rather than over the whole body (FULL_OBJECT).
    pub composite: bool,
}

/// The content headers that S3 keeps with an object, exactly as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding` (without `aws-chunked`).
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires`.
    pub expires: Option<String>,
}

/// What describes an object besides its bytes. Names of user metadata are lower case, without `x-amz-meta-`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectAttributes {
    /// Content headers.
    pub headers: ContentHeaders,
    /// User metadata, in the order of names.
    pub user_metadata: Vec<(String, String)>,
    /// Tags, in the order of keys.
    pub tags: Vec<(String, String)>,
    /// The declared storage class as S3 names it (`STANDARD`, ...); what is physically true is [`Residency`].
    pub storage_class: Option<String>,
    /// The account that wrote it, by its canonical id; none: the first account.
    pub owner: Option<String>,
    /// Who else may do what with it, in the words of the S3 endpoint; none: nobody.
    pub acl: Option<String>,
    /// How the stored bytes are encrypted; none: they are the object's own.
    pub encryption: Option<Encryption>,
    /// Until when it must stay.
    pub retention: Option<Retention>,
    /// Whether it is under legal hold; none: nobody ever said.
    pub legal_hold: Option<bool>,
}

/// How the bytes of a version are encrypted before they are cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// With a key that the client brings with each request (SSE-C) and that is kept nowhere.
    Customer {
        /// Tells whether a key is the right one, and nothing of it.
        verifier: [u8; 32],
        /// Makes the keys that are derived of the client's this object's own; parts have a salt each.
        salt: [u8; 16],
    },
}

/// Preconditions of a write (`If-Match`, `If-None-Match`), checked at the commit point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteCondition {
    /// The current object must have this ETag (without quotes).
    pub if_match: Option<String>,
    /// The current object must have none of these ETags (without quotes; `*`: there must be no object).
    pub if_none_match: Vec<String>,
}

/// Gives the checksums that came after the body (trailers); called once the body has ended.
pub type TrailerChecksums = Box<dyn FnOnce() -> Vec<(ChecksumAlgorithm, String)> + Send>;

/// What the body must turn out to be. Everything given is verified before anything is committed.
#[derive(Default)]
pub struct BodyExpectation {
    /// `Content-Length` of the decoded body, when announced.
    pub length: Option<u64>,
    /// `Content-MD5`.
    pub md5: Option<[u8; 16]>,
    /// Checksums from headers: algorithm and base64.
    pub checksums: Vec<(ChecksumAlgorithm, String)>,
    /// Checksums from trailers.
    pub trailers: Option<TrailerChecksums>,
    /// Compute, keep and return this one even when none was sent.
    pub compute: Option<ChecksumAlgorithm>,
    /// Compute, keep and return this one when neither the request nor its upload names one.
    pub default: Option<ChecksumAlgorithm>,
    /// The client's key (SSE-C): the body is verified as it came and stored encrypted.
    pub customer_key: Option<CustomerKey>,
}

impl BodyExpectation {
    /// Decides which checksum is kept: when nobody named one, the default.
    pub(crate) fn settle(&mut self) {
        if self.checksums.is_empty() {
            // Of what is encrypted none is kept that nobody asked for: it would tell of the plaintext.
            let default = self.default.filter(|_| self.customer_key.is_none());
            self.compute = self.compute.or(default);
        }
    }
}

/// PutObject.
pub struct PutObject {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Description.
    pub attributes: ObjectAttributes,
    /// What the body must be.
    pub expect: BodyExpectation,
    /// Preconditions.
    pub condition: WriteCondition,
}

/// One part of a multipart object, kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// 1 to 10,000.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// MD5 in hex, without quotes.
    pub etag: String,
    /// When it was uploaded.
    pub modified: Timestamp,
    /// Its checksum.
    pub checksum: Option<Checksum>,
    /// Of an encrypted part: what makes the key of its bytes its own.
    pub nonce: Option<[u8; 16]>,
}

/// Where the bytes of a version are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Residency {
    /// On local disks only.
    Hot,
    /// In a tier; local copies are mere cache.
    Cold {
        /// Name of the tier.
        tier: String,
    },
    /// In a tier, and locally until `until`.
    Restored {
        /// Name of the tier.
        tier: String,
        /// When the local copy may be dropped.
        until: Timestamp,
    },
    /// Hot, and in a tier as well: to clients it is hot, the loss of the disk does not lose it, and under pressure its local
    /// copy may go without an upload.
    Protected {
        /// Name of the tier.
        tier: String,
    },
}

impl Residency {
    /// The tier that has the bytes, if one has.
    pub fn tier(&self) -> Option<&str> {
        match self {
            Residency::Hot => None,
            Residency::Cold { tier } | Residency::Restored { tier, .. } | Residency::Protected { tier } => Some(tier),
        }
    }

    /// Whether clients see a hot object.
    pub fn is_hot(&self) -> bool {
        matches!(self, Residency::Hot | Residency::Protected { .. })
    }
}

/// What `x-amz-restore` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreStatus {
    /// `ongoing-request="true"`.
    Ongoing,
    /// `ongoing-request="false", expiry-date="..."`.
    Done {
        /// Expiry.
        until: Timestamp,
    },
}

/// Everything that HEAD shows.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The version.
    pub version: VersionId,
    /// Clients see its id as `null`.
    pub null: bool,
    /// Its bucket gives version ids, or did: responses name the version.
    pub versioned: bool,
    /// Bytes.
    pub size: u64,
    /// As S3 gives it, without quotes: MD5 in hex, or MD5-of-MD5s-N.
    pub etag: String,
    /// Set by the client's write, never by moving the object.
    pub last_modified: Timestamp,
    /// Description.
    pub attributes: ObjectAttributes,
    /// Whole-object checksum, when one was asked for or sent.
    pub checksum: Option<Checksum>,
    /// The parts; empty for an object of a single PUT.
    pub parts: Vec<PartInfo>,
    /// Where the bytes are.
    pub residency: Residency,
    /// The class to show in `x-amz-storage-class` (`STANDARD` is not shown by S3): that of the tier the version is in,
    /// else the declared one.
    pub class_shown: String,
    /// Present for archived versions that are being or have been restored.
    pub restore: Option<RestoreStatus>,
    /// When a rule deletes it.
    pub expires: Option<Ending>,
}

/// What a write made.
#[derive(Debug, Clone)]
pub struct Written {
    /// The version.
    pub version: VersionId,
    /// Clients see its id as `null`.
    pub null: bool,
    /// Its bucket gives version ids, or did: responses name the version.
    pub versioned: bool,
    /// ETag without quotes.
    pub etag: String,
    /// Time of the commit.
    pub last_modified: Timestamp,
    /// Verified or computed checksum.
    pub checksum: Option<Checksum>,
    /// Bytes.
    pub size: u64,
    /// When a rule deletes it.
    pub expires: Option<Ending>,
}

/// CopyObject.
pub struct CopyObject {
    /// Source bucket.
    pub source_bucket: String,
    /// Source key.
    pub source_key: String,
    /// The version that the caller's conditions were checked against, the latest or another; the copy fails when it is not
    /// there any more.
    pub source_version: VersionId,
    /// Target bucket.
    pub bucket: String,
    /// Target key.
    pub key: String,
    /// `REPLACE`: these attributes; `COPY`: None (class excepted). Retention and legal hold are the copy's own: of `None` it has
    /// neither.
    pub replace_attributes: Option<ObjectAttributes>,
    /// `x-amz-tagging-directive: REPLACE`.
    pub replace_tags: Option<Vec<(String, String)>>,
    /// Declared class of the copy (`STANDARD` when the client gave none).
    pub storage_class: Option<String>,
    /// Checksum to compute for the copy.
    pub checksum: Option<ChecksumAlgorithm>,
    /// Preconditions on the target.
    pub condition: WriteCondition,
}

/// The client's keys (SSE-C) of a copy.
#[derive(Clone, Default)]
pub struct CopyKeys {
    /// What the source was encrypted with.
    pub source: Option<CustomerKey>,
    /// What the copy is to be encrypted with.
    pub target: Option<CustomerKey>,
}

/// CreateMultipartUpload. With [`ObjectAttributes::encryption`], all parts must come with the key that it was made of.
pub struct CreateUpload {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Description of the object to be.
    pub attributes: ObjectAttributes,
    /// Checksum algorithm of the parts, and whether the whole is to be composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// An unfinished upload.
#[derive(Debug, Clone)]
pub struct UploadInfo {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Upload id.
    pub upload_id: String,
    /// When it was begun.
    pub initiated: Timestamp,
    /// Declared class.
    pub storage_class: Option<String>,
    /// Checksum algorithm and whether composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
    /// How its parts are encrypted.
    pub encryption: Option<Encryption>,
    /// The account that began it; none: the first one.
    pub owner: Option<String>,
}

/// UploadPart.
pub struct UploadPart {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Upload id.
    pub upload_id: String,
    /// 1 to 10,000.
    pub number: u32,
    /// What the body must be.
    pub expect: BodyExpectation,
}

/// One part as CompleteMultipartUpload names it.
#[derive(Debug, Clone)]
pub struct CompletedPart {
    /// Part number.
    pub number: u32,
    /// ETag without quotes.
    pub etag: String,
    /// Checksum that the client repeats, if any.
    pub checksum: Option<(ChecksumAlgorithm, String)>,
}

/// CompleteMultipartUpload.
pub struct CompleteUpload {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Upload id.
    pub upload_id: String,
    /// Ascending parts.
    pub parts: Vec<CompletedPart>,
    /// Whole-object checksum that the client expects.
    pub expect_checksum: Option<(ChecksumAlgorithm, String)>,
    /// `x-amz-mp-object-size`.
    pub expect_size: Option<u64>,
    /// Preconditions.
    pub condition: WriteCondition,
}

/// DeleteObject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which version goes; none named: the key is to look deleted.
    pub version: VersionRef,
    /// The version that goes, or the visible one when none is named, must have this ETag (without quotes; `*`: be there).
    pub if_match: Option<String>,
    /// It must have this many bytes.
    pub if_size: Option<u64>,
    /// It must have been modified in this second (Unix time).
    pub if_modified: Option<u64>,
    /// The account that a delete marker belongs to; none: the first one.
    pub owner: Option<String>,
    /// The caller may remove what is retained in governance mode.
    pub bypass_governance: bool,
}

/// What a delete did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// There was what was to be deleted: a visible object, or the version that was named.
    pub existed: bool,
    /// The delete marker that was made, or the version that was removed; and whether clients see its id as `null`. None when
    /// nothing was there, and, unless a version was named, in a bucket that never gave version ids.
    pub version: Option<(VersionId, bool)>,
    /// That version is a delete marker.
    pub marker: bool,
}

/// RestoreObject.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Which version.
    pub version: VersionRef,
    /// How long the restored copy stays.
    pub days: u32,
    /// How urgent.
    pub priority: RestorePriority,
}

/// What RestoreObject answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// 202: durable, on its way.
    Accepted,
    /// 200: was restored already, the period was extended.
    Extended,
}
