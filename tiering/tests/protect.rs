//! Protection: bodies that are hot and in a tier as well.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, copy, frames, get, noise, put, put_class, put_parts, residency, rot, seen, until};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_tiering::engine::*;
use tidegate_tiering::pack::FrameKind;
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::{Operation, TierError, TierErrorKind};

const BODY: usize = 200_000;

fn policy(protect: &str, rules: &str) -> String {
    format!(
        "apiVersion: tidegate/v1\nkind: LifecyclePolicy\nmetadata: {{ name: test }}\n\
         tiers: [{{ name: ia }}, {{ name: archive }}]\nprotect: {protect}\nrules: {rules}\n"
    )
}

const ON: &str = "[{ bucket: bkt, to: ia }]";
const COOL: &str = "[{ id: cool, transitions: [{ to: ia, after: 30d }, { to: archive, after: 60d }] }]";

/// A tier that counts the packs that it is given, and can be down.
struct Cloud {
    tier: Arc<MemoryTier>,
    puts: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
}

impl Cloud {
    fn new() -> Self {
        let (puts, down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let tier = Arc::new(MemoryTier::new().unwrap());
        let (count, is_down) = (Arc::clone(&puts), Arc::clone(&down));
        tier.set_hook(move |operation, name, moment| {
            let put = matches!(operation, Operation::PutObject) && moment == Moment::Before;
            count.fetch_add(usize::from(put), Ordering::Relaxed);
            is_down.load(Ordering::Relaxed).then(|| TierError::plain(TierErrorKind::Unavailable, "call", name, "down"))
        });
        Self { tier, puts, down }
    }

    fn puts(&self) -> usize {
        self.puts.load(Ordering::Relaxed)
    }
}

fn bed(dir: &Path, cloud: &Cloud, protect: &str, rules: &str) -> Bed {
    let mut bed = Bed::new(dir, Arc::clone(&cloud.tier) as _);
    bed.others.insert("archive".to_owned(), Arc::new(MemoryTier::new().unwrap()));
    bed.policy = policy(protect, rules);
    bed.settings.tiering.linger_ms = 0;
    bed.settings.tiering.protect_linger_ms = 0;
    bed.settings.tiering.retry_min_ms = 10;
    bed
}

async fn opened(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    if engine.bucket("bkt").is_err() {
        engine.create_bucket("bkt").await.unwrap();
    }
    engine
}

async fn set_policy(engine: &Engine, protect: &str, rules: &str) {
    let text = policy(protect, rules);
    engine.set_policy(tidegate_policies::parse("p", &text).unwrap(), text).await.unwrap();
}

fn protect_stats(engine: &Engine) -> ProtectStats {
    engine.stats().unwrap().protect.unwrap_or_default()
}

fn is_protected(engine: &Engine, key: &str) -> bool {
    residency(engine, key) == Some(Residency::Protected { tier: "ia".into() })
}

async fn protected(engine: &Engine, keys: &[&str]) {
    until("the bodies are protected", || keys.iter().all(|key| is_protected(engine, key))).await;
}

fn hot(engine: &Engine, key: &str) -> bool {
    residency(engine, key) == Some(Residency::Hot)
}

fn cold_in(engine: &Engine, key: &str, tier: &str) -> bool {
    residency(engine, key) == Some(Residency::Cold { tier: tier.into() })
}

/// Drops what a tier has too, until nothing is left to drop.
async fn evict_all(engine: &Engine) {
    engine.evict(u64::MAX).await.unwrap();
}

fn local_chunks(engine: &Engine, key: &str) -> (u64, u64) {
    let status = engine.object_status("bkt", key).unwrap();
    (status.local_chunks, status.chunks)
}

/// Packs of a tier that are not on their way out.
fn packs(engine: &Engine, tier: &str) -> u64 {
    engine.stats().unwrap().tiers.iter().find(|t| t.name == tier).unwrap().packs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_soon_in_the_tier_as_well_stays_hot_to_clients_and_moves_there_without_an_upload() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let bed = bed(dir.path(), &cloud, ON, COOL);
    let engine = opened(&bed).await;
    put(&engine, "small", b"small").await.unwrap();
    put(&engine, "large", &noise(1, 9_000_000)).await.unwrap();
    put_parts(&engine, "parts", &[noise(2, 5 << 20), noise(3, 100)]).await.unwrap();
    let keys = ["small", "large", "parts"];
    let before: Vec<String> = keys.map(|key| seen(&engine, key)).into();
    protected(&engine, &keys).await;
    assert_eq!(keys.map(|key| seen(&engine, key)).to_vec(), before);
    let info = engine.open_object("bkt", "large").unwrap().info().clone();
    assert_eq!((info.class_shown.as_str(), info.restore), ("STANDARD", None));
    let stats = engine.stats().unwrap();
    assert_eq!((stats.hot.objects, stats.protected.objects, stats.cold.objects), (0, 3, 0));
    let protect = stats.protect.unwrap();
    assert_eq!((protect.lag_ms, protect.pending.objects, protect.tiers.len()), (0, 0, 1));
    let (local, all) = local_chunks(&engine, "large");
    assert_eq!(local, all, "it stays local");
    let next = engine.object_status("bkt", "large").unwrap();
    assert!(next.explanation.iter().any(|e| e.rule == "protect" && e.reason == "in ia: done"), "{next:?}");
    assert_eq!(next.next.unwrap().decision, "transition to ia");

    copy(&engine, "large", "copied", None).await.unwrap();
    let puts = cloud.puts();
    assert!(puts > 0);
    bed.clock.advance(31 * DAY);
    until("it is cold", || keys.iter().all(|key| cold_in(&engine, key, "ia"))).await;
    until("the copy is, too", || cold_in(&engine, "copied", "ia")).await;
    assert_eq!(cloud.puts(), puts, "all of it was there");
    evict_all(&engine).await;
    assert_eq!(get(&engine, "large").await.unwrap(), noise(1, 9_000_000));
    assert_eq!(get(&engine, "copied").await.unwrap(), noise(1, 9_000_000));
    bed.clock.advance(30 * DAY);
    until("it is in the next tier", || keys.iter().all(|key| cold_in(&engine, key, "archive"))).await;
    until("the copy is, too", || cold_in(&engine, "copied", "archive")).await;
    engine.gc(GcRequest::default()).await.unwrap();
    until("the packs of the first are gone", || packs(&engine, "ia") == 0).await;
    assert_eq!(get(&engine, "parts").await.unwrap(), [noise(2, 5 << 20), noise(3, 100)].concat());
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_or_delete_while_the_body_is_on_its_way_wins() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let bed = bed(dir.path(), &cloud, ON, "[]");
    let engine = opened(&bed).await;
    // The first upload waits until it is let through.
    let (begun, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (note, wait) = (Arc::clone(&begun), Arc::clone(&go));
    cloud.tier.set_hook(move |operation, _, moment| {
        if matches!(operation, Operation::PutObject) && moment == Moment::After && !note.swap(true, Ordering::AcqRel) {
            while !wait.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        None
    });
    put(&engine, "over", &noise(1, BODY)).await.unwrap();
    put(&engine, "gone", &noise(2, BODY)).await.unwrap();
    until("an upload is under way", || begun.load(Ordering::Acquire)).await;
    put(&engine, "over", &noise(3, BODY)).await.unwrap();
    engine.delete_object("bkt", "gone", DeleteRequest::default()).await.unwrap();
    go.store(true, Ordering::Release);
    protected(&engine, &["over"]).await;
    assert!(residency(&engine, "gone").is_none());
    until("nothing waits", || protect_stats(&engine).pending.objects == 0).await;
    evict_all(&engine).await;
    assert_eq!(get(&engine, "over").await.unwrap(), noise(3, BODY));
    // What the loser had uploaded, and what was deleted, does not stay.
    for _ in 0..2 {
        engine.gc(GcRequest::default()).await.unwrap();
    }
    until("one body is left in the tier", || {
        let stored = engine.stats().unwrap().tiers.iter().find(|t| t.name == "ia").unwrap().stored_bytes;
        stored < 2 * BODY as u64
    })
    .await;
    engine.delete_object("bkt", "over", DeleteRequest::default()).await.unwrap();
    engine.gc(GcRequest::default()).await.unwrap();
    until("nothing is left in the tier", || packs(&engine, "ia") == 0).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_tier_is_down_writes_go_on_and_the_lag_grows_and_then_it_catches_up() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let mut bed = bed(dir.path(), &cloud, ON, "[]");
    bed.settings.tiering.protect_warn_ms = 10_000;
    let engine = opened(&bed).await;
    cloud.down.store(true, Ordering::Relaxed);
    for n in 0..20 {
        put(&engine, &format!("k/{n}"), &noise(n, 1_000)).await.unwrap();
        bed.clock.advance(Duration::from_secs(1));
    }
    let stats = protect_stats(&engine);
    assert_eq!((stats.lag_ms, stats.pending), (20_000, Amount { objects: 20, bytes: 20_000 }));
    let warnings = engine.warnings();
    assert!(warnings.iter().any(|w| w.contains("20 objects (20000 bytes) of protected buckets")), "{warnings:?}");
    engine.refresh_metrics().unwrap();
    assert_eq!(bed.metric("tidegate_protect_lag_seconds", None), 20.0);
    assert_eq!(bed.metric("tidegate_protect_pending_objects", None), 20.0);
    assert_eq!(bed.metric("tidegate_protect_pending_bytes", None), 20_000.0);
    engine.delete_object("bkt", "k/0", DeleteRequest::default()).await.unwrap();
    assert_eq!(protect_stats(&engine).lag_ms, 19_000, "to the version, not to some bucket of time");
    // A restart knows what waits.
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    assert_eq!(protect_stats(&engine).pending, Amount { objects: 19, bytes: 19_000 });
    cloud.down.store(false, Ordering::Relaxed);
    let caught_up = || {
        bed.clock.advance(Duration::from_secs(1));
        protect_stats(&engine).pending.objects == 0
    };
    until("it has caught up", caught_up).await;
    assert_eq!(protect_stats(&engine).lag_ms, 0);
    assert!(engine.warnings().is_empty());
    assert!((1..20).all(|n| is_protected(&engine, &format!("k/{n}"))));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn turned_on_later_it_protects_what_is_there_and_turned_off_the_copies_go() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let bed = bed(dir.path(), &cloud, "[]", "[]");
    let engine = opened(&bed).await;
    let bodies: Vec<(String, Vec<u8>)> = (0..30).map(|n| (format!("k/{n}"), noise(n, 30_000))).collect();
    for (key, body) in &bodies {
        put(&engine, key, body).await.unwrap();
    }
    put(&engine, "large", &noise(99, 9_000_000)).await.unwrap();
    put_class(&engine, "cold", &noise(98, 1_000), Some("STANDARD_IA")).await.unwrap();
    until("the declared class is obeyed", || cold_in(&engine, "cold", "ia")).await;
    assert!(engine.stats().unwrap().protect.is_none(), "nobody asked for it");
    let keys: Vec<&str> = bodies.iter().map(|(key, _)| key.as_str()).chain(["large"]).collect();

    set_policy(&engine, ON, "[]").await;
    protected(&engine, &keys).await;
    assert!(cold_in(&engine, "cold", "ia"), "it is in a tier anyway");
    // Some of it is evicted: it comes back.
    evict_all(&engine).await;
    assert_eq!(local_chunks(&engine, "k/0").0, 0);
    set_policy(&engine, "[]", "[]").await;
    until("all is hot again", || keys.iter().all(|key| hot(&engine, key))).await;
    for _ in 0..2 {
        engine.gc(GcRequest::default()).await.unwrap();
    }
    evict_all(&engine).await;
    until("only what is cold is in the tier", || {
        engine.stats().unwrap().tiers.iter().find(|t| t.name == "ia").unwrap().stored_bytes < 10_000
    })
    .await;
    cloud.down.store(true, Ordering::Relaxed);
    for (key, body) in &bodies {
        assert_eq!(&get(&engine, key).await.unwrap(), body, "{key}");
    }
    assert_eq!(get(&engine, "large").await.unwrap(), noise(99, 9_000_000));
    cloud.down.store(false, Ordering::Relaxed);

    // To another tier, and there no old copy stays.
    set_policy(&engine, ON, "[]").await;
    protected(&engine, &keys).await;
    set_policy(&engine, "[{ bucket: 'b*', to: archive }]", "[]").await;
    let there = Residency::Protected { tier: "archive".into() };
    until("the other tier has it", || keys.iter().all(|key| residency(&engine, key).as_ref() == Some(&there))).await;
    engine.gc(GcRequest::default()).await.unwrap();
    evict_all(&engine).await;
    for (key, body) in &bodies {
        assert_eq!(&get(&engine, key).await.unwrap(), body, "{key}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_races_with_sweeps_loses_nothing() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let bed = bed(dir.path(), &cloud, ON, "[]");
    let engine = opened(&bed).await;
    let keys: Vec<String> = (0..60).map(|n| format!("k/{n}")).collect();
    for (n, key) in keys.iter().enumerate() {
        put(&engine, key, &noise(n as u64, 50_000)).await.unwrap();
    }
    for round in 0..4 {
        until("all is protected", || keys.iter().all(|key| is_protected(&engine, key))).await;
        let sweeper = engine.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sweeping = tokio::spawn(async move {
            while !stopped.load(Ordering::Acquire) {
                sweeper.evict(u64::MAX).await.unwrap();
            }
        });
        set_policy(&engine, "[]", "[]").await;
        until("all is hot again", || keys.iter().all(|key| hot(&engine, key))).await;
        stop.store(true, Ordering::Release);
        sweeping.await.unwrap();
        cloud.down.store(true, Ordering::Relaxed);
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(get(&engine, key).await.unwrap(), noise(n as u64, 50_000), "{key} in round {round}");
        }
        cloud.down.store(false, Ordering::Relaxed);
        set_policy(&engine, ON, "[]").await;
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pressure_takes_protected_bodies_last_and_without_an_upload() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let mut bed = bed(dir.path(), &cloud, ON, "[]");
    (bed.settings.disk.max_bytes, bed.settings.disk.compaction_reserve) = (24_000_000, 4_000_000);
    bed.settings.local.pack_bytes = 1_000_000;
    let engine = opened(&bed).await;
    // First what is kept, then what is a mere cache: by age alone the wrong one would go.
    for n in 0..40 {
        put(&engine, &format!("hot/{n}"), &noise(n, BODY)).await.unwrap();
    }
    until("it is protected", || protect_stats(&engine).protected.objects == 40).await;
    for n in 0..40 {
        put_class(&engine, &format!("cold/{n}"), &noise(100 + n, BODY), Some("STANDARD_IA")).await.unwrap();
    }
    until("it is cold", || engine.stats().unwrap().cold.objects == 40).await;
    let puts = cloud.puts();
    engine.evict(7_000_000).await.unwrap();
    let local = |front: &str, n: u64| local_chunks(&engine, &format!("{front}/{n}")).0 > 0;
    assert!((0..40).all(|n| local("hot", n)), "clean cache goes first");
    assert!((0..40).filter(|n| local("cold", *n)).count() <= 10);
    // More than the cache has.
    let report = engine.evict(6_000_000).await.unwrap();
    assert!(report.freed_bytes >= 5_000_000, "{report:?}");
    assert!((0..40).all(|n| !local("cold", n)));
    let gone = (0..40).filter(|n| !local("hot", *n)).count();
    assert!((10..40).contains(&gone), "{gone} protected bodies went");
    assert!((0..40).all(|n| is_protected(&engine, &format!("hot/{n}"))), "they stay protected");
    assert_eq!(cloud.puts(), puts, "no upload");
    for n in 0..40 {
        assert_eq!(get(&engine, &format!("hot/{n}")).await.unwrap(), noise(n, BODY));
    }
    assert!((0..40).all(|n| local("hot", n)), "what is read comes back");
    // And clients who write more than the disk holds are served all the same.
    for n in 0..150 {
        while let Err(e) = put(&engine, &format!("more/{n}"), &noise(1_000 + n, BODY)).await {
            assert!(matches!(e, EngineError::SlowDown(_)), "{e}");
            bed.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(get(&engine, "more/0").await.unwrap(), noise(1_000, BODY));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_level_evicts_protected_bodies_and_moves_only_what_is_hot_alone() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let rules = "[{ id: full, transitions: [{ to: archive, whenFull: 40% }] }]";
    let mut bed = bed(dir.path(), &cloud, ON, rules);
    (bed.settings.disk.max_bytes, bed.settings.disk.compaction_reserve) = (24_000_000, 4_000_000);
    bed.settings.local.pack_bytes = 1_000_000;
    let engine = opened(&bed).await;
    for n in 0..60 {
        put(&engine, &format!("k/{n}"), &noise(n, BODY)).await.unwrap();
        let key = format!("k/{n}");
        until("it is protected", || is_protected(&engine, &key)).await;
    }
    let puts = cloud.puts();
    let below = || {
        bed.clock.advance(Duration::from_secs(11));
        engine.stats().unwrap().disk.used_bytes < 8_000_000
    };
    until("the disk is below the level", below).await;
    let stats = engine.stats().unwrap();
    assert_eq!((stats.cold.objects, stats.protected.objects), (0, 60), "nothing moved");
    assert_eq!((cloud.puts(), packs(&engine, "archive")), (puts, 0));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_of_a_protected_body_heals_from_the_tier() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let mut bed = bed(dir.path(), &cloud, ON, "[]");
    bed.settings.tiering.recall = Recall::Stream;
    let engine = opened(&bed).await;
    let body = noise(1, 400_000);
    put(&engine, "k", &body).await.unwrap();
    protected(&engine, &["k"]).await;
    engine.shutdown().await.unwrap();
    let (path, at) = frames(&bed.dir, |e| e.kind == FrameKind::Chunk).remove(0);
    rot(&path, at);
    let engine = bed.open().await;
    assert_eq!(get(&engine, "k").await.unwrap(), body);
    assert!(bed.metric("tidegate_recalled_bytes_total", None) > 0.0, "a chunk came from the tier");
    let (local, all) = local_chunks(&engine, "k");
    assert_eq!(local, all, "a sound frame is in its place");
    cloud.down.store(true, Ordering::Relaxed);
    assert_eq!(get(&engine, "k").await.unwrap(), body);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_begins_again_and_leaves_no_orphan() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let bed = bed(dir.path(), &cloud, ON, "[]");
    let engine = opened(&bed).await;
    // The answers of uploads are lost.
    cloud.tier.set_hook(|operation, name, moment| {
        (matches!(operation, Operation::PutObject) && moment == Moment::After)
            .then(|| TierError::plain(TierErrorKind::Unavailable, "put", name, "the answer was lost"))
    });
    for n in 0..5 {
        put(&engine, &format!("k/{n}"), &noise(n, BODY)).await.unwrap();
    }
    until("an upload failed", || engine.tier_report("ia").unwrap().last_error.is_some()).await;
    assert_eq!(protect_stats(&engine).pending.objects, 5);
    engine.shutdown().await.unwrap();
    cloud.tier.clear_hook();
    let engine = bed.open().await;
    let all = || {
        bed.clock.advance(Duration::from_secs(1));
        (0..5).all(|n| is_protected(&engine, &format!("k/{n}")))
    };
    until("all is protected", all).await;
    let idle = || engine.stats().unwrap().jobs.is_empty();
    until("what failed is deleted", idle).await;
    let request = FsckRequest { local: true, ..Default::default() };
    let estimate = engine.fsck_estimate(&request, |_| None).unwrap();
    let report = engine.fsck(&request, estimate, |_| {}).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_protections_and_what_they_cost() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let mut bed = bed(dir.path(), &cloud, ON, COOL);
    bed.policy =
        bed.policy.replace("name: ia", "name: ia, class: IA").replace("name: archive", "name: archive, class: Archive");
    cloud.down.store(true, Ordering::Relaxed);
    let engine = opened(&bed).await;
    put(&engine, "k", &noise(1, 8 << 20)).await.unwrap();
    let plan = |days: u64| engine.plan(&PlanRequest { horizon_ms: days * 86_400_000, ..Default::default() }).unwrap();
    let report = plan(1);
    assert_eq!((report.protections.objects, report.transitions.objects), (1, 0));
    assert_eq!(report.actions[0].decision, "protect in ia");
    let cost = report.cost.unwrap();
    let (hot, ia) = (0.12 / 128.0, 0.08 / 128.0);
    assert!((cost.storage_month_before - hot).abs() < 1e-8 && cost.requests > 0.0, "{cost:?}");
    assert!((cost.storage_month_after - hot - ia).abs() < 1e-8, "both are stored: {cost:?}");
    let report = plan(31);
    assert_eq!((report.protections.objects, report.transitions.objects), (1, 1));
    let later = report.cost.unwrap();
    assert!((later.requests - cost.requests).abs() < 1e-9, "one upload: {later:?}");
    assert!((later.storage_month_after - ia).abs() < 1e-8, "{later:?}");
    assert_eq!(later.early_deletion, 0.0);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_cannot_be_read_at_once_protects_nothing() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let mut bed = bed(dir.path(), &cloud, "[]", "[]");
    let frozen = common::FrozenTier::new(Arc::clone(&cloud.tier) as _, Arc::clone(&bed.clock));
    bed.others.insert("archive".to_owned(), Arc::new(frozen));
    let engine = opened(&bed).await;
    let text = policy("[{ bucket: bkt, to: archive }]", "[]");
    let error = engine.set_policy(tidegate_policies::parse("p", &text).unwrap(), text.clone()).await.unwrap_err();
    assert!(error.to_string().contains("archive") && error.to_string().contains("online"), "{error}");
    engine.shutdown().await.unwrap();
    bed.policy = text;
    assert!(bed.try_open().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_does_not_wait_for_a_tier_that_is_down() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::new());
    let bed = bed(dir.path(), &cloud, ON, "[{ id: end, expiration: { after: 5d } }]");
    let engine = opened(&bed).await;
    cloud.down.store(true, Ordering::Relaxed);
    put(&engine, "k", &noise(1, 1_000)).await.unwrap();
    until("an upload failed", || engine.tier_report("ia").unwrap().last_error.is_some()).await;
    bed.clock.advance(6 * DAY);
    until("it has expired", || residency(&engine, "k").is_none()).await;
    assert_eq!(protect_stats(&engine).pending.objects, 0);
    engine.shutdown().await.unwrap();
}
