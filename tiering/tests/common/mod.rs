//! An engine on a temporary directory, with a clock that the test moves and a tier in memory or in a directory.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::clock::{ManualClock, Timestamp};
use tidegate_tiering::engine::{
    BodyExpectation, BodyIn, Components, Engine, EngineError, EngineSettings, ObjectAttributes, PutObject, Residency,
    WriteCondition, Written,
};
use tidegate_tiering::tier::Tier;

pub const T0: Timestamp = Timestamp(1_800_000_000_000);
pub const DAY: Duration = Duration::from_secs(86_400);

pub const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: test }
tiers:
  - name: ia
rules:
  - id: cool
    filter: { bucket: bkt, prefix: cold/ }
    transitions:
      - { to: ia, after: 30d, since: creation }
  - id: end
    filter: { bucket: bkt, prefix: short/ }
    expiration: { after: 5d, since: creation }
    abortIncompleteMultipartUpload: { after: 7d }
";

pub struct Bed {
    pub dir: PathBuf,
    pub clock: Arc<ManualClock>,
    pub tier: Arc<dyn Tier>,
    pub policy: String,
    pub settings: EngineSettings,
}

impl Bed {
    pub fn new(dir: &Path, tier: Arc<dyn Tier>) -> Self {
        let mut settings = EngineSettings { data_dir: dir.to_owned(), ..Default::default() };
        settings.tiering.poll_ms = 10;
        settings.tiering.gc_interval_ms = 0;
        settings.disk.free_floor = 0;
        let clock = Arc::new(ManualClock::new(T0));
        Self { dir: dir.to_owned(), clock, tier, policy: POLICY.to_owned(), settings }
    }

    pub async fn open(&self) -> Engine {
        self.try_open().await.unwrap()
    }

    pub async fn try_open(&self) -> Result<Engine, EngineError> {
        let policy = tidegate_policies::parse("policy.yaml", &self.policy)
            .unwrap_or_else(|d| panic!("{}", d.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n")));
        let classes = [("STANDARD", "hot"), ("STANDARD_IA", "ia"), ("GLACIER", "archive")];
        let components = Components {
            clock: Arc::clone(&self.clock) as _,
            tiers: BTreeMap::from([("ia".to_owned(), Arc::clone(&self.tier))]),
            classes: classes.iter().map(|(c, t)| ((*c).to_owned(), (*t).to_owned())).collect(),
            policy,
            policy_text: self.policy.clone(),
            registry: prometheus::Registry::new(),
        };
        Engine::open(self.settings.clone(), components).await
    }
}

pub fn body(bytes: &[u8]) -> BodyIn {
    // In uneven pieces, as a connection would give them.
    let pieces: Vec<_> = bytes.chunks(50_001).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    futures::stream::iter(pieces).boxed()
}

pub async fn put(engine: &Engine, key: &str, bytes: &[u8]) -> Result<Written, EngineError> {
    put_class(engine, key, bytes, None).await
}

pub async fn put_class(engine: &Engine, key: &str, bytes: &[u8], class: Option<&str>) -> Result<Written, EngineError> {
    let put = PutObject {
        bucket: "bkt".into(),
        key: key.into(),
        attributes: ObjectAttributes { storage_class: class.map(str::to_owned), ..Default::default() },
        expect: BodyExpectation { length: Some(bytes.len() as u64), ..Default::default() },
        condition: WriteCondition::default(),
    };
    engine.put_object(put, body(bytes)).await
}

pub async fn get(engine: &Engine, key: &str) -> Result<Vec<u8>, EngineError> {
    let handle = engine.open_object("bkt", key)?;
    let size = handle.info().size;
    read(handle.read(0..size).await?).await
}

pub async fn read(mut stream: tidegate_tiering::engine::BodyOut) -> Result<Vec<u8>, EngineError> {
    let mut out = Vec::new();
    while let Some(piece) = stream.next().await {
        out.extend_from_slice(&piece?);
    }
    Ok(out)
}

/// Waits for a condition; the engine's own work makes it true.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "gave up waiting until {what}");
}

pub fn residency(engine: &Engine, key: &str) -> Option<Residency> {
    engine.open_object("bkt", key).ok().map(|h| h.info().residency.clone())
}

/// Bytes that are their own and do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}
