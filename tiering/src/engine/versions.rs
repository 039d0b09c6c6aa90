//! Versions of a key. The visible one stands in the table Object, where GET and listings look; every other one, and every delete
//! marker, in the table Version, newest first. What is superseded moves there, and what is left behind as the latest moves
//! back, each within the commit that brings it about:
//!
//! - the latest of a key has no `noncurrent_since`, and all others have one;
//! - the latest has the highest id, whatever the clock says;
//! - without a record in Object, the first of the key in Version is a delete marker, or there is none.
//!
//! Each change expects the latest as it was found. As one that is superseded is written anew, nothing can have come on top of it;
//! and nothing is ever put below it.

use super::buckets::Versioning;
use super::error::EngineError;
use super::keys;
use super::read::ObjectHandle;
use super::record::{BucketRecord, ObjectRecord, Record};
use super::types::{Deleted, ObjectAttributes, ObjectInfo, Residency, VersionId, VersionRef};
use super::{Core, Engine};
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table, Value};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// How often something is tried again after another writer of the same key won.
pub(super) const MAX_RACES: usize = 32;

/// A version with its stored bytes, which an older build may have written: a compare-and-swap has to name them.
pub(crate) struct Stored {
    /// Its key in the table Object or Version.
    pub subject: Vec<u8>,
    pub bytes: Value,
    pub record: ObjectRecord,
}

impl Stored {
    pub(crate) fn new(subject: Vec<u8>, bytes: Value) -> Result<Self, EngineError> {
        let record = ObjectRecord::decode(&bytes)?;
        Ok(Self { subject, bytes, record })
    }

    /// That it stands as it was found.
    pub(crate) fn unchanged(&self) -> Expect {
        Expect::Equals(keys::table_of(&self.subject), self.subject.clone(), self.bytes.to_vec())
    }

    fn is_latest(&self) -> bool {
        self.record.noncurrent_since.is_none()
    }

    /// As clients name it.
    fn named(&self) -> (VersionId, bool) {
        (self.record.version, self.record.null)
    }
}

/// A key as it was found before a change.
pub(crate) struct Sight {
    pub versioning: Versioning,
    /// The visible version.
    pub current: Option<Stored>,
    /// The delete marker that is the latest instead, unless it is `null` and gives way.
    marker: Option<Stored>,
    /// The version `null` that gives way besides `current`.
    null: Option<Stored>,
    /// What must still be so at the commit.
    expects: Vec<Expect>,
}

impl Sight {
    fn newest_id(&self) -> Option<VersionId> {
        let all = self.current.iter().chain(&self.marker).chain(&self.null);
        all.map(|stored| stored.record.version).max()
    }

    /// What goes when a version `null` is written, or any in a bucket without versions.
    fn replaced(&self) -> Option<&Stored> {
        self.current.as_ref().filter(|current| match self.versioning {
            Versioning::Off => true,
            Versioning::Enabled => false,
            Versioning::Suspended => current.record.null,
        })
    }
}

/// What a change of a key's versions asks for once it is committed.
#[derive(Default)]
pub(crate) struct Planned {
    /// Something is due at once.
    pub due_now: bool,
    /// What was written, to be looked at again when the rules changed meanwhile.
    pub written: Vec<Vec<u8>>,
    /// Local bytes may have become garbage.
    pub frees: bool,
}

impl Engine {
    /// Finds a version of an object; reading it later reads exactly this one.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::NoSuchKey`] when none is named and nothing ever was there,
    /// [`EngineError::NoSuchVersion`], [`EngineError::DeleteMarker`].
    pub fn open_version(&self, bucket: &str, key: &str, version: VersionRef) -> Result<ObjectHandle, EngineError> {
        let found = self.core.find(bucket, key, version)?;
        self.core.handle(bucket, key, found.record)
    }

    /// Turns versions on, or suspends them.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`]; [`EngineError::InvalidRequest`] for [`Versioning::Off`] where versions are: S3 knows no way back.
    pub async fn set_versioning(&self, bucket: &str, versioning: Versioning) -> Result<(), EngineError> {
        self.configure_bucket(bucket, |settings| {
            if versioning == Versioning::Off && settings.versioning != Versioning::Off {
                let what = "versions cannot be turned off once they were on: suspend them";
                return Err(EngineError::InvalidRequest(what.into()));
            }
            settings.versioning = versioning;
            Ok(())
        })
        .await
    }

    /// Changes what describes a version, in place: it keeps its id, its ETag and its time. `change` may be called several times, each
    /// time with the attributes as they are then. Returns what HEAD shows now.
    ///
    /// # Errors
    /// As [`open_version`](Self::open_version); whatever `change` refuses with, and then nothing has changed.
    pub async fn update_attributes(
        &self,
        bucket: &str,
        key: &str,
        version: VersionRef,
        change: impl Fn(&mut ObjectAttributes) -> Result<(), EngineError>,
    ) -> Result<ObjectInfo, EngineError> {
        for _ in 0..MAX_RACES {
            let found = self.core.find(bucket, key, version)?;
            let mut next = found.record.clone();
            change(&mut next.attributes)?;
            if next.attributes != found.record.attributes {
                let Stored { subject, bytes, record } = &found;
                match self.core.replace(subject, bytes, record, next.clone(), Reason::UpdateObject).await? {
                    Err(MetaError::Conflict { .. }) => continue,
                    other => other?,
                }
            }
            return Ok(self.core.handle(bucket, key, next)?.info().clone());
        }
        Err(EngineError::Conflict)
    }
}

/// Finding.
impl Core {
    pub(crate) fn handle(
        self: &Arc<Self>,
        bucket: &str,
        key: &str,
        record: ObjectRecord,
    ) -> Result<ObjectHandle, EngineError> {
        let versioned = !record.null || self.versioning(bucket)? != Versioning::Off;
        Ok(ObjectHandle::new(Arc::clone(self), (bucket, key), record, versioned))
    }

    /// Whether a bucket gives version ids.
    pub(crate) fn versioning(&self, bucket: &str) -> Result<Versioning, EngineError> {
        let value = self.meta.get(Table::Bucket, bucket.as_bytes())?;
        BucketRecord::versioning(&value.ok_or_else(|| EngineError::NoSuchBucket(bucket.to_owned()))?)
    }

    pub(crate) fn stored(&self, subject: Vec<u8>) -> Result<Option<Stored>, EngineError> {
        let table = keys::table_of(&subject);
        self.meta.get(table, &subject)?.map(|bytes| Stored::new(subject, bytes)).transpose()
    }

    /// The visible version of a key.
    fn current(&self, object: &[u8]) -> Result<Option<Stored>, EngineError> {
        self.meta.get(Table::Object, object)?.map(|bytes| Stored::new(object.to_vec(), bytes)).transpose()
    }

    /// A version that has bytes, or why there is none.
    pub(crate) fn find(&self, bucket: &str, key: &str, version: VersionRef) -> Result<Stored, EngineError> {
        let found = match version {
            VersionRef::Current => self.latest(bucket, key)?,
            VersionRef::Null => self.null_version(bucket, key)?,
            VersionRef::Id(id) => self.by_id(bucket, key, id)?.filter(|found| !found.record.null),
        };
        match found {
            Some(Stored { record, .. }) if record.marker => Err(EngineError::DeleteMarker {
                version: record.version,
                null: record.null,
                modified: record.modified,
                named: version != VersionRef::Current,
            }),
            Some(found) => Ok(found),
            None => {
                self.versioning(bucket)?;
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                Err(match version {
                    VersionRef::Current => EngineError::NoSuchKey { bucket, key },
                    named => EngineError::NoSuchVersion { bucket, key, version: named.to_string() },
                })
            }
        }
    }

    /// Looks at a key in both tables while nothing moves between them.
    fn settled<T>(
        &self,
        object: &[u8],
        mut look: impl FnMut(Option<Stored>) -> Result<Option<T>, EngineError>,
    ) -> Result<Option<T>, EngineError> {
        for _ in 0..MAX_RACES {
            let current = self.current(object)?;
            let before = current.as_ref().map(|current| current.bytes.clone());
            if let Some(found) = look(current)? {
                return Ok(Some(found));
            }
            // A version on its way from one table to the other may have been in neither when it was looked for.
            if self.meta.get(Table::Object, object)? == before {
                return Ok(None);
            }
        }
        Err(EngineError::Conflict)
    }

    /// The latest version of a key: the visible one, or a delete marker.
    fn latest(&self, bucket: &str, key: &str) -> Result<Option<Stored>, EngineError> {
        let object = keys::object(bucket, key);
        if let Some(current) = self.current(&object)? {
            return Ok(Some(current));
        }
        if self.versioning(bucket)? == Versioning::Off {
            return Ok(None);
        }
        self.settled(&object, |current| match current {
            Some(current) => Ok(Some(current)),
            None => {
                Ok(self.first_version(keys::prefix(&keys::versions_of(&object)))?.filter(|first| first.record.marker))
            }
        })
    }

    /// The version with this id, marker or not, `null` or not.
    pub(crate) fn by_id(&self, bucket: &str, key: &str, id: VersionId) -> Result<Option<Stored>, EngineError> {
        let object = keys::object(bucket, key);
        self.settled(&object, |current| match current.filter(|current| current.record.version == id) {
            Some(current) => Ok(Some(current)),
            None => self.stored(keys::version(bucket, key, id)),
        })
    }

    /// The version that clients see as `null`, marker or not.
    pub(crate) fn null_version(&self, bucket: &str, key: &str) -> Result<Option<Stored>, EngineError> {
        let object = keys::object(bucket, key);
        self.settled(&object, |current| match current.filter(|current| current.record.null) {
            Some(current) => Ok(Some(current)),
            None => self.hidden_null(&object),
        })
    }

    fn first_version(&self, range: keys::KeyRange) -> Result<Option<Stored>, EngineError> {
        let first = self.meta.scan(Table::Version, range, 1, false)?;
        first.into_iter().next().map(|(subject, bytes)| Stored::new(subject, bytes)).transpose()
    }

    /// The version `null` of a key in the table Version; there is one at most.
    fn hidden_null(&self, object: &[u8]) -> Result<Option<Stored>, EngineError> {
        let range = keys::prefix(&keys::versions_of(object));
        // Most often it is what was there before versions were turned on: the oldest.
        let Some((subject, bytes)) = self.meta.scan(Table::Version, range.clone(), 1, true)?.into_iter().next() else {
            return Ok(None);
        };
        let oldest = Stored::new(subject, bytes)?;
        if oldest.record.null {
            return Ok(Some(oldest));
        }
        let mut found = Ok(None);
        self.meta.scan_each(Table::Version, range, &mut |subject, bytes| {
            match Stored::new(subject.to_vec(), bytes.clone()) {
                Ok(version) if !version.record.null => return ControlFlow::Continue(()),
                other => found = other.map(Some),
            }
            ControlFlow::Break(())
        })?;
        found
    }
}

/// Changing.
impl Core {
    /// Looks at a key for a change of its latest version. Without versions this is one look at the bucket and one at the object.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub(crate) fn look(&self, bucket: &str, key: &str) -> Result<Sight, EngineError> {
        let value = self.meta.get(Table::Bucket, bucket.as_bytes())?;
        let value = value.ok_or_else(|| EngineError::NoSuchBucket(bucket.to_owned()))?;
        let versioning = BucketRecord::versioning(&value)?;
        let object = keys::object(bucket, key);
        let current = self.current(&object)?;
        let mut expects = vec![Expect::Equals(Table::Bucket, bucket.into(), value.to_vec())];
        expects.push(match &current {
            Some(current) => current.unchanged(),
            None => Expect::Absent(Table::Object, object.clone()),
        });
        let (mut marker, mut null) = (None, None);
        if versioning != Versioning::Off && current.is_none() {
            let prefix = keys::versions_of(&object);
            marker = self.first_version(keys::prefix(&prefix))?;
            expects.push(match &marker {
                Some(marker) => marker.unchanged(),
                None => Expect::EmptyPrefix(Table::Version, prefix),
            });
        }
        if versioning == Versioning::Suspended && current.as_ref().is_none_or(|current| !current.record.null) {
            null = marker.take_if(|marker| marker.record.null);
            if null.is_none() {
                null = self.hidden_null(&object)?;
                expects.extend(null.iter().map(Stored::unchanged));
            }
        }
        Ok(Sight { versioning, current, marker, null, expects })
    }

    /// Adds all to `batch` that makes `newest` the latest version of its key.
    pub(crate) fn supersede(
        &self,
        batch: &mut Batch,
        sight: &Sight,
        (bucket, key): (&str, &str),
        newest: &mut ObjectRecord,
    ) -> Result<Planned, EngineError> {
        batch.expects.extend(sight.expects.iter().cloned());
        newest.null = sight.versioning != Versioning::Enabled;
        // Of a copy it may tell when its source was superseded.
        newest.noncurrent_since = None;
        if let Some(before) = sight.newest_id().filter(|_| sight.versioning != Versioning::Off) {
            newest.version = newest.version.max(VersionId(before.0.saturating_add(1)));
        }
        let mut planned = Planned::default();
        let replaced = sight.replaced();
        for old in sight.current.iter().filter(|_| replaced.is_none()).chain(&sight.marker) {
            let mut moved = ObjectRecord { noncurrent_since: Some(newest.modified), ..old.record.clone() };
            let subject = keys::version(bucket, key, moved.version);
            self.drop_due(batch, &old.subject, Some(&old.record));
            planned.due_now |= match self.moves_others() {
                true => self.put_for_review(batch, &subject, None, &mut moved)?,
                false => self.put_version(batch, &subject, None, &mut moved)?,
            };
            planned.written.push(subject);
        }
        if let Some(null) = &sight.null {
            self.drop_version(batch, null);
            planned.frees |= is_local(&null.record);
        }
        let object = keys::object(bucket, key);
        let old = replaced.map(|replaced| &replaced.record);
        planned.frees |= old.is_some_and(is_local);
        // A change of metadata in place carries a running restore along; it stays with what is not replaced.
        if newest.restoring.is_some() && old.is_none_or(|old| old.restoring != newest.restoring) {
            newest.restoring = None;
        }
        self.doom_restore_job(batch, old.filter(|old| old.restoring != newest.restoring));
        let subject = match newest.marker {
            true => {
                if sight.current.is_some() {
                    batch.ops.extend([Table::Object, Table::Access].map(|table| gone(table, &object)));
                }
                self.drop_due(batch, &object, old);
                keys::version(bucket, key, newest.version)
            }
            false => object,
        };
        planned.due_now |= match newest.marker {
            true => self.put_marker(batch, &subject, newest)?,
            false => self.put_version(batch, &subject, old, newest)?,
        };
        planned.written.push(subject);
        Ok(planned)
    }

    /// Writes a delete marker that becomes the latest, or may have become all that is left.
    fn put_marker(&self, batch: &mut Batch, subject: &[u8], marker: &mut ObjectRecord) -> Result<bool, EngineError> {
        match self.ends_alone(subject, marker, self.clock.now())? {
            true => self.put_for_review(batch, subject, None, marker),
            false => self.put_version(batch, subject, None, marker),
        }
    }

    /// What deletes a key without naming a version: a delete marker where there are versions. None when nothing is to be done.
    fn plan_delete(
        &self,
        sight: &Sight,
        (bucket, key): (&str, &str),
        (reason, owner): (Reason, Option<&str>),
    ) -> Result<Option<(Batch, Planned, Deleted)>, EngineError> {
        let mut batch = Batch::new(reason);
        let existed = sight.current.is_some();
        if sight.versioning == Versioning::Off {
            let Some(current) = &sight.current else { return Ok(None) };
            batch.expects.extend(sight.expects.iter().cloned());
            self.drop_version(&mut batch, current);
            let planned = Planned { frees: is_local(&current.record), ..Planned::default() };
            return Ok(Some((batch, planned, Deleted { existed, ..Deleted::default() })));
        }
        keys::check_new(key)?;
        let now = self.clock.now();
        let mut marker = ObjectRecord::delete_marker(keys::fresh_version(now), now);
        marker.attributes.owner = owner.map(str::to_owned);
        let planned = self.supersede(&mut batch, sight, (bucket, key), &mut marker)?;
        let version = Some((marker.version, marker.null));
        Ok(Some((batch, planned, Deleted { existed, version, marker: true })))
    }

    /// Makes a key look deleted.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::PreconditionFailed`]; [`EngineError::NoSuchKey`] for a condition where nothing is
    /// visible.
    pub(crate) async fn delete_key(
        &self,
        bucket: &str,
        key: &str,
        if_match: Option<&str>,
        owner: Option<&str>,
    ) -> Result<Deleted, EngineError> {
        for _ in 0..MAX_RACES {
            let planned_by = self.policy();
            let sight = self.look(bucket, key)?;
            match (&sight.current, if_match) {
                (Some(current), Some(etag)) => check_etag(etag, current)?,
                // S3's answer: there is nothing that could match.
                (None, Some(_)) => {
                    return Err(EngineError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() });
                }
                (_, None) => {}
            }
            let Some((batch, planned, deleted)) =
                self.plan_delete(&sight, (bucket, key), (Reason::DeleteObject, owner))?
            else {
                return Ok(Deleted::default());
            };
            match self.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
                Ok(_) => {
                    self.settle(planned, &planned_by).await;
                    return Ok(deleted);
                }
            }
        }
        Err(EngineError::Conflict)
    }

    /// Removes the version that is named, marker or not, and makes the next newest the latest when it was that.
    ///
    /// # Errors
    /// [`EngineError::PreconditionFailed`].
    pub(crate) async fn delete_named(
        &self,
        bucket: &str,
        key: &str,
        (version, if_match): (VersionRef, Option<&str>),
    ) -> Result<Deleted, EngineError> {
        for _ in 0..MAX_RACES {
            let planned_by = self.policy();
            let found = match version {
                VersionRef::Current => return self.delete_key(bucket, key, if_match, None).await,
                VersionRef::Null => self.null_version(bucket, key)?,
                VersionRef::Id(id) => self.by_id(bucket, key, id)?.filter(|found| !found.record.null),
            };
            // What is gone is what was asked for, whatever it was.
            let Some(found) = found else { return Ok(Deleted::default()) };
            if let Some(etag) = if_match {
                check_etag(etag, &found)?;
            }
            let (batch, planned) = self.plan_removal(&found, Reason::DeleteVersion)?;
            match self.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
                Ok(_) => {
                    self.settle(planned, &planned_by).await;
                    return Ok(Deleted { existed: true, version: Some(found.named()), marker: found.record.marker });
                }
            }
        }
        Err(EngineError::Conflict)
    }

    /// What removes exactly this version.
    fn plan_removal(&self, found: &Stored, reason: Reason) -> Result<(Batch, Planned), EngineError> {
        let mut batch = Batch::new(reason).expect(found.unchanged());
        let mut planned = Planned { frees: is_local(&found.record), ..Planned::default() };
        self.drop_version(&mut batch, found);
        if !found.is_latest() {
            self.review_marker(&mut batch, &mut planned, &found.subject)?;
            return Ok((batch, planned));
        }
        let object = keys::object_of(&found.subject).to_vec();
        let (mut start, end) = keys::prefix(&keys::versions_of(&object));
        if object != found.subject {
            start = Bound::Excluded(found.subject.clone());
            batch.expects.push(Expect::Absent(Table::Object, object.clone()));
        }
        if let Some(next) = self.first_version((start, end))? {
            let mut latest = ObjectRecord { noncurrent_since: None, ..next.record.clone() };
            batch.expects.push(next.unchanged());
            self.drop_due(&mut batch, &next.subject, Some(&next.record));
            let subject = match latest.marker {
                true => next.subject,
                false => {
                    batch.ops.push(gone(Table::Version, &next.subject));
                    object
                }
            };
            planned.due_now |= match latest.marker {
                true => self.put_marker(&mut batch, &subject, &mut latest)?,
                false => self.put_version(&mut batch, &subject, None, &mut latest)?,
            };
            planned.written.push(subject);
        }
        Ok((batch, planned))
    }

    /// Has the delete marker looked at again that is the latest of a key of which a version goes: it may be alone then.
    fn review_marker(&self, batch: &mut Batch, planned: &mut Planned, gone: &[u8]) -> Result<(), EngineError> {
        let object = keys::object_of(gone);
        if self.meta.get(Table::Object, object)?.is_some() {
            return Ok(());
        }
        let first = self.first_version(keys::prefix(&keys::versions_of(object)))?;
        let Some(marker) = first.filter(|first| first.is_latest() && first.record.marker) else { return Ok(()) };
        if self.ends_alone(&marker.subject, &marker.record, self.clock.now())? {
            batch.expects.push(marker.unchanged());
            let mut again = marker.record.clone();
            self.drop_due(batch, &marker.subject, Some(&marker.record));
            planned.due_now |= self.put_for_review(batch, &marker.subject, None, &mut again)?;
        }
        Ok(())
    }

    /// Deletes a version by rule, as it was found: what is visible as a client would without naming a version, anything else for good.
    pub(crate) async fn expire(&self, found: &Stored) -> Result<Result<(), MetaError>, EngineError> {
        let planned_by = self.policy();
        let (batch, planned) = if keys::table_of(&found.subject) == Table::Version {
            self.plan_removal(found, Reason::Expire)?
        } else {
            let (bucket, key) = keys::split_object(&found.subject)
                .ok_or_else(|| EngineError::Corrupt("an object key does not come apart".into()))?;
            let sight = self.look(bucket, key)?;
            if sight.current.as_ref().is_none_or(|current| current.bytes != found.bytes) {
                return Ok(Ok(()));
            }
            match self.plan_delete(&sight, (bucket, key), (Reason::Expire, None))? {
                Some((batch, planned, _)) => (batch, planned),
                None => return Ok(Ok(())),
            }
        };
        let outcome = self.meta.commit(batch).await.map(drop);
        if outcome.is_ok() {
            self.settle(planned, &planned_by).await;
        }
        Ok(outcome)
    }

    /// Takes a version out, with all that stands for it elsewhere.
    fn drop_version(&self, batch: &mut Batch, version: &Stored) {
        let table = keys::table_of(&version.subject);
        batch.ops.push(gone(table, &version.subject));
        if table == Table::Object {
            batch.ops.push(gone(Table::Access, &version.subject));
        }
        self.drop_due(batch, &version.subject, Some(&version.record));
        self.doom_restore_job(batch, Some(&version.record));
    }

    fn doom_restore_job(&self, batch: &mut Batch, old: Option<&ObjectRecord>) {
        if let Some(job) = old.and_then(|o| o.restoring) {
            batch.ops.push(gone(Table::Job, &keys::job(job)));
        }
    }

    /// Does what a commit asks for that was planned by these rules.
    pub(crate) async fn settle(&self, planned: Planned, planned_by: &Arc<super::policy::ActivePolicy>) {
        if planned.frees {
            self.expect_garbage();
        }
        if planned.due_now {
            self.wake.notify_one();
        }
        if Arc::ptr_eq(planned_by, &self.policy()) {
            return;
        }
        // New rules came between planning and committing: their walk may have passed this key already.
        for subject in planned.written {
            let evaluated = async {
                match self.meta.get(keys::table_of(&subject), &subject)? {
                    Some(stored) => self.reindex_object(&subject, stored).await,
                    None => Ok(()),
                }
            };
            if let Err(e) = evaluated.await {
                let key = super::ops::describe_key(keys::table_of(&subject), &subject);
                tracing::warn!(key, error = %e, "a version is not evaluated by the new rules yet");
            }
        }
    }
}

fn gone(table: Table, key: &[u8]) -> crate::meta::Op {
    crate::meta::Op { table, key: key.to_vec(), value: None }
}

fn is_local(record: &ObjectRecord) -> bool {
    !record.marker && !matches!(record.residency, Residency::Cold { .. })
}

fn check_etag(if_match: &str, found: &Stored) -> Result<(), EngineError> {
    if if_match == "*" || if_match == found.record.etag {
        return Ok(());
    }
    Err(EngineError::PreconditionFailed("If-Match"))
}
