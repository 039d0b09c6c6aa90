//! Buckets and what is set for them.

use super::Engine;
use super::error::EngineError;
use super::events::NotificationRule;
use super::record::{BucketRecord, Record};
use super::{keys, lifecycle};
use crate::clock::Timestamp;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;

/// How often a change is tried again after another change of the same bucket won.
const MAX_RACES: usize = 32;

/// Uploads that the deletion of a bucket looks up at once.
const UPLOADS_AT_ONCE: usize = 1000;

/// Whether a bucket gives version ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// It never did.
    #[default]
    Off,
    /// Each write makes a version of its own.
    Enabled,
    /// Writes make and replace the version `null`; other versions stay.
    Suspended,
}

/// What is set for a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSettings {
    /// The account that owns it, by its canonical id; none: the first account.
    pub owner: Option<String>,
    /// Whether it gives version ids.
    pub versioning: Versioning,
    /// Documents of the S3 endpoint by the name of their subresource (`cors`, `tagging`, ...), in the form that it keeps them in.
    pub config: BTreeMap<String, Vec<u8>>,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Name.
    pub name: String,
    /// Creation.
    pub created: Timestamp,
    /// What is set for it.
    pub settings: BucketSettings,
}

impl BucketInfo {
    fn decode(name: String, value: &[u8]) -> Result<Self, EngineError> {
        let BucketRecord { created, settings } = BucketRecord::decode(value)?;
        Ok(Self { name, created, settings })
    }
}

impl Engine {
    /// Makes a bucket of the first account.
    ///
    /// # Errors
    /// [`EngineError::BucketExists`].
    pub async fn create_bucket(&self, name: &str) -> Result<(), EngineError> {
        self.create_bucket_with(name, BucketSettings::default()).await
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// [`EngineError::BucketExists`].
    pub async fn create_bucket_with(&self, name: &str, settings: BucketSettings) -> Result<(), EngineError> {
        let record = BucketRecord { created: self.core.clock.now(), settings };
        let batch = Batch::new(Reason::CreateBucket).expect(Expect::Absent(Table::Bucket, name.into())).put(
            Table::Bucket,
            name,
            record.encode()?,
        );
        match self.core.meta.commit(batch).await {
            Err(MetaError::Conflict { .. }) => Err(EngineError::BucketExists(name.to_owned())),
            other => Ok(other.map(drop)?),
        }
    }

    /// Changes what is set for a bucket: one record of the journal, none when `change` changes nothing. `change` may be called
    /// several times, each time with the settings as they are then.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`]; whatever `change` refuses with, and then nothing has changed.
    pub async fn configure_bucket(
        &self,
        name: &str,
        change: impl Fn(&mut BucketSettings) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        self.configure_and_test(name, change, &[]).await
    }

    /// As [`configure_bucket`](Self::configure_bucket); the same commit queues test events for the targets of `tested`.
    pub(super) async fn configure_and_test(
        &self,
        name: &str,
        change: impl Fn(&mut BucketSettings) -> Result<(), EngineError>,
        tested: &[NotificationRule],
    ) -> Result<(), EngineError> {
        for _ in 0..MAX_RACES {
            let stored = self.core.meta.get(Table::Bucket, name.as_bytes())?;
            let stored = stored.ok_or_else(|| EngineError::NoSuchBucket(name.to_owned()))?;
            let old = BucketRecord::decode(&stored)?;
            let mut new = old.clone();
            change(&mut new.settings)?;
            if new == old && tested.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new(Reason::ConfigureBucket)
                .expect(Expect::Equals(Table::Bucket, name.into(), stored.to_vec()))
                .put(Table::Bucket, name, new.encode()?);
            self.core.tell_of_rules(&mut batch, (name, new.settings.owner.as_ref()), tested)?;
            let walk = lifecycle::mark_if_changed(&mut batch, name, &old, &new);
            match self.core.meta.commit(batch).await {
                Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
                Ok(_) => {
                    if walk {
                        self.core.walk_bucket(name.to_owned());
                    }
                    return Ok(());
                }
            }
        }
        Err(EngineError::Conflict)
    }

    /// Deletes an empty bucket. Versions and delete markers count as content. Unfinished uploads do not, as in S3: they are aborted, once
    /// there is nothing else in the bucket.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::BucketNotEmpty`]; [`EngineError::Conflict`] when uploads begin all the while.
    pub async fn delete_bucket(&self, name: &str) -> Result<(), EngineError> {
        self.bucket(name)?;
        let inside = keys::object(name, "");
        for _ in 0..MAX_RACES {
            // In the order in which they are judged: a conflict about uploads tells that all else is gone.
            let batch = Batch::new(Reason::DeleteBucket)
                .expect(Expect::Present(Table::Bucket, name.into()))
                .expect(Expect::EmptyPrefix(Table::Object, inside.clone()))
                .expect(Expect::EmptyPrefix(Table::Version, inside.clone()))
                .expect(Expect::EmptyPrefix(Table::Upload, inside.clone()))
                .delete(Table::Bucket, name);
            return match self.core.meta.commit(lifecycle::forget(batch, name)).await {
                Err(MetaError::Conflict { table: Table::Upload, .. }) => {
                    self.abort_uploads(&inside).await?;
                    continue;
                }
                Err(MetaError::Conflict { table: Table::Bucket, .. }) => {
                    Err(EngineError::NoSuchBucket(name.to_owned()))
                }
                Err(MetaError::Conflict { .. }) => Err(EngineError::BucketNotEmpty(name.to_owned())),
                other => Ok(other.map(drop)?),
            };
        }
        Err(EngineError::Conflict)
    }

    /// Aborts all uploads whose keys begin so.
    async fn abort_uploads(&self, inside: &[u8]) -> Result<(), EngineError> {
        loop {
            let page = self.core.meta.scan(Table::Upload, keys::prefix(inside), UPLOADS_AT_ONCE, false)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, _) in page {
                let (_, _, id) = keys::split_upload(&key)
                    .ok_or_else(|| EngineError::Corrupt("the key of an upload cannot be read".into()))?;
                match self.core.abort_upload(&key, id).await {
                    // Completed or aborted by somebody else meanwhile.
                    Ok(()) | Err(EngineError::NoSuchUpload(_)) => {}
                    Err(other) => return Err(other),
                }
            }
        }
    }

    /// Looks a bucket up.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`].
    pub fn bucket(&self, name: &str) -> Result<BucketInfo, EngineError> {
        let value = self.core.meta.get(Table::Bucket, name.as_bytes())?;
        let value = value.ok_or_else(|| EngineError::NoSuchBucket(name.to_owned()))?;
        BucketInfo::decode(name.to_owned(), &value)
    }

    /// All buckets by name.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn buckets(&self) -> Result<Vec<BucketInfo>, EngineError> {
        let all = self.core.meta.scan(Table::Bucket, (Bound::Unbounded, Bound::Unbounded), usize::MAX, false)?;
        all.into_iter()
            .map(|(name, value)| {
                let name = String::from_utf8(name).map_err(|e| EngineError::Corrupt(format!("bucket name: {e}")))?;
                BucketInfo::decode(name, &value)
            })
            .collect()
    }
}
