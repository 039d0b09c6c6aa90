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
use super::due::Look;
use super::error::EngineError;
use super::keys;
use super::read::ObjectHandle;
use super::record::{BucketRecord, ObjectRecord, Record};
use super::types::{ObjectAttributes, ObjectInfo, VersionId, VersionRef};
use super::{Core, Engine};
use crate::meta::{Expect, MetaError, MetaStore, Reason, Table, Value};
use std::ops::ControlFlow;
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

    pub(super) fn is_latest(&self) -> bool {
        self.record.noncurrent_since.is_none()
    }

    /// As clients name it.
    pub(super) fn named(&self) -> (VersionId, bool) {
        (self.record.version, self.record.null)
    }
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
    /// [`EngineError::NoSuchBucket`]; [`EngineError::InvalidRequest`] for [`Versioning::Off`] where versions are: S3 knows no way back;
    /// [`EngineError::InvalidBucketState`] for [`Versioning::Suspended`] where there is object lock.
    pub async fn set_versioning(&self, bucket: &str, versioning: Versioning) -> Result<(), EngineError> {
        self.configure_bucket(bucket, |settings| {
            if versioning == Versioning::Off && settings.versioning != Versioning::Off {
                let what = "versions cannot be turned off once they were on: suspend them";
                return Err(EngineError::InvalidRequest(what.into()));
            }
            if versioning == Versioning::Suspended && settings.object_lock()?.is_some() {
                let what =
                    "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.";
                return Err(EngineError::InvalidBucketState(what.into()));
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
        self.change_attributes((bucket, key), version, Reason::UpdateObject, change).await
    }

    pub(super) async fn change_attributes(
        &self,
        (bucket, key): (&str, &str),
        version: VersionRef,
        reason: Reason,
        change: impl Fn(&mut ObjectAttributes) -> Result<(), EngineError>,
    ) -> Result<ObjectInfo, EngineError> {
        for _ in 0..MAX_RACES {
            let found = self.core.find(bucket, key, version)?;
            let mut next = found.record.clone();
            change(&mut next.attributes)?;
            if next.attributes != found.record.attributes {
                next.retell |= reason == Reason::LockObject && next.residency.tier().is_some();
                let Stored { subject, bytes, record } = &found;
                let how = (reason, Look::AsPlanned);
                match self.core.replace((subject, bytes, record), next.clone(), how).await? {
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
    pub(super) fn current(&self, object: &[u8]) -> Result<Option<Stored>, EngineError> {
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
        match self.versioning(bucket)? {
            Versioning::Off => Ok(None),
            _ => self.latest_of(&object),
        }
    }

    /// The same in a bucket with versions.
    pub(super) fn latest_of(&self, object: &[u8]) -> Result<Option<Stored>, EngineError> {
        self.settled(object, |current| match current {
            Some(current) => Ok(Some(current)),
            None => {
                Ok(self.first_version(keys::prefix(&keys::versions_of(object)))?.filter(|first| first.record.marker))
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

    pub(super) fn first_version(&self, range: keys::KeyRange) -> Result<Option<Stored>, EngineError> {
        let first = self.meta.scan(Table::Version, range, 1, false)?;
        first.into_iter().next().map(|(subject, bytes)| Stored::new(subject, bytes)).transpose()
    }

    /// The version `null` of a key in the table Version; there is one at most.
    pub(super) fn hidden_null(&self, object: &[u8]) -> Result<Option<Stored>, EngineError> {
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
