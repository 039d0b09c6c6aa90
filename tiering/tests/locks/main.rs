//! Object lock: what must stay stays, whatever would take it away, and goes when its time has come.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

#[path = "../common/mod.rs"]
mod common;
mod recovery;
mod walk;

use common::{Bed, DAY, T0, body, noise, put, read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::Tier;
use tidegate_tiering::tier::memory::MemoryTier;

/// Versions that are not visible move after a day and end after two; visible ones end after thirty.
const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: locks }
tiers:
  - name: ia
rules:
  - id: r
    filter: { bucket: bkt }
    noncurrentTransitions: [{ to: ia, after: 1d }]
    noncurrentExpiration: { after: 2d }
    expiration: { after: 30d, since: creation }
";

use RetentionMode::{Compliance, Governance};

/// Background work happens when a test says so.
fn bed(dir: &Path) -> Bed {
    let tier: Arc<dyn Tier> = Arc::new(MemoryTier::new().unwrap());
    let mut bed = Bed::new(dir, tier);
    bed.policy = POLICY.to_owned();
    bed.settings.driven = true;
    bed.settings.tiering.linger_ms = 0;
    bed.settings.limits.min_part_bytes = 0;
    bed
}

async fn locked(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    engine.set_object_lock("bkt", BucketLock::default()).await.unwrap();
    engine
}

fn id(version: VersionId) -> VersionRef {
    VersionRef::Id(version)
}

fn days(mode: RetentionMode, days: u32) -> Option<Retention> {
    Some(Retention { mode, until: T0.plus(DAY * days) })
}

async fn put_locked(
    engine: &Engine,
    key: &str,
    bytes: &[u8],
    (retention, legal_hold): (Option<Retention>, Option<bool>),
) -> Result<Written, EngineError> {
    let put = PutObject {
        bucket: "bkt".into(),
        key: key.into(),
        attributes: ObjectAttributes { retention, legal_hold, ..Default::default() },
        expect: BodyExpectation::default(),
        condition: WriteCondition::default(),
    };
    engine.put_object(put, body(bytes)).await
}

async fn remove(engine: &Engine, key: &str, version: VersionRef, bypass: bool) -> Result<Deleted, EngineError> {
    let delete = DeleteRequest { version, bypass_governance: bypass, ..Default::default() };
    engine.delete_object("bkt", key, delete).await
}

async fn get_version(engine: &Engine, key: &str, version: VersionRef) -> Result<Vec<u8>, EngineError> {
    let handle = engine.open_version("bkt", key, version)?;
    let size = handle.info().size;
    read(handle.read(0..size).await?).await
}

fn attributes(engine: &Engine, key: &str, version: VersionRef) -> ObjectAttributes {
    engine.open_version("bkt", key, version).unwrap().info().attributes.clone()
}

/// All background work that there is now.
async fn work(engine: &Engine) {
    for _ in 0..100 {
        if !engine.step(Step::Schedule).await {
            return;
        }
    }
    panic!("the scheduler always has more to do at once");
}

fn is_locked<T>(outcome: &Result<T, EngineError>) -> bool {
    matches!(outcome, Err(EngineError::Locked(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_stays_for_its_retention_and_its_legal_hold() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = locked(&bed).await;
    for (n, mode, bypassed) in [(0u64, Governance, true), (1, Compliance, false)] {
        let key = mode.as_str();
        let bytes = noise(n, 40_000);
        let kept = put_locked(&engine, key, &bytes, (days(mode, 10), None)).await.unwrap().version;
        assert!(is_locked(&remove(&engine, key, id(kept), false).await));
        let marker = remove(&engine, key, VersionRef::Current, false).await.unwrap();
        assert!(marker.marker, "a delete marker comes on top as ever");
        assert_eq!(get_version(&engine, key, id(kept)).await.unwrap(), bytes);
        let (marker, _) = marker.version.unwrap();
        assert!(remove(&engine, key, id(marker), false).await.unwrap().marker, "markers are not locked");
        let shorter = engine.set_retention(("bkt", key), id(kept), days(mode, 9), false).await;
        assert!(is_locked(&shorter));
        engine.set_retention(("bkt", key), id(kept), days(mode, 20), false).await.unwrap();
        engine.set_legal_hold(("bkt", key), id(kept), true).await.unwrap();
        assert!(is_locked(&remove(&engine, key, id(kept), true).await), "no bypass ends a hold");
        engine.set_legal_hold(("bkt", key), id(kept), false).await.unwrap();
        let gone = remove(&engine, key, id(kept), true).await;
        assert_eq!(gone.is_ok(), bypassed, "{gone:?}");
    }
    bed.clock.advance(DAY * 20 - Duration::from_millis(1));
    let kept = engine.open_object("bkt", "COMPLIANCE").unwrap().info().version;
    assert!(is_locked(&remove(&engine, "COMPLIANCE", id(kept), true).await));
    bed.clock.advance(Duration::from_millis(1));
    let late = engine.set_retention(("bkt", "COMPLIANCE"), id(kept), days(Compliance, 20), false).await;
    assert!(matches!(late, Err(EngineError::InvalidArgument(_))), "a date that is over");
    assert!(remove(&engine, "COMPLIANCE", id(kept), false).await.unwrap().existed);
    // One request for many: each key has an answer of its own.
    let kept = put_locked(&engine, "a", b"1", (days(Compliance, 40), None)).await.unwrap().version;
    let free = put(&engine, "b", b"2").await.unwrap().version;
    let delete = |version| DeleteRequest { version: id(version), ..Default::default() };
    let both = [("a".to_owned(), delete(kept)), ("b".to_owned(), delete(free))];
    let answers = engine.delete_objects("bkt", &both).await.unwrap();
    assert!(is_locked(&answers[0]) && answers[1].as_ref().unwrap().existed);
    assert!(matches!(engine.delete_bucket("bkt").await, Err(EngineError::BucketNotEmpty(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_versions_get_the_default_and_copies_inherit_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let early = put_locked(&engine, "k", b"1", (days(Governance, 1), None)).await;
    assert!(matches!(early, Err(EngineError::InvalidRequest(_))), "{early:?}");
    let none = engine.set_object_lock("bkt", BucketLock::default()).await;
    assert!(matches!(none, Err(EngineError::InvalidBucketState(_))), "{none:?}");
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    let unset = engine.set_legal_hold(("bkt", "k"), VersionRef::Current, true).await;
    assert!(matches!(unset, Err(EngineError::InvalidRequest(_))), "{unset:?}");
    let default = DefaultRetention { mode: Compliance, period: Period::Days(3) };
    engine.set_object_lock("bkt", BucketLock { default: Some(default) }).await.unwrap();
    let suspended = engine.set_versioning("bkt", Versioning::Suspended).await;
    assert!(matches!(suspended, Err(EngineError::InvalidBucketState(_))), "{suspended:?}");
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();

    put(&engine, "plain", b"1").await.unwrap();
    assert_eq!(attributes(&engine, "plain", VersionRef::Current).retention, days(Compliance, 3));
    put_locked(&engine, "own", b"1", (days(Governance, 9), Some(true))).await.unwrap();
    let own = attributes(&engine, "own", VersionRef::Current);
    assert_eq!((own.retention, own.legal_hold), (days(Governance, 9), Some(true)));
    let over = put_locked(&engine, "over", b"1", (Some(Retention { mode: Governance, until: T0 }), None)).await;
    assert!(matches!(over, Err(EngineError::InvalidArgument(_))), "{over:?}");
    bed.clock.advance(DAY);
    common::copy(&engine, "own", "copy", None).await.unwrap();
    let copied = attributes(&engine, "copy", VersionRef::Current);
    assert_eq!((copied.retention, copied.legal_hold), (days(Compliance, 4), None), "its own, from its own creation");
    common::put_parts(&engine, "parts", &[noise(1, 1_000), noise(2, 1_000)]).await.unwrap();
    assert_eq!(attributes(&engine, "parts", VersionRef::Current).retention, days(Compliance, 4));
    let marker = remove(&engine, "plain", VersionRef::Current, false).await.unwrap().version.unwrap().0;
    assert!(remove(&engine, "plain", id(marker), false).await.unwrap().existed, "a marker has no retention");
    engine.set_object_lock("bkt", BucketLock::default()).await.unwrap();
    put(&engine, "free", b"1").await.unwrap();
    assert_eq!(attributes(&engine, "free", VersionRef::Current).retention, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_pass_over_what_is_locked_and_take_it_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = locked(&bed).await;
    let bytes = noise(1, 100_000);
    let retained = put_locked(&engine, "retained", &bytes, (days(Governance, 10), None)).await.unwrap().version;
    let held = put_locked(&engine, "held", b"held", (None, Some(true))).await.unwrap().version;
    let free = put(&engine, "free", b"free").await.unwrap().version;
    for key in ["retained", "held", "free"] {
        put(&engine, key, b"newer").await.unwrap();
    }
    bed.clock.advance(DAY * 3);
    work(&engine).await;
    assert!(engine.open_version("bkt", "free", id(free)).is_err());
    for (key, version) in [("retained", retained), ("held", held)] {
        let info = engine.open_version("bkt", key, id(version)).unwrap().info().clone();
        assert_eq!(info.residency, Residency::Cold { tier: "ia".into() }, "it may move");
    }
    assert!(!engine.step(Step::Schedule).await, "nothing is looked at again before its time");
    // Neither disk nor cloud gives back what is locked.
    engine.gc(GcRequest::default()).await.unwrap();
    engine.evict(u64::MAX).await.unwrap();
    work(&engine).await;
    assert_eq!(get_version(&engine, "retained", id(retained)).await.unwrap(), bytes);
    assert_eq!(get_version(&engine, "held", id(held)).await.unwrap(), b"held");
    let plan = engine.plan(&PlanRequest { horizon_ms: 9 * 86_400_000, ..Default::default() }).unwrap();
    let ends: Vec<_> = plan.actions.iter().filter(|a| a.decision == "expire").collect();
    assert_eq!(ends.iter().filter(|a| a.key == "retained").map(|a| a.when).collect::<Vec<_>>(), [T0.plus(DAY * 10)]);
    assert!(ends.iter().all(|a| a.key != "held"));

    bed.clock.advance(DAY * 7 - Duration::from_millis(1));
    work(&engine).await;
    assert!(engine.open_version("bkt", "retained", id(retained)).is_ok());
    bed.clock.advance(Duration::from_millis(1));
    work(&engine).await;
    assert!(engine.open_version("bkt", "retained", id(retained)).is_err(), "its time has come");
    bed.clock.advance(DAY * 300);
    work(&engine).await;
    assert!(engine.open_version("bkt", "held", id(held)).is_ok());
    engine.set_legal_hold(("bkt", "held"), id(held), false).await.unwrap();
    work(&engine).await;
    assert!(engine.open_version("bkt", "held", id(held)).is_err());
    let doomed = engine.gc(GcRequest::default()).await.unwrap().remote_packs_doomed;
    assert!(doomed > 0, "what nothing names goes from the cloud as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_visible_version_is_a_marker_on_top_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = locked(&bed).await;
    let kept = put_locked(&engine, "k", b"kept", (days(Compliance, 100), None)).await.unwrap().version;
    bed.clock.advance(DAY * 40);
    work(&engine).await;
    assert!(matches!(engine.open_object("bkt", "k"), Err(EngineError::DeleteMarker { .. })));
    assert_eq!(get_version(&engine, "k", id(kept)).await.unwrap(), b"kept");
    bed.clock.advance(DAY * 61);
    work(&engine).await;
    assert!(engine.open_version("bkt", "k", id(kept)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_null_version_is_protected_like_any_other_and_so_is_a_store_under_repair() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "k", b"null").await.unwrap();
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    engine.set_object_lock("bkt", BucketLock::default()).await.unwrap();
    engine.set_retention(("bkt", "k"), VersionRef::Null, days(Compliance, 50), false).await.unwrap();
    put(&engine, "k", b"newer").await.unwrap();
    assert!(is_locked(&remove(&engine, "k", VersionRef::Null, true).await));
    bed.clock.advance(DAY * 5);
    work(&engine).await;
    let request = FsckRequest { repair: true, ..FsckRequest::default() };
    let estimate = engine.fsck_estimate(&request, |_| None).unwrap();
    let report = engine.fsck(&request, estimate, |_| {}).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(get_version(&engine, "k", VersionRef::Null).await.unwrap(), b"null");
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    assert!(is_locked(&remove(&engine, "k", VersionRef::Null, true).await), "a restart forgets nothing");
    let status = engine.object_status("bkt", "k").unwrap();
    assert_eq!((status.retention, status.legal_hold), (None, false));
}
