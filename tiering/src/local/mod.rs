//! The local chunk store: the only thing that opens pack files.
//!
//! [`store`] opens, reads and syncs; [`ingest`] writes; `recover` is what opening does after a crash; [`index`] says
//! where a chunk stands; `packs` keeps the pack files and what is not yet durable; [`budget`] keeps the disk promise;
//! [`gc`] marks, sweeps and evicts; [`files`] compares the table of packs with the folder.
//!
//! | held | may then take |
//! |---|---|
//! | lane (an open pack) | budget, pack table, list of unsynced packs |
//! | index shard | pack table (read), suspects |
//! | an ingest's pins | index shard |
//! | pack table, unsynced list, open files, ghosts, suspects | nothing |
//!
//! Nobody takes a lane or an ingest's pins while holding a shard, so the order is total.

pub mod budget;
mod damage;
pub mod error;
pub mod files;
pub mod gc;
mod ghost;
pub mod index;
pub mod ingest;
mod lanes;
mod lookup;
mod packs;
mod recover;
pub mod scrub;
pub mod snapshot;
pub mod store;
mod suspects;
pub mod sweep;
#[cfg(test)]
pub(crate) mod testing;

pub use budget::{BudgetSettings, DiskBudget, Purpose, RECALL_PERCENT, default_max_bytes};
pub use error::LocalError;
pub use files::{PackFiles, ShortPack, UnknownPack};
pub use gc::{Doubt, Mark};
pub use ingest::{Ingest, Put};
pub use recover::{LastEnd, RecoveryReport};
pub use scrub::{ScrubCursor, ScrubStep};
pub use store::{LocalSettings, LocalStore, LocalUsage};
pub use sweep::{SweepGoal, SweepReport};

/// Reads the snapshot of the chunk index in `dir`, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_index_snapshot(dir: &std::path::Path) {
    if let Ok(Some(snapshot)) = snapshot::Snapshot::open(dir) {
        let _ = snapshot.read_shards(|_, entries| {
            entries.for_each(drop);
            Ok(())
        });
    }
}
