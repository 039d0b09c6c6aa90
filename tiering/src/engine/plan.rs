//! `policy plan`: what would move or expire, and when. Reads only; asks no tier; costs nothing.

use super::due::{Action, facts};
use super::keys;
use super::record::{ObjectRecord, Record};
use super::report::{Amount, PlanCost, PlanReport, PlanRequest, PlannedAction, PlannedRule};
use super::types::Residency;
use super::{Core, Engine, EngineError};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Table};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;
use tidegate_policies::{Class, MONTH, Money, PriceBook, Request};

/// Sums while the plan is made.
#[derive(Default)]
struct Sums {
    rules: BTreeMap<(String, String), Amount>,
    by_tier: BTreeMap<String, Amount>,
}

impl Engine {
    /// Walks the versions that the request names and decides about each at every moment until the horizon at which
    /// something is due. Unlike the scheduler it also answers for a policy that is not active: `policy` None is the
    /// active one.
    ///
    /// # Errors
    /// A failure of the index.
    pub fn plan(&self, request: &PlanRequest) -> Result<PlanReport, EngineError> {
        let now = self.core.clock.now();
        let until = now.plus(Duration::from_millis(request.horizon_ms));
        let mut report = PlanReport { now, until, ..Default::default() };
        let mut sums = Sums::default();
        let buckets = match &request.bucket {
            Some(bucket) => vec![self.bucket(bucket)?.name],
            None => self.buckets()?.into_iter().map(|b| b.name).collect(),
        };
        for bucket in buckets {
            let prefix = keys::object(&bucket, &request.prefix);
            let (mut start, end) = keys::prefix(&prefix);
            loop {
                let page = self.core.meta.scan(Table::Object, (start, end.clone()), 500, false)?;
                let Some((last, _)) = page.last() else { break };
                start = Bound::Excluded(last.clone());
                for (subject, stored) in &page {
                    let Some((bucket, key)) = keys::split_object(subject) else { continue };
                    let decoded = ObjectRecord::decode(stored);
                    let Some(record) = self.core.usable(Table::Object, subject, decoded) else { continue };
                    self.core.plan_version((bucket, key), record, request.limit, &mut report, &mut sums);
                }
            }
        }
        report.actions.sort_by(|a, b| (a.when, &a.bucket, &a.key).cmp(&(b.when, &b.bucket, &b.key)));
        report.rules = sums
            .rules
            .into_iter()
            .map(|((rule, decision), amount)| PlannedRule {
                rule,
                decision,
                objects: amount.objects,
                bytes: amount.bytes,
            })
            .collect();
        report.cost = self.core.plan_cost(&sums.by_tier);
        Ok(report)
    }
}

/// More decisions than this about one version within a horizon are not planned: chains have a handful of tiers.
const MAX_STEPS: usize = 16;

impl Core {
    fn plan_version(
        &self,
        (bucket, key): (&str, &str),
        mut record: ObjectRecord,
        limit: usize,
        report: &mut PlanReport,
        sums: &mut Sums,
    ) {
        let active = self.policy();
        let access = self.last_access(bucket, key);
        let mut now = report.now;
        for _ in 0..MAX_STEPS {
            let declared = self.classes.tier_of(record.attributes.storage_class.as_deref());
            let facts = facts(bucket, key, &record, access);
            let plan = super::due::decide(&active.policy, &facts, &record, declared, now);
            let (decision, rule) = match &plan.action {
                Action::Keep => match plan.next {
                    Some(next) if next > now && next <= report.until => {
                        now = next;
                        continue;
                    }
                    _ => return,
                },
                Action::Transition { tier, rule } => (format!("transition to {tier}"), rule.clone()),
                Action::Expire { rule } => ("expire".to_owned(), rule.clone()),
                Action::ExpireRestored => ("expire the restored copy".to_owned(), String::new()),
            };
            let amount = sums.rules.entry((rule.clone(), decision.clone())).or_default();
            add(amount, record.size);
            if report.actions.len() < limit {
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                report.actions.push(PlannedAction { when: now, bucket, key, size: record.size, decision, rule });
            } else {
                report.truncated = true;
            }
            match plan.action {
                Action::Transition { tier, .. } => {
                    add(&mut report.transitions, record.size);
                    add(sums.by_tier.entry(tier.clone()).or_default(), record.size);
                    record.residency = Residency::Cold { tier };
                }
                Action::ExpireRestored => {
                    if let Residency::Restored { tier, .. } = record.residency.clone() {
                        record.residency = Residency::Cold { tier };
                    }
                }
                _ => {
                    add(&mut report.expirations, record.size);
                    return;
                }
            }
        }
    }

    /// What the planned transitions would cost by the price book: logical bytes, before deduplication and compression,
    /// so an upper bound.
    fn plan_cost(&self, by_tier: &BTreeMap<String, Amount>) -> Option<PlanCost> {
        let prices = PriceBook::default();
        let active = self.policy();
        let (mut requests, mut before, mut after) = (Money::default(), Money::default(), Money::default());
        for (tier, amount) in by_tier {
            let class: Class = active.policy.tiers().iter().find(|t| t.name == *tier)?.class?;
            let packs = amount.bytes.div_ceil(self.settings.tiering.pack_bytes.max(1));
            requests = requests + prices.requests(class, Request::Put, packs)?;
            before = before + prices.storage(Class::Standard, amount.bytes, MONTH)?;
            after = after + prices.storage(class, amount.bytes, MONTH)?;
        }
        Some(PlanCost {
            currency: "CNY".into(),
            requests: yuan(requests),
            early_deletion: 0.0,
            storage_month_before: yuan(before),
            storage_month_after: yuan(after),
        })
    }

    /// The moment and kind of the next action of a version, for `object status`.
    pub(crate) fn next_action(
        &self,
        bucket: &str,
        key: &str,
        record: &ObjectRecord,
    ) -> Option<super::report::NextAction> {
        let active = self.policy();
        let access = self.last_access(bucket, key);
        let declared = self.classes.tier_of(record.attributes.storage_class.as_deref());
        let facts = facts(bucket, key, record, access);
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
            };
            return Some(super::report::NextAction { when: now, decision, rule });
        }
        None
    }
}

/// Integer nano-CNY to the number that a report shows.
#[allow(clippy::cast_precision_loss)] // a report's figure; sums are integers
fn yuan(money: Money) -> f64 {
    money.nanos() as f64 / 1e9
}

fn add(amount: &mut Amount, bytes: u64) {
    amount.objects += 1;
    amount.bytes = amount.bytes.saturating_add(bytes);
}
