//! Which version of its key a version is, as rules see it, and when that changes for others: rules may count from when a version was
//! superseded, ask how many newer ones there are, and end a delete marker that is all that is left. What such a change makes due is
//! written down in the same commit: a version of the key becomes due at once, and is then decided about anew, with its neighbours.

use super::Core;
use super::due::{facts, names};
use super::error::EngineError;
use super::keys;
use super::record::{ObjectRecord, Record};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Table};
use crate::mutants::{self, Mutant};
use std::ops::Bound;
use tidegate_policies::{Decision, Policy, Version};

/// More newer versions than rules can ask for need not be counted.
const MOST_NEWER: usize = 100;

impl Core {
    /// Which version of its key `record` is. Newer versions are counted only where a rule asks for them.
    pub(crate) fn standing(
        &self,
        policy: &Policy,
        subject: &[u8],
        record: &ObjectRecord,
    ) -> Result<Version, EngineError> {
        let Some(since) = record.noncurrent_since else {
            return Ok(match record.marker {
                true => Version::DeleteMarker { only: self.is_alone(subject)? },
                false => Version::Current,
            });
        };
        let newer = match policy.counts_newer_versions() {
            _ if mutants::active(Mutant::NewerAreMany) => u32::MAX,
            true => {
                let prefix = keys::versions_of(keys::object_of(subject));
                let range = (Bound::Included(prefix), Bound::Excluded(subject.to_vec()));
                let newer = self.meta.scan(Table::Version, range, MOST_NEWER + 1, false)?;
                // A delete marker that is the latest is not among them. What it is says its own record, as it was counted: another
                // look might find it gone, and count one too many.
                let first = newer.first().map(|(_, stored)| ObjectRecord::decode(stored)).transpose()?;
                let latest = usize::from(first.is_some_and(|first| first.noncurrent_since.is_none()));
                u32::try_from(newer.len().saturating_sub(latest)).unwrap_or(u32::MAX)
            }
            false => 0,
        };
        Ok(Version::Noncurrent { since: since.millis(), newer, marker: record.marker })
    }

    /// Whether a delete marker is the only version of its key.
    fn is_alone(&self, subject: &[u8]) -> Result<bool, EngineError> {
        let object = keys::object_of(subject);
        if self.meta.get(Table::Object, object)?.is_some() {
            return Ok(false);
        }
        let versions = self.meta.scan(Table::Version, keys::prefix(&keys::versions_of(object)), 2, false)?;
        Ok(versions.iter().all(|(key, _)| key == subject))
    }

    /// Whether the versions behind one that was just superseded are to be looked at again.
    pub(crate) fn moves_others(&self, bucket: &str) -> bool {
        self.rules_of(bucket).policy.counts_newer_versions()
    }

    /// Whether a delete marker is to be looked at again once it may be all that is left.
    pub(crate) fn ends_alone(
        &self,
        subject: &[u8],
        marker: &ObjectRecord,
        now: Timestamp,
    ) -> Result<bool, EngineError> {
        let (names, alone) = (names(subject)?, Version::DeleteMarker { only: true });
        let active = self.rules_of(names.0);
        let verdict = active.policy.evaluate(&facts(names, marker, None, alone, None), now.millis());
        Ok(matches!(verdict.decision, Decision::Expire) || verdict.next.is_some())
    }

    /// Decides anew about the other versions of a key that rules which count newer ones may speak of by now.
    pub(crate) async fn reindex_versions(&self, subject: &[u8]) -> Result<(), EngineError> {
        let range = keys::prefix(&keys::versions_of(keys::object_of(subject)));
        for (other, stored) in self.meta.scan(Table::Version, range, MOST_NEWER + 2, false)? {
            if other != subject {
                self.reindex_object(&other, stored).await?;
            }
        }
        Ok(())
    }
}
