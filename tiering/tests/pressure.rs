//! What gives room on a full disk: copies of what is in a tier, garbage, and both at once without standing in each other's way.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, FrozenTier, get, noise, put, put_class, residency, turned, until};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::RestorePriority;
use tidegate_tiering::tier::memory::MemoryTier;

const BODY: usize = 200_000;

/// A store for 20 MB of clients' data, with packs as long as by default.
fn bed(dir: &Path) -> Bed {
    let mut bed = Bed::new(dir, Arc::new(MemoryTier::new().unwrap()));
    (bed.settings.disk.max_bytes, bed.settings.disk.compaction_reserve) = (24_000_000, 4_000_000);
    bed.settings.tiering.linger_ms = 0;
    bed
}

/// Puts until the disk is full; how many were taken.
async fn fill(engine: &Engine, prefix: &str, class: Option<&str>) -> u64 {
    for n in 0.. {
        match put_class(engine, &format!("{prefix}{n:03}"), &noise(n, BODY), class).await {
            Ok(_) => {}
            Err(EngineError::SlowDown(why)) => {
                assert!(why.contains("hot.max_bytes"), "{why}");
                return n;
            }
            Err(e) => panic!("{e}"),
        }
    }
    unreachable!()
}

/// Lets seconds pass until a write is taken; how many.
async fn seconds_until_taken(bed: &Bed, engine: &Engine, key: &str) -> u64 {
    for seconds in 0..600 {
        match put(engine, key, &noise(1 << 40, BODY)).await {
            Ok(_) => return seconds,
            Err(EngineError::SlowDown(_)) => {}
            Err(e) => panic!("{e}"),
        }
        // The engine has its turn in each of them, however slow this machine is.
        bed.clock.advance(Duration::from_secs(1));
        turned(bed, engine).await;
    }
    panic!("{key} was never taken: {:?}", engine.stats().unwrap().disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_smaller_than_its_packs_evicts_what_its_tier_has() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let n = fill(&engine, "k/", Some("STANDARD_IA")).await;
    let cold = || (0..n).all(|n| matches!(residency(&engine, &format!("k/{n:03}")), Some(Residency::Cold { .. })));
    until("all of it is in the tier", cold).await;
    seconds_until_taken(&bed, &engine, "new").await;
    for n in 0..n {
        assert_eq!(get(&engine, &format!("k/{n:03}")).await.unwrap(), noise(n, BODY), "{n}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_smaller_than_its_packs_compacts_what_is_half_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let n = fill(&engine, "k/", None).await;
    for n in (0..n).filter(|n| n % 2 == 1) {
        assert!(engine.delete_object("bkt", &format!("k/{n:03}"), DeleteRequest::default()).await.unwrap().existed);
    }
    seconds_until_taken(&bed, &engine, "new").await;
    for n in (0..n).filter(|n| n % 2 == 0) {
        assert_eq!(get(&engine, &format!("k/{n:03}")).await.unwrap(), noise(n, BODY), "{n}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_deletes_to_make_room_does_not_wait_for_a_cycle_that_rests() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let n = fill(&engine, "k/", None).await;
    // Cycles find nothing and come less and less often.
    for _ in 0..400 {
        bed.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for n in 0..n / 2 {
        engine.delete_object("bkt", &format!("k/{n:03}"), DeleteRequest::default()).await.unwrap();
    }
    let waited = seconds_until_taken(&bed, &engine, "new").await;
    assert!(waited <= 10, "{waited} s");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_cold_versions_leave_room_for_writes() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for round in 0..2 {
        for n in 0..60 {
            put_class(&engine, &format!("{round}/{n}"), &noise(round * 100 + n, BODY), Some("STANDARD_IA"))
                .await
                .unwrap();
        }
        until("it is in the tier", || engine.stats().unwrap().cold.objects == 60 * (round + 1)).await;
        engine.evict(u64::MAX).await.unwrap();
    }
    // No second passes, so that nothing is evicted meanwhile.
    for n in 0..120 {
        let seed = n / 60 * 100 + n % 60;
        assert_eq!(get(&engine, &format!("{}/{}", n / 60, n % 60)).await.unwrap(), noise(seed, BODY));
    }
    let used = engine.stats().unwrap().disk.used_bytes;
    assert!(used > 16_000_000, "most of the disk is a cache: {used}");
    put(&engine, "new", &noise(1 << 40, BODY)).await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_more_than_fits_leaves_room_for_writes_and_goes_on_when_there_is_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    bed.tier = Arc::new(FrozenTier::new(Arc::new(MemoryTier::new().unwrap()), Arc::clone(&bed.clock)));
    bed.settings.tiering.thaw_poll_ms = 10;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..60 {
        put_class(&engine, &format!("cold/{n}"), &noise(n, BODY), Some("STANDARD_IA")).await.unwrap();
    }
    until("it is in the tier", || engine.stats().unwrap().cold.objects == 60).await;
    engine.evict(u64::MAX).await.unwrap();
    for n in 0..50 {
        put(&engine, &format!("hot/{n}"), &noise(1_000 + n, BODY)).await.unwrap();
    }
    for n in 0..60 {
        let (bucket, key) = ("bkt".to_owned(), format!("cold/{n}"));
        let restore =
            RestoreRequest { bucket, key, version: VersionRef::Current, days: 30, priority: RestorePriority::Standard };
        assert_eq!(engine.restore_object(restore).await.unwrap(), RestoreOutcome::Accepted);
    }
    let waits = || {
        bed.clock.advance(Duration::from_secs(61));
        let error = engine.tier_report("ia").unwrap().last_error;
        error.is_some_and(|e| e.contains("for writes"))
    };
    until("restores wait for room", waits).await;
    put(&engine, "new", &noise(1 << 40, BODY)).await.unwrap();
    for n in 0..50 {
        assert!(engine.delete_object("bkt", &format!("hot/{n}"), DeleteRequest::default()).await.unwrap().existed);
    }
    let restored = |n: u64| matches!(residency(&engine, &format!("cold/{n}")), Some(Residency::Restored { .. }));
    let all_restored = || {
        bed.clock.advance(Duration::from_secs(1));
        (0..60).all(restored)
    };
    until("all are restored", all_restored).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_refused_before_the_disk_is_so_full_that_the_index_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "k", b"body").await.unwrap();
    engine.shutdown().await.unwrap();
    bed.settings.meta.least_free_bytes = u64::MAX;
    let engine = bed.open().await;
    for refused in [
        put(&engine, "k", b"").await.map(drop),
        engine.delete_object("bkt", "k", DeleteRequest::default()).await.map(drop),
    ] {
        assert!(matches!(&refused, Err(EngineError::SlowDown(why)) if why.contains("are free")), "{refused:?}");
    }
    assert_eq!(get(&engine, "k").await.unwrap(), b"body");
    assert_eq!(engine.writes_refused(), None, "a restart is not needed");
    engine.shutdown().await.unwrap();
    bed.settings.meta.least_free_bytes = 0;
    let engine = bed.open().await;
    assert!(engine.delete_object("bkt", "k", DeleteRequest::default()).await.unwrap().existed);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_versions_that_compress_well_share_a_pack_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    bed.settings.tiering.pack_bytes = 1 << 20;
    bed.settings.tiering.max_group = 50;
    bed.settings.tiering.workers = 1;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..2_000u64 {
        let text = format!("{n:08x} ").repeat(200 + n as usize % 50);
        put(&engine, &format!("cold/{n:04}"), text.as_bytes()).await.unwrap();
    }
    bed.clock.advance(31 * common::DAY);
    until("all are due", || engine.run_due_now().unwrap().due > 0).await;
    let all_cold = || {
        bed.clock.advance(Duration::from_secs(1));
        engine.stats().unwrap().cold.objects == 2_000
    };
    until("all are in the tier", all_cold).await;
    let tier = engine.stats().unwrap().tiers.into_iter().find(|t| t.name == "ia").unwrap();
    assert!(tier.packs <= tier.stored_bytes.div_ceil(1 << 19) + 2, "{tier:?}");
    engine.shutdown().await.unwrap();
}
