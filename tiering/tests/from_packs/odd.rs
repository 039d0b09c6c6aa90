//! Packs that are missing, archived, damaged, of an earlier version, or of another store.

use super::*;
use tidegate_tiering::engine::DeleteRequest;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_missing_pack_had_is_named_by_key() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    put_cold(&old, "small", b"small", IA).await;
    let before = names(clouds.ia.as_ref()).await;
    put_cold(&old, "large", &noise(2, 3 << 20), IA).await;
    let of_large: Vec<String> = names(clouds.ia.as_ref()).await.difference(&before).cloned().collect();
    assert!(of_large.len() > 4);
    // One in the middle: it has neither manifests nor, perhaps, a list of chunks.
    clouds.ia.delete(&of_large[2]).await.unwrap();
    old.shutdown().await.unwrap();
    let (report, missing, _) = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap();
    let keys: Vec<&str> = missing.iter().map(|m| m.key.as_str()).collect();
    assert_eq!((keys, report.found.missing_objects, report.found.missing_bytes), (vec!["large"], 1, 3 << 20));
    let listed = std::fs::read_to_string(report.missing_list.unwrap()).unwrap();
    assert!(listed.lines().count() == 1 && listed.contains("\"large\""), "{listed}");
    let new = open(&bed(new_dir.path(), &clouds)).await;
    assert_eq!(get(&new, "small").await.unwrap(), b"small");
    assert!(matches!(get(&new, "large").await, Err(EngineError::Corrupt(_))));
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_packs_are_named_thawed_when_that_is_asked_for_and_otherwise_left_in_peace() {
    let (old_dir, clouds) = (tempfile::tempdir().unwrap(), clouds());
    let mut old_bed = bed(old_dir.path(), &clouds);
    let frozen: Arc<dyn Tier> = Arc::new(FrozenTier::new(Arc::clone(&clouds.archive) as _, Arc::clone(&old_bed.clock)));
    old_bed.others.insert("archive".into(), Arc::clone(&frozen));
    let old = open(&old_bed).await;
    put_cold(&old, "online", b"online", IA).await;
    put_cold(&old, "archived", &noise(3, 50_000), ARCHIVE).await;
    let before = seen(&old, "archived");
    old.shutdown().await.unwrap();
    let packs = names(clouds.archive.as_ref()).await;
    assert_eq!(packs.len(), 1);

    // Without asking for a restore: what can be read comes back, and the rest is named and kept.
    let without = tempfile::tempdir().unwrap();
    let (report, _, odd) = Recovery::new(&old_bed, without.path()).run().await.unwrap();
    assert_eq!((report.finished, report.archived_packs, report.thaws, report.found.objects), (true, 1, 0, 1));
    assert!(odd[0].name == *packs.first().unwrap() && odd[0].why == "archived", "{odd:?}");
    let listed = std::fs::read_to_string(report.packs_list.unwrap()).unwrap();
    assert!(listed.contains(&odd[0].name), "{listed}");
    let mut new_bed = bed(without.path(), &clouds);
    new_bed.others.insert("archive".into(), Arc::clone(&frozen));
    new_bed.clock = Arc::clone(&old_bed.clock);
    let new = open(&new_bed).await;
    assert_eq!(get(&new, "online").await.unwrap(), b"online");
    old_bed.clock.advance(DAY * 2);
    assert_eq!(collect(&new).await, 0);
    let request = FsckRequest { repair: true, ..FsckRequest::default() };
    new.fsck(&request, new.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert_eq!(names(clouds.archive.as_ref()).await, packs);
    new.shutdown().await.unwrap();

    // With it: the recovery waits, and goes on when it is asked for again.
    let with = tempfile::tempdir().unwrap();
    let recovery = Recovery { thaw: true, ..Recovery::new(&old_bed, with.path()) };
    for _ in 0..2 {
        let (report, _, odd) = recovery.run().await.unwrap();
        assert_eq!((report.finished, report.archived_packs, report.thaws), (false, 1, 1));
        assert!(odd[0].why.contains("being restored"), "{odd:?}");
    }
    let error = bed(with.path(), &clouds).try_open().await.unwrap_err();
    assert!(error.to_string().contains("not finished"), "{error}");
    old_bed.clock.advance(Duration::from_secs(61));
    let (report, missing, odd) = recovery.run().await.unwrap();
    assert_eq!((report.finished, report.archived_packs, report.found.objects), (true, 0, 2), "{report:?}");
    assert!(missing.is_empty() && odd.is_empty());
    new_bed.dir = with.path().to_owned();
    new_bed.settings.data_dir = with.path().to_owned();
    let new = open(&new_bed).await;
    assert_eq!(seen(&new, "archived"), before);
    let error = get(&new, "archived").await.unwrap_err();
    assert!(matches!(error, EngineError::InvalidObjectState { .. }), "{error}");
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_recovery_goes_on_and_asks_no_pack_twice() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    for n in 0..6 {
        put_cold(&old, &format!("{n}"), &noise(n, 20_000), IA).await;
    }
    let before = everything(&old).await;
    old.shutdown().await.unwrap();
    let (asked, allowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1)));
    let (count, left) = (Arc::clone(&asked), Arc::clone(&allowed));
    clouds.ia.set_hook(move |operation, name, moment| {
        if operation != Operation::GetObject || moment != Moment::Before {
            return None;
        }
        let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err();
        count.fetch_add(u64::from(!spent), Ordering::SeqCst);
        spent.then(|| TierError::plain(TierErrorKind::Unavailable, "get", name, "away"))
    });
    let recovery = Recovery::new(&old_bed, new_dir.path());
    let (mut tries, unfinished) = (0, new_dir.path().join("recover.json"));
    let mut state = Vec::new();
    while recovery.run().await.is_err() {
        state = std::fs::read(&unfinished).unwrap();
        let error = bed(new_dir.path(), &clouds).try_open().await.unwrap_err();
        assert!(error.to_string().contains("not finished"), "{error}");
        allowed.store(1, Ordering::SeqCst);
        tries += 1;
        assert!(tries < 50, "it gets on");
    }
    assert!(tries >= 4, "one pack each time: {tries}");
    assert_eq!(asked.load(Ordering::SeqCst), 6, "each pack was asked once");
    clouds.ia.clear_hook();
    assert!(!new_dir.path().join("recover").exists());
    // Killed right before the end, with everything in its place: it is made anew.
    std::fs::remove_file(new_dir.path().join("recovered.json")).unwrap();
    std::fs::write(&unfinished, state).unwrap();
    assert!(recovery.run().await.unwrap().0.finished && !unfinished.exists());
    let new = open(&bed(new_dir.path(), &clouds)).await;
    assert_eq!(everything(&new).await, before);
    new.shutdown().await.unwrap();
    let error = recovery.run().await.unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

/// A pack as an earlier version wrote it: one chunk, and nothing told.
fn old_pack(bytes: &'static [u8]) -> (PackId, Bytes) {
    let id = PackId::fresh(1_000);
    let len = bytes.len() as u32;
    let frame = PlannedFrame {
        id: ChunkId::of(bytes),
        kind: FrameKind::Chunk,
        codec: Codec::Raw,
        raw_len: len,
        stored_len: len,
    };
    let plan = RemotePackPlan::new(PackHeader { id, class: PackClass::Remote, created_ms: 1_000 }, &[frame]).unwrap();
    let mut head = plan.header_bytes();
    head[8] = 1;
    let crc = crc32fast::hash(&head[..36]);
    head[36..].copy_from_slice(&crc.to_le_bytes());
    let mut pack = head.to_vec();
    pack.extend_from_slice(&plan.frame_header_bytes(0).unwrap());
    assert_eq!(pack.len(), 40 + FRAME_HEADER_LEN);
    pack.extend_from_slice(bytes);
    pack.extend_from_slice(plan.footer_bytes());
    (id, pack.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_tell_nothing_and_are_not_needed_are_counted_and_never_deleted_and_damaged_ones_are_named() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    put_cold(&old, "known", b"known", IA).await;
    old.shutdown().await.unwrap();
    let known = names(clouds.ia.as_ref()).await.pop_first().unwrap();
    let folder = known.rsplit_once('/').unwrap().0.to_owned();
    let (id, pack) = old_pack(b"of an object of which nothing is told");
    let (untold, damaged) = (format!("{folder}/{id}.pack"), format!("{folder}/{}.pack", PackId::fresh(2_000)));
    clouds.ia.put(&untold, Arc::new(pack)).await.unwrap();
    clouds.ia.put(&damaged, Arc::new(Bytes::from_static(&[7; 500]))).await.unwrap();
    clouds.ia.put(&format!("{folder}/readme"), Arc::new(Bytes::from_static(b"no pack"))).await.unwrap();
    let packs = names(clouds.ia.as_ref()).await;

    let (report, missing, odd) = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap();
    assert_eq!((report.packs, report.packs_without_manifests, report.packs_left), (3, 1, 1), "{report:?}");
    assert_eq!((report.unreadable_packs, report.found.objects, missing.len()), (1, 1, 0));
    let why = |name: &str| odd.iter().find(|p| p.name == name).unwrap().why.clone();
    assert!(why(&damaged).starts_with("unreadable") && why(&untold).contains("tells of no object"), "{odd:?}");
    let mut new_bed = bed(new_dir.path(), &clouds);
    new_bed.clock = Arc::clone(&old_bed.clock);
    let new = open(&new_bed).await;
    new_bed.clock.advance(DAY * 3);
    let report = new.gc(GcRequest::default()).await.unwrap();
    assert_eq!((report.remote_packs_doomed, report.remote_packs_kept), (0, 2));
    let request = FsckRequest { repair: true, ..FsckRequest::default() };
    new.fsck(&request, new.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert_eq!(names(clouds.ia.as_ref()).await, packs);
    assert_eq!(get(&new, "known").await.unwrap(), b"known");
    // One that somebody deleted in the tier is forgotten when a repair is asked for.
    clouds.ia.delete(&damaged).await.unwrap();
    let report = new.fsck(&request, new.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert!(report.findings.iter().any(|f| f.what == damaged && f.repair == Repair::Begun), "{:?}", report.findings);
    until("it is forgotten", || new.tier_packs("ia", None, 10).unwrap().len() == 2).await;
    // What is needed afterwards is garbage after that, as anything else.
    put_cold(&new, "now told", b"of an object of which nothing is told", IA).await;
    new.delete_object("bkt", "now told", DeleteRequest::default()).await.unwrap();
    assert!(collect(&new).await >= 1);
    assert!(!names(clouds.ia.as_ref()).await.contains(&untold));
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_was_left_out_keeps_its_packs() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    put_cold(&old, "one", b"one", IA).await;
    old.shutdown().await.unwrap();
    let old = open(&old_bed).await;
    put_cold(&old, "other", b"other", ARCHIVE).await;
    old.shutdown().await.unwrap();
    let packs = names(clouds.archive.as_ref()).await;
    let recovery = Recovery { only: vec!["ia".into()], ..Recovery::new(&old_bed, new_dir.path()) };
    let (report, _, _) = recovery.run().await.unwrap();
    assert_eq!((report.tiers, report.packs, report.found.objects), (vec!["ia".to_owned()], 1, 1));
    let new_bed = bed(new_dir.path(), &clouds);
    let new = open(&new_bed).await;
    new_bed.clock.advance(DAY * 3);
    let request = FsckRequest { repair: true, ..FsckRequest::default() };
    let report = new.fsck(&request, new.fsck_estimate(&request, |_| None).unwrap(), |_| {}).await.unwrap();
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::OrphanPack), "{:?}", report.findings);
    collect(&new).await;
    assert_eq!(names(clouds.archive.as_ref()).await, packs);
    new.shutdown().await.unwrap();
    for (only, text) in [("nowhere", "there is no tier"), ("archive", "unfinished")] {
        let elsewhere = tempfile::tempdir().unwrap();
        let failing = Recovery { only: vec![only.into()], thaw: false, ..Recovery::new(&old_bed, elsewhere.path()) };
        if only == "archive" {
            // What was begun for other tiers is not gone on with.
            let state = r#"{"version":1,"from":"ia","deployment":"d","at":null,"packs":true,"held":null,"last":null}"#;
            std::fs::write(elsewhere.path().join("recover.json"), state).unwrap();
        }
        let error = failing.run().await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_store_is_fenced_and_the_new_one_ships_a_namespace_of_its_own() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let settings =
        || RecoverySettings { rpo: Duration::from_millis(20), keep: Duration::ZERO, ..RecoverySettings::to("ia") };
    let shipped = async |engine: &Engine| {
        let stats = || engine.stats().unwrap().recovery.unwrap();
        until("everything is shipped", || stats().term > 0 && stats().lag_records == 0).await;
    };
    let mut old_bed = bed(old_dir.path(), &clouds);
    old_bed.settings.recovery = Some(settings());
    let old = open(&old_bed).await;
    put_cold(&old, "cold", &noise(1, 20_000), IA).await;
    put(&old, "deleted", b"deleted").await.unwrap();
    shipped(&old).await;

    let recovery = Recovery { recovery: Some("ia".into()), ..Recovery::new(&old_bed, new_dir.path()) };
    let (report, _, _) = recovery.run().await.unwrap();
    assert!(report.term > 1 && report.notes.is_empty(), "{report:?}");
    until("the old store notices", || old.writes_refused().is_some()).await;
    assert!(put(&old, "late", b"late").await.is_err());
    old.shutdown().await.unwrap();

    let mut new_bed = bed(new_dir.path(), &clouds);
    new_bed.settings.recovery = Some(settings());
    let new = open(&new_bed).await;
    put_cold(&new, "after", b"after", IA).await;
    shipped(&new).await;
    assert_eq!(new.writes_refused(), None);
    let before = everything(&new).await;
    assert_eq!(before.len(), 2);
    new.shutdown().await.unwrap();

    // What is shipped now is this namespace, and nothing of the one before is joined to it.
    let third_dir = tempfile::tempdir().unwrap();
    let mut tiers = new_bed.others.clone();
    tiers.insert("ia".to_owned(), Arc::clone(&new_bed.tier));
    let request = RecoverRequest {
        from: "ia".into(),
        tiers: &tiers,
        deployment: None,
        data_dir: third_dir.path().to_owned(),
        at: None,
        dry_run: false,
        settings: MetaSettings::default(),
        clock: Arc::clone(&new_bed.clock) as _,
    };
    recover(&request, &mut |_| {}, &mut |_| {}).await.unwrap();
    let third = open(&bed(third_dir.path(), &clouds)).await;
    assert_eq!(everything(&third).await, before);
    third.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_tier_that_is_away_fences_nobody_and_that_is_said_and_no_packs_are_an_error() {
    let (old_dir, new_dir, clouds) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), clouds());
    let old_bed = bed(old_dir.path(), &clouds);
    let old = open(&old_bed).await;
    let error = Recovery::new(&old_bed, new_dir.path()).run().await.unwrap_err().to_string();
    assert!(error.contains("no packs"), "{error}");
    put_cold(&old, "cold", b"cold", IA).await;
    old.shutdown().await.unwrap();
    let away = |_: Operation, name: &str, _: Moment| {
        name.starts_with("meta/").then(|| TierError::plain(TierErrorKind::Unavailable, "any", name, "away"))
    };
    clouds.archive.set_hook(away);
    let recovery = Recovery { recovery: Some("archive".into()), ..Recovery::new(&old_bed, new_dir.path()) };
    let (report, _, _) = recovery.run().await.unwrap();
    assert_eq!((report.term, report.found.objects), (0, 1));
    assert!(report.notes[0].contains("nobody was fenced"), "{:?}", report.notes);
}
