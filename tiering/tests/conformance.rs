//! The conformance recorder against the simulator: the answers that ship with the program are the simulator's, however the
//! tier is addressed and signed; a store that answers otherwise is found out; nothing is left behind.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

use oss_sim::{Class, Fault, FaultPlan, FaultRule, OssSim, Policy};
use std::collections::BTreeSet;
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::tier::Tier;
use tidegate_tiering::tier::oss::conformance::{Conformance, ConformanceRecord, ConformanceReport, Outcome};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, RamPolicy, RamPurpose, SignatureVersion, StorageClass};
use tidegate_tiering::tier::secret::Secret;

const BUCKET: &str = "cold-bucket";
const OTHER: &str = "other-bucket";
const SECRET: &str = "very-secret-key-of-a-test";

async fn simulator(seed: u64) -> oss_sim::Running {
    OssSim::builder()
        .bucket(BUCKET, Class::Standard)
        .bucket(OTHER, Class::IA)
        .cname("localhost", BUCKET)
        .access_key("ak", SECRET)
        .seed(seed)
        .start()
        .await
        .unwrap()
}

fn settings(endpoint: &str) -> OssSettings {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", BUCKET);
    settings.prefix = "tide/x y".into();
    settings.max_attempts = 2;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new(SECRET),
        security_token: None,
    };
    settings
}

async fn run(settings: &OssSettings) -> (ConformanceReport, ConformanceRecord) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let conformance = Conformance::new("cold", settings, clock, &|_| None).unwrap();
    conformance.run(std::future::pending()).await
}

fn different(report: &ConformanceReport) -> Vec<String> {
    report.steps.iter().filter(|s| s.outcome == Outcome::Different).map(|s| s.step.clone()).collect()
}

#[tokio::test]
async fn the_answers_that_ship_with_the_program_are_those_of_the_simulator() {
    let sim = simulator(1).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let conformance = Conformance::new("cold", &settings(&sim.endpoint()), clock, &|_| None).unwrap();
    let plan = conformance.plan();
    let (_, record) = conformance.run(std::future::pending()).await;
    let asked: u64 = sim.requests().iter().map(|r| r.count).sum();
    assert_eq!(asked, plan.requests, "what is announced is what is done");
    let names: BTreeSet<&str> = record.steps.iter().map(|s| s.step.as_str()).collect();
    assert_eq!(names.len(), record.steps.len(), "names of steps are their identity");
    let mut fresh = serde_json::to_string_pretty(&record.without_raw()).unwrap();
    fresh.push('\n');
    let shipped = include_str!("../src/tier/oss/conformance/expected.json");
    if fresh != shipped {
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("expected.json");
        std::fs::write(&file, &fresh).unwrap();
        panic!(
            "the simulator answers otherwise than tiering/src/tier/oss/conformance/expected.json says. Look at the \
             difference, and when the simulator is right: cp {} tiering/src/tier/oss/conformance/expected.json",
            file.display()
        );
    }
}

#[tokio::test]
async fn the_answers_do_not_depend_on_seed_signature_address_class_or_bucket() {
    let sim = simulator(7).await;
    type Change<'a> = (&'a str, Box<dyn Fn(&mut OssSettings)>);
    let domain = format!("http://localhost:{}", sim.addr().port());
    let proxy = sim.endpoint();
    let changes: [Change<'_>; 6] = [
        ("nothing", Box::new(|_| ())),
        ("signature v1", Box::new(|s| s.signature = SignatureVersion::V1)),
        (
            "a domain",
            Box::new(move |s| {
                s.endpoint.clone_from(&domain);
                s.cname = true;
            }),
        ),
        (
            "virtual hosts",
            Box::new(move |s| {
                s.endpoint = "http://oss-cn-hangzhou.aliyuncs.com".into();
                s.proxy = Some(Secret::new(proxy.clone()));
            }),
        ),
        (
            "an archive class and no prefix",
            Box::new(|s| {
                s.storage_class = StorageClass::Archive;
                s.prefix = String::new();
            }),
        ),
        ("another bucket", Box::new(|s| s.bucket = OTHER.into())),
    ];
    for (what, change) in changes {
        let mut settings = settings(&sim.endpoint());
        change(&mut settings);
        let (report, record) = run(&settings).await;
        assert!(report.ok, "{what}: {:?} {:?} {:?}", different(&report), report.cleanup, report.error);
        let skipped = usize::from(settings.signature == SignatureVersion::V1);
        assert_eq!((report.skipped, report.same), (skipped, record.steps.len()), "{what}");
        for bucket in [BUCKET, OTHER] {
            assert!(sim.objects(bucket).is_empty(), "{what}: nothing is left");
        }
    }
}

#[tokio::test]
async fn a_store_that_answers_otherwise_is_found_out_and_cleaned_all_the_same() {
    let sim = simulator(1).await;
    let broken = |op: &str, status, code: &str| {
        FaultRule::new(Fault::Error { status, code: code.into(), qos_delay_ms: None }).op(op)
    };
    sim.set_faults(FaultPlan { seed: 1, rules: vec![broken("RestoreObject", 500, "InternalError")] });
    let (report, _) = run(&settings(&sim.endpoint())).await;
    assert!(!report.ok && report.error.is_none());
    let expected = [
        "restore-standard-object",
        "restore-missing",
        "archive-restore-too-long",
        "archive-restore",
        "archive-head-restoring",
        "archive-restore-again",
        "archive-clean-restoring",
        "cold-restore-unknown-tier",
        "cold-restore-glacier-node",
        "cold-restore-bulk",
        "cold-head-restoring",
        "cold-restore-again",
        "cold-restore-raise",
    ];
    assert_eq!(different(&report), expected);
    let step = report.steps.iter().find(|s| s.step == "archive-restore").unwrap();
    let status = step.differences.iter().find(|d| d.what == "status").unwrap();
    assert_eq!((status.simulator.as_str(), status.store.as_str()), ("202", "500"));
    sim.set_faults(FaultPlan { seed: 1, rules: vec![broken("InitiateMultipartUpload", 503, "ServiceUnavailable")] });
    let (report, _) = run(&settings(&sim.endpoint())).await;
    assert_eq!(different(&report), ["initiate", "initiate-small", "initiate-copied"]);
    assert!(report.skipped > 10, "what needs an upload is not asked: {}", report.skipped);
    sim.clear_faults();
    assert!(sim.objects(BUCKET).is_empty(), "nothing is left");
}

#[tokio::test]
async fn a_flipped_byte_and_a_torn_answer_are_differences_too() {
    let sim = simulator(1).await;
    let flip = FaultRule::new(Fault::Flip).op("GetObject").key_prefix("tide/x y/tidegate-conformance/");
    sim.set_faults(FaultPlan { seed: 1, rules: vec![flip] });
    let (report, _) = run(&settings(&sim.endpoint())).await;
    assert!(different(&report).contains(&"get".to_owned()), "{:?}", different(&report));
    assert!(!different(&report).contains(&"head".to_owned()));
}

#[tokio::test]
async fn a_run_that_is_stopped_or_cut_off_leaves_nothing() {
    let sim = simulator(1).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut slow = settings(&sim.endpoint());
    slow.max_attempts = 1;
    // Stopped in the middle of an upload in parts.
    sim.set_faults(FaultPlan {
        seed: 1,
        rules: vec![FaultRule::new(Fault::Slow { delay_ms: 60_000 }).op("ListParts")],
    });
    let conformance = Conformance::new("cold", &slow, clock, &|_| None).unwrap();
    let asked = || sim.requests().iter().any(|r| r.operation == "UploadPart" && r.count >= 2);
    let stop = async {
        while !asked() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (report, _) = conformance.run(stop).await;
    assert!(!report.ok && report.error.as_deref().unwrap().contains("stopped"), "{:?}", report.error);
    assert_eq!(report.cleanup.aborted, 1, "{:?}", report.cleanup);
    assert!(sim.objects(BUCKET).is_empty(), "nothing is left");
    // Cut off: the connection breaks for good in the middle.
    let reset = FaultRule::new(Fault::ResetBefore).op("ListParts");
    sim.set_faults(FaultPlan { seed: 1, rules: vec![reset] });
    let (report, _) = run(&slow).await;
    assert!(!report.ok && report.error.as_deref().unwrap().contains("ListParts"), "{:?}", report.error);
    assert!(sim.objects(BUCKET).is_empty(), "nothing is left");
}

#[tokio::test]
async fn in_a_bucket_that_keeps_versions_none_of_the_run_stays_and_none_of_others_goes() {
    let sim = simulator(1).await;
    let other = settings(&sim.endpoint());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let metrics = tidegate_tiering::tier::TierMetrics::new("o", None).unwrap();
    let owner = tidegate_tiering::tier::oss::OssTier::new("o", &other, clock, &|_| None, metrics).unwrap();
    sim.keep_versions(BUCKET);
    for body in ["one", "two"] {
        owner.put("pack", Arc::new(bytes::Bytes::from_static(body.as_bytes()))).await.unwrap();
    }
    owner.client().delete_object("pack").await.unwrap();
    let theirs = |sim: &oss_sim::Running| -> Vec<(String, String)> {
        sim.objects(BUCKET).into_iter().map(|o| (o.key, o.version_id)).collect()
    };
    let before = theirs(&sim);
    assert_eq!(before.len(), 3, "two versions and a marker");
    let (report, _) = run(&other).await;
    assert_eq!(theirs(&sim), before);
    assert!(report.cleanup.versions > 20 && report.cleanup.errors.is_empty(), "{:?}", report.cleanup);
    assert!(report.warnings.iter().any(|w| w.contains("versioning of the bucket is Enabled")), "{:?}", report.warnings);
    let put = report.steps.iter().find(|s| s.step == "put").unwrap();
    let told: Vec<&str> = put.differences.iter().map(|d| d.store.as_str()).collect();
    assert_eq!(told, ["{version}"], "versions are what is different, not their ids");
}

#[tokio::test]
async fn what_can_be_neither_deleted_nor_listed_is_named() {
    let sim = simulator(1).await;
    let broken = |op: &str| {
        FaultRule::new(Fault::Error { status: 500, code: "InternalError".into(), qos_delay_ms: None }).op(op)
    };
    let rules = ["DeleteObject", "DeleteMultipleObjects", "ListObjectsV2"].map(broken);
    sim.set_faults(FaultPlan { seed: 1, rules: rules.to_vec() });
    let mut settings = settings(&sim.endpoint());
    settings.max_attempts = 1;
    let (report, _) = run(&settings).await;
    assert!(!report.ok && !report.cleanup.errors.is_empty());
    for object in sim.objects(BUCKET) {
        assert!(report.cleanup.left.contains(&object.key), "{} is not named: {:?}", object.key, report.cleanup.left);
    }
}

#[tokio::test]
async fn no_key_outside_of_the_runs_folder_is_asked_for_or_deleted() {
    let sim = simulator(1).await;
    let beside = OssSettings { prefix: String::new(), ..settings(&sim.endpoint()) };
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let metrics = tidegate_tiering::tier::TierMetrics::new("o", None).unwrap();
    let owner = tidegate_tiering::tier::oss::OssTier::new("o", &beside, clock, &|_| None, metrics).unwrap();
    for name in ["tide/x y/pack", "tide/x y/tidegate-conformance/1-00", "tidegate-conformance/x"] {
        let (url, headers) = owner.client().presign_put(name, std::time::Duration::from_secs(60)).await.unwrap();
        let put = headers.iter().fold(http.put(url).body("theirs"), |put, (name, value)| put.header(name, value));
        assert!(put.send().await.unwrap().status().is_success());
    }
    let (report, record) = run(&settings(&sim.endpoint())).await;
    assert!(report.ok, "{:?}", different(&report));
    let left: Vec<String> = sim.objects(BUCKET).into_iter().map(|o| o.key).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    for step in &record.steps {
        let name = step.request.split(' ').nth(1).unwrap();
        assert!(name.starts_with("{prefix}") || name.starts_with("(bucket)"), "{}", step.request);
    }
}

#[tokio::test]
async fn a_record_keeps_the_answers_and_no_secret() {
    let sim = simulator(1).await;
    let mut temporary = settings(&sim.endpoint());
    sim.sim().put_key(oss_sim::AccessKey {
        id: "temporary".into(),
        secret: SECRET.into(),
        token: Some("hush-hush-token".into()),
        expires: None,
    });
    temporary.credentials = CredentialsSpec::Static {
        access_key_id: "temporary".into(),
        access_key_secret: Secret::new(SECRET),
        security_token: Some(Secret::new("hush-hush-token")),
    };
    let (report, record) = run(&temporary).await;
    assert!(report.ok, "{:?}", different(&report));
    let text = serde_json::to_string(&record).unwrap();
    assert!(text.contains("x-oss-request-id") && text.contains("<ListBucketResult"), "the answers are there");
    let hex: Vec<String> = "hush-hush-token".bytes().map(|b| format!("{b:02X}")).collect();
    for secret in [SECRET, "hush-hush-token", &hex.join(" ")] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn the_policy_for_a_run_is_enough_for_it_and_the_least() {
    let sim = simulator(1).await;
    let settings = settings(&sim.endpoint());
    let policy = RamPolicy::least(&settings, &[RamPurpose::Conformance]).unwrap();
    let set = |value: &serde_json::Value| {
        sim.sim().set_policy("ak", Some(Policy::parse(&value.to_string()).unwrap()));
    };
    let whole = serde_json::to_value(&policy).unwrap();
    set(&whole);
    let (report, _) = run(&settings).await;
    assert!(report.ok && report.warnings.is_empty(), "{:?} {:?}", different(&report), report.warnings);
    for action in policy.actions() {
        let mut less = whole.clone();
        for statement in less["Statement"].as_array_mut().unwrap() {
            statement["Action"].as_array_mut().unwrap().retain(|a| a != action);
        }
        set(&less);
        let (report, _) = run(&settings).await;
        let told = !different(&report).is_empty() || !report.warnings.is_empty();
        assert!(told && !(report.ok && report.warnings.is_empty()), "without {action} all is the same");
        sim.sim().set_policy("ak", None);
        for object in sim.objects(BUCKET).iter().filter(|object| object.key.starts_with(&report.prefix)) {
            // Without the right to delete, a run cannot clean up, and says so.
            assert!(report.cleanup.left.contains(&object.key) || !report.cleanup.errors.is_empty(), "{action}");
        }
    }
}
