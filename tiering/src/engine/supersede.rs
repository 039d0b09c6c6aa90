//! What takes the place of a key's latest version, and what a key is left with when a version goes: each one commit, with all that must
//! still be so (see [`versions`](super::versions)).

use super::Core;
use super::buckets::Versioning;
use super::due::{Look, names};
use super::error::EngineError;
use super::events::EventKind;
use super::keys;
use super::lock::{self, BucketLock};
use super::record::{BucketRecord, ObjectRecord};
use super::types::{DeleteRequest, Deleted, Residency, VersionId, VersionRef};
use super::versions::{MAX_RACES, Stored};
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use crate::mutants::{self, Mutant};
use std::ops::Bound;
use std::sync::Arc;

/// A key as it was found before a change.
pub(crate) struct Sight {
    pub versioning: Versioning,
    /// The object lock of the bucket.
    pub lock: Option<BucketLock>,
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
    /// The delete marker that is the latest.
    fn latest_marker(&self) -> Option<&Stored> {
        self.marker.iter().chain(&self.null).find(|one| one.record.marker && one.is_latest())
    }

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

impl Core {
    /// Looks at a key for a change of its latest version. Without versions this is one look at the bucket and one at the object.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub(crate) fn look(&self, bucket: &str, key: &str) -> Result<Sight, EngineError> {
        let value = self.meta.get(Table::Bucket, bucket.as_bytes())?;
        let value = value.ok_or_else(|| EngineError::NoSuchBucket(bucket.to_owned()))?;
        let versioning = BucketRecord::versioning(&value)?;
        // There is none without versions; most buckets need not be read to their end.
        let lock = if versioning == Versioning::Off { None } else { BucketRecord::object_lock(&value)? };
        let object = keys::object(bucket, key);
        let current = self.current(&object)?;
        let mut expects = vec![Expect::unchanged(Table::Bucket, bucket.into(), &value)];
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
        Ok(Sight { versioning, lock, current, marker, null, expects })
    }

    /// Adds all to `batch` that makes `newest` the latest version of its key.
    ///
    /// # Errors
    /// [`EngineError::Locked`] when a version would have to give way that must stay.
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
            if mutants::active(Mutant::OverwriteLosesVersion) {
                continue;
            }
            let reviewed = self.moves_others(bucket) && !mutants::active(Mutant::NeighboursForgotten);
            let look = if reviewed { Look::AtOnce } else { Look::AsPlanned };
            planned.due_now |= self.put_version(batch, &subject, (None, look), &mut moved)?;
            planned.written.push(subject);
        }
        if let Some(null) = sight.null.as_ref().filter(|_| !mutants::active(Mutant::NullStays)) {
            self.drop_version(batch, null, false)?;
            planned.frees |= is_local(&null.record);
        }
        let object = keys::object(bucket, key);
        let old = replaced.map(|replaced| &replaced.record);
        old.map_or(Ok(()), |old| lock::check_removable(old, false, self.clock.now()))?;
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
            true if mutants::active(Mutant::DeleteWithoutMarker) => false,
            true => self.put_marker(batch, &subject, newest)?,
            false => self.put_version(batch, &subject, (old, Look::AsPlanned), newest)?,
        };
        planned.written.push(subject);
        Ok(planned)
    }

    /// Writes a delete marker that becomes the latest, or may have become all that is left.
    fn put_marker(&self, batch: &mut Batch, subject: &[u8], marker: &mut ObjectRecord) -> Result<bool, EngineError> {
        let ends = self.ends_alone(subject, marker, self.clock.now())?;
        self.put_version(batch, subject, (None, if ends { Look::AtOnce } else { Look::AsPlanned }), marker)
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
            self.drop_version(&mut batch, current, false)?;
            self.tell(&mut batch, EventKind::of_deletion(reason, false), (bucket, key), &current.record)?;
            let planned = Planned { frees: is_local(&current.record), ..Planned::default() };
            return Ok(Some((batch, planned, Deleted { existed, ..Deleted::default() })));
        }
        keys::check_new(key)?;
        let now = self.clock.now();
        let mut marker = ObjectRecord::delete_marker(keys::fresh_version(now), now);
        marker.attributes.owner = owner.map(str::to_owned);
        let planned = self.supersede(&mut batch, sight, (bucket, key), &mut marker)?;
        self.tell(&mut batch, EventKind::of_deletion(reason, true), (bucket, key), &marker)?;
        let version = Some((marker.version, marker.null));
        Ok(Some((batch, planned, Deleted { existed, version, marker: true })))
    }

    /// Makes a key look deleted. Conditions on size and time judge a delete marker like an object, and of a key that has nothing they ask
    /// nothing: then nothing is done.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::PreconditionFailed`], [`EngineError::NoSuchKey`].
    pub(crate) async fn delete_key(
        &self,
        bucket: &str,
        key: &str,
        delete: &DeleteRequest,
    ) -> Result<Deleted, EngineError> {
        for _ in 0..MAX_RACES {
            let planned_by = self.rules_of(bucket);
            let sight = self.look(bucket, key)?;
            match (&sight.current, sight.latest_marker()) {
                (Some(current), _) => check_delete(delete, current)?,
                // S3's answer: there is nothing that could match.
                (None, _) if delete.if_match.is_some() => {
                    return Err(EngineError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() });
                }
                (None, Some(marker)) => check_delete(delete, marker)?,
                (None, None) if delete.if_size.is_some() || delete.if_modified.is_some() => {
                    return Ok(Deleted::default());
                }
                (None, None) => {}
            }
            let Some((batch, planned, deleted)) =
                self.plan_delete(&sight, (bucket, key), (Reason::DeleteObject, delete.owner.as_deref()))?
            else {
                return Ok(Deleted::default());
            };
            match self.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
                Ok(_) => {
                    self.settle(planned, (bucket, &planned_by)).await;
                    return Ok(deleted);
                }
            }
        }
        Err(EngineError::Conflict)
    }

    /// Removes the version that is named, marker or not, and makes the next newest the latest when it was that.
    ///
    /// # Errors
    /// [`EngineError::PreconditionFailed`]; [`EngineError::Locked`] for one that must stay.
    pub(crate) async fn delete_named(
        &self,
        bucket: &str,
        key: &str,
        delete: &DeleteRequest,
    ) -> Result<Deleted, EngineError> {
        for _ in 0..MAX_RACES {
            let planned_by = self.rules_of(bucket);
            let found = match delete.version {
                VersionRef::Current => return self.delete_key(bucket, key, delete).await,
                VersionRef::Null => self.null_version(bucket, key)?,
                VersionRef::Id(id) => self.by_id(bucket, key, id)?.filter(|found| !found.record.null),
            };
            // What is gone is what was asked for, whatever it was.
            let Some(found) = found else { return Ok(Deleted::default()) };
            check_delete(delete, &found)?;
            let (batch, planned) = self.plan_removal(&found, Reason::DeleteVersion, delete.bypass_governance)?;
            match self.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
                Ok(_) => {
                    self.settle(planned, (bucket, &planned_by)).await;
                    return Ok(Deleted { existed: true, version: Some(found.named()), marker: found.record.marker });
                }
            }
        }
        Err(EngineError::Conflict)
    }

    /// What removes exactly this version.
    fn plan_removal(&self, found: &Stored, reason: Reason, bypass: bool) -> Result<(Batch, Planned), EngineError> {
        let mut batch = Batch::new(reason).expect(found.unchanged());
        let mut planned = Planned { frees: is_local(&found.record), ..Planned::default() };
        self.drop_version(&mut batch, found, bypass)?;
        self.tell(&mut batch, EventKind::of_deletion(reason, false), names(&found.subject)?, &found.record)?;
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
        let next = self.first_version((start, end))?.filter(|_| !mutants::active(Mutant::RemovalPromotesNothing));
        if let Some(next) = next {
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
                false => self.put_version(&mut batch, &subject, (None, Look::AsPlanned), &mut latest)?,
            };
            planned.written.push(subject);
        }
        Ok((batch, planned))
    }

    /// Has the delete marker looked at again that is the latest of a key of which a version goes, when it is alone then. While others
    /// are left it is not touched, or a hundred removals at a time would all be in each other's way. Each then expects
    /// two versions that stay: whichever is the latest at the commit, it has company, and the removal that ends this sees it. As each
    /// expects the version behind its own, one that is made fails no more than one other, and half of them get through each time.
    fn review_marker(&self, batch: &mut Batch, planned: &mut Planned, removed: &[u8]) -> Result<(), EngineError> {
        let object = keys::object_of(removed);
        let Some(latest) = self.latest_of(object)? else { return Ok(()) };
        if !latest.record.marker {
            batch.expects.push(Expect::Present(Table::Object, object.to_vec()));
            return Ok(());
        }
        // Rules that come meanwhile may be the first that end it.
        planned.written.push(latest.subject.clone());
        let all = keys::prefix(&keys::versions_of(object));
        let behind = self.first_version((Bound::Excluded(removed.to_vec()), all.1))?;
        let company = match behind {
            Some(behind) => Some(behind),
            None => {
                let between = (Bound::Excluded(latest.subject.clone()), Bound::Excluded(removed.to_vec()));
                self.first_version(between)?
            }
        };
        if let Some(company) = company {
            let stay = [latest.subject, company.subject].map(|subject| Expect::Present(Table::Version, subject));
            batch.expects.extend(stay);
        } else if self.ends_alone(&latest.subject, &latest.record, self.clock.now())? {
            batch.expects.push(latest.unchanged());
            let mut again = latest.record.clone();
            let old = (Some(&latest.record), Look::AtOnce);
            planned.due_now |= self.put_version(batch, &latest.subject, old, &mut again)?;
        }
        Ok(())
    }

    /// Deletes a version by rule, as it was found: what is visible as a client would without naming a version, anything else for good.
    pub(crate) async fn expire(&self, found: &Stored) -> Result<Result<(), MetaError>, EngineError> {
        let (bucket, key) = names(&found.subject)?;
        let planned_by = self.rules_of(bucket);
        let (batch, planned) = if keys::table_of(&found.subject) == Table::Version {
            self.plan_removal(found, Reason::Expire, false)?
        } else {
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
            self.settle(planned, (bucket, &planned_by)).await;
        }
        Ok(outcome)
    }

    /// Takes a version out, with all that stands for it elsewhere.
    ///
    /// # Errors
    /// [`EngineError::Locked`].
    fn drop_version(&self, batch: &mut Batch, version: &Stored, bypass: bool) -> Result<(), EngineError> {
        lock::check_removable(&version.record, bypass, self.clock.now())?;
        let table = keys::table_of(&version.subject);
        batch.ops.push(gone(table, &version.subject));
        if table == Table::Object {
            batch.ops.push(gone(Table::Access, &version.subject));
        }
        self.drop_due(batch, &version.subject, Some(&version.record));
        self.doom_restore_job(batch, Some(&version.record));
        Ok(())
    }

    fn doom_restore_job(&self, batch: &mut Batch, old: Option<&ObjectRecord>) {
        if let Some(job) = old.and_then(|o| o.restoring) {
            batch.ops.push(gone(Table::Job, &keys::job(job)));
        }
    }

    /// Does what a commit in a bucket asks for that was planned by these rules.
    pub(crate) async fn settle(
        &self,
        planned: Planned,
        (bucket, planned_by): (&str, &Arc<super::policy::ActivePolicy>),
    ) {
        if planned.frees {
            self.expect_garbage();
        }
        if planned.due_now {
            self.wake.notify_one();
        }
        if Arc::ptr_eq(planned_by, &self.rules_of(bucket)) {
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

/// Judges what is to be deleted by the conditions of the request.
fn check_delete(delete: &DeleteRequest, found: &Stored) -> Result<(), EngineError> {
    let record = &found.record;
    if delete.if_match.as_ref().is_some_and(|etag| etag != "*" && *etag != record.etag) {
        return Err(EngineError::PreconditionFailed("If-Match"));
    }
    if delete.if_size.is_some_and(|size| size != record.size) {
        return Err(EngineError::PreconditionFailed("x-amz-if-match-size"));
    }
    if delete.if_modified.is_some_and(|second| second != record.modified.seconds()) {
        return Err(EngineError::PreconditionFailed("x-amz-if-match-last-modified-time"));
    }
    Ok(())
}
