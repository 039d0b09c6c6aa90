//! Stored records: what the values of the namespace's tables hold. Each begins with a byte of version and goes on in
//! postcard; `docs/formats.md` describes them, a test below keeps one literal sample of each version readable.

use super::body::BodyRef;
use super::buckets::{BucketSettings, Versioning};
use super::error::EngineError;
use super::record_older as older;
use super::types::{Checksum, ChecksumAlgorithm, ObjectAttributes, PartInfo, Residency, VersionId};
use crate::chunk::ChunkId;
use crate::clock::Timestamp;
use crate::tier::RestorePriority;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A value of the namespace.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// What errors call it.
    const NAME: &'static str;
    /// The version that is written.
    const VERSION: u8 = 1;

    fn encode(&self) -> Result<Vec<u8>, EngineError> {
        postcard::to_extend(self, vec![Self::VERSION])
            .map_err(|e| EngineError::Internal(format!("encode a {} record: {e}", Self::NAME)))
    }

    /// Reads a record of an older version; none for a version that there never was.
    fn decode_older(_version: u8, _rest: &[u8]) -> Option<Result<Self, postcard::Error>> {
        None
    }

    fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let damaged = |e| EngineError::Corrupt(format!("a {} record does not decode: {e}", Self::NAME));
        let (version, rest) = match bytes.split_first() {
            Some((&version, rest)) if version == Self::VERSION => return postcard::from_bytes(rest).map_err(damaged),
            Some((&version, rest)) => (version, rest),
            None => return Err(EngineError::Corrupt(format!("an empty {} record", Self::NAME))),
        };
        match Self::decode_older(version, rest) {
            Some(older) => older.map_err(damaged),
            None => Err(EngineError::Corrupt(format!(
                "a {} record has version {version}; this build reads up to {}: use a newer tidegate",
                Self::NAME,
                Self::VERSION
            ))),
        }
    }
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BucketRecord {
    pub created: Timestamp,
    pub settings: BucketSettings,
}

impl Record for BucketRecord {
    const NAME: &'static str = "bucket";
    const VERSION: u8 = 2;

    fn decode_older(version: u8, rest: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| older::bucket_1(rest))
    }
}

impl BucketRecord {
    /// Whether the bucket of a stored record gives version ids. Reads no further than that: every write asks, and settings may be long.
    pub(crate) fn versioning(stored: &[u8]) -> Result<Versioning, EngineError> {
        match stored.split_first() {
            Some((&Self::VERSION, rest)) => {
                let (front, _) = postcard::take_from_bytes::<(Timestamp, Option<&str>, Versioning)>(rest)
                    .map_err(|e| EngineError::Corrupt(format!("a bucket record does not decode: {e}")))?;
                Ok(front.2)
            }
            _ => Ok(Self::decode(stored)?.settings.versioning),
        }
    }

    /// One of the documents among the settings of a stored record.
    pub(crate) fn kept<'s>(stored: &'s [u8], name: &str) -> Result<Option<Cow<'s, [u8]>>, EngineError> {
        type Settings<'s> = (Timestamp, Option<&'s str>, Versioning, BTreeMap<&'s str, &'s [u8]>);
        match stored.split_first() {
            Some((&Self::VERSION, rest)) => {
                let (_, _, _, config) = postcard::from_bytes::<Settings<'_>>(rest)
                    .map_err(|e| EngineError::Corrupt(format!("a bucket record does not decode: {e}")))?;
                Ok(config.get(name).copied().map(Cow::Borrowed))
            }
            _ => Ok(Self::decode(stored)?.settings.config.remove(name).map(Cow::Owned)),
        }
    }
}

/// A version of a key: the visible one in the table Object, all others and all delete markers in the table Version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub version: VersionId,
    pub size: u64,
    pub etag: String,
    /// When the bytes came first; survives a change of metadata, which renews `modified`.
    pub created: Timestamp,
    pub modified: Timestamp,
    pub attributes: ObjectAttributes,
    pub checksum: Option<Checksum>,
    pub parts: Vec<PartInfo>,
    pub body: BodyRef,
    pub residency: Residency,
    /// The restore job that works on this version.
    pub restoring: Option<u128>,
    /// Where this version stands in the due index, so that the next write can take it out.
    pub due: Option<Timestamp>,
    /// Where it stands in the idle order (hot versions, when the policy has fill-level triggers).
    pub idle: Option<Timestamp>,
    /// Where it stands among those that wait to be protected: hot versions of protected buckets, by `modified`.
    pub waiting: Option<Timestamp>,
    /// The frame of its tier that tells of this version, as it was when it was moved; of a copy, that tells of the source. It is
    /// needed only when the namespace is lost; until then it keeps its pack alive.
    pub manifest: Option<ChunkId>,
    /// Its version id for clients is `null`: it was written while its bucket gave no version ids.
    pub null: bool,
    /// A delete marker: it has no body, and its key looks deleted.
    pub marker: bool,
    /// When a later version of its key took its place; none: it is the latest.
    pub noncurrent_since: Option<Timestamp>,
    /// Its lock is another than its tier was told, or the tier was told of the source of a copy only.
    pub retell: bool,
}

impl ObjectRecord {
    /// A delete marker of the moment `now`.
    pub(crate) fn delete_marker(version: VersionId, now: Timestamp) -> Self {
        Self {
            version,
            size: 0,
            etag: String::new(),
            created: now,
            modified: now,
            attributes: ObjectAttributes::default(),
            checksum: None,
            parts: Vec::new(),
            body: BodyRef::Inline(Vec::new()),
            residency: Residency::Hot,
            restoring: None,
            due: None,
            idle: None,
            waiting: None,
            manifest: None,
            null: false,
            marker: true,
            noncurrent_since: None,
            retell: false,
        }
    }
}

impl Record for ObjectRecord {
    const NAME: &'static str = "object";
    const VERSION: u8 = 3;

    fn decode_older(version: u8, rest: &[u8]) -> Option<Result<Self, postcard::Error>> {
        match version {
            1 => Some(older::object_1(rest)),
            2 => Some(older::object_2(rest)),
            _ => None,
        }
    }
}

/// An unfinished multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub initiated: Timestamp,
    pub attributes: ObjectAttributes,
    /// Algorithm, and whether the whole is composite.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
    /// When a rule aborts it.
    pub due: Option<Timestamp>,
}

impl Record for UploadRecord {
    const NAME: &'static str = "upload";
    const VERSION: u8 = 2;

    fn decode_older(version: u8, rest: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| older::upload_1(rest))
    }
}

/// One uploaded part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub info: PartInfo,
    pub body: BodyRef,
}

impl Record for PartRecord {
    const NAME: &'static str = "part";
    const VERSION: u8 = 2;

    fn decode_older(version: u8, rest: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| older::part_1(rest))
    }
}

/// Life of a remote pack. It begins with the intent, before the first byte leaves (D9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RemotePackState {
    /// Intent: may or may not exist remotely. Found so at start, it is an orphan and becomes `Doomed`.
    Uploading,
    /// Confirmed by the tier; versions may refer to it.
    Live,
    /// No version refers to it; a durable job deletes it remotely and then this record.
    Doomed,
}

/// A pack in a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemotePackRecord {
    /// Name in the tier: fresh, never used again.
    pub name: String,
    pub state: RemotePackState,
    pub bytes: u64,
    pub chunks: u32,
    pub created: Timestamp,
    pub crc64: Option<u64>,
    /// The tier's ETag: kept beside the clients' ETags, never instead of one.
    pub etag: Option<String>,
    /// Raised by every commit that makes a version refer to this pack, so that a doom decided before fails its
    /// compare-and-swap.
    pub references: u64,
    /// The version that the tier gave it, where the bucket keeps versions: its deletion names it.
    pub version: Option<String>,
}

impl Record for RemotePackRecord {
    const NAME: &'static str = "remote pack";
    const VERSION: u8 = 2;

    fn decode_older(version: u8, rest: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| older::remote_pack_1(rest))
    }
}

/// Where each chunk of a remote pack lies: the local copy of its footer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteFooter {
    pub entries: Vec<RemoteEntry>,
}

/// One frame of a remote pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteEntry {
    pub id: crate::chunk::ChunkId,
    /// Of the frame's header, in bytes from the start of the pack.
    pub offset: u32,
    /// Length of the payload in bytes.
    pub stored_len: u32,
}

impl Record for RemoteFooter {
    const NAME: &'static str = "remote footer";
}

impl RemoteFooter {
    /// Refuses lengths that no frame has, which the index of remote chunks could not hold.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match self
            .entries
            .iter()
            .find(|e| e.stored_len > u32::try_from(crate::chunk::MAX_CHUNK_LEN).unwrap_or(u32::MAX))
        {
            Some(e) => Err(EngineError::Corrupt(format!("a footer with a frame of {} bytes", e.stored_len))),
            None => Ok(()),
        }
    }
}

/// An accepted RestoreObject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoreJob {
    pub bucket: String,
    pub key: String,
    pub version: VersionId,
    pub tier: String,
    pub days: u32,
    pub priority: RestorePriority,
    pub requested: Timestamp,
}

impl Record for RestoreJob {
    const NAME: &'static str = "restore job";
}

/// A thaw that was asked of a tier: merged over all jobs that need the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThawRecord {
    pub requested: Timestamp,
    pub priority: RestorePriority,
}

impl Record for ThawRecord {
    const NAME: &'static str = "thaw";
}

/// When a key was last read, to the granularity of the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccessRecord {
    pub at: Timestamp,
}

impl Record for AccessRecord {
    const NAME: &'static str = "access";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::body::ChunkRef;
    use crate::engine::lock::{Retention, RetentionMode};
    use crate::engine::types::Encryption;

    fn sample() -> ObjectRecord {
        ObjectRecord {
            version: VersionId(7),
            size: 5,
            etag: "5d41402abc4b2a76b9719d911017c592".into(),
            created: Timestamp(1),
            modified: Timestamp(2),
            attributes: ObjectAttributes::default(),
            checksum: None,
            parts: Vec::new(),
            body: BodyRef::Inline(vec![ChunkRef { id: ChunkId::of(b"hello"), len: 5 }]),
            residency: Residency::Cold { tier: "ia".into() },
            restoring: None,
            due: Some(Timestamp(3)),
            idle: None,
            waiting: None,
            manifest: None,
            null: true,
            marker: false,
            noncurrent_since: None,
            retell: false,
        }
    }

    #[test]
    fn object_records_of_versions_1_and_2_stay_readable_and_version_3_is_as_documented() {
        let front = concat!(
            "07",                                                                 // version id (varint)
            "05",                                                                 // size
            "203564343134303261626334623261373662393731396439313130313763353932", // ETag: length, text
            "01",                                                                 // created
            "02",                                                                 // modified
            "000000000000",                                                       // content headers: six times none
            "00",                                                                 // user metadata: none
            "00",                                                                 // tags: none
            "00",                                                                 // storage class: none
        );
        let middle = concat!(
            "00",                                                               // checksum: none
            "00",                                                               // parts: none
            "0001",                                                             // body: inline, one chunk
            "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f", // its id
            "05",                                                               // its length
        );
        let end = concat!(
            "026961", // tier "ia"
            "00",     // restore job: none
            "0103",   // due at 3
            "00",     // not in the idle order
        );
        let version_1 = hex::decode(format!("01{front}{middle}01{end}")).unwrap(); // residency 1: cold
        assert_eq!(ObjectRecord::decode(&version_1).unwrap(), sample());
        let mut protected = sample();
        protected.residency = Residency::Protected { tier: "ia".into() };
        protected.waiting = Some(Timestamp(2));
        protected.manifest = Some(ChunkId::of(b"told"));
        let told = "01aba59753b47e80f3b62be1cabd4d3c489b1d41943ec5fc303b154af11a409c4c";
        let [hot, waiting] = ["0000".to_owned(), format!("0102{told}")];
        for (record, residency, later) in [(sample(), "01", hot), (protected, "03", waiting)] {
            let version_2 = format!("02{front}{middle}{residency}{end}{later}");
            assert_eq!(ObjectRecord::decode(&hex::decode(version_2).unwrap()).unwrap(), record);
            // Owner, ACL, encryption, retention and legal hold: none. The version is `null`, no marker, the latest, and told of.
            let version_3 = format!("03{front}0000000000{middle}{residency}{end}{later}01000000");
            assert_eq!(hex::encode(record.encode().unwrap()), version_3);
            assert_eq!(ObjectRecord::decode(&hex::decode(version_3).unwrap()).unwrap(), record);
        }
    }

    #[test]
    fn the_new_fields_of_an_object_are_as_documented() {
        let mut record = sample();
        record.attributes.owner = Some("o".into());
        record.attributes.acl = Some("a".into());
        record.attributes.encryption = Some(Encryption::Customer { verifier: [0x11; 32], salt: [0x22; 16] });
        record.attributes.retention = Some(Retention { mode: RetentionMode::Compliance, until: Timestamp(300) });
        record.attributes.legal_hold = Some(true);
        let modified = Timestamp(2);
        record.parts =
            vec![PartInfo { number: 1, size: 5, etag: "e".into(), modified, checksum: None, nonce: Some([0x33; 16]) }];
        (record.null, record.marker, record.noncurrent_since) = (false, true, Some(Timestamp(4)));
        record.retell = true;
        let encoded = hex::encode(record.encode().unwrap());
        let attributes = format!("01016f0101610100{}{}0101ac02010100", "11".repeat(32), "22".repeat(16));
        let part = format!("0101050165020001{}", "33".repeat(16));
        assert!(encoded.contains(&format!("{attributes}{part}0001")), "{encoded}");
        assert!(encoded.ends_with("0001010401"), "{encoded}");
        assert_eq!(ObjectRecord::decode(&hex::decode(encoded).unwrap()).unwrap(), record);
    }

    #[test]
    fn records_of_buckets_uploads_and_parts_of_version_1_stay_readable_and_version_2_is_as_documented() {
        let old = BucketRecord::decode(&hex::decode("0109").unwrap()).unwrap();
        assert_eq!(old, BucketRecord { created: Timestamp(9), settings: BucketSettings::default() });
        let settings = BucketSettings {
            owner: Some("o".into()),
            versioning: Versioning::Suspended,
            config: [("cors".to_owned(), b"<x/>".to_vec())].into(),
        };
        let bucket = BucketRecord { created: Timestamp(9), settings };
        let encoded = "020901016f020104636f7273043c782f3e";
        assert_eq!(hex::encode(bucket.encode().unwrap()), encoded);
        assert_eq!(BucketRecord::decode(&hex::decode(encoded).unwrap()).unwrap(), bucket);
        for (stored, versioning) in [("0109", Versioning::Off), (encoded, Versioning::Suspended)] {
            assert_eq!(BucketRecord::versioning(&hex::decode(stored).unwrap()).unwrap(), versioning);
        }

        let attributes = ObjectAttributes::default();
        let upload = UploadRecord { initiated: Timestamp(4), attributes, checksum: None, due: None };
        for encoded in ["01040000000000000000000000", "020400000000000000000000000000000000"] {
            assert_eq!(UploadRecord::decode(&hex::decode(encoded).unwrap()).unwrap(), upload, "{encoded}");
        }
        assert_eq!(hex::encode(upload.encode().unwrap()), "020400000000000000000000000000000000");

        let info =
            PartInfo { number: 1, size: 5, etag: "e".into(), modified: Timestamp(2), checksum: None, nonce: None };
        let part = PartRecord { info, body: BodyRef::Inline(Vec::new()) };
        for encoded in ["010105016502000000", "02010501650200000000"] {
            assert_eq!(PartRecord::decode(&hex::decode(encoded).unwrap()).unwrap(), part, "{encoded}");
        }
        assert_eq!(hex::encode(part.encode().unwrap()), "02010501650200000000");
    }

    #[test]
    fn a_remote_pack_record_of_version_1_stays_readable_and_version_2_is_as_documented() {
        let front = concat!(
            "067061636b2f31", // name: "pack/1"
            "01",             // state: live
            "80808018",       // bytes: 48 MiB (varint)
            "dc0b",           // chunks: 1500
            "01",             // created
            "0109",           // CRC-64: 9
            "010178",         // ETag: "x"
            "03",             // references
        );
        let mut record = RemotePackRecord {
            name: "pack/1".into(),
            state: RemotePackState::Live,
            bytes: 48 << 20,
            chunks: 1_500,
            created: Timestamp(1),
            crc64: Some(9),
            etag: Some("x".into()),
            references: 3,
            version: None,
        };
        let version_1 = hex::decode(format!("01{front}")).unwrap();
        assert_eq!(RemotePackRecord::decode(&version_1).unwrap(), record);
        record.version = Some("CAE".into());
        let version_2 = format!("02{front}0103434145");
        assert_eq!(hex::encode(record.encode().unwrap()), version_2);
        assert_eq!(RemotePackRecord::decode(&hex::decode(version_2).unwrap()).unwrap(), record);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name() {
        let mut bytes = sample().encode().unwrap();
        bytes[0] = 9;
        let message = ObjectRecord::decode(&bytes).unwrap_err().to_string();
        assert!(message.contains("object record has version 9"), "{message}");
    }
}
