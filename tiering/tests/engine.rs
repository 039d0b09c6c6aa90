//! The engine as a whole: objects, uploads, listings, transitions, restarts.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, body, get, noise, put, put_class, read, residency, until};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::Tier;
use tidegate_tiering::tier::memory::MemoryTier;

fn memory() -> Arc<MemoryTier> {
    Arc::new(MemoryTier::new().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_is_read_back_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let bodies: Vec<(String, Vec<u8>)> = [0usize, 1, 100, 8_192, 70_000, 300_000, 5_000_000, 20_000_000]
        .into_iter()
        .map(|len| (format!("k/{len}"), noise(len as u64, len)))
        .collect();
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for (key, bytes) in &bodies {
        let written = put(&engine, key, bytes).await.unwrap();
        assert_eq!(written.size, bytes.len() as u64);
        assert_eq!(get(&engine, key).await.unwrap(), *bytes, "{key}");
    }
    let handle = engine.open_object("bkt", "k/5000000").unwrap();
    for range in [0..1, 4_999_999..5_000_000, 1_000_000..3_000_001, 65_535..65_537] {
        let want = &bodies[6].1[range.start as usize..range.end as usize];
        assert_eq!(read(handle.read(range.clone()).await.unwrap()).await.unwrap(), want, "{range:?}");
    }
    drop(handle);
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    for (key, bytes) in &bodies {
        assert_eq!(get(&engine, key).await.unwrap(), *bytes, "{key} after a restart");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_index_while_stopped_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..50 {
        put(&engine, &format!("k/{n:03}"), &noise(n, 3_000)).await.unwrap();
    }
    engine.shutdown().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let engine = bed.open().await;
    let page =
        engine.list_objects(&ListObjects { bucket: "bkt".into(), max_keys: 1_000, ..Default::default() }).unwrap();
    assert_eq!(page.objects.len(), 50);
    assert_eq!(get(&engine, "k/049").await.unwrap(), noise(49, 3_000));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_or_differs_from_its_digest_leaves_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "k", b"before").await.unwrap();
    let attempt = |expect: BodyExpectation, sent: &'static [u8]| {
        let put = PutObject {
            bucket: "bkt".into(),
            key: "k".into(),
            attributes: ObjectAttributes::default(),
            expect,
            condition: WriteCondition::default(),
        };
        let engine = engine.clone();
        async move { engine.put_object(put, body(sent)).await }
    };
    let short = BodyExpectation { length: Some(10), ..Default::default() };
    assert!(matches!(attempt(short, b"short").await, Err(EngineError::Body(_))));
    let long = BodyExpectation { length: Some(3), ..Default::default() };
    assert!(matches!(attempt(long, b"long!").await, Err(EngineError::Body(_))));
    let wrong = BodyExpectation { md5: Some([7; 16]), ..Default::default() };
    assert!(matches!(attempt(wrong, b"hello").await, Err(EngineError::BadDigest { .. })));
    assert_eq!(get(&engine, "k").await.unwrap(), b"before");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn write_conditions_hold_at_the_commit_point_under_contention() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let create = |n: u64| {
        let engine = engine.clone();
        async move {
            let bytes = noise(n, 1_000);
            let put = PutObject {
                bucket: "bkt".into(),
                key: "only-one".into(),
                attributes: ObjectAttributes::default(),
                expect: BodyExpectation { length: Some(1_000), ..Default::default() },
                condition: WriteCondition { if_none_match: vec!["*".into()], ..Default::default() },
            };
            engine.put_object(put, body(&bytes)).await.is_ok()
        }
    };
    let outcomes = futures::future::join_all((0..32).map(create)).await;
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_page_through_keys_and_common_prefixes_like_a_sorted_map() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine.create_bucket("bkt2").await.unwrap();
    let keys = ["a", "a/", "a/1", "a/2/x", "a/2/y", "a0", "b/1", "b/2", "c", "\u{e9}/1", "\u{10ffff}"];
    for key in keys {
        put(&engine, key, key.as_bytes()).await.unwrap();
    }
    for (prefix, delimiter) in
        [("", None), ("", Some("/")), ("a", Some("/")), ("a/", Some("/")), ("zz", None), ("", Some("2"))]
    {
        let mut want: Vec<String> = Vec::new();
        for key in keys.iter().filter(|k| k.starts_with(prefix)) {
            let rolled = delimiter.and_then(|d| key[prefix.len()..].find(d).map(|at| prefix.len() + at + d.len()));
            let entry = rolled.map_or((*key).to_owned(), |end| key[..end].to_owned());
            if want.last() != Some(&entry) {
                want.push(entry);
            }
        }
        want.sort();
        want.dedup();
        for max_keys in 1..=keys.len() + 1 {
            let mut have: Vec<String> = Vec::new();
            let mut after = None;
            loop {
                let list = ListObjects {
                    bucket: "bkt".into(),
                    prefix: prefix.into(),
                    delimiter: delimiter.map(str::to_owned),
                    after: after.clone(),
                    max_keys,
                };
                let page = engine.list_objects(&list).unwrap();
                assert!(page.objects.len() + page.common_prefixes.len() <= max_keys);
                let mut names: Vec<String> = page.objects.iter().map(|o| o.key.clone()).collect();
                names.extend(page.common_prefixes.clone());
                names.sort();
                have.extend(names);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(have, want, "prefix {prefix:?}, delimiter {delimiter:?}, pages of {max_keys}");
        }
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_becomes_one_object_with_s3s_etag_and_keeps_its_part_map() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let create = CreateUpload {
        bucket: "bkt".into(),
        key: "big".into(),
        attributes: ObjectAttributes::default(),
        checksum: Some((ChecksumAlgorithm::Crc32, false)),
    };
    let id = engine.create_upload(create).await.unwrap();
    let parts = [noise(1, 6 << 20), noise(2, 5 << 20), noise(3, 100)];
    let mut done = Vec::new();
    for (n, bytes) in parts.iter().enumerate() {
        let part = UploadPart {
            bucket: "bkt".into(),
            key: "big".into(),
            upload_id: id.clone(),
            number: n as u32 + 1,
            expect: BodyExpectation::default(),
        };
        let info = engine.upload_part(part, body(bytes)).await.unwrap();
        done.push(CompletedPart { number: info.number, etag: info.etag, checksum: None });
    }
    let complete = |parts: Vec<CompletedPart>| CompleteUpload {
        bucket: "bkt".into(),
        key: "big".into(),
        upload_id: id.clone(),
        parts,
        expect_checksum: None,
        expect_size: None,
        condition: WriteCondition::default(),
    };
    let reversed: Vec<_> = done.iter().rev().cloned().collect();
    assert!(matches!(engine.complete_upload(complete(reversed)).await, Err(EngineError::InvalidPartOrder)));
    let mut wrong = done.clone();
    wrong[0].etag = "0".repeat(32);
    assert!(matches!(engine.complete_upload(complete(wrong)).await, Err(EngineError::InvalidPart { number: 1 })));
    let written = engine.complete_upload(complete(done.clone())).await.unwrap();
    assert!(written.etag.ends_with("-3"));
    let again = engine.complete_upload(complete(done)).await.unwrap();
    assert_eq!(again.version, written.version, "a repeated complete answers the same");
    let handle = engine.open_object("bkt", "big").unwrap();
    assert_eq!(handle.info().parts.len(), 3);
    assert_eq!(handle.part_range(2), Some(6 << 20..11 << 20));
    assert_eq!(get(&engine, "big").await.unwrap(), parts.concat());
    assert!(
        engine
            .list_uploads(&ListUploads { bucket: "bkt".into(), max_uploads: 10, ..Default::default() })
            .unwrap()
            .uploads
            .is_empty()
    );
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_objects_move_by_rule_are_read_from_the_tier_and_keep_what_clients_see() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let bodies: Vec<Vec<u8>> = (0..20).map(|n| noise(n, 10_000 + 60_000 * n as usize)).collect();
    for (n, bytes) in bodies.iter().enumerate() {
        put(&engine, &format!("cold/{n}"), bytes).await.unwrap();
    }
    put(&engine, "warm", b"stays").await.unwrap();
    let before = engine.open_object("bkt", "cold/7").unwrap().info().clone();
    bed.clock.advance(DAY * 30 - Duration::from_millis(1));
    assert_eq!(residency(&engine, "cold/7"), Some(Residency::Hot), "not a millisecond early");
    bed.clock.advance(Duration::from_millis(1));
    let waiting = |engine: &Engine| -> u64 {
        let jobs = engine.stats().unwrap().jobs;
        jobs.iter().filter(|j| j.kind.starts_with("transition")).map(|j| j.count).sum()
    };
    until("all were found due", || waiting(&engine) == 20).await;
    bed.clock.advance(Duration::from_secs(61));
    until("all are cold", || engine.stats().unwrap().cold.objects == 20).await;
    let after = engine.open_object("bkt", "cold/7").unwrap().info().clone();
    assert_eq!((after.etag, after.last_modified, after.version), (before.etag, before.last_modified, before.version));
    assert_eq!(after.class_shown, "STANDARD_IA");
    assert_eq!(residency(&engine, "warm"), Some(Residency::Hot));
    let tier = engine.stats().unwrap().tiers[0].clone();
    assert_eq!((tier.objects, tier.packs), (20, 1), "twenty small objects are one pack");
    for (n, bytes) in bodies.iter().enumerate() {
        assert_eq!(get(&engine, &format!("cold/{n}")).await.unwrap(), *bytes);
    }
    engine.shutdown().await.unwrap();
    // Without any local pack the tier alone serves them.
    std::fs::remove_dir_all(dir.path().join("packs")).unwrap();
    let engine = bed.open().await;
    for (n, bytes) in bodies.iter().enumerate().filter(|(_, b)| b.len() < 1 << 20) {
        assert_eq!(get(&engine, &format!("cold/{n}")).await.unwrap(), *bytes, "cold/{n} from the tier");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_into_a_cold_class_lands_locally_and_moves_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), memory());
    bed.settings.tiering.linger_ms = 0;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "k", &noise(1, 200_000), Some("STANDARD_IA")).await.unwrap();
    until("it is cold", || residency(&engine, "k") == Some(Residency::Cold { tier: "ia".into() })).await;
    assert_eq!(get(&engine, "k").await.unwrap(), noise(1, 200_000));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_expire_objects_and_abort_uploads_on_time_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "short/a", b"x").await.unwrap();
    put(&engine, "long/a", b"x").await.unwrap();
    let create = CreateUpload {
        bucket: "bkt".into(),
        key: "short/u".into(),
        attributes: ObjectAttributes::default(),
        checksum: None,
    };
    engine.create_upload(create).await.unwrap();
    bed.clock.advance(DAY * 5);
    until("it is gone", || residency(&engine, "short/a").is_none()).await;
    assert!(residency(&engine, "long/a").is_some());
    assert_eq!(engine.stats().unwrap().uploads, 1);
    bed.clock.advance(DAY * 2);
    until("the upload is gone", || engine.stats().unwrap().uploads == 0).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_rules_applies_to_existing_objects_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..700 {
        put(&engine, &format!("old/{n}"), b"x").await.unwrap();
    }
    bed.clock.advance(DAY * 400);
    let text = common::POLICY.replace("short/", "old/");
    let policy = tidegate_policies::parse("p", &text).unwrap();
    engine.set_policy(policy, text).await.unwrap();
    until("all are gone", || engine.stats().unwrap().objects == 0).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_survives_the_deletion_of_its_source_and_a_failed_tier_delays_nothing_hot() {
    let dir = tempfile::tempdir().unwrap();
    let tier = memory();
    let mut bed = Bed::new(dir.path(), Arc::clone(&tier) as _);
    bed.settings.tiering.linger_ms = 0;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "cold", &noise(5, 400_000), Some("STANDARD_IA")).await.unwrap();
    until("it is cold", || residency(&engine, "cold") == Some(Residency::Cold { tier: "ia".into() })).await;
    let source = engine.open_object("bkt", "cold").unwrap().info().version;
    let copy = CopyObject {
        source_bucket: "bkt".into(),
        source_key: "cold".into(),
        source_version: source,
        bucket: "bkt".into(),
        key: "copy".into(),
        replace_attributes: None,
        replace_tags: None,
        storage_class: Some("STANDARD_IA".into()),
        checksum: None,
        condition: WriteCondition::default(),
    };
    engine.copy_object(copy).await.unwrap();
    assert!(engine.delete_object("bkt", "cold", DeleteRequest::default()).await.unwrap().existed);
    engine.gc(GcRequest::default()).await.unwrap();
    assert_eq!(engine.stats().unwrap().tiers[0].packs, 1, "the copy keeps the pack");
    assert_eq!(get(&engine, "copy").await.unwrap(), noise(5, 400_000));
    assert!(engine.delete_object("bkt", "copy", DeleteRequest::default()).await.unwrap().existed);
    engine.gc(GcRequest::default()).await.unwrap();
    until("the pack is deleted remotely", || engine.stats().unwrap().tiers[0].packs == 0).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_a_tier_that_the_configuration_has_lost_for_a_while_are_not_taken_for_dead() {
    let dir = tempfile::tempdir().unwrap();
    let archive = memory();
    let mut bed = Bed::new(dir.path(), memory());
    bed.settings.tiering.linger_ms = 0;
    bed.others.insert("archive".into(), Arc::clone(&archive) as Arc<dyn Tier>);
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "k", &noise(1, 200_000), Some("GLACIER")).await.unwrap();
    until("it is cold", || residency(&engine, "k") == Some(Residency::Cold { tier: "archive".into() })).await;
    engine.shutdown().await.unwrap();
    bed.others.clear();
    let engine = bed.open().await;
    for _ in 0..2 {
        assert_eq!(engine.gc(GcRequest::default()).await.unwrap().remote_packs_doomed, 0);
    }
    engine.shutdown().await.unwrap();
    bed.others.insert("archive".into(), archive as Arc<dyn Tier>);
    std::fs::remove_dir_all(dir.path().join("packs")).unwrap();
    let engine = bed.open().await;
    assert_eq!(get(&engine, "k").await.unwrap(), noise(1, 200_000));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_whose_caller_has_gone_ends_before_the_next_begins() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let fill = futures::future::join_all((0..500u64).map(|n| {
        let engine = engine.clone();
        async move { put(&engine, &format!("k/{n}"), &noise(n, 500)).await }
    }));
    assert!(fill.await.iter().all(Result::is_ok));
    for n in 0..20 {
        let _ = tokio::time::timeout(Duration::from_micros(n * 50), engine.gc(GcRequest::default())).await;
        engine.gc(GcRequest::default()).await.unwrap();
    }
    for n in 0..500 {
        assert_eq!(get(&engine, &format!("k/{n}")).await.unwrap(), noise(n, 500));
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_object_does_not_keep_the_others_from_moving() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..10 {
        put(&engine, &format!("cold/{n}"), &noise(n, 4_000)).await.unwrap();
    }
    // The frame of one of them, found by its bytes, is damaged on disk.
    let wanted = noise(4, 4_000)[..32].to_vec();
    let mut damaged = 0;
    for entry in std::fs::read_dir(dir.path().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(mut bytes) = std::fs::read(&path) else { continue };
        if let Some(at) = bytes.windows(32).position(|w| w == wanted) {
            bytes[at] ^= 1;
            std::os::unix::fs::FileExt::write_all_at(
                &std::fs::OpenOptions::new().write(true).open(&path).unwrap(),
                &bytes[at..at + 1],
                at as u64,
            )
            .unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    bed.clock.advance(DAY * 30);
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while engine.stats().unwrap().cold.objects < 9 {
        assert!(std::time::Instant::now() < deadline, "{:?}", engine.stats().unwrap());
        // The linger and the back-off after each failure pass.
        bed.clock.advance(Duration::from_secs(61));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(residency(&engine, "cold/4"), Some(Residency::Hot));
    assert!(matches!(get(&engine, "cold/4").await, Err(EngineError::Corrupt(_))));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_metadata_in_place_never_bring_back_a_version_that_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::new(dir.path(), memory());
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "k", &noise(0, 2_000)).await.unwrap();
    for n in 1..60u64 {
        let version = engine.open_object("bkt", "k").unwrap().info().version;
        let copy = CopyObject {
            source_bucket: "bkt".into(),
            source_key: "k".into(),
            source_version: version,
            bucket: "bkt".into(),
            key: "k".into(),
            replace_attributes: Some(ObjectAttributes::default()),
            replace_tags: None,
            storage_class: None,
            checksum: None,
            condition: WriteCondition::default(),
        };
        let bytes = noise(n, 2_000);
        let (copied, written) = tokio::join!(engine.copy_object(copy), put(&engine, "k", &bytes));
        written.unwrap();
        match copied {
            Ok(_) | Err(EngineError::PreconditionFailed(_) | EngineError::Conflict) => {}
            Err(other) => panic!("{other}"),
        }
        engine.gc(GcRequest::default()).await.unwrap();
        // Either the copy came first, or it was refused: the PUT's bytes are what stands.
        assert_eq!(get(&engine, "k").await.unwrap(), bytes, "round {n}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_ends_when_nobody_waits_for_it_any_more() {
    use futures::StreamExt;
    let dir = tempfile::tempdir().unwrap();
    let engine = Bed::new(dir.path(), memory()).open().await;
    engine.create_bucket("bkt").await.unwrap();
    // Held by the body alone: one piece, and then nothing for ever, as from a tier that hangs.
    let (held, taken) = (Arc::new(()), Arc::new(tokio::sync::Notify::new()));
    let (guard, told) = (Arc::clone(&held), Arc::clone(&taken));
    let endless = futures::stream::once(async { Ok(bytes::Bytes::from(noise(1, 300_000))) }).chain(
        futures::stream::once(async move {
            told.notify_one();
            std::future::pending::<()>().await;
            drop(guard);
            Err(BodyError::Incomplete("never".into()))
        }),
    );
    let put = PutObject {
        bucket: "bkt".into(),
        key: "endless".into(),
        attributes: ObjectAttributes::default(),
        expect: BodyExpectation::default(),
        condition: WriteCondition::default(),
    };
    tokio::select! {
        done = engine.put_object(put, endless.boxed()) => panic!("{done:?}"),
        () = taken.notified() => {}
    }
    until("the body is let go", || Arc::strong_count(&held) == 1).await;
    assert!(engine.open_object("bkt", "endless").is_err());
    engine.shutdown().await.unwrap();
}
