//! Running totals of the namespace, kept by observing commits, so that statistics cost no walk. They are for people and
//! metrics only: nothing is ever decided or deleted by them.

use super::Core;
use super::record::{ObjectRecord, Record};
use super::report::Amount;
use super::types::Residency;
use crate::clock::Timestamp;
use crate::meta::{AppliedOp, CommitObserver, MetaError, MetaStore, Table};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Mutex, PoisonError};

/// Where a version is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Hot,
    Cold(String),
    Restored(String),
    Protected(String),
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    pub places: BTreeMap<Place, Amount>,
    /// Versions that wait to be protected.
    pub waiting: Amount,
    /// Of all versions, those that are not visible.
    pub noncurrent: Amount,
    pub delete_markers: u64,
    pub buckets: u64,
    pub uploads: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Accounts(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    totals: Totals,
    dirty: Dirty,
}

/// When the versions were written whose bytes are on local disks only. By the hour, so that its size is bounded by the
/// age of the store and not by its objects.
#[derive(Debug, Default)]
struct Dirty(BTreeMap<u64, Hour>);

/// The versions of one hour.
#[derive(Debug, Clone, Copy)]
struct Hour {
    versions: u64,
    /// The oldest that was ever counted here: exact until it leaves before others of its hour.
    oldest: Timestamp,
}

const HOUR_MS: u64 = 3_600_000;

impl Dirty {
    fn add(&mut self, modified: Timestamp) {
        let hour = self.0.entry(modified.millis() / HOUR_MS).or_insert(Hour { versions: 0, oldest: modified });
        hour.versions += 1;
        hour.oldest = hour.oldest.min(modified);
    }

    fn remove(&mut self, modified: Timestamp) {
        let at = modified.millis() / HOUR_MS;
        if let Some(hour) = self.0.get_mut(&at) {
            hour.versions = hour.versions.saturating_sub(1);
            if hour.versions == 0 {
                self.0.remove(&at);
            }
        }
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.0.first_key_value().map(|(_, hour)| hour.oldest)
    }
}

impl Accounts {
    /// Counts what is there when the store is opened.
    pub(crate) fn load(&self, meta: &dyn MetaStore) -> Result<(), MetaError> {
        let mut books = Books::default();
        let all = (Bound::Unbounded, Bound::Unbounded);
        for table in [Table::Object, Table::Version] {
            meta.scan_each(table, all.clone(), &mut |_, value| {
                books.add(value);
                ControlFlow::Continue(())
            })?;
        }
        let totals = &mut books.totals;
        for (table, count) in [(Table::Bucket, &mut totals.buckets), (Table::Upload, &mut totals.uploads)] {
            meta.scan_each(table, all.clone(), &mut |_, _| {
                *count += 1;
                ControlFlow::Continue(())
            })?;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = books;
        Ok(())
    }

    pub(crate) fn totals(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).totals.clone()
    }

    /// When the oldest version was written whose bytes are on local disks only; to the hour once versions of its hour
    /// have left.
    pub(crate) fn oldest_dirty(&self) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).dirty.oldest()
    }

    pub(crate) fn objects(&self) -> u64 {
        self.totals().places.values().map(|a| a.objects).sum()
    }
}

impl Totals {
    /// Where a version counts.
    fn amounts(&mut self, place: Place, record: &ObjectRecord) -> impl Iterator<Item = &mut Amount> {
        let waiting = record.waiting.map(|_| &mut self.waiting);
        let noncurrent = record.noncurrent_since.map(|_| &mut self.noncurrent);
        waiting.into_iter().chain(noncurrent).chain([self.places.entry(place).or_default()])
    }
}

impl Core {
    /// What an operator should know about tiers that have bodies and are not configured any more.
    pub(crate) fn tier_warning(&self) -> Option<String> {
        let mut gone: BTreeMap<String, u64> = BTreeMap::new();
        for (place, amount) in self.accounts.totals().places {
            match place {
                Place::Cold(tier) | Place::Restored(tier) | Place::Protected(tier)
                    if amount.objects > 0 && !self.tiers.contains_key(&tier) =>
                {
                    let objects = gone.entry(tier).or_default();
                    *objects = objects.saturating_add(amount.objects);
                }
                _ => {}
            }
        }
        let gone: Vec<String> =
            gone.into_iter().map(|(tier, objects)| format!("{objects} objects are in tier {tier}")).collect();
        (!gone.is_empty()).then(|| {
            let gone = gone.join(", ");
            format!("{gone}, which the configuration does not name any more: put it back, else what is not here too cannot be read")
        })
    }
}

impl Books {
    fn place(value: &[u8]) -> Option<(Place, ObjectRecord)> {
        let mut record = ObjectRecord::decode(value).ok()?;
        let place = match std::mem::replace(&mut record.residency, Residency::Hot) {
            Residency::Hot => Place::Hot,
            Residency::Cold { tier } => Place::Cold(tier),
            Residency::Restored { tier, .. } => Place::Restored(tier),
            Residency::Protected { tier } => Place::Protected(tier),
        };
        Some((place, record))
    }

    fn add(&mut self, value: &[u8]) {
        let Some((place, record)) = Self::place(value) else { return };
        if record.marker {
            self.totals.delete_markers += 1;
            return;
        }
        if place == Place::Hot {
            self.dirty.add(record.modified);
        }
        for amount in self.totals.amounts(place, &record) {
            amount.objects += 1;
            amount.bytes = amount.bytes.saturating_add(record.size);
        }
    }

    fn remove(&mut self, value: &[u8]) {
        let Some((place, record)) = Self::place(value) else { return };
        if record.marker {
            self.totals.delete_markers = self.totals.delete_markers.saturating_sub(1);
            return;
        }
        if place == Place::Hot {
            self.dirty.remove(record.modified);
        }
        for amount in self.totals.amounts(place, &record) {
            amount.objects = amount.objects.saturating_sub(1);
            amount.bytes = amount.bytes.saturating_sub(record.size);
        }
    }
}

impl CommitObserver for Accounts {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for AppliedOp { op, old } in ops {
            match op.table {
                Table::Object | Table::Version => {
                    if let Some(old) = old {
                        books.remove(old);
                    }
                    if let Some(new) = &op.value {
                        books.add(new);
                    }
                }
                Table::Bucket | Table::Upload => {
                    let totals = &mut books.totals;
                    let count = if op.table == Table::Bucket { &mut totals.buckets } else { &mut totals.uploads };
                    match (old.is_some(), op.value.is_some()) {
                        (false, true) => *count += 1,
                        (true, false) => *count = count.saturating_sub(1),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_dirty_version_is_that_of_the_first_hour_that_has_any() {
        let mut dirty = Dirty::default();
        assert_eq!(dirty.oldest(), None);
        for at in [5 * HOUR_MS + 7, 5 * HOUR_MS + 3, 9 * HOUR_MS] {
            dirty.add(Timestamp(at));
        }
        assert_eq!(dirty.oldest(), Some(Timestamp(5 * HOUR_MS + 3)));
        dirty.remove(Timestamp(5 * HOUR_MS + 3));
        assert_eq!(dirty.oldest(), Some(Timestamp(5 * HOUR_MS + 3)), "to the hour");
        dirty.remove(Timestamp(5 * HOUR_MS + 7));
        assert_eq!(dirty.oldest(), Some(Timestamp(9 * HOUR_MS)));
        dirty.remove(Timestamp(9 * HOUR_MS));
        assert_eq!(dirty.oldest(), None);
    }
}
