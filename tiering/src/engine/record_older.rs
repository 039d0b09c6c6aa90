//! Older versions of stored records, read and turned into today's; nothing writes them any more.

use super::body::BodyRef;
use super::buckets::BucketSettings;
use super::record::{BucketRecord, ObjectRecord, PartRecord, RemotePackRecord, RemotePackState, UploadRecord};
use super::types::{Checksum, ChecksumAlgorithm, ContentHeaders, ObjectAttributes, PartInfo, Residency, VersionId};
use crate::chunk::ChunkId;
use crate::clock::Timestamp;
use serde::Deserialize;

/// Version 1 of the record of buckets: it knew no owners, no versions and no settings.
pub(super) fn bucket_1(rest: &[u8]) -> Result<BucketRecord, postcard::Error> {
    postcard::from_bytes(rest).map(|created| BucketRecord { created, settings: BucketSettings::default() })
}

/// Attributes as they were before owners, ACLs and encryption.
#[derive(Deserialize)]
struct Attributes1 {
    headers: ContentHeaders,
    user_metadata: Vec<(String, String)>,
    tags: Vec<(String, String)>,
    storage_class: Option<String>,
}

impl From<Attributes1> for ObjectAttributes {
    fn from(old: Attributes1) -> Self {
        let Attributes1 { headers, user_metadata, tags, storage_class } = old;
        Self { headers, user_metadata, tags, storage_class, ..Self::default() }
    }
}

/// Parts as they were before encryption.
#[derive(Deserialize)]
struct PartInfo1 {
    number: u32,
    size: u64,
    etag: String,
    modified: Timestamp,
    checksum: Option<Checksum>,
}

impl From<PartInfo1> for PartInfo {
    fn from(old: PartInfo1) -> Self {
        let PartInfo1 { number, size, etag, modified, checksum } = old;
        Self { number, size, etag, modified, checksum, nonce: None }
    }
}

/// Version 1 of the record of objects: it knew no protection, and packs told nothing of objects.
#[derive(Deserialize)]
struct Object1 {
    version: VersionId,
    size: u64,
    etag: String,
    created: Timestamp,
    modified: Timestamp,
    attributes: Attributes1,
    checksum: Option<Checksum>,
    parts: Vec<PartInfo1>,
    body: BodyRef,
    residency: Residency,
    restoring: Option<u128>,
    due: Option<Timestamp>,
    idle: Option<Timestamp>,
}

impl Object1 {
    fn later(self, waiting: Option<Timestamp>, manifest: Option<ChunkId>) -> ObjectRecord {
        ObjectRecord {
            version: self.version,
            size: self.size,
            etag: self.etag,
            created: self.created,
            modified: self.modified,
            attributes: self.attributes.into(),
            checksum: self.checksum,
            parts: self.parts.into_iter().map(PartInfo::from).collect(),
            body: self.body,
            residency: self.residency,
            restoring: self.restoring,
            due: self.due,
            idle: self.idle,
            waiting,
            manifest,
            null: true,
            marker: false,
            noncurrent_since: None,
            retell: false,
        }
    }
}

pub(super) fn object_1(rest: &[u8]) -> Result<ObjectRecord, postcard::Error> {
    postcard::from_bytes::<Object1>(rest).map(|old| old.later(None, None))
}

/// Version 2: that of version 1 and, behind it, `waiting` and `manifest`. Every version was `null`.
pub(super) fn object_2(rest: &[u8]) -> Result<ObjectRecord, postcard::Error> {
    postcard::from_bytes(rest).map(|(old, waiting, manifest): (Object1, _, _)| old.later(waiting, manifest))
}

pub(super) fn upload_1(rest: &[u8]) -> Result<UploadRecord, postcard::Error> {
    type Upload1 = (Timestamp, Attributes1, Option<(ChecksumAlgorithm, bool)>, Option<Timestamp>);
    postcard::from_bytes(rest).map(|(initiated, attributes, checksum, due): Upload1| UploadRecord {
        initiated,
        attributes: attributes.into(),
        checksum,
        due,
    })
}

pub(super) fn part_1(rest: &[u8]) -> Result<PartRecord, postcard::Error> {
    postcard::from_bytes(rest).map(|(info, body): (PartInfo1, BodyRef)| PartRecord { info: info.into(), body })
}

/// Version 1 of the record of remote packs: it knew no versions of objects in tiers.
#[derive(Deserialize)]
struct RemotePack1 {
    name: String,
    state: RemotePackState,
    bytes: u64,
    chunks: u32,
    created: Timestamp,
    crc64: Option<u64>,
    etag: Option<String>,
    references: u64,
}

pub(super) fn remote_pack_1(rest: &[u8]) -> Result<RemotePackRecord, postcard::Error> {
    let RemotePack1 { name, state, bytes, chunks, created, crc64, etag, references } = postcard::from_bytes(rest)?;
    Ok(RemotePackRecord { name, state, bytes, chunks, created, crc64, etag, references, version: None })
}
