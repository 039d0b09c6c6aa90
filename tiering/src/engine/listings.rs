//! What listings are asked and answer: of objects, of their versions, of uploads.

use super::types::{ChecksumAlgorithm, RestoreStatus, UploadInfo, VersionId, VersionRef};
use crate::clock::Timestamp;

/// ListObjects (both versions of S3's call map to this).
#[derive(Debug, Clone, Default)]
pub struct ListObjects {
    /// Bucket.
    pub bucket: String,
    /// Only keys that start with this.
    pub prefix: String,
    /// Roll up keys at the first occurrence of this after the prefix.
    pub delimiter: Option<String>,
    /// Exclusive start: a key, or a common prefix (then all below it is skipped).
    pub after: Option<String>,
    /// At most this many keys and common prefixes together (S3 caps it at 1,000).
    pub max_keys: usize,
}

/// A line of a listing.
#[derive(Debug, Clone)]
pub struct ListedObject {
    /// Key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Last modification.
    pub last_modified: Timestamp,
    /// The class to show.
    pub class_shown: String,
    /// Checksum algorithm, if any, and whether composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
    /// Restore state.
    pub restore: Option<RestoreStatus>,
    /// The account that wrote it; none: the first one.
    pub owner: Option<String>,
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Objects, by key (bytes).
    pub objects: Vec<ListedObject>,
    /// Common prefixes, in order; each on one page only.
    pub common_prefixes: Vec<String>,
    /// The last key or common prefix of this page, when there is more: the next page's `after`.
    pub next: Option<String>,
}

/// ListMultipartUploads.
#[derive(Debug, Clone, Default)]
pub struct ListUploads {
    /// Bucket.
    pub bucket: String,
    /// Prefix of keys.
    pub prefix: String,
    /// Delimiter.
    pub delimiter: Option<String>,
    /// Exclusive start: key, and upload id within the key.
    pub after: Option<(String, Option<String>)>,
    /// Page size.
    pub max_uploads: usize,
}

/// A page of uploads.
#[derive(Debug, Clone, Default)]
pub struct UploadPage {
    /// Uploads by key and time.
    pub uploads: Vec<UploadInfo>,
    /// Common prefixes.
    pub common_prefixes: Vec<String>,
    /// The next page's `after`.
    pub next: Option<(String, Option<String>)>,
}

/// ListObjectVersions.
#[derive(Debug, Clone, Default)]
pub struct ListVersions {
    /// Bucket.
    pub bucket: String,
    /// Only keys that start with this.
    pub prefix: String,
    /// Roll up keys at the first occurrence of this after the prefix.
    pub delimiter: Option<String>,
    /// Begin behind this key or common prefix; with `version_marker` behind that version of the key.
    pub key_marker: Option<String>,
    /// Within `key_marker`; [`VersionRef::Current`] is as none.
    pub version_marker: Option<VersionRef>,
    /// At most this many versions, markers and common prefixes together.
    pub max: usize,
}

/// A version or a delete marker.
#[derive(Debug, Clone)]
pub struct VersionEntry {
    /// Key.
    pub key: String,
    /// Its id.
    pub version: VersionId,
    /// Clients see its id as `null`.
    pub null: bool,
    /// It is the latest of its key.
    pub latest: bool,
    /// It is a delete marker.
    pub marker: bool,
    /// Bytes.
    pub size: u64,
    /// ETag without quotes; empty for a marker.
    pub etag: String,
    /// Last modification.
    pub modified: Timestamp,
    /// The class to show.
    pub class_shown: String,
    /// The account that wrote it; none: the first one.
    pub owner: Option<String>,
    /// Checksum algorithm, if any, and whether composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
    /// Restore state.
    pub restore: Option<RestoreStatus>,
}

/// A page of versions.
#[derive(Debug, Clone, Default)]
pub struct VersionsPage {
    /// By key (bytes), the newest of a key first.
    pub entries: Vec<VersionEntry>,
    /// Common prefixes, in order; each on one page only.
    pub common_prefixes: Vec<String>,
    /// When there is more: the next page's `key_marker` and `version_marker`. The latter is none behind a common prefix.
    pub next: Option<(String, Option<VersionRef>)>,
}
