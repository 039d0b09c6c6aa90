//! The namespace in the cloud: shipped, fenced, recovered.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, FrozenTier, copy_all, get, list_all, noise, put, put_class, residency, seen, shipped, until};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{
    BodyExpectation, CreateUpload, DeleteRequest, Engine, EngineError, GcRequest, ObjectAttributes, RecoveryStats,
    Residency, RestoreRequest, UploadPart, VersionRef,
};
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::recovery::{
    MissingObject, RecoverReport, RecoverRequest, RecoveryError, RecoverySettings, recover,
};
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};
use tidegate_tiering::tier::{Operation, RestorePriority, Tier, TierError, TierErrorKind, TierMetrics};

fn memory() -> Arc<MemoryTier> {
    Arc::new(MemoryTier::new().unwrap())
}

fn settings() -> RecoverySettings {
    RecoverySettings { rpo: Duration::from_millis(20), keep: Duration::ZERO, ..RecoverySettings::to("ia") }
}

fn bed(dir: &Path, tier: &Arc<MemoryTier>) -> Bed {
    let mut bed = Bed::new(dir, Arc::clone(tier) as _);
    bed.settings.recovery = Some(settings());
    bed
}

fn stats(engine: &Engine) -> RecoveryStats {
    engine.stats().unwrap().recovery.unwrap()
}

/// Key, ETag, size, what clients see.
fn digest(engine: &Engine) -> BTreeMap<String, String> {
    list_all(engine, 100).into_iter().map(|o| (o.key.clone(), seen(engine, &o.key))).collect()
}

struct Recovery<'a> {
    bed: &'a Bed,
    to: &'a Path,
    at: Option<Timestamp>,
    dry_run: bool,
}

impl Recovery<'_> {
    async fn run(&self) -> Result<(RecoverReport, Vec<MissingObject>), RecoveryError> {
        let mut tiers = self.bed.others.clone();
        tiers.insert("ia".to_owned(), Arc::clone(&self.bed.tier));
        let request = RecoverRequest {
            from: "ia".into(),
            tiers: &tiers,
            deployment: None,
            data_dir: self.to.to_owned(),
            at: self.at,
            dry_run: self.dry_run,
            settings: MetaSettings::default(),
            clock: Arc::clone(&self.bed.clock) as _,
        };
        let mut missing = Vec::new();
        let report = recover(&request, &mut |_| {}, &mut |object| missing.push(object.clone())).await?;
        Ok((report, missing))
    }
}

fn latest<'a>(bed: &'a Bed, to: &'a Path) -> Recovery<'a> {
    Recovery { bed, to, at: None, dry_run: false }
}

/// Ten objects in the tier, ten on local disks, one deleted.
async fn load(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..10 {
        put(&engine, &format!("cold/{n}"), &noise(n, 30_000)).await.unwrap();
        put(&engine, &format!("hot/{n}"), &noise(100 + n, 20_000)).await.unwrap();
    }
    put(&engine, "cold/large", &noise(77, 9_000_000)).await.unwrap();
    put(&engine, "gone", b"gone").await.unwrap();
    engine.delete_object("bkt", "gone", DeleteRequest::default()).await.unwrap();
    bed.clock.advance(DAY * 31);
    let month = bed.clock.now();
    let cold = |key: &str| matches!(residency(&engine, key), Some(Residency::Cold { .. }));
    until("the cold ones are cold", || {
        bed.clock.advance(Duration::from_secs(60));
        (0..10).all(|n| cold(&format!("cold/{n}"))) && cold("cold/large")
    })
    .await;
    until("the snapshot that a month makes due", || last_snapshot(bed) >= month.seconds()).await;
    shipped(&engine).await;
    engine
}

/// When the last snapshot in the tier began, in seconds.
fn last_snapshot(bed: &Bed) -> u64 {
    bed.metric("tidegate_recovery_last_snapshot_timestamp_seconds", None) as u64
}

async fn bytes_of(tier: &MemoryTier, name: &str) -> Vec<u8> {
    let size = tier.head(name).await.unwrap().size;
    let mut stream = tier.get(name, 0..size).await.unwrap();
    let mut all = Vec::new();
    while let Some(bytes) = futures::StreamExt::next(&mut stream).await {
        all.extend_from_slice(&bytes.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_comes_back_and_the_old_store_is_fenced() {
    let (old_dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let old_bed = bed(old_dir.path(), &tier);
    let old = load(&old_bed).await;
    let before = digest(&old);
    assert_eq!(before.len(), 21);

    let (report, missing) = latest(&old_bed, new_dir.path()).run().await.unwrap();
    assert_eq!(report.found.objects, 21);
    assert_eq!((report.found.missing_objects, report.found.missing_packs, report.found.unknown_objects), (10, 0, 0));
    let keys: Vec<String> = missing.iter().map(|m| m.key.clone()).collect();
    assert_eq!(keys, (0..10).map(|n| format!("hot/{n}")).collect::<Vec<_>>());
    let listed = std::fs::read_to_string(report.missing_list.unwrap()).unwrap();
    assert_eq!(listed.lines().count(), 10);

    let new_bed = bed(new_dir.path(), &tier);
    let new = new_bed.open().await;
    assert_eq!(digest(&new), before, "nothing is lost and nothing comes back from the dead");
    for n in 0..10 {
        assert_eq!(get(&new, &format!("cold/{n}")).await.unwrap(), noise(n, 30_000));
        let error = get(&new, &format!("hot/{n}")).await.unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt(what) if what.contains("disk that was lost")), "{error}");
    }
    assert_eq!(get(&new, "cold/large").await.unwrap(), noise(77, 9_000_000));
    // The same bytes again heal it.
    put(&new, "hot/0", &noise(100, 20_000)).await.unwrap();
    assert_eq!(get(&new, "hot/0").await.unwrap(), noise(100, 20_000));
    shipped(&new).await;

    // The old one is not told by anybody.
    until("the old store notices", || old.writes_refused().is_some()).await;
    let error = put(&old, "late", b"late").await.unwrap_err();
    assert!(error.to_string().contains("another store took this one's place"), "{error}");
    assert_eq!(get(&old, "hot/3").await.unwrap(), noise(103, 20_000), "reads go on");
    assert!(old_bed.metric("tidegate_recovery_fenced", None) > 0.0);
    assert!(stats(&old).fenced.is_some());
    old.shutdown().await.unwrap();
    let again = old_bed.open().await;
    assert!(again.writes_refused().is_some(), "also after a restart, before it serves");
    assert_eq!(get(&again, "hot/3").await.unwrap(), noise(103, 20_000));
    again.shutdown().await.unwrap();
    put(&new, "after", b"after").await.unwrap();
    new.shutdown().await.unwrap();

    // And once more, from what the second one shipped.
    let third_dir = tempfile::tempdir().unwrap();
    latest(&new_bed, third_dir.path()).run().await.unwrap();
    let third = bed(third_dir.path(), &tier).open().await;
    assert_eq!(digest(&third).len(), 22);
    third.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_not_noticed_in_time_to_be_fenced_is_not_recovered_twice() {
    let (old_dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let old_bed = bed(old_dir.path(), &tier);
    let old = load(&old_bed).await;
    latest(&old_bed, new_dir.path()).run().await.unwrap();
    // The old one writes before it looks at the claims: the record stays on its disk.
    let _ = put(&old, "late", b"late").await;
    until("the old store notices", || old.writes_refused().is_some()).await;
    old.shutdown().await.unwrap();
    let pieces = tier.list("meta/", None, 1000).await.unwrap().into_iter().filter(|m| m.name.contains("/journal/"));
    for piece in pieces {
        let bytes = bytes_of(&tier, &piece.name).await;
        assert!(!bytes.windows(4).any(|w| w == b"late"), "{}", piece.name);
    }
    let new = bed(new_dir.path(), &tier).open().await;
    assert_eq!(residency(&new, "late"), None);
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_the_same_and_leaves_nothing() {
    let (old_dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let old_bed = bed(old_dir.path(), &tier);
    let old = load(&old_bed).await;
    let to = new_dir.path().join("data");
    let dry = Recovery { dry_run: true, ..latest(&old_bed, &to) };
    let (report, missing) = dry.run().await.unwrap();
    assert_eq!((report.term, report.found.objects, missing.len()), (0, 21, 10));
    assert_eq!(std::fs::read_dir(new_dir.path()).unwrap().count(), 0);
    put(&old, "still", b"mine").await.unwrap();
    shipped(&old).await;
    assert_eq!(old.writes_refused(), None);
    old.shutdown().await.unwrap();
    // Nobody else writes there now.
    let names = tier.list("", None, 1000).await.unwrap();
    assert_eq!(dry.run().await.unwrap().0.found.objects, 22);
    assert_eq!(tier.list("", None, 1000).await.unwrap(), names);
    assert_eq!(std::fs::read_dir(new_dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_moment_comes_back_as_it_was() {
    let (old_dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let mut old_bed = bed(old_dir.path(), &tier);
    old_bed.settings.recovery.as_mut().unwrap().keep = DAY * 7;
    let old = load(&old_bed).await;
    let before = digest(&old);
    let at = old_bed.clock.now();
    old_bed.clock.advance(Duration::from_secs(10));
    for n in 0..10 {
        old.delete_object("bkt", &format!("cold/{n}"), DeleteRequest::default()).await.unwrap();
    }
    put(&old, "later", b"later").await.unwrap();
    old.gc(GcRequest { dry_run: false }).await.unwrap();
    shipped(&old).await;
    old.shutdown().await.unwrap();

    let (report, missing) = Recovery { at: Some(at), ..latest(&old_bed, new_dir.path()) }.run().await.unwrap();
    assert!(report.until <= at);
    assert_eq!(missing.len(), 10, "packs are kept as long as a moment that needs them can be recovered");
    let new_bed = bed(new_dir.path(), &tier);
    let new = new_bed.open().await;
    assert_eq!(digest(&new), before);
    for n in 0..10 {
        assert_eq!(get(&new, &format!("cold/{n}")).await.unwrap(), noise(n, 30_000));
    }
    put(&new, "branch", b"branch").await.unwrap();
    shipped(&new).await;
    new.shutdown().await.unwrap();

    // From here on the branch counts.
    let third_dir = tempfile::tempdir().unwrap();
    latest(&new_bed, third_dir.path()).run().await.unwrap();
    let third = bed(third_dir.path(), &tier).open().await;
    let keys = digest(&third);
    assert!(keys.contains_key("branch") && !keys.contains_key("later"));
    third.shutdown().await.unwrap();
    let nowhere = third_dir.path().join("x");
    let too_early = Recovery { at: Some(Timestamp(1)), ..latest(&old_bed, &nowhere) };
    let terms = tier.list("meta/", None, 1000).await.unwrap().len();
    let error = too_early.run().await.unwrap_err();
    assert_eq!(tier.list("meta/", None, 1000).await.unwrap().len(), terms, "nobody is fenced for nothing");
    assert!(error.to_string().contains("the earliest moment"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_recovery_goes_on_and_is_not_served_from_before() {
    let (old_dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let old_bed = bed(old_dir.path(), &tier);
    let old = load(&old_bed).await;
    for n in 0..3 {
        // A piece of journal each, however slow or fast this machine is.
        put(&old, &format!("piece/{n}"), b"x").await.unwrap();
        shipped(&old).await;
    }
    let before = digest(&old);
    old.shutdown().await.unwrap();
    let allowed = Arc::new(AtomicU64::new(1));
    let left = Arc::clone(&allowed);
    tier.set_hook(move |operation, name, moment| {
        let counts = operation == Operation::GetObject && moment == Moment::Before && name.contains("/journal/");
        let spent = counts && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err();
        spent.then(|| TierError::plain(TierErrorKind::Unavailable, "get", name, "away"))
    });
    let recovery = latest(&old_bed, new_dir.path());
    assert!(matches!(recovery.run().await, Err(RecoveryError::Tier(_))));
    let new_bed = bed(new_dir.path(), &tier);
    let error = new_bed.try_open().await.unwrap_err();
    assert!(error.to_string().contains("not finished"), "{error}");
    let claims = tier.list("meta/", None, 1000).await.unwrap().iter().filter(|m| m.name.contains("/terms/")).count();
    let mut tries = 0;
    while recovery.run().await.is_err() {
        allowed.store(1, Ordering::SeqCst);
        tries += 1;
        assert!(tries < 200, "it gets on");
    }
    assert!(tries > 1, "what was fetched once is not fetched again");
    let now = tier.list("meta/", None, 1000).await.unwrap().iter().filter(|m| m.name.contains("/terms/")).count();
    assert_eq!(claims, now, "one recovery is one claim");
    tier.clear_hook();
    let new = new_bed.open().await;
    assert_eq!(digest(&new), before);
    new.shutdown().await.unwrap();
    let error = recovery.run().await.unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

fn away(tier: &MemoryTier) -> Arc<AtomicBool> {
    let away = Arc::new(AtomicBool::new(false));
    let is = Arc::clone(&away);
    tier.set_hook(move |_, name, moment| {
        let fails = is.load(Ordering::SeqCst) && moment == Moment::Before;
        fails.then(|| TierError::plain(TierErrorKind::Unavailable, "any", name, "away"))
    });
    away
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_cloud_is_away_commits_go_on_and_the_lag_shows() {
    let (dir, tier) = (tempfile::tempdir().unwrap(), memory());
    let mut bed = bed(dir.path(), &tier);
    bed.settings.recovery.as_mut().unwrap().warn_after = Duration::from_secs(5);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    shipped(&engine).await;
    let gone = away(&tier);
    gone.store(true, Ordering::SeqCst);
    for n in 0..20 {
        put(&engine, &format!("k/{n}"), &noise(n, 1_000)).await.unwrap();
    }
    until("an attempt has failed", || stats(&engine).last_error.is_some()).await;
    bed.clock.advance(Duration::from_secs(10));
    assert!(stats(&engine).lag_records >= 20 && stats(&engine).lag_ms >= 10_000);
    assert!(engine.warnings()[0].contains("behind"), "{:?}", engine.warnings());
    until("the metric says so", || bed.metric("tidegate_recovery_lag_seconds", None) >= 10.0).await;
    gone.store(false, Ordering::SeqCst);
    shipped(&engine).await;
    assert_eq!((engine.warnings(), engine.writes_refused()), (vec![], None));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_its_bound_is_replaced_by_a_snapshot() {
    let (dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let mut bed = bed(dir.path(), &tier);
    bed.settings.recovery.as_mut().unwrap().max_backlog_bytes = 0;
    (bed.settings.meta.segment_bytes, bed.settings.meta.fill_ahead_bytes) = (4096, 0);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    shipped(&engine).await;
    let gone = away(&tier);
    gone.store(true, Ordering::SeqCst);
    for round in 0..4 {
        for n in 0..30 {
            put(&engine, &format!("k/{round}/{n}"), &noise(n, 100)).await.unwrap();
        }
        engine.snapshot().await.unwrap();
    }
    let before = digest(&engine);
    gone.store(false, Ordering::SeqCst);
    shipped(&engine).await;
    put(&engine, "last", b"last").await.unwrap();
    shipped(&engine).await;
    engine.shutdown().await.unwrap();
    let (report, _) = latest(&bed, new_dir.path()).run().await.unwrap();
    assert!(report.snapshot.is_some());
    assert_eq!(report.found.objects, before.len() as u64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_journal_and_snapshots_go_and_what_is_needed_stays() {
    let (dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let mut bed = bed(dir.path(), &tier);
    bed.settings.recovery.as_mut().unwrap().snapshot_after_objects = 3;
    bed.settings.recovery.as_mut().unwrap().keep = Duration::from_secs(3600);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let meta = |part: &'static str| {
        let tier = Arc::clone(&tier);
        async move { tier.list("meta/", None, 1000).await.unwrap().iter().filter(|m| m.name.contains(part)).count() }
    };
    // Snapshots are made beside the pieces. The second one from the fortieth piece on begins behind that, however long each takes.
    let (mut n, mut wanted) = (0, 3);
    while n < 40 || meta("/snapshots/").await < wanted {
        put(&engine, &format!("k/{n}"), &noise(n, 1_000)).await.unwrap();
        shipped(&engine).await;
        n += 1;
        if n == 40 {
            wanted = wanted.max(meta("/snapshots/").await + 2);
        }
        assert!(n < 1_000, "{wanted} snapshots were not made");
    }
    let (most, snapshots) = (meta("/journal/").await, meta("/snapshots/").await);
    assert!(snapshots >= 3 && most > 30, "{snapshots} snapshots, {most} pieces");
    bed.clock.advance(DAY);
    let (day, end) = (bed.clock.now(), n + 10);
    while n < end || last_snapshot(&bed) < day.seconds() {
        put(&engine, &format!("k/{n}"), &noise(n, 1_000)).await.unwrap();
        shipped(&engine).await;
        n += 1;
        assert!(n < 1_000, "no snapshot was made");
    }
    let mut left = most;
    for _ in 0..18_000 {
        left = meta("/journal/").await;
        if left < most / 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(left < most / 2, "{left} of {most} pieces are left");
    assert!(meta("/snapshots/").await >= 2);
    let before = digest(&engine);
    engine.shutdown().await.unwrap();
    let (report, _) = latest(&bed, new_dir.path()).run().await.unwrap();
    assert_eq!(report.found.objects, before.len() as u64);
    let new = Bed { settings: bed.settings.clone(), ..Bed::new(new_dir.path(), Arc::clone(&tier) as _) };
    let mut new = new;
    new.settings.data_dir = new_dir.path().to_owned();
    let engine = new.open().await;
    assert_eq!(digest(&engine), before);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_is_deleted_only_after_its_end_was_shipped() {
    let (dir, tier) = (tempfile::tempdir().unwrap(), memory());
    let bed = bed(dir.path(), &tier);
    let engine = load(&bed).await;
    let packs = || async { tier.list("packs/", None, 1000).await.unwrap().len() };
    let before = packs().await;
    let stuck = Arc::new(AtomicBool::new(true));
    let is = Arc::clone(&stuck);
    tier.set_hook(move |operation, name, moment| {
        let fails = is.load(Ordering::SeqCst) && moment == Moment::Before && operation == Operation::PutObject;
        let fails = fails && name.starts_with("meta/");
        fails.then(|| TierError::plain(TierErrorKind::Unavailable, "put", name, "away"))
    });
    for key in digest(&engine).into_keys().filter(|key| key.starts_with("cold/")) {
        engine.delete_object("bkt", &key, DeleteRequest::default()).await.unwrap();
    }
    engine.gc(GcRequest { dry_run: false }).await.unwrap();
    until("an attempt has failed", || stats(&engine).last_error.is_some()).await;
    assert_eq!(packs().await, before);
    stuck.store(false, Ordering::SeqCst);
    shipped(&engine).await;
    for _ in 0..18_000 {
        bed.clock.advance(Duration::from_secs(60));
        engine.run_due_now().unwrap();
        if packs().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(packs().await, 0);
    engine.shutdown().await.unwrap();
}

fn five_days() -> RestoreRequest {
    RestoreRequest {
        bucket: "bkt".into(),
        key: "a".into(),
        version: VersionRef::Current,
        days: 5,
        priority: RestorePriority::Standard,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_copies_and_parts_that_are_lost_are_taken_back() {
    let (dir, new_dir, tier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), memory());
    let mut old_bed = bed(dir.path(), &tier);
    let frozen = Arc::new(FrozenTier::new(memory(), Arc::clone(&old_bed.clock)));
    old_bed.others.insert("archive".into(), Arc::clone(&frozen) as _);
    let engine = old_bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "a", &noise(1, 50_000), Some("GLACIER")).await.unwrap();
    put_class(&engine, "b", &noise(2, 50_000), Some("GLACIER")).await.unwrap();
    until("they are archived", || {
        old_bed.clock.advance(Duration::from_secs(60));
        ["a", "b"].iter().all(|k| matches!(residency(&engine, k), Some(Residency::Cold { .. })))
    })
    .await;
    engine.restore_object(five_days()).await.unwrap();
    until("one is restored", || {
        old_bed.clock.advance(Duration::from_secs(60));
        matches!(residency(&engine, "a"), Some(Residency::Restored { .. }))
    })
    .await;
    let create =
        CreateUpload { bucket: "bkt".into(), key: "u".into(), attributes: ObjectAttributes::default(), checksum: None };
    let upload_id = engine.create_upload(create).await.unwrap();
    let part =
        UploadPart { bucket: "bkt".into(), key: "u".into(), upload_id, number: 1, expect: BodyExpectation::default() };
    engine.upload_part(part, common::body(&noise(3, 10_000))).await.unwrap();
    shipped(&engine).await;
    engine.shutdown().await.unwrap();
    let (report, missing) = latest(&old_bed, new_dir.path()).run().await.unwrap();
    assert_eq!((report.found.restored_again_cold, report.found.missing_parts, report.found.uploads), (1, 1, 1));
    assert_eq!(missing, vec![]);
    let mut new_bed = bed(new_dir.path(), &tier);
    new_bed.clock = Arc::clone(&old_bed.clock);
    new_bed.others.insert("archive".into(), frozen);
    let new = new_bed.open().await;
    assert!(matches!(residency(&new, "a"), Some(Residency::Cold { .. })));
    assert!(matches!(get(&new, "a").await, Err(EngineError::InvalidObjectState { .. })));
    new.restore_object(five_days()).await.unwrap();
    until("it is restored again", || {
        new_bed.clock.advance(Duration::from_secs(60));
        matches!(residency(&new, "a"), Some(Residency::Restored { .. }))
    })
    .await;
    assert_eq!(get(&new, "a").await.unwrap(), noise(1, 50_000));
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_does_as_well_and_a_copy_of_the_disk_is_fenced() {
    let (dir, copy, new_dir) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let settings_of = DirectorySettings { path: folder.path().to_owned() };
    let tier: Arc<dyn Tier> =
        Arc::new(ObjectTier::directory("ia", &settings_of, TierMetrics::new("ia", None).unwrap()).unwrap());
    let mut old_bed = Bed::new(dir.path(), Arc::clone(&tier));
    old_bed.settings.recovery = Some(settings());
    let old = load(&old_bed).await;
    let before = digest(&old);
    old.shutdown().await.unwrap();
    copy_all(dir.path(), copy.path());
    // The original goes on; its copy must not.
    let old = old_bed.open().await;
    put(&old, "more", b"more").await.unwrap();
    shipped(&old).await;
    let mut twin = Bed::new(copy.path(), Arc::clone(&tier));
    twin.settings.recovery = Some(settings());
    let engine = twin.open().await;
    assert!(engine.writes_refused().is_some());
    assert_eq!(get(&engine, "cold/1").await.unwrap(), noise(1, 30_000));
    engine.shutdown().await.unwrap();
    assert_eq!(old.writes_refused(), None);
    old.shutdown().await.unwrap();
    latest(&old_bed, new_dir.path()).run().await.unwrap();
    let mut new_bed = Bed::new(new_dir.path(), tier);
    new_bed.settings.recovery = Some(settings());
    let new = new_bed.open().await;
    assert_eq!(digest(&new).len(), before.len() + 1);
    new.shutdown().await.unwrap();
}
