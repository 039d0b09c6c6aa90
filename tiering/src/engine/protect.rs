//! Protection: bodies of hot versions that are in a tier as well, so that the loss of the disk does not lose them. The upload is
//! a transition's (`transition.rs`); here is its end, and how far it is behind.

use super::claims::Claim;
use super::due::{Action, Look};
use super::error::EngineError;
use super::keys::{self, DueKind};
use super::read::ReadLeases;
use super::record::{ObjectRecord, Record};
use super::report::{Amount, RuleExplanation};
use super::transition::{Done, MAX_RESTING, Moved};
use super::types::Residency;
use super::{Core, accounts::Place};
use crate::clock::Timestamp;
use crate::meta::{Batch, Expect, MetaError, MetaStore, Reason, Table};
use crate::tier::Tier;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidegate_policies::Policy;

/// What stands in place of a rule's id where protection decides.
pub(super) const PROTECT: &str = "protect";

/// Protection at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProtectStats {
    /// The tiers that protect, as the policy has it.
    pub tiers: Vec<String>,
    /// Objects that are protected.
    pub protected: Amount,
    /// Objects of protected buckets whose bodies are on local disks only.
    pub pending: Amount,
    /// The age of the oldest of these, in milliseconds.
    pub lag_ms: u64,
}

/// Whether every tier that protects reads at once, as the tiers themselves say.
///
/// # Errors
/// A sentence that names the first that does not.
pub(crate) fn validate_protection(policy: &Policy, tiers: &BTreeMap<String, Arc<dyn Tier>>) -> Result<(), String> {
    let frozen = |name: &&str| tiers.get(*name).is_some_and(|tier| !tier.capabilities().online);
    match policy.protecting_tiers().find(frozen) {
        None => Ok(()),
        Some(name) => {
            Err(format!("the policy protects in tier {name}, which cannot be read at once: name an online tier"))
        }
    }
}

impl Core {
    /// How old the oldest version is that waits to be protected; zero when none does.
    pub(crate) fn protect_lag(&self, now: Timestamp) -> Result<Duration, EngineError> {
        // A clock that was set back makes times to come: these wait, too.
        let first = self.meta.scan(Table::Due, keys::due_until(DueKind::Protect, Timestamp(u64::MAX)), 1, false)?;
        let at = first.first().and_then(|(key, _)| keys::split_due(key)).map(|(at, _)| at);
        Ok(at.map_or(Duration::ZERO, |at| now.since(at)))
    }

    /// Protection, for statistics; none where nothing is protected, nor to be.
    pub(crate) fn protect_stats(&self, now: Timestamp) -> Result<Option<ProtectStats>, EngineError> {
        let tiers: Vec<String> = self.policy().policy.protecting_tiers().map(str::to_owned).collect();
        let totals = self.accounts.totals();
        let mut protected = Amount::default();
        for amount in totals.places.iter().filter(|(p, _)| matches!(p, Place::Protected(_))).map(|(_, a)| a) {
            protected.objects += amount.objects;
            protected.bytes = protected.bytes.saturating_add(amount.bytes);
        }
        if tiers.is_empty() && protected.objects == 0 && totals.waiting.objects == 0 {
            return Ok(None);
        }
        let lag_ms = u64::try_from(self.protect_lag(now)?.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(ProtectStats { tiers, protected, pending: totals.waiting, lag_ms }))
    }

    /// What an operator should know about protection.
    pub(crate) fn protect_warning(&self) -> Option<String> {
        let stats = self.protect_stats(self.clock.now()).ok().flatten()?;
        let Amount { objects, bytes } = stats.pending;
        let error = stats.tiers.iter().find_map(|tier| self.tier_error(tier)).map(|e| format!(": {e}"));
        (stats.lag_ms > self.settings.tiering.protect_warn_ms).then(|| {
            format!(
                "{objects} objects ({bytes} bytes) of protected buckets are on local disks only, the oldest for {} ms{}",
                stats.lag_ms,
                error.unwrap_or_default()
            )
        })
    }

    /// What protection says about a version, where it has a say.
    pub(crate) fn explain_protection(&self, bucket: &str, record: &ObjectRecord) -> Option<RuleExplanation> {
        let active = self.policy();
        let wanted = active.policy.protects(bucket);
        let reason = match (&record.residency, wanted) {
            (Residency::Protected { tier }, Some(wanted)) if tier == wanted => format!("in {tier}: done"),
            (Residency::Protected { tier }, Some(wanted)) => format!("in {tier}, to be in {wanted}"),
            (Residency::Protected { tier }, None) => format!("in {tier}, to be released"),
            (Residency::Hot, Some(wanted)) => format!("in {wanted}: waiting"),
            (_, Some(_)) => "a tier has it anyway".to_owned(),
            (_, None) => return None,
        };
        Some(RuleExplanation { rule: PROTECT.to_owned(), matches: wanted.is_some(), reason })
    }

    /// Sets the gauge, and says once in the log when the lag has become too long, or is short again.
    pub(crate) fn watch_protection(&self, now: Timestamp) -> Result<(), EngineError> {
        let lag = self.protect_lag(now)?;
        self.metrics.protect_lag.set(lag.as_secs_f64());
        let late = lag > Duration::from_millis(self.settings.tiering.protect_warn_ms);
        if late && !self.protect_warned.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                lag_ms = lag.as_millis(),
                "protection is behind by more than protect_warn_ms: the loss of this disk would lose these bodies"
            );
        } else if !late && self.protect_warned.swap(false, Ordering::AcqRel) {
            tracing::info!("protection has caught up");
        }
        Ok(())
    }

    /// Makes versions that are protected in `tier` hot only.
    pub(crate) async fn release_all(self: &Arc<Self>, tier: &str, claims: &[Claim]) -> Result<Done, EngineError> {
        let mut done = Done { moved: Moved::default(), waiting: Vec::new(), resting: Vec::new() };
        for claim in claims {
            match self.release(tier, claim).await {
                Ok(true) => done.moved.versions += 1,
                Ok(false) => done.moved.skipped += 1,
                // Damaged bytes, or no room for what comes back: others go on.
                Err(e @ (EngineError::Corrupt(_) | EngineError::SlowDown(_))) if done.resting.len() < MAX_RESTING => {
                    self.note_tier_error(tier, "release of one version", &e);
                    done.resting.push(claim.clone());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Brings back what was evicted of one version, and makes it hot; false when there is nothing to do any more. Once no
    /// version needs them, a mark dooms the tier's packs.
    async fn release(self: &Arc<Self>, tier: &str, claim: &Claim) -> Result<bool, EngineError> {
        let Some(stored) = self.meta.get(keys::table_of(&claim.subject), &claim.subject)? else { return Ok(false) };
        let record = ObjectRecord::decode(&stored)?;
        // The rules may have changed again.
        let wanted = matches!(self.plan(&claim.subject, &record, self.clock.now())?.action, Action::Release { .. });
        if record.version != claim.version || record.residency.tier() != Some(tier) || !wanted {
            return Ok(false);
        }
        let mut next = ObjectRecord { residency: Residency::Hot, manifest: None, ..record.clone() };
        // From here to the commit every mark takes its chunks for needed, as those of a hot body that is being read. A mark
        // that has passed it before may evict only until they are touched, which `recall_body` does.
        let lease = ReadLeases::take(self, &Arc::new(next.clone()));
        self.recall_body(&record, tier).await?;
        let mut batch = Batch::new(Reason::Release)
            .expect(Expect::Equals(keys::table_of(&claim.subject), claim.subject.clone(), stored.to_vec()))
            .with_data();
        self.put_version(&mut batch, &claim.subject, (Some(&record), Look::AsPlanned), &mut next)?;
        let outcome = self.meta.commit(batch).await;
        drop(lease);
        match outcome {
            Err(MetaError::Conflict { .. }) => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }
}
