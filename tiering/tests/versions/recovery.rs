//! A lost disk: versions come back as versions.

use super::common::{put_class, shipped, until};
use super::*;
use std::path::Path;
use std::time::Duration;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::recovery::{RecoverRequest, RecoverySettings, recover};

fn tier() -> Arc<dyn Tier> {
    Arc::new(MemoryTier::new().unwrap())
}

async fn cold(engine: &Engine, key: &str, version: VersionRef) {
    let is_cold = || {
        let info = engine.open_version("bkt", key, version).unwrap().info().clone();
        matches!(info.residency, Residency::Cold { .. })
    };
    until("the version is cold", is_cold).await;
}

/// Three versions in the tier, one on local disks, one delete marker on top of another key.
async fn load(engine: &Engine) {
    engine.create_bucket("bkt").await.unwrap();
    put_class(engine, "k", &noise(9, 30_000), Some("STANDARD_IA")).await.unwrap();
    cold(engine, "k", VersionRef::Null).await;
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    for n in 0..2u64 {
        let written = put_class(engine, "k", &noise(n, 40_000), Some("STANDARD_IA")).await.unwrap();
        cold(engine, "k", id(written.version)).await;
    }
    let gone = put_class(engine, "gone", &noise(5, 20_000), Some("STANDARD_IA")).await.unwrap();
    cold(engine, "gone", id(gone.version)).await;
    delete(engine, "gone").await;
}

fn new_bed(dir: &Path, old: &Bed, settings: Option<RecoverySettings>) -> Bed {
    let mut bed = Bed::new(dir, Arc::clone(&old.tier));
    bed.settings.recovery = settings;
    bed.clock = Arc::clone(&old.clock);
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_brings_versions_and_markers_back() {
    let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings =
        RecoverySettings { rpo: Duration::from_millis(20), keep: Duration::ZERO, ..RecoverySettings::to("ia") };
    let mut old_bed = Bed::new(old_dir.path(), tier());
    old_bed.settings.recovery = Some(settings.clone());
    old_bed.settings.tiering.linger_ms = 0;
    let old = old_bed.open().await;
    load(&old).await;
    let hot = put(&old, "k", &noise(7, 10_000)).await.unwrap().version;
    put(&old, "k", b"the latest").await.unwrap();
    let before = shown(&old);
    shipped(&old).await;
    let tiers = [("ia".to_owned(), Arc::clone(&old_bed.tier))].into();
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
    let mut missing = Vec::new();
    let report = recover(&request, &mut |_| {}, &mut |object| missing.push(object.clone())).await.unwrap();
    assert_eq!((report.found.objects, report.found.missing_objects), (6, 2));
    let missing: BTreeSet<String> = missing.into_iter().map(|object| object.version).collect();
    assert!(missing.contains(&hot.to_string()), "a version that is not visible is missed by its id");
    let bed = new_bed(new_dir.path(), &old_bed, Some(settings));
    let new = bed.open().await;
    assert_eq!(shown(&new), before);
    assert_eq!(get_version(&new, "k", VersionRef::Null).await.unwrap(), noise(9, 30_000));
    assert!(is_marker(get(&new, "gone").await, false));
    assert!(get_version(&new, "k", id(hot)).await.is_err());
    remove(&new, "k", id(hot)).await;
    put(&new, "k", b"on").await.unwrap();
    assert_eq!(get(&new, "k").await.unwrap(), b"on");
    new.shutdown().await.unwrap();
    let _ = old.shutdown().await;
}
