//! The state behind one lock: buckets, versions, uploads and the ledger. Every change goes through here, so that it is
//! billed and written to the log exactly once.

use crate::error::OssError;
use crate::ledger::{Code, Ledger};
use crate::lifecycle::Rule;
use crate::model::{Bucket, BucketMeta, Class, Part, Upload, Version, Versioning, parse_version_id, version_id};
use crate::persist::{Log, Record};
use crate::request::{Reply, Req};
use crate::restore::Tier;
use std::collections::BTreeMap;

/// All state.
#[derive(Debug, Default)]
pub struct Store {
    /// Buckets by name.
    pub buckets: BTreeMap<String, Bucket>,
    /// The bill.
    pub ledger: Ledger,
    pub(crate) log: Option<Log>,
    /// Number of the newest version.
    pub(crate) last_version: u64,
    /// When the lifecycle last ran.
    pub(crate) lifecycle_ran: u64,
    /// The first failure of the log; the next request reports it.
    broken: Option<String>,
}

impl Store {
    pub(crate) fn write(&mut self, record: &Record<'_>) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.append(record)
        {
            self.broken.get_or_insert_with(|| format!("the log cannot be written: {error}"));
        }
    }

    /// Fails once the log could not be written: the state on disk is then behind.
    ///
    /// # Errors
    /// 500 InternalError.
    pub fn check(&self) -> Result<(), OssError> {
        self.broken.as_ref().map_or(Ok(()), |why| Err(OssError::internal(why)))
    }

    /// A bucket.
    ///
    /// # Errors
    /// 404 NoSuchBucket.
    pub fn bucket(&self, name: &str) -> Result<&Bucket, OssError> {
        self.buckets.get(name).ok_or_else(|| OssError::no_such_bucket(name))
    }

    /// A bucket, to be changed.
    ///
    /// # Errors
    /// 404 NoSuchBucket.
    pub fn bucket_mut(&mut self, name: &str) -> Result<&mut Bucket, OssError> {
        self.buckets.get_mut(name).ok_or_else(|| OssError::no_such_bucket(name))
    }

    /// Makes a bucket or replaces its settings.
    pub fn put_bucket(&mut self, name: &str, meta: BucketMeta) {
        self.write(&Record::bucket(name, &meta));
        match self.buckets.get_mut(name) {
            Some(bucket) => bucket.meta = meta,
            None => {
                self.buckets.insert(name.to_string(), Bucket::new(meta));
            }
        }
    }

    /// Changes a bucket's settings.
    ///
    /// # Errors
    /// 404 NoSuchBucket.
    pub fn change_bucket(&mut self, name: &str, change: impl FnOnce(&mut BucketMeta)) -> Result<(), OssError> {
        let mut meta = self.bucket(name)?.meta.clone();
        change(&mut meta);
        self.put_bucket(name, meta);
        Ok(())
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// 404 NoSuchBucket, 409 BucketNotEmpty.
    pub fn remove_bucket(&mut self, name: &str) -> Result<(), OssError> {
        let bucket = self.bucket(name)?;
        if !bucket.objects.is_empty() || !bucket.uploads.is_empty() {
            return Err(OssError::new(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
                .with("BucketName", name));
        }
        self.buckets.remove(name);
        self.write(&Record::BucketGone(name.into()));
        Ok(())
    }

    /// The lifecycle rules of every bucket that has some.
    pub(crate) fn rules(&self) -> Vec<(String, Vec<Rule>)> {
        self.buckets.iter().filter_map(|(name, b)| Some((name.clone(), b.meta.lifecycle.clone()?))).collect()
    }

    /// The version that a request names: the current one, or that of `versionId`.
    ///
    /// # Errors
    /// 404 for what does not exist; a current delete marker is 404 with its header, a named one 405.
    pub fn find(&self, req: &Req) -> Result<&Version, OssError> {
        self.find_named(req.bucket()?, req.key()?, req.query.get("versionId"))
    }

    /// As [`Store::find`], with the names given.
    ///
    /// # Errors
    /// As there.
    pub fn find_named(&self, bucket: &str, key: &str, id: Option<&str>) -> Result<&Version, OssError> {
        let bucket = self.bucket(bucket)?;
        let Some(id) = id else {
            let version = bucket.current(key).ok_or_else(|| OssError::no_such_key(key))?;
            if version.delete_marker {
                return Err(OssError::no_such_key(key)
                    .header("x-oss-delete-marker", "true")
                    .header("x-oss-version-id", version.version_id()));
            }
            return Ok(version);
        };
        let number = parse_version_id(id)
            .ok_or_else(|| OssError::invalid_argument("Invalid version id specified", "versionId", id))?;
        let version = bucket.version(key, number).ok_or_else(|| {
            OssError::new(404, "NoSuchVersion", "The specified version does not exist.")
                .with("Key", key)
                .with("VersionId", id)
        })?;
        if version.delete_marker {
            return Err(OssError::method_not_allowed("GET")
                .header("allow", "DELETE")
                .header("x-oss-delete-marker", "true")
                .header("x-oss-version-id", version.version_id()));
        }
        Ok(version)
    }

    /// Adds `x-oss-version-id` when the bucket has, or had, versioning.
    pub fn name_version(&self, bucket: &str, id: u64, reply: &mut Reply) {
        if self.buckets.get(bucket).is_some_and(|b| b.meta.versioning.is_some()) {
            reply.set("x-oss-version-id", version_id(id));
        }
    }

    /// Adds to the bill.
    pub fn charge(&mut self, code: Code, class: Class, tier: Option<Tier>, amount: u128) {
        self.ledger.add(code, class, tier, amount);
        self.write(&Record::Charge(code, class, tier, amount));
    }

    /// Closes the replica line of a version whose restore ends or is replaced at `now`.
    pub fn settle_replica(&mut self, version: &Version, now: u64) {
        self.settle(|bill| bill.add_replica(version, now));
    }

    /// Closes the storage lines of a version that leaves its class at `now`.
    pub(crate) fn settle_version(&mut self, version: &Version, now: u64) {
        self.settle(|bill| {
            bill.add_storage(version, now);
            bill.add_replica(version, now);
            bill.add_early_deletion(version, now);
        });
    }

    /// Closes the storage line of an appendable object that grows at `now`: nothing is deleted, so no minimum is missed.
    pub(crate) fn settle_growth(&mut self, version: &Version, now: u64) {
        self.settle(|bill| bill.add_storage(version, now));
    }

    fn settle(&mut self, fill: impl FnOnce(&mut Ledger)) {
        let mut bill = Ledger::since(self.ledger.from);
        fill(&mut bill);
        for ((code, class, tier), amount) in bill.amounts() {
            self.charge(code, class, tier, amount);
        }
    }

    /// Stores a new version at `now` and returns its number. Without versioning it replaces what was there; suspended, it
    /// replaces the null version.
    ///
    /// # Errors
    /// 404 NoSuchBucket.
    pub fn insert(&mut self, bucket: &str, key: &str, mut version: Version, now: u64) -> Result<u64, OssError> {
        let enabled = self.bucket(bucket)?.meta.versioning == Some(Versioning::Enabled);
        version.id = 0;
        if enabled {
            self.last_version += 1;
            version.id = self.last_version;
        } else {
            self.take(bucket, key, 0, now);
        }
        self.write(&Record::version(bucket, key, &version));
        let id = version.id;
        self.bucket_mut(bucket)?.objects.entry(key.to_string()).or_default().push(version);
        Ok(id)
    }

    /// Removes a version, closing its lines. Returns it.
    ///
    /// # Errors
    /// 404 NoSuchBucket.
    pub fn remove(&mut self, bucket: &str, key: &str, id: u64, now: u64) -> Result<Option<Version>, OssError> {
        self.bucket(bucket)?;
        let gone = self.take(bucket, key, id, now);
        if gone.is_some() {
            self.write(&Record::VersionGone(bucket.into(), key.into(), id));
        }
        Ok(gone)
    }

    /// Removes without a log record of its own: the caller writes one that implies it, or names it.
    fn take(&mut self, bucket: &str, key: &str, id: u64, now: u64) -> Option<Version> {
        let objects = &mut self.buckets.get_mut(bucket)?.objects;
        let versions = objects.get_mut(key)?;
        let at = versions.iter().position(|v| v.id == id)?;
        let version = versions.remove(at);
        if versions.is_empty() {
            objects.remove(key);
        }
        self.settle_version(&version, now);
        Some(version)
    }

    /// Changes a version in place.
    ///
    /// # Errors
    /// 404 when it does not exist.
    pub fn update(
        &mut self,
        bucket: &str,
        key: &str,
        id: u64,
        change: impl FnOnce(&mut Version),
    ) -> Result<(), OssError> {
        let versions = self.bucket_mut(bucket)?.objects.get_mut(key);
        let version = versions.and_then(|v| v.iter_mut().find(|v| v.id == id));
        let version = version.ok_or_else(|| OssError::no_such_key(key))?;
        change(version);
        let copy = version.clone();
        self.write(&Record::changed(bucket, key, &copy));
        Ok(())
    }

    /// Opens an upload.
    ///
    /// # Errors
    /// 404 NoSuchBucket.
    pub fn open_upload(&mut self, bucket: &str, key: &str, id: &str, upload: Upload) -> Result<(), OssError> {
        self.bucket(bucket)?;
        self.write(&Record::upload(bucket, key, id, &upload));
        self.bucket_mut(bucket)?.uploads.insert((key.to_string(), id.to_string()), upload);
        Ok(())
    }

    /// An open upload.
    ///
    /// # Errors
    /// 404 NoSuchBucket or NoSuchUpload.
    pub fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<&Upload, OssError> {
        let found = self.bucket(bucket)?.uploads.get(&(key.to_string(), id.to_string()));
        found.ok_or_else(|| OssError::no_such_upload(id))
    }

    /// Stores a part, replacing one of the same number.
    ///
    /// # Errors
    /// 404 NoSuchBucket or NoSuchUpload.
    pub fn put_part(&mut self, req: &Req, id: &str, number: u16, part: Part) -> Result<(), OssError> {
        let (bucket, key) = (req.bucket()?, req.key()?);
        let class = self.upload(bucket, key, id)?.class;
        self.write(&Record::part(bucket, key, id, number, &part));
        let uploads = &mut self.bucket_mut(bucket)?.uploads;
        let upload = uploads.get_mut(&(key.to_string(), id.to_string()));
        let upload = upload.ok_or_else(|| OssError::no_such_upload(id))?;
        if let Some(old) = upload.parts.insert(number, part) {
            self.settle(|bill| bill.add_part(class, old.size, old.modified, req.now));
        }
        Ok(())
    }

    /// Removes an upload, closing the lines of its parts.
    ///
    /// # Errors
    /// 404 NoSuchBucket or NoSuchUpload.
    pub fn close_upload(&mut self, bucket: &str, key: &str, id: &str, now: u64) -> Result<Upload, OssError> {
        let gone = self.bucket_mut(bucket)?.uploads.remove(&(key.to_string(), id.to_string()));
        let upload = gone.ok_or_else(|| OssError::no_such_upload(id))?;
        self.write(&Record::UploadGone(bucket.into(), key.into(), id.into()));
        self.settle(|bill| {
            for part in upload.parts.values() {
                bill.add_part(upload.class, part.size, part.modified, now);
            }
        });
        Ok(upload)
    }

    /// The bill at `now`: what is closed plus what is open.
    pub fn bill(&self, now: u64) -> Ledger {
        let mut bill = self.ledger.clone();
        for bucket in self.buckets.values() {
            for version in bucket.objects.values().flatten() {
                bill.add_storage(version, now);
                bill.add_replica(version, now);
            }
            for upload in bucket.uploads.values() {
                for part in upload.parts.values() {
                    bill.add_part(upload.class, part.size, part.modified, now);
                }
            }
        }
        bill
    }

    /// Starts a new bill.
    pub fn reset_bill(&mut self, now: u64) {
        self.ledger.reset(now);
        self.write(&Record::LedgerReset(now));
    }
}
