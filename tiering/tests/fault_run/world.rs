//! An engine, three tiers of the native client behind it, the simulated service behind those, and a map that says what every
//! object holds.

use crate::account::{Place, counter};
use crate::common::{Bed, DAY, Dice, T0, noise, put, put_parts, read, residency};
use crate::plan::plan;
use oss_sim::{Class, OssSim};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_tiering::clock::Clock;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::memory::MemoryTier;
use tidegate_tiering::tier::oss::credentials::CredentialsSpec;
use tidegate_tiering::tier::oss::{OssSettings, OssTier, StorageClass};
use tidegate_tiering::tier::secret::Secret;
use tidegate_tiering::tier::{RestorePriority, Tier, TierMetrics};

/// A bucket for each tier, of its class: so the bill tells them apart.
pub const PLACES: [Place; 3] = [
    Place { tier: "ia", bucket: "cold-ia", class: Class::IA },
    Place { tier: "archive", bucket: "cold-archive", class: Class::Archive },
    Place { tier: "deep", bucket: "cold-deep", class: Class::ColdArchive },
];

/// So long without an end means that there is none.
const HANG: Duration = Duration::from_secs(300);

pub const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: faults }
tiers:
  - name: ia
  - name: archive
  - name: deep
rules:
  - id: down
    filter: { bucket: bkt }
    transitions:
      - { to: ia, after: 10d, since: creation }
      - { to: archive, after: 30d, since: creation }
      - { to: deep, after: 70d, since: creation }
";

/// How an object's bytes are made again.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    seed: u64,
    len: usize,
    /// Begins with bytes that others have too.
    shared: bool,
}

impl Content {
    pub fn bytes(self) -> Vec<u8> {
        let mut out = noise(self.seed, self.len);
        if self.shared {
            let n = self.len / 2;
            out[..n].copy_from_slice(&noise(self.seed % 8, n));
        }
        out
    }
}

pub struct World {
    pub seed: u64,
    pub dice: Dice,
    pub sim: oss_sim::Running,
    pub bed: Bed,
    pub engine: Engine,
    /// Metrics of the tiers, which live longer than an engine.
    pub registry: prometheus::Registry,
    pub objects: BTreeMap<String, Content>,
    /// Moves of the engines before this one.
    moved_before: (u64, u64),
    pub restarts: u64,
    /// Reads that the faults made fail: allowed, as long as no wrong byte comes.
    pub failed_reads: u64,
    made: u64,
}

fn tier(sim: &oss_sim::Running, bed: &Bed, place: Place, registry: &prometheus::Registry) -> Arc<dyn Tier> {
    let mut settings = OssSettings::new(&sim.endpoint(), "cn-hangzhou", place.bucket);
    settings.prefix = "tide".into();
    settings.storage_class = match place.class {
        Class::Archive => StorageClass::Archive,
        Class::ColdArchive => StorageClass::ColdArchive,
        _ => StorageClass::IA,
    };
    settings.part_size_bytes = 128 << 10;
    settings.multipart_threshold_bytes = 300 << 10;
    // Few, so that calls and with them whole jobs fail now and then.
    settings.max_attempts = 3;
    settings.retry_base_ms = 5;
    settings.credentials = CredentialsSpec::Static {
        access_key_id: "ak".into(),
        access_key_secret: Secret::new("sk"),
        security_token: None,
    };
    let clock = Arc::clone(&bed.clock) as Arc<dyn Clock>;
    let metrics = TierMetrics::new(place.tier, Some(registry)).unwrap();
    Arc::new(OssTier::new(place.tier, &settings, clock, &|_| None, metrics).unwrap())
}

impl World {
    pub async fn begin(dir: &Path, seed: u64) -> Self {
        let mut builder = OssSim::builder()
            .access_key("ak", "sk")
            .clock_start(T0.millis())
            .frozen_clock()
            .seed(seed)
            .record_exchanges();
        for place in PLACES {
            builder = builder.bucket(place.bucket, place.class);
        }
        let sim = builder.start().await.unwrap();
        let registry = prometheus::Registry::new();
        let mut bed = Bed::new(dir, Arc::new(MemoryTier::new().unwrap()));
        bed.tier = tier(&sim, &bed, PLACES[0], &registry);
        bed.others = PLACES[1..].iter().map(|p| (p.tier.to_owned(), tier(&sim, &bed, *p, &registry))).collect();
        bed.policy = POLICY.to_owned();
        let settings = &mut bed.settings;
        settings.chunks.min = 1 << 10;
        settings.chunks.avg = 8 << 10;
        settings.chunks.max = 32 << 10;
        settings.limits.min_part_bytes = 0;
        settings.local.pack_bytes = 1 << 20;
        settings.tiering.linger_ms = 0;
        settings.tiering.pack_bytes = 512 << 10;
        settings.tiering.max_group = 8;
        settings.tiering.workers = 8;
        let engine = bed.open().await;
        engine.create_bucket("bkt").await.unwrap();
        sim.set_faults(plan(seed, &["cold-archive", "cold-deep"]));
        Self {
            seed,
            dice: Dice(seed),
            sim,
            bed,
            engine,
            registry,
            objects: BTreeMap::new(),
            moved_before: (0, 0),
            restarts: 0,
            failed_reads: 0,
            made: 0,
        }
    }

    /// Transitions and restores that were committed, by the engines' own metrics.
    pub fn moves(&self) -> (u64, u64) {
        let registry = self.bed.registry.lock().unwrap();
        let (transitions, restores) = self.moved_before;
        (
            transitions + counter(&registry, "tidegate_transitioned_versions_total", None),
            restores + counter(&registry, "tidegate_restored_versions_total", None),
        )
    }

    /// Stops the engine wherever it is and opens it again; between the two the test may do something to its files.
    pub async fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.engine.shutdown().await.unwrap();
        self.moved_before = self.moves();
        meanwhile(&self.bed.dir);
        self.engine = self.bed.open().await;
        self.restarts += 1;
    }

    pub fn advance(&self, by: Duration) {
        self.sim.advance_seconds(by.as_secs());
        self.bed.clock.advance(by);
    }

    pub fn requests(&self) -> u64 {
        self.sim.requests().iter().map(|r| r.count).sum()
    }

    /// Mostly small, some of many packs.
    fn any_content(&mut self) -> Content {
        let most = [6 << 10, 6 << 10, 6 << 10, 60 << 10, 60 << 10, 250 << 10][self.dice.below(6) as usize];
        let most = if self.dice.below(60) == 0 { 1_600 << 10 } else { most };
        self.made += 1;
        let len = 200 + self.dice.below(most) as usize;
        Content { seed: self.made ^ self.seed, len, shared: self.dice.below(4) == 0 }
    }

    pub async fn write(&mut self, key: String) {
        let content = self.any_content();
        let bytes = content.bytes();
        if content.len > 100_000 && content.seed.is_multiple_of(2) {
            let parts: Vec<Vec<u8>> = bytes.chunks(content.len / 2 + 1).map(<[u8]>::to_vec).collect();
            put_parts(&self.engine, &key, &parts).await.unwrap();
        } else {
            put(&self.engine, &key, &bytes).await.unwrap();
        }
        self.objects.insert(key, content);
    }

    pub fn any_key(&mut self) -> Option<String> {
        let at = self.dice.below(self.objects.len() as u64) as usize;
        self.objects.keys().nth(at).cloned()
    }

    /// Whether the engine says that an object has to be restored first.
    pub fn archived(&self, key: &str) -> bool {
        matches!(residency(&self.engine, key), Some(Residency::Cold { tier }) if tier != "ia")
    }

    pub async fn ask(&self, key: &str, days: u32) {
        let restore = RestoreRequest {
            bucket: "bkt".into(),
            key: key.into(),
            version: VersionRef::Current,
            days,
            priority: RestorePriority::Standard,
        };
        match self.engine.restore_object(restore).await {
            Ok(_) | Err(EngineError::RestoreInProgress | EngineError::NotArchived { .. }) => {}
            Err(e) => panic!("restore of {key}: {e} (TIDEGATE_SEED={})", self.seed),
        }
    }

    /// Reads an object whole: the right bytes, or an error for which there is a reason.
    pub async fn check(&mut self, key: &str) {
        let Ok(handle) = self.engine.open_object("bkt", key) else { panic!("{key} is gone") };
        let size = handle.info().size;
        let bytes = match handle.read(0..size).await {
            Ok(stream) => read(stream).await,
            Err(e) => Err(e),
        };
        match bytes {
            Ok(bytes) => assert!(bytes == self.objects[key].bytes(), "{key} (TIDEGATE_SEED={})", self.seed),
            Err(EngineError::InvalidObjectState { .. }) => {}
            Err(EngineError::Tier { .. } | EngineError::Corrupt(_)) => self.failed_reads += 1,
            Err(e) => panic!("{key}: {e} (TIDEGATE_SEED={})", self.seed),
        }
    }

    /// Waits until nothing is left to do. While the engine works, time stands still; when it waits for time (a back-off, a
    /// thaw), time goes on, in longer steps the longer it waits.
    pub async fn settle(&self, what: &str) {
        let started = Instant::now();
        let (mut step, mut seen, mut quiet) = (Duration::from_secs(600), self.requests(), 0);
        loop {
            let stats = self.engine.stats().unwrap();
            if stats.jobs.is_empty() && stats.oldest_due_lag_ms == 0 {
                return;
            }
            assert!(
                started.elapsed() < HANG,
                "gave up waiting until {what}: {:?}, lag {} ms (TIDEGATE_SEED={})",
                stats.jobs,
                stats.oldest_due_lag_ms,
                self.seed
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
            let requests = self.requests();
            quiet = if requests == seen { quiet + 1 } else { 0 };
            seen = requests;
            if quiet >= 4 {
                self.advance(step);
                step = (step * 2).min(Duration::from_secs(4 * 3_600));
                quiet = 0;
            }
        }
    }

    /// What the namespace says is in the cloud, and nothing else: names, lengths, checksums, classes; no unfinished upload.
    pub fn compare_with_cloud(&self, when: &str) -> usize {
        let mut all = 0;
        for place in PLACES {
            let packs = self.engine.tier_packs(place.tier, None, usize::MAX).unwrap();
            assert!(packs.iter().all(|p| p.state == "live"), "{when}: {}", place.tier);
            let said: BTreeMap<String, (u64, Option<u64>)> =
                packs.into_iter().map(|p| (format!("tide/{}", p.name), (p.bytes, p.crc64))).collect();
            let objects = self.sim.objects(place.bucket);
            assert!(objects.iter().all(|o| o.class == place.class), "{when}: class in {}", place.tier);
            let there: BTreeMap<String, (u64, Option<u64>)> =
                objects.into_iter().map(|o| (o.key, (o.size, Some(o.crc64)))).collect();
            assert_eq!(said, there, "{when}: {} (TIDEGATE_SEED={})", place.tier, self.seed);
            assert_eq!(self.sim.uploads(place.bucket), [], "{when}: unfinished uploads in {}", place.tier);
            all += there.len();
        }
        all
    }

    /// Everything goes to the last tier, and out of the local packs.
    pub async fn all_down(&mut self) {
        for _ in 0..2 {
            self.advance(DAY * 71);
            self.settle("all is archived").await;
        }
        assert!(self.objects.keys().all(|key| self.archived(key)), "(TIDEGATE_SEED={})", self.seed);
        self.restart(|dir| std::fs::remove_dir_all(dir.join("packs")).unwrap()).await;
    }
}
