//! Rules about versions: what is not visible moves, is restored and ends by rules of its own.

use super::common::{DAY, FrozenTier, until};
use super::*;
use std::time::Duration;
use tidegate_tiering::clock::ManualClock;
use tidegate_tiering::tier::RestorePriority;

/// Time that goes on between two looks: more than a thaw takes, and so little that no copy ends before somebody has looked.
const STEP: Duration = Duration::from_secs(61);

fn policy(rule: &str) -> String {
    format!(
        "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: {{ name: versions }}
tiers:
  - name: ia
  - name: archive
rules:
  - id: r
    filter: {{ bucket: bkt }}
{rule}"
    )
}

fn bed_with(dir: &std::path::Path, rule: &str) -> Bed {
    let mut bed = bed(dir);
    let clock: Arc<ManualClock> = Arc::clone(&bed.clock);
    let store: Arc<dyn Tier> = Arc::new(MemoryTier::new().unwrap());
    bed.others = [("archive".to_owned(), Arc::new(FrozenTier::new(store, clock)) as Arc<dyn Tier>)].into();
    bed.policy = policy(rule);
    bed.settings.tiering.linger_ms = 0;
    bed
}

fn residency_of(engine: &Engine, key: &str, version: VersionId) -> Residency {
    engine.open_version("bkt", key, id(version)).unwrap().info().residency.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_visible_is_moved_restored_by_its_id_and_comes_back_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed_with(dir.path(), "    noncurrentTransitions: [{ to: archive, after: 10d }]\n");
    let engine = enabled(&bed).await;
    let bytes = noise(1, 300_000);
    let old = put(&engine, "k", &bytes).await.unwrap().version;
    bed.clock.advance(DAY * 20);
    let new = put(&engine, "k", b"new").await.unwrap().version;
    bed.clock.advance(DAY * 9);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(residency_of(&engine, "k", old), Residency::Hot, "it counts from when it was superseded");
    bed.clock.advance(DAY * 2);
    let cold = Residency::Cold { tier: "archive".into() };
    until("the old version is archived", || residency_of(&engine, "k", old) == cold).await;
    assert_eq!(residency_of(&engine, "k", new), Residency::Hot);
    engine.evict(u64::MAX).await.unwrap();
    assert!(matches!(get_version(&engine, "k", id(old)).await, Err(EngineError::InvalidObjectState { .. })));
    let restore = || RestoreRequest {
        bucket: "bkt".into(),
        key: "k".into(),
        version: id(old),
        days: 3,
        priority: RestorePriority::Standard,
    };
    assert_eq!(engine.restore_object(restore()).await.unwrap(), RestoreOutcome::Accepted);
    assert!(matches!(engine.restore_object(restore()).await, Err(EngineError::RestoreInProgress)));
    until("the old version is restored", || {
        bed.clock.advance(STEP);
        matches!(residency_of(&engine, "k", old), Residency::Restored { .. })
    })
    .await;
    assert_eq!(get_version(&engine, "k", id(old)).await.unwrap(), bytes);
    assert_clean(&engine).await;
    bed.clock.advance(DAY * 4);
    until("the copy has expired", || residency_of(&engine, "k", old) == cold).await;
    // A restore that runs goes with the version to where it is visible.
    engine.evict(u64::MAX).await.unwrap();
    engine.restore_object(restore()).await.unwrap();
    remove(&engine, "k", id(new)).await;
    assert_eq!(engine.open_object("bkt", "k").unwrap().info().version, old);
    until("it is restored where it is now", || {
        bed.clock.advance(STEP);
        matches!(residency_of(&engine, "k", old), Residency::Restored { .. })
    })
    .await;
    assert_eq!(get(&engine, "k").await.unwrap(), bytes);
    remove(&engine, "k", id(old)).await;
    engine.gc(GcRequest { dry_run: false }).await.unwrap();
    until("its packs are deleted", || engine.stats().unwrap().tiers.iter().all(|t| t.packs == 0)).await;
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiration_makes_a_marker_which_goes_once_it_is_alone() {
    let dir = tempfile::tempdir().unwrap();
    let rule = "    expiration: { after: 30d }\n    noncurrentExpiration: { after: 5d }\n    expiredObjectDeleteMarker: true\n";
    let bed = bed_with(dir.path(), rule);
    let engine = enabled(&bed).await;
    let bytes = noise(1, 50_000);
    let version = put(&engine, "k", &bytes).await.unwrap().version;
    bed.clock.advance(DAY * 31);
    until("it has expired", || engine.open_object("bkt", "k").is_err()).await;
    assert_eq!(
        get_version(&engine, "k", id(version)).await.unwrap(),
        bytes,
        "a rule about what is visible frees nothing"
    );
    let listed = versions(&engine, 10);
    assert!(listed.len() == 2 && listed[0].marker && listed[0].latest && !listed[1].latest);
    assert_clean(&engine).await;
    bed.clock.advance(DAY * 6);
    until("the version has ended, and the marker behind it", || versions(&engine, 10).is_empty()).await;
    // A client removes the last version: the marker goes as well.
    let version = put(&engine, "j", b"j").await.unwrap().version;
    delete(&engine, "j").await;
    remove(&engine, "j", id(version)).await;
    until("the marker has gone", || versions(&engine, 10).is_empty()).await;
    assert_clean(&engine).await;
    engine.delete_bucket("bkt").await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_versions_are_spared_until_newer_ones_come() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed_with(dir.path(), "    noncurrentExpiration: { after: 5d, newerNoncurrentVersions: 2 }\n");
    let engine = enabled(&bed).await;
    for n in 0..5u8 {
        put(&engine, "k", &[n]).await.unwrap();
    }
    bed.clock.advance(DAY * 6);
    until("two besides the visible one are left", || versions(&engine, 10).len() == 3).await;
    // Both are old enough already: the next write leaves the older one without two newer ones before it, at once.
    let spared = versions(&engine, 10);
    put(&engine, "k", b"x").await.unwrap();
    until("one of the spared has ended", || versions(&engine, 10).len() == 3).await;
    let left: Vec<VersionId> = versions(&engine, 10)[1..].iter().map(|v| v.version).collect();
    assert_eq!(left, [spared[0].version, spared[1].version]);
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}

/// What an engine without timers does now, to the end: a look at one version may make its neighbours due.
async fn turn(engine: &Engine) {
    engine.run_due_now().unwrap();
    while engine.step(Step::Schedule).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_older_versions_is_not_lost_to_a_change_of_the_one_that_was_superseded() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed_with(dir.path(), "    noncurrentExpiration: { after: 5d, newerNoncurrentVersions: 1 }\n");
    bed.settings.driven = true;
    let engine = enabled(&bed).await;
    let oldest = put(&engine, "k", b"1").await.unwrap().version;
    let old = put(&engine, "k", b"2").await.unwrap().version;
    bed.clock.advance(DAY * 6);
    turn(&engine).await;
    assert_eq!(versions(&engine, 10).len(), 2, "one is spared");
    put(&engine, "k", b"3").await.unwrap();
    let tagged = |attributes: &mut ObjectAttributes| {
        attributes.tags = vec![("a".into(), "b".into())];
        Ok(())
    };
    engine.update_attributes("bkt", "k", id(old), tagged).await.unwrap();
    turn(&engine).await;
    assert!(get_version(&engine, "k", id(oldest)).await.is_err(), "it is not spared any more");
    assert_eq!(versions(&engine, 10).len(), 2);
    assert_eq!(engine.run_due_now().unwrap().due, 0, "nothing stays due");
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_versions_below_a_marker_are_removed_at_once_and_the_marker_ends() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed_with(dir.path(), "    expiredObjectDeleteMarker: true\n");
    let engine = enabled(&bed).await;
    for round in 0..3u8 {
        let mut old = Vec::new();
        for n in 0..100u8 {
            old.push(put(&engine, "k", &[round, n]).await.unwrap().version);
        }
        delete(&engine, "k").await;
        // In the order of age, the other way round, and all over the place.
        match round {
            0 => {}
            1 => old.reverse(),
            _ => old.sort_by_key(|version| version.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        }
        let removals = old.into_iter().map(|version| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let delete = DeleteRequest { version: id(version), ..DeleteRequest::default() };
                engine.delete_object("bkt", "k", delete).await
            })
        });
        for removal in futures::future::join_all(removals).await {
            assert!(removal.unwrap().unwrap().existed);
        }
        until("the marker has gone", || versions(&engine, 10).is_empty()).await;
    }
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}
