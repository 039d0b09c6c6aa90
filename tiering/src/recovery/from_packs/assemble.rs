//! A namespace out of what packs tell: into an index of its own, and from there into a snapshot that an ordinary opening reads.

use super::fetch::Listed;
use super::tail::Tail;
use crate::chunk::ChunkId;
use crate::clock::Timestamp;
use crate::engine::keys;
use crate::engine::manifests::each_told;
use crate::engine::record::{
    BucketRecord, ObjectRecord, Record, RemoteEntry, RemoteFooter, RemotePackRecord, RemotePackState,
};
use crate::engine::{BucketLock, BucketSettings, EngineError, LOCK_SETTING, Residency, Versioning};
use crate::journal::follow::empty_segment;
use crate::journal::segment_name;
use crate::meta::snapshot::{self, Start};
use crate::meta::{SledIndex, Table};
use crate::recovery::{RecoveryError, local, write_file};
use std::ops::Bound;
use std::path::Path;

/// Versions looked at together.
const PAGE: usize = 1_000;

/// Keeps object lock, with the versions that it asks for, and that there are versions: neither can be taken from a bucket.
fn keep_lock(settings: &mut BucketSettings, known: BucketSettings) {
    if settings.versioning == Versioning::Off {
        settings.versioning = known.versioning;
    }
    if !settings.config.contains_key(LOCK_SETTING)
        && let Some(lock) = known.config.get(LOCK_SETTING)
    {
        settings.config.insert(LOCK_SETTING.to_owned(), lock.clone());
        settings.versioning = Versioning::Enabled;
    }
}

/// The namespace as it grows.
pub(super) struct Assembly {
    index: SledIndex,
    /// Versions that a later one of the same key has replaced.
    pub older: u64,
    /// What does not decode.
    pub unreadable: u64,
}

fn failed(e: &EngineError) -> RecoveryError {
    RecoveryError::Damaged(e.to_string())
}

impl From<EngineError> for RecoveryError {
    fn from(e: EngineError) -> Self {
        failed(&e)
    }
}

impl Assembly {
    /// Begins in a folder that is thrown away afterwards.
    pub(super) fn begin(folder: &Path, cache_bytes: u64) -> Result<Self, RecoveryError> {
        Ok(Self { index: SledIndex::create(folder, cache_bytes, rand::random())?, older: 0, unreadable: 0 })
    }

    /// Adds a pack. Packs must come oldest first: of two that tell of the same version the later one has it now, and the stricter lock
    /// counts, as only a clock that may have been wrong says which is the later. One that could not be read has no `tail`; with a record and without a footer it stays where it is.
    pub(super) fn pack(&mut self, pack: &Listed, tail: Option<&Tail>) -> Result<(), RecoveryError> {
        let key = keys::remote_pack(&pack.tier, u128::from_be_bytes(pack.pack.0));
        let told = tail.is_some_and(|tail| !tail.told.is_empty());
        let record = RemotePackRecord {
            name: pack.name.clone(),
            state: RemotePackState::Live,
            bytes: pack.size,
            chunks: tail.map_or(0, |tail| u32::try_from(tail.entries.len()).unwrap_or(u32::MAX)),
            created: pack.pack.begun(),
            crc64: pack.crc64,
            etag: None,
            // What tells of objects is garbage when none of them is left; of the others nobody knows (`Core::is_untold`).
            references: u64::from(told),
            version: None,
        };
        self.index.apply(Table::RemotePack, &key, Some(&record.encode()?))?;
        let Some(tail) = tail else { return Ok(()) };
        let entries = tail.entries.iter();
        let entries = entries.map(|e| RemoteEntry { id: e.id, offset: e.offset, stored_len: e.stored_len }).collect();
        self.index.apply(Table::Manifest, &key, Some(&RemoteFooter { entries }.encode()?))?;
        for (id, raw) in &tail.told {
            each_told(raw, |table, key, value| match table {
                Table::Bucket => self.bucket(key, value),
                _ => self.object(key, value, (&pack.tier, *id)),
            })?;
        }
        Ok(())
    }

    /// The one that was created last counts, and what was told of it last. What it cannot have lost since is kept from what was told before:
    /// a clock may have been wrong.
    fn bucket(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecoveryError> {
        let Ok(mut record) = BucketRecord::decode(value) else {
            self.unreadable += 1;
            return Ok(());
        };
        // What was told with the latest move may have been withdrawn since: a lifecycle would delete, a policy would let in. Object lock
        // cannot be.
        record.settings.config.retain(|name, _| name == LOCK_SETTING);
        if let Some(known) = self.index.get(Table::Bucket, key)? {
            let known = BucketRecord::decode(&known)?;
            if known.created > record.created {
                return Ok(());
            }
            if known.created == record.created {
                keep_lock(&mut record.settings, known.settings);
            }
        }
        Ok(self.index.apply(Table::Bucket, key, Some(&record.encode()?)).map(drop)?)
    }

    fn object(&mut self, key: &[u8], value: &[u8], (tier, id): (&str, ChunkId)) -> Result<(), RecoveryError> {
        let (Ok(record), Some((bucket, _))) = (ObjectRecord::decode(value), keys::split_object(key)) else {
            self.unreadable += 1;
            return Ok(());
        };
        if self.index.get(Table::Bucket, bucket.as_bytes())?.is_none() {
            let versioning = if record.null { Versioning::Off } else { Versioning::Enabled };
            let mut settings = BucketSettings { versioning, ..BucketSettings::default() };
            if record.attributes.has_lock() {
                settings.versioning = Versioning::Enabled;
                settings.set_object_lock(BucketLock::default())?;
            }
            let bucket_record = BucketRecord { created: record.created, settings };
            self.index.apply(Table::Bucket, bucket.as_bytes(), Some(&bucket_record.encode()?))?;
        }
        // Where it was found, whatever the tier was called then.
        let tier = tier.to_owned();
        let residency = match record.residency {
            Residency::Protected { .. } => Residency::Protected { tier },
            _ => Residency::Cold { tier },
        };
        let record = ObjectRecord { residency, manifest: Some(id), noncurrent_since: None, ..record };
        self.place(keys::object_of(key), record)
    }

    /// Puts a version to the others of its key. Of those that are `null` the latest counts.
    fn place(&mut self, object: &[u8], record: ObjectRecord) -> Result<(), RecoveryError> {
        let Some(current) = self.index.get(Table::Object, object)? else {
            return self.put(Table::Object, object, &record);
        };
        let current = ObjectRecord::decode(&current)?;
        if current.version == record.version || current.null && record.null {
            return self.retold(Table::Object, object, current, record);
        }
        let (bucket, key) = keys::split_object(object).unwrap_or_default();
        let [mine, its] = [&record, &current].map(|r| keys::version(bucket, key, r.version));
        let known = self.index.get(Table::Version, &mine)?;
        if let Some(known) = known.filter(|_| record.version < current.version) {
            return self.retold(Table::Version, &mine, ObjectRecord::decode(&known)?, record);
        }
        if record.null {
            for (subject, stored) in
                self.index.scan(Table::Version, keys::prefix(&keys::versions_of(object)), usize::MAX, false)?
            {
                let known = ObjectRecord::decode(&stored)?;
                if known.null && self.is_older(&known, &record) {
                    return Ok(());
                }
                if known.null {
                    self.index.apply(Table::Version, &subject, None)?;
                }
            }
        }
        if record.version < current.version {
            return self.put(Table::Version, &mine, &record);
        }
        self.index.apply(Table::Version, &mine, None)?;
        self.put(Table::Version, &its, &current)?;
        self.put(Table::Object, object, &record)
    }

    fn put(&self, table: Table, key: &[u8], record: &ObjectRecord) -> Result<(), RecoveryError> {
        Ok(self.index.apply(table, key, Some(&record.encode()?)).map(drop)?)
    }

    /// Puts what was found now in place of what is known of the same, unless that is newer.
    fn retold(
        &mut self,
        table: Table,
        key: &[u8],
        known: ObjectRecord,
        mut found: ObjectRecord,
    ) -> Result<(), RecoveryError> {
        if self.is_older(&known, &found) {
            return Ok(());
        }
        if known.version == found.version && known.modified == found.modified {
            found.attributes.lock_no_less_than(&known.attributes);
        }
        self.put(table, key, &found)
    }

    /// Whether what was found now is older than what is known of the same.
    fn is_older(&mut self, known: &ObjectRecord, found: &ObjectRecord) -> bool {
        let age = |r: &ObjectRecord| (r.modified, r.version.0);
        self.older += u64::from(age(known) != age(found));
        age(known) > age(found)
    }

    /// Says of each version that is not the latest since when that is so, and makes the newest the latest.
    fn order(&self) -> Result<(), RecoveryError> {
        let mut newer: Option<(Vec<u8>, Timestamp)> = None;
        let mut start = Bound::Unbounded;
        loop {
            let page = self.index.scan(Table::Version, (start, Bound::Unbounded), PAGE, false)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            start = Bound::Excluded(last.clone());
            for (subject, stored) in page {
                let (object, mut record) = (keys::object_of(&subject), ObjectRecord::decode(&stored)?);
                let of_key = newer.take().filter(|(key, _)| key == object);
                let since = match of_key {
                    Some((_, since)) => since,
                    None => self.newest(object, &subject, &mut record)?,
                };
                newer = Some((object.to_vec(), record.modified));
                record.noncurrent_since = Some(since);
                let (bucket, key) = keys::split_object(object).unwrap_or_default();
                self.put(Table::Version, &keys::version(bucket, key, record.version), &record)?;
            }
        }
    }

    /// When the latest version of a key was written. A `null` one may have come behind the newest other: these change places.
    fn newest(&self, object: &[u8], subject: &[u8], first: &mut ObjectRecord) -> Result<Timestamp, RecoveryError> {
        let current = self.index.get(Table::Object, object)?.map(|stored| ObjectRecord::decode(&stored)).transpose()?;
        let Some(current) = current else { return Ok(first.modified) };
        if current.version > first.version {
            return Ok(current.modified);
        }
        self.index.apply(Table::Version, subject, None)?;
        self.put(Table::Object, object, first)?;
        let since = std::mem::replace(first, current).modified;
        Ok(since)
    }

    /// Writes snapshot and journal into `folder`. Record numbers begin after `start`, epochs after `epoch`.
    pub(super) fn write(self, folder: &Path, (start, epoch): (u64, u64), now: Timestamp) -> Result<(), RecoveryError> {
        self.order()?;
        self.index.apply(Table::System, keys::FROM_PACKS, Some(&epoch.to_le_bytes()))?;
        let (snapshots, journal) = (folder.join("snapshots"), folder.join("journal"));
        for folder in [&snapshots, &journal] {
            std::fs::create_dir_all(folder).map_err(|e| local("create", folder, &e))?;
        }
        let start = Start { seq: start, epoch, created_ms: now.millis() };
        snapshot::write(&snapshots, &self.index, start, || Ok(start.seq))?;
        let first = start.seq.saturating_add(1);
        write_file(&journal.join(segment_name(first)), &empty_segment(first, epoch, now.millis()))?;
        Ok(self.index.close()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fuzzing::sample_empty_object;
    use crate::engine::{Retention, RetentionMode, VersionId};

    fn assembly(dir: &Path) -> Assembly {
        Assembly::begin(&dir.join("index"), 1 << 20).unwrap()
    }

    #[test]
    fn of_two_tellings_of_a_version_the_stricter_lock_counts_in_either_order() {
        let retained = |mode, until| Some(Retention { mode, until: Timestamp(until) });
        let (compliance, governance) = (RetentionMode::Compliance, RetentionMode::Governance);
        let cases = [
            (
                (retained(governance, 9), Some(true)),
                (retained(compliance, 5), Some(false)),
                (retained(compliance, 9), Some(true)),
            ),
            ((None, None), (retained(governance, 5), Some(true)), (retained(governance, 5), Some(true))),
            ((None, Some(false)), (None, None), (None, None)),
        ];
        for (case, (first, second, expected)) in cases.into_iter().enumerate() {
            for turned in [false, true] {
                // The latest version, and one below it.
                for below in [false, true] {
                    let dir = tempfile::tempdir().unwrap();
                    let mut assembly = assembly(dir.path());
                    let mut record = sample_empty_object();
                    record.null = false;
                    let mut tell = |record: &ObjectRecord| {
                        let key = keys::object("bkt", "k");
                        assembly.object(&key, &record.encode().unwrap(), ("ia", ChunkId::of(b"told"))).unwrap();
                    };
                    if below {
                        tell(&ObjectRecord { version: VersionId(8), ..record.clone() });
                    }
                    for (retention, legal_hold) in if turned { [second, first] } else { [first, second] } {
                        (record.attributes.retention, record.attributes.legal_hold) = (retention, legal_hold);
                        tell(&record);
                    }
                    let (table, key) = match below {
                        true => (Table::Version, keys::version("bkt", "k", record.version)),
                        false => (Table::Object, keys::object("bkt", "k")),
                    };
                    let stored = assembly.index.get(table, &key).unwrap().unwrap();
                    let found = ObjectRecord::decode(&stored).unwrap().attributes;
                    let hold = |hold: Option<bool>| hold.unwrap_or(false);
                    let found = (found.retention, hold(found.legal_hold));
                    assert_eq!(found, (expected.0, hold(expected.1)), "case {case}, turned {turned}, below {below}");
                }
            }
        }
    }

    #[test]
    fn a_bucket_loses_neither_its_lock_nor_its_versions_to_an_older_telling() {
        let dir = tempfile::tempdir().unwrap();
        let mut assembly = assembly(dir.path());
        let mut tell = |created, versioning, locked: bool| {
            let mut settings = BucketSettings { versioning, ..BucketSettings::default() };
            if locked {
                settings.set_object_lock(BucketLock::default()).unwrap();
            }
            let record = BucketRecord { created: Timestamp(created), settings };
            assembly.bucket(b"bkt", &record.encode().unwrap()).unwrap();
            let stored = assembly.index.get(Table::Bucket, b"bkt").unwrap().unwrap();
            let settings = BucketRecord::decode(&stored).unwrap().settings;
            (settings.versioning, settings.object_lock().unwrap().is_some())
        };
        assert_eq!(tell(1, Versioning::Enabled, false), (Versioning::Enabled, false));
        assert_eq!(tell(1, Versioning::Off, false), (Versioning::Enabled, false));
        assert_eq!(tell(1, Versioning::Suspended, false), (Versioning::Suspended, false), "it may be suspended");
        assert_eq!(tell(1, Versioning::Enabled, true), (Versioning::Enabled, true));
        assert_eq!(tell(1, Versioning::Suspended, false), (Versioning::Enabled, true));
        assert_eq!(tell(2, Versioning::Off, false), (Versioning::Off, false), "another bucket of this name");
        assert_eq!(tell(1, Versioning::Enabled, true), (Versioning::Off, false));
    }
}
