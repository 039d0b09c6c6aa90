//! Transitions under disk pressure: the longest idle hot versions go first, where a fill-level rule wants it.

use super::Core;
use super::claims::{Aim, Claim, Work};
use super::error::EngineError;
use super::keys::{self, DueKind};
use super::policy::ActivePolicy;
use super::record::{ObjectRecord, Record};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Table};
use std::ops::Bound;

/// Pages of the idle order that one look for candidates takes: those in front may all be exempt, or on their way.
const PAGES_BY_CAPACITY: usize = 32;

/// How many bytes `percent` of `capacity` are, rounded up: with so many the level is reached.
fn level_bytes(percent: u8, capacity: u64) -> u64 {
    u64::try_from((u128::from(capacity) * u128::from(percent)).div_ceil(100)).unwrap_or(u64::MAX)
}

/// How full `used` bytes of `capacity` are, in whole percent, rounded down.
fn percent_of(used: u64, capacity: u64) -> u8 {
    let percent = u128::from(used) * 100 / u128::from(capacity.max(1));
    u8::try_from(percent.min(100)).unwrap_or(100)
}

impl Core {
    /// What clients can fill: `hot.max_bytes` without what only compaction may take. Fill levels are shares of this; of
    /// `max_bytes` itself a high one could never be reached.
    pub(crate) fn client_bytes(&self) -> u64 {
        let settings = self.local.budget().settings();
        settings.max_bytes.saturating_sub(settings.compaction_reserve)
    }

    /// Bytes that must go until the lowest fill level of the policy is not reached any more; 0 when it is not.
    pub(crate) fn bytes_over_lowest_level(&self) -> u64 {
        let Some(lowest) = self.policy().lowest_fill else { return 0 };
        (self.local.budget().used() + 1).saturating_sub(level_bytes(lowest, self.client_bytes()))
    }

    /// Moves idle hot versions where the policy's fill levels want them, the longest idle first, until no level would be
    /// reached. What is on its way already counts as gone: it is evicted by the next cycle. `moved_before` is
    /// [`Claims::moved`](super::claims::Claims::moved) from before the last sweep.
    pub(crate) fn transition_by_capacity(&self, now: Timestamp, moved_before: u64) -> Result<u64, EngineError> {
        let active = self.policy();
        let Some(lowest) = active.lowest_fill else { return Ok(0) };
        let (used, capacity) = (self.local.budget().used(), self.client_bytes());
        let on_its_way = self.claims().on_its_way(moved_before);
        let mut left = used.saturating_sub(on_its_way);
        // When others fill the file system, the packs' own share says little about the room that is left.
        let mut short = self.bytes_short_of_floor().saturating_sub(on_its_way);
        let mut claimed = 0;
        let limit = self.settings.tiering.due_batch.max(1);
        let (mut start, end) = keys::due_until(DueKind::Idle, now);
        for _ in 0..PAGES_BY_CAPACITY {
            let page = self.meta.scan(Table::Due, (start, end.clone()), limit, false)?;
            let Some((last, _)) = page.last() else { break };
            start = Bound::Excluded(last.clone());
            for (key, _) in page {
                // Each level stops where it is: what a higher one names stays once that is not reached any more.
                let fill = percent_of(if short > 0 { used } else { left }, capacity);
                if fill < lowest {
                    return Ok(claimed);
                }
                let Some((_, subject)) = keys::split_due(&key) else { continue };
                if let Some(size) = self.claim_idle(subject, (&active, fill), now)? {
                    claimed += 1;
                    left = left.saturating_sub(size);
                    short = short.saturating_sub(size);
                }
            }
        }
        Ok(claimed)
    }

    /// Claims an idle version for the tier that a fill-level trigger names; its size when it was claimed.
    fn claim_idle(
        &self,
        subject: &[u8],
        (active, fill): (&ActivePolicy, u8),
        now: Timestamp,
    ) -> Result<Option<u64>, EngineError> {
        let table = keys::table_of(subject);
        let Some(stored) = self.meta.get(table, subject)? else { return Ok(None) };
        let Some(record) = self.usable(table, subject, ObjectRecord::decode(&stored)) else { return Ok(None) };
        let Some(tier) = self.tier_by_capacity(subject, &record, (active, fill))? else { return Ok(None) };
        let (version, size) = (record.version, record.size);
        let claim = Claim { subject: subject.to_vec(), version, size, frees: size, fill: Some(fill) };
        let done = self.claims().claim(&Aim::new(Work::Move, &tier), claim, now, self.settings.tiering.max_claims);
        Ok(done.then_some(record.size))
    }

    /// The tier that a version shall move to when the hot disk is `fill` percent full.
    pub(crate) fn tier_by_capacity(
        &self,
        subject: &[u8],
        record: &ObjectRecord,
        (active, fill): (&ActivePolicy, u8),
    ) -> Result<Option<String>, EngineError> {
        let names = super::due::names(subject)?;
        let version = self.standing(&active.policy, subject, record)?;
        let facts = super::due::facts(names, record, self.last_access(names.0, names.1, record), version, None);
        Ok(active.policy.capacity_candidates(fill, &facts).map(|(tier, _)| tier.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_reached_at_exactly_its_bytes() {
        for capacity in [1, 99, 100, 101, 12_345, u64::MAX] {
            for percent in [1, 60, 99] {
                let bytes = level_bytes(percent, capacity);
                assert!(percent_of(bytes, capacity) >= percent, "{percent}% of {capacity}");
                assert!(percent_of(bytes - 1, capacity) < percent, "{percent}% of {capacity}");
            }
        }
    }
}
