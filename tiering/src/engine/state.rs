//! Small shared states of the engine: last reads, claims, last errors of tiers.

use super::Core;
use super::claims::Claims;
use super::due::Look;
use super::error::EngineError;
use super::keys;
use super::record::{AccessRecord, ObjectRecord, Record};
use crate::clock::Timestamp;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Reads that are remembered between two flushes; above it, reads of further keys count with the next.
const MAX_NOTED: usize = 100_000;

/// Keys read since the last flush. A read changes no record at once: that would make every GET a write.
#[derive(Debug, Default)]
pub(crate) struct AccessBuffer(Mutex<HashMap<Vec<u8>, Timestamp>>);

/// The table of claims.
#[derive(Debug, Default)]
pub(crate) struct Claimed(Mutex<Claims>);

/// What each tier failed with last.
#[derive(Debug, Default)]
pub(crate) struct TierErrors(Mutex<BTreeMap<String, String>>);

impl Core {
    pub(crate) fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claimed.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a read, when any rule asks for it.
    pub(crate) fn note_access(&self, bucket: &str, key: &str) {
        if self.policy().tracks_access {
            let mut noted = self.access.0.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.len() < MAX_NOTED {
                noted.insert(keys::object(bucket, key), self.clock.now());
            }
        }
    }

    /// When a key was last read, as far as known; of a version that is not visible nobody keeps that.
    pub(crate) fn last_access(&self, bucket: &str, key: &str, record: &ObjectRecord) -> Option<Timestamp> {
        if record.marker || record.noncurrent_since.is_some() {
            return None;
        }
        let subject = keys::object(bucket, key);
        let noted = self.access.0.lock().unwrap_or_else(PoisonError::into_inner).get(&subject).copied();
        let stored = || self.meta.get(Table::Access, &subject).ok().flatten();
        noted.or_else(|| stored().and_then(|v| AccessRecord::decode(&v).ok()).map(|a| a.at))
    }

    /// Writes what was noted, to the precision that the setting asks for.
    pub(crate) async fn flush_access(&self) -> Result<(), EngineError> {
        let noted = std::mem::take(&mut *self.access.0.lock().unwrap_or_else(PoisonError::into_inner));
        let precision = Duration::from_millis(self.settings.tiering.access_granularity_ms);
        let mut writes = Vec::new();
        for (subject, at) in noted {
            let known = self.meta.get(Table::Access, &subject)?;
            // One that cannot be read is replaced: it would have been in any case.
            let known = known.and_then(|k| self.usable(Table::Access, &subject, AccessRecord::decode(&k)));
            if known.is_none_or(|k| at.since(k.at) >= precision) {
                writes.push((subject, at));
            }
        }
        // In groups: the committer makes few syncs of each.
        for group in writes.chunks(512) {
            let commits = group.iter().map(|(subject, at)| self.write_access(subject, *at));
            for outcome in futures::future::join_all(commits).await {
                match outcome {
                    Err(e @ EngineError::Unavailable(_)) => return Err(e),
                    Err(e) => tracing::warn!(error = %e, "a last read was not noted"),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    async fn write_access(&self, subject: &[u8], at: Timestamp) -> Result<(), EngineError> {
        let batch = Batch::new(Reason::Access).expect(Expect::Present(Table::Object, subject.to_vec())).put(
            Table::Access,
            subject,
            AccessRecord { at }.encode()?,
        );
        match self.meta.commit(batch).await {
            // Deleted meanwhile.
            Err(MetaError::Conflict { .. }) => return Ok(()),
            other => other?,
        };
        // Its place in the idle order moves along.
        let Some(stored) = self.meta.get(Table::Object, subject)? else { return Ok(()) };
        let Some(record) = self.usable(Table::Object, subject, ObjectRecord::decode(&stored)) else { return Ok(()) };
        if record.idle.is_some() {
            match self.replace((subject, &stored, &record), record.clone(), (Reason::Access, Look::AsPlanned)).await? {
                Ok(()) | Err(MetaError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn note_tier_error(&self, tier: &str, what: &str, error: &EngineError) {
        tracing::warn!(tier, what, error = %error, "work for a tier failed and will be tried again");
        let mut errors = self.tier_errors.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.insert(tier.to_owned(), format!("{what}: {error}"));
    }

    pub(crate) fn clear_tier_error(&self, tier: &str) {
        self.tier_errors.0.lock().unwrap_or_else(PoisonError::into_inner).remove(tier);
    }

    pub(crate) fn tier_error(&self, tier: &str) -> Option<String> {
        self.tier_errors.0.lock().unwrap_or_else(PoisonError::into_inner).get(tier).cloned()
    }
}
