//! Packs that nobody needs are deleted, whatever is with the others.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, noise, put, residency, until};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_tiering::engine::{DeleteRequest, Engine, GcRequest, Residency};
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::{Operation, Tier, TierError, TierErrorKind};

const OBJECTS: usize = 4;

/// An engine with as many packs in its tier, of objects that are deleted already.
async fn with_dead_packs(dir: &Path, tier: &Arc<MemoryTier>) -> (Bed, Engine) {
    let mut bed = Bed::new(dir, Arc::clone(tier) as _);
    bed.settings.tiering.linger_ms = 0;
    bed.settings.tiering.pack_bytes = 1;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..OBJECTS {
        put(&engine, &format!("cold/{n}"), &noise(n as u64, 8_000)).await.unwrap();
    }
    bed.clock.advance(DAY * 31);
    let cold = |n| matches!(residency(&engine, &format!("cold/{n}")), Some(Residency::Cold { .. }));
    until("all are cold", || (0..OBJECTS).all(cold)).await;
    assert_eq!(packs(&engine), OBJECTS as u64);
    for n in 0..OBJECTS {
        engine.delete_object("bkt", &format!("cold/{n}"), DeleteRequest::default()).await.unwrap();
    }
    (bed, engine)
}

fn packs(engine: &Engine) -> u64 {
    engine.stats().unwrap().tiers[0].packs
}

/// Deletions of a tier.
#[derive(Default)]
struct Deletions {
    asked: AtomicUsize,
    done: AtomicUsize,
    /// No error any more.
    healed: AtomicBool,
}

impl Deletions {
    /// Fails those of names that `fails` gives an error for.
    fn watch(tier: &MemoryTier, fails: impl Fn(&str) -> Option<TierError> + Send + Sync + 'static) -> Arc<Self> {
        let deletions = Arc::new(Self::default());
        let seen = Arc::clone(&deletions);
        tier.set_hook(move |operation, name, moment| {
            if operation != Operation::DeleteObject {
                return None;
            }
            let count = if moment == Moment::Before { &seen.asked } else { &seen.done };
            count.fetch_add(1, Ordering::Relaxed);
            fails(name).filter(|_| moment == Moment::Before && !seen.healed.load(Ordering::Relaxed))
        });
        deletions
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_cannot_be_deleted_holds_up_no_other_and_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Arc::new(MemoryTier::new().unwrap());
    let (bed, engine) = with_dead_packs(dir.path(), &tier).await;
    // Retention on the first one, for example.
    let held = tier.list("", None, 1).await.unwrap().remove(0).name;
    let name = held.clone();
    let deletions = Deletions::watch(&tier, move |asked| {
        (asked == name).then(|| TierError::plain(TierErrorKind::Denied, "DeleteObject", asked, "it is retained"))
    });
    engine.gc(GcRequest::default()).await.unwrap();
    until("the others are gone", || {
        bed.clock.advance(Duration::from_secs(1));
        deletions.done() == OBJECTS - 1
    })
    .await;
    let left = tier.list("", None, 10).await.unwrap();
    assert_eq!((left.len(), &left[0].name), (1, &held));
    until("it is told", || engine.tier_report("ia").unwrap().last_error.is_some()).await;
    let told = engine.tier_report("ia").unwrap().last_error.unwrap();
    assert!(told.contains("retained") && told.contains(&held), "{told}");
    deletions.healed.store(true, Ordering::Relaxed);
    engine.run_due_now().unwrap();
    until("it goes, too", || {
        bed.clock.advance(Duration::from_secs(1));
        deletions.done() == OBJECTS
    })
    .await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_does_not_answer_is_asked_once_in_a_round() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Arc::new(MemoryTier::new().unwrap());
    let (_bed, engine) = with_dead_packs(dir.path(), &tier).await;
    let deletions = Deletions::watch(&tier, |name| {
        Some(TierError::plain(TierErrorKind::Unavailable, "DeleteObject", name, "down"))
    });
    engine.gc(GcRequest::default()).await.unwrap();
    until("it was asked", || deletions.asked() > 0).await;
    // No time passes: each further round has to be asked for.
    let mut rounds = 1;
    until("it was asked again", || {
        rounds += usize::from(engine.run_due_now().is_ok());
        deletions.asked() > 1
    })
    .await;
    assert!(deletions.asked() <= rounds && deletions.done() == 0, "{} in {rounds} rounds", deletions.asked());
    deletions.healed.store(true, Ordering::Relaxed);
    until("all are gone", || {
        engine.run_due_now().unwrap();
        deletions.done() == OBJECTS
    })
    .await;
    engine.shutdown().await.unwrap();
}
