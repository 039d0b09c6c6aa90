//! A plan says what will happen, in order, and what that costs.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, noise, put, residency, until};
use std::sync::Arc;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::memory::MemoryTier;

/// The size of every object.
const SIZE: usize = 8 << 20;

const TIERS: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: test }
tiers: [{ name: nas }, { name: ia, class: IA }, { name: archive, class: Archive }]
rules:
";

fn bed(dir: &tempfile::TempDir, rules: &str) -> Bed {
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    for name in ["nas", "archive"] {
        bed.others.insert(name.into(), Arc::new(MemoryTier::new().unwrap()));
    }
    bed.policy = format!("{TIERS}{rules}");
    bed.settings.tiering.linger_ms = 0;
    bed
}

async fn filled(bed: &Bed, keys: &[&str]) -> Engine {
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for (seed, key) in keys.iter().enumerate() {
        put(&engine, key, &noise(seed as u64, SIZE)).await.unwrap();
    }
    engine
}

fn plan(engine: &Engine, days: u64, limit: usize) -> PlanReport {
    engine.plan(&PlanRequest { horizon_ms: days * 86_400_000, limit, ..Default::default() }).unwrap()
}

/// `price` a GB, for so many objects.
fn close(found: f64, price: f64, objects: f64) {
    let wanted = price * objects * SIZE as f64 / f64::from(1 << 30);
    assert!((found - wanted).abs() < 2e-8, "{found} is not {wanted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_moves_twice_is_stored_once_and_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let rule = "  - { id: a, transitions: [{ to: ia, after: 30d }, { to: archive, after: 60d }] }\n";
    let engine = filled(&bed(&dir, rule), &["a"]).await;
    let report = plan(&engine, 90, 10);
    assert_eq!((report.transitions.objects, report.actions.len()), (2, 2));
    let cost = report.cost.unwrap();
    close(cost.storage_month_before, 0.12, 1.0);
    close(cost.storage_month_after, 0.033, 1.0);
    close(cost.retrieval, 0.0325, 1.0);
    assert!((cost.requests - 0.00002).abs() < 1e-9 && cost.early_deletion == 0.0, "{cost:?}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_tier_early_costs_the_rest_of_the_minimum_duration() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(&dir, "  - { id: a, transitions: [{ to: ia, after: 30d }], expiration: { after: 55d } }\n");
    let engine = filled(&bed, &["a", "b"]).await;
    let cost = plan(&engine, 90, 10).cost.unwrap();
    close(cost.early_deletion, 0.08 * 5.0 / 30.0, 2.0);
    close(cost.storage_month_before, 0.12, 2.0);
    assert_eq!(cost.storage_month_after, 0.0);
    // A day late: then only 24 days are left until the expiration.
    bed.clock.advance(DAY * 31);
    let cold = || residency(&engine, "a") == Some(Residency::Cold { tier: "ia".into() });
    until("the object to move", || cold() && residency(&engine, "b") != Some(Residency::Hot)).await;
    let report = plan(&engine, 90, 10);
    assert_eq!((report.transitions.objects, report.expirations.objects), (0, 2));
    let cost = report.cost.unwrap();
    close(cost.early_deletion, 0.08 * 6.0 / 30.0, 2.0);
    close(cost.storage_month_before, 0.08, 2.0);
    assert_eq!((cost.requests, cost.retrieval), (0.0, 0.0));
    bed.clock.advance(DAY * 24);
    until("the objects to expire", || residency(&engine, "a").is_none() && residency(&engine, "b").is_none()).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_without_a_class_cost_nothing_and_hide_no_other_cost() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "  - { id: to-nas, filter: { prefix: nas }, transitions: [{ to: nas, after: 3d }] }\n  \
                 - { id: to-ia, filter: { prefix: ias }, transitions: [{ to: ia, after: 3d }] }\n";
    let mut bed = bed(&dir, rules);
    bed.settings.prices = serde_json::from_str(r#"{"currency": "USD", "hot": 0.5, "ia": {"storage": 0.25}}"#).unwrap();
    let engine = filled(&bed, &["nas", "ias"]).await;
    let cost = plan(&engine, 9, 10).cost.unwrap();
    close(cost.storage_month_before, 0.5, 2.0);
    close(cost.storage_month_after, 0.25, 1.0);
    assert_eq!(cost.currency, "USD");
    let only_nas = PlanRequest { prefix: "nas".into(), ..Default::default() };
    assert_eq!(engine.plan(&only_nas).unwrap().cost, None);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_list_has_the_first_actions_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "  - { id: late, filter: { prefix: a }, expiration: { after: 9d } }\n  \
                 - { id: soon, filter: { prefix: b }, expiration: { after: 3d } }\n";
    let engine = filled(&bed(&dir, rules), &["a1", "a2", "b2", "b1"]).await;
    let report = plan(&engine, 30, 3);
    let keys: Vec<&str> = report.actions.iter().map(|a| a.key.as_str()).collect();
    assert_eq!((keys, report.truncated), (vec!["b1", "b2", "a1"], true));
    assert_eq!(report.expirations.objects, 4);
    assert!(!plan(&engine, 30, 4).truncated);
    engine.shutdown().await.unwrap();
}
