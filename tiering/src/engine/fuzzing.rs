//! Stored records for [`crate::fuzzing`].

use super::body::decode_node;
use super::events::{Event, NotificationRule};
use super::keys;
use super::record::{
    AccessRecord, BucketRecord, ObjectRecord, PartRecord, Record, RemoteFooter, RemotePackRecord, RestoreJob,
    ThawRecord, UploadRecord,
};

/// Decodes a value; what decodes must encode and decode to the same again.
pub(crate) fn decode_value(kind: u8, data: &[u8]) {
    match kind {
        0 => there_and_back::<BucketRecord>(data),
        1 => there_and_back::<ObjectRecord>(data),
        2 => there_and_back::<UploadRecord>(data),
        3 => there_and_back::<PartRecord>(data),
        4 => there_and_back::<RemotePackRecord>(data),
        5 => {
            if let Ok(footer) = RemoteFooter::decode(data) {
                let _ = footer.check();
            }
            there_and_back::<RemoteFooter>(data);
        }
        6 => there_and_back::<RestoreJob>(data),
        7 => there_and_back::<ThawRecord>(data),
        8 => there_and_back::<AccessRecord>(data),
        9 => drop(decode_node(data)),
        11 => {
            let _ = NotificationRule::decode(data);
            there_and_back::<Event>(data);
        }
        _ => {
            let _ = keys::split_object(data);
            let _ = keys::split_version(data);
            let _ = keys::split_upload(data);
            let _ = keys::split_due(data);
            let _ = keys::split_remote_pack(data);
        }
    }
}

fn there_and_back<R: Record>(data: &[u8]) {
    let Ok(record) = R::decode(data) else { return };
    let Ok(encoded) = record.encode() else { return };
    let again = R::decode(&encoded).and_then(|record| record.encode());
    assert_eq!(again.ok(), Some(encoded), "{} records do not come back as they were", R::NAME);
}

/// As [`sample_object`], of a hot object without bytes.
#[cfg(test)]
pub(crate) fn sample_empty_object() -> ObjectRecord {
    sample_object(super::body::BodyRef::Inline(Vec::new()), super::types::Residency::Hot)
}

/// An object's record with a value in every field that may have one.
#[cfg(test)]
fn sample_object(body: super::body::BodyRef, residency: super::types::Residency) -> ObjectRecord {
    use super::lock::{Retention, RetentionMode};
    use super::types::{ObjectAttributes, VersionId};
    use crate::clock::Timestamp;

    ObjectRecord {
        version: VersionId(7),
        size: 80_000,
        etag: "5d41402abc4b2a76b9719d911017c592".into(),
        created: Timestamp(1),
        modified: Timestamp(2),
        attributes: ObjectAttributes {
            tags: vec![("a".into(), "b".into())],
            retention: Some(Retention { mode: RetentionMode::Governance, until: Timestamp(11) }),
            legal_hold: Some(false),
            ..ObjectAttributes::default()
        },
        checksum: None,
        parts: Vec::new(),
        body,
        residency,
        restoring: Some(9),
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

#[cfg(test)]
pub(crate) fn sample_values() -> Vec<(u8, Vec<u8>)> {
    use super::body::{BodyRef, ChunkRef, NodeRef, encode_node};
    use super::record::{RemoteEntry, RemotePackState};
    use super::types::{Residency, VersionId};
    use crate::chunk::ChunkId;
    use crate::clock::Timestamp;
    use crate::tier::RestorePriority;

    let chunk = |n: u8| ChunkRef { id: ChunkId::of(&[n]), len: 40_000 };
    let inline = sample_object(BodyRef::Inline(vec![chunk(1), chunk(2)]), Residency::Hot);
    let node = NodeRef { id: ChunkId::of(b"node"), chunks: 2, bytes: 80_000 };
    let cold = sample_object(BodyRef::Nodes(vec![node]), Residency::Cold { tier: "ia".into() });
    let upload =
        UploadRecord { initiated: Timestamp(4), attributes: cold.attributes.clone(), checksum: None, due: None };
    let pack = RemotePackRecord {
        name: "packs/00/1".into(),
        state: RemotePackState::Live,
        bytes: 1 << 20,
        chunks: 20,
        created: Timestamp(5),
        crc64: Some(6),
        etag: None,
        references: 2,
        version: Some("v".into()),
    };
    let entry = RemoteEntry { id: chunk(1).id, offset: 40, stored_len: 30_000 };
    let job = RestoreJob {
        bucket: "bkt".into(),
        key: "k".into(),
        version: VersionId(7),
        tier: "ia".into(),
        days: 3,
        priority: RestorePriority::Bulk,
        requested: Timestamp(8),
    };
    let values = [
        (0, BucketRecord { created: Timestamp(1), settings: sample_settings() }.encode()),
        (1, inline.encode()),
        (1, cold.encode()),
        (2, upload.encode()),
        (4, pack.encode()),
        (5, RemoteFooter { entries: vec![entry] }.encode()),
        (6, job.encode()),
        (7, ThawRecord { requested: Timestamp(9), priority: RestorePriority::Standard }.encode()),
        (8, AccessRecord { at: Timestamp(10) }.encode()),
        (9, Ok(encode_node(&[chunk(1), chunk(2)]))),
        (10, Ok(keys::upload("bkt", "k", &"0".repeat(32)))),
        (11, sample_event().encode()),
    ];
    values.into_iter().map(|(kind, value)| (kind, value.unwrap())).collect()
}

#[cfg(test)]
pub(crate) fn sample_event() -> Event {
    use super::events::{EventKind, Origin};
    use super::types::VersionId;
    use crate::clock::Timestamp;

    Event {
        kind: EventKind::RestoreCompleted,
        at: Timestamp(1),
        bucket: "b".into(),
        owner: None,
        rule: "r".into(),
        key: "k".into(),
        size: Some(5),
        etag: Some("e".into()),
        version: Some((VersionId(9), false)),
        origin: Origin { principal: "p".into(), address: "a".into(), request: "q".into() },
        until: Some(Timestamp(2)),
        class: Some("GLACIER".into()),
    }
}

#[cfg(test)]
fn sample_settings() -> super::buckets::BucketSettings {
    super::buckets::BucketSettings {
        owner: Some("o".into()),
        versioning: super::buckets::Versioning::Enabled,
        config: [("cors".into(), b"<x/>".to_vec())].into(),
    }
}
