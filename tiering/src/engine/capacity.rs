//! Transitions under disk pressure: the longest idle hot versions go first, where a fill-level rule wants it.

use super::Core;
use super::claims::Claim;
use super::error::EngineError;
use super::keys::{self, DueKind};
use super::policy::ActivePolicy;
use super::record::{ObjectRecord, Record};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Table};
use std::ops::Bound;

/// Pages of the idle order that one look for candidates takes: those in front may all be exempt, or on their way.
const PAGES_BY_CAPACITY: usize = 32;

impl Core {
    /// Moves idle hot versions where the policy's fill-level triggers want them, the longest idle first.
    pub(crate) fn transition_by_capacity(&self, now: Timestamp) -> Result<u64, EngineError> {
        let active = self.policy();
        let fill = self.fill_percent();
        if active.policy.lowest_fill_trigger().is_none_or(|lowest| fill < lowest) {
            return Ok(0);
        }
        let mut wanted = self.bytes_over_watermark();
        let mut claimed = 0;
        let limit = self.settings.tiering.due_batch.max(1);
        let (mut start, end) = keys::due_until(DueKind::Idle, now);
        for _ in 0..PAGES_BY_CAPACITY {
            let page = self.meta.scan(Table::Due, (start, end.clone()), limit, false)?;
            let Some((last, _)) = page.last() else { break };
            start = Bound::Excluded(last.clone());
            for (key, _) in page {
                if wanted == 0 {
                    return Ok(claimed);
                }
                let Some((_, subject)) = keys::split_due(&key) else { continue };
                if let Some(size) = self.claim_idle(subject, (&active, fill), now)? {
                    claimed += 1;
                    wanted = wanted.saturating_sub(size);
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
        let Some(stored) = self.meta.get(Table::Object, subject)? else { return Ok(None) };
        let Some(record) = self.usable(Table::Object, subject, ObjectRecord::decode(&stored)) else { return Ok(None) };
        let Some((bucket, name)) = keys::split_object(subject) else { return Ok(None) };
        let facts = super::due::facts(bucket, name, &record, self.last_access(bucket, name));
        let Some((tier, _)) = active.policy.capacity_candidates(fill, &facts) else { return Ok(None) };
        let claim = Claim { subject: subject.to_vec(), version: record.version, size: record.size };
        let done = self.claims().claim(tier, claim, now, self.settings.tiering.max_claims);
        Ok(done.then_some(record.size))
    }
}
