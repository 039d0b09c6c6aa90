//! What is stored: classes, versions of objects, uploads, buckets.

use crate::blob::Body;
use crate::clock::DAY;
use crate::lifecycle::Rule;
use crate::restore::Restore;
use base64::Engine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Smallest billable size of every class but Standard: 64 KB, taken as 64 KiB.
pub const MIN_BILLABLE: u64 = 64 * 1024;

/// The five storage classes, from warm to cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub enum Class {
    /// Real-time access, no minimum.
    #[default]
    Standard,
    /// Real-time access, retrieval fee, 30 days.
    IA,
    /// Restored in a minute, 60 days.
    Archive,
    /// Restored in hours, 180 days.
    ColdArchive,
    /// Restored in up to two days, 180 days.
    DeepColdArchive,
}

impl Class {
    /// All classes, from warm to cold.
    pub const ALL: [Class; 5] =
        [Class::Standard, Class::IA, Class::Archive, Class::ColdArchive, Class::DeepColdArchive];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Class::Standard => "Standard",
            Class::IA => "IA",
            Class::Archive => "Archive",
            Class::ColdArchive => "ColdArchive",
            Class::DeepColdArchive => "DeepColdArchive",
        }
    }

    /// The class of a name; exact spelling only, as in requests.
    pub fn parse(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Whether a read needs a restore first.
    pub fn is_frozen(self) -> bool {
        self >= Class::Archive
    }

    /// Minimum storage duration in milliseconds.
    pub fn min_duration(self) -> u64 {
        match self {
            Class::Standard => 0,
            Class::IA => 30 * DAY,
            Class::Archive => 60 * DAY,
            Class::ColdArchive | Class::DeepColdArchive => 180 * DAY,
        }
    }

    /// The size that is billed for a body of `size` bytes.
    pub fn billable(self, size: u64) -> u64 {
        if self == Class::Standard { size } else { size.max(MIN_BILLABLE) }
    }
}

/// `x-oss-object-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Written by one PUT.
    Normal,
    /// Completed from parts.
    Multipart,
    /// Written by appends.
    Appendable,
    /// A link; its target is in the headers.
    Symlink,
}

impl Kind {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Normal => "Normal",
            Kind::Multipart => "Multipart",
            Kind::Appendable => "Appendable",
            Kind::Symlink => "Symlink",
        }
    }
}

/// Stored headers in the order sent: lower-case name and value.
pub type Headers = Vec<(Box<str>, Box<str>)>;

/// One version of an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Version {
    /// Number of the version; 0 is the "null" version.
    pub id: u64,
    /// Whether this is a delete marker.
    pub delete_marker: bool,
    /// How it was written.
    pub kind: Kind,
    /// Storage class.
    pub class: Class,
    /// Bytes.
    pub size: u64,
    /// The entity tag without quotes: upper-case hex, `-n` appended for multipart.
    pub etag: Box<str>,
    /// CRC-64/XZ of the body.
    pub crc64: u64,
    /// Last-Modified, virtual milliseconds.
    pub modified: u64,
    /// When a lifecycle rule last changed the class; 0 = never.
    pub transition: u64,
    /// Stored headers: Content-Type and the like, `x-oss-meta-*`, encryption. Lower-case names.
    pub headers: Headers,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// The last restore, current or not.
    pub restore: Option<Box<Restore>>,
    /// The body.
    pub body: Body,
}

impl Version {
    /// The version id on the wire.
    pub fn version_id(&self) -> String {
        version_id(self.id)
    }

    /// Whether a GET must be refused at `now`.
    pub fn frozen_at(&self, now: u64) -> bool {
        self.class.is_frozen() && !self.restore.as_ref().is_some_and(|r| r.is_readable(now))
    }

    /// From when this class has been stored: the start of the storage line.
    pub fn stored_since(&self) -> u64 {
        self.modified.max(self.transition)
    }

    /// The clock of the minimum duration: Last-Modified for IA and Archive, also when a rule moved the object there; the
    /// conversion for the two cold ones.
    pub fn minimum_since(&self) -> u64 {
        if self.class >= Class::ColdArchive { self.stored_since() } else { self.modified }
    }

    /// A stored header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| &**n == name).map(|(_, v)| &**v)
    }

    /// The base64 MD5, for bodies written by one PUT.
    pub fn content_md5(&self) -> Option<String> {
        let bytes = hex::decode(&*self.etag).ok().filter(|_| self.kind == Kind::Normal)?;
        Some(base64::engine::general_purpose::STANDARD.encode(bytes))
    }
}

/// Mixed into version numbers, so that clients cannot take them for a counter.
const VERSION_MASK: u64 = 0x9E37_79B9_7F4A_7C15;

/// The wire form of a version number.
pub fn version_id(id: u64) -> String {
    if id == 0 {
        return "null".to_string();
    }
    format!("CAEQ{:016x}{:016x}{:08x}", id ^ VERSION_MASK, id.wrapping_mul(VERSION_MASK), id as u32)
}

/// The number of a wire form.
pub fn parse_version_id(text: &str) -> Option<u64> {
    if text == "null" {
        return Some(0);
    }
    let id = u64::from_str_radix(text.get(4..20)?, 16).ok()? ^ VERSION_MASK;
    (version_id(id) == text).then_some(id)
}

/// One uploaded part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// Bytes.
    pub size: u64,
    /// Entity tag without quotes.
    pub etag: Box<str>,
    /// MD5 of the part.
    pub md5: [u8; 16],
    /// CRC-64/XZ of the part.
    pub crc64: u64,
    /// When it was stored.
    pub modified: u64,
    /// The bytes.
    pub body: Body,
}

/// An open multipart upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    /// When it was initiated.
    pub initiated: u64,
    /// Storage class of the object to be.
    pub class: Class,
    /// Headers of the object to be.
    pub headers: Headers,
    /// Tags of the object to be.
    pub tags: Vec<(String, String)>,
    /// Parts by number.
    #[serde(default)]
    pub parts: BTreeMap<u16, Part>,
}

/// State of versioning, once it has been set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// Every write makes a version.
    Enabled,
    /// Writes replace the null version.
    Suspended,
}

/// Settings of a bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BucketMeta {
    /// Class of objects that name none.
    pub class: Class,
    /// When it was made.
    pub created: u64,
    /// Versioning; `None` = never set.
    pub versioning: Option<Versioning>,
    /// Archive objects can be read without a restore.
    pub direct_read: bool,
    /// Access control, as set.
    pub acl: String,
    /// Lifecycle rules; `None` = not configured.
    pub lifecycle: Option<Vec<Rule>>,
    /// The document that configured them.
    #[serde(default)]
    pub lifecycle_document: String,
}

impl BucketMeta {
    /// A new bucket.
    pub fn new(class: Class, created: u64) -> BucketMeta {
        BucketMeta {
            class,
            created,
            versioning: None,
            direct_read: false,
            acl: "private".into(),
            lifecycle: None,
            lifecycle_document: String::new(),
        }
    }
}

/// A bucket with its content.
#[derive(Debug)]
pub struct Bucket {
    /// Settings.
    pub meta: BucketMeta,
    /// Versions by key, oldest first: the last is the current one. Never empty.
    pub objects: BTreeMap<String, Vec<Version>>,
    /// Open uploads by key and id.
    pub uploads: BTreeMap<(String, String), Upload>,
}

impl Bucket {
    /// An empty bucket.
    pub fn new(meta: BucketMeta) -> Bucket {
        Bucket { meta, objects: BTreeMap::new(), uploads: BTreeMap::new() }
    }

    /// The current version of a key, which may be a delete marker.
    pub fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key)?.last()
    }

    /// A version by number.
    pub fn version(&self, key: &str, id: u64) -> Option<&Version> {
        self.objects.get(key)?.iter().find(|v| v.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_ids_round_trip_and_others_are_refused() {
        for id in [0, 1, 77, u64::MAX] {
            assert_eq!(parse_version_id(&version_id(id)), Some(id));
        }
        for bad in ["", "null2", "CAEQ", "CAEQ00000000000000000000000000000000"] {
            assert_eq!(parse_version_id(bad), None, "{bad}");
        }
    }
}
