//! Rules with `whenFull`: they act at their level and stop there, claim nothing twice, and come before a full disk does.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, get, noise, put, residency, until};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::{Engine, Residency};
use tidegate_tiering::tier::memory::MemoryTier;

/// What clients can fill: 20 MB of the 24 MB.
const CLIENTS: u64 = 20_000_000;
const BODY: usize = 200_000;

fn bed(dir: &Path, level: &str) -> Bed {
    let mut bed = Bed::new(dir, Arc::new(MemoryTier::new().unwrap()));
    bed.policy = format!(
        "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: {{ name: test }}
tiers:
  - name: ia
rules:
  - id: room
    filter: {{ bucket: bkt, prefix: may/ }}
    transitions:
      - {{ to: ia, whenFull: {level} }}
"
    );
    bed.settings.disk.max_bytes = 24_000_000;
    bed.settings.disk.compaction_reserve = 4_000_000;
    bed.settings.local.pack_bytes = 256 << 10;
    bed.settings.tiering.linger_ms = 0;
    bed
}

/// Waits until all that was claimed has moved: with some of it there may be room already.
async fn all_moved(engine: &Engine) {
    until("all that was claimed has moved", || engine.stats().unwrap().jobs.is_empty()).await;
}

fn used(engine: &Engine) -> u64 {
    engine.stats().unwrap().disk.used_bytes
}

async fn fill_to(engine: &Engine, percent: u64, from: u64) -> u64 {
    let mut n = from;
    while used(engine) < CLIENTS / 100 * percent {
        put(engine, &format!("may/{n:03}"), &noise(n, BODY)).await.unwrap();
        n += 1;
    }
    n
}

/// Lets seconds pass until something holds.
async fn passing(bed: &Bed, what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || {
        bed.clock.advance(Duration::from_secs(1));
        holds()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_acts_at_its_level_far_below_the_watermark_moves_the_idlest_and_stops_there() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path(), "60%");
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "never", &noise(1_000_000, BODY)).await.unwrap();
    let n = fill_to(&engine, 55, 0).await;
    for _ in 0..20 {
        bed.clock.advance(Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.stats().unwrap().cold.objects, 0, "the level is not reached");
    bed.clock.advance(Duration::from_secs(1));
    let n = fill_to(&engine, 70, n).await;
    passing(&bed, "there is room again", || used(&engine) < CLIENTS / 100 * 60).await;
    all_moved(&engine).await;
    let stats = engine.stats().unwrap();
    assert!(used(&engine) > CLIENTS / 100 * 50, "{} is left", used(&engine));
    assert!((1..=20).contains(&stats.cold.objects), "{:?}", stats.cold);
    assert_eq!(residency(&engine, "may/000"), Some(Residency::Cold { tier: "ia".into() }));
    assert_eq!(residency(&engine, "never"), Some(Residency::Hot));
    assert_eq!(residency(&engine, &format!("may/{:03}", n - 1)), Some(Residency::Hot));
    // And it stays so.
    for _ in 0..20 {
        bed.clock.advance(Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.stats().unwrap().cold.objects, stats.cold.objects);
    for n in 0..n {
        assert_eq!(get(&engine, &format!("may/{n:03}")).await.unwrap(), noise(n, BODY), "{n}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_and_waits_is_not_claimed_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path(), "60%");
    bed.settings.tiering.linger_ms = 3_600_000;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    // Above the watermark, too: then a cycle a second looks for more.
    fill_to(&engine, 93, 0).await;
    let waiting = || {
        let stats = engine.stats().unwrap();
        stats.jobs.iter().filter(|j| j.kind == "transition to ia").map(|j| j.count).sum::<u64>()
    };
    let wanted = (used(&engine) - CLIENTS / 100 * 60).div_ceil(BODY as u64);
    // They are claimed one after the other: the first look may find half of them.
    let enough = || waiting().abs_diff(wanted) <= 2;
    passing(&bed, "as many versions wait as are wanted", enough).await;
    for _ in 0..200 {
        bed.clock.advance(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(enough(), "{} of {wanted}", waiting());
    passing(&bed, "there is room again", || {
        bed.clock.advance(Duration::from_secs(120));
        used(&engine) < CLIENTS / 100 * 60
    })
    .await;
    assert!(used(&engine) > CLIENTS / 100 * 50, "{} is left", used(&engine));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_levels_act_before_clients_are_refused_and_only_so_far() {
    for level in [90, 97] {
        let dir = tempfile::tempdir().unwrap();
        let bed = bed(dir.path(), &format!("{level}%"));
        let engine = bed.open().await;
        engine.create_bucket("bkt").await.unwrap();
        // Every put is taken.
        fill_to(&engine, level, 0).await;
        passing(&bed, "there is room again", || used(&engine) < CLIENTS / 100 * level).await;
        all_moved(&engine).await;
        let cold = engine.stats().unwrap().cold.objects;
        assert!((1..=5).contains(&cold), "{cold} at {level}%");
        engine.shutdown().await.unwrap();
    }
}
