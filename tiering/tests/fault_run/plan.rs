//! What goes wrong in the run: every kind of fault that the simulator has. A tenth of all calls fails; others are only held up.

use crate::account::DOWN;
use oss_sim::{CODES_503, Exchange, Fault, FaultPlan, FaultRule};
use std::collections::BTreeMap;

/// What must have happened besides each kind: bytes that were wrong on both ways, and answers that were lost of what has an effect
/// and of what has none.
pub const EACH: [(&str, &str); 8] = [
    ("PutObject", "flip"),
    ("UploadPart", "flip"),
    ("GetObject", "flip"),
    ("PutObject", "error"),
    ("UploadPart", "reset_after"),
    ("RestoreObject", "reset_after"),
    ("HeadObject", "reset_after"),
    ("GetObject", "reset_after"),
];

/// The plan. Kinds that concern bodies strike reads and writes only, so their rates are higher.
pub fn plan(seed: u64, archives: &[&str]) -> FaultPlan {
    let mut rules: Vec<FaultRule> = CODES_503
        .into_iter()
        .map(|code| {
            let qos_delay_ms = (code != DOWN).then_some(10);
            FaultRule::new(Fault::Error { status: 503, code: code.into(), qos_delay_ms }).rate(0.007)
        })
        .collect();
    let internal = Fault::Error { status: 500, code: "InternalError".into(), qos_delay_ms: None };
    rules.extend([
        FaultRule::new(internal).rate(0.010),
        FaultRule::new(Fault::ResetBefore).rate(0.014),
        FaultRule::new(Fault::ResetAfter).rate(0.014),
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

/// How many calls failed: those that met a fault, but not the ones that were only held up.
pub fn failed(plan: &FaultPlan) -> u64 {
    let holds_up = |rule: &&FaultRule| matches!(rule.fault, Fault::Slow { .. } | Fault::SlowRestore { .. });
    plan.rules.iter().filter(|rule| !holds_up(rule)).map(|rule| rule.hits).sum()
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

/// How often each kind struck each operation.
pub fn strikes(exchanges: &[Exchange]) -> BTreeMap<(&'static str, &'static str), u64> {
    let mut all = BTreeMap::new();
    for (operation, fault) in exchanges.iter().filter_map(|e| Some((e.operation, e.fault?))) {
        *all.entry((operation, fault)).or_default() += 1;
    }
    all
}
