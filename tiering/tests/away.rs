//! Tiers that are not there: unmounted, silent, or taken out of the configuration.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, FrozenTier, get, noise, put_class, residency, until};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};
use tidegate_tiering::tier::{Operation, RestorePriority, Tier, TierError, TierErrorKind, TierMetrics};

fn directory(path: &Path) -> Arc<dyn Tier> {
    let settings = DirectorySettings { path: path.to_owned() };
    Arc::new(ObjectTier::directory("ia", &settings, TierMetrics::new("ia", None).unwrap()).unwrap())
}

fn is_cold(engine: &Engine, key: &str) -> bool {
    matches!(residency(engine, key), Some(Residency::Cold { .. }))
}

fn files(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_mounted_at_the_start_is_not_taken_for_an_empty_tier() {
    let dir = tempfile::tempdir().unwrap();
    let (share, away) = (dir.path().join("share"), dir.path().join("away"));
    let mut bed = Bed::new(&dir.path().join("data"), directory(&share));
    bed.settings.tiering.linger_ms = 0;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "old", &noise(1, 300_000), Some("STANDARD_IA")).await.unwrap();
    until("it is in the tier", || is_cold(&engine, "old")).await;
    engine.evict(u64::MAX).await.unwrap();
    engine.shutdown().await.unwrap();

    std::fs::rename(&share, &away).unwrap();
    bed.tier = directory(&share);
    let engine = bed.open().await;
    let error = get(&engine, "old").await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("mounted"), "{error}");
    put_class(&engine, "new", &noise(2, 300_000), Some("STANDARD_IA")).await.unwrap();
    until("the tier fails", || engine.tier_report("ia").unwrap().last_error.is_some()).await;
    assert!(!is_cold(&engine, "new"));
    assert_eq!(files(&share), 0, "nothing is written in its place");

    std::fs::remove_dir_all(&share).unwrap();
    std::fs::rename(&away, &share).unwrap();
    assert_eq!(get(&engine, "old").await.unwrap(), noise(1, 300_000));
    engine.run_due_now().unwrap();
    until("the jobs go on", || is_cold(&engine, "new")).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_tier_that_is_configured_no_more_is_unavailable_and_not_an_internal_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    bed.settings.tiering.linger_ms = 0;
    bed.others.insert("archive".to_owned(), Arc::new(MemoryTier::new().unwrap()));
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "k", &noise(1, 300_000), Some("GLACIER")).await.unwrap();
    until("it is in the tier", || is_cold(&engine, "k")).await;
    engine.evict(u64::MAX).await.unwrap();
    engine.shutdown().await.unwrap();
    bed.others.clear();
    let engine = bed.open().await;
    let error = get(&engine, "k").await.unwrap_err();
    assert!(matches!(&error, EngineError::Unavailable(why) if why.contains("archive")), "{error}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_from_a_tier_that_does_not_answer_hold_up_no_others() {
    const MANY: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    bed.settings.tiering.linger_ms = 0;
    // Each version has a pack of its own.
    bed.settings.tiering.pack_bytes = 1;
    let (silent, other) = (Arc::new(MemoryTier::new().unwrap()), Arc::new(MemoryTier::new().unwrap()));
    for (name, inner) in [("archive", Arc::clone(&silent)), ("deep", Arc::clone(&other))] {
        let frozen = FrozenTier::new(inner, Arc::clone(&bed.clock));
        bed.others.insert(name.to_owned(), Arc::new(frozen));
    }
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let keys: Vec<String> = (0..MANY).map(|n| format!("k/{n:03}")).chain(["last".to_owned()]).collect();
    for (n, key) in keys.iter().enumerate() {
        let class = if key == "last" { "DEEP_ARCHIVE" } else { "GLACIER" };
        put_class(&engine, key, &noise(n as u64, 10_000), Some(class)).await.unwrap();
    }
    until("all are in their tiers", || keys.iter().all(|k| is_cold(&engine, k))).await;
    engine.evict(u64::MAX).await.unwrap();

    // Every round asks after the other tier's one, so that it is known how many rounds there were.
    let (asked, rounds) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, count_rounds) = (Arc::clone(&asked), Arc::clone(&rounds));
    other.set_hook(move |operation, _, moment| {
        let begins = operation == Operation::HeadObject && moment == Moment::Before;
        count_rounds.fetch_add(usize::from(begins), Ordering::Relaxed);
        None
    });
    silent.set_hook(move |operation, name, moment| {
        (operation == Operation::HeadObject && moment == Moment::Before).then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            TierError::plain(TierErrorKind::Unavailable, "head", name, "no answer")
        })
    });
    for key in &keys {
        let (bucket, key) = ("bkt".to_owned(), key.clone());
        let restore =
            RestoreRequest { bucket, key, version: VersionRef::Current, days: 1, priority: RestorePriority::Standard };
        assert_eq!(engine.restore_object(restore).await.unwrap(), RestoreOutcome::Accepted);
    }
    until("they were asked after", || asked.load(Ordering::Relaxed) > 0).await;
    until("the other tier's is being thawed", || bed.metric("tidegate_thaws_total", None) > 0.0).await;
    let before = (asked.load(Ordering::Relaxed), rounds.load(Ordering::Relaxed));
    bed.clock.advance(Duration::from_secs(61));
    until("the other tier's is restored", || matches!(residency(&engine, "last"), Some(Residency::Restored { .. })))
        .await;
    let asked = asked.load(Ordering::Relaxed) - before.0;
    // One was under way, perhaps.
    let rounds = rounds.load(Ordering::Relaxed) - before.1 + 1;
    assert!(asked <= 20 * rounds, "{asked} of {MANY} were asked after in {rounds} rounds");
    silent.clear_hook();
    let all = || {
        bed.clock.advance(Duration::from_secs(31));
        keys.iter().all(|k| matches!(residency(&engine, k), Some(Residency::Restored { .. })))
    };
    until("all are restored", all).await;
    engine.shutdown().await.unwrap();
}
