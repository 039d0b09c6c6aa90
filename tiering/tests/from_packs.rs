//! Packs alone: disk, journal, snapshots and what was shipped are gone, and what was moved comes back.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use bytes::Bytes;
use common::{
    Bed, DAY, FrozenTier, body, copy, get, list_all, noise, put, put_class, put_parts, residency, seen, until,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_tiering::chunk::{ChunkId, Codec};
use tidegate_tiering::engine::*;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::pack::format::FRAME_HEADER_LEN;
use tidegate_tiering::pack::{FrameKind, PackClass, PackHeader, PackId, PlannedFrame, RemotePackPlan};
use tidegate_tiering::recovery::{
    FromPacks, FromPacksReport, MissingObject, News, OddPack, RecoverRequest, RecoveryError, RecoverySettings, recover,
    recover_from_packs,
};
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::{Operation, Tier, TierError, TierErrorKind};

const IA: Option<&str> = Some("STANDARD_IA");
const ARCHIVE: Option<&str> = Some("GLACIER");

struct Clouds {
    ia: Arc<MemoryTier>,
    archive: Arc<MemoryTier>,
}

fn clouds() -> Clouds {
    Clouds { ia: Arc::new(MemoryTier::new().unwrap()), archive: Arc::new(MemoryTier::new().unwrap()) }
}

/// Small chunks and packs, so that little makes many.
fn bed(dir: &Path, clouds: &Clouds) -> Bed {
    let mut bed = Bed::new(dir, Arc::clone(&clouds.ia) as _);
    bed.others = BTreeMap::from([("archive".to_owned(), Arc::clone(&clouds.archive) as _)]);
    let settings = &mut bed.settings;
    settings.chunks.min = 1 << 10;
    settings.chunks.avg = 8 << 10;
    settings.chunks.max = 32 << 10;
    settings.limits.min_part_bytes = 0;
    settings.tiering.linger_ms = 0;
    settings.tiering.pack_bytes = 512 << 10;
    bed
}

async fn open(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    if engine.buckets().unwrap().is_empty() {
        engine.create_bucket("bkt").await.unwrap();
    }
    engine
}

async fn is_cold(engine: &Engine, key: &str) {
    until(&format!("{key} is cold"), || matches!(residency(engine, key), Some(Residency::Cold { .. }))).await;
}

async fn put_cold(engine: &Engine, key: &str, bytes: &[u8], class: Option<&str>) {
    put_class(engine, key, bytes, class).await.unwrap();
    is_cold(engine, key).await;
}

/// Key to what clients see and the bytes.
async fn everything(engine: &Engine) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for object in list_all(engine, 100) {
        let bytes = get(engine, &object.key).await.unwrap();
        all.insert(object.key.clone(), (seen(engine, &object.key), bytes));
    }
    all
}

struct Recovery<'a> {
    bed: &'a Bed,
    to: &'a Path,
    only: Vec<String>,
    dry_run: bool,
    thaw: bool,
    recovery: Option<String>,
}

type Outcome = (FromPacksReport, Vec<MissingObject>, Vec<OddPack>);

impl<'a> Recovery<'a> {
    fn new(bed: &'a Bed, to: &'a Path) -> Self {
        Self { bed, to, only: Vec::new(), dry_run: false, thaw: false, recovery: None }
    }

    async fn run(&self) -> Result<Outcome, RecoveryError> {
        let mut tiers = self.bed.others.clone();
        tiers.insert("ia".to_owned(), Arc::clone(&self.bed.tier));
        let request = FromPacks {
            tiers: &tiers,
            only: self.only.clone(),
            recovery: self.recovery.clone(),
            deployment: None,
            data_dir: self.to.to_owned(),
            dry_run: self.dry_run,
            thaw: self.thaw,
            settings: MetaSettings::default(),
            clock: Arc::clone(&self.bed.clock) as _,
        };
        let (mut missing, mut packs) = (Vec::new(), Vec::new());
        let mut tell = |news: News<'_>| match news {
            News::Progress(_) => {}
            News::Missing(object) => missing.push(object.clone()),
            News::Pack(pack) => packs.push(pack.clone()),
        };
        let report = recover_from_packs(&request, &mut tell).await?;
        Ok((report, missing, packs))
    }
}

async fn names(tier: &dyn Tier) -> BTreeSet<String> {
    tier.list("packs/", None, 10_000).await.unwrap().into_iter().map(|m| m.name).collect()
}

async fn collect(engine: &Engine) -> u64 {
    let doomed = engine.gc(GcRequest::default()).await.unwrap().remote_packs_doomed;
    until("what is doomed is deleted", || {
        let states = ["ia", "archive"].map(|tier| engine.tier_packs(tier, None, usize::MAX).unwrap());
        states.iter().flatten().all(|p| p.state == "live")
    })
    .await;
    doomed
}

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
    assert!(new.delete_object("bkt", "large", None).await.unwrap());
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
    engine.delete_object("bkt", "second", None).await.unwrap();
    assert_eq!(collect(&engine).await, 0);
    engine.delete_object("bkt", "copy", None).await.unwrap();
    assert_eq!(collect(&engine).await, 1);
    engine.delete_object("bkt", "empty", None).await.unwrap();
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
    old.delete_object("bkt", "deleted", None).await.unwrap();
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
    let mut tries = 0;
    while recovery.run().await.is_err() {
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
    // What is needed afterwards is garbage after that, as anything else.
    put_cold(&new, "now told", b"of an object of which nothing is told", IA).await;
    new.delete_object("bkt", "now told", None).await.unwrap();
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
