//! An engine on a temporary directory, with a clock that the test moves and a tier in memory or in a directory.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its part

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, ManualClock, Timestamp};
use tidegate_tiering::engine::{
    BodyExpectation, BodyIn, ChecksumAlgorithm, CompleteUpload, CompletedPart, Components, CopyObject, CreateUpload,
    DeleteRequest, Deleted, Engine, EngineError, EngineSettings, GcRequest, ListObjects, ListedObject,
    ObjectAttributes, PutObject, Residency, UploadPart, WriteCondition, Written,
};
use tidegate_tiering::pack::format::{FRAME_HEADER_LEN, FooterEntry};
use tidegate_tiering::pack::{PackId, reader::scan};
use tidegate_tiering::tier::{
    BodySource, Capabilities, PutReceipt, RemoteMeta, RestorePriority, RestoreReceipt, RestoreState, Tier, TierError,
    TierErrorKind,
};

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
    /// Tiers besides `ia`.
    pub others: BTreeMap<String, Arc<dyn Tier>>,
    pub policy: String,
    pub settings: EngineSettings,
    /// The metrics of the engine that was opened last.
    pub registry: Mutex<prometheus::Registry>,
}

impl Bed {
    pub fn new(dir: &Path, tier: Arc<dyn Tier>) -> Self {
        let mut settings = EngineSettings { data_dir: dir.to_owned(), ..Default::default() };
        settings.tiering.poll_ms = 10;
        settings.tiering.gc_interval_ms = 0;
        settings.disk.free_floor = 0;
        let clock = Arc::new(ManualClock::new(T0));
        let (dir, others, policy) = (dir.to_owned(), BTreeMap::new(), POLICY.to_owned());
        Self { dir, clock, tier, others, policy, settings, registry: Mutex::default() }
    }

    /// The value of a metric, summed over its labels; with `label`, of those that have this label's value.
    pub fn metric(&self, name: &str, label: Option<&str>) -> f64 {
        let families = self.registry.lock().unwrap().gather();
        let metrics = families.iter().filter(|f| f.name() == name).flat_map(|f| f.get_metric());
        let wanted = metrics.filter(|m| label.is_none_or(|l| m.get_label().iter().any(|pair| pair.value() == l)));
        wanted.map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }

    pub async fn open(&self) -> Engine {
        self.try_open().await.unwrap()
    }

    pub async fn try_open(&self) -> Result<Engine, EngineError> {
        let policy = tidegate_policies::parse("policy.yaml", &self.policy)
            .unwrap_or_else(|d| panic!("{}", d.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n")));
        let classes = [("STANDARD", "hot"), ("STANDARD_IA", "ia"), ("GLACIER", "archive"), ("DEEP_ARCHIVE", "deep")];
        let mut tiers = self.others.clone();
        tiers.insert("ia".to_owned(), Arc::clone(&self.tier));
        let registry = prometheus::Registry::new();
        *self.registry.lock().unwrap() = registry.clone();
        let components = Components {
            clock: Arc::clone(&self.clock) as _,
            tiers,
            classes: classes.iter().map(|(c, t)| ((*c).to_owned(), (*t).to_owned())).collect(),
            policy,
            policy_text: self.policy.clone(),
            registry,
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

/// Deletes keys in one request; all go well.
pub async fn delete_all(engine: &Engine, keys: &[String]) -> Vec<Deleted> {
    let deletes: Vec<_> = keys.iter().map(|key| (key.clone(), DeleteRequest::default())).collect();
    let answers = engine.delete_objects("bkt", &deletes).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// The whole of a bucket's listing, in pages of `page`.
pub fn list_all(engine: &Engine, page: usize) -> Vec<ListedObject> {
    let mut list = ListObjects { bucket: "bkt".into(), max_keys: page, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let found = engine.list_objects(&list).unwrap();
        all.extend(found.objects);
        match found.next {
            Some(next) => list.after = Some(next),
            None => return all,
        }
    }
}

/// A copy of a key's current version, without changes.
pub async fn copy(engine: &Engine, from: &str, to: &str, class: Option<&str>) -> Result<Written, EngineError> {
    let source_version = engine.open_object("bkt", from)?.info().version;
    let copy = CopyObject {
        source_bucket: "bkt".into(),
        source_key: from.into(),
        source_version,
        bucket: "bkt".into(),
        key: to.into(),
        replace_attributes: None,
        replace_tags: None,
        storage_class: class.map(str::to_owned),
        checksum: None,
        condition: WriteCondition::default(),
    };
    engine.copy_object(copy).await
}

/// Uploads `parts` as one multipart object.
pub async fn put_parts(engine: &Engine, key: &str, parts: &[Vec<u8>]) -> Result<Written, EngineError> {
    let (bucket, attributes) = ("bkt".to_owned(), ObjectAttributes::default());
    let create = CreateUpload {
        bucket: bucket.clone(),
        key: key.into(),
        attributes,
        checksum: Some((ChecksumAlgorithm::Crc64Nvme, false)),
    };
    let upload_id = engine.create_upload(create).await?;
    let mut done = Vec::new();
    for (n, bytes) in parts.iter().enumerate() {
        let part = UploadPart {
            bucket: bucket.clone(),
            key: key.into(),
            upload_id: upload_id.clone(),
            number: n as u32 + 1,
            expect: BodyExpectation { length: Some(bytes.len() as u64), ..Default::default() },
        };
        let info = engine.upload_part(part, body(bytes)).await?;
        done.push(CompletedPart { number: info.number, etag: info.etag, checksum: None });
    }
    let complete = CompleteUpload {
        bucket,
        key: key.into(),
        upload_id,
        parts: done,
        expect_checksum: None,
        expect_size: None,
        condition: WriteCondition::default(),
    };
    engine.complete_upload(complete).await
}

/// What clients see of an object and no move may change.
pub fn seen(engine: &Engine, key: &str) -> String {
    let handle = engine.open_object("bkt", key).unwrap();
    let i = handle.info();
    format!("{:?}", (&i.version, i.size, &i.etag, i.last_modified, &i.attributes, &i.checksum, &i.parts))
}

/// Longer than anything takes on a machine that is slow and busy; only a failing test waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a condition; the engine's own work makes it true.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "gave up waiting until {what}");
}

/// Waits until the scheduler has begun and ended a turn since now, and until the cycle of reclaiming that it may have begun has
/// ended, too. Takes two milliseconds of the clock, by which turns are told apart.
pub async fn turned(bed: &Bed, engine: &Engine) {
    for _ in 0..2 {
        bed.clock.advance(Duration::from_millis(1));
        let now = Duration::from_millis(bed.clock.now().millis()).as_secs_f64();
        let turned = || bed.metric("tidegate_scheduler_last_turn_timestamp_seconds", None) >= now;
        until("the scheduler has come round", turned).await;
    }
    // Cycles come one after the other.
    engine.gc(GcRequest { dry_run: true }).await.unwrap();
}

/// Waits until all is in the recovery tier; returns the last record that is.
pub async fn shipped(engine: &Engine) -> u64 {
    let recovery = || engine.stats().unwrap().recovery.unwrap();
    until("everything is shipped", || recovery().term > 0 && recovery().lag_records == 0).await;
    recovery().shipped_sequence
}

/// Copies what is in a folder, with all below it.
pub fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn residency(engine: &Engine, key: &str) -> Option<Residency> {
    engine.open_object("bkt", key).ok().map(|h| h.info().residency.clone())
}

/// The frames of all local packs that `which` names: file, and where the payload stands.
pub fn frames(dir: &Path, which: impl Fn(&FooterEntry) -> bool) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let Some(id) = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<PackId>().ok()) else {
            continue;
        };
        let scanned = scan(&std::fs::File::open(&path).unwrap(), id).unwrap();
        let wanted = scanned.entries.iter().filter(|e| which(e));
        found.extend(wanted.map(|e| (path.clone(), u64::from(e.offset) + FRAME_HEADER_LEN as u64)));
    }
    found
}

/// Flips a byte, as a disk does.
pub fn rot(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
}

/// Bytes that are their own and do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Steps of a random walk, from a seed: SplitMix64.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }
}

/// The seed that the environment names, or a fresh one.
pub fn seed() -> (u64, bool) {
    match std::env::var("TIDEGATE_SEED") {
        Ok(text) => (text.parse().unwrap_or_else(|e| panic!("TIDEGATE_SEED={text}: {e}")), true),
        Err(_) => (std::collections::hash_map::RandomState::new().hash_one(0u8), false),
    }
}

/// A tier whose objects must be restored first: a minute on the clock, then readable for the days that were asked for.
#[derive(Debug)]
pub struct FrozenTier {
    inner: Arc<dyn Tier>,
    clock: Arc<ManualClock>,
    asked: Mutex<BTreeMap<String, (Timestamp, u32)>>,
}

const THAW: Duration = Duration::from_secs(60);

impl FrozenTier {
    pub fn new(inner: Arc<dyn Tier>, clock: Arc<ManualClock>) -> Self {
        Self { inner, clock, asked: Mutex::default() }
    }

    fn state(&self, name: &str) -> RestoreState {
        let asked = self.asked.lock().unwrap();
        let Some((at, days)) = asked.get(name) else { return RestoreState::None };
        let (ready, until) = (at.plus(THAW), at.plus(THAW + DAY * *days));
        match self.clock.now() {
            now if now < ready => RestoreState::Ongoing,
            now if now < until => RestoreState::Restored { until },
            _ => RestoreState::None,
        }
    }
}

#[async_trait::async_trait]
impl Tier for FrozenTier {
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
        match self.state(name) {
            RestoreState::Restored { .. } => self.inner.get(name, range).await,
            _ => Err(TierError::plain(TierErrorKind::Frozen, "get", name, "not restored")),
        }
    }

    async fn head(&self, name: &str) -> Result<RemoteMeta, TierError> {
        Ok(RemoteMeta { restore: self.state(name), ..self.inner.head(name).await? })
    }

    async fn delete(&self, name: &str) -> Result<(), TierError> {
        self.inner.delete(name).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, max: usize) -> Result<Vec<RemoteMeta>, TierError> {
        self.inner.list(prefix, start_after, max).await
    }

    async fn restore(&self, name: &str, days: u32, _: RestorePriority) -> Result<RestoreReceipt, TierError> {
        self.inner.head(name).await?;
        match self.state(name) {
            RestoreState::Ongoing => Ok(RestoreReceipt::AlreadyRunning),
            RestoreState::Restored { .. } => Ok(RestoreReceipt::AlreadyRestored),
            RestoreState::None => {
                self.asked.lock().unwrap().insert(name.to_owned(), (self.clock.now(), days));
                Ok(RestoreReceipt::Started)
            }
        }
    }
}
