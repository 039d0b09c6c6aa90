//! `Engine::fsck`: each kind of damage is made for real, found, repaired where that is decidable, and looked for again.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use bytes::Bytes;
use common::{Bed, DAY, FrozenTier, T0, body, get, noise, put, put_class, residency, until};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_policies::Class;
use tidegate_tiering::clock::{Clock, ManualClock, Timestamp};
use tidegate_tiering::engine::*;
use tidegate_tiering::meta::{Batch, JournaledStore, MetaSettings, MetaStore, NoData, Reason, Table};
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};
use tidegate_tiering::tier::{Operation, RestorePriority, Tier, TierError, TierErrorKind, TierMetrics};

fn directory(path: &Path) -> Arc<dyn Tier> {
    let settings = DirectorySettings { path: path.to_owned() };
    Arc::new(ObjectTier::directory("ia", &settings, TierMetrics::new("ia", None).unwrap()).unwrap())
}

/// A bed whose tier is the directory `share`; objects of class STANDARD_IA go there at once.
fn bed(dir: &Path) -> (Bed, PathBuf) {
    let share = dir.join("share");
    (quick(Bed::new(&dir.join("data"), directory(&share))), share)
}

fn quick(mut bed: Bed) -> Bed {
    bed.settings.tiering.linger_ms = 0;
    bed
}

async fn open(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    if engine.buckets().unwrap().is_empty() {
        engine.create_bucket("bkt").await.unwrap();
    }
    engine
}

async fn put_cold(engine: &Engine, key: &str, seed: u64) {
    put_class(engine, key, &noise(seed, 200_000), Some("STANDARD_IA")).await.unwrap();
    until("it is cold", || matches!(residency(engine, key), Some(Residency::Cold { .. }))).await;
}

async fn fsck_as(engine: &Engine, request: FsckRequest) -> FsckReport {
    let estimate = engine.fsck_estimate(&request, |_| None).unwrap();
    engine.fsck(&request, estimate, |_| {}).await.unwrap()
}

async fn fsck(engine: &Engine) -> FsckReport {
    fsck_as(engine, FsckRequest::default()).await
}

async fn repair(engine: &Engine) -> FsckReport {
    fsck_as(engine, FsckRequest { repair: true, ..FsckRequest::default() }).await
}

fn of_kind(report: &FsckReport, kind: FindingKind) -> Vec<&Finding> {
    report.findings.iter().filter(|f| f.kind == kind).collect()
}

/// The kinds of all findings, with their numbers.
fn kinds(report: &FsckReport) -> Vec<(FindingKind, u64)> {
    let mut all: Vec<_> = report.totals.iter().map(|t| (t.kind, t.count)).collect();
    all.sort_unstable();
    all
}

fn the_pack(engine: &Engine, key: &str) -> String {
    let status = engine.object_status("bkt", key).unwrap();
    status.packs.into_iter().find(|p| p.tier.is_some()).unwrap().name
}

fn deployment(bed: &Bed) -> String {
    std::fs::read_to_string(bed.dir.join("deployment")).unwrap().trim().to_owned()
}

/// The name of a pack of this deployment that began at `at`.
fn pack_name(bed: &Bed, epoch: u64, at: Timestamp, n: u64) -> String {
    format!("packs/{}/{epoch:08}/{:012x}{n:020x}.pack", deployment(bed), at.millis())
}

async fn stray(tier: &Arc<dyn Tier>, name: &str, len: usize) {
    tier.put(name, Arc::new(Bytes::from(vec![7; len]))).await.unwrap();
}

async fn names(tier: &Arc<dyn Tier>) -> Vec<String> {
    tier.list("packs/", None, 100_000).await.unwrap().into_iter().map(|o| o.name).collect()
}

/// Table, key and value; None removes.
type Entry = (Table, Vec<u8>, Option<Vec<u8>>);

/// Writes into the namespace of a stopped engine.
fn write_raw(bed: &Bed, entries: &[Entry]) {
    let clock = Arc::clone(&bed.clock) as _;
    let settings = MetaSettings::default();
    let (store, _) = JournaledStore::open(&bed.dir, settings, Arc::new(NoData), Vec::new(), clock).unwrap();
    for (table, key, value) in entries {
        let batch = Batch::new(Reason::System);
        let batch = match value {
            Some(value) => batch.put(*table, key.clone(), value.clone()),
            None => batch.delete(*table, key.clone()),
        };
        store.commit_blocking(batch).unwrap();
    }
    store.close().unwrap();
}

fn keys_of(bed: &Bed, table: Table) -> Vec<Vec<u8>> {
    let clock = Arc::clone(&bed.clock) as _;
    let settings = MetaSettings::default();
    let (store, _) = JournaledStore::open(&bed.dir, settings, Arc::new(NoData), Vec::new(), clock).unwrap();
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let keys = store.scan(table, all, 1_000, false).unwrap().into_iter().map(|(key, _)| key).collect();
    store.close().unwrap();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_everything_in_it_is_clean_and_a_check_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bed, _) = bed(dir.path());
    let archive = Arc::new(MemoryTier::new().unwrap());
    bed.others.insert("archive".to_owned(), Arc::new(FrozenTier::new(archive, Arc::clone(&bed.clock))));
    bed.settings.tiering.thaw_poll_ms = 10;
    let engine = open(&bed).await;
    put(&engine, "hot", &noise(1, 300_000)).await.unwrap();
    put(&engine, "cold/later", &noise(2, 6_000_000)).await.unwrap();
    put_cold(&engine, "x", 3).await;
    put_class(&engine, "frozen", &noise(5, 200_000), Some("GLACIER")).await.unwrap();
    until("it is cold", || matches!(residency(&engine, "frozen"), Some(Residency::Cold { .. }))).await;
    let (bucket, key) = ("bkt".to_owned(), "frozen".to_owned());
    engine
        .restore_object(RestoreRequest {
            bucket,
            key,
            version: VersionRef::Current,
            days: 3,
            priority: RestorePriority::Standard,
        })
        .await
        .unwrap();
    bed.clock.advance(Duration::from_secs(61));
    until("it is restored", || matches!(residency(&engine, "frozen"), Some(Residency::Restored { .. }))).await;
    let (bucket, key) = ("bkt".to_owned(), "short/u".to_owned());
    let (attributes, checksum) = (ObjectAttributes::default(), None);
    let upload = CreateUpload { bucket: bucket.clone(), key: key.clone(), attributes, checksum };
    let upload_id = engine.create_upload(upload).await.unwrap();
    let part = UploadPart { bucket, key, upload_id, number: 1, expect: BodyExpectation::default() };
    engine.upload_part(part, body(&noise(4, 100_000))).await.unwrap();
    for _ in 0..2 {
        let report = repair(&engine).await;
        assert_eq!((report.remaining, report.findings.as_slice()), (0, [].as_slice()), "{report:?}");
        for tier in &report.tiers {
            assert_eq!((tier.live, tier.matched, tier.listed, tier.foreign, tier.asked), (1, 1, 1, 0, 0), "{tier:?}");
        }
        assert!(report.records > 4 && report.local_packs > 0 && report.notes.is_empty(), "{report:?}");
    }
    // Each half alone.
    let local = fsck_as(&engine, FsckRequest { local: true, ..Default::default() }).await;
    assert!(local.tiers.is_empty() && local.local_packs > 0);
    let remote = fsck_as(&engine, FsckRequest { remote: true, tiers: vec!["ia".into()], ..Default::default() }).await;
    assert!(remote.tiers.len() == 1 && remote.local_packs == 0);
    let unknown = FsckRequest { tiers: vec!["nope".into()], ..Default::default() };
    assert!(engine.fsck_estimate(&unknown, |_| None).unwrap_err().to_string().contains("configured: archive, ia"));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_or_short_in_a_tier_is_found_with_the_keys_that_suffer_and_never_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (bed, share) = bed(dir.path());
    let engine = open(&bed).await;
    for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
        put_cold(&engine, key, n as u64).await;
    }
    let (gone, short) = (share.join(the_pack(&engine, "a")), share.join(the_pack(&engine, "b")));
    std::fs::rename(&gone, share.join("kept")).unwrap();
    let whole = std::fs::read(&short).unwrap();
    std::fs::File::options().write(true).open(&short).unwrap().set_len(1_000).unwrap();

    // The local copies serve still: affected, not lost.
    let report = repair(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::DanglingPack, 2), (FindingKind::AffectedObject, 2)], "{report:?}");
    assert!(report.findings.iter().all(|f| f.repair == Repair::No), "{report:?}");
    assert_eq!(get(&engine, "a").await.unwrap(), noise(0, 200_000));

    engine.evict(u64::MAX).await.unwrap();
    let report = fsck_as(&engine, FsckRequest { remote: true, ..Default::default() }).await;
    let names: Vec<&str> = of_kind(&report, FindingKind::AffectedObject).iter().map(|f| f.what.as_str()).collect();
    assert_eq!(names, ["bkt / a", "bkt / b"], "{report:?}");
    let lost: Vec<&str> = of_kind(&report, FindingKind::LostChunks).iter().map(|f| f.what.as_str()).collect();
    assert_eq!(lost, names, "{report:?}");
    let dangling = of_kind(&report, FindingKind::DanglingPack);
    assert!(dangling.iter().any(|f| f.detail.contains("not there") && f.what == the_pack(&engine, "a")));
    assert!(dangling.iter().any(|f| f.detail.contains("1000 bytes") && f.what == the_pack(&engine, "b")));
    assert_eq!((report.tiers[0].live, report.tiers[0].matched), (3, 1));

    std::fs::rename(share.join("kept"), &gone).unwrap();
    std::fs::write(&short, whole).unwrap();
    assert_eq!(fsck(&engine).await.remaining, 0);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_is_deleted_when_its_epoch_is_over_and_a_day_has_passed_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let (bed, _) = bed(dir.path());
    let engine = open(&bed).await;
    put_cold(&engine, "a", 1).await;
    engine.shutdown().await.unwrap();
    bed.clock.advance(DAY * 10);
    let engine = open(&bed).await;
    let now = bed.clock.now();
    let orphan = pack_name(&bed, 1, T0, 1);
    let young = pack_name(&bed, 1, Timestamp(now.millis() - 1_000), 2);
    let current = pack_name(&bed, 2, T0, 3);
    let odd = format!("packs/{}/notes.txt", deployment(&bed));
    let foreign = pack_name(&bed, 1, T0, 4).replace(&deployment(&bed), &"f".repeat(32));
    for name in [&orphan, &young, &current, &odd, &foreign, &"other/thing".to_owned()] {
        stray(&bed.tier, name, 500).await;
    }
    let report = fsck(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::OrphanPack, 3), (FindingKind::StrayObject, 1)], "{report:?}");
    assert_eq!((report.tiers[0].foreign, report.tiers[0].foreign_bytes), (1, 500), "{report:?}");
    let found = |name: &str| report.findings.iter().find(|f| f.what == name).unwrap().clone();
    assert_eq!((found(&orphan).repair, found(&orphan).since), (Repair::Possible, Some(T0)));
    assert!(found(&young).repair == Repair::No && found(&young).detail.contains("younger than a day"));
    assert!(found(&current).repair == Repair::No && found(&current).detail.contains("since the last start"));
    assert_eq!(names(&bed.tier).await.len(), 6, "a look deletes nothing");

    let report = repair(&engine).await;
    let done: Vec<_> = report.findings.iter().filter(|f| f.repair == Repair::Done).map(|f| f.what.clone()).collect();
    assert_eq!((done, report.remaining), (vec![orphan.clone()], 3), "{report:?}");
    let left = names(&bed.tier).await;
    assert!(!left.contains(&orphan) && left.contains(&young) && left.contains(&current) && left.contains(&odd));
    assert!(left.contains(&foreign) && left.len() == 5, "{left:?}");
    assert_eq!(engine.tier_packs("ia", None, 10).unwrap().len(), 1, "the record of the deletion is gone, too");

    // What was left is decidable after a day and a start.
    engine.shutdown().await.unwrap();
    bed.clock.advance(DAY * 2);
    let engine = open(&bed).await;
    let report = repair(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::OrphanPack, 2), (FindingKind::StrayObject, 1)]);
    assert_eq!(report.remaining, 1, "{report:?}");
    bed.tier.delete(&odd).await.unwrap();
    assert_eq!(fsck(&engine).await.remaining, 0);
    engine.evict(u64::MAX).await.unwrap();
    assert_eq!(get(&engine, "a").await.unwrap(), noise(1, 200_000));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_orphan_is_deleted_while_the_namespace_has_gaps_or_is_older_than_the_tier() {
    let dir = tempfile::tempdir().unwrap();
    let (bed, share) = bed(dir.path());
    let engine = open(&bed).await;
    put_cold(&engine, "a", 1).await;
    let pack = share.join(the_pack(&engine, "a"));
    engine.evict(u64::MAX).await.unwrap();
    engine.shutdown().await.unwrap();
    bed.clock.advance(DAY * 10);
    let engine = open(&bed).await;
    let orphan = pack_name(&bed, 1, T0, 1);
    stray(&bed.tier, &orphan, 500).await;

    // An object has lost chunks: the orphan may have them.
    std::fs::rename(&pack, dir.path().join("kept")).unwrap();
    for remote in [false, true] {
        let report = fsck_as(&engine, FsckRequest { remote, repair: true, ..Default::default() }).await;
        let left = of_kind(&report, FindingKind::OrphanPack);
        assert!(
            left.len() == 1 && left[0].repair == Repair::No && left[0].detail.contains("lost chunks"),
            "{report:?}"
        );
        assert!(report.notes.iter().any(|n| n.contains("no orphan is deleted")), "{report:?}");
    }
    std::fs::rename(dir.path().join("kept"), &pack).unwrap();

    // An object of an epoch to come: an older copy of the namespace was put back.
    let later = pack_name(&bed, 9, T0, 2);
    stray(&bed.tier, &later, 500).await;
    let report = repair(&engine).await;
    assert_eq!(report.remaining, 2, "{report:?}");
    assert!(of_kind(&report, FindingKind::OrphanPack).iter().all(|f| f.repair == Repair::No), "{report:?}");
    assert!(names(&bed.tier).await.contains(&orphan));
    bed.tier.delete(&later).await.unwrap();

    // A record that cannot be read may be of any pack.
    engine.shutdown().await.unwrap();
    write_raw(&bed, &[(Table::RemotePack, [b"ia\0".as_slice(), &[1; 16]].concat(), Some(vec![99]))]);
    let engine = open(&bed).await;
    let report = repair(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::OrphanPack, 1), (FindingKind::Unreadable, 1)], "{report:?}");
    assert_eq!(report.remaining, 2, "{report:?}");
    assert!(names(&bed.tier).await.contains(&orphan));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_pack_that_is_missing_short_or_unknown_is_found_with_the_keys_that_lost_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bed, _) = bed(dir.path());
    bed.settings.local.pack_bytes = 256 << 10;
    bed.settings.local.open_packs = 1;
    let engine = open(&bed).await;
    put(&engine, "one", &noise(1, 200_000)).await.unwrap();
    put(&engine, "two", &noise(2, 200_000)).await.unwrap();
    put_cold(&engine, "safe", 3).await;
    engine.scrub(ScrubRequest::default(), |_| true).await.unwrap(); // seals
    let local = |key: &str| {
        let status = engine.object_status("bkt", key).unwrap();
        status.packs.into_iter().filter(|p| p.tier.is_none()).map(|p| p.name).collect::<Vec<_>>()
    };
    let file = |name: &str| bed.dir.join("packs").join(format!("{name}.pack"));
    let (one, two) = (local("one"), local("two"));
    let gone = one.iter().find(|p| !two.contains(p)).expect("each has a pack of its own").clone();
    let short = two.iter().find(|p| !one.contains(p)).expect("each has a pack of its own").clone();
    std::fs::rename(file(&gone), dir.path().join("kept")).unwrap();
    let whole = std::fs::read(file(&short)).unwrap();
    std::fs::File::options().write(true).open(file(&short)).unwrap().set_len(100).unwrap();
    let unknown = format!("{:012x}{}", T0.millis() - 1, "0".repeat(20));
    bed.clock.advance(Duration::from_secs(120));
    std::fs::write(file(&unknown), b"who knows").unwrap();

    let report = fsck_as(&engine, FsckRequest { local: true, repair: true, ..Default::default() }).await;
    let what = |kind| of_kind(&report, kind).iter().map(|f| f.what.clone()).collect::<Vec<_>>();
    assert_eq!(what(FindingKind::MissingPack), std::slice::from_ref(&gone), "{report:?}");
    assert_eq!(what(FindingKind::ShortPack), std::slice::from_ref(&short), "{report:?}");
    assert_eq!(what(FindingKind::UnknownPack), [format!("{unknown}.pack")], "{report:?}");
    let lost = what(FindingKind::LostChunks);
    assert!(lost.contains(&"bkt / one".to_owned()) && lost.contains(&"bkt / two".to_owned()), "{report:?}");
    assert!(!lost.contains(&"bkt / safe".to_owned()), "a tier has it: {report:?}");
    assert_eq!(report.remaining, 3 + lost.len() as u64);
    assert!(file(&unknown).exists(), "not decidable");

    std::fs::rename(dir.path().join("kept"), file(&gone)).unwrap();
    std::fs::write(file(&short), whole).unwrap();
    std::fs::remove_file(file(&unknown)).unwrap();
    assert_eq!(fsck(&engine).await.remaining, 0);
    assert_eq!(get(&engine, "two").await.unwrap(), noise(2, 200_000));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn due_entries_and_parts_that_no_longer_fit_their_records_are_repaired_and_records_that_cannot_be_read_are_left()
{
    let dir = tempfile::tempdir().unwrap();
    let (bed, _) = bed(dir.path());
    let engine = open(&bed).await;
    put(&engine, "cold/a", &noise(1, 100_000)).await.unwrap();
    let (bucket, key, attributes) = ("bkt".to_owned(), "short/u".to_owned(), ObjectAttributes::default());
    engine.create_upload(CreateUpload { bucket, key, attributes, checksum: None }).await.unwrap();
    engine.shutdown().await.unwrap();
    let due = keys_of(&bed, Table::Due);
    assert_eq!(due.len(), 2, "{due:?}");
    let at = |kind: u8, ms: u64, subject: &[u8]| [&[kind][..], &ms.to_be_bytes(), subject].concat();
    let far = T0.millis() + 1_000_000_000_000;
    let mut changes: Vec<_> = due.into_iter().map(|key| (Table::Due, key, None)).collect();
    changes.extend([
        (Table::Due, at(1, far, b"bkt\0cold/a"), Some(Vec::new())),
        (Table::Due, at(1, far, b"bkt\0never"), Some(Vec::new())),
        (Table::Due, at(3, far, b"bkt\0cold/a"), Some(Vec::new())),
        (Table::Due, vec![9, 9], Some(Vec::new())),
        (Table::Job, vec![0; 16], Some(vec![99])),
        (Table::Object, b"bkt\0zzz".to_vec(), Some(vec![99])),
    ]);
    write_raw(&bed, &changes);
    let engine = open(&bed).await;
    let expected = [(FindingKind::Unreadable, 3), (FindingKind::DueMissing, 2), (FindingKind::DueStray, 3)];
    let report = fsck(&engine).await;
    assert_eq!(kinds(&report), expected, "{report:?}");
    assert!(of_kind(&report, FindingKind::Unreadable).iter().any(|f| f.what == "bkt / zzz"), "{report:?}");
    let report = repair(&engine).await;
    assert_eq!((kinds(&report).as_slice(), report.remaining), (expected.as_slice(), 3), "{report:?}");
    let report = fsck(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::Unreadable, 3)], "{report:?}");

    // And the entry does what it is for.
    bed.clock.advance(DAY * 31);
    until("it is cold", || matches!(residency(&engine, "cold/a"), Some(Residency::Cold { .. }))).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_fails_is_a_finding_and_a_deletion_that_was_begun_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryTier::new().unwrap());
    let bed = quick(Bed::new(dir.path(), Arc::clone(&memory) as _));
    let engine = open(&bed).await;
    put_cold(&engine, "a", 1).await;
    engine.shutdown().await.unwrap();
    bed.clock.advance(DAY * 10);
    let engine = open(&bed).await;
    let orphan = pack_name(&bed, 1, T0, 1);
    stray(&bed.tier, &orphan, 500).await;

    memory.set_hook(|operation, _, moment| {
        let denied = || TierError::plain(TierErrorKind::Denied, "list", "packs/", "no");
        (operation == Operation::ListObjectsV2 && moment == Moment::Before).then(denied)
    });
    let report = repair(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::NotChecked, 1)], "{report:?}");
    assert_eq!(report.remaining, 1);

    memory.set_hook(|operation, name, moment| {
        let down = || TierError::plain(TierErrorKind::Unavailable, "delete", name, "down");
        (operation == Operation::DeleteObject && moment == Moment::Before).then(down)
    });
    let report = repair(&engine).await;
    let found = of_kind(&report, FindingKind::OrphanPack);
    assert!(found.len() == 1 && found[0].repair == Repair::Begun && report.remaining == 1, "{report:?}");
    let report = fsck(&engine).await;
    assert_eq!(kinds(&report), [(FindingKind::StuckDeletion, 1)], "{report:?}");
    engine.shutdown().await.unwrap();
    memory.clear_hook();
    let engine = open(&bed).await;
    until("the scheduler has deleted it", || engine.tier_packs("ia", None, 10).unwrap().len() == 1).await;
    assert_eq!(names(&bed.tier).await.len(), 1);
    assert_eq!(fsck(&engine).await.remaining, 0);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_and_listings_of_many_pages_do_not_mislead() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = quick(Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap())));
    bed.clock.advance(DAY * 100);
    let engine = open(&bed).await;
    put_cold(&engine, "a", 1).await;
    engine.shutdown().await.unwrap();
    bed.clock = Arc::new(ManualClock::new(T0));
    let engine = open(&bed).await;
    put_cold(&engine, "b", 2).await;
    // Others' folders on both sides of ours.
    for n in 0..10_100 {
        let folder = if n % 2 == 0 { "0000" } else { "ffff" };
        stray(&bed.tier, &format!("packs/{folder}/{n:08}"), 1).await;
    }
    let mut heard = Vec::new();
    let request = FsckRequest::default();
    let estimate = engine.fsck_estimate(&request, |_| None).unwrap();
    let report = engine.fsck(&request, estimate, |at| heard.push(at)).await.unwrap();
    assert_eq!(report.remaining, 0, "{report:?}");
    let tier = &report.tiers[0];
    assert_eq!((tier.live, tier.matched, tier.listed, tier.foreign, tier.asked), (2, 2, 2, 10_100, 1));
    assert!(heard.iter().any(|at| at.stage == "tier ia" && at.done == 10_000), "{heard:?}");
    for stage in ["files", "namespace", "chunks"] {
        assert!(heard.iter().any(|at| at.stage == stage), "{stage}: {heard:?}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_asks_no_tier_and_is_priced_by_the_book() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryTier::new().unwrap());
    let bed = quick(Bed::new(dir.path(), Arc::clone(&memory) as _));
    let engine = open(&bed).await;
    put_cold(&engine, "a", 1).await;
    memory.set_hook(|operation, _, _| panic!("{operation:?} was asked"));
    let request = FsckRequest { estimate: true, ..FsckRequest::default() };
    let estimate = engine.fsck_estimate(&request, |tier| (tier == "ia").then_some(Class::Ia)).unwrap();
    // A listing is a request of PUT type of the class Standard: 0.01 CNY for 10,000.
    let tier = &estimate.tiers[0];
    assert_eq!((tier.packs, tier.list_requests, tier.cost), (1, 1, Some(0.000_001)), "{estimate:?}");
    assert_eq!((estimate.cost, estimate.currency.as_str(), estimate.objects), (0.000_001, "CNY", 1));
    let local = FsckRequest { local: true, ..FsckRequest::default() };
    assert!(engine.fsck_estimate(&local, |_| None).unwrap().tiers.is_empty());
    memory.clear_hook();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_the_configuration_lost_is_said_to_be_unchecked() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bed, _) = bed(dir.path());
    bed.others.insert("archive".to_owned(), Arc::new(MemoryTier::new().unwrap()));
    let engine = open(&bed).await;
    put_class(&engine, "x", &noise(5, 200_000), Some("GLACIER")).await.unwrap();
    until("it is cold", || matches!(residency(&engine, "x"), Some(Residency::Cold { .. }))).await;
    engine.shutdown().await.unwrap();
    bed.others.clear();
    let engine = open(&bed).await;
    let report = repair(&engine).await;
    assert_eq!((kinds(&report), report.remaining), (vec![(FindingKind::NotChecked, 1)], 1), "{report:?}");
    assert_eq!(report.findings[0].tier.as_deref(), Some("archive"));
    engine.shutdown().await.unwrap();
}
