//! Running totals of the namespace, kept by observing commits, so that statistics cost no walk. They are for people and
//! metrics only: nothing is ever decided or deleted by them.

use super::record::{ObjectRecord, Record};
use super::report::Amount;
use super::types::Residency;
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
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    pub places: BTreeMap<Place, Amount>,
    pub buckets: u64,
    pub uploads: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Accounts(Mutex<Totals>);

impl Accounts {
    /// Counts what is there when the store is opened.
    pub(crate) fn load(&self, meta: &dyn MetaStore) -> Result<(), MetaError> {
        let mut totals = Totals::default();
        let all = (Bound::Unbounded, Bound::Unbounded);
        meta.scan_each(Table::Object, all.clone(), &mut |_, value| {
            totals.add(value);
            ControlFlow::Continue(())
        })?;
        for (table, count) in [(Table::Bucket, &mut totals.buckets), (Table::Upload, &mut totals.uploads)] {
            meta.scan_each(table, all.clone(), &mut |_, _| {
                *count += 1;
                ControlFlow::Continue(())
            })?;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        Ok(())
    }

    pub(crate) fn totals(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn objects(&self) -> u64 {
        self.totals().places.values().map(|a| a.objects).sum()
    }
}

impl Totals {
    fn place(value: &[u8]) -> Option<(Place, u64)> {
        let record = ObjectRecord::decode(value).ok()?;
        let place = match record.residency {
            Residency::Hot => Place::Hot,
            Residency::Cold { tier } => Place::Cold(tier),
            Residency::Restored { tier, .. } => Place::Restored(tier),
        };
        Some((place, record.size))
    }

    fn add(&mut self, value: &[u8]) {
        if let Some((place, size)) = Self::place(value) {
            let amount = self.places.entry(place).or_default();
            amount.objects += 1;
            amount.bytes = amount.bytes.saturating_add(size);
        }
    }

    fn remove(&mut self, value: &[u8]) {
        if let Some((place, size)) = Self::place(value) {
            let amount = self.places.entry(place).or_default();
            amount.objects = amount.objects.saturating_sub(1);
            amount.bytes = amount.bytes.saturating_sub(size);
        }
    }
}

impl CommitObserver for Accounts {
    fn applied(&self, _seq: u64, ops: &[AppliedOp]) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for AppliedOp { op, old } in ops {
            match op.table {
                Table::Object => {
                    if let Some(old) = old {
                        totals.remove(old);
                    }
                    if let Some(new) = &op.value {
                        totals.add(new);
                    }
                }
                Table::Bucket | Table::Upload => {
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
