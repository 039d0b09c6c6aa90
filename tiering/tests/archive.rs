//! The engine with the native client and the simulator of the service behind it: the way down through the classes and
//! back, with restarts, races and outages on the way.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, T0, body, copy, get, list_all, noise, put, put_class, put_parts, read, residency, seen, until};
use oss_sim::{Class, Fault, FaultPlan, FaultRule, OssSim};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, StorageClass};
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{Operation, RestorePriority, Tier, TierMetrics};

const BUCKET: &str = "cold-bucket";

const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: archive }
tiers:
  - name: ia
  - name: archive
  - name: deep
rules:
  - id: down
    filter: { bucket: bkt, prefix: arc/ }
    transitions:
      - { to: ia, after: 30d, since: creation }
      - { to: archive, after: 90d, since: creation }
  - id: deeper
    filter: { bucket: bkt, prefix: deep/ }
    transitions:
      - { to: archive, after: 30d, since: creation }
      - { to: deep, after: 100d, since: creation }
";

/// An engine and its cloud, on one clock.
struct Cloud {
    sim: oss_sim::Running,
    bed: Bed,
    _dir: tempfile::TempDir,
}

impl Cloud {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sim = OssSim::builder()
            .bucket(BUCKET, Class::Standard)
            .access_key("ak", "sk")
            .clock_start(T0.millis())
            .frozen_clock()
            .start()
            .await
            .unwrap();
        let mut bed = Bed::new(dir.path(), Arc::new(MemoryTier::new().unwrap()));
        let tier = |name: &str, class| -> Arc<dyn Tier> {
            let mut settings = OssSettings::new(&sim.endpoint(), "cn-hangzhou", BUCKET);
            settings.prefix = name.into();
            settings.storage_class = class;
            settings.part_size_bytes = 1 << 20;
            settings.multipart_threshold_bytes = 4 << 20;
            settings.max_attempts = 2;
            settings.credentials = CredentialsSpec::Static {
                access_key_id: "ak".into(),
                access_key_secret: Secret::new("sk"),
                security_token: None,
            };
            let clock = Arc::clone(&bed.clock) as Arc<dyn Clock>;
            let metrics = TierMetrics::new(name, None).unwrap();
            Arc::new(OssTier::new(name, &settings, clock, &|_| None, metrics).unwrap())
        };
        let (ia, archive, deep) = (
            tier("ia", StorageClass::IA),
            tier("archive", StorageClass::Archive),
            tier("deep", StorageClass::ColdArchive),
        );
        bed.tier = ia;
        bed.others = [("archive".to_owned(), archive), ("deep".to_owned(), deep)].into();
        bed.policy = POLICY.to_owned();
        bed.settings.tiering.linger_ms = 0;
        bed.settings.tiering.pack_bytes = 8 << 20;
        bed.settings.local.pack_bytes = 1 << 20;
        Self { sim, bed, _dir: dir }
    }

    fn advance(&self, by: Duration) {
        self.sim.advance_seconds(by.as_secs());
        self.bed.clock.advance(by);
    }

    /// Objects of a class in the cloud.
    fn remote(&self, class: Class) -> usize {
        self.sim.objects(BUCKET).iter().filter(|o| o.class == class).count()
    }

    fn requests(&self, operation: &str) -> u64 {
        self.sim.requests().iter().filter(|r| r.operation == operation).map(|r| r.count).sum()
    }

    /// Waits for a condition while both clocks go on in steps.
    async fn until_later(&self, step: Duration, what: &str, mut holds: impl FnMut() -> bool) {
        let waited = tokio::time::timeout(common::PATIENCE, async {
            while !holds() {
                self.advance(step);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "gave up waiting until {what}");
    }
}

fn in_tier(engine: &Engine, tier: &str) -> u64 {
    engine.stats().unwrap().tiers.iter().find(|t| t.name == tier).unwrap().objects
}

fn cold(tier: &str) -> Option<Residency> {
    Some(Residency::Cold { tier: tier.into() })
}

async fn ask(engine: &Engine, key: &str, days: u32) -> Result<RestoreOutcome, EngineError> {
    let (bucket, key) = ("bkt".into(), key.into());
    engine
        .restore_object(RestoreRequest {
            bucket,
            key,
            version: VersionRef::Current,
            days,
            priority: RestorePriority::Standard,
        })
        .await
}

fn restore_status(engine: &Engine, key: &str) -> Option<RestoreStatus> {
    engine.open_object("bkt", key).unwrap().info().restore
}

async fn assert_archived(engine: &Engine, key: &str) {
    match get(engine, key).await {
        Err(EngineError::InvalidObjectState { class }) => assert_eq!(class, "GLACIER"),
        other => panic!("{key} should be archived, but: {:?}", other.map(|b| b.len())),
    }
}

/// Small ones, and one of four parts in many packs.
async fn fill(engine: &Engine) -> Vec<(String, Vec<u8>, String)> {
    engine.create_bucket("bkt").await.unwrap();
    let mut all = Vec::new();
    for n in 0..40u64 {
        let (key, bytes) = (format!("arc/small/{n:02}"), noise(n, 500 + 4_000 * n as usize));
        let headers = ContentHeaders { content_type: Some("image/png".into()), ..Default::default() };
        let attributes = ObjectAttributes {
            headers,
            user_metadata: vec![("mtime".into(), n.to_string())],
            tags: vec![("tag".into(), n.to_string())],
            ..Default::default()
        };
        let put = PutObject {
            bucket: "bkt".into(),
            key: key.clone(),
            attributes,
            expect: BodyExpectation { compute: Some(ChecksumAlgorithm::Sha256), ..Default::default() },
            condition: WriteCondition::default(),
        };
        engine.put_object(put, body(&bytes)).await.unwrap();
        all.push((key, bytes));
    }
    let parts: Vec<Vec<u8>> = (0..4).map(|n| noise(1_000 + n, 10 << 20)).collect();
    put_parts(engine, "arc/big", &parts).await.unwrap();
    all.push(("arc/big".into(), parts.concat()));
    all.into_iter().map(|(key, bytes)| (key.clone(), bytes, seen(engine, &key))).collect()
}

async fn assert_all(engine: &Engine, all: &[(String, Vec<u8>, String)]) {
    for (key, bytes, before) in all {
        assert!(get(engine, key).await.unwrap() == *bytes, "{key} has other bytes");
        assert_eq!(seen(engine, key), *before, "{key}");
    }
}

async fn evict_all(engine: &Engine) {
    engine.evict(u64::MAX).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn objects_go_down_by_rule_come_back_on_demand_and_leave_nothing_when_deleted() {
    let cloud = Cloud::new().await;
    let engine = cloud.bed.open().await;
    let all = fill(&engine).await;
    let count = all.len() as u64;
    cloud.advance(DAY * 30);
    until("all are in IA", || in_tier(&engine, "ia") == count).await;
    assert!(cloud.remote(Class::IA) >= 6, "the large one is in many packs");
    assert_eq!(cloud.remote(Class::IA), cloud.sim.objects(BUCKET).len());
    evict_all(&engine).await;
    let status = engine.object_status("bkt", "arc/big").unwrap();
    assert!(status.local_chunks < status.chunks / 2, "{} of {} are left", status.local_chunks, status.chunks);

    // Ranged, merged and whole reads of an online class.
    let big = engine.open_object("bkt", "arc/big").unwrap();
    assert_eq!(big.info().class_shown, "STANDARD_IA");
    for range in [0..1, 10_485_759..10_485_761, 30_000_000..33_000_000, 41_943_039..41_943_040] {
        let want = &all[40].1[range.start as usize..range.end as usize];
        assert!(read(big.read(range.clone()).await.unwrap()).await.unwrap() == want, "{range:?}");
    }
    assert_all(&engine, &all).await;
    let status = engine.object_status("bkt", "arc/small/39").unwrap();
    assert_eq!(status.local_chunks, status.chunks, "promoted");

    // From IA to the archive, out of IA's packs: most local copies are gone.
    evict_all(&engine).await;
    cloud.advance(DAY * 60);
    until("all are archived", || in_tier(&engine, "archive") == count).await;
    engine.gc(GcRequest::default()).await.unwrap();
    until("IA's packs are deleted", || cloud.remote(Class::IA) == 0).await;
    for (key, _, before) in &all {
        assert_archived(&engine, key).await;
        assert_eq!(seen(&engine, key), *before);
    }
    restore_and_expire(&cloud, engine, &all).await;
}

/// The second half: restores with a restart in between, expiry, a second restore, deletion.
async fn restore_and_expire(cloud: &Cloud, engine: Engine, all: &[(String, Vec<u8>, String)]) {
    // Nothing is local any more, manifests included.
    engine.shutdown().await.unwrap();
    drop(engine);
    std::fs::remove_dir_all(cloud.bed.dir.join("packs")).unwrap();
    let engine = cloud.bed.open().await;
    let packs = cloud.remote(Class::Archive);
    for (key, _, _) in all {
        assert_eq!(ask(&engine, key, 3).await.unwrap(), RestoreOutcome::Accepted);
        assert!(matches!(ask(&engine, key, 3).await, Err(EngineError::RestoreInProgress)));
        assert_eq!(restore_status(&engine, key), Some(RestoreStatus::Ongoing));
        assert_archived(&engine, key).await;
    }
    until("the first thaws are asked for", || cloud.requests("RestoreObject") > 0).await;
    engine.shutdown().await.unwrap();
    drop(engine);
    let engine = cloud.bed.open().await;
    let ongoing = |key: &str| restore_status(&engine, key) == Some(RestoreStatus::Ongoing);
    assert!(all.iter().all(|(key, _, _)| ongoing(key)), "a restart forgets no restore");
    let done = |key: &str| matches!(restore_status(&engine, key), Some(RestoreStatus::Done { .. }));
    let step = Duration::from_secs(40);
    cloud.until_later(step, "all are restored", || all.iter().all(|(key, _, _)| done(key))).await;
    assert_eq!(cloud.requests("RestoreObject"), packs as u64, "no pack is thawed twice");
    assert_all(&engine, all).await;
    evict_all(&engine).await;
    assert_all(&engine, all).await;

    // Asked again, the period is counted from now; then it ends, and takes the local copy only.
    cloud.advance(DAY);
    assert_eq!(ask(&engine, "arc/big", 10).await.unwrap(), RestoreOutcome::Extended);
    let until_then = cloud.bed.clock.now().plus(DAY * 10);
    assert_eq!(restore_status(&engine, "arc/big"), Some(RestoreStatus::Done { until: until_then }));
    cloud.advance(DAY * 9);
    until("the small ones have expired", || residency(&engine, "arc/small/00") == cold("archive")).await;
    assert!(get(&engine, "arc/big").await.unwrap() == all[40].1, "extended");
    cloud.advance(DAY);
    until("all have expired", || in_tier(&engine, "archive") == 41 && residency(&engine, "arc/big") == cold("archive"))
        .await;
    assert_archived(&engine, "arc/big").await;
    engine.gc(GcRequest::default()).await.unwrap();
    evict_all(&engine).await;
    assert_eq!(cloud.remote(Class::Archive), packs, "an expiring copy touches nothing remote");
    assert_eq!(ask(&engine, "arc/big", 1).await.unwrap(), RestoreOutcome::Accepted);
    let status = || restore_status(&engine, "arc/big");
    cloud.until_later(step, "it is restored", || matches!(status(), Some(RestoreStatus::Done { .. }))).await;
    assert!(get(&engine, "arc/big").await.unwrap() == all[40].1);

    let keys: Vec<String> = all.iter().map(|(key, _, _)| key.clone()).collect();
    assert!(common::delete_all(&engine, &keys).await.iter().all(|deleted| deleted.existed));
    engine.gc(GcRequest::default()).await.unwrap();
    until("the cloud is empty", || cloud.sim.objects(BUCKET).is_empty()).await;
    engine.gc(GcRequest::default()).await.unwrap();
    let stats = engine.stats().unwrap();
    assert_eq!((stats.local.unique_chunks, stats.local.dead_bytes, stats.cold.objects), (0, 0, 0));
    assert!(list_all(&engine, 10).is_empty());
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_one_cold_chunk_share_one_request() {
    let cloud = Cloud::new().await;
    let mut bed = cloud.bed;
    bed.settings.tiering.recall = Recall::Stream;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "k", &noise(1, 30_000), Some("STANDARD_IA")).await.unwrap();
    until("it is in IA", || residency(&engine, "k") == cold("ia")).await;
    engine.shutdown().await.unwrap();
    drop(engine);
    std::fs::remove_dir_all(bed.dir.join("packs")).unwrap();
    let engine = bed.open().await;
    cloud.sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(Fault::Slow { delay_ms: 2_000 })] });
    let reads = futures::future::join_all((0..16).map(|_| get(&engine, "k"))).await;
    assert!(reads.into_iter().all(|r| r.unwrap() == noise(1, 30_000)));
    let count = |op: &str| cloud.sim.requests().iter().filter(|r| r.operation == op).map(|r| r.count).sum::<u64>();
    assert_eq!(count("GetObject"), 1);
    cloud.sim.clear_faults();
    assert_eq!(get(&engine, "k").await.unwrap(), noise(1, 30_000));
    assert_eq!(count("GetObject"), 2, "streamed reads leave nothing behind");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chain_of_archive_classes_thaws_what_is_not_local() {
    let cloud = Cloud::new().await;
    let engine = cloud.bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let bodies: Vec<Vec<u8>> = (0..5).map(|n| noise(n, 2_000_000)).collect();
    for (n, bytes) in bodies.iter().enumerate() {
        put(&engine, &format!("deep/{n}"), bytes).await.unwrap();
    }
    cloud.advance(DAY * 30);
    until("all are archived", || in_tier(&engine, "archive") == 5).await;
    engine.shutdown().await.unwrap();
    drop(engine);
    std::fs::remove_dir_all(cloud.bed.dir.join("packs")).unwrap();
    let engine = cloud.bed.open().await;
    put(&engine, "deep/later", &noise(9, 10_000)).await.unwrap();
    cloud.advance(DAY * 70);
    let frozen = cloud.remote(Class::Archive) as u64;
    until("the packs are being thawed", || cloud.requests("RestoreObject") == frozen).await;
    until("the wait can be seen", || engine.stats().unwrap().jobs.iter().any(|j| j.state == "thawing")).await;
    until("a local one does not wait with them", || residency(&engine, "deep/later") == cold("archive")).await;
    let step = Duration::from_secs(40);
    cloud.until_later(step, "all are one class down", || in_tier(&engine, "deep") == 5).await;
    assert_eq!(cloud.requests("RestoreObject"), frozen, "each pack is thawed once");
    engine.gc(GcRequest::default()).await.unwrap();
    until("the old packs are deleted", || cloud.remote(Class::Archive) == 1).await;
    for key in ["deep/0", "deep/4"] {
        // Days enough for the first to be there still when the second comes, however long that takes here.
        assert_eq!(ask(&engine, key, 300).await.unwrap(), RestoreOutcome::Accepted);
    }
    let done = |key: &str| matches!(restore_status(&engine, key), Some(RestoreStatus::Done { .. }));
    cloud.until_later(Duration::from_secs(1_800), "both are restored", || done("deep/0") && done("deep/4")).await;
    assert!(get(&engine, "deep/0").await.unwrap() == bodies[0]);
    assert!(get(&engine, "deep/4").await.unwrap() == bodies[4]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_of_metadata_does_not_forget_a_running_restore() {
    let cloud = Cloud::new().await;
    let engine = cloud.bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "k", &noise(1, 70_000), Some("GLACIER")).await.unwrap();
    until("it is archived", || residency(&engine, "k") == cold("archive")).await;
    ask(&engine, "k", 2).await.unwrap();
    copy(&engine, "k", "k", Some("GLACIER")).await.unwrap();
    copy(&engine, "k", "k2", Some("GLACIER")).await.unwrap();
    assert!(restore_status(&engine, "k").is_some());
    assert_eq!(restore_status(&engine, "k2"), None, "a copy is an object of its own");
    let done = || matches!(restore_status(&engine, "k"), Some(RestoreStatus::Done { .. }));
    cloud.until_later(Duration::from_secs(40), "it is restored", done).await;
    assert_eq!(get(&engine, "k").await.unwrap(), noise(1, 70_000));
    assert_archived(&engine, "k2").await;
    // Overwritten or deleted while a restore runs, nobody waits for it any more.
    ask(&engine, "k2", 2).await.unwrap();
    put(&engine, "k2", b"new").await.unwrap();
    until("no restore is open", || engine.stats().unwrap().jobs.iter().all(|j| j.kind != "restore")).await;
    assert_eq!(get(&engine, "k2").await.unwrap(), b"new");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cloud_that_is_down_delays_moves_and_nothing_else() {
    let cloud = Cloud::new().await;
    let engine = cloud.bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..20 {
        put(&engine, &format!("arc/{n}"), &noise(n, 30_000)).await.unwrap();
    }
    let down = Fault::Error { status: 503, code: "ServiceUnavailable".into(), qos_delay_ms: Some(1) };
    cloud.sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(down)] });
    cloud.advance(DAY * 30);
    let waiting = |engine: &Engine| -> u64 {
        let jobs = engine.stats().unwrap().jobs;
        jobs.iter().filter(|j| j.state == "waiting after a failure").map(|j| j.count).sum()
    };
    until("the failure can be seen", || waiting(&engine) == 20).await;
    assert!(engine.tier_report("ia").unwrap().last_error.is_some());
    let struck = || cloud.sim.faults().rules[0].hits;
    let calls = struck();
    for n in 0..20 {
        put(&engine, &format!("hot/{n}"), &noise(100 + n, 30_000)).await.unwrap();
        assert_eq!(get(&engine, &format!("arc/{n}")).await.unwrap(), noise(n, 30_000));
    }
    assert!(struck() <= calls + 4, "{} calls more: no back-off", struck() - calls);
    put(&engine, "arc/new", b"due at once").await.unwrap();
    for _ in 0..4 {
        let before = struck();
        cloud.advance(Duration::from_secs(600));
        until("it has been tried again", || struck() > before).await;
    }
    assert_eq!(in_tier(&engine, "ia"), 0);
    cloud.sim.clear_faults();
    cloud.until_later(Duration::from_secs(60), "all have moved", || in_tier(&engine, "ia") == 20).await;
    engine.gc(GcRequest::default()).await.unwrap();
    let packs = engine.stats().unwrap().tiers.iter().map(|t| t.packs).sum::<u64>();
    let left = || cloud.sim.objects(BUCKET).len() as u64 == packs;
    cloud.until_later(Duration::from_secs(60), "failed uploads have gone", left).await;
    for n in 0..20 {
        assert_eq!(get(&engine, &format!("arc/{n}")).await.unwrap(), noise(n, 30_000));
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_tier_that_is_down_does_not_hold_up_deletes_in_another() {
    let cloud = Cloud::new().await;
    let engine = cloud.bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put_class(&engine, "a", &noise(1, 40_000), Some("GLACIER")).await.unwrap();
    put_class(&engine, "b", &noise(2, 40_000), Some("STANDARD_IA")).await.unwrap();
    until("both are cold", || engine.stats().unwrap().cold.objects == 2).await;
    let down = Fault::Error { status: 503, code: "ServiceUnavailable".into(), qos_delay_ms: Some(1) };
    let rules = vec![FaultRule::new(down).key_prefix("archive/")];
    cloud.sim.set_faults(FaultPlan { seed: 1, rules });
    common::delete_all(&engine, &["a".into(), "b".into()]).await;
    engine.gc(GcRequest::default()).await.unwrap();
    let later = Duration::from_secs(60);
    cloud.until_later(later, "the pack in IA is deleted", || cloud.remote(Class::IA) == 0).await;
    cloud.sim.clear_faults();
    cloud.until_later(later, "the other one too", || cloud.sim.objects(BUCKET).is_empty()).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_packs_of_a_tier_are_listed_page_by_page() {
    let cloud = Cloud::new().await;
    let engine = cloud.bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..3 {
        put_class(&engine, &format!("{n}"), &noise(n, 40_000), Some("STANDARD_IA")).await.unwrap();
        until("it is in IA", || in_tier(&engine, "ia") == n + 1).await;
    }
    let first = engine.tier_packs("ia", None, 2).unwrap();
    let second = engine.tier_packs("ia", Some(&first[1].name), 2).unwrap();
    let names: Vec<_> = first.iter().chain(&second).map(|p| (format!("ia/{}", p.name), p.bytes, p.crc64)).collect();
    let there: Vec<_> = cloud.sim.objects(BUCKET).into_iter().map(|o| (o.key, o.size, Some(o.crc64))).collect();
    assert_eq!((first.len(), names), (2, there), "by their names");
    assert!(first.iter().all(|p| p.state == "live" && p.chunks > 0));
    assert!(engine.tier_packs("ia", Some(&second[0].name), 2).unwrap().is_empty());
    assert_eq!(engine.tier_packs("archive", None, 2).unwrap(), []);
    assert!(matches!(engine.tier_packs("ia", Some("x"), 2), Err(EngineError::InvalidArgument(_))));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changes_while_its_pack_is_on_the_way_stays_as_the_client_left_it() {
    let dir = tempfile::tempdir().unwrap();
    let tier = Arc::new(MemoryTier::new().unwrap());
    let mut bed = Bed::new(dir.path(), Arc::clone(&tier) as _);
    bed.settings.tiering.linger_ms = 0;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    for n in 0..3 {
        put(&engine, &format!("cold/{n}"), &noise(n, 50_000)).await.unwrap();
    }
    let (arrived, wait_arrived) = mpsc::channel();
    let (go, wait_go) = mpsc::channel::<()>();
    let (wait_go, first) = (Mutex::new(wait_go), AtomicBool::new(true));
    tier.set_hook(move |operation, _, moment| {
        if operation == Operation::PutObject && moment == Moment::After && first.swap(false, Ordering::SeqCst) {
            arrived.send(()).unwrap();
            wait_go.lock().unwrap().recv_timeout(common::PATIENCE).unwrap();
        }
        None
    });
    bed.clock.advance(DAY * 30);
    let arrived = tokio::task::spawn_blocking(move || wait_arrived.recv_timeout(common::PATIENCE));
    arrived.await.unwrap().unwrap();
    put(&engine, "cold/0", b"new bytes").await.unwrap();
    assert!(engine.delete_object("bkt", "cold/1", DeleteRequest::default()).await.unwrap().existed);
    copy(&engine, "cold/2", "cold/2", None).await.unwrap();
    go.send(()).unwrap();
    // The third has kept its age, so it moves after all, as the version that it is now.
    until("the first job's pack is deleted and a second job is done", || {
        let stats = engine.stats().unwrap();
        stats.jobs.is_empty() && residency(&engine, "cold/2") == cold("ia")
    })
    .await;
    assert_eq!(tier.list("", None, 10).await.unwrap().len(), 1, "a lost race leaves no orphan");
    assert_eq!(get(&engine, "cold/0").await.unwrap(), b"new bytes");
    assert_eq!(residency(&engine, "cold/0"), Some(Residency::Hot));
    assert_eq!(residency(&engine, "cold/1"), None);
    assert_eq!(get(&engine, "cold/2").await.unwrap(), noise(2, 50_000));
    engine.shutdown().await.unwrap();
}
