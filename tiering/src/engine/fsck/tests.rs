//! Damage that only the inside can make while the engine runs: what a start would have cleared away.

use super::*;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::engine::record::{Record, RemotePackRecord, RemotePackState};
use crate::engine::{BodyExpectation, Components, CreateUpload, EngineSettings, ObjectAttributes, UploadPart, keys};
use crate::meta::{Batch, MetaStore, Reason, Table};
use crate::pack::PackId;
use crate::tier::Tier;
use crate::tier::memory::MemoryTier;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::ops::Bound;

const T0: Timestamp = Timestamp(1_800_000_000_000);

async fn open(dir: &std::path::Path) -> (Engine, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(T0));
    let mut settings = EngineSettings { data_dir: dir.to_owned(), ..Default::default() };
    settings.disk.free_floor = 0;
    settings.tiering.gc_interval_ms = 0;
    let tier: Arc<dyn Tier> = Arc::new(MemoryTier::new().unwrap());
    let text =
        "{apiVersion: tidegate/v1, kind: LifecyclePolicy, metadata: {name: test}, tiers: [{name: ia}], rules: []}";
    let components = Components {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        tiers: [("ia".to_owned(), tier)].into(),
        classes: BTreeMap::new(),
        policy: tidegate_policies::parse("policy.yaml", text).unwrap(),
        policy_text: text.to_owned(),
        registry: prometheus::Registry::new(),
    };
    let engine = Engine::open(settings, components).await.unwrap();
    engine.create_bucket("bkt").await.unwrap();
    (engine, clock)
}

async fn check(engine: &Engine, repair: bool) -> FsckReport {
    let request = FsckRequest { repair, ..FsckRequest::default() };
    let estimate = engine.fsck_estimate(&request, |_| None).unwrap();
    engine.fsck(&request, estimate, |_| {}).await.unwrap()
}

fn kinds(report: &FsckReport) -> Vec<(FindingKind, u64)> {
    report.totals.iter().map(|t| (t.kind, t.count)).collect()
}

fn record(engine: &Engine, n: u8, state: RemotePackState) -> (Vec<u8>, RemotePackRecord) {
    let pack = PackId([n; 16]);
    let folder = crate::engine::transition::folder(&engine.core.deployment);
    let record = RemotePackRecord {
        name: format!("{folder}/{:08}/{pack}.pack", engine.core.meta.epoch()),
        state,
        bytes: 5,
        chunks: 1,
        created: engine.core.clock.now(),
        crc64: None,
        etag: None,
        references: 1,
        version: None,
    };
    (keys::remote_pack("ia", u128::from_be_bytes(pack.0)), record)
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_an_upload_that_ended_are_deleted_and_those_of_one_in_progress_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(dir.path()).await;
    for key in ["ended", "goes on"] {
        let (bucket, key, attributes) = ("bkt".to_owned(), key.to_owned(), ObjectAttributes::default());
        let create = CreateUpload { bucket: bucket.clone(), key: key.clone(), attributes, checksum: None };
        let upload_id = engine.create_upload(create).await.unwrap();
        for number in 1..=3 {
            let (bucket, key, upload_id) = (bucket.clone(), key.clone(), upload_id.clone());
            let part = UploadPart { bucket, key, upload_id, number, expect: BodyExpectation::default() };
            let bytes = bytes::Bytes::from(vec![number as u8; 100]);
            engine.upload_part(part, futures::stream::iter([Ok(bytes)]).boxed()).await.unwrap();
        }
    }
    assert_eq!(check(&engine, true).await.remaining, 0);
    let meta = &engine.core.meta;
    let all = || (Bound::Unbounded, Bound::Unbounded);
    let (upload, _) = meta.scan(Table::Upload, all(), 1, false).unwrap().remove(0);
    meta.commit(Batch::new(Reason::System).delete(Table::Upload, upload)).await.unwrap();
    assert_eq!(kinds(&check(&engine, false).await), [(FindingKind::OrphanPart, 3)]);
    assert_eq!(meta.scan(Table::Part, all(), 10, false).unwrap().len(), 6);
    let report = check(&engine, true).await;
    assert_eq!((kinds(&report), report.remaining), (vec![(FindingKind::OrphanPart, 3)], 0));
    assert_eq!(meta.scan(Table::Part, all(), 10, false).unwrap().len(), 3);
    assert_eq!(check(&engine, false).await.remaining, 0);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_no_finding_until_it_is_old_and_a_live_pack_needs_its_footer() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, clock) = open(dir.path()).await;
    let (key, record_of) = record(&engine, 1, RemotePackState::Uploading);
    let put = |key: Vec<u8>, record: &RemotePackRecord| {
        engine.core.meta.commit(Batch::new(Reason::System).put(Table::RemotePack, key, record.encode().unwrap()))
    };
    put(key, &record_of).await.unwrap();
    let report = check(&engine, true).await;
    assert_eq!((kinds(&report), report.tiers[0].uploading), (vec![], 1));
    clock.advance(OLD_FOR_TESTS);
    let report = check(&engine, true).await;
    assert_eq!((kinds(&report), report.remaining), (vec![(FindingKind::StuckUpload, 1)], 1));

    let (key, live) = record(&engine, 2, RemotePackState::Live);
    engine.core.tier("ia").unwrap().put(&live.name, Arc::new(bytes::Bytes::from_static(b"12345"))).await.unwrap();
    put(key, &live).await.unwrap();
    let report = check(&engine, true).await;
    assert_eq!(report.tiers[0].matched, 1);
    assert!(kinds(&report).contains(&(FindingKind::MissingFooter, 1)), "{report:?}");
    engine.shutdown().await.unwrap();
}

/// As long as it takes to be old.
const OLD_FOR_TESTS: Duration = remote::OLD;
