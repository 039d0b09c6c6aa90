//! What is to be done with a version, and when to ask again: the policy's answer joined with what the engine knows
//! besides (a declared cold class, a restored copy that expires). Every write stores the answer's time in the due
//! index within its own commit, so nothing ever scans for work (D7).

use super::Core;
use super::keys::{self, DueKind};
use super::record::ObjectRecord;
use super::types::Residency;
use crate::clock::Timestamp;
use crate::meta::{Batch, Table};
use crate::mutants::{self, Mutant};
use tidegate_policies::{Decision, ObjectFacts, Policy, Version};

/// What is to be done with a version now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Keep,
    /// Move to a tier.
    Transition { tier: String, rule: String },
    /// Delete by rule.
    Expire { rule: String },
    /// Drop the restored copy; the remote one is not touched.
    ExpireRestored,
    /// Bring the body to a tier as well.
    Protect { tier: String },
    /// Be hot only: the tier's copy is needed no more.
    Release { tier: String },
    /// Tell the tier that has the body what locks it.
    Tell { tier: String },
}

/// An action, and when to ask again if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub action: Action,
    pub next: Option<Timestamp>,
}

impl Plan {
    /// When the version stands in the due index: now for an action, else the next time to ask. What waits for its first
    /// protection has an order of its own.
    pub(crate) fn due(&self, record: &ObjectRecord, now: Timestamp) -> Option<Timestamp> {
        match &self.action {
            Action::Keep => self.next,
            Action::Protect { .. } if record.residency == Residency::Hot => self.next,
            _ => Some(now),
        }
    }
}

/// The orders that hot versions stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orders {
    /// By their last use, for fill levels.
    pub idle: bool,
    /// By their age, to be protected.
    pub waiting: bool,
}

/// When a version that is written is looked at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// When the rules say so.
    AsPlanned,
    /// As planned, by the look itself that its neighbours were owed.
    Taken,
    /// At once: what is decided about it, or about its neighbours, rests on what the same commit changes.
    AtOnce,
}

/// The facts of a version, as policies see them.
pub(crate) fn facts<'a>(
    (bucket, key): (&'a str, &'a str),
    record: &'a ObjectRecord,
    last_access: Option<Timestamp>,
    version: Version,
    kept_until: Option<Timestamp>,
) -> ObjectFacts<'a> {
    let (protected_in, current_tier) = match record.residency.is_hot() {
        true => (record.residency.tier(), None),
        false => (None, record.residency.tier()),
    };
    ObjectFacts {
        bucket,
        key,
        size: record.size,
        content_type: record.attributes.headers.content_type.as_deref(),
        tags: &record.attributes.tags,
        metadata: &record.attributes.user_metadata,
        created: record.created.millis(),
        modified: record.modified.millis(),
        last_access: last_access.map_or(record.modified, |at| at.max(record.modified)).millis(),
        current_tier,
        protected_in,
        version,
        kept_until: kept_until.map(Timestamp::millis),
    }
}

/// Decides about one version. Pure.
pub(crate) fn decide(
    policy: &Policy,
    facts: &ObjectFacts<'_>,
    record: &ObjectRecord,
    declared_tier: Option<&str>,
    now: Timestamp,
) -> Plan {
    let verdict = policy.evaluate(facts, now.millis());
    let next = verdict.next.map(Timestamp);
    let rule = || verdict.rule.map_or_else(String::new, |r| r.to_string());
    if matches!(verdict.decision, Decision::Expire) {
        return Plan { action: Action::Expire { rule: rule() }, next };
    }
    match &record.residency {
        // A transition out of a restored copy waits until that has expired: it was asked for.
        Residency::Restored { until, .. } if *until <= now => Plan { action: Action::ExpireRestored, next },
        Residency::Restored { until, .. } => {
            Plan { action: Action::Keep, next: Some(next.map_or(*until, |n| n.min(*until))) }
        }
        Residency::Cold { .. } if record.restoring.is_some() => Plan { action: Action::Keep, next },
        _ => match (verdict.decision, declared_tier) {
            (Decision::Transition { tier }, _) => {
                Plan { action: Action::Transition { tier: tier.to_owned(), rule: rule() }, next }
            }
            (_, Some(tier)) if record.residency.is_hot() => {
                let rule = format!("storage class {}", record.attributes.storage_class.as_deref().unwrap_or(""));
                Plan { action: Action::Transition { tier: tier.to_owned(), rule }, next }
            }
            (Decision::Protect { tier }, _) => Plan { action: Action::Protect { tier: tier.to_owned() }, next },
            (Decision::Release, _) => {
                let tier = record.residency.tier().unwrap_or_default().to_owned();
                Plan { action: Action::Release { tier }, next }
            }
            _ => match record.residency.tier().filter(|_| record.retell) {
                Some(tier) => Plan { action: Action::Tell { tier: tier.to_owned() }, next },
                None => Plan { action: Action::Keep, next },
            },
        },
    }
}

impl Core {
    /// Decides about one version, with the active policy.
    pub(crate) fn plan(
        &self,
        subject: &[u8],
        record: &ObjectRecord,
        now: Timestamp,
    ) -> Result<Plan, super::EngineError> {
        let (bucket, key) = names(subject)?;
        let active = self.rules_of(bucket);
        let access = if active.policy.uses_last_access() { self.last_access(bucket, key, record) } else { None };
        let version = self.standing(&active.policy, subject, record)?;
        let kept_until = self.kept_until(bucket, record, version)?;
        let facts = facts((bucket, key), record, access, version, kept_until);
        let declared = self.classes.tier_of(record.attributes.storage_class.as_deref());
        Ok(decide(&active.policy, &facts, record, declared, now))
    }

    /// In which orders besides its due time a version stands.
    pub(crate) fn orders(&self, bucket: &str, record: &ObjectRecord) -> Orders {
        let (active, hot) = (self.rules_of(bucket), record.residency == Residency::Hot && !record.marker);
        Orders { idle: hot && active.lowest_fill.is_some(), waiting: hot && active.policy.protects(bucket).is_some() }
    }

    /// Writes `record` to `batch`, at its key `subject` in the table Object or Version, together with its place in the due
    /// index, and takes the old version's places out. Returns whether something is due at once.
    pub(crate) fn put_version(
        &self,
        batch: &mut Batch,
        subject: &[u8],
        (old, look): (Option<&ObjectRecord>, Look),
        record: &mut ObjectRecord,
    ) -> Result<bool, super::EngineError> {
        use super::record::Record;
        let now = self.clock.now();
        record.due = self.next_look(subject, (old, look), record, now)?;
        let (bucket, key) = names(subject)?;
        let orders = self.orders(bucket, record);
        record.idle = orders
            .idle
            .then(|| self.last_access(bucket, key, record).map_or(record.modified, |a| a.max(record.modified)));
        record.waiting = orders.waiting.then_some(record.modified);
        self.drop_due(batch, subject, old);
        if let Some(at) = record.due
            && !(old.is_some() && mutants::active(Mutant::OverwriteForgetsDue))
        {
            push(batch, keys::due(DueKind::Object, at, subject), Some(Vec::new()));
        }
        if let Some(at) = record.idle {
            push(batch, keys::due(DueKind::Idle, at, subject), Some(Vec::new()));
        }
        if let Some(at) = record.waiting {
            push(batch, keys::due(DueKind::Protect, at, subject), Some(Vec::new()));
        }
        let (table, key) = (keys::table_of(subject), subject.to_vec());
        batch.ops.push(crate::meta::Op { table, key, value: Some(record.encode()?) });
        Ok(record.due.is_some_and(|at| at <= now))
    }

    /// The due time that a version is written with, in place of `old` if that stands at the same key.
    pub(crate) fn next_look(
        &self,
        subject: &[u8],
        (old, look): (Option<&ObjectRecord>, Look),
        record: &ObjectRecord,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, super::EngineError> {
        match (look, old.and_then(|old| old.due)) {
            // Never the time that it has already: with the same bytes, a decision made before this commit could be written after it.
            (Look::AtOnce, _) if record.due == Some(now) => Ok(Some(Timestamp(now.millis().saturating_sub(1)))),
            (Look::AtOnce, _) => Ok(Some(now)),
            // It may have been superseded just now: the look at its neighbours that came with that is not this one's to take away.
            (Look::AsPlanned, Some(at))
                if at <= now && keys::table_of(subject) == Table::Version && self.moves_others(names(subject)?.0) =>
            {
                Ok(Some(at))
            }
            _ => Ok(self.plan(subject, record, now)?.due(record, now)),
        }
    }

    /// Takes a version's places out of the due index.
    pub(crate) fn drop_due(&self, batch: &mut Batch, subject: &[u8], old: Option<&ObjectRecord>) {
        let Some(old) = old else { return };
        if let Some(at) = old.due {
            push(batch, keys::due(DueKind::Object, at, subject), None);
        }
        if let Some(at) = old.idle {
            push(batch, keys::due(DueKind::Idle, at, subject), None);
        }
        if let Some(at) = old.waiting {
            push(batch, keys::due(DueKind::Protect, at, subject), None);
        }
    }
}

/// Bucket and key of a version.
pub(crate) fn names(subject: &[u8]) -> Result<(&str, &str), super::EngineError> {
    keys::split_object(subject)
        .ok_or_else(|| super::EngineError::Corrupt("the key of an object or a version does not come apart".into()))
}

fn push(batch: &mut Batch, key: Vec<u8>, value: Option<Vec<u8>>) {
    batch.ops.push(crate::meta::Op { table: Table::Due, key, value });
}
