//! The namespace: ordered tables of small records, changed by atomic batches with preconditions, durable on return.
//!
//! [`MetaStore`] is the seam behind which another database may stand one day. [`JournaledStore`] is the embedded one:
//! the journal is the database, the index (sled, named in `sled_index.rs` alone) can be thrown away at any time.
//!
//! Architecture invariants:
//! - A batch is answered only after its record is durable and applied and every observer has heard of it.
//! - The index never holds a change whose record is not in the journal.
//! - Journal records are physical, so replaying any suffix that begins at or before a state's position gives the
//!   right state. Snapshots are therefore taken while commits go on.
//! - The index of a store that was not closed cleanly is trusted only up to its last checkpoint, and only if the
//!   machine has not restarted since.

mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keeper;
pub(crate) mod lock;
pub(crate) mod marker;
mod open;
mod rebuild;
mod settings;
mod sled_index;
pub(crate) mod snapshot;
mod store;
mod types;

pub use error::MetaError;
pub use open::{OpenReport, Recovery, TornTail};
pub use rebuild::{DumpedRecord, RebuildProgress, RebuildReport, dump, rebuild};
pub use settings::{Durability, MAX_KEY_BYTES, MAX_RECORD_BYTES, MIN_SEGMENT_BYTES, MetaSettings};
pub use sled_index::Value;
pub use snapshot::SnapshotInfo;
pub use store::{JournaledStore, MetaStats};
pub use types::{
    AppliedOp, Batch, CommitObserver, Committed, DataSync, Expect, GroupStats, Hold, NoData, Op, Reason, Table,
};

pub(crate) use sled_index::SledIndex;

use std::ops::{Bound, ControlFlow};

/// A range of keys within a table.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A key and its value.
pub type Entry = (Vec<u8>, Value);

/// The keys that begin with `prefix`, as a range.
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return (Bound::Included(prefix.to_vec()), Bound::Excluded(end));
        }
    }
    (Bound::Included(prefix.to_vec()), Bound::Unbounded)
}

/// An ordered key-value store with atomic batches with preconditions, durable on return.
#[async_trait::async_trait]
pub trait MetaStore: Send + Sync {
    /// Commits a batch. When it returns, the batch is durable (see [`Durability`]) and visible, or nothing of it
    /// was done ([`MetaError::Conflict`], [`MetaError::Io`], [`MetaError::Invalid`]), or it is unknown
    /// ([`MetaError::Poisoned`]). Dropping the future does not take the batch back.
    async fn commit(&self, batch: Batch) -> Result<Committed, MetaError>;

    /// As [`MetaStore::commit`], blocking the thread: for blocking threads, not for those of an async runtime.
    fn commit_blocking(&self, batch: Batch) -> Result<Committed, MetaError>;

    /// The value at a key. Whoever saw a part of a batch sees all of it in every later call.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, MetaError>;

    /// Up to `limit` entries of `range` in key order, or from its end when `reverse`. One page is not a snapshot: a key
    /// changed while the page is read may show either state.
    fn scan(&self, table: Table, range: KeyRange, limit: usize, reverse: bool) -> Result<Vec<Entry>, MetaError>;

    /// Walks `range` in key order without holding a lock. Every key that is there during the whole walk is visited
    /// exactly once; keys that come or go meanwhile may be. The visitor ends the walk with `Break`.
    fn scan_each(
        &self,
        table: Table,
        range: KeyRange,
        visit: &mut dyn FnMut(&[u8], &Value) -> ControlFlow<()>,
    ) -> Result<(), MetaError>;

    /// The sequence number of the latest applied record.
    fn last_seq(&self) -> u64;

    /// The epoch: grows with every opening of the store, so that it makes names fresh.
    fn epoch(&self) -> u64;
}
