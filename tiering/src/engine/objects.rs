//! Objects: the commit points of PUT, DELETE and COPY.

use super::cipher::{Sealer, check_key};
use super::error::EngineError;
use super::ingest::{Ingested, ingest};
use super::keys;
use super::read::ObjectHandle;
use super::record::{ObjectRecord, Record};
use super::types::{
    BodyExpectation, BodyIn, CopyKeys, CopyObject, ObjectAttributes, ObjectInfo, PutObject, Residency, WriteCondition,
    Written,
};
use super::{Core, Engine};
use crate::clock::Clock;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use std::sync::Arc;

/// How often a commit is tried again after another writer of the same key won.
const MAX_RACES: usize = 32;

impl Engine {
    /// Stores an object. When this returns, it is durable and visible; on any error nothing has changed.
    ///
    /// # Errors
    /// Whatever the body, the expectations or the preconditions say; [`EngineError::SlowDown`] without room.
    pub async fn put_object(&self, mut put: PutObject, body: BodyIn) -> Result<Written, EngineError> {
        self.bucket(&put.bucket)?;
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

    /// Finds an object; reading it later reads exactly this version.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::NoSuchKey`].
    pub fn open_object(&self, bucket: &str, key: &str) -> Result<ObjectHandle, EngineError> {
        match self.core.object(bucket, key)? {
            Some(record) => Ok(ObjectHandle::new(Arc::clone(&self.core), bucket, key, record)),
            None => {
                self.bucket(bucket)?;
                Err(EngineError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() })
            }
        }
    }

    /// Changes what describes an object, in place: it keeps its version, its ETag and its time. `change` may be called several
    /// times, each time with the attributes as they are then. Returns what HEAD shows now.
    ///
    /// # Errors
    /// As [`Engine::open_object`]; whatever `change` refuses with, and then nothing has changed.
    pub async fn update_attributes(
        &self,
        bucket: &str,
        key: &str,
        change: impl Fn(&mut ObjectAttributes) -> Result<(), EngineError>,
    ) -> Result<ObjectInfo, EngineError> {
        let subject = keys::object(bucket, key);
        for _ in 0..MAX_RACES {
            // The bytes as they are stored, which an older version may have written: a compare-and-swap has to name them.
            let Some(stored) = self.core.meta.get(Table::Object, &subject)? else {
                return self.open_object(bucket, key).map(|object| object.info().clone());
            };
            let old = ObjectRecord::decode(&stored)?;
            let mut next = old.clone();
            change(&mut next.attributes)?;
            if next.attributes != old.attributes {
                match self.core.replace(&subject, &stored, &old, next.clone(), Reason::UpdateObject).await? {
                    Err(MetaError::Conflict { .. }) => continue,
                    other => other?,
                }
            }
            return Ok(ObjectHandle::new(Arc::clone(&self.core), bucket, key, next).info().clone());
        }
        Err(EngineError::Conflict)
    }

    /// The clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.core.clock)
    }

    /// Deletes an object; true when there was one. `if_match` is an ETag without quotes.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::PreconditionFailed`].
    pub async fn delete_object(&self, bucket: &str, key: &str, if_match: Option<&str>) -> Result<bool, EngineError> {
        self.bucket(bucket)?;
        self.core.delete_version(bucket, key, if_match, Reason::DeleteObject).await
    }

    /// Deletes many; one answer per key, in order.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`] for the whole; the rest per key.
    pub async fn delete_objects(
        &self,
        bucket: &str,
        keys: &[String],
    ) -> Result<Vec<Result<bool, EngineError>>, EngineError> {
        self.bucket(bucket)?;
        // All at once: the committer makes one group of them, so a thousand deletes cost a few fsyncs.
        let deletes = keys.iter().map(|key| self.core.delete_version(bucket, key, None, Reason::DeleteObject));
        Ok(futures::future::join_all(deletes).await)
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
        self.bucket(&copy.bucket)?;
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
        let source_key = keys::object(&copy.source_bucket, &copy.source_key);
        // The bytes as they are stored, which an older version may have written: a compare-and-swap has to name them.
        let stored = self.core.meta.get(Table::Object, &source_key)?;
        let mut source = match &stored {
            Some(stored) => {
                let record = ObjectRecord::decode(stored)?;
                ObjectHandle::new(Arc::clone(&self.core), &copy.source_bucket, &copy.source_key, record)
            }
            None => self.open_object(&copy.source_bucket, &copy.source_key)?,
        };
        if source.record().version != copy.source_version {
            return Err(EngineError::PreconditionFailed("x-amz-copy-source (the source has changed)"));
        }
        source.unlock(keys.source.clone())?;
        let in_place = copy.source_bucket == copy.bucket && copy.source_key == copy.key;
        let (mut record, pins) = self.core.copied_record(&source, (copy, keys), in_place).await?;
        if in_place {
            record.created = source.record().created;
        }
        let mut batch = Batch::new(Reason::CopyObject);
        if let Some(ingested) = pins {
            batch = batch.holding(ingested.pins);
        } else {
            let stored = stored.ok_or(EngineError::Conflict)?;
            // The copy refers to the source's chunks: they are safe as long as the source still stands when the copy
            // is committed; from then on the copy protects them itself. In place no less: another write may have taken
            // the version away, and a mark its chunks.
            batch = batch.expect(Expect::Equals(Table::Object, source_key, stored.to_vec()));
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
        }
    }

    /// Makes `record` the current version of its key: compare-and-swap, tried again while others win the key.
    /// `base` carries preconditions and operations that belong to the same commit.
    pub(crate) async fn commit_version(
        &self,
        target: Target<'_>,
        mut record: ObjectRecord,
        base: Batch,
    ) -> Result<Written, EngineError> {
        let Target { bucket, key, .. } = target;
        let subject = keys::object(bucket, key);
        for _ in 0..MAX_RACES {
            let planned_by = self.policy();
            let stored = self.meta.get(Table::Object, &subject)?;
            let old = stored.as_deref().map(ObjectRecord::decode).transpose()?;
            check_condition(&target, old.as_ref())?;
            if base.expects.iter().any(|expect| contradicts(expect, &subject, stored.as_deref())) {
                return Err(EngineError::Conflict);
            }
            let mut batch = base.clone();
            batch.expects.push(Expect::Present(Table::Bucket, bucket.into()));
            batch.expects.push(match &stored {
                Some(value) => Expect::Equals(Table::Object, subject.clone(), value.to_vec()),
                None => Expect::Absent(Table::Object, subject.clone()),
            });
            batch.wrote_data = true;
            // A change of metadata in place carries a running restore along.
            let dropped = old.as_ref().filter(|o| o.restoring != record.restoring);
            self.doom_restore_job(&mut batch, dropped);
            let due_now = self.put_version(&mut batch, (bucket, key), old.as_ref(), &mut record)?;
            match self.meta.commit(batch).await {
                Ok(_) => {
                    // New rules came between planning and committing: their walk may have passed this key already.
                    if !Arc::ptr_eq(&planned_by, &self.policy())
                        && let Some(stored) = self.meta.get(Table::Object, &subject)?
                        && let Err(e) = self.reindex_object(&subject, stored).await
                    {
                        tracing::warn!(bucket, key, error = %e, "a version is not evaluated by the new rules yet");
                    }
                    if due_now {
                        self.wake.notify_one();
                    }
                    return Ok(Written {
                        version: record.version,
                        etag: record.etag,
                        last_modified: record.modified,
                        checksum: record.checksum,
                        size: record.size,
                    });
                }
                Err(MetaError::Conflict { table: Table::Bucket, .. }) => {
                    return Err(EngineError::NoSuchBucket(bucket.to_owned()));
                }
                Err(MetaError::Conflict { table: Table::Object, key }) if key == subject => {}
                Err(MetaError::Conflict { .. }) => return Err(EngineError::Conflict),
                Err(other) => return Err(other.into()),
            }
        }
        Err(EngineError::Conflict)
    }

    /// Deletes the current version of a key. Its bytes go when a mark finds them unreferenced.
    pub(crate) async fn delete_version(
        &self,
        bucket: &str,
        key: &str,
        if_match: Option<&str>,
        reason: Reason,
    ) -> Result<bool, EngineError> {
        let subject = keys::object(bucket, key);
        for _ in 0..MAX_RACES {
            let Some(stored) = self.meta.get(Table::Object, &subject)? else {
                return if if_match.is_some() { Err(EngineError::PreconditionFailed("If-Match")) } else { Ok(false) };
            };
            let old = ObjectRecord::decode(&stored)?;
            if if_match.is_some_and(|etag| etag != "*" && etag != old.etag) {
                return Err(EngineError::PreconditionFailed("If-Match"));
            }
            match self.commit_delete(&subject, &stored, &old, reason).await {
                Err(MetaError::Conflict { .. }) => {}
                other => return Ok(other.map(|()| true)?),
            }
        }
        Err(EngineError::Conflict)
    }

    /// One attempt to delete exactly this version.
    pub(crate) async fn commit_delete(
        &self,
        subject: &[u8],
        stored: &[u8],
        old: &ObjectRecord,
        reason: Reason,
    ) -> Result<(), MetaError> {
        let mut batch = Batch::new(reason)
            .expect(Expect::Equals(Table::Object, subject.to_vec(), stored.to_vec()))
            .delete(Table::Object, subject)
            .delete(Table::Access, subject);
        self.drop_due(&mut batch, subject, Some(old));
        self.doom_restore_job(&mut batch, Some(old));
        self.meta.commit(batch).await?;
        if !matches!(old.residency, Residency::Cold { .. }) {
            self.expect_garbage();
        }
        Ok(())
    }

    fn doom_restore_job(&self, batch: &mut Batch, old: Option<&ObjectRecord>) {
        if let Some(job) = old.and_then(|o| o.restoring) {
            batch.ops.push(crate::meta::Op { table: Table::Job, key: keys::job(job), value: None });
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
        let mut attributes = copy.replace_attributes.clone().unwrap_or_else(|| from.attributes.clone());
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

/// Whether a precondition of the caller's own about this key fails already: trying again cannot help.
fn contradicts(expect: &Expect, subject: &[u8], stored: Option<&[u8]>) -> bool {
    matches!(expect, Expect::Equals(Table::Object, key, value) if key == subject && Some(value.as_slice()) != stored)
}

fn check_condition(target: &Target<'_>, old: Option<&ObjectRecord>) -> Result<(), EngineError> {
    let Target { bucket, key, condition } = *target;
    if condition.if_none_match && old.is_some() {
        return Err(EngineError::PreconditionFailed("If-None-Match"));
    }
    match (&condition.if_match, old) {
        // S3's answer: there is nothing that could match.
        (Some(_), None) => Err(EngineError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() }),
        (Some(etag), Some(old)) if etag != "*" && *etag != old.etag => Err(EngineError::PreconditionFailed("If-Match")),
        _ => Ok(()),
    }
}
