//! Tiers in buckets that keep versions: a deletion leaves nothing behind, neither a version nor a marker.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;
mod wire;

use bytes::Bytes;
use common::{Bed, DAY, T0, noise, put, residency, until};
use oss_sim::{Class, Fault, FaultPlan, FaultRule, OssSim};
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, ManualClock, SystemClock};
use tidegate_tiering::engine::{DeleteRequest, GcRequest, Residency};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, StorageClass};
use tidegate_tiering::tier::probe::probe;
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{Tier, TierErrorKind, TierMetrics, contract};
use wire::{Reply, Server};

const BUCKET: &str = "cold-bucket";

async fn simulator() -> oss_sim::Running {
    OssSim::builder()
        .bucket(BUCKET, Class::Standard)
        .access_key("ak", "sk")
        .clock_start(T0.millis())
        .frozen_clock()
        .skew_check(false)
        .start()
        .await
        .unwrap()
}

fn tier(sim: &oss_sim::Running) -> OssTier {
    tier_at(&sim.endpoint())
}

fn tier_at(endpoint: &str) -> OssTier {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", BUCKET);
    settings.storage_class = StorageClass::IA;
    settings.part_size_bytes = 256 << 10;
    settings.multipart_threshold_bytes = 1 << 20;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new("sk"),
        security_token: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(T0));
    OssTier::new("ia", &settings, clock, &|_| None, TierMetrics::new("ia", None).unwrap()).unwrap()
}

#[tokio::test]
async fn every_way_to_delete_leaves_neither_versions_nor_markers_and_no_neighbour_goes_along() {
    let sim = simulator().await;
    let tier = tier(&sim);
    let body = |len: usize| Arc::new(Bytes::from(noise(1, len)));
    // From before versioning was turned on.
    assert_eq!(tier.put("old", body(10)).await.unwrap().version_id, None);
    sim.keep_versions(BUCKET);
    for (name, len) in [("small", 10), ("large", 3 << 20)] {
        let version = tier.put(name, body(len)).await.unwrap().version_id.unwrap();
        tier.delete_version(name, &version).await.unwrap();
        tier.delete_version(name, &version).await.unwrap();
        assert_eq!(sim.objects(BUCKET).iter().filter(|o| o.key == name).count(), 0, "{name}");
    }
    // Written twice (an answer that was lost), and the version not known.
    for name in ["twice", "twice", "twice-not", "old-not"] {
        tier.put(name, body(10)).await.unwrap();
    }
    // The first answer is lost, so there are two versions; the later one must not be taken for the only one.
    let lost = FaultRule { times: Some(1), ..FaultRule::new(Fault::ResetAfter).op("PutObject") };
    sim.set_faults(FaultPlan { seed: 1, rules: vec![lost] });
    assert_eq!(tier.put("repeated", body(10)).await.unwrap().version_id, None);
    assert_eq!(sim.objects(BUCKET).iter().filter(|o| o.key == "repeated").count(), 2);
    tier.delete("repeated").await.unwrap();
    tier.delete("twice").await.unwrap();
    tier.delete("old").await.unwrap();
    tier.delete("never").await.unwrap();
    let mut left: Vec<String> = sim.objects(BUCKET).into_iter().map(|o| o.key).collect();
    left.sort();
    assert_eq!(left, ["old-not", "twice-not"]);
    tier.delete("twice-not").await.unwrap();
    tier.delete("old-not").await.unwrap();
    contract::run(&tier, "c", 2 << 20).await.unwrap();
    assert!(sim.objects(BUCKET).is_empty());
}

#[tokio::test]
async fn a_probe_says_that_a_bucket_keeps_versions_and_leaves_none() {
    let sim = simulator().await;
    let told = |report: &tidegate_tiering::tier::probe::ProbeReport| report.steps[0].message.contains("keeps versions");
    let before = probe(&tier(&sim), &SystemClock::default()).await;
    assert!(before.ok && !told(&before), "{before:?}");
    sim.keep_versions(BUCKET);
    let after = probe(&tier(&sim), &SystemClock::default()).await;
    assert!(after.ok && told(&after), "{after:?}");
    assert!(sim.objects(BUCKET).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_nobody_needs_is_deleted_by_its_version_and_nothing_of_it_stays() {
    let sim = simulator().await;
    sim.keep_versions(BUCKET);
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(dir.path(), Arc::new(tier(&sim)));
    bed.settings.tiering.linger_ms = 0;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    put(&engine, "cold/a", &noise(1, 300_000)).await.unwrap();
    bed.clock.advance(DAY * 31);
    until("it is cold", || matches!(residency(&engine, "cold/a"), Some(Residency::Cold { .. }))).await;
    assert_eq!(sim.objects(BUCKET).len(), 1);
    // The version is known after a restart, too.
    engine.shutdown().await.unwrap();
    let engine = bed.open().await;
    engine.delete_object("bkt", "cold/a", DeleteRequest::default()).await.unwrap();
    assert_eq!(engine.gc(GcRequest::default()).await.unwrap().remote_packs_doomed, 1);
    until("nothing is left", || sim.objects(BUCKET).is_empty()).await;
    let listings = sim.requests().iter().filter(|r| r.operation == "ListObjectVersions").count();
    assert_eq!(listings, 0, "a deletion that names its version needs no listing");
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_version_that_cannot_be_deleted_gathers_no_markers_however_often_it_is_tried() {
    // A bucket whose key may not delete versions: each deletion that names none adds a marker.
    let server = Server::start(|_, request| match (request.method.as_str(), request.target.contains("versionId")) {
        ("DELETE", true) => Reply::error(403, "AccessDenied"),
        ("DELETE", false) => Reply::new(204).header("x-oss-version-id", "m").header("x-oss-delete-marker", "true"),
        _ => Reply::new(200).body(
            "<ListVersionsResult><DeleteMarker><Key>k</Key><VersionId>m</VersionId></DeleteMarker></ListVersionsResult>",
        ),
    })
    .await;
    let tier = tier_at(&server.address);
    for _ in 0..5 {
        assert_eq!(tier.delete("k").await.unwrap_err().kind(), TierErrorKind::Denied);
    }
    let markers = server.requests().iter().filter(|r| r.method == "DELETE" && !r.target.contains("versionId")).count();
    assert_eq!(markers, 1, "{:?}", server.lines());
}
