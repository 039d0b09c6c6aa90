//! `policy plan`: what would move or expire, and when. Reads only; asks no tier; costs nothing.

use super::due::{Action, facts, names};
use super::keys;
use super::plan_cost::Costs;
use super::protect::PROTECT;
use super::record::{ObjectRecord, Record};
use super::report::{Amount, PlanReport, PlanRequest, PlannedAction, PlannedRule};
use super::types::Residency;
use super::{Core, Engine, EngineError};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Table};
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;
use std::time::Duration;
use tidegate_policies::{Policy, Version};

/// What is gathered while the plan is made.
struct Making<'a> {
    limit: usize,
    /// The first actions, the latest of them on top.
    first: BinaryHeap<PlannedAction>,
    rules: BTreeMap<(String, String), Amount>,
    costs: Costs<'a>,
}

impl Making<'_> {
    fn action(&mut self, action: PlannedAction, report: &mut PlanReport) {
        add(self.rules.entry((action.rule.clone(), action.decision.clone())).or_default(), action.size);
        self.first.push(action);
        if self.first.len() > self.limit {
            self.first.pop();
            report.truncated = true;
        }
    }
}

impl Engine {
    /// Walks the versions that the request names and decides about each at every moment until the horizon at which
    /// something is due.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn plan(&self, request: &PlanRequest) -> Result<PlanReport, EngineError> {
        let now = self.core.clock.now();
        let until = now.plus(Duration::from_millis(request.horizon_ms));
        let mut report = PlanReport { now, until, ..Default::default() };
        let settings = &self.core.settings;
        let mut tiers = settings.lifecycle.tiers.clone();
        tiers.extend(self.core.policy().policy.tiers().iter().map(|t| (t.name.clone(), t.class)));
        let costs = Costs::new(tiers, &settings.prices, settings.tiering.pack_bytes);
        let mut making = Making { limit: request.limit, first: BinaryHeap::new(), rules: BTreeMap::new(), costs };
        let buckets = match &request.bucket {
            Some(bucket) => vec![self.bucket(bucket)?.name],
            None => self.buckets()?.into_iter().map(|b| b.name).collect(),
        };
        for bucket in buckets {
            let active = self.core.rules_of(&bucket);
            let prefix = keys::object(&bucket, &request.prefix);
            for table in [Table::Object, Table::Version] {
                let (mut start, end) = keys::prefix(&prefix);
                loop {
                    let page = self.core.meta.scan(table, (start, end.clone()), 500, false)?;
                    let Some((last, _)) = page.last() else { break };
                    start = Bound::Excluded(last.clone());
                    for (subject, stored) in &page {
                        let decoded = ObjectRecord::decode(stored);
                        let Some(record) = self.core.usable(table, subject, decoded) else { continue };
                        self.core.plan_version(&active.policy, subject, record, (&mut report, &mut making))?;
                    }
                }
            }
        }
        report.actions = making.first.into_sorted_vec();
        report.cost = making.costs.total();
        report.rules = making
            .rules
            .into_iter()
            .map(|((rule, decision), amount)| PlannedRule {
                rule,
                decision,
                objects: amount.objects,
                bytes: amount.bytes,
            })
            .collect();
        Ok(report)
    }
}

/// More decisions than this about one version within a horizon are not planned: chains have a handful of tiers.
const MAX_STEPS: usize = 16;

impl Core {
    fn plan_version(
        &self,
        policy: &Policy,
        subject: &[u8],
        mut record: ObjectRecord,
        (report, making): (&mut PlanReport, &mut Making<'_>),
    ) -> Result<(), EngineError> {
        let (bucket, key) = names(subject)?;
        let version = self.standing(policy, subject, &record)?;
        let access = self.last_access(bucket, key, &record);
        let kept_until = self.kept_until(bucket, &record, version)?;
        let mut now = report.now;
        let mut way = self.way(&record, now);
        for _ in 0..MAX_STEPS {
            let declared = self.classes.tier_of(record.attributes.storage_class.as_deref());
            let facts = facts((bucket, key), &record, access, version, kept_until);
            let plan = super::due::decide(policy, &facts, &record, declared, now);
            let (decision, rule) = match &plan.action {
                Action::Keep => match plan.next {
                    Some(next) if next > now && next <= report.until => {
                        now = next;
                        continue;
                    }
                    _ => break,
                },
                Action::Transition { tier, rule } => (format!("transition to {tier}"), rule.clone()),
                Action::Expire { rule } => ("expire".to_owned(), rule.clone()),
                Action::ExpireRestored => ("expire the restored copy".to_owned(), String::new()),
                Action::Protect { tier } => (format!("protect in {tier}"), PROTECT.to_owned()),
                Action::Release { tier } => (format!("release from {tier}"), PROTECT.to_owned()),
                Action::Tell { tier } => (format!("tell {tier} of its lock"), String::new()),
            };
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            making.action(PlannedAction { when: now, bucket, key, size: record.size, decision, rule }, report);
            match plan.action {
                Action::Transition { tier, .. } => {
                    add(&mut report.transitions, record.size);
                    making.costs.moves(&mut way, &tier, now);
                    record.residency = Residency::Cold { tier };
                }
                Action::Protect { tier } => {
                    add(&mut report.protections, record.size);
                    making.costs.copies(&mut way, Some(&tier), now);
                    record.residency = Residency::Protected { tier };
                }
                Action::Release { .. } => {
                    making.costs.copies(&mut way, None, now);
                    record.residency = Residency::Hot;
                }
                Action::Tell { .. } => record.retell = false,
                Action::ExpireRestored => {
                    if let Residency::Restored { tier, .. } = record.residency.clone() {
                        record.residency = Residency::Cold { tier };
                    }
                }
                _ => {
                    add(&mut report.expirations, record.size);
                    making.costs.expires(&way, now);
                    return Ok(());
                }
            }
        }
        making.costs.stays(way);
        Ok(())
    }

    /// The moment and kind of the next action of a version, for `object status`.
    pub(crate) fn next_action(
        &self,
        bucket: &str,
        key: &str,
        record: &ObjectRecord,
    ) -> Option<super::report::NextAction> {
        let active = self.rules_of(bucket);
        let access = self.last_access(bucket, key, record);
        let declared = self.classes.tier_of(record.attributes.storage_class.as_deref());
        let kept_until = self.kept_until(bucket, record, Version::Current).ok()?;
        let facts = facts((bucket, key), record, access, Version::Current, kept_until);
        let mut now: Timestamp = self.clock.now();
        for _ in 0..MAX_STEPS {
            let plan = super::due::decide(&active.policy, &facts, record, declared, now);
            let (decision, rule) = match plan.action {
                Action::Keep => {
                    now = plan.next.filter(|next| *next > now)?;
                    continue;
                }
                Action::Transition { tier, rule } => (format!("transition to {tier}"), Some(rule)),
                Action::Expire { rule } => ("expire".to_owned(), Some(rule)),
                Action::ExpireRestored => ("expire the restored copy".to_owned(), None),
                Action::Protect { tier } => (format!("protect in {tier}"), Some(PROTECT.to_owned())),
                Action::Release { tier } => (format!("release from {tier}"), Some(PROTECT.to_owned())),
                Action::Tell { tier } => (format!("tell {tier} of its lock"), None),
            };
            return Some(super::report::NextAction { when: now, decision, rule });
        }
        None
    }
}

fn add(amount: &mut Amount, bytes: u64) {
    amount.objects += 1;
    amount.bytes = amount.bytes.saturating_add(bytes);
}
