//! What goes wrong in the run: every kind of fault that the simulator has, together about a tenth of all calls.

use crate::account::DOWN;
use oss_sim::{CODES_503, Fault, FaultPlan, FaultRule};
use std::collections::BTreeMap;

/// The plan. Kinds that concern bodies strike reads and writes only, so their rates are higher.
pub fn plan(seed: u64, archives: &[&str]) -> FaultPlan {
    let mut rules: Vec<FaultRule> = CODES_503
        .into_iter()
        .map(|code| {
            let qos_delay_ms = (code != DOWN).then_some(10);
            FaultRule::new(Fault::Error { status: 503, code: code.into(), qos_delay_ms }).rate(0.004)
        })
        .collect();
    let internal = Fault::Error { status: 500, code: "InternalError".into(), qos_delay_ms: None };
    rules.extend([
        FaultRule::new(internal).rate(0.008),
        FaultRule::new(Fault::ResetBefore).rate(0.012),
        FaultRule::new(Fault::ResetAfter).rate(0.012),
        FaultRule::new(Fault::Slow { delay_ms: 10 }).rate(0.015),
        FaultRule::new(Fault::Skew { seconds: 3_600 }).rate(0.005),
        FaultRule::new(Fault::Torn).rate(0.03),
        FaultRule::new(Fault::Flip).rate(0.03),
    ]);
    for bucket in archives {
        rules.push(FaultRule::new(Fault::ExpireRestore).bucket(*bucket).rate(0.05));
        rules.push(FaultRule::new(Fault::SlowRestore { seconds: 3_600 }).bucket(*bucket).rate(0.1));
    }
    FaultPlan { seed, rules }
}

/// How often each kind struck, errors by their code.
pub fn hits(plan: &FaultPlan) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for rule in &plan.rules {
        let name = match &rule.fault {
            Fault::Error { status, code, .. } => format!("error {status} {code}"),
            other => other.name().to_owned(),
        };
        *all.entry(name).or_default() += rule.hits;
    }
    all
}
