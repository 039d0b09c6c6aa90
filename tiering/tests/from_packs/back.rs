//! All that was moved is there: it comes back.

use super::*;
use tidegate_tiering::engine::DeleteRequest;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_comes_back_from_packs_alone_as_clients_saw_it() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    old.create_bucket("empty-bucket").await.unwrap();
    let shared = noise(1, 100_000);
    put_cold(&old, "plain", &shared, IA).await;
    put_cold(&old, "the same bytes", &shared, IA).await;
    put_cold(&old, "the same bytes elsewhere", &shared, ARCHIVE).await;
    put_cold(&old, "empty", b"", IA).await;
    put_cold(&old, "large", &noise(2, 3 << 20), ARCHIVE).await;
    put_cold(&old, "ü/\u{1F30A}/ \u{1}%2F?", b"odd", IA).await;
    let attributes = ObjectAttributes {
        headers: ContentHeaders { content_type: Some("text/x".into()), ..Default::default() },
        user_metadata: vec![("a".into(), "b \u{e9}".into())],
        tags: vec![("team".into(), "dock".into()), ("höhe".into(), "5 m".into())],
        storage_class: IA.map(str::to_owned),
        ..Default::default()
    };
    let put_described = PutObject {
        bucket: "bkt".into(),
        key: "described".into(),
        attributes,
        expect: BodyExpectation { compute: Some(ChecksumAlgorithm::Sha256), ..Default::default() },
        condition: WriteCondition::default(),
    };
    old.put_object(put_described, body(b"described")).await.unwrap();
    is_cold(&old, "described").await;
    let parts: Vec<Vec<u8>> = (0..3).map(|n| noise(30 + n, 150_000)).collect();
    put_parts(&old, "cold/parts", &parts).await.unwrap();
    old_bed.clock.advance(DAY * 31);
    is_cold(&old, "cold/parts").await;
    let before = everything(&old).await;
    assert_eq!(before.len(), 8);
    put(&old, "hot", b"on the disk only").await.unwrap();
    old.shutdown().await.unwrap();
    std::fs::remove_dir_all(old_dir.path()).unwrap();

    let dry = Recovery { dry_run: true, ..Recovery::new(&old_bed, new_dir.path()) }.run().await.unwrap().0;
    assert_eq!(std::fs::read_dir(new_dir.path()).unwrap().count(), 0);
    let (report, missing, odd) = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap();
    assert!(report.finished && dry.finished && missing.is_empty() && odd.is_empty(), "{report:?} {odd:?}");
    assert_eq!((report.found.objects, dry.found.objects, report.found.buckets), (8, 8, 1));
    assert!(report.packs_without_manifests > 2, "the large one has packs of chunks alone: {report:?}");
    assert_eq!((report.packs_left, report.term, report.older_versions), (0, 0, 0));

    let mut new_bed = bed(new_dir.path(), &clouds);
    new_bed.clock = Arc::clone(&old_bed.clock);
    let new = open(&new_bed).await;
    assert_eq!(everything(&new).await, before);
    let packs = [names(clouds.ia.as_ref()).await, names(clouds.archive.as_ref()).await];
    assert_eq!(collect(&new).await, 0, "all that is there is needed");
    assert_eq!([names(clouds.ia.as_ref()).await, names(clouds.archive.as_ref()).await], packs);
    let request = FsckRequest::default();
    let report = new.fsck(&request, new.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // It is a store like any other.
    put_cold(&new, "new", &noise(9, 50_000), IA).await;
    assert!(new.delete_object("bkt", "large", DeleteRequest::default()).await.unwrap().existed);
    assert!(collect(&new).await > 4, "the packs of what is deleted go");
    new.shutdown().await.unwrap();
    let again = open(&new_bed).await;
    assert_eq!(everything(&again).await.len(), 8);
    again.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_only_tells_lives_as_long_as_what_it_tells_of() {
    let (dir, clouds) = (tempfile::tempdir().unwrap(), clouds());
    let bed = bed(dir.path(), &clouds);
    let engine = open(&bed).await;
    let bytes = noise(1, 60_000);
    put_cold(&engine, "first", &bytes, IA).await;
    let first = names(clouds.ia.as_ref()).await;
    put_cold(&engine, "second", &bytes, IA).await;
    put_cold(&engine, "empty", b"", IA).await;
    let all = names(clouds.ia.as_ref()).await;
    assert_eq!((first.len(), all.len()), (1, 3));
    let small = |p: &TierPackReport| p.chunks == 1 && p.bytes < 1_000;
    assert_eq!(engine.tier_packs("ia", None, 10).unwrap().iter().filter(|p| small(p)).count(), 2);
    assert_eq!(collect(&engine).await, 0);
    // A change of metadata in place keeps it, and so does a copy: the bytes have a name, be it that of the source.
    let copy_in_place = CopyObject {
        source_bucket: "bkt".into(),
        source_key: "second".into(),
        source_version: engine.open_object("bkt", "second").unwrap().info().version,
        bucket: "bkt".into(),
        key: "second".into(),
        replace_attributes: Some(ObjectAttributes::default()),
        replace_tags: None,
        storage_class: None,
        checksum: None,
        condition: WriteCondition::default(),
    };
    engine.copy_object(copy_in_place).await.unwrap();
    copy(&engine, "second", "copy", IA).await.unwrap();
    assert!(matches!(residency(&engine, "copy"), Some(Residency::Cold { .. })), "no byte was moved");
    assert_eq!(collect(&engine).await, 0);
    engine.delete_object("bkt", "second", DeleteRequest::default()).await.unwrap();
    assert_eq!(collect(&engine).await, 0);
    engine.delete_object("bkt", "copy", DeleteRequest::default()).await.unwrap();
    assert_eq!(collect(&engine).await, 1);
    engine.delete_object("bkt", "empty", DeleteRequest::default()).await.unwrap();
    assert_eq!(collect(&engine).await, 1);
    assert_eq!(names(clouds.ia.as_ref()).await, first);
    assert_eq!(get(&engine, "first").await.unwrap(), bytes);
    // Without the pack that tells, nothing of the object is lost, and a restore needs it no more than a read does.
    put_cold(&engine, "third", &bytes, IA).await;
    let telling = names(clouds.ia.as_ref()).await.difference(&first).next().unwrap().clone();
    clouds.ia.delete(&telling).await.unwrap();
    engine.evict(u64::MAX).await.unwrap();
    assert_eq!(get(&engine, "third").await.unwrap(), bytes);
    let request = FsckRequest::default();
    let report = engine.fsck(&request, engine.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FindingKind::DanglingPack], "a pack is missing, and no object suffers: {:?}", report.findings);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_versions_the_latest_comes_back_where_it_came_last_and_what_was_deleted_comes_back_too() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let mut old_bed = bed(old_dir.path(), &clouds);
    old_bed.policy = old_bed.policy.replace("  - name: ia\n", "  - name: ia\n  - name: archive\n");
    old_bed.policy = old_bed.policy.replace(
        "{ to: ia, after: 30d, since: creation }",
        "{ to: ia, after: 30d, since: creation }\n      - { to: archive, after: 60d, since: creation }",
    );
    let old = open(&old_bed).await;
    for version in 0..3 {
        put_cold(&old, "often", &noise(version, 20_000), IA).await;
        old_bed.clock.advance(Duration::from_secs(10));
    }
    put_cold(&old, "deleted", b"deleted", IA).await;
    old.delete_object("bkt", "deleted", DeleteRequest::default()).await.unwrap();
    put(&old, "cold/onwards", &noise(7, 20_000)).await.unwrap();
    old_bed.clock.advance(DAY * 31);
    is_cold(&old, "cold/onwards").await;
    old_bed.clock.advance(DAY * 31);
    let archive = Some(Residency::Cold { tier: "archive".into() });
    until("it goes on", || residency(&old, "cold/onwards") == archive).await;
    let before = seen(&old, "often");
    old.shutdown().await.unwrap();

    let (report, missing, _) = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap();
    assert!(missing.is_empty());
    assert_eq!((report.found.objects, report.older_versions), (3, 2));
    let new = open(&bed(new_dir.path(), &clouds)).await;
    assert_eq!(seen(&new, "often"), before);
    assert_eq!(get(&new, "often").await.unwrap(), noise(2, 20_000));
    assert_eq!(get(&new, "deleted").await.unwrap(), b"deleted");
    assert_eq!(residency(&new, "cold/onwards"), archive);
    // Older versions are told of, and nothing needs them: they go.
    assert!(collect(&new).await >= 2);
    assert_eq!(everything(&new).await.len(), 3);
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_come_back_as_versions_the_newest_as_the_latest() {
    use tidegate_tiering::engine::{ListVersions, VersionRef, Versioning};
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    put_cold(&old, "k", b"before versions", IA).await;
    old.set_versioning("bkt", Versioning::Enabled).await.unwrap();
    for n in 0..3u64 {
        put_cold(&old, "k", &noise(n, 40_000), ARCHIVE).await;
    }
    let listed = |engine: &Engine| {
        let list = ListVersions { bucket: "bkt".into(), max: 100, ..Default::default() };
        let page = engine.list_versions(&list).unwrap();
        page.entries.iter().map(|v| (v.key.clone(), v.version, v.null, v.latest, v.modified)).collect::<Vec<_>>()
    };
    let before = listed(&old);
    assert_eq!(before.len(), 4);
    // What packs cannot tell: that the newest was deleted.
    old.delete_object("bkt", "k", DeleteRequest::default()).await.unwrap();
    old.shutdown().await.unwrap();
    std::fs::remove_dir_all(old_dir.path()).unwrap();

    let (report, missing, odd) = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap();
    assert!(report.finished && missing.is_empty() && odd.is_empty(), "{report:?} {odd:?}");
    assert_eq!((report.found.objects, report.older_versions), (4, 0));
    let mut new_bed = bed(new_dir.path(), &clouds);
    new_bed.clock = Arc::clone(&old_bed.clock);
    let new = open(&new_bed).await;
    assert_eq!(listed(&new), before);
    assert_eq!(new.bucket("bkt").unwrap().settings.versioning, Versioning::Enabled);
    assert_eq!(get(&new, "k").await.unwrap(), noise(2, 40_000));
    let null = new.open_version("bkt", "k", VersionRef::Null).unwrap();
    assert_eq!(common::read(null.read(0..15).await.unwrap()).await.unwrap(), b"before versions");
    assert_eq!(collect(&new).await, 0, "all that is there is needed");
    let request = FsckRequest::default();
    let report = new.fsck(&request, new.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clients_key_encrypted_comes_back_without_the_key_and_opens_with_it() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    let key = CustomerKey::new([9; 32]);
    let sealed = PutObject {
        bucket: "bkt".into(),
        key: "sealed".into(),
        attributes: ObjectAttributes { storage_class: IA.map(str::to_owned), ..Default::default() },
        expect: BodyExpectation { customer_key: Some(key.clone()), ..Default::default() },
        condition: WriteCondition::default(),
    };
    let plain = noise(3, 200_000);
    old.put_object(sealed, body(&plain)).await.unwrap();
    is_cold(&old, "sealed").await;
    old.shutdown().await.unwrap();

    let (report, missing, _) = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap();
    assert!(report.finished && missing.is_empty());
    let new = open(&bed(new_dir.path(), &clouds)).await;
    let mut object = new.open_object("bkt", "sealed").unwrap();
    assert!(matches!(object.unlock(Some(CustomerKey::new([8; 32]))), Err(EngineError::WrongKey)));
    object.unlock(Some(key)).unwrap();
    let mut read = Vec::new();
    let mut stream = object.read(0..plain.len() as u64).await.unwrap();
    while let Some(piece) = futures::StreamExt::next(&mut stream).await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == plain);
    new.shutdown().await.unwrap();
}
