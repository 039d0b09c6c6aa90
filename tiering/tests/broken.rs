//! What is damaged, or of a newer version, stops nothing else: records that do not decode, manifests that have rotted,
//! chunks that are lost.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, FrozenTier, copy, frames, get, noise, put, residency, rot, turned, until};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::*;
use tidegate_tiering::meta::{Batch, JournaledStore, MetaSettings, MetaStore, NoData, Reason, Table};
use tidegate_tiering::pack::FrameKind;
use tidegate_tiering::tier::RestorePriority;
use tidegate_tiering::tier::memory::MemoryTier;

/// A bed whose tier `ia` is an archive.
fn frozen(dir: &Path) -> Bed {
    let mut bed = Bed::new(dir, Arc::new(MemoryTier::new().unwrap()));
    bed.tier = Arc::new(FrozenTier::new(Arc::clone(&bed.tier), Arc::clone(&bed.clock)));
    bed.settings.tiering.linger_ms = 0;
    bed.settings.tiering.thaw_poll_ms = 10;
    bed
}

fn is_cold(engine: &Engine, key: &str) -> bool {
    matches!(residency(engine, key), Some(Residency::Cold { .. }))
}

async fn make_cold(bed: &Bed, engine: &Engine, keys: &[&str]) {
    bed.clock.advance(DAY * 31);
    until("the versions are cold", || keys.iter().all(|key| is_cold(engine, key))).await;
}

async fn restore(engine: &Engine, key: &str) -> Result<RestoreOutcome, EngineError> {
    let (bucket, key) = ("bkt".into(), key.into());
    engine
        .restore_object(RestoreRequest {
            bucket,
            key,
            version: VersionRef::Current,
            days: 1,
            priority: RestorePriority::Standard,
        })
        .await
}

async fn gc(engine: &Engine) -> GcReport {
    engine.gc(GcRequest::default()).await.unwrap()
}

/// Puts and deletes 3 MB, in bodies too small for manifests of their own.
async fn garbage(engine: &Engine, seed: u64) {
    for n in 0..3 {
        put(engine, "garbage", &noise(seed + n, 1_000_000)).await.unwrap();
        engine.delete_object("bkt", "garbage", DeleteRequest::default()).await.unwrap();
    }
}

/// Writes into the namespace of a stopped engine.
fn write_raw(bed: &Bed, entries: &[(Table, Vec<u8>, Vec<u8>)]) {
    let clock = Arc::clone(&bed.clock) as _;
    let settings = MetaSettings::default();
    let (store, _) = JournaledStore::open(&bed.dir, settings, Arc::new(NoData), Vec::new(), clock).unwrap();
    for (table, key, value) in entries {
        store.commit_blocking(Batch::new(Reason::System).put(*table, key.clone(), value.clone())).unwrap();
    }
    store.close().unwrap();
}

fn pack_key(tier: &str, pack: u128) -> Vec<u8> {
    [tier.as_bytes(), &[0], &pack.to_be_bytes()].concat()
}

fn due_key(kind: u8, subject: &[u8]) -> Vec<u8> {
    [&[kind][..], &1u64.to_be_bytes(), subject].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_of_every_kind_is_reported_and_kept_and_all_other_work_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = frozen(dir.path());
    bed.settings.local.pack_bytes = 64 << 10;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let body = noise(1, 500_000);
    put(&engine, "cold/a", &body).await.unwrap();
    put(&engine, "keep", b"keep").await.unwrap();
    make_cold(&bed, &engine, &["cold/a"]).await;
    engine.shutdown().await.unwrap();

    let newer = vec![99, 1, 2, 3];
    let broken = [
        // The first of their tables, so that everything comes after them.
        (Table::Job, vec![0; 16], newer.clone()),
        (Table::Job, vec![0; 3], newer.clone()),
        (Table::RemotePack, pack_key("ia", 0), newer.clone()),
        (Table::RemotePack, vec![0; 4], newer.clone()),
        (Table::Due, vec![1, 0, 0], Vec::new()),
        (Table::Due, due_key(1, b"bkt\0aaa"), Vec::new()),
        (Table::Due, due_key(2, b"no upload"), Vec::new()),
        (Table::Object, b"bkt\0aaa".to_vec(), newer.clone()),
        (Table::Upload, vec![0; 3], newer.clone()),
        (Table::Part, vec![0; 36], newer.clone()),
        (Table::Access, b"bkt\0keep".to_vec(), newer.clone()),
    ];
    write_raw(&bed, &broken);

    let engine = bed.open().await;
    put(&engine, "cold/b", &noise(2, 100_000)).await.unwrap();
    let upload = CreateUpload {
        bucket: "bkt".into(),
        key: "short/u".into(),
        attributes: ObjectAttributes::default(),
        checksum: None,
    };
    engine.create_upload(upload).await.unwrap();
    make_cold(&bed, &engine, &["cold/b"]).await;
    until("the upload is aborted", || bed.metric("tidegate_aborted_uploads_total", None) == 1.0).await;
    engine.evict(u64::MAX).await.unwrap();
    assert_eq!(restore(&engine, "cold/a").await.unwrap(), RestoreOutcome::Accepted);
    until("a thaw is asked for", || bed.metric("tidegate_thaws_total", None) >= 1.0).await;
    bed.clock.advance(Duration::from_secs(61));
    until("it is restored", || matches!(residency(&engine, "cold/a"), Some(Residency::Restored { .. }))).await;
    assert_eq!(get(&engine, "cold/a").await.unwrap(), body);
    let report = gc(&engine).await;
    assert_eq!((report.unreadable_total, report.remote_packs_doomed), (2, 0), "{report:?}");
    assert!(report.unreadable.iter().any(|u| u.what == "bkt / aaa"), "{report:?}");
    engine.refresh_metrics().unwrap();
    let unusable = |table| bed.metric("tidegate_unusable_records_total", Some(table));
    let counted: Vec<f64> =
        ["job", "remote_pack", "due", "object", "upload", "part"].into_iter().map(unusable).collect();
    assert_eq!(counted, [2.0, 2.0, 2.0, 1.0, 1.0, 1.0], "each once, however often it was met");
    engine.shutdown().await.unwrap();

    // All of them are still there.
    let clock = Arc::clone(&bed.clock) as _;
    let (store, _) =
        JournaledStore::open(&bed.dir, MetaSettings::default(), Arc::new(NoData), Vec::new(), clock).unwrap();
    for (table, key, value) in &broken {
        assert_eq!(store.get(*table, key).unwrap().as_deref(), Some(value.as_slice()), "{table:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_pack_whose_footer_cannot_be_read_is_kept_and_so_are_local_copies_of_what_may_be_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let bed = frozen(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let body = noise(1, 300_000);
    put(&engine, "cold/a", &body).await.unwrap();
    make_cold(&bed, &engine, &["cold/a"]).await;
    let pack = engine.object_status("bkt", "cold/a").unwrap().packs.into_iter().find(|p| p.tier.is_some()).unwrap();
    let id = pack.name.rsplit('/').next().unwrap().trim_end_matches(".pack").to_owned();
    engine.shutdown().await.unwrap();
    write_raw(&bed, &[(Table::Manifest, pack_key("ia", u128::from_str_radix(&id, 16).unwrap()), vec![99])]);
    let engine = bed.open().await;
    let report = engine.evict(u64::MAX).await.unwrap();
    assert_eq!((report.remote_packs_doomed, report.remote_packs_kept), (0, 1), "{report:?}");
    let status = engine.object_status("bkt", "cold/a").unwrap();
    assert_eq!(status.local_chunks, status.chunks, "evicted, though nobody knows where else it is");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_manifest_of_an_archived_object_holds_up_its_tier_alone_until_a_thaw_has_mended_it() {
    let dir = tempfile::tempdir().unwrap();
    let bed = frozen(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let large = noise(1, 12_000_000);
    put(&engine, "cold/large", &large).await.unwrap();
    put(&engine, "cold/gone", &noise(2, 400_000)).await.unwrap();
    make_cold(&bed, &engine, &["cold/large", "cold/gone"]).await;
    garbage(&engine, 10).await;
    engine.delete_object("bkt", "cold/gone", DeleteRequest::default()).await.unwrap();
    let nodes = frames(dir.path(), |e| e.kind == FrameKind::ManifestNode);
    assert_eq!(nodes.len(), 1);
    rot(&nodes[0].0, nodes[0].1);

    // A dry run asks no tier and says what it could not read.
    let dry = engine.gc(GcRequest { dry_run: true }).await.unwrap();
    assert_eq!((dry.unreadable_total, dry.remote_packs_doomed), (1, 0), "{dry:?}");
    assert_eq!(bed.metric("tidegate_thaws_total", None), 0.0);

    let report = gc(&engine).await;
    assert_eq!(report.unreadable_total, 1, "{report:?}");
    assert!(report.unreadable[0].what.starts_with("bkt / cold/large"), "{report:?}");
    assert!(report.dead_bytes > 3_000_000 && report.doubted_bytes == 0, "local garbage goes: {report:?}");
    assert_eq!(report.remote_packs_doomed, 0, "{report:?}");
    assert_eq!(bed.metric("tidegate_gc_unreadable", None), 1.0);
    assert_eq!(bed.metric("tidegate_thaws_total", None), 1.0, "its pack is thawed");

    bed.clock.advance(Duration::from_secs(61));
    let report = gc(&engine).await;
    assert_eq!(report.unreadable_total, 0, "{report:?}");
    assert_eq!(bed.metric("tidegate_gc_unreadable", None), 0.0);
    assert_eq!(restore(&engine, "cold/large").await.unwrap(), RestoreOutcome::Accepted);
    bed.clock.advance(Duration::from_secs(61));
    until("it is restored", || matches!(residency(&engine, "cold/large"), Some(Residency::Restored { .. }))).await;
    assert_eq!(get(&engine, "cold/large").await.unwrap(), large);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_manifest_of_a_hot_object_keeps_what_was_there_and_nothing_that_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let large = noise(1, 12_000_000);
    put(&engine, "large", &large).await.unwrap();
    garbage(&engine, 10).await;
    let nodes = frames(dir.path(), |e| e.kind == FrameKind::ManifestNode);
    rot(&nodes[0].0, nodes[0].1);
    let first = gc(&engine).await;
    assert_eq!((first.unreadable_total, first.lossy_total), (1, 1), "{first:?}");
    assert!(first.dead_bytes == 0 && first.doubted_bytes > 14_000_000, "{first:?}");

    garbage(&engine, 20).await;
    let second = gc(&engine).await;
    assert!(second.dead_bytes > 3_000_000, "what came after it is collected: {second:?}");
    assert_eq!(second.doubted_bytes, first.doubted_bytes, "what was there stays: {second:?}");

    // The same bytes again bring the manifest back, of chunks that are all still there.
    put(&engine, "again", &large).await.unwrap();
    assert_eq!(get(&engine, "large").await.unwrap(), large);
    let third = gc(&engine).await;
    assert_eq!((third.unreadable_total, third.lossy_total, third.doubted_bytes), (0, 0, 0), "{third:?}");
    assert!(third.dead_bytes > 3_000_000, "{third:?}");
    assert_eq!(get(&engine, "large").await.unwrap(), large);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_names_every_object_that_lost_a_chunk_and_a_put_of_the_same_bytes_mends_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    bed.settings.local.pack_bytes = 64 << 10;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let (shared, other) = (noise(1, 200_000), noise(2, 200_000));
    put(&engine, "one", &shared).await.unwrap();
    copy(&engine, "one", "two", None).await.unwrap();
    put(&engine, "other", &other).await.unwrap();
    // The first frame of the first pack that was sealed: of the shared body.
    let mut all = frames(dir.path(), |_| true);
    all.retain(|(path, _)| path.extension().is_some_and(|e| e == "pack"));
    all.sort();
    rot(&all[0].0, all[0].1);
    let report = engine.scrub(ScrubRequest::default(), |_| true).await.unwrap();
    assert_eq!((report.lost, report.lossy_total), (1, 2), "{report:?}");
    let named: Vec<&str> = report.lossy.iter().map(|l| l.what.as_str()).collect();
    assert_eq!(named, ["bkt / one", "bkt / two"]);
    assert_eq!(bed.metric("tidegate_damaged_objects", None), 2.0);
    assert!(matches!(get(&engine, "one").await, Err(EngineError::Corrupt(_))));
    // A second scrub finds no new damage, and still says who suffers.
    let report = engine.scrub(ScrubRequest::default(), |_| true).await.unwrap();
    assert_eq!((report.lost, report.lossy_total), (0, 2), "{report:?}");

    put(&engine, "three", &shared).await.unwrap();
    for key in ["one", "two", "three"] {
        assert_eq!(get(&engine, key).await.unwrap(), shared, "{key}");
    }
    assert_eq!(get(&engine, "other").await.unwrap(), other);
    assert_eq!(gc(&engine).await.lossy_total, 0);
    assert_eq!(bed.metric("tidegate_damaged_objects", None), 0.0);
    engine.shutdown().await.unwrap();
}

/// Reads a cold object, so that its chunks are local copies only, and damages the first of them; its frame's file is sealed.
async fn rotten_copy(bed: &Bed, engine: &Engine, body: &[u8]) {
    put(engine, "cold/a", body).await.unwrap();
    make_cold(bed, engine, &["cold/a"]).await;
    // The cycle that is due by now has come and gone.
    turned(bed, engine).await;
    put(engine, "seals the pack", &noise(77, 200_000)).await.unwrap();
    let mut all = frames(&bed.dir, |_| true);
    all.retain(|(path, _)| path.extension().is_some_and(|e| e == "pack"));
    all.sort();
    rot(&all[0].0, all[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_says_repaired_only_of_what_is_local_again_and_lost_only_of_what_no_tier_has() {
    for full in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
        bed.settings.tiering.linger_ms = 0;
        bed.settings.local.pack_bytes = 64 << 10;
        (bed.settings.disk.max_bytes, bed.settings.disk.compaction_reserve) = (3_000_000, 500_000);
        // A cycle when the version becomes cold, and as no time passes after it, none that would evict the copy.
        bed.settings.tiering.gc_interval_ms = 86_400_000;
        let engine = bed.open().await;
        engine.create_bucket("bkt").await.unwrap();
        let body = noise(1, 200_000);
        rotten_copy(&bed, &engine, &body).await;
        if full {
            for (n, len) in [(1_000, 60_000), (2_000, 1_000)] {
                let mut n = n;
                while put(&engine, &format!("fills/{n}"), &noise(n, len)).await.is_ok() {
                    n += 1;
                }
            }
        }
        let report = engine.scrub(ScrubRequest::default(), |_| true).await.unwrap();
        assert_eq!((report.damaged.len(), report.repaired, report.lost), (1, u64::from(!full), 0), "{report:?}");
        assert_eq!(report.damaged[0].repaired, !full);
        assert_eq!(get(&engine, "cold/a").await.unwrap(), body);
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_found_is_reported_even_when_it_cannot_find_out_who_suffers() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    bed.settings.local.pack_bytes = 64 << 10;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "a", &noise(1, 300_000)).await.unwrap();
    let mut all = frames(dir.path(), |_| true);
    all.retain(|(path, _)| path.extension().is_some_and(|e| e == "pack"));
    all.sort();
    rot(&all[0].0, all[0].1);
    // The engine is shut down while the scrub reads: the walk behind it does not run.
    let mut stopped = false;
    let report = engine.scrub(ScrubRequest::default(), |_| {
        if !std::mem::replace(&mut stopped, true) {
            let handle = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| handle.block_on(engine.shutdown())).unwrap();
        }
        true
    });
    let report = report.await.unwrap();
    assert_eq!((report.damaged.len(), report.lost), (1, 1), "{report:?}");
    assert!(report.notes.iter().any(|n| n.contains("scrub again")), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_names_what_its_walk_could_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.shutdown().await.unwrap();
    write_raw(&bed, &[(Table::Object, b"bkt\0aaa".to_vec(), vec![99, 1, 2, 3])]);
    let engine = bed.open().await;
    let report = engine.scrub(ScrubRequest::default(), |_| true).await.unwrap();
    assert_eq!((report.unreadable_total, report.unreadable[0].what.as_str()), (1, "bkt / aaa"), "{report:?}");
    engine.shutdown().await.unwrap();
}
