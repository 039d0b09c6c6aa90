//! The native client against the simulator of the service: the contract of tiers, restores, faults, and the account of
//! requests.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

#[path = "common/account.rs"]
mod account;

use account::{DOWN, Place, ours, theirs};
use bytes::Bytes;
use futures::stream::StreamExt;
use oss_sim::{CODES_503, Class, Fault, FaultPlan, FaultRule, OssSim};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{Clock, SystemClock, Timestamp};
use tidegate_tiering::tier::contract::{self, SeededBody, read};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, SignatureVersion, StorageClass};
use tidegate_tiering::tier::probe::probe;
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{
    Operation, Outcome, RestorePriority, RestoreReceipt, RestoreState, Tier, TierErrorKind, TierMetrics,
};

const BUCKET: &str = "cold-bucket";
const DAY: u64 = 86_400;

async fn simulator() -> oss_sim::Running {
    OssSim::builder()
        .bucket(BUCKET, Class::Standard)
        .cname("localhost", BUCKET)
        .access_key("ak", "sk")
        .record_exchanges()
        .start()
        .await
        .unwrap()
}

fn settings(endpoint: &str, class: StorageClass) -> OssSettings {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", BUCKET);
    settings.prefix = "tide/x".into();
    settings.storage_class = class;
    settings.part_size_bytes = 256 << 10;
    settings.multipart_threshold_bytes = 1 << 20;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new("sk"),
        security_token: None,
    };
    settings
}

fn build(settings: &OssSettings, registry: Option<&prometheus::Registry>) -> OssTier {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    OssTier::new("cold", settings, clock, &|_| None, TierMetrics::new("cold", registry).unwrap()).unwrap()
}

fn tier(sim: &oss_sim::Running, class: StorageClass) -> OssTier {
    build(&settings(&sim.endpoint(), class), None)
}

/// A simulator and a tier on it, once for each version of the signature.
async fn signed(class: StorageClass) -> [(oss_sim::Running, OssTier); 2] {
    let one = async |signature| {
        let sim = simulator().await;
        let tier = build(&OssSettings { signature, ..settings(&sim.endpoint(), class) }, None);
        (sim, tier)
    };
    [one(SignatureVersion::V4).await, one(SignatureVersion::V1).await]
}

#[tokio::test]
async fn the_contract_holds_with_both_signatures() {
    let sim = simulator().await;
    for signature in [SignatureVersion::V4, SignatureVersion::V1] {
        let mut settings = settings(&sim.endpoint(), StorageClass::IA);
        settings.signature = signature;
        let tier = build(&settings, None);
        contract::run(&tier, "c", 3 << 20).await.unwrap();
        assert!(sim.objects(BUCKET).is_empty());
        contract::creates_once(&tier, "c").await.unwrap();
        assert_eq!(
            tier.head("c/created").await.unwrap().class.as_deref(),
            Some("Standard"),
            "whatever the tier's class"
        );
        tier.delete("c/created").await.unwrap();
    }
}

#[tokio::test]
async fn the_contract_holds_on_a_domain_and_on_virtual_hosts() {
    let sim = simulator().await;
    for signature in [SignatureVersion::V4, SignatureVersion::V1] {
        let mut domain = settings(&format!("http://localhost:{}", sim.addr().port()), StorageClass::Standard);
        domain.cname = true;
        domain.signature = signature;
        contract::run(&build(&domain, None), "c", 2 << 20).await.unwrap();
        let mut virtual_host = settings("http://oss-cn-hangzhou.aliyuncs.com", StorageClass::Standard);
        virtual_host.proxy = Some(Secret::new(sim.endpoint()));
        virtual_host.signature = signature;
        contract::run(&build(&virtual_host, None), "c", 2 << 20).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_named() {
    let sim = simulator().await;
    for (signature, id, code) in [
        (SignatureVersion::V4, "ak", "SignatureDoesNotMatch"),
        (SignatureVersion::V1, "ak", "SignatureDoesNotMatch"),
        (SignatureVersion::V4, "nobody", "InvalidAccessKeyId"),
    ] {
        let mut settings = settings(&sim.endpoint(), StorageClass::IA);
        settings.signature = signature;
        settings.credentials = CredentialsSpec::Static {
            access_key_id: id.into(),
            access_key_secret: Secret::new("not-the-secret"),
            security_token: None,
        };
        let error = build(&settings, None).put("a", Arc::new(Bytes::from_static(b"x"))).await.unwrap_err();
        assert_eq!((error.kind(), error.details().code.as_str()), (TierErrorKind::Denied, code), "{signature:?}");
        assert!(!error.details().request_id.is_empty() && !error.details().ec.is_empty());
    }
}

/// Faults whose effect a client must hide: a tenth of all requests.
fn plan(seed: u64) -> FaultPlan {
    let error = |code: &str, status, qos_delay_ms| Fault::Error { status, code: code.into(), qos_delay_ms };
    let busy = CODES_503.into_iter().filter(|code| *code != DOWN).map(|code| (error(code, 503, Some(5)), 0.003));
    let others = [
        error(DOWN, 503, None),
        error("InternalError", 500, None),
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Torn,
        Fault::Slow { delay_ms: 5 },
        Fault::Skew { seconds: 3600 },
    ];
    let rules = busy.chain(others.into_iter().map(|fault| (fault, 0.014)));
    FaultPlan { seed, rules: rules.map(|(fault, rate)| FaultRule::new(fault).rate(rate)).collect() }
}

const PLACE: Place = Place { tier: "cold", bucket: BUCKET, class: Class::IA };

#[tokio::test]
async fn every_request_is_accounted_for() {
    let sim = simulator().await;
    let registry = prometheus::Registry::new();
    let tier = build(&settings(&sim.endpoint(), StorageClass::IA), Some(&registry));
    contract::run(&tier, "c", 3 << 20).await.unwrap();
    assert_eq!(ours(&registry), theirs(&sim.exchanges().0, &[PLACE]));
}

#[tokio::test]
async fn the_contract_holds_while_a_tenth_of_the_requests_fail_and_every_request_is_accounted_for() {
    let sim = simulator().await;
    let seed = 20_261_124;
    println!("seed {seed}");
    sim.set_faults(plan(seed));
    let registry = prometheus::Registry::new();
    let mut settings = settings(&sim.endpoint(), StorageClass::IA);
    settings.max_attempts = 10;
    let tier = build(&settings, Some(&registry));
    contract::run(&tier, "c", 3 << 20).await.unwrap();
    let struck: u64 = sim.faults().rules.iter().map(|r| r.hits).sum();
    sim.clear_faults();
    assert!(sim.objects(BUCKET).is_empty(), "nothing is left");
    assert!(tier.client().list_uploads("").await.unwrap().is_empty(), "no unfinished upload is left");
    assert!(struck > 5, "{struck} faults struck");
    assert_eq!(ours(&registry), theirs(&sim.exchanges().0, &[PLACE]));
}

#[tokio::test]
async fn a_part_that_fails_lets_those_on_their_way_end_before_the_upload_is_aborted() {
    let sim = simulator().await;
    let registry = prometheus::Registry::new();
    let mut settings = settings(&sim.endpoint(), StorageClass::IA);
    settings.max_attempts = 1;
    settings.part_concurrency = 3;
    let tier = build(&settings, Some(&registry));
    let fails = Fault::Error { status: 500, code: "InternalError".into(), qos_delay_ms: None };
    let part = |fault| FaultRule::new(fault).op("UploadPart");
    sim.set_faults(FaultPlan { seed: 1, rules: vec![part(fails).times(1), part(Fault::Slow { delay_ms: 200 })] });
    tier.put("a", Arc::new(SeededBody { seed: 1, len: 2 << 20 })).await.unwrap_err();
    let exchanges = sim.exchanges().0;
    let order: Vec<_> = exchanges.iter().map(|e| (e.operation, e.status)).collect();
    let parts = [("UploadPart", 500), ("UploadPart", 200), ("UploadPart", 200)];
    assert_eq!(order, [&[("InitiateMultipartUpload", 200)], &parts[..], &[("AbortMultipartUpload", 204)]].concat());
    assert_eq!(ours(&registry), theirs(&exchanges, &[PLACE]));
    assert!(sim.uploads(BUCKET).is_empty());
}

#[tokio::test]
async fn a_request_whose_caller_goes_away_is_counted_as_abandoned() {
    let sim = simulator().await;
    let metrics = TierMetrics::new("cold", None).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let settings = settings(&sim.endpoint(), StorageClass::IA);
    let tier = OssTier::new("cold", &settings, clock, &|_| None, metrics.clone()).unwrap();
    sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(Fault::Slow { delay_ms: 60_000 })] });
    let put = tier.put("a", Arc::new(Bytes::from_static(b"x")));
    let running = async {
        while metrics.in_flight.get() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = put => panic!("it is held up for a minute"),
        () = running => {}
    }
    assert_eq!(metrics.in_flight.get(), 0);
    assert_eq!(metrics.count(Operation::PutObject, Outcome::Abandoned), 1);
}

#[tokio::test]
async fn a_byte_that_is_wrong_on_the_way_up_is_found_and_sent_again() {
    let sim = simulator().await;
    let tier = tier(&sim, StorageClass::IA);
    let body = SeededBody { seed: 5, len: 2 << 20 };
    for (name, len) in [("one", 100_000), ("parts", 2 << 20)] {
        sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(Fault::Flip).times(1)] });
        tier.put(name, Arc::new(SeededBody { len, ..body })).await.unwrap();
        assert_eq!(sim.faults().rules[0].hits, 1);
        assert!(read(&tier, name, 0..len).await.unwrap() == body.bytes(0..len), "{name}");
    }
}

#[tokio::test]
async fn a_flipped_byte_on_the_way_down_is_found() {
    let sim = simulator().await;
    let tier = tier(&sim, StorageClass::IA);
    let body = SeededBody { seed: 4, len: 100_000 };
    tier.put("a", Arc::new(body)).await.unwrap();
    sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(Fault::Flip).times(1)] });
    let error = read(&tier, "a", 0..100_000).await.unwrap_err();
    assert_eq!(error.kind(), TierErrorKind::Corrupt, "{error}");
    assert_eq!(read(&tier, "a", 0..100_000).await.unwrap(), body.bytes(0..100_000));
}

#[tokio::test]
async fn each_archive_class_freezes_thaws_and_freezes_again() {
    let body = SeededBody { seed: 7, len: 5000 };
    for (class, wait, days) in [
        (StorageClass::Archive, 120, 2),
        (StorageClass::ColdArchive, 6 * 3600, 30),
        (StorageClass::DeepColdArchive, 49 * 3600, 30),
    ] {
        for (sim, tier) in signed(class).await {
            let name = class.name();
            tier.put(name, Arc::new(body)).await.unwrap();
            assert_eq!(tier.head(name).await.unwrap().class.as_deref(), Some(name));
            assert!(tier.get(name, 0..10).await.err().unwrap().is_frozen());
            let ask = || tier.restore(name, days, RestorePriority::Standard);
            assert_eq!(ask().await.unwrap(), RestoreReceipt::Started);
            assert_eq!(ask().await.unwrap(), RestoreReceipt::AlreadyRunning);
            assert_eq!(tier.head(name).await.unwrap().restore, RestoreState::Ongoing);
            assert!(tier.get(name, 0..10).await.err().unwrap().is_frozen());
            sim.advance_seconds(wait);
            let RestoreState::Restored { until } = tier.head(name).await.unwrap().restore else {
                panic!("{name} is not restored after {wait} s");
            };
            let left = until.since(Timestamp(sim.now_ms()));
            assert!(left <= Duration::from_secs((u64::from(days) + 1) * DAY), "{name}: {left:?}");
            assert_eq!(read(&tier, name, 0..5000).await.unwrap(), body.bytes(0..5000));
            assert_eq!(ask().await.unwrap(), RestoreReceipt::AlreadyRestored);
            sim.advance_seconds(u64::from(days + 3) * DAY);
            assert!(tier.get(name, 0..10).await.err().unwrap().is_frozen());
            assert_eq!(tier.head(name).await.unwrap().restore, RestoreState::None);
        }
    }
    for (_sim, online) in signed(StorageClass::IA).await {
        online.put("online", Arc::new(body)).await.unwrap();
        assert_eq!(online.restore("online", 1, RestorePriority::Bulk).await.unwrap(), RestoreReceipt::NotNeeded);
    }
}

#[tokio::test]
async fn a_restored_copy_is_dropped_before_its_time() {
    for (sim, tier) in signed(StorageClass::ColdArchive).await {
        tier.put("a", Arc::new(SeededBody { seed: 7, len: 100 })).await.unwrap();
        tier.client().clean_restored_object("a").await.unwrap();
        tier.restore("a", 30, RestorePriority::Expedited).await.unwrap();
        let error = tier.client().clean_restored_object("a").await.unwrap_err();
        assert_eq!(error.details().code, "ArchiveRestoreNotFinished");
        sim.advance_seconds(3601);
        assert_eq!(read(&tier, "a", 0..100).await.unwrap().len(), 100);
        tier.client().clean_restored_object("a").await.unwrap();
        assert!(tier.get("a", 0..10).await.err().unwrap().is_frozen());
    }
}

#[tokio::test]
async fn a_restored_copy_that_expires_during_a_read_ends_the_read_as_frozen() {
    let sim = simulator().await;
    let tier = tier(&sim, StorageClass::Archive);
    tier.put("a", Arc::new(SeededBody { seed: 7, len: 500_000 })).await.unwrap();
    tier.restore("a", 1, RestorePriority::Standard).await.unwrap();
    sim.advance_seconds(120);
    sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(Fault::ExpireRestore).times(1)] });
    let error = read(&tier, "a", 0..500_000).await.unwrap_err();
    assert!(error.is_frozen(), "{error}");
}

#[tokio::test]
async fn a_probe_tells_what_each_class_can_do_and_leaves_nothing() {
    let sim = simulator().await;
    for (class, steps) in [
        (StorageClass::IA, vec!["write", "head", "list", "read", "range", "delete", "gone"]),
        (StorageClass::ColdArchive, vec!["write", "head", "list", "restore", "read", "delete", "gone"]),
    ] {
        let tier = tier(&sim, class);
        let report = probe(&tier, &SystemClock::default()).await;
        assert!(report.ok, "{report:?}");
        assert_eq!(report.steps.iter().map(|s| s.step).collect::<Vec<_>>(), steps);
        assert!(sim.objects(BUCKET).is_empty());
    }
}

#[tokio::test]
async fn copies_parts_of_copies_and_unfinished_uploads_are_handled() {
    for (sim, tier) in signed(StorageClass::IA).await {
        copies_and_parts(&sim, &tier).await;
    }
}

async fn copies_and_parts(sim: &oss_sim::Running, tier: &OssTier) {
    let client = tier.client();
    let body = SeededBody { seed: 8, len: 600_000 };
    tier.put("from +/ü", Arc::new(body)).await.unwrap();
    client.copy_object("from +/ü", "copy").await.unwrap();
    assert_eq!(read(tier, "copy", 0..600_000).await.unwrap(), body.bytes(0..600_000));
    let upload = client.initiate_multipart("joined").await.unwrap();
    let first = client.upload_part_copy("joined", &upload, 1, ("copy", 0..300_000)).await.unwrap();
    let second = client.upload_part("joined", &upload, 2, (Arc::new(body), 300_000..600_000)).await.unwrap();
    let listed = client.list_parts("joined", &upload).await.unwrap();
    assert_eq!(listed.iter().map(|p| (p.number, p.size)).collect::<Vec<_>>(), [(1, 300_000), (2, 300_000)]);
    assert_eq!(listed[1].crc64, second.crc64);
    client.complete_multipart("joined", &upload, &[first, second]).await.unwrap();
    assert_eq!(read(tier, "joined", 0..600_000).await.unwrap(), body.bytes(0..600_000));
    client.initiate_multipart("left").await.unwrap();
    assert_eq!(client.list_uploads("le").await.unwrap()[0].name, "left");
    tier.delete("left").await.unwrap();
    assert!(client.list_uploads("").await.unwrap().is_empty());
    let gone = client.delete_objects(&["copy".into(), "joined".into(), "from +/ü".into()]).await.unwrap();
    assert_eq!(gone.len(), 3);
    assert!(sim.objects(BUCKET).is_empty());
}

#[tokio::test]
async fn tags_rules_and_facts_of_the_bucket_are_read_and_written() {
    for (_sim, tier) in signed(StorageClass::IA).await {
        tags_rules_and_facts(&tier).await;
    }
}

async fn tags_rules_and_facts(tier: &OssTier) {
    let client = tier.client();
    tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.unwrap();
    assert_eq!(client.get_object_meta("a").await.unwrap().0, 1);
    let tags = vec![("k<".to_owned(), "v&1".to_owned()), ("empty".to_owned(), String::new())];
    client.put_object_tagging("a", &tags).await.unwrap();
    let mut got = client.get_object_tagging("a").await.unwrap();
    got.sort();
    assert_eq!(got, [tags[1].clone(), tags[0].clone()]);
    client.delete_object_tagging("a").await.unwrap();
    assert!(client.get_object_tagging("a").await.unwrap().is_empty());
    assert_eq!(client.bucket_lifecycle().await.unwrap(), None);
    let rules = "<LifecycleConfiguration><Rule><ID>r</ID><Prefix>x/</Prefix><Status>Enabled</Status>\
                 <AbortMultipartUpload><Days>3</Days></AbortMultipartUpload></Rule></LifecycleConfiguration>";
    client.put_bucket_lifecycle(rules).await.unwrap();
    assert!(client.bucket_lifecycle().await.unwrap().unwrap().contains("<Days>3</Days>"));
    let info = client.bucket_info().await.unwrap();
    assert_eq!((info.name.as_str(), info.storage_class.as_str()), (BUCKET, "Standard"));
}

#[tokio::test]
async fn presigned_urls_read_and_write_until_they_expire() {
    for signature in [SignatureVersion::V4, SignatureVersion::V1] {
        let sim = simulator().await;
        let mut settings = settings(&sim.endpoint(), StorageClass::IA);
        settings.signature = signature;
        let tier = build(&settings, None);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let name = "p +%ü";
        let (url, headers) = tier.client().presign_put(name, Duration::from_secs(60)).await.unwrap();
        let mut put = http.put(url).body("by url");
        for (name, value) in headers {
            put = put.header(name, value);
        }
        assert_eq!(put.send().await.unwrap().status(), 200, "{signature:?}");
        let url = tier.client().presign_get(name, Duration::from_secs(60)).await.unwrap();
        assert_eq!(http.get(&url).send().await.unwrap().text().await.unwrap(), "by url");
        assert_eq!(tier.head(name).await.unwrap().class.as_deref(), Some("IA"));
        sim.advance_seconds(120);
        assert_eq!(http.get(&url).send().await.unwrap().status(), 403);
    }
}

#[tokio::test]
async fn a_download_that_nobody_finishes_gives_its_place_back() {
    let sim = simulator().await;
    let mut settings = settings(&sim.endpoint(), StorageClass::IA);
    settings.concurrency = 1;
    let tier = build(&settings, None);
    tier.put("a", Arc::new(SeededBody { seed: 1, len: 900_000 })).await.unwrap();
    for _ in 0..3 {
        let mut stream = tier.get("a", 0..900_000).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
    }
    assert_eq!(tier.head("a").await.unwrap().size, 900_000);
}
