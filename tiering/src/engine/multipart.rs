//! Multipart uploads. Parts are ingested like objects; completing joins their manifests and moves no byte. The part map
//! stays with the object for ever.

use super::cipher::{CustomerKey, Sealer, check_part_key, fresh_salt};
use super::digest::{bad, combined_crc, composite_checksum, multipart_etag};
use super::error::EngineError;
use super::ingest::{ingest, join_bodies};
use super::keys::{self, DueKind};
use super::objects::{Target, written};
use super::read::ObjectHandle;
use super::record::{ObjectRecord, PartRecord, Record, UploadRecord};
use super::types::{
    BodyError, BodyExpectation, BodyIn, Checksum, ChecksumAlgorithm, CompleteUpload, CompletedPart, CreateUpload,
    PartInfo, Residency, UploadInfo, UploadPart, Written,
};
use super::{Core, Engine, Versioning};
use crate::meta::{Batch, Expect, MetaError, MetaStore, Op, Reason, Table, Value};
use crate::mutants::{self, Mutant};
use futures::StreamExt;
use std::collections::HashSet;
use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

/// UploadPartCopy.
pub struct UploadPartCopy {
    /// Bucket of the upload.
    pub bucket: String,
    /// Key of the upload.
    pub key: String,
    /// Upload id.
    pub upload_id: String,
    /// 1 to 10,000.
    pub number: u32,
    /// The source, whose conditions the caller has checked.
    pub source: ObjectHandle,
    /// Bytes of the source.
    pub range: Range<u64>,
    /// The client's key (SSE-C) that the upload was begun with.
    pub customer_key: Option<CustomerKey>,
}

/// A page of parts.
#[derive(Debug, Clone)]
pub struct PartPage {
    /// The upload.
    pub upload: UploadInfo,
    /// Parts by number.
    pub parts: Vec<PartInfo>,
    /// The last number of this page, when there are more.
    pub next: Option<u32>,
}

impl Engine {
    /// Begins an upload; returns its id.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`]; [`EngineError::InvalidRequest`], [`EngineError::InvalidArgument`] for a lock that cannot be.
    pub async fn create_upload(&self, create: CreateUpload) -> Result<String, EngineError> {
        keys::check_new(&create.key)?;
        self.core.admit_new(&create.bucket, Some(&create.attributes))?;
        let now = self.core.clock.now();
        let upload_id = format!("{:032x}", keys::fresh_id(now));
        let planned_by = self.core.rules_of(&create.bucket);
        let mut record =
            UploadRecord { initiated: now, attributes: create.attributes, checksum: create.checksum, due: None };
        record.due = self.core.upload_due(&create.bucket, &create.key, &record);
        let key = keys::upload(&create.bucket, &create.key, &upload_id);
        let mut batch = Batch::new(Reason::CreateUpload)
            .expect(Expect::Present(Table::Bucket, create.bucket.clone().into()))
            .put(Table::Upload, key.clone(), record.encode()?);
        if let Some(at) = record.due {
            batch = batch.put(Table::Due, keys::due(DueKind::Upload, at, &key), Vec::new());
        }
        match self.core.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => return Err(EngineError::NoSuchBucket(create.bucket)),
            other => drop(other?),
        }
        // As for objects: the walk after a change of rules may have passed this upload already.
        if !Arc::ptr_eq(&planned_by, &self.core.rules_of(&create.bucket))
            && let Some(stored) = self.core.meta.get(Table::Upload, &key)?
        {
            self.core.reindex_upload(&key, &stored).await?;
        }
        Ok(upload_id)
    }

    /// Stores a part; one of the same number is replaced.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUpload`], and whatever the body says.
    pub async fn upload_part(&self, mut part: UploadPart, body: BodyIn) -> Result<PartInfo, EngineError> {
        let key = keys::upload(&part.bucket, &part.key, &part.upload_id);
        let upload = self.core.upload(&key, &part.upload_id)?;
        let limits = self.core.settings.limits;
        if part.number == 0 || part.number > limits.max_parts {
            let message = format!("part number {} is not between 1 and {}", part.number, limits.max_parts);
            return Err(EngineError::InvalidArgument(message));
        }
        if let Some((planned, _)) = upload.checksum {
            let compute = *part.expect.compute.get_or_insert(planned);
            let asked = part.expect.checksums.first().map_or(compute, |(algorithm, _)| *algorithm);
            if asked != planned {
                // Kept under another algorithm, the part would leave the object without the checksum it was promised.
                let (asked, planned) = (asked.header(), planned.header());
                let message =
                    format!("the part comes with {asked}, the upload was begun with {planned}; use the latter");
                return Err(EngineError::InvalidRequest(message));
            }
        }
        part.expect.settle();
        let customer_key = part.expect.customer_key.take();
        check_part_key(upload.attributes.encryption.as_ref(), customer_key.as_ref())?;
        let nonce = customer_key.as_ref().map(|_| fresh_salt()).transpose()?;
        let sealer = customer_key.as_ref().zip(nonce).map(|(key, nonce)| Sealer::new(key, &nonce)).transpose()?;
        let ingested = ingest(&self.core, part.expect, limits.max_put_bytes, sealer, body).await?;
        let info = PartInfo {
            number: part.number,
            size: ingested.verified.size,
            etag: hex::encode(ingested.etag),
            modified: self.core.clock.now(),
            checksum: ingested.verified.checksum.clone(),
            nonce,
        };
        let record = PartRecord { info: info.clone(), body: ingested.body.clone() };
        let batch = Batch::new(Reason::PutPart)
            .expect(Expect::Present(Table::Upload, key))
            .put(Table::Part, keys::part(&part.upload_id, part.number), record.encode()?)
            .with_data()
            .holding(ingested.pins);
        match self.core.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => Err(EngineError::NoSuchUpload(part.upload_id)),
            other => Ok(other.map(|_| info)?),
        }
    }

    /// Stores a part out of an object. The bytes pass through the pipeline, which finds all of them but those at the
    /// cuts in place already.
    ///
    /// # Errors
    /// As [`Engine::upload_part`] and [`ObjectHandle::read`].
    pub async fn upload_part_copy(&self, copy: UploadPartCopy) -> Result<PartInfo, EngineError> {
        let length = copy.range.end.saturating_sub(copy.range.start);
        let body = copy.source.read(copy.range).await?;
        let body = body.map(|piece| piece.map_err(|e| BodyError::Incomplete(format!("read the source: {e}")))).boxed();
        let part = UploadPart {
            bucket: copy.bucket,
            key: copy.key,
            upload_id: copy.upload_id,
            number: copy.number,
            expect: BodyExpectation {
                length: Some(length),
                default: Some(ChecksumAlgorithm::Crc64Nvme),
                customer_key: copy.customer_key,
                ..Default::default()
            },
        };
        self.upload_part(part, body).await
    }

    /// Parts with numbers above `after`, at most `max`.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUpload`].
    pub fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload_id: &str,
        after: u32,
        max: usize,
    ) -> Result<PartPage, EngineError> {
        let upload = self.core.upload(&keys::upload(bucket, key, upload_id), upload_id)?;
        let mut parts = self.core.parts(upload_id, after, max.saturating_add(1))?;
        let more = parts.len() > max;
        parts.truncate(max);
        let parts: Vec<_> = parts.into_iter().map(|p| p.info).collect();
        Ok(PartPage {
            upload: UploadInfo {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                upload_id: upload_id.to_owned(),
                initiated: upload.initiated,
                storage_class: upload.attributes.storage_class,
                checksum: upload.checksum,
                encryption: upload.attributes.encryption,
                owner: upload.attributes.owner,
            },
            next: more.then(|| parts.last().map_or(after, |p| p.number)),
            parts,
        })
    }

    /// Makes an object out of parts. Asked again after success it fails with [`EngineError::NoSuchUpload`], unless the
    /// object that stands there is just the one that this upload made: then it answers the same once more, so that a
    /// client whose answer was lost can repeat.
    ///
    /// # Errors
    /// [`EngineError::InvalidPart`], [`EngineError::InvalidPartOrder`], [`EngineError::PartTooSmall`], ...
    pub async fn complete_upload(&self, complete: CompleteUpload) -> Result<Written, EngineError> {
        let key = keys::upload(&complete.bucket, &complete.key, &complete.upload_id);
        let (stored_upload, upload) = match self.core.stored_upload(&key, &complete.upload_id) {
            Err(EngineError::NoSuchUpload(id)) => {
                return self.core.completed_before(&complete)?.ok_or(EngineError::NoSuchUpload(id));
            }
            other => other?,
        };
        let (stored_parts, stored): (Vec<_>, Vec<_>) =
            self.core.stored_parts(&complete.upload_id, 0, usize::MAX)?.into_iter().unzip();
        let chosen = choose_parts(&complete.parts, &stored, self.core.settings.limits.min_part_bytes)?;
        let size = chosen.iter().try_fold(0u64, |sum, p| sum.checked_add(p.info.size));
        let limit = self.core.settings.limits.max_object_bytes;
        let size = size.filter(|s| *s <= limit).ok_or(EngineError::TooLarge { size: u64::MAX, limit })?;
        if let Some(expected) = complete.expect_size.filter(|s| *s != size) {
            let message = format!("x-amz-mp-object-size says {expected} bytes, the parts have {size}");
            return Err(EngineError::InvalidRequest(message));
        }
        let checksum = whole_checksum(&upload, &chosen, complete.expect_checksum.as_ref())?;
        let mut bodies: Vec<_> = chosen.iter().map(|p| p.body.clone()).collect();
        if mutants::active(Mutant::EqualPartsOnce) {
            bodies.dedup();
        }
        // Ten thousand parts make a hundred nodes to compress and append: not on a thread that serves others.
        let core = Arc::clone(&self.core);
        let joining = tokio::task::spawn_blocking(move || join_bodies(&core, &bodies));
        let (body, pins) = joining.await.map_err(|e| EngineError::Internal(format!("join the parts: {e}")))??;
        let now = self.core.clock.now();
        let record = ObjectRecord {
            version: keys::fresh_version(now),
            size,
            etag: multipart_etag(chosen.iter().map(|p| p.info.etag.as_str()))?,
            created: now,
            modified: now,
            attributes: upload.attributes.clone(),
            checksum,
            parts: chosen.iter().map(|p| p.info.clone()).collect(),
            body,
            residency: Residency::Hot,
            restoring: None,
            due: None,
            idle: None,
            waiting: None,
            manifest: None,
            null: true,
            marker: false,
            noncurrent_since: None,
            retell: false,
        };
        let mut batch = Batch::new(Reason::CompleteUpload).holding(Arc::new(pins));
        batch.expects.push(Expect::Equals(Table::Upload, key.clone(), stored_upload.to_vec()));
        for (part_key, value) in stored_parts {
            // A part replaced meanwhile would otherwise be lost, or worse, be half of the object.
            batch.expects.push(Expect::Equals(Table::Part, part_key.clone(), value.to_vec()));
            batch.ops.push(Op { table: Table::Part, key: part_key, value: None });
        }
        drop_upload(&mut batch, key, &upload);
        let target = Target { bucket: &complete.bucket, key: &complete.key, condition: &complete.condition };
        let written = self.core.commit_version(target, record, batch).await?;
        self.core.drop_late_parts(&complete.upload_id).await;
        Ok(written)
    }

    /// Whether an upload may be completed with this key: where its parts have checksums and a key of the client's, as S3, only with that
    /// key, and with no other anywhere. Of an upload that is not there nothing is said.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`].
    pub fn check_upload_key(
        &self,
        (bucket, key, upload_id): (&str, &str, &str),
        given: Option<&CustomerKey>,
    ) -> Result<(), EngineError> {
        let upload = match self.core.upload(&keys::upload(bucket, key, upload_id), upload_id) {
            Err(EngineError::NoSuchUpload(_)) => return Ok(()),
            other => other?,
        };
        let has_checksums = || -> Result<bool, EngineError> {
            let parts = self.core.parts(upload_id, 0, usize::MAX)?;
            Ok(upload.checksum.is_some() || parts.iter().any(|part| part.info.checksum.is_some()))
        };
        match given {
            None if upload.attributes.encryption.is_none() || !has_checksums()? => Ok(()),
            _ => check_part_key(upload.attributes.encryption.as_ref(), given),
        }
    }

    /// Gives an upload up; its parts become unreferenced.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUpload`].
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload_id: &str) -> Result<(), EngineError> {
        self.core.abort_upload(&keys::upload(bucket, key, upload_id), upload_id).await
    }
}

/// A part, behind its key and its bytes.
type StoredPart = ((Vec<u8>, Value), PartRecord);

impl Core {
    pub(crate) fn upload(&self, key: &[u8], upload_id: &str) -> Result<UploadRecord, EngineError> {
        self.stored_upload(key, upload_id).map(|(_, upload)| upload)
    }

    /// An upload and its bytes, which an older build may have written: a compare-and-swap has to name them.
    pub(crate) fn stored_upload(&self, key: &[u8], upload_id: &str) -> Result<(Value, UploadRecord), EngineError> {
        let valid = upload_id.len() == keys::UPLOAD_ID_LEN && upload_id.bytes().all(|b| b.is_ascii_hexdigit());
        let stored = if valid { self.meta.get(Table::Upload, key)? } else { None };
        let stored = stored.ok_or_else(|| EngineError::NoSuchUpload(upload_id.to_owned()))?;
        let upload = UploadRecord::decode(&stored)?;
        Ok((stored, upload))
    }

    fn parts(&self, upload_id: &str, after: u32, max: usize) -> Result<Vec<PartRecord>, EngineError> {
        Ok(self.stored_parts(upload_id, after, max)?.into_iter().map(|(_, part)| part).collect())
    }

    /// Parts and, of each, key and bytes.
    fn stored_parts(&self, upload_id: &str, after: u32, max: usize) -> Result<Vec<StoredPart>, EngineError> {
        let start = Bound::Excluded(keys::part(upload_id, after));
        let end = keys::prefix_end(upload_id.as_bytes());
        let entries = self.meta.scan(Table::Part, (start, end), max, false)?;
        entries.into_iter().map(|entry| PartRecord::decode(&entry.1).map(|part| (entry, part))).collect()
    }

    /// Deletes the records of an upload. Parts that arrive meanwhile fail: their commit expects the upload.
    pub(crate) async fn abort_upload(&self, key: &[u8], upload_id: &str) -> Result<(), EngineError> {
        let (stored, upload) = self.stored_upload(key, upload_id)?;
        let mut batch =
            Batch::new(Reason::AbortUpload).expect(Expect::Equals(Table::Upload, key.to_vec(), stored.to_vec()));
        drop_upload(&mut batch, key.to_vec(), &upload);
        let parts = self.meta.scan(Table::Part, keys::prefix(upload_id.as_bytes()), usize::MAX, false)?;
        batch.ops.extend(parts.into_iter().map(|(key, _)| Op { table: Table::Part, key, value: None }));
        match self.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => return Err(EngineError::NoSuchUpload(upload_id.to_owned())),
            other => other?,
        };
        self.expect_garbage();
        self.drop_late_parts(upload_id).await;
        Ok(())
    }

    /// Deletes parts that were committed between the look at the upload's parts and its end. Now that the upload has
    /// gone no further one can come. What a crash leaves here is found by the next start.
    async fn drop_late_parts(&self, upload_id: &str) {
        let dropping = async {
            let late = self.meta.scan(Table::Part, keys::prefix(upload_id.as_bytes()), usize::MAX, false)?;
            self.drop_parts(late.into_iter().map(|(key, _)| key).collect()).await
        };
        if let Err(e) = dropping.await {
            tracing::warn!(upload_id, error = %e, "late parts of an upload stay until the next start");
        }
    }

    async fn drop_parts(&self, keys: Vec<Vec<u8>>) -> Result<(), EngineError> {
        for some in keys.chunks(1_000) {
            let mut batch = Batch::new(Reason::AbortUpload);
            batch.ops.extend(some.iter().map(|key| Op { table: Table::Part, key: key.clone(), value: None }));
            self.meta.commit(batch).await?;
        }
        Ok(())
    }

    /// Deletes parts whose upload is no more; called before any request is served. Returns how many there were.
    pub(crate) async fn drop_orphan_parts(&self) -> Result<usize, EngineError> {
        let all = || (Bound::Unbounded, Bound::Unbounded);
        let mut open = HashSet::new();
        let mut unknown = false;
        self.meta.scan_each(Table::Upload, all(), &mut |key, _| {
            match keys::split_upload(key) {
                Some((_, _, id)) => drop(open.insert(id.to_owned())),
                None => {
                    unknown = true;
                    self.broken.report(Table::Upload, key, &EngineError::Corrupt("its key does not come apart".into()));
                }
            }
            ControlFlow::Continue(())
        })?;
        if unknown {
            // Whose parts they are cannot be told: all stay.
            return Ok(0);
        }
        let mut orphans = Vec::new();
        self.meta.scan_each(Table::Part, all(), &mut |key, _| {
            let id = key.get(..keys::UPLOAD_ID_LEN).and_then(|id| std::str::from_utf8(id).ok());
            if id.is_some_and(|id| !open.contains(id)) {
                orphans.push(key.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        let count = orphans.len();
        self.drop_parts(orphans).await?;
        Ok(count)
    }

    fn completed_before(&self, complete: &CompleteUpload) -> Result<Option<Written>, EngineError> {
        let Some(record) = self.object(&complete.bucket, &complete.key)? else { return Ok(None) };
        let same = record.parts.len() == complete.parts.len()
            && record.parts.iter().zip(&complete.parts).all(|(a, b)| a.number == b.number && a.etag == b.etag);
        let versioned = self.versioning(&complete.bucket)? != Versioning::Off;
        let expires = self.expiry(&complete.bucket, &complete.key, &record);
        Ok(same.then(|| written(record, versioned, expires)))
    }
}

fn drop_upload(batch: &mut Batch, key: Vec<u8>, upload: &UploadRecord) {
    if let Some(at) = upload.due {
        batch.ops.push(Op { table: Table::Due, key: keys::due(DueKind::Upload, at, &key), value: None });
    }
    batch.ops.push(Op { table: Table::Upload, key, value: None });
}

fn choose_parts<'a>(
    wanted: &[CompletedPart],
    stored: &'a [PartRecord],
    min_part: u64,
) -> Result<Vec<&'a PartRecord>, EngineError> {
    if wanted.is_empty() {
        return Err(EngineError::InvalidArgument("an upload needs at least one part to be completed".into()));
    }
    if wanted.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(EngineError::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(wanted.len());
    for want in wanted {
        let found = stored
            .binary_search_by_key(&want.number, |p| p.info.number)
            .ok()
            .and_then(|i| stored.get(i))
            .filter(|p| p.info.etag == want.etag)
            .ok_or(EngineError::InvalidPart { number: want.number })?;
        if let (Some((algorithm, value)), Some(have)) = (&want.checksum, &found.info.checksum)
            && (*algorithm != have.algorithm || *value != have.value)
        {
            return Err(EngineError::InvalidPart { number: want.number });
        }
        chosen.push(found);
    }
    let all_but_last = chosen.get(..chosen.len() - 1).unwrap_or_default();
    match all_but_last.iter().find(|p| p.info.size < min_part) {
        Some(p) => Err(EngineError::PartTooSmall { number: p.info.number, size: p.info.size, min: min_part }),
        None => Ok(chosen),
    }
}

/// The checksum of the whole: composite, or combined from the parts' CRCs; compared with what the client expects.
fn whole_checksum(
    upload: &UploadRecord,
    parts: &[&PartRecord],
    expected: Option<&(ChecksumAlgorithm, String)>,
) -> Result<Option<Checksum>, EngineError> {
    // An upload that was begun without a checksum gets the one that its completion names, else S3's own, if its parts have it.
    let named = expected.map(|(algorithm, value)| (*algorithm, value.contains('-') || !algorithm.is_crc()));
    let (algorithm, composite) = upload.checksum.or(named).unwrap_or((ChecksumAlgorithm::Crc64Nvme, false));
    let sums: Option<Vec<(Checksum, u64)>> = parts
        .iter()
        .map(|p| p.info.checksum.clone().filter(|c| c.algorithm == algorithm).map(|c| (c, p.info.size)))
        .collect();
    let Some(sums) = sums else {
        return match expected {
            None => Ok(None),
            Some((algorithm, _)) => Err(EngineError::InvalidRequest(format!(
                "{} of the whole object cannot be verified: not all parts were uploaded with it",
                algorithm.header()
            ))),
        };
    };
    let whole = if composite {
        let values: Vec<_> = sums.into_iter().map(|(c, _)| c).collect();
        Some(composite_checksum(algorithm, &values)?)
    } else {
        combined_crc(algorithm, &sums)?
    };
    if let (Some((algorithm, want)), Some(have)) = (expected, &whole) {
        // Clients give a composite value with or without its `-N`.
        let bare = have.value.split_once('-').map_or(have.value.as_str(), |(value, _)| value);
        if *algorithm != have.algorithm || (*want != have.value && want != bare) {
            return Err(bad(algorithm.header(), want.clone(), have.value.clone()));
        }
    }
    Ok(whole)
}
