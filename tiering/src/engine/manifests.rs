//! What packs in tiers tell of the objects in them: frames of operations, laid out as in the journal, that say what stood at each
//! key when its object was moved. Only a recovery from packs alone reads them (`recovery/from_packs`).

use super::error::EngineError;
use super::keys;
use super::record::{ObjectRecord, Record};
use super::types::Residency;
use crate::chunk::{ChunkId, codec};
use crate::journal::{OpView, decode_op, encode_op};
use crate::meta::Table;
use crate::pack::{Frame, FrameKind, PlannedFrame};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A frame is closed when it has so many raw bytes.
const FRAME_BYTES: usize = 1 << 20;

/// A frame that tells of some objects, and how many they are.
#[derive(Debug)]
pub(crate) struct Told {
    pub id: ChunkId,
    pub frame: Arc<Frame>,
    pub objects: usize,
}

impl Told {
    pub(crate) fn planned(&self) -> PlannedFrame {
        let Frame { kind, codec, raw_len, ref stored } = *self.frame;
        let stored_len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        PlannedFrame { id: self.id, kind, codec, raw_len, stored_len }
    }
}

/// Puts frames together, object by object.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    done: Vec<(Vec<u8>, usize)>,
    raw: Vec<u8>,
    objects: usize,
    /// Buckets that the frame at hand has.
    buckets: BTreeSet<Vec<u8>>,
}

impl Telling {
    /// Adds an object as it is once it has this residency. `bucket` gives the record of its bucket, if there still is one.
    ///
    /// # Errors
    /// Of `bucket`; a key or a record beyond the format.
    pub(crate) fn object(
        &mut self,
        subject: &[u8],
        (record, residency): (&ObjectRecord, Residency),
        bucket: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, EngineError>,
    ) -> Result<(), EngineError> {
        let name = subject.split(|byte| *byte == 0).next().unwrap_or_default();
        if !self.buckets.contains(name) {
            if let Some(value) = bucket(name)? {
                encode_op(&mut self.raw, Table::Bucket, name, Some(&value)).map_err(EngineError::Internal)?;
            }
            self.buckets.insert(name.to_vec());
        }
        let (due, idle, waiting) = (None, None, None);
        let (restoring, manifest, retell) = (None, None, false);
        let told = ObjectRecord { residency, restoring, due, idle, waiting, manifest, retell, ..record.clone() };
        encode_op(&mut self.raw, keys::table_of(subject), subject, Some(&told.encode()?))
            .map_err(EngineError::Internal)?;
        self.objects += 1;
        if self.raw.len() >= FRAME_BYTES {
            self.close();
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.objects > 0 {
            self.done.push((std::mem::take(&mut self.raw), std::mem::take(&mut self.objects)));
            self.buckets.clear();
        }
    }

    /// The frames, in the order of their objects. Compresses, which takes some ten milliseconds for each.
    ///
    /// # Errors
    /// A frame beyond the format's lengths.
    pub(crate) fn frames(mut self, zstd_level: i32) -> Result<Vec<Told>, EngineError> {
        self.close();
        let frame = |(raw, objects): (Vec<u8>, usize)| {
            let raw = Bytes::from(raw);
            let raw_len = u32::try_from(raw.len()).map_err(|e| EngineError::Internal(e.to_string()))?;
            let stored = codec::compress(&raw, zstd_level);
            let frame = Frame { kind: FrameKind::Manifests, codec: stored.codec, raw_len, stored: stored.bytes };
            Ok(Told { id: ChunkId::of(&raw), frame: Arc::new(frame), objects })
        };
        self.done.into_iter().map(frame).collect()
    }
}

/// Calls `visit` with every operation of a frame's raw bytes.
///
/// # Errors
/// What `visit` says; a frame that holds anything but records of buckets and objects.
pub(crate) fn each_told<E: From<EngineError>>(
    mut raw: &[u8],
    mut visit: impl FnMut(Table, &[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let odd = |what: String| E::from(EngineError::Corrupt(format!("a frame of manifests: {what}")));
    while !raw.is_empty() {
        let (OpView { table, key, value }, rest) = decode_op(raw).map_err(odd)?;
        match (table, value) {
            (Table::Bucket | Table::Object | Table::Version, Some(value)) => visit(table, key, value)?,
            _ => return Err(odd(format!("an operation on table {table:?} has no place there"))),
        }
        raw = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::engine::body::BodyRef;
    use crate::engine::types::{ObjectAttributes, VersionId};

    fn record(metadata: usize) -> ObjectRecord {
        let user_metadata = vec![("about".to_owned(), "x".repeat(metadata))];
        ObjectRecord {
            version: VersionId(7),
            size: 0,
            etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
            created: Timestamp(1),
            modified: Timestamp(2),
            attributes: ObjectAttributes { user_metadata, ..ObjectAttributes::default() },
            checksum: None,
            parts: Vec::new(),
            body: BodyRef::Inline(Vec::new()),
            residency: Residency::Hot,
            restoring: Some(9),
            due: Some(Timestamp(3)),
            idle: Some(Timestamp(4)),
            waiting: Some(Timestamp(5)),
            manifest: None,
            null: true,
            marker: false,
            noncurrent_since: None,
            retell: false,
        }
    }

    #[test]
    fn every_object_is_told_once_as_it_will_be_with_its_bucket_in_each_frame() {
        let mut telling = Telling::default();
        let subjects: Vec<Vec<u8>> = (0..30).map(|n| format!("b{}\0k{n}", n % 2).into_bytes()).collect();
        for subject in &subjects {
            let cold = Residency::Cold { tier: "ia".into() };
            telling.object(subject, (&record(100_000), cold), |name| Ok(Some(name.to_vec()))).unwrap();
        }
        let frames = telling.frames(3).unwrap();
        assert_eq!((frames.len(), frames.iter().map(|f| f.objects).sum::<usize>()), (3, 30));
        let mut found = Vec::new();
        for told in &frames {
            assert!(told.frame.raw_len < 2 << 20 && told.planned().stored_len < 20_000);
            let raw = told.frame.verify(&told.id).unwrap();
            let mut buckets = Vec::new();
            each_told(&raw, |table, key, value| {
                match table {
                    Table::Bucket => buckets.push((key.to_vec(), value.to_vec())),
                    _ => {
                        let told = ObjectRecord::decode(value)?;
                        assert_eq!(told.residency, Residency::Cold { tier: "ia".into() });
                        assert_eq!((told.restoring, told.due, told.idle, told.waiting), (None, None, None, None));
                        found.push(key.to_vec());
                    }
                }
                Ok::<(), EngineError>(())
            })
            .unwrap();
            buckets.sort();
            assert_eq!(buckets, [(b"b0".to_vec(), b"b0".to_vec()), (b"b1".to_vec(), b"b1".to_vec())]);
        }
        assert_eq!(found, subjects);
    }

    #[test]
    fn what_has_no_place_in_a_frame_is_refused() {
        let mut raw = Vec::new();
        encode_op(&mut raw, Table::Due, b"k", Some(b"")).unwrap();
        let refused = |raw: &[u8]| each_told(raw, |_, _, _| Ok::<(), EngineError>(())).is_err();
        assert!(refused(&raw));
        raw.clear();
        encode_op(&mut raw, Table::Object, b"k", None).unwrap();
        assert!(refused(&raw));
        raw.clear();
        encode_op(&mut raw, Table::Object, b"k", Some(b"value")).unwrap();
        assert!(!refused(&raw) && refused(&raw[..raw.len() - 1]));
    }
}
