//! A lost disk: retentions, holds and the lock of the bucket come back, from what was shipped and from packs alone.

use super::common::shipped;
use super::*;
use std::collections::BTreeMap;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::recovery::{FromPacks, RecoverRequest, RecoverySettings, recover, recover_from_packs};

const DEFAULT: DefaultRetention = DefaultRetention { mode: Governance, period: Period::Years(1) };

/// A version that is retained and one that is held, both below newer ones and in the tier.
async fn load(bed: &Bed, engine: &Engine) -> [(&'static str, VersionId); 2] {
    let lock = BucketLock { default: Some(DEFAULT) };
    engine.set_object_lock("bkt", lock).await.unwrap();
    let retained = put_locked(engine, "r", &noise(1, 30_000), (days(Compliance, 60), None)).await.unwrap().version;
    let held = put_locked(engine, "h", &noise(2, 30_000), (days(Governance, 1), None)).await.unwrap().version;
    for key in ["r", "h"] {
        put(engine, key, b"newer").await.unwrap();
    }
    // Long enough to move, too short to end.
    bed.clock.advance(DAY * 3 / 2);
    work(engine).await;
    // What was moved is told of again when its lock changes.
    let before = engine.tier_packs("ia", None, 100).unwrap().len();
    engine.set_retention(("bkt", "r"), id(retained), days(Compliance, 90), false).await.unwrap();
    engine.set_legal_hold(("bkt", "h"), id(held), true).await.unwrap();
    work(engine).await;
    assert_eq!(engine.tier_packs("ia", None, 100).unwrap().len(), before + 1, "one pack tells of both");
    engine.gc(GcRequest::default()).await.unwrap();
    work(engine).await;
    [("r", retained), ("h", held)]
}

fn bed_beside(dir: &Path, old: &Bed) -> Bed {
    let mut new = bed(dir);
    new.tier = Arc::clone(&old.tier);
    new.clock = Arc::clone(&old.clock);
    new
}

async fn check(bed: &Bed, engine: &Engine, versions: [(&'static str, VersionId); 2]) {
    let settings = engine.bucket("bkt").unwrap().settings;
    assert_eq!(settings.object_lock().unwrap(), Some(BucketLock { default: Some(DEFAULT) }));
    assert_eq!(settings.versioning, Versioning::Enabled);
    for _ in 0..3 {
        bed.clock.advance(DAY * 20);
        work(engine).await;
        engine.gc(GcRequest::default()).await.unwrap();
        for (n, (key, version)) in versions.into_iter().enumerate() {
            assert!(is_locked(&remove(engine, key, id(version), true).await), "{key}");
            assert_eq!(get_version(engine, key, id(version)).await.unwrap(), noise(n as u64 + 1, 30_000));
        }
    }
    let [r, h] = versions.map(|(key, version)| attributes(engine, key, id(version)));
    assert_eq!((r.retention, r.legal_hold), (days(Compliance, 90), None));
    assert_eq!((h.retention, h.legal_hold), (days(Governance, 1), Some(true)));
    bed.clock.advance(DAY * 40);
    work(engine).await;
    assert!(engine.open_version("bkt", "r", id(versions[0].1)).is_err(), "after its time a rule takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_brings_locks_back() {
    let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut old_bed = bed(old_dir.path());
    let settings = RecoverySettings { rpo: Duration::from_millis(20), ..RecoverySettings::to("ia") };
    old_bed.settings.recovery = Some(settings.clone());
    let old = locked(&old_bed).await;
    let versions = load(&old_bed, &old).await;
    // What changes afterwards is shipped like anything else.
    old.set_retention(("bkt", "r"), id(versions[0].1), days(Compliance, 80), false).await.unwrap_err();
    while old.step(Step::Ship).await {}
    old.step(Step::Ship).await;
    shipped(&old).await;
    let tiers = BTreeMap::from([("ia".to_owned(), Arc::clone(&old_bed.tier))]);
    let request = RecoverRequest {
        from: "ia".into(),
        tiers: &tiers,
        deployment: None,
        data_dir: new_dir.path().to_owned(),
        at: None,
        dry_run: false,
        settings: MetaSettings::default(),
        clock: Arc::clone(&old_bed.clock) as _,
    };
    recover(&request, &mut |_| {}, &mut |_| {}).await.unwrap();
    let bed = bed_beside(new_dir.path(), &old_bed);
    let new = bed.open().await;
    check(&bed, &new, versions).await;
    let _ = old.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_alone_bring_locks_back() {
    let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old_bed = bed(old_dir.path());
    let old = locked(&old_bed).await;
    let versions = load(&old_bed, &old).await;
    old.shutdown().await.unwrap();
    std::fs::remove_dir_all(old_dir.path()).unwrap();
    let tiers = BTreeMap::from([("ia".to_owned(), Arc::clone(&old_bed.tier))]);
    let request = FromPacks {
        tiers: &tiers,
        only: Vec::new(),
        recovery: None,
        deployment: None,
        data_dir: new_dir.path().to_owned(),
        dry_run: false,
        thaw: false,
        settings: MetaSettings::default(),
        clock: Arc::clone(&old_bed.clock) as _,
    };
    recover_from_packs(&request, &mut |_| {}).await.unwrap();
    let bed = bed_beside(new_dir.path(), &old_bed);
    let new = bed.open().await;
    // They are the newest that packs tell of: a visible version ends by a marker on top of it, and is noncurrent then.
    check(&bed, &new, versions).await;
}
