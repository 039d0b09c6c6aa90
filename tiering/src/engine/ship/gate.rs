//! What the rest of the engine asks of shipping: whether it may write to the cloud, whether a record is there, how far behind it is.

use super::{Arc, Core, EngineError, Ordering, PATIENCE, PoisonError, RecoveryError, Ship, Taken, Timestamp};
use crate::engine::report::RecoveryStats;
use crate::journal::follow::cut;
use crate::recovery::fetch;
use std::time::Duration;

impl Core {
    /// Whether another store has taken this one's place.
    pub(crate) fn is_fenced(&self) -> bool {
        self.meta.fenced().is_some()
    }

    /// Asks the cloud whether this store may still write there. Always yes when nothing is shipped.
    ///
    /// # Errors
    /// `Unavailable` when not, or when it cannot be known.
    pub(crate) async fn may_write_remotely(&self) -> Result<(), EngineError> {
        let Some(ship) = &self.ship else { return Ok(()) };
        ship.verify(self).await.map_err(|e| {
            if let RecoveryError::Fenced(by) = &e {
                self.meta.fence(by.clone());
                ship.metrics.fenced.set(1);
            }
            EngineError::Unavailable(e.to_string())
        })
    }

    /// Waits until a record is in the cloud: what it decides about the cloud must be known there first.
    pub(crate) async fn is_shipped(self: &Arc<Self>, seq: u64) -> Result<(), EngineError> {
        match &self.ship {
            Some(ship) => ship.has(self, seq).await,
            None => Ok(()),
        }
    }

    /// How long a deletion waits for its records. Where nobody ships by himself, waiting brings nothing.
    pub(super) fn patience(&self) -> Duration {
        if self.settings.driven { Duration::ZERO } else { PATIENCE }
    }

    /// Shipping, for statistics.
    pub(crate) fn recovery_stats(&self) -> Option<RecoveryStats> {
        let ship = self.ship.as_ref()?;
        let (lag_records, age) = ship.lag(self);
        ship.metrics.lag(lag_records, age);
        let snapshot = ship.last_snapshot.load(Ordering::Acquire);
        Some(RecoveryStats {
            tier: ship.settings.tier.clone(),
            term: ship.term(),
            shipped_sequence: *ship.shipped.borrow(),
            lag_records,
            lag_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            last_snapshot: (snapshot > 0).then_some(Timestamp(snapshot)),
            fenced: self.meta.fenced().map(|e| e.to_string()),
            last_error: ship.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    /// What an operator should know about shipping.
    pub(crate) fn recovery_warning(&self) -> Option<String> {
        let stats = self.recovery_stats()?;
        let late = Duration::from_millis(stats.lag_ms) > self.ship.as_ref()?.settings.warn_after;
        let error = stats.last_error.map(|e| format!(": {e}")).unwrap_or_default();
        if stats.fenced.is_some() {
            return stats.fenced;
        }
        if stats.term == 0 {
            return Some(format!("nothing is shipped to the recovery tier yet{error}"));
        }
        late.then(|| {
            format!("the recovery tier is {} records and {} ms behind{error}", stats.lag_records, stats.lag_ms)
        })
    }
}

impl Ship {
    /// Whether the last record that was shipped, in the piece of this name and size, is the one of this disk. A journal that was
    /// cut behind it and written on has another there, with a later epoch, and all before the cut are the same.
    pub(super) async fn is_own_history(
        &self,
        core: &Arc<Core>,
        position: u64,
        (name, size): (&str, u64),
    ) -> Result<(), RecoveryError> {
        let mut local = core.meta.follow(position);
        let task = tokio::task::spawn_blocking(move || local.take(position, 1));
        let taken = task.await.map_err(|e| RecoveryError::Local(format!("reading the journal: {e}")))??;
        // Retired: it was in a checkpoint, and no cut goes behind one.
        let Taken::Piece(here) = taken else { return Ok(()) };
        let shipped = fetch(self.tier.as_ref(), name, size).await?;
        let there = cut(&shipped, position, position, u64::MAX)
            .map_err(|what| RecoveryError::Damaged(format!("{name}: {what}")))?
            .ok_or_else(|| RecoveryError::Damaged(format!("{name} has no record {position}")))?;
        if here.bytes == there.bytes {
            return Ok(());
        }
        Err(RecoveryError::Fenced(format!(
            "record {position} of this disk's journal is another than the one that was shipped: the journal was cut (`tidegate index \
             rebuild` after damage) or is of an older copy, and must not go on in the cloud; recover into a new directory instead"
        )))
    }
}
