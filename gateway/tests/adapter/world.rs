//! The real S3 over a real engine, with an archive tier that thaws at once.

use crate::support::*;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_gateway::server::{S3Server, S3Settings};
use tidegate_tiering::clock::{SystemClock, Timestamp};
use tidegate_tiering::engine::{Components, Engine, EngineSettings};
use tidegate_tiering::tier::memory::MemoryTier;
use tidegate_tiering::tier::{
    BodySource, Capabilities, PutReceipt, RemoteMeta, RestorePriority, RestoreReceipt, RestoreState, Tier, TierError,
};
use tokio::sync::oneshot;

/// Objects in memory that have to be asked for before they can be read.
#[derive(Debug)]
struct Archive {
    inner: MemoryTier,
    thawed: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Tier for Archive {
    fn capabilities(&self) -> Capabilities {
        Capabilities { online: false, restore: true, ..self.inner.capabilities() }
    }
    async fn put(&self, name: &str, body: Arc<dyn BodySource>) -> Result<PutReceipt, TierError> {
        self.inner.put(name, body).await
    }
    async fn get(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, TierError>>, TierError> {
        self.inner.get(name, range).await
    }
    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError> {
        let restore = match self.thawed.lock().unwrap().contains(name) {
            true => RestoreState::Restored { until: Timestamp(u64::MAX / 4) },
            false => RestoreState::None,
        };
        Ok(RemoteMeta { restore, ..self.inner.head(name).await? })
    }
    async fn delete(&self, name: &str) -> Result<(), TierError> {
        self.inner.delete(name).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        self.inner.list(prefix, start_after, max).await
    }
    async fn restore(&self, name: &str, _: u32, _: RestorePriority) -> Result<RestoreReceipt, TierError> {
        self.thawed.lock().unwrap().insert(name.to_owned());
        Ok(RestoreReceipt::Started)
    }
}

const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: test }
tiers:
  - name: archive
rules:
  - id: end
    filter: { bucket: bucket, prefix: never/ }
    expiration: { after: 5d, since: creation }
";

/// A server with the bucket `bucket`.
pub struct World {
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

/// Starts a server; needs a runtime of several threads.
pub async fn world() -> World {
    world_with(settings()).await
}

/// As [`world`], with other settings.
pub async fn world_with(settings: S3Settings) -> World {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = EngineSettings { data_dir: folder.path().to_owned(), ..Default::default() };
    engine.disk.free_floor = 0;
    engine.tiering.poll_ms = 5;
    engine.tiering.thaw_poll_ms = 5;
    engine.tiering.linger_ms = 0;
    engine.limits.min_part_bytes = 1;
    let archive = Archive { inner: MemoryTier::new().unwrap(), thawed: Mutex::default() };
    let registry = prometheus::Registry::new();
    let components = Components {
        clock: Arc::new(SystemClock::default()),
        tiers: BTreeMap::from([("archive".to_owned(), Arc::new(archive) as Arc<dyn Tier>)]),
        classes: [("STANDARD", "hot"), ("GLACIER", "archive")].map(|(c, t)| (c.to_owned(), t.to_owned())).into(),
        policy: tidegate_policies::parse("policy.yaml", POLICY).unwrap(),
        policy_text: POLICY.to_owned(),
        registry: registry.clone(),
    };
    let engine = Engine::open(engine, components).await.unwrap();
    engine.create_bucket("bucket").await.unwrap();
    let server = S3Server::bind(settings, engine, &registry).unwrap();
    let address = server.local_addr();
    let (stop, _) = serve(server);
    World { address, _folder: folder, _stop: stop }
}

impl World {
    pub fn signer<'a>(&self, host: &'a str, payload: &'a str) -> Signer<'a> {
        Signer { host, secret: "SK", payload, signed: &[] }
    }

    /// One request with an unsigned payload, on a connection of its own.
    pub async fn send(&self, method: &str, target: &str, extra: &[(&str, &str)], body: &[u8]) -> Response {
        let length = body.len().to_string();
        let mut extra = extra.to_vec();
        if method != "GET" && method != "HEAD" {
            extra.push(("Content-Length", &length));
        }
        let head = sign(&self.address.to_string(), method, target, &extra, "SK");
        exchange_at(self.address, &head, body).await
    }

    /// Repeats a request until its answer is what is waited for.
    pub async fn until(&self, method: &str, target: &str, holds: impl Fn(&Response) -> bool) -> Response {
        let asked = async {
            loop {
                let answer = self.send(method, target, &[], b"").await;
                if holds(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it did not happen")
    }
}
