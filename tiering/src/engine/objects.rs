//! Objects: the commit points of PUT, DELETE and COPY.

use super::cipher::{Sealer, check_key};
use super::error::EngineError;
use super::ingest::{Ingested, ingest};
use super::keys;
use super::lifecycle::Ending;
use super::lock;
use super::read::ObjectHandle;
use super::record::{ObjectRecord, Record};
use super::supersede::Planned;
use super::types::{
    BodyExpectation, BodyIn, CopyKeys, CopyObject, DeleteRequest, Deleted, PutObject, Residency, VersionRef,
    WriteCondition, Written,
};
use super::versions::MAX_RACES;
use super::{Core, Engine, Versioning};
use crate::clock::Clock;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use std::sync::Arc;

/// Deletes of one request that wait for a commit at the same time: each holds the records that it changes.
const DELETES_AT_ONCE: usize = 128;

impl Engine {
    /// Stores an object. When this returns, it is durable and visible; on any error nothing has changed.
    ///
    /// # Errors
    /// Whatever the body, the expectations or the preconditions say; [`EngineError::SlowDown`] without room.
    pub async fn put_object(&self, mut put: PutObject, body: BodyIn) -> Result<Written, EngineError> {
        keys::check_new(&put.key)?;
        self.core.admit_new(&put.bucket, Some(&put.attributes))?;
        let (encryption, sealer) = Sealer::of_object(put.expect.customer_key.take().as_ref())?;
        put.attributes.encryption = encryption;
        put.expect.settle();
        let limit = self.core.settings.limits.max_put_bytes;
        let ingested = ingest(&self.core, put.expect, limit, sealer, body).await?;
        let record = self.core.new_record(&ingested, put.attributes);
        let batch = Batch::new(Reason::PutObject).holding(ingested.pins);
        let target = Target { bucket: &put.bucket, key: &put.key, condition: &put.condition };
        self.core.commit_version(target, record, batch).await
    }

    /// Finds the visible version of an object; reading it later reads exactly this version.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::NoSuchKey`], [`EngineError::DeleteMarker`].
    pub fn open_object(&self, bucket: &str, key: &str) -> Result<ObjectHandle, EngineError> {
        self.open_version(bucket, key, VersionRef::Current)
    }

    /// The clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.core.clock)
    }

    /// Deletes a version for good, or makes a key look deleted when none is named.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::PreconditionFailed`]; [`EngineError::Locked`] for a version that must stay.
    pub async fn delete_object(&self, bucket: &str, key: &str, delete: DeleteRequest) -> Result<Deleted, EngineError> {
        self.core.versioning(bucket)?;
        self.core.delete(bucket, key, &delete).await
    }

    /// Deletes many; one answer for each, in order.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`] for the whole; the rest one by one.
    pub async fn delete_objects(
        &self,
        bucket: &str,
        deletes: &[(String, DeleteRequest)],
    ) -> Result<Vec<Result<Deleted, EngineError>>, EngineError> {
        self.core.versioning(bucket)?;
        // Many at once: the committer makes one group of them, so a thousand deletes cost a few fsyncs.
        let mut answers = Vec::with_capacity(deletes.len());
        for some in deletes.chunks(DELETES_AT_ONCE) {
            let some = some.iter().map(|(key, delete)| self.core.delete(bucket, key, delete));
            answers.extend(futures::future::join_all(some).await);
        }
        Ok(answers)
    }

    /// Copies an object. Bytes are shared, not copied, whenever the copy may stay where the source is.
    ///
    /// # Errors
    /// [`EngineError::InvalidObjectState`] for an archived source; [`EngineError::PreconditionFailed`] when the source
    /// has changed since its conditions were checked.
    pub async fn copy_object(&self, copy: CopyObject) -> Result<Written, EngineError> {
        self.copy_object_with_keys(copy, &CopyKeys::default()).await
    }

    /// As [`Engine::copy_object`], of an object that is encrypted with a client's key, or is to be. Bytes are shared when
    /// both keys are the same.
    ///
    /// # Errors
    /// As [`Engine::copy_object`]; [`EngineError::WrongKey`], or [`EngineError::InvalidRequest`] when the source's key is missing
    /// or was given for nothing.
    pub async fn copy_object_with_keys(&self, copy: CopyObject, keys: &CopyKeys) -> Result<Written, EngineError> {
        super::keys::check_new(&copy.key)?;
        self.core.admit_new(&copy.bucket, copy.replace_attributes.as_ref())?;
        for _ in 0..MAX_RACES {
            match self.try_copy(&copy, keys).await {
                // The source has moved to another tier meanwhile, or the target has changed: neither is the client's matter.
                Err(EngineError::Conflict) => {}
                other => return other,
            }
        }
        Err(EngineError::Conflict)
    }

    async fn try_copy(&self, copy: &CopyObject, keys: &CopyKeys) -> Result<Written, EngineError> {
        let (bucket, key) = (copy.source_bucket.as_str(), copy.source_key.as_str());
        let Some(found) = self.core.by_id(bucket, key, copy.source_version)? else {
            self.open_object(bucket, key)?;
            return Err(EngineError::PreconditionFailed("x-amz-copy-source (the source has changed)"));
        };
        let unchanged = found.unchanged();
        // An older version that is brought back is a new one: rules count anew.
        let in_place = copy.source_bucket == copy.bucket && copy.source_key == copy.key && found.is_latest();
        let mut source = self.core.handle(bucket, key, found.record)?;
        source.unlock(keys.source.clone())?;
        let (mut record, pins) = self.core.copied_record(&source, (copy, keys), in_place).await?;
        if in_place {
            record.created = source.record().created;
        }
        let mut batch = Batch::new(Reason::CopyObject);
        if let Some(ingested) = pins {
            batch = batch.holding(ingested.pins);
        } else {
            // The copy refers to the source's chunks: they are safe as long as the source still stands when the copy
            // is committed; from then on the copy protects them itself. In place no less: another write may have taken
            // the version away, and a mark its chunks.
            batch = batch.expect(unchanged);
        }
        let target = Target { bucket: &copy.bucket, key: &copy.key, condition: &copy.condition };
        self.core.commit_version(target, record, batch).await
    }
}

/// Where a version is to be committed, and under which conditions.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
    pub condition: &'a WriteCondition,
}

impl Core {
    /// The record of the current version of a key.
    pub(crate) fn object(&self, bucket: &str, key: &str) -> Result<Option<ObjectRecord>, EngineError> {
        self.meta.get(Table::Object, &keys::object(bucket, key))?.map(|v| ObjectRecord::decode(&v)).transpose()
    }

    /// A fresh version of an ingested body.
    pub(crate) fn new_record(&self, ingested: &Ingested, attributes: super::types::ObjectAttributes) -> ObjectRecord {
        let now = self.clock.now();
        ObjectRecord {
            version: keys::fresh_version(now),
            size: ingested.verified.size,
            etag: hex::encode(ingested.etag),
            created: now,
            modified: now,
            attributes,
            checksum: ingested.verified.checksum.clone(),
            parts: Vec::new(),
            body: ingested.body.clone(),
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
        }
    }

    /// Makes `record` the current version of its key: compare-and-swap, tried again while others win the key.
    /// `base` carries preconditions and operations that belong to the same commit.
    pub(crate) async fn commit_version(
        &self,
        target: Target<'_>,
        record: ObjectRecord,
        base: Batch,
    ) -> Result<Written, EngineError> {
        let Target { bucket, key, .. } = target;
        let subject = keys::object(bucket, key);
        for _ in 0..MAX_RACES {
            let planned_by = self.rules_of(bucket);
            let sight = self.look(bucket, key)?;
            check_condition(&target, sight.current.as_ref().map(|current| &current.record))?;
            let stored = sight.current.as_ref().map(|current| &current.bytes[..]);
            if base.expects.iter().any(|expect| contradicts(expect, &subject, stored)) {
                return Err(EngineError::Conflict);
            }
            let mut batch = base.clone();
            batch.wrote_data = true;
            let mut record = record.clone();
            lock::settle_new(&mut record, sight.lock.as_ref())?;
            let planned = self.supersede(&mut batch, &sight, (bucket, key), &mut record)?;
            self.tell_created(&mut batch, (bucket, key), &record)?;
            match self.meta.commit(batch).await {
                Ok(_) => {
                    self.settle(Planned { frees: false, ..planned }, (bucket, &planned_by)).await;
                    let versioned = sight.versioning != Versioning::Off;
                    let expires = self.expiry(bucket, key, &record);
                    return Ok(written(record, versioned, expires));
                }
                Err(MetaError::Conflict { table: Table::Object, key }) if key == subject => {}
                // What the caller expects of others fails again.
                Err(MetaError::Conflict { table, key }) if base.expects.iter().any(|e| e.target() == (table, &key)) => {
                    return Err(EngineError::Conflict);
                }
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(EngineError::Conflict)
    }

    async fn delete(&self, bucket: &str, key: &str, delete: &DeleteRequest) -> Result<Deleted, EngineError> {
        match delete.version {
            VersionRef::Current => self.delete_key(bucket, key, delete).await,
            _ => self.delete_named(bucket, key, delete).await,
        }
    }

    /// The record of a copy, and the pins of its bytes when they had to be read and stored again.
    async fn copied_record(
        self: &Arc<Self>,
        source: &ObjectHandle,
        (copy, keys): (&CopyObject, &CopyKeys),
        in_place: bool,
    ) -> Result<(ObjectRecord, Option<Ingested>), EngineError> {
        let from = source.record();
        let of_source = || from.attributes.clone().without_lock();
        let mut attributes = copy.replace_attributes.clone().unwrap_or_else(of_source);
        attributes.tags = copy.replace_tags.clone().unwrap_or_else(|| from.attributes.tags.clone());
        attributes.storage_class.clone_from(&copy.storage_class);
        let wants = self.classes.tier_of(copy.storage_class.as_deref());
        let stays = match &from.residency {
            // What was evicted of a protected body the tier serves to the copy, too.
            Residency::Hot | Residency::Protected { .. } => true,
            // Changing the metadata of a cold object moves no byte: a copy would thaw it, or fail on an archive class.
            Residency::Cold { tier } | Residency::Restored { tier, .. } => {
                wants == Some(tier.as_str()) || (in_place && wants.is_none() && copy.storage_class.is_none())
            }
        };
        let same_checksum = copy.checksum.is_none() || from.checksum.as_ref().map(|c| c.algorithm) == copy.checksum;
        let same_key = check_key(from.attributes.encryption.as_ref(), keys.target.as_ref()).is_ok();
        let now = self.clock.now();
        if stays && same_checksum && same_key {
            attributes.encryption.clone_from(&from.attributes.encryption);
            let mut record = from.clone();
            record.version = keys::fresh_version(now);
            record.created = now;
            record.modified = now;
            record.attributes = attributes;
            // A copy is one object of its own: it keeps the ETag's bytes, not the source's upload.
            if !in_place {
                record.restoring = None;
                if let Residency::Restored { tier, .. } = &from.residency {
                    record.residency = Residency::Cold { tier: tier.clone() };
                }
            }
            return Ok((record, None));
        }
        source.check_readable()?;
        let body = source.read(0..from.size).await?;
        let body = Box::pin(futures::StreamExt::map(body, |piece| {
            piece.map_err(|e| super::types::BodyError::Incomplete(format!("read the source of the copy: {e}")))
        }));
        // A checksum of the source's algorithm stays with the copy, of the whole whatever the source's was.
        let compute = copy.checksum.or_else(|| from.checksum.as_ref().map(|checksum| checksum.algorithm));
        let expect = BodyExpectation { length: Some(from.size), compute, ..Default::default() };
        let (encryption, sealer) = Sealer::of_object(keys.target.as_ref())?;
        attributes.encryption = encryption;
        let ingested = ingest(self, expect, self.settings.limits.max_object_bytes, sealer, body).await?;
        let mut record = self.new_record(&ingested, attributes);
        record.parts = Vec::new();
        Ok((record, Some(ingested)))
    }
}

/// What a client hears of a write.
pub(super) fn written(record: ObjectRecord, versioned: bool, expires: Option<Ending>) -> Written {
    Written {
        expires,
        version: record.version,
        null: record.null,
        versioned,
        etag: record.etag,
        last_modified: record.modified,
        checksum: record.checksum,
        size: record.size,
    }
}

/// Whether a precondition of the caller's own about this key fails already: trying again cannot help.
fn contradicts(expect: &Expect, subject: &[u8], stored: Option<&[u8]>) -> bool {
    matches!(expect, Expect::Equals(Table::Object, key, value) if key == subject && Some(value.as_slice()) != stored)
}

fn check_condition(target: &Target<'_>, old: Option<&ObjectRecord>) -> Result<(), EngineError> {
    let Target { bucket, key, condition } = *target;
    let is_named = |old: &ObjectRecord| condition.if_none_match.iter().any(|etag| etag == "*" || *etag == old.etag);
    if old.is_some_and(is_named) {
        return Err(EngineError::PreconditionFailed("If-None-Match"));
    }
    match (&condition.if_match, old) {
        // S3's answer: there is nothing that could match.
        (Some(_), None) => Err(EngineError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() }),
        (Some(etag), Some(old)) if etag != "*" && *etag != old.etag => Err(EngineError::PreconditionFailed("If-Match")),
        _ => Ok(()),
    }
}
