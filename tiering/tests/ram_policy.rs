//! The generated RAM policy is enough for everything that is done with a tier, and the least: without any one of its
//! actions, something named fails. The simulator decides by a table of its own which request needs which action.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

use bytes::Bytes;
use oss_sim::{Class, Fault, FaultPlan, FaultRule, OssSim, Policy};
use prometheus::Registry;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidegate_tiering::clock::{Clock, SystemClock};
use tidegate_tiering::tier::contract::{SeededBody, read};
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, RamPolicy, RamPurpose, StorageClass, operations_of};
use tidegate_tiering::tier::probe::probe;
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{RestorePriority, Tier, TierErrorKind, TierMetrics};

const BUCKET: &str = "cold-bucket";
/// Above the threshold of [`settings`].
const LARGE: SeededBody = SeededBody { seed: 3, len: 700 << 10 };
const SMALL: SeededBody = SeededBody { seed: 4, len: 10_000 };
const PURPOSES: &[RamPurpose] = &[RamPurpose::Engine, RamPurpose::Probe];

fn settings(endpoint: &str, key: &str, class: StorageClass) -> OssSettings {
    let mut settings = OssSettings::new(endpoint, "cn-hangzhou", BUCKET);
    settings.prefix = "tide/x".into();
    settings.storage_class = class;
    settings.part_size_bytes = 256 << 10;
    settings.multipart_threshold_bytes = 512 << 10;
    settings.max_attempts = 1;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: key.into(),
        access_key_secret: Secret::new("sk"),
        security_token: None,
    };
    settings
}

/// A bucket, a tier whose key has a policy, and one whose key may do everything.
struct World {
    sim: oss_sim::Running,
    class: StorageClass,
    registry: Registry,
    limited: OssTier,
    owner: OssTier,
}

impl World {
    async fn new(class: StorageClass) -> Self {
        let sim = OssSim::builder()
            .bucket(BUCKET, Class::Standard)
            .access_key("owner", "sk")
            .access_key("limited", "sk")
            .start()
            .await
            .unwrap();
        let registry = Registry::new();
        let tier = |key: &str, registry: Option<&Registry>| {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
            let metrics = TierMetrics::new(key, registry).unwrap();
            OssTier::new(key, &settings(&sim.endpoint(), key, class), clock, &|_| None, metrics).unwrap()
        };
        let (limited, owner) = (tier("limited", Some(&registry)), tier("owner", None));
        Self { sim, class, registry, limited, owner }
    }

    fn policy(&self) -> Value {
        let policy = RamPolicy::least(&settings("http://127.0.0.1", "limited", self.class), PURPOSES).unwrap();
        serde_json::to_value(policy).unwrap()
    }

    fn set(&self, policy: &Value) {
        self.sim.sim().set_policy("limited", Some(Policy::parse(&policy.to_string()).unwrap()));
    }

    /// What the engine and the probe do with a tier, by name; each step stands for itself, on objects that the owner made.
    async fn failing(&self) -> Vec<&'static str> {
        let mut failed = Vec::new();
        let mut step = |name: &'static str, result: Result<(), String>| {
            if let Err(why) = result {
                println!("    {name}: {why}");
                failed.push(name);
            }
        };
        step("write", self.limited.put("small", Arc::new(SMALL)).await.map(|_| ()).map_err(|e| e.to_string()));
        step("write in parts", self.limited.put("large", Arc::new(LARGE)).await.map(|_| ()).map_err(|e| e.to_string()));
        step("abort a failed upload", self.failed_upload().await);
        step("look", self.look().await);
        if self.class.is_archive() {
            step("restore", self.restore().await);
        }
        step("read", self.read().await);
        step("delete", self.delete().await);
        step("delete an unfinished upload", self.delete_unfinished().await);
        step("list for a check", self.limited.list("packs/", None, 10).await.map(|_| ()).map_err(|e| e.to_string()));
        let report = probe(&self.limited, &SystemClock::default()).await;
        step("probe", if report.ok { Ok(()) } else { Err(format!("{:?}", report.steps)) });
        failed
    }

    async fn failed_upload(&self) -> Result<(), String> {
        let broken = Fault::Error { status: 500, code: "InternalError".into(), qos_delay_ms: None };
        self.sim.set_faults(FaultPlan { seed: 1, rules: vec![FaultRule::new(broken).op("UploadPart")] });
        let result = self.limited.put("broken", Arc::new(LARGE)).await;
        self.sim.clear_faults();
        match result {
            Err(error) if error.kind() == TierErrorKind::Unavailable => {}
            other => return Err(format!("the upload did not fail as planned: {other:?}")),
        }
        let left = self.owner.client().list_uploads("broken").await.unwrap();
        for upload in &left {
            self.owner.client().abort_multipart("broken", &upload.upload_id).await.unwrap();
        }
        if left.is_empty() { Ok(()) } else { Err("the upload is still there".to_owned()) }
    }

    async fn look(&self) -> Result<(), String> {
        self.owner.put("look", Arc::new(SMALL)).await.unwrap();
        self.limited.head("look").await.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn restore(&self) -> Result<(), String> {
        self.owner.put("restore", Arc::new(SMALL)).await.unwrap();
        self.limited.restore("restore", 1, RestorePriority::Standard).await.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn read(&self) -> Result<(), String> {
        self.owner.put("read", Arc::new(SMALL)).await.unwrap();
        self.owner.restore("read", 1, RestorePriority::Standard).await.unwrap();
        self.sim.advance_seconds(300);
        let got = read(&self.limited, "read", 100..200).await.map_err(|e| e.to_string())?;
        assert_eq!(got, SMALL.bytes(100..200));
        Ok(())
    }

    async fn delete(&self) -> Result<(), String> {
        self.owner.put("delete", Arc::new(SMALL)).await.unwrap();
        self.limited.delete("delete").await.map_err(|e| e.to_string())
    }

    async fn delete_unfinished(&self) -> Result<(), String> {
        let id = self.owner.client().initiate_multipart("open").await.unwrap();
        let result = self.limited.delete("open").await.map_err(|e| e.to_string());
        if result.is_err() {
            self.owner.client().abort_multipart("open", &id).await.unwrap();
        }
        result
    }
}

/// What fails without `action`, and nothing else does.
fn expected(action: &str, archive: bool) -> Vec<&'static str> {
    match action {
        "oss:PutObject" => vec!["write", "write in parts", "abort a failed upload", "probe"],
        "oss:GetObject" => vec!["look", "read", "probe"],
        "oss:DeleteObject" => vec!["delete", "delete an unfinished upload", "probe"],
        "oss:RestoreObject" if archive => vec!["restore", "probe"],
        "oss:AbortMultipartUpload" => vec!["abort a failed upload", "delete an unfinished upload"],
        "oss:ListMultipartUploads" => vec!["delete", "delete an unfinished upload", "probe"],
        "oss:ListObjects" => vec!["list for a check", "probe"],
        other => panic!("nobody knows what {other} is for (archive: {archive})"),
    }
}

fn without(policy: &Value, action: &str) -> Value {
    let mut policy = policy.clone();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        statement["Action"].as_array_mut().unwrap().retain(|a| a != action);
    }
    policy
}

/// Operations that the limited key sent requests for.
fn asked(registry: &Registry) -> BTreeSet<String> {
    let families = registry.gather();
    let requests = families.iter().find(|f| f.name() == "tidegate_tier_requests_total").unwrap();
    let operation = |m: &prometheus::proto::Metric| {
        m.get_label().iter().find(|l| l.name() == "operation").unwrap().value().to_owned()
    };
    requests.get_metric().iter().filter(|m| m.get_counter().get_value() > 0.0).map(operation).collect()
}

#[tokio::test]
async fn with_the_generated_policy_all_works_and_without_any_one_action_something_fails() {
    for class in [StorageClass::IA, StorageClass::Archive] {
        let world = World::new(class).await;
        let policy = world.policy();
        world.set(&policy);
        assert_eq!(world.failing().await, [""; 0], "{class:?}: the whole policy is enough");
        let actions = RamPolicy::least(&settings("http://127.0.0.1", "limited", class), PURPOSES).unwrap().actions();
        assert!(actions.len() >= 6, "{actions:?}");
        for action in actions {
            println!("{class:?} without {action}");
            world.set(&without(&policy, action));
            assert_eq!(world.failing().await, expected(action, class.is_archive()), "{class:?} without {action}");
        }
    }
}

#[tokio::test]
async fn on_a_bucket_that_keeps_versions_two_more_actions_are_needed_and_each_is() {
    let purposes = [PURPOSES, &[RamPurpose::Versions]].concat();
    let policy = RamPolicy::least(&settings("http://127.0.0.1", "limited", StorageClass::IA), &purposes).unwrap();
    let policy = serde_json::to_value(policy).unwrap();
    for (without_action, by_version, unknown) in
        [("", true, true), ("oss:DeleteObjectVersion", false, false), ("oss:ListObjectVersions", true, false)]
    {
        let world = World::new(StorageClass::IA).await;
        world.sim.keep_versions(BUCKET);
        world.set(&without(&policy, without_action));
        let version = world.limited.put("known", Arc::new(SMALL)).await.unwrap().version_id.unwrap();
        world.owner.put("unknown", Arc::new(SMALL)).await.unwrap();
        let of = |result: Result<(), tidegate_tiering::tier::TierError>| match result {
            Ok(()) => true,
            Err(error) if error.kind() == TierErrorKind::Denied => false,
            Err(error) => panic!("{error}"),
        };
        let found =
            (of(world.limited.delete_version("known", &version).await), of(world.limited.delete("unknown").await));
        assert_eq!(found, (by_version, unknown), "without {without_action:?}");
        let left = world.sim.objects(BUCKET).iter().filter(|o| !o.delete_marker).count();
        assert_eq!(left, usize::from(!by_version) + usize::from(!unknown), "without {without_action:?}");
    }
}

#[tokio::test]
async fn the_policy_is_made_of_the_operations_that_are_really_used() {
    let world = World::new(StorageClass::Archive).await;
    world.set(&world.policy());
    assert!(world.failing().await.is_empty());
    let said: BTreeSet<String> =
        PURPOSES.iter().flat_map(|purpose| operations_of(*purpose)).map(str::to_owned).collect();
    // A read of an archive tier that a probe makes is refused, but asked for: GetObject is among both.
    assert_eq!(asked(&world.registry), said);
}

#[tokio::test]
async fn what_is_outside_of_the_prefix_is_out_of_reach() {
    let world = World::new(StorageClass::IA).await;
    world.set(&world.policy());
    let mut beside = settings(&world.sim.endpoint(), "limited", StorageClass::IA);
    beside.prefix = "tide/xy".into();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let metrics = TierMetrics::new("beside", None).unwrap();
    let tier = OssTier::new("beside", &beside, clock, &|_| None, metrics).unwrap();
    let error = tier.put("a", Arc::new(Bytes::from_static(b"x"))).await.unwrap_err();
    assert_eq!((error.kind(), error.details().code.as_str()), (TierErrorKind::Denied, "AccessDenied"));
    assert_eq!(error.details().ec, "0003-00000001");
}

#[test]
fn the_policy_in_the_documentation_is_the_generated_one() {
    let text = include_str!("../../docs/oss.md");
    let section = text.split_once("\n## Permissions\n").unwrap().1;
    let block = section.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    let mut settings = OssSettings::new("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", "example-cold");
    settings.prefix = "tidegate/archive".into();
    settings.storage_class = StorageClass::Archive;
    let policy = RamPolicy::least(&settings, PURPOSES).unwrap();
    assert_eq!(block.trim_end(), serde_json::to_string_pretty(&policy).unwrap());
}
