//! Random operations against a simple map: whatever the order of writes, copies, uploads, clock steps, moves between
//! tiers, restores, reclaiming, eviction and restarts, the engine shows what the map says, byte for byte.
//!
//! `TIDEGATE_SEED=n` repeats one walk; without it walks with fresh seeds run for about 20 seconds
//! (`TIDEGATE_MODEL_SECONDS`).
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, Dice, FrozenTier, T0, body, get, list_all, noise, read, residency, seed, seen};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_tiering::clock::{Clock, ManualClock, Timestamp};
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::memory::{MemoryTier, Moment};
use tidegate_tiering::tier::{Operation, RestorePriority, Tier, TierError, TierErrorKind};

/// Operations of one walk.
const STEPS: u64 = 250;

const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: model }
tiers:
  - name: ia
  - name: archive
  - name: deep
rules:
  - id: down
    filter: { bucket: bkt, prefix: a/ }
    transitions:
      - { to: ia, after: 10d, since: creation }
  - id: deeper
    filter: { bucket: bkt, prefix: b/ }
    transitions:
      - { to: ia, after: 10d, since: creation }
      - { to: archive, after: 40d, since: creation }
      - { to: deep, after: 80d, since: creation }
  - id: end
    filter: { bucket: bkt, prefix: c/ }
    transitions:
      - { to: archive, after: 10d, since: creation }
    expiration: { after: 60d, since: creation }
    abortIncompleteMultipartUpload: { after: 7d }
";

struct Object {
    bytes: Vec<u8>,
    seen: String,
    created: Timestamp,
}

struct Upload {
    key: String,
    initiated: Timestamp,
    parts: BTreeMap<u32, (String, Vec<u8>)>,
}

struct Walk {
    seed: u64,
    step: u64,
    dice: Dice,
    bed: Bed,
    /// What the tiers stand on, which forgets nothing at a restart of the engine.
    stores: Vec<Arc<MemoryTier>>,
    engine: Engine,
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    done: BTreeMap<&'static str, u64>,
}

/// A store of which every twentieth write, delete or question fails, half of them after they were done.
fn unreliable(seed: u64) -> Arc<MemoryTier> {
    let tier = Arc::new(MemoryTier::new().unwrap());
    let dice = Mutex::new(Dice(seed));
    tier.set_hook(move |operation, name, moment| {
        let asked = matches!(operation, Operation::PutObject | Operation::DeleteObject | Operation::HeadObject);
        let fails = asked && dice.lock().unwrap().below(if moment == Moment::Before { 40 } else { 41 }) == 0;
        fails.then(|| TierError::plain(TierErrorKind::Unavailable, "any", name, "the dice say no"))
    });
    tier
}

fn is_archived(residency: &Residency) -> bool {
    matches!(residency, Residency::Cold { tier } if tier != "ia")
}

impl Walk {
    async fn begin(dir: &Path, seed: u64) -> Self {
        let stores: Vec<_> = (0..3).map(|n| unreliable(seed ^ n)).collect();
        let mut bed = Bed::new(dir, Arc::clone(&stores[0]) as _);
        bed.clock = Arc::new(ManualClock::new(T0));
        let frozen = |n: usize| -> Arc<dyn Tier> {
            Arc::new(FrozenTier::new(Arc::clone(&stores[n]) as _, Arc::clone(&bed.clock)))
        };
        bed.others = [("archive".to_owned(), frozen(1)), ("deep".to_owned(), frozen(2))].into();
        bed.policy = POLICY.to_owned();
        let mut dice = Dice(seed);
        let settings = &mut bed.settings;
        settings.chunks.min = 512;
        settings.chunks.avg = 2048;
        settings.chunks.max = 8192;
        settings.local.pack_bytes = 64 << (10 + dice.below(4));
        settings.limits.min_part_bytes = 0;
        settings.tiering.linger_ms = 0;
        settings.tiering.pack_bytes = 32 << (10 + dice.below(5));
        settings.tiering.recall = if dice.below(2) == 0 { Recall::Promote } else { Recall::Stream };
        settings.tiering.coalesce_gap = dice.below(3) * 4096;
        let engine = bed.open().await;
        engine.create_bucket("bkt").await.unwrap();
        let (objects, uploads, done) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { seed, step: 0, dice, bed, stores, engine, objects, uploads, done }
    }

    fn context(&self, what: &str) -> String {
        format!("{what} (TIDEGATE_SEED={}, step {})", self.seed, self.step)
    }

    fn now(&self) -> Timestamp {
        self.bed.clock.now()
    }

    fn any_key(&mut self) -> String {
        let prefix = ["a", "b", "c", "h"][self.dice.below(4) as usize];
        format!("{prefix}/{}", self.dice.below(8))
    }

    fn existing_key(&mut self) -> Option<String> {
        let at = self.dice.below(self.objects.len() as u64) as usize;
        self.objects.keys().nth(at).cloned()
    }

    /// Pieces of a few long strings, so that bodies share chunks, some of it compressible.
    fn any_body(&mut self) -> Vec<u8> {
        let pieces = [0, 1, 1, 2, 3][self.dice.below(5) as usize];
        let mut out = Vec::new();
        for _ in 0..pieces {
            let most = [100, 5_000, 60_000, 400_000][self.dice.below(4) as usize];
            let len = 1 + self.dice.below(most) as usize;
            if self.dice.below(4) == 0 {
                out.extend(std::iter::repeat_n(self.dice.below(3) as u8, len));
            } else {
                let long = noise(self.dice.below(4), 420_000);
                let from = (self.dice.below(20) * 1_000) as usize;
                out.extend_from_slice(&long[from..from + len]);
            }
        }
        out
    }

    fn attributes(&mut self) -> ObjectAttributes {
        let class = [None, None, None, Some("STANDARD_IA"), Some("GLACIER")][self.dice.below(5) as usize];
        ObjectAttributes {
            user_metadata: vec![("roll".into(), self.dice.below(100).to_string())],
            storage_class: class.map(str::to_owned),
            ..Default::default()
        }
    }

    fn written(&mut self, key: &str, bytes: Vec<u8>, created: Timestamp) {
        let seen = seen(&self.engine, key);
        self.objects.insert(key.to_owned(), Object { bytes, seen, created });
    }

    async fn put(&mut self) {
        let (key, bytes, attributes) = (self.any_key(), self.any_body(), self.attributes());
        let length = (self.dice.below(2) == 0).then_some(bytes.len() as u64);
        let expect = BodyExpectation { length, ..Default::default() };
        let only_new = self.dice.below(8) == 0;
        let if_none_match = only_new.then(|| "*".to_owned()).into_iter().collect();
        let condition = WriteCondition { if_none_match, ..Default::default() };
        let fails = only_new && self.objects.contains_key(&key);
        let put = PutObject { bucket: "bkt".into(), key: key.clone(), attributes, expect, condition };
        let outcome = self.engine.put_object(put, body(&bytes)).await;
        if fails {
            assert!(matches!(outcome, Err(EngineError::PreconditionFailed(_))), "{}", self.context(&key));
        } else {
            assert_eq!(outcome.unwrap().size, bytes.len() as u64, "{}", self.context(&key));
            let now = self.now();
            self.written(&key, bytes, now);
        }
    }

    async fn delete(&mut self) {
        let key = self.any_key();
        let was_there = self.engine.delete_object("bkt", &key, DeleteRequest::default()).await.unwrap();
        assert_eq!(was_there.existed, self.objects.remove(&key).is_some(), "{}", self.context(&key));
    }

    async fn copy(&mut self) {
        let Some(from) = self.existing_key() else { return };
        let to = if self.dice.below(3) == 0 { from.clone() } else { self.any_key() };
        let source = self.engine.open_object("bkt", &from).unwrap().info().clone();
        let replace_attributes = (self.dice.below(2) == 0).then(|| self.attributes());
        let class = [None, source.attributes.storage_class.as_deref(), Some("STANDARD_IA"), Some("GLACIER")];
        let copy = CopyObject {
            source_bucket: "bkt".into(),
            source_key: from.clone(),
            source_version: source.version,
            bucket: "bkt".into(),
            key: to.clone(),
            replace_attributes,
            replace_tags: None,
            storage_class: class[self.dice.below(4) as usize].map(str::to_owned),
            checksum: None,
            condition: WriteCondition::default(),
        };
        let was_archived = self.archived(&from);
        match self.engine.copy_object(copy).await {
            Ok(written) => {
                assert_eq!(written.size, source.size);
                let created = if from == to { self.objects[&from].created } else { self.now() };
                let bytes = self.objects[&from].bytes.clone();
                self.written(&to, bytes, created);
            }
            Err(EngineError::InvalidObjectState { .. }) => {
                assert!(was_archived || self.archived(&from), "{}", self.context(&from));
            }
            Err(e) => panic!("{}: {e}", self.context(&from)),
        }
    }

    async fn upload(&mut self) {
        match self.dice.below(5) {
            0 => {
                let (key, attributes) = (self.any_key(), self.attributes());
                let create = CreateUpload { bucket: "bkt".into(), key: key.clone(), attributes, checksum: None };
                let id = self.engine.create_upload(create).await.unwrap();
                let initiated = self.now();
                self.uploads.insert(id, Upload { key, initiated, parts: BTreeMap::new() });
            }
            1..=2 => {
                let bytes = self.any_body();
                let number = 1 + self.dice.below(5) as u32;
                let Some((id, upload)) = self.uploads.iter_mut().next() else { return };
                let part = UploadPart {
                    bucket: "bkt".into(),
                    key: upload.key.clone(),
                    upload_id: id.clone(),
                    number,
                    expect: BodyExpectation::default(),
                };
                let info = self.engine.upload_part(part, body(&bytes)).await.unwrap();
                upload.parts.insert(number, (info.etag, bytes));
            }
            3 => {
                let Some((id, upload)) = self.uploads.pop_last() else { return };
                if upload.parts.is_empty() {
                    self.engine.abort_upload("bkt", &upload.key, &id).await.unwrap();
                    return;
                }
                let part = |(number, (etag, _)): (&u32, &(String, Vec<u8>))| CompletedPart {
                    number: *number,
                    etag: etag.clone(),
                    checksum: None,
                };
                let complete = CompleteUpload {
                    bucket: "bkt".into(),
                    key: upload.key.clone(),
                    upload_id: id,
                    parts: upload.parts.iter().map(part).collect(),
                    expect_checksum: None,
                    expect_size: None,
                    condition: WriteCondition::default(),
                };
                self.engine.complete_upload(complete).await.unwrap();
                let bytes = upload.parts.into_values().flat_map(|(_, bytes)| bytes).collect();
                let now = self.now();
                self.written(&upload.key, bytes, now);
            }
            _ => {
                let Some((id, upload)) = self.uploads.pop_first() else { return };
                self.engine.abort_upload("bkt", &upload.key, &id).await.unwrap();
            }
        }
    }

    fn archived(&self, key: &str) -> bool {
        residency(&self.engine, key).is_some_and(|residency| is_archived(&residency))
    }

    async fn read_range(&mut self) {
        let Some(key) = self.existing_key() else { return };
        let size = self.objects[&key].bytes.len() as u64;
        let from = self.dice.below(size + 1);
        let range = from..from + self.dice.below(size - from + 1);
        let handle = self.engine.open_object("bkt", &key).unwrap();
        match handle.read(range.clone()).await {
            Ok(stream) => {
                let want = &self.objects[&key].bytes[range.start as usize..range.end as usize];
                let have = read(stream).await.unwrap_or_else(|e| panic!("{}: {e}", self.context(&key)));
                assert!(have == want, "{}", self.context(&format!("{key} {range:?}")));
            }
            // What the handle found is what counts: a restore may have come to its end since.
            Err(EngineError::InvalidObjectState { .. }) => {
                assert!(is_archived(&handle.info().residency), "{}", self.context(&key));
            }
            Err(e) => panic!("{}: {e}", self.context(&key)),
        }
    }

    fn list(&mut self) {
        let listed = list_all(&self.engine, 1 + self.dice.below(20) as usize);
        let have: Vec<_> = listed.iter().map(|o| (o.key.as_str(), o.size)).collect();
        let want: Vec<_> = self.objects.iter().map(|(k, o)| (k.as_str(), o.bytes.len() as u64)).collect();
        assert_eq!(have, want, "{}", self.context("listing"));
    }

    async fn restore(&mut self) {
        let archived: Vec<String> = self.objects.keys().filter(|key| self.archived(key)).cloned().collect();
        let Some(key) = archived.get(self.dice.below(archived.len() as u64) as usize) else { return };
        let ongoing = self.engine.open_object("bkt", key).unwrap().info().restore.is_some();
        let days = 1 + self.dice.below(20) as u32;
        let request = RestoreRequest {
            bucket: "bkt".into(),
            key: key.clone(),
            version: VersionRef::Current,
            days,
            priority: RestorePriority::Standard,
        };
        match self.engine.restore_object(request).await {
            // Extended: it has come back since it was looked at.
            Ok(outcome) => assert_eq!(outcome == RestoreOutcome::Extended, ongoing, "{}", self.context(key)),
            Err(EngineError::RestoreInProgress) => assert!(ongoing, "{}", self.context(key)),
            Err(e) => panic!("{}: {e}", self.context(key)),
        }
    }

    /// Lets everything that is due be done, with time going on in small steps for back-offs and thaws.
    async fn settle(&mut self) {
        let started = Instant::now();
        loop {
            let open = self.engine.run_due_now().unwrap();
            if open.due == 0 && open.jobs_open == 0 {
                break;
            }
            let stats = self.engine.stats().unwrap();
            let context = self.context(&format!("settle: {open:?} {:?}", stats.jobs));
            assert!(started.elapsed() < common::PATIENCE, "{context}");
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.bed.clock.advance(Duration::from_secs(5));
        }
        let now = self.now();
        self.objects.retain(|key, o| !key.starts_with("c/") || o.created.plus(DAY * 60) > now);
        self.uploads.retain(|_, u| !u.key.starts_with("c/") || u.initiated.plus(DAY * 7) > now);
    }

    async fn time_goes_on(&mut self) {
        self.bed.clock.advance(DAY * self.dice.below(41) as u32 / 4);
        self.settle().await;
    }

    async fn restart(&mut self) {
        self.engine.shutdown().await.unwrap();
        let mode = self.dice.below(4);
        if mode == 0 {
            std::fs::remove_dir_all(self.bed.dir.join("sled")).unwrap();
        }
        self.engine = self.bed.open().await;
    }

    async fn compare(&mut self) {
        self.list();
        for (key, object) in &self.objects {
            assert_eq!(seen(&self.engine, key), object.seen, "{}", self.context(key));
            // Before and after: a restore that was open goes on at once.
            let was_archived = self.archived(key);
            match get(&self.engine, key).await {
                Ok(bytes) => assert!(bytes == object.bytes, "{}", self.context(key)),
                Err(EngineError::InvalidObjectState { .. }) => {
                    assert!(was_archived || self.archived(key), "{}", self.context(key));
                }
                Err(e) => panic!("{}: {e}", self.context(key)),
            }
        }
        let list = ListUploads { bucket: "bkt".into(), max_uploads: 1_000, ..Default::default() };
        let mut have: Vec<_> = self.engine.list_uploads(&list).unwrap().uploads;
        have.sort_by(|a, b| a.upload_id.cmp(&b.upload_id));
        let have: Vec<_> = have.iter().map(|u| (u.upload_id.as_str(), u.key.as_str())).collect();
        let want: Vec<_> = self.uploads.iter().map(|(id, u)| (id.as_str(), u.key.as_str())).collect();
        assert_eq!(have, want, "{}", self.context("uploads"));
        for (id, upload) in &self.uploads {
            let parts = self.engine.list_parts("bkt", &upload.key, id, 0, 100).unwrap().parts;
            let have: Vec<_> = parts.iter().map(|p| (p.number, p.etag.as_str(), p.size)).collect();
            let want: Vec<_> = upload.parts.iter().map(|(n, (etag, b))| (*n, etag.as_str(), b.len() as u64)).collect();
            assert_eq!(have, want, "{}", self.context(id));
        }
    }

    async fn one(&mut self) {
        let roll = self.dice.below(100);
        let name = match roll {
            0..=29 => "put",
            30..=37 => "delete",
            38..=49 => "copy",
            50..=59 => "upload",
            60..=71 => "read",
            72..=75 => "list",
            76..=84 => "clock",
            85..=89 => "gc",
            90..=93 => "evict",
            94..=97 => "restore",
            _ => "restart",
        };
        *self.done.entry(name).or_default() += 1;
        match name {
            "put" => self.put().await,
            "delete" => self.delete().await,
            "copy" => self.copy().await,
            "upload" => self.upload().await,
            "read" => self.read_range().await,
            "list" => self.list(),
            "clock" => self.time_goes_on().await,
            "gc" => drop(self.engine.gc(GcRequest { dry_run: self.dice.below(4) == 0 }).await.unwrap()),
            "evict" => drop(self.engine.evict(u64::MAX).await.unwrap()),
            "restore" => self.restore().await,
            _ => {
                self.restart().await;
                self.compare().await;
            }
        }
    }

    /// Brings every archived object back and compares it.
    async fn restore_all(&mut self) {
        for _ in 0..20 {
            let archived: Vec<String> = self.objects.keys().filter(|key| self.archived(key)).cloned().collect();
            if archived.is_empty() {
                break;
            }
            for key in archived {
                let (bucket, days, priority) = ("bkt".to_owned(), 300, RestorePriority::Standard);
                match self
                    .engine
                    .restore_object(RestoreRequest { bucket, key, version: VersionRef::Current, days, priority })
                    .await
                {
                    Ok(_) | Err(EngineError::RestoreInProgress) => {}
                    Err(e) => panic!("{}", self.context(&e.to_string())),
                }
            }
            self.settle().await;
        }
        self.compare().await;
        assert!(self.objects.keys().all(|key| !self.archived(key)), "{}", self.context("not restored"));
    }

    /// Deletes everything: nothing is left anywhere.
    async fn end(mut self) -> BTreeMap<&'static str, u64> {
        self.settle().await;
        self.compare().await;
        self.restore_all().await;
        let keys: Vec<String> = self.objects.keys().cloned().collect();
        common::delete_all(&self.engine, &keys).await;
        for (id, upload) in &self.uploads {
            self.engine.abort_upload("bkt", &upload.key, id).await.unwrap();
        }
        for _ in 0..2 {
            self.engine.gc(GcRequest::default()).await.unwrap();
            self.settle().await;
        }
        let stats = self.engine.stats().unwrap();
        let local = (stats.local.unique_chunks, stats.local.dead_bytes, stats.objects, stats.uploads);
        assert_eq!(local, (0, 0, 0, 0), "{}", self.context("something is left locally"));
        for (store, tier) in self.stores.iter().zip(["ia", "archive", "deep"]) {
            store.clear_hook();
            let left = store.list("", None, 100).await.unwrap();
            assert!(left.is_empty(), "{}: {left:?}", self.context(&format!("orphans in {tier}")));
        }
        assert!(stats.tiers.iter().all(|t| t.packs == 0), "{}", self.context("packs"));
        self.engine.shutdown().await.unwrap();
        self.done
    }
}

async fn walk(seed: u64) -> BTreeMap<&'static str, u64> {
    println!("TIDEGATE_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut walk = Walk::begin(dir.path(), seed).await;
    while walk.step < STEPS {
        walk.one().await;
        walk.step += 1;
        if walk.step.is_multiple_of(25) {
            walk.settle().await;
            walk.compare().await;
        }
    }
    walk.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_walks_agree_with_a_simple_map() {
    let (first, only_one) = seed();
    let seconds = std::env::var("TIDEGATE_MODEL_SECONDS").map_or(20, |text| text.parse().unwrap());
    let (started, mut walks) = (Instant::now(), 0);
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    while walks == 0 || (!only_one && started.elapsed() < Duration::from_secs(seconds)) {
        let done = walk(first.wrapping_add(walks)).await;
        walks += 1;
        for (name, count) in done {
            *total.entry(name).or_default() += count;
        }
    }
    println!("{walks} walks: {total:?}");
}
