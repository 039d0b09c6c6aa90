//! What is done for one version that the scheduler has found in an order of the due index.

use super::Core;
use super::claims::{Aim, Claim, Work};
use super::due::{Action, Look, names};
use super::error::EngineError;
use super::events::EventKind;
use super::keys;
use super::record::{ObjectRecord, Record};
use super::types::Residency;
use super::versions::Stored;
use crate::clock::Timestamp;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use std::sync::Arc;

impl Core {
    /// Does what is due for one version. False when nothing could be done now (claimed already, or a full table).
    pub(super) async fn act(
        self: &Arc<Self>,
        at: Timestamp,
        subject: &[u8],
        now: Timestamp,
    ) -> Result<bool, EngineError> {
        let table = keys::table_of(subject);
        let stored = self.meta.get(table, subject)?;
        // Entry and version go in one commit, so that without one this is a race with a delete that is being applied.
        let Some(stored) = stored else { return Ok(false) };
        let Some(record) = self.usable(table, subject, ObjectRecord::decode(&stored)) else { return Ok(false) };
        if record.due != Some(at) {
            return Ok(false);
        }
        let (bucket, key) = names(subject)?;
        if table == Table::Version && self.moves_others(bucket) {
            self.reindex_versions(subject).await?;
        }
        let plan = self.plan(subject, &record, now)?;
        // Its end needs no job and waits for none: a tier that is down must not keep what has expired.
        if self.claims().holds(subject) && !matches!(plan.action, Action::Expire { .. }) {
            return Ok(false);
        }
        let most = self.settings.tiering.max_claims;
        let outcome = match plan.action {
            Action::Transition { tier, .. } => {
                let frees = if record.residency == Residency::Hot { record.size } else { 0 };
                let claim = Claim { frees, ..claim_of(subject, &record) };
                return Ok(self.claims().claim(&Aim::new(Work::Move, &tier), claim, now, most));
            }
            // A body that waits for its first protection stands in that order, and is found there.
            Action::Protect { .. } if record.residency == Residency::Hot => {
                self.replace((subject, &stored, &record), record.clone(), (Reason::Reindex, Look::Taken)).await?
            }
            Action::Protect { tier } => {
                let claim = claim_of(subject, &record);
                return Ok(self.claims().claim(&Aim::new(Work::Protect, &tier), claim, now, most));
            }
            Action::Release { tier } => {
                let claim = claim_of(subject, &record);
                return Ok(self.claims().claim(&Aim::new(Work::Release, &tier), claim, now, most));
            }
            Action::Tell { tier } => {
                // Of the body not a byte is sent.
                let claim = Claim { size: 0, ..claim_of(subject, &record) };
                return Ok(self.claims().claim(&Aim::new(Work::Tell, &tier), claim, now, most));
            }
            Action::Expire { rule } => {
                tracing::debug!(bucket, key, %rule, "expire");
                self.metrics.expired_versions.inc();
                self.expire(&Stored { subject: subject.to_vec(), bytes: stored, record }).await?
            }
            Action::ExpireRestored => {
                let mut next = record.clone();
                if let Residency::Restored { tier, .. } = &record.residency {
                    next.residency = Residency::Cold { tier: tier.clone() };
                }
                self.replace((subject, &stored, &record), next, (Reason::RestoreExpired, Look::Taken)).await?
            }
            Action::Keep => {
                self.replace((subject, &stored, &record), record.clone(), (Reason::Reindex, Look::Taken)).await?
            }
        };
        match outcome {
            // A client's write won: its commit has set the due time anew.
            Ok(()) | Err(MetaError::Conflict { .. }) => Ok(true),
            Err(other) => Err(other.into()),
        }
    }

    /// Replaces the record of exactly this version; computes its due time anew.
    pub(crate) async fn replace(
        &self,
        (subject, stored, old): (&[u8], &[u8], &ObjectRecord),
        mut next: ObjectRecord,
        (reason, look): (Reason, Look),
    ) -> Result<Result<(), MetaError>, EngineError> {
        let unchanged = Expect::Equals(keys::table_of(subject), subject.to_vec(), stored.to_vec());
        let mut batch = Batch::new(reason).expect(unchanged);
        self.put_version(&mut batch, subject, (Some(old), look), &mut next)?;
        match reason {
            Reason::RestoreExpired => self.tell(&mut batch, EventKind::RestoreDelete, names(subject)?, &next)?,
            Reason::UpdateObject => self.tell_updated(&mut batch, names(subject)?, (&old.attributes, &next))?,
            _ => {}
        }
        Ok(self.meta.commit(batch).await.map(drop))
    }

    /// Claims a version that waits to be protected, unless something else is to be done with it, which its due time sees to.
    /// False when nothing could be done now.
    pub(super) fn act_waiting(&self, at: Timestamp, subject: &[u8], now: Timestamp) -> Result<bool, EngineError> {
        if self.claims().holds(subject) {
            return Ok(false);
        }
        let table = keys::table_of(subject);
        let Some(stored) = self.meta.get(table, subject)? else { return Ok(false) };
        let Some(record) = self.usable(table, subject, ObjectRecord::decode(&stored)) else { return Ok(false) };
        if record.waiting != Some(at) {
            return Ok(false);
        }
        let Action::Protect { tier } = self.plan(subject, &record, now)?.action else { return Ok(false) };
        // Once protected, it can be evicted.
        let claim = Claim { frees: record.size, ..claim_of(subject, &record) };
        Ok(self.claims().claim(&Aim::new(Work::Protect, &tier), claim, now, self.settings.tiering.max_claims))
    }
}

/// That something is due for a version; it frees nothing.
fn claim_of(subject: &[u8], record: &ObjectRecord) -> Claim {
    Claim { subject: subject.to_vec(), version: record.version, size: record.size, frees: 0, fill: None }
}
