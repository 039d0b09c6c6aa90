//! `Engine::fsck` with tiers in OSS, as the simulator plays it: what listings cost, versions and markers, permissions.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use bytes::Bytes;
use common::{Bed, DAY, T0, get, noise, put_class, residency, until};
use oss_sim::{Class, OssSim, Policy};
use std::sync::Arc;
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, RamPolicy, RamPurpose, StorageClass};
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{Tier, TierMetrics};

const BUCKET: &str = "cold-bucket";

fn settings(endpoint: &str, key: &str) -> OssSettings {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", BUCKET);
    settings.storage_class = StorageClass::IA;
    settings.prefix = "tide".into();
    settings.max_attempts = 1;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: key.into(),
        access_key_secret: Secret::new("sk"),
        security_token: None,
    };
    settings
}

struct World {
    _dir: tempfile::TempDir,
    sim: oss_sim::Running,
    bed: Bed,
}

impl World {
    async fn new(versions: bool) -> Self {
        let sim = OssSim::builder()
            .bucket(BUCKET, Class::Standard)
            .access_key("ak", "sk")
            .access_key("limited", "sk")
            .clock_start(T0.millis())
            .frozen_clock()
            .skew_check(false)
            .start()
            .await
            .unwrap();
        if versions {
            sim.keep_versions(BUCKET);
        }
        let dir = tempfile::tempdir().unwrap();
        let tier = Self::tier_of(&sim, "ak");
        let mut bed = Bed::new(&dir.path().join("data"), tier);
        bed.settings.tiering.linger_ms = 0;
        Self { _dir: dir, sim, bed }
    }

    fn tier_of(sim: &oss_sim::Running, key: &str) -> Arc<dyn Tier> {
        let clock: Arc<dyn Clock> = Arc::new(tidegate_tiering::clock::SystemClock::default());
        let metrics = TierMetrics::new("ia", None).unwrap();
        Arc::new(OssTier::new("ia", &settings(&sim.endpoint(), key), clock, &|_| None, metrics).unwrap())
    }

    /// An engine whose namespace has one cold object, after its first epoch.
    async fn start(&self) -> Engine {
        let engine = self.bed.open().await;
        engine.create_bucket("bkt").await.unwrap();
        put_class(&engine, "a", &noise(1, 200_000), Some("STANDARD_IA")).await.unwrap();
        until("it is cold", || matches!(residency(&engine, "a"), Some(Residency::Cold { .. }))).await;
        engine.shutdown().await.unwrap();
        self.bed.clock.advance(DAY * 10);
        self.bed.open().await
    }

    fn asked(&self, operation: &str) -> u64 {
        self.sim.requests().iter().filter(|r| r.operation == operation).map(|r| r.count).sum()
    }

    fn orphan(&self) -> String {
        let deployment = std::fs::read_to_string(self.bed.dir.join("deployment")).unwrap();
        format!("packs/{}/00000001/{:012x}{:020x}.pack", deployment.trim(), T0.millis(), 1)
    }
}

async fn fsck(engine: &Engine, repair: bool) -> FsckReport {
    let request = FsckRequest { repair, ..FsckRequest::default() };
    let estimate = engine.fsck_estimate(&request, |_| Some(tidegate_policies::Class::Ia)).unwrap();
    engine.fsck(&request, estimate, |_| {}).await.unwrap()
}

fn kinds(report: &FsckReport) -> Vec<(FindingKind, u64)> {
    report.totals.iter().map(|t| (t.kind, t.count)).collect()
}

fn the_pack(engine: &Engine) -> String {
    let status = engine.object_status("bkt", "a").unwrap();
    status.packs.into_iter().find(|p| p.tier.is_some()).unwrap().name
}

fn bytes(len: usize) -> Arc<Bytes> {
    Arc::new(Bytes::from(vec![3; len]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_estimate_is_what_a_clean_check_costs_and_orphans_go() {
    let world = World::new(false).await;
    let engine = world.start().await;
    let report = fsck(&engine, false).await;
    assert_eq!((report.remaining, kinds(&report)), (0, vec![]), "{report:?}");
    assert_eq!((report.estimate.tiers[0].list_requests, world.asked("ListObjectsV2")), (1, 1));
    assert_eq!((world.asked("HeadObject"), world.asked("ListObjectVersions")), (0, 0));
    world.bed.tier.put(&world.orphan(), bytes(100)).await.unwrap();
    let report = fsck(&engine, true).await;
    assert_eq!((kinds(&report), report.remaining), (vec![(FindingKind::OrphanPack, 1)], 0), "{report:?}");
    assert_eq!(world.sim.objects(BUCKET).len(), 1);
    world.bed.tier.delete(&the_pack(&engine)).await.unwrap();
    let report = fsck(&engine, true).await;
    assert!(kinds(&report).contains(&(FindingKind::DanglingPack, 1)), "{report:?}");
    assert_eq!(report.tiers[0].asked, 1);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_markers_are_seen_and_those_of_orphans_are_deleted() {
    let world = World::new(true).await;
    let engine = world.start().await;
    let (tier, orphan) = (&world.bed.tier, world.orphan());
    assert_eq!(fsck(&engine, false).await.remaining, 0);
    assert_eq!((world.asked("ListObjectVersions"), world.asked("ListObjectsV2")), (1, 0));

    // Written twice and hidden: a plain listing shows none of it.
    let owner = OssTier::new(
        "owner",
        &settings(&world.sim.endpoint(), "ak"),
        Arc::clone(&world.bed.clock) as _,
        &|_| None,
        TierMetrics::new("owner", None).unwrap(),
    )
    .unwrap();
    tier.put(&orphan, bytes(100)).await.unwrap();
    tier.put(&orphan, bytes(150)).await.unwrap();
    owner.client().delete_object(&orphan).await.unwrap();
    // The pack itself is written again, by whatever means.
    let pack = the_pack(&engine);
    let size = tier.head(&pack).await.unwrap().size as usize;
    tier.put(&pack, bytes(size)).await.unwrap();
    let report = fsck(&engine, true).await;
    let orphans = report.findings.iter().find(|f| f.kind == FindingKind::OrphanPack).unwrap();
    assert_eq!((orphans.bytes, orphans.repair), (Some(250), Repair::Done), "{report:?}");
    assert_eq!(kinds(&report), [(FindingKind::OrphanPack, 1), (FindingKind::ExtraVersion, 1)], "{report:?}");
    assert_eq!(report.remaining, 1);
    let left = world.sim.objects(BUCKET);
    assert!(left.len() == 2 && left.iter().all(|o| o.key.ends_with(&pack)), "{left:?}");

    // Hidden behind a marker: not readable by name, and what is to be done is said.
    owner.client().delete_object(&pack).await.unwrap();
    let report = fsck(&engine, true).await;
    let dangling = report.findings.iter().find(|f| f.kind == FindingKind::DanglingPack).unwrap();
    assert!(dangling.detail.contains("remove the marker"), "{report:?}");
    for version in tier.list_versions(&pack, None, 10).await.unwrap().unwrap() {
        if version.latest {
            tier.delete_version(&pack, &version.version).await.unwrap();
        }
    }
    assert_eq!(kinds(&fsck(&engine, true).await), [(FindingKind::ExtraVersion, 1)]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_come_in_pages_as_they_come_at_once() {
    let world = World::new(true).await;
    let tier = &world.bed.tier;
    for n in 0..3 {
        for len in 1..=3 {
            tier.put(&format!("packs/{n} \u{fc}&"), bytes(len)).await.unwrap();
        }
    }
    let all = tier.list_versions("packs/", None, 100).await.unwrap().unwrap();
    assert_eq!(all.len(), 9);
    assert_eq!(all.iter().map(|v| v.size).take(3).collect::<Vec<_>>(), [3, 2, 1], "newest first");
    assert!(all.iter().step_by(3).all(|v| v.latest) && !all.iter().any(|v| v.marker));
    for page in [1, 2, 4] {
        let (mut pieces, mut last) = (Vec::new(), None);
        loop {
            let piece = tier.list_versions("packs/", last.as_ref(), page).await.unwrap().unwrap();
            let ended = piece.len() < page;
            last = piece.last().cloned().or(last);
            pieces.extend(piece);
            if ended {
                break;
            }
        }
        assert_eq!(pieces, all, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generated_policy_is_enough_and_a_key_that_may_not_list_versions_says_so() {
    for (versions, purposes, expected) in [
        (false, vec![RamPurpose::Engine], vec![]),
        (true, vec![RamPurpose::Engine, RamPurpose::Versions], vec![]),
        (true, vec![RamPurpose::Engine], vec![(FindingKind::NotChecked, 1)]),
    ] {
        let mut world = World::new(versions).await;
        let policy = RamPolicy::least(&settings("http://127.0.0.1", "limited"), &purposes).unwrap();
        let policy = Policy::parse(&serde_json::to_string(&policy).unwrap()).unwrap();
        world.sim.sim().set_policy("limited", Some(policy));
        world.bed.tier = World::tier_of(&world.sim, "limited");
        let engine = world.start().await;
        let report = fsck(&engine, true).await;
        assert_eq!(kinds(&report), expected, "{report:?}");
        assert_eq!((report.tiers[0].matched, report.tiers[0].versions), (1, versions && expected.is_empty()));
        assert_eq!(get(&engine, "a").await.unwrap(), noise(1, 200_000));
        engine.shutdown().await.unwrap();
    }
}
