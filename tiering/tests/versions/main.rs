//! Versions of objects: what clients see of them, races, moves between tiers, reclaiming, restarts, recovery.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

#[path = "../common/mod.rs"]
mod common;
mod lifecycle;
mod recovery;
mod walk;

use common::{Bed, body, get, list_all, noise, put, read};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::Tier;
use tidegate_tiering::tier::memory::MemoryTier;

/// As clients do it when others win a key again and again.
macro_rules! retried {
    ($ask:expr) => {
        loop {
            match $ask.await {
                Err(EngineError::Conflict) => {}
                other => break other.unwrap(),
            }
        }
    };
}

/// A bed with a tier in memory.
fn bed(dir: &std::path::Path) -> Bed {
    let tier: Arc<dyn Tier> = Arc::new(MemoryTier::new().unwrap());
    Bed::new(dir, tier)
}

async fn enabled(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    engine
}

fn id(version: VersionId) -> VersionRef {
    VersionRef::Id(version)
}

async fn remove(engine: &Engine, key: &str, version: VersionRef) -> Deleted {
    let delete = DeleteRequest { version, ..DeleteRequest::default() };
    engine.delete_object("bkt", key, delete).await.unwrap()
}

async fn delete(engine: &Engine, key: &str) -> Deleted {
    remove(engine, key, VersionRef::Current).await
}

async fn get_version(engine: &Engine, key: &str, version: VersionRef) -> Result<Vec<u8>, EngineError> {
    let handle = engine.open_version("bkt", key, version)?;
    let size = handle.info().size;
    read(handle.read(0..size).await?).await
}

/// A bucket's versions, in pages of `page`.
fn versions(engine: &Engine, page: usize) -> Vec<VersionEntry> {
    let mut list = ListVersions { bucket: "bkt".into(), max: page, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let found = engine.list_versions(&list).unwrap();
        assert!(found.entries.len() <= page);
        all.extend(found.entries);
        match found.next {
            Some((key, version)) => (list.key_marker, list.version_marker) = (Some(key), version),
            None => return all,
        }
    }
}

/// Key, id as clients see it, whether it is the latest, whether it is a marker.
fn shown(engine: &Engine) -> Vec<(String, String, bool, bool)> {
    let name = |v: &VersionEntry| if v.null { "null".to_owned() } else { v.version.to_string() };
    versions(engine, 1_000).iter().map(|v| (v.key.clone(), name(v), v.latest, v.marker)).collect()
}

async fn assert_clean(engine: &Engine) {
    let request = FsckRequest::default();
    let report = engine.fsck(&request, engine.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

fn is_marker(outcome: Result<Vec<u8>, EngineError>, asked: bool) -> bool {
    matches!(outcome, Err(EngineError::DeleteMarker { named, .. }) if named == asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_make_versions_deletes_make_markers_and_what_is_removed_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = enabled(&bed).await;
    let mut written = Vec::new();
    for n in 0..3u8 {
        // The clock stands: the order is that of the writes all the same.
        written.push(put(&engine, "k", &[n; 5]).await.unwrap());
    }
    assert!(written.iter().all(|w| w.versioned && !w.null));
    assert!(written.windows(2).all(|pair| pair[0].version < pair[1].version));
    let name = |n: usize| written[n].version.to_string();
    let of = |n: usize, latest| ("k".to_owned(), name(n), latest, false);
    assert_eq!(shown(&engine), [of(2, true), of(1, false), of(0, false)]);
    for (n, w) in written.iter().enumerate() {
        assert_eq!(get_version(&engine, "k", id(w.version)).await.unwrap(), [n as u8; 5]);
        let info = engine.open_version("bkt", "k", id(w.version)).unwrap().info().clone();
        assert_eq!((info.etag, info.last_modified, info.versioned), (w.etag.clone(), w.last_modified, true));
    }
    let deleted = delete(&engine, "k").await;
    let (marker, null) = deleted.version.unwrap();
    assert!(deleted.existed && deleted.marker && !null);
    assert!(is_marker(get(&engine, "k").await, false));
    assert!(is_marker(get_version(&engine, "k", id(marker)).await, true));
    assert!(list_all(&engine, 10).is_empty());
    let on_top = ("k".to_owned(), marker.to_string(), true, true);
    assert_eq!(shown(&engine), [on_top, of(2, false), of(1, false), of(0, false)]);
    assert!(matches!(engine.delete_bucket("bkt").await, Err(EngineError::BucketNotEmpty(_))));
    let stats = engine.stats().unwrap();
    assert_eq!((stats.objects, stats.noncurrent.objects, stats.delete_markers), (3, 3, 1));

    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    assert_clean(&engine).await;
    let again = delete(&engine, "k").await;
    assert!(!again.existed && again.marker, "a marker upon a marker");
    for marker in [again.version.unwrap().0, marker] {
        let removed = remove(&engine, "k", id(marker)).await;
        assert_eq!(removed, Deleted { existed: true, version: Some((marker, false)), marker: true });
    }
    assert_eq!(get(&engine, "k").await.unwrap(), [2; 5]);
    assert_eq!(remove(&engine, "k", id(written[0].version)).await.version, Some((written[0].version, false)));
    assert_eq!(remove(&engine, "k", id(written[2].version)).await.version, Some((written[2].version, false)));
    assert_eq!((get(&engine, "k").await.unwrap(), shown(&engine)), (vec![1; 5], vec![of(1, true)]));
    let before = engine.open_object("bkt", "k").unwrap().info().clone();
    assert_eq!((before.version, before.last_modified), (written[1].version, written[1].last_modified));
    assert!(matches!(engine.open_version("bkt", "k", id(written[0].version)), Err(EngineError::NoSuchVersion { .. })));
    assert_eq!(remove(&engine, "k", id(written[0].version)).await, Deleted::default());
    remove(&engine, "k", id(written[1].version)).await;
    assert!(matches!(engine.open_object("bkt", "k"), Err(EngineError::NoSuchKey { .. })));
    assert_clean(&engine).await;
    engine.delete_bucket("bkt").await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_versions_are_suspended_only_the_null_version_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let first = put(&engine, "k", b"off").await.unwrap();
    assert!(first.null && !first.versioned);
    assert_eq!(shown(&engine), [("k".to_owned(), "null".to_owned(), true, false)]);
    engine.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    let second = put(&engine, "k", b"enabled").await.unwrap();
    assert_eq!(get_version(&engine, "k", VersionRef::Null).await.unwrap(), b"off");
    let by_number = engine.open_version("bkt", "k", id(first.version));
    assert!(matches!(by_number, Err(EngineError::NoSuchVersion { .. })), "its id is null and nothing else");
    engine.set_versioning("bkt", Versioning::Suspended).await.unwrap();
    let third = put(&engine, "k", b"suspended").await.unwrap();
    assert!(third.null && third.versioned);
    assert_eq!(get(&engine, "k").await.unwrap(), b"suspended");
    let null = |latest, marker| ("k".to_owned(), "null".to_owned(), latest, marker);
    let second = ("k".to_owned(), second.version.to_string(), false, false);
    assert_eq!(shown(&engine), [null(true, false), second.clone()]);
    let deleted = delete(&engine, "k").await;
    assert!(deleted.existed && deleted.marker && deleted.version.unwrap().1);
    assert_eq!(shown(&engine), [null(true, true), second.clone()]);
    assert!(is_marker(get(&engine, "k").await, false));
    delete(&engine, "k").await;
    assert_eq!(shown(&engine), [null(true, true), second.clone()], "one null marker replaces the other");
    put(&engine, "k", b"over the marker").await.unwrap();
    assert_eq!(shown(&engine), [null(true, false), second.clone()]);
    assert!(remove(&engine, "k", VersionRef::Null).await.existed);
    assert_eq!(get(&engine, "k").await.unwrap(), b"enabled");
    let back = engine.set_versioning("bkt", Versioning::Off).await;
    assert!(matches!(back, Err(EngineError::InvalidRequest(_))));
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_look_at_what_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = enabled(&bed).await;
    let write = async |key: &str, condition: WriteCondition| {
        let expect = BodyExpectation::default();
        let put =
            PutObject { bucket: "bkt".into(), key: key.into(), attributes: Default::default(), expect, condition };
        engine.put_object(put, body(b"x")).await
    };
    let absent = || WriteCondition { if_none_match: vec!["*".into()], ..Default::default() };
    let first = write("k", absent()).await.unwrap();
    assert!(matches!(write("k", absent()).await, Err(EngineError::PreconditionFailed(_))));
    let wrong = DeleteRequest { if_match: Some("other".into()), ..Default::default() };
    let outcome = engine.delete_object("bkt", "k", wrong).await;
    assert!(matches!(outcome, Err(EngineError::PreconditionFailed(_))));
    let other_than =
        |etag: &str| WriteCondition { if_none_match: vec!["other".into(), etag.into()], ..Default::default() };
    assert!(matches!(write("k", other_than(&first.etag)).await, Err(EngineError::PreconditionFailed(_))));
    write("k", other_than("another")).await.unwrap();
    let sized = |size| DeleteRequest { if_size: Some(size), ..Default::default() };
    let outcome = engine.delete_object("bkt", "k", sized(7)).await;
    assert!(matches!(outcome, Err(EngineError::PreconditionFailed(_))));
    let at = engine.open_object("bkt", "k").unwrap().info().last_modified.seconds();
    let dated = |second| DeleteRequest { if_modified: Some(second), ..sized(1) };
    let outcome = engine.delete_object("bkt", "k", dated(at + 1)).await;
    assert!(matches!(outcome, Err(EngineError::PreconditionFailed(_))));
    assert!(engine.delete_object("bkt", "k", dated(at)).await.unwrap().marker);
    let outcome = engine.delete_object("bkt", "k", sized(1)).await;
    assert!(matches!(outcome, Err(EngineError::PreconditionFailed(_))), "a marker has no bytes");
    assert_eq!(engine.delete_object("bkt", "never", sized(1)).await.unwrap(), Default::default());
    delete(&engine, "k").await;
    let matching = WriteCondition { if_match: Some(first.etag.clone()), ..Default::default() };
    assert!(matches!(write("k", matching).await, Err(EngineError::NoSuchKey { .. })), "a marker is no object");
    write("k", absent()).await.unwrap();
    let named = DeleteRequest { version: id(first.version), if_match: Some(first.etag), ..Default::default() };
    assert!(engine.delete_object("bkt", "k", named).await.unwrap().existed);
    assert!(matches!(write("a\0b", absent()).await, Err(EngineError::InvalidArgument(_))));
    let nul = engine.delete_object("bkt", "a\0b", DeleteRequest::default()).await;
    assert!(matches!(nul, Err(EngineError::InvalidArgument(_))));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_change_in_place_also_of_a_version_that_is_not_visible() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = enabled(&bed).await;
    let old = put(&engine, "k", b"old").await.unwrap();
    let new = put(&engine, "k", b"new").await.unwrap();
    for (version, tag) in [(id(old.version), "o"), (VersionRef::Current, "n")] {
        let change = |a: &mut ObjectAttributes| {
            a.tags = vec![("t".into(), tag.into())];
            Ok(())
        };
        engine.update_attributes("bkt", "k", version, change).await.unwrap();
    }
    for (written, tag) in [(&old, "o"), (&new, "n")] {
        let info = engine.open_version("bkt", "k", id(written.version)).unwrap().info().clone();
        assert_eq!(info.attributes.tags, [("t".to_owned(), tag.to_owned())]);
        assert_eq!((info.last_modified, info.etag), (written.last_modified, written.etag.clone()));
    }
    let marker = delete(&engine, "k").await.version.unwrap().0;
    for (version, asked) in [(VersionRef::Current, false), (id(marker), true)] {
        let refused = engine.update_attributes("bkt", "k", version, |_| Ok(())).await.map(|_| Vec::new());
        assert!(is_marker(refused, asked));
    }
    // A copy of an older version is a new one, and neither needs the other.
    let copy = CopyObject {
        source_bucket: "bkt".into(),
        source_key: "k".into(),
        source_version: old.version,
        bucket: "bkt".into(),
        key: "k".into(),
        replace_attributes: None,
        replace_tags: None,
        storage_class: None,
        checksum: None,
        condition: WriteCondition::default(),
    };
    let copied = engine.copy_object(copy).await.unwrap();
    assert!(copied.version > marker && copied.etag == old.etag);
    remove(&engine, "k", id(old.version)).await;
    engine.gc(GcRequest { dry_run: false }).await.unwrap();
    assert_eq!(get(&engine, "k").await.unwrap(), b"old");
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_versions_go_on_where_the_last_one_ended_and_prefixes_are_rolled_up() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = enabled(&bed).await;
    for key in ["a", "a/1", "a/2", "a\u{1}", "b/x", "c"] {
        for n in 0..3u8 {
            put(&engine, key, &[n]).await.unwrap();
        }
        if key.starts_with("a/") {
            delete(&engine, key).await;
        }
    }
    let all = versions(&engine, 1_000);
    let names = |list: &[VersionEntry]| list.iter().map(|v| (v.key.clone(), v.version)).collect::<Vec<_>>();
    assert_eq!(all.len(), 20);
    let keys: Vec<&str> = all.iter().map(|v| v.key.as_str()).collect();
    assert!(keys.is_sorted());
    for page in [1, 2, 3, 7] {
        assert_eq!(names(&versions(&engine, page)), names(&all), "{page}");
    }
    let mut list = ListVersions { bucket: "bkt".into(), delimiter: Some("/".into()), max: 2, ..Default::default() };
    let (mut prefixes, mut entries) = (Vec::new(), Vec::new());
    loop {
        let page = engine.list_versions(&list).unwrap();
        prefixes.extend(page.common_prefixes);
        entries.extend(page.entries.into_iter().map(|v| v.key));
        let Some((key, version)) = page.next else { break };
        (list.key_marker, list.version_marker) = (Some(key), version);
    }
    assert_eq!(prefixes, ["a/", "b/"]);
    assert_eq!(entries, ["a", "a", "a", "a\u{1}", "a\u{1}", "a\u{1}", "c", "c", "c"]);
    let below = ListVersions { bucket: "bkt".into(), prefix: "a/".into(), max: 100, ..Default::default() };
    assert_eq!(engine.list_versions(&below).unwrap().entries.len(), 8);
    let none = ListVersions { bucket: "bkt".into(), max: 0, ..Default::default() };
    assert!(engine.list_versions(&none).unwrap().next.is_none());
    engine.shutdown().await.unwrap();
}

/// Sixteen clients write, delete and remove versions of one key; whatever the order, nothing that was acknowledged is lost, nothing
/// that was removed comes back, and the newest is the latest.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_clients_of_one_key_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = enabled(&bed).await;
    let mut clients = Vec::new();
    for client in 0..16u8 {
        let engine = engine.clone();
        clients.push(tokio::spawn(async move {
            let (mut made, mut gone) = (BTreeMap::new(), BTreeSet::new());
            for round in 0..12u8 {
                if (client + round) % 4 == 3 {
                    let deleted = retried!(engine.delete_object("bkt", "k", DeleteRequest::default()));
                    made.insert(deleted.version.unwrap().0, None);
                } else {
                    let bytes = vec![client, round];
                    made.insert(retried!(put(&engine, "k", &bytes)).version, Some(bytes));
                }
                if round % 3 == 2
                    && let Some(mine) = made.keys().find(|mine| !gone.contains(*mine)).copied()
                {
                    let delete = || DeleteRequest { version: id(mine), ..DeleteRequest::default() };
                    assert!(retried!(engine.delete_object("bkt", "k", delete())).existed);
                    gone.insert(mine);
                }
            }
            (made, gone)
        }));
    }
    let mut left = BTreeMap::new();
    for client in clients {
        let (made, gone) = client.await.unwrap();
        left.extend(made.into_iter().filter(|(version, _)| !gone.contains(version)));
    }
    let check = async |engine: &Engine| {
        let listed = versions(engine, 50);
        let newest_first: Vec<VersionId> = left.keys().rev().copied().collect();
        assert_eq!(listed.iter().map(|v| v.version).collect::<Vec<_>>(), newest_first);
        assert!(listed.iter().enumerate().all(|(n, v)| v.latest == (n == 0)));
        for (version, bytes) in &left {
            match bytes {
                Some(bytes) => assert_eq!(get_version(engine, "k", id(*version)).await.unwrap(), *bytes),
                None => assert!(is_marker(get_version(engine, "k", id(*version)).await, true)),
            }
        }
        match left.last_key_value().unwrap().1 {
            Some(bytes) => assert_eq!(get(engine, "k").await.unwrap(), *bytes),
            None => assert!(is_marker(get(engine, "k").await, false)),
        }
        assert_clean(engine).await;
    };
    check(&engine).await;
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    check(&engine).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reclaiming_keeps_the_bytes_of_every_version_and_frees_those_of_removed_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    bed.settings.local.pack_bytes = 256 << 10;
    let engine = enabled(&bed).await;
    let mut written = Vec::new();
    for n in 0..6u64 {
        written.push(put(&engine, "k", &noise(n, 200_000)).await.unwrap().version);
    }
    delete(&engine, "k").await;
    let used = || engine.stats().unwrap().local.unique_bytes;
    engine.gc(GcRequest { dry_run: false }).await.unwrap();
    assert!(used() >= 1_200_000);
    for version in &written[1..5] {
        remove(&engine, "k", id(*version)).await;
    }
    engine.gc(GcRequest { dry_run: false }).await.unwrap();
    assert!((400_000..500_000).contains(&used()), "{}", used());
    for n in [0usize, 5] {
        assert_eq!(get_version(&engine, "k", id(written[n])).await.unwrap(), noise(n as u64, 200_000));
    }
    assert_clean(&engine).await;
    engine.shutdown().await.unwrap();
}
