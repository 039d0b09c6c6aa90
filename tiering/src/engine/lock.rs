//! Object lock: versions that nobody may remove before their time. What holds a version stands among its attributes, so that it
//! goes wherever the record goes: into journal, snapshots and the manifests of packs. Every way by which a version can leave the
//! namespace asks [`check_removable`], whoever takes it; rules count their ends from [`Core::kept_until`] on.

use super::buckets::{BucketSettings, Versioning};
use super::record::{BucketRecord, ObjectRecord};
use super::types::{ObjectAttributes, ObjectInfo, VersionRef};
use super::{Core, Engine, EngineError};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Reason, Table};
use serde::{Deserialize, Serialize};
use tidegate_policies::Version;

/// Under this name a bucket keeps that it has object lock.
pub const LOCK_SETTING: &str = "object-lock";

/// The longest default retention: S3's.
const MAX_DAYS: u32 = 36_500;
const DAYS_OF_A_YEAR: u32 = 365;
const DAY_MS: u64 = 86_400_000;

/// Who may end a retention before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RetentionMode {
    /// Whoever is allowed to bypass it.
    Governance,
    /// Nobody.
    Compliance,
}

impl RetentionMode {
    /// As S3 spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

/// Until when a version stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How strict it is.
    pub mode: RetentionMode,
    /// From this moment on the version may be removed.
    pub until: Timestamp,
}

/// How long new versions of a bucket are retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// Days of 24 hours.
    Days(u32),
    /// Years of 365 days.
    Years(u32),
}

impl Period {
    fn days(self) -> Option<u32> {
        let days = match self {
            Self::Days(days) => Some(days),
            Self::Years(years) => years.checked_mul(DAYS_OF_A_YEAR),
        };
        days.filter(|days| (1..=MAX_DAYS).contains(days))
    }

    /// Whether it is one that S3 knows: a day to 36,500 days, or a year to 100 years.
    pub fn is_valid(self) -> bool {
        self.days().is_some()
    }
}

/// The retention of new versions that come without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How strict it is.
    pub mode: RetentionMode,
    /// How long it is, from the creation of the version.
    pub period: Period,
}

impl DefaultRetention {
    fn of(self, created: Timestamp) -> Retention {
        let length = self.period.days().map_or(u64::MAX, |days| u64::from(days).saturating_mul(DAY_MS));
        Retention { mode: self.mode, until: Timestamp(created.millis().saturating_add(length)) }
    }
}

/// That a bucket has object lock, which it keeps for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketLock {
    /// What new versions get.
    pub default: Option<DefaultRetention>,
}

impl BucketLock {
    /// Of the bytes among a bucket's settings. What cannot be read is an error, as no version must be written unprotected.
    fn read(bytes: &[u8]) -> Result<Self, EngineError> {
        serde_json::from_slice(bytes).map_err(|e| EngineError::Corrupt(format!("the object lock of a bucket: {e}")))
    }
}

impl BucketSettings {
    /// The object lock of the bucket, if it has it.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] for what is kept and cannot be read.
    pub fn object_lock(&self) -> Result<Option<BucketLock>, EngineError> {
        self.config.get(LOCK_SETTING).map(|bytes| BucketLock::read(bytes)).transpose()
    }

    /// Gives the bucket object lock, or another default.
    ///
    /// # Errors
    /// [`EngineError::InvalidBucketState`] unless versions are on; [`EngineError::InvalidArgument`] for a default that is none.
    pub fn set_object_lock(&mut self, lock: BucketLock) -> Result<(), EngineError> {
        if self.versioning != Versioning::Enabled {
            let what = "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration";
            return Err(EngineError::InvalidBucketState(what.to_owned()));
        }
        if lock.default.is_some_and(|default| !default.period.is_valid()) {
            let what = format!("a default retention lasts from a day to {MAX_DAYS} days");
            return Err(EngineError::InvalidArgument(what));
        }
        let bytes = serde_json::to_vec(&lock)
            .map_err(|e| EngineError::Internal(format!("write the object lock of a bucket: {e}")))?;
        self.config.insert(LOCK_SETTING.to_owned(), bytes);
        Ok(())
    }
}

impl ObjectAttributes {
    /// From when on nothing keeps a version with these attributes: `None` when nothing ever did, [`Timestamp::MAX`] under legal hold.
    pub(crate) fn kept_until(&self) -> Option<Timestamp> {
        match self.legal_hold {
            Some(true) => Some(Timestamp::MAX),
            _ => self.retention.map(|retention| retention.until),
        }
    }

    /// Whether a retention or a legal hold was ever given.
    pub(crate) fn has_lock(&self) -> bool {
        self.retention.is_some() || self.legal_hold.is_some()
    }

    /// Takes over from `other` what keeps the version longer or more strictly, each for itself: the mode, the time, the hold.
    pub(crate) fn lock_no_less_than(&mut self, other: &Self) {
        if let Some(kept) = other.retention {
            let mine = self.retention.get_or_insert(kept);
            mine.until = mine.until.max(kept.until);
            if kept.mode == RetentionMode::Compliance {
                mine.mode = RetentionMode::Compliance;
            }
        }
        if other.legal_hold == Some(true) {
            self.legal_hold = Some(true);
        }
    }

    /// The same without retention and legal hold, which belong to a version and never to its copies.
    #[must_use]
    pub fn without_lock(self) -> Self {
        Self { retention: None, legal_hold: None, ..self }
    }
}

/// Whether a version may leave the namespace.
///
/// # Errors
/// [`EngineError::Locked`] under legal hold, and before its retention ends, unless that is of governance mode and `bypass` is set.
pub(crate) fn check_removable(record: &ObjectRecord, bypass: bool, now: Timestamp) -> Result<(), EngineError> {
    if record.attributes.legal_hold == Some(true) {
        return Err(EngineError::Locked("the version is under legal hold".to_owned()));
    }
    match record.attributes.retention.filter(|retention| retention.until > now) {
        Some(Retention { mode: RetentionMode::Governance, .. }) if bypass => Ok(()),
        Some(Retention { mode, until }) => {
            Err(EngineError::Locked(format!("the version is retained until {until} ({})", mode.as_str())))
        }
        None => Ok(()),
    }
}

/// Whether a retention may take the place of another.
fn check_change(
    old: Option<Retention>,
    new: Option<Retention>,
    (bypass, now): (bool, Timestamp),
) -> Result<(), EngineError> {
    if let Some(new) = new {
        check_date(new, now)?;
    }
    let Some(old) = old.filter(|old| old.until > now) else { return Ok(()) };
    let extends = new.is_some_and(|new| new.mode == old.mode && new.until >= old.until);
    if extends || (bypass && old.mode == RetentionMode::Governance) {
        return Ok(());
    }
    let Retention { mode, until } = old;
    let what = format!("the version is retained until {until} ({}), which can only be extended", mode.as_str());
    Err(EngineError::Locked(what))
}

fn check_date(retention: Retention, now: Timestamp) -> Result<(), EngineError> {
    if retention.until > now {
        return Ok(());
    }
    Err(EngineError::InvalidArgument("The retain until date must be in the future!".to_owned()))
}

fn not_locked() -> EngineError {
    EngineError::InvalidRequest("Bucket is missing Object Lock Configuration".to_owned())
}

/// The attributes of a new version, with the default of its bucket where they bring no retention of their own.
///
/// # Errors
/// [`EngineError::InvalidRequest`] for a lock in a bucket without it.
pub(crate) fn settle_new(record: &mut ObjectRecord, lock: Option<&BucketLock>) -> Result<(), EngineError> {
    let attributes = &mut record.attributes;
    match lock {
        None if attributes.has_lock() => return Err(not_locked()),
        None => {}
        Some(lock) => {
            let default = || lock.default.map(|default| default.of(record.modified));
            attributes.retention = attributes.retention.or_else(default);
        }
    }
    // A copy that moves no byte: packs know its source, and not what locks it.
    record.retell = record.attributes.has_lock() && record.residency.tier().is_some();
    Ok(())
}

impl BucketRecord {
    /// The object lock of the bucket of a stored record, copying nothing.
    pub(crate) fn object_lock(stored: &[u8]) -> Result<Option<BucketLock>, EngineError> {
        let kept = Self::kept(stored, LOCK_SETTING)?;
        kept.map(|bytes| BucketLock::read(&bytes)).transpose()
    }
}

impl Core {
    /// Refuses what is asked of a new version early, before its body is read. Looks the bucket up in any case.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`]; [`EngineError::InvalidRequest`] for a lock in a bucket without it,
    /// [`EngineError::InvalidArgument`] for a retention that is over.
    pub(crate) fn admit_new(&self, bucket: &str, attributes: Option<&ObjectAttributes>) -> Result<(), EngineError> {
        match attributes.filter(|attributes| attributes.has_lock()) {
            None => self.versioning(bucket).map(drop),
            Some(attributes) => {
                self.require_lock(bucket)?;
                attributes.retention.map_or(Ok(()), |retention| check_date(retention, self.clock.now()))
            }
        }
    }

    fn require_lock(&self, bucket: &str) -> Result<(), EngineError> {
        let value = self.meta.get(Table::Bucket, bucket.as_bytes())?;
        let value = value.ok_or_else(|| EngineError::NoSuchBucket(bucket.to_owned()))?;
        BucketRecord::object_lock(&value)?.map(drop).ok_or_else(not_locked)
    }

    /// Until when no rule can take a version away; `None` when any can, or when its end by a rule leaves it where it is, below a
    /// delete marker.
    pub(crate) fn kept_until(
        &self,
        bucket: &str,
        record: &ObjectRecord,
        version: Version,
    ) -> Result<Option<Timestamp>, EngineError> {
        let Some(until) = record.attributes.kept_until() else { return Ok(None) };
        let stays = match version {
            Version::Current => match self.versioning(bucket)? {
                Versioning::Enabled => true,
                Versioning::Suspended => !record.null,
                Versioning::Off => false,
            },
            _ => false,
        };
        Ok((!stays).then_some(until))
    }
}

impl Engine {
    /// Gives a bucket object lock for ever, or another default.
    ///
    /// # Errors
    /// [`EngineError::NoSuchBucket`], [`EngineError::InvalidBucketState`] unless versions are on.
    pub async fn set_object_lock(&self, bucket: &str, lock: BucketLock) -> Result<(), EngineError> {
        self.configure_bucket(bucket, |settings| settings.set_object_lock(lock)).await
    }

    /// Sets the retention of a version, or removes it. `bypass`: the caller may end one of governance mode before its time.
    ///
    /// # Errors
    /// As [`Engine::open_version`]; [`EngineError::InvalidRequest`] in a bucket without object lock,
    /// [`EngineError::InvalidArgument`] for a date that is over, [`EngineError::Locked`] for one that would end another too early.
    pub async fn set_retention(
        &self,
        (bucket, key): (&str, &str),
        version: VersionRef,
        retention: Option<Retention>,
        bypass: bool,
    ) -> Result<ObjectInfo, EngineError> {
        self.core.require_lock(bucket)?;
        let change = |attributes: &mut ObjectAttributes| {
            check_change(attributes.retention, retention, (bypass, self.core.clock.now()))?;
            attributes.retention = retention;
            Ok(())
        };
        self.change_attributes((bucket, key), version, Reason::LockObject, change).await
    }

    /// Puts a version under legal hold, or ends that.
    ///
    /// # Errors
    /// As [`Engine::open_version`]; [`EngineError::InvalidRequest`] in a bucket without object lock.
    pub async fn set_legal_hold(
        &self,
        (bucket, key): (&str, &str),
        version: VersionRef,
        hold: bool,
    ) -> Result<ObjectInfo, EngineError> {
        self.core.require_lock(bucket)?;
        let change = |attributes: &mut ObjectAttributes| {
            attributes.legal_hold = Some(hold);
            Ok(())
        };
        self.change_attributes((bucket, key), version, Reason::LockObject, change).await
    }

    /// Opens a version of a bucket with object lock.
    ///
    /// # Errors
    /// As [`Engine::open_version`]; [`EngineError::InvalidRequest`] in a bucket without object lock.
    pub fn locked_version(&self, bucket: &str, key: &str, version: VersionRef) -> Result<ObjectInfo, EngineError> {
        self.core.require_lock(bucket)?;
        Ok(self.open_version(bucket, key, version)?.info().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn retention(mode: RetentionMode, until: u64) -> Option<Retention> {
        Some(Retention { mode, until: Timestamp(until) })
    }

    #[test]
    fn a_retention_is_only_extended_and_governance_can_be_bypassed() {
        use RetentionMode::{Compliance as C, Governance as G};
        let cases = [
            // What was, what is asked for, whether a bypass is needed (Some) or of no use (None: false, true: needs none).
            (None, retention(C, 1_001), "free"),
            (None, None, "free"),
            (retention(C, 1_000), None, "free"),
            (retention(C, 1_000), retention(G, 2_000), "free"),
            (retention(G, 2_000), retention(G, 2_000), "free"),
            (retention(G, 2_000), retention(G, 3_000), "free"),
            (retention(C, 2_000), retention(C, 2_001), "free"),
            (retention(G, 2_000), retention(G, 1_999), "bypass"),
            (retention(G, 2_000), retention(C, 3_000), "bypass"),
            (retention(G, 2_000), None, "bypass"),
            (retention(C, 2_000), retention(C, 1_999), "never"),
            (retention(C, 2_000), retention(G, 3_000), "never"),
            (retention(C, 2_000), None, "never"),
        ];
        for (old, new, needs) in cases {
            let goes = |bypass| check_change(old, new, (bypass, NOW)).is_ok();
            assert_eq!((goes(false), goes(true)), (needs == "free", needs != "never"), "{old:?} {new:?}");
        }
        let over = check_change(None, retention(G, 1_000), (true, NOW));
        assert!(matches!(over, Err(EngineError::InvalidArgument(_))), "{over:?}");
    }

    #[test]
    fn what_is_held_or_retained_is_not_removable() {
        let removable = |retention, legal_hold, bypass| {
            let mut record = ObjectRecord::delete_marker(crate::engine::VersionId(1), NOW);
            record.attributes = ObjectAttributes { retention, legal_hold, ..Default::default() };
            check_removable(&record, bypass, NOW).is_ok()
        };
        use RetentionMode::{Compliance as C, Governance as G};
        assert!(removable(None, None, false) && removable(None, Some(false), false));
        assert!(removable(retention(C, 1_000), None, false), "at its end it is over");
        assert!(!removable(retention(G, 1_001), None, false) && removable(retention(G, 1_001), None, true));
        assert!(!removable(retention(C, 1_001), None, true));
        assert!(!removable(None, Some(true), true) && !removable(retention(G, 1_001), Some(true), true));
    }

    #[test]
    fn a_period_is_a_day_to_a_hundred_years() {
        for (period, valid) in [
            (Period::Days(0), false),
            (Period::Days(1), true),
            (Period::Days(36_500), true),
            (Period::Days(36_501), false),
            (Period::Years(0), false),
            (Period::Years(100), true),
            (Period::Years(101), false),
            (Period::Years(u32::MAX), false),
        ] {
            assert_eq!(period.is_valid(), valid, "{period:?}");
        }
        let year = DefaultRetention { mode: RetentionMode::Compliance, period: Period::Years(1) };
        assert_eq!(year.of(NOW).until, Timestamp(1_000 + 365 * 86_400_000));
    }

    #[test]
    fn the_lock_of_a_bucket_is_kept_as_documented() {
        let default = DefaultRetention { mode: RetentionMode::Governance, period: Period::Days(2) };
        let mut settings = BucketSettings::default();
        let lock = BucketLock { default: Some(default) };
        assert!(matches!(settings.set_object_lock(lock), Err(EngineError::InvalidBucketState(_))));
        settings.versioning = Versioning::Enabled;
        settings.set_object_lock(lock).unwrap();
        let kept = r#"{"default":{"mode":"GOVERNANCE","period":{"days":2}}}"#;
        assert_eq!(std::str::from_utf8(&settings.config[LOCK_SETTING]).unwrap(), kept);
        use super::super::record::Record;
        let stored = BucketRecord { created: NOW, settings: settings.clone() }.encode().unwrap();
        assert_eq!(BucketRecord::object_lock(&stored).unwrap(), Some(lock));
        settings.config.insert(LOCK_SETTING.to_owned(), b"{".to_vec());
        let stored = BucketRecord { created: NOW, settings }.encode().unwrap();
        assert!(matches!(BucketRecord::object_lock(&stored), Err(EngineError::Corrupt(_))));
    }
}
