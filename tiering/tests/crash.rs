//! Processes that die at every failpoint, and at random moments: what was acknowledged is there, at most the operation
//! that was under way has happened or not, nothing is half there, and what is left over goes away.
//!
//! `TIDEGATE_SEED=n` repeats the random part.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, Dice, FrozenTier, T0, copy, get, list_all, noise, put_class, put_parts, residency, seed, until};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_tiering::clock::{ManualClock, Timestamp};
use tidegate_tiering::engine::*;
use tidegate_tiering::failpoint;
use tidegate_tiering::meta::MetaSettings;
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};
use tidegate_tiering::tier::{RestorePriority, Tier, TierMetrics};

const DIR: &str = "TIDEGATE_TEST_CRASH_DIR";
const FAILPOINT: &str = "TIDEGATE_TEST_CRASH_FAILPOINT";
const ROUND: &str = "TIDEGATE_TEST_CRASH_ROUND";

/// Tasks of the child, each with keys of its own and one operation at a time.
const WORKERS: u64 = 3;
const KEYS: u64 = 6;
/// A child that no failpoint ends does so itself after this time.
const CHILD_LIFE: Duration = common::PATIENCE;

fn directory(path: &Path, name: &str) -> Arc<dyn Tier> {
    let settings = DirectorySettings { path: path.join(name) };
    Arc::new(ObjectTier::directory(name, &settings, TierMetrics::new(name, None).unwrap()).unwrap())
}

/// The store of parent and child. Each round begins a year after the one before.
fn bed(dir: &Path, round: u64) -> Bed {
    let mut bed = Bed::new(&dir.join("data"), directory(dir, "ia"));
    bed.clock = Arc::new(ManualClock::new(Timestamp(T0.millis() + round * 365 * 86_400_000)));
    let archive = FrozenTier::new(directory(dir, "archive"), Arc::clone(&bed.clock));
    bed.others = [("archive".to_owned(), Arc::new(archive) as Arc<dyn Tier>)].into();
    bed.settings.chunks.min = 1 << 10;
    bed.settings.chunks.avg = 4 << 10;
    bed.settings.chunks.max = 16 << 10;
    bed.settings.local.pack_bytes = 128 << 10;
    bed.settings.limits.min_part_bytes = 1;
    bed.settings.tiering.linger_ms = 0;
    bed.settings.tiering.pack_bytes = 96 << 10;
    bed.settings.notifications = [("hook".to_owned(), 10_000_000)].into();
    bed.settings.meta = MetaSettings { segment_bytes: 64 << 10, fill_ahead_bytes: 4 << 10, ..Default::default() };
    bed
}

/// What workers note before and after each operation, so that the parent knows what was acknowledged.
struct Log(Mutex<File>);

impl Log {
    fn line(&self, text: &str) {
        // One write: a kill leaves whole lines.
        self.0.lock().unwrap().write_all(format!("{text}\n").as_bytes()).unwrap();
    }
}

fn content(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = noise(seed % 5, len as usize);
    // Shares most chunks with its neighbours, and is not equal to any.
    let tail = seed.to_be_bytes();
    let at = bytes.len().saturating_sub(tail.len());
    bytes.truncate(at);
    bytes.extend_from_slice(&tail[..len.min(8) as usize]);
    bytes
}

/// Not a test of its own: the process that dies.
#[test]
fn child_works_until_it_dies() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    if let Ok(name) = std::env::var(FAILPOINT) {
        failpoint::set_from_text(&name).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(work(Path::new(&dir), round));
}

async fn work(dir: &Path, round: u64) {
    let bed = bed(dir, round);
    let log = Arc::new(Log(Mutex::new(File::options().append(true).create(true).open(dir.join("log")).unwrap())));
    let engine = bed.open().await;
    match engine.create_bucket("bkt").await {
        Ok(()) | Err(EngineError::BucketExists(_)) => {}
        Err(e) => panic!("{e}"),
    }
    let events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectRestore:*", "s3:LifecycleTransition"];
    let rule = NotificationRule {
        id: "all".into(),
        destination: Destination::Queue,
        arn: String::new(),
        target: "hook".into(),
        events: events.map(str::to_owned).to_vec(),
        filter: None,
    };
    engine.set_notifications("bkt", &[rule], false).await.unwrap();
    let ends = Instant::now() + CHILD_LIFE;
    let mut tasks = Vec::new();
    for n in 0..WORKERS {
        let (engine, log) = (engine.clone(), Arc::clone(&log));
        tasks.push(tokio::spawn(async move {
            let mut dice = Dice(round * 1_000 + n);
            while Instant::now() < ends {
                operate(&engine, &log, n, &mut dice).await;
            }
        }));
    }
    let clock = Arc::clone(&bed.clock);
    let keeper = engine.clone();
    tasks.push(tokio::spawn(async move {
        for n in 0u64.. {
            clock.advance(Duration::from_secs(31));
            match n % 4 {
                0 => drop(keeper.gc(GcRequest::default()).await.unwrap()),
                1 => drop(keeper.evict(u64::MAX).await.unwrap()),
                2 => drop(keeper.snapshot().await.unwrap()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            if Instant::now() >= ends {
                return;
            }
        }
    }));
    for task in tasks {
        task.await.unwrap();
    }
    engine.shutdown().await.unwrap();
    std::process::exit(0);
}

async fn operate(engine: &Engine, log: &Log, worker: u64, dice: &mut Dice) {
    let key = format!("w{worker}/{}", dice.below(KEYS));
    let (seed, len) = (dice.roll() >> 16, [0, 900, 30_000, 300_000][dice.below(4) as usize]);
    let len = dice.below(len + 1);
    let class = [None, None, Some("STANDARD_IA"), Some("GLACIER")][dice.below(4) as usize];
    match dice.below(14) {
        0..=5 => {
            log.line(&format!("{worker} begin {key} put {seed} {len}"));
            put_class(engine, &key, &content(seed, len), class).await.unwrap();
        }
        6 => {
            let bytes = content(seed, len);
            let parts: Vec<Vec<u8>> = bytes.chunks(100_000).map(<[u8]>::to_vec).collect();
            if parts.is_empty() {
                return;
            }
            log.line(&format!("{worker} begin {key} put {seed} {len}"));
            put_parts(engine, &key, &parts).await.unwrap();
        }
        7 => {
            log.line(&format!("{worker} begin {key} delete"));
            engine.delete_object("bkt", &key, DeleteRequest::default()).await.unwrap();
        }
        8 => {
            let from = format!("w{worker}/{}", dice.below(KEYS));
            log.line(&format!("{worker} begin {key} copy {from}"));
            match copy(engine, &from, &key, class).await {
                Ok(_) => {}
                Err(EngineError::NoSuchKey { .. } | EngineError::InvalidObjectState { .. }) => {
                    log.line(&format!("{worker} failed"));
                    return;
                }
                Err(e) => panic!("copy: {e}"),
            }
        }
        9 => return unfinished_upload(engine, worker).await,
        _ => {
            let (bucket, priority) = ("bkt".into(), RestorePriority::Standard);
            // Most are not archived; what is answered does not matter here.
            let _ = engine
                .restore_object(RestoreRequest { bucket, key, version: VersionRef::Current, days: 2, priority })
                .await;
            return;
        }
    }
    log.line(&format!("{worker} done"));
}

/// An upload with one part, left behind.
async fn unfinished_upload(engine: &Engine, worker: u64) {
    let (bucket, key) = ("bkt".to_owned(), format!("upload/{worker}"));
    let create =
        CreateUpload { bucket: bucket.clone(), key: key.clone(), attributes: Default::default(), checksum: None };
    let upload_id = engine.create_upload(create).await.unwrap();
    let part = UploadPart { bucket, key, upload_id, number: 1, expect: BodyExpectation::default() };
    engine.upload_part(part, common::body(&noise(worker, 20_000))).await.unwrap();
}

/// A body by its seed and length; None: no object.
type Value = Option<(u64, u64)>;

#[derive(Default)]
struct Model {
    objects: BTreeMap<String, Value>,
    /// Operations that were under way when the process died: key and what it would have become.
    open: BTreeMap<u64, (String, Value)>,
    lines_read: usize,
}

impl Model {
    fn read_log(&mut self, dir: &Path) {
        let text = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        for line in text.lines().skip(self.lines_read) {
            self.lines_read += 1;
            let words: Vec<&str> = line.split(' ').collect();
            let worker: u64 = words[0].parse().unwrap();
            match words[1..] {
                ["begin", key, "put", seed, len] => {
                    let value = Some((seed.parse().unwrap(), len.parse().unwrap()));
                    self.open.insert(worker, (key.to_owned(), value));
                }
                ["begin", key, "delete"] => drop(self.open.insert(worker, (key.to_owned(), None))),
                ["begin", key, "copy", from] => {
                    let value = self.objects.get(from).copied().flatten();
                    self.open.insert(worker, (key.to_owned(), value));
                }
                ["failed"] => drop(self.open.remove(&worker)),
                ["done"] => {
                    let (key, value) = self.open.remove(&worker).unwrap();
                    self.objects.insert(key, value);
                }
                _ => panic!("line {line}"),
            }
        }
    }

    /// Every object is what was acknowledged, or what the one operation under way made of it.
    async fn check(&mut self, engine: &Engine, context: &str) {
        let open: BTreeMap<String, Value> = std::mem::take(&mut self.open).into_values().collect();
        for (key, value) in &open {
            self.objects.entry(key.clone()).or_insert(None);
            let _ = value;
        }
        for (key, value) in &mut self.objects {
            let have = match get(engine, key).await {
                Ok(bytes) => Some(bytes),
                Err(EngineError::NoSuchKey { .. }) => None,
                Err(e) => panic!("{context}: {key}: {e}"),
            };
            let is = |value: &Value| have.as_deref() == value.map(|(seed, len)| content(seed, len)).as_deref();
            if is(value) {
                continue;
            }
            let pending = open.get(key).filter(|value| is(value));
            let len = have.as_ref().map(Vec::len);
            *value = *pending.unwrap_or_else(|| panic!("{context}: {key} has {len:?} bytes, not those of {value:?}"));
        }
        check_events(engine, self.objects.keys(), context);
        let listed: BTreeSet<String> = list_all(engine, 7).into_iter().map(|o| o.key).collect();
        let want: BTreeSet<String> = self.objects.iter().filter(|(_, v)| v.is_some()).map(|(k, _)| k.clone()).collect();
        assert_eq!(listed, want, "{context}: listing");
    }
}

/// Events are durable with the changes that they tell of: the last one of a key tells what is there, or that nothing is.
fn check_events<'a>(engine: &Engine, keys: impl Iterator<Item = &'a String>, context: &str) {
    let mut told: BTreeMap<String, Option<String>> = BTreeMap::new();
    for QueuedEvent { event, .. } in engine.events("hook", usize::MAX).unwrap() {
        match event.kind {
            EventKind::CreatedPut | EventKind::CreatedCopy | EventKind::CreatedMultipart => {
                told.insert(event.key, event.etag);
            }
            EventKind::RemovedDelete => drop(told.insert(event.key, None)),
            _ => {}
        }
    }
    for key in keys {
        let there = engine.open_object("bkt", key).ok().map(|object| object.info().etag.clone());
        assert_eq!(told.get(key).cloned().flatten(), there, "{context}: the last event of {key}");
    }
}

fn spawn(dir: &Path, round: u64, failpoint: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child_works_until_it_dies", "--exact", "--nocapture"]);
    command.env(DIR, dir).env(ROUND, round.to_string()).stdout(Stdio::null());
    command.stderr(File::create(dir.join("stderr")).unwrap());
    if let Some(failpoint) = failpoint {
        command.env(FAILPOINT, failpoint);
    }
    command.spawn().unwrap()
}

fn died(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal().is_some()
}

fn names_in(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { all.push(path) }
        }
    }
    all
}

/// Opens what the dead process left, lets the engine have its turn, and compares.
async fn check_after(dir: &Path, round: u64, model: &mut Model, context: &str) {
    model.read_log(dir);
    let mut bed = bed(dir, round);
    bed.clock.advance(Duration::from_secs(180 * 86_400));
    bed.settings.tiering.recall = Recall::Stream;
    let engine = bed.open().await;
    let settled = || {
        bed.clock.advance(Duration::from_secs(31));
        let open = engine.run_due_now().unwrap();
        open.due == 0 && open.jobs_open == 0
    };
    until(&format!("{context}: nothing is due"), settled).await;
    // Before anything is reclaimed, and after.
    thaw(&engine, &bed, context).await;
    model.check(&engine, context).await;
    let list = ListUploads { bucket: "bkt".into(), max_uploads: 10_000, ..Default::default() };
    for upload in engine.list_uploads(&list).unwrap().uploads {
        engine.list_parts("bkt", &upload.key, &upload.upload_id, 0, 10).unwrap();
        engine.abort_upload("bkt", &upload.key, &upload.upload_id).await.unwrap();
    }
    engine.gc(GcRequest::default()).await.unwrap();
    until(&format!("{context}: settled again"), settled).await;
    thaw(&engine, &bed, context).await;
    model.check(&engine, context).await;
    let packs: u64 = engine.stats().unwrap().tiers.iter().map(|t| t.packs).sum();
    let files = [names_in(&dir.join("ia")), names_in(&dir.join("archive"))].concat();
    assert_eq!(files.len() as u64, packs, "{context}: packs in the tiers that nobody knows: {files:?}");
    assert!(engine.gc(GcRequest { dry_run: true }).await.unwrap().dead_chunks == 0, "{context}: dead chunks");
    engine.shutdown().await.unwrap();
}

/// Makes every archived object readable.
async fn thaw(engine: &Engine, bed: &Bed, context: &str) {
    let archived = |key: &str| residency(engine, key) == Some(Residency::Cold { tier: "archive".into() });
    let keys: Vec<String> = list_all(engine, 100).into_iter().map(|o| o.key).filter(|key| archived(key)).collect();
    for key in &keys {
        let (bucket, key, priority) = ("bkt".into(), key.clone(), RestorePriority::Standard);
        match engine
            .restore_object(RestoreRequest { bucket, key, version: VersionRef::Current, days: 1, priority })
            .await
        {
            Ok(_) | Err(EngineError::RestoreInProgress) => {}
            Err(e) => panic!("{context}: {e}"),
        }
    }
    let all = || {
        bed.clock.advance(Duration::from_secs(31));
        keys.iter().all(|key| !archived(key))
    };
    until(&format!("{context}: all are restored"), all).await;
}

async fn delete_all(dir: &Path, round: u64) {
    let bed = bed(dir, round);
    let engine = bed.open().await;
    let keys: Vec<String> = list_all(&engine, 1_000).into_iter().map(|o| o.key).collect();
    common::delete_all(&engine, &keys).await;
    for _ in 0..2 {
        engine.gc(GcRequest::default()).await.unwrap();
        until("settled", || {
            bed.clock.advance(Duration::from_secs(31));
            engine.run_due_now().unwrap().jobs_open == 0
        })
        .await;
    }
    let stats = engine.stats().unwrap();
    assert_eq!((stats.local.unique_chunks, stats.local.dead_bytes), (0, 0));
    assert!(names_in(&dir.join("ia")).is_empty() && names_in(&dir.join("archive")).is_empty());
    engine.shutdown().await.unwrap();
}

/// All failpoints there are, read from the sources, so that a new one cannot be forgotten.
fn failpoints() -> Vec<String> {
    let mut names = BTreeSet::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in names_in(&sources).into_iter().filter(|p| !p.ends_with("failpoint.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        let calls = text.split("failpoint::hit(\"").skip(1);
        names.extend(calls.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    assert!(names.len() > 20, "{names:?}");
    // Those of a standby and its promotion are the test of standbys' own, which names each that it dies at.
    let standbys = include_str!("standby.rs");
    names.into_iter().filter(|name| !standbys.contains(&format!("\"{name}\""))).collect()
}

/// Dies at each of `names` in turn, on one store that lives on.
async fn die_at(names: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut round = 0;
    for name in names {
        for nth in [1, 3] {
            round += 1;
            let point = format!("{name}:{nth}");
            // It is hit by a clean stop only.
            if name == "index.before_rename" && nth > 1 {
                continue;
            }
            let mut child = spawn(dir.path(), round, Some(&point));
            let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
            let stderr = std::fs::read_to_string(dir.path().join("stderr")).unwrap();
            assert!(died(status), "failpoint {point} was not hit: {status}\n{stderr}");
            assert!(!stderr.contains("panicked"), "{point}: {stderr}");
            check_after(dir.path(), round, &mut model, &point).await;
        }
    }
    assert!(model.objects.values().flatten().count() > 0, "the children have stored something");
    delete_all(dir.path(), round + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_at_any_failpoint_of_the_engine_loses_nothing() {
    let names = failpoints();
    let ours = |n: &String| ["restore.", "transition.", "remote."].iter().any(|p| n.starts_with(p));
    die_at(&names.into_iter().filter(ours).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_at_any_other_failpoint_loses_nothing() {
    let names = failpoints();
    let ours = |n: &String| ["restore.", "transition.", "remote."].iter().any(|p| n.starts_with(p));
    die_at(&names.into_iter().filter(|n| !ours(n)).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_at_random_moments_loses_nothing() {
    let (seed, _) = seed();
    println!("TIDEGATE_SEED={seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    for round in 1..=12 {
        let lines = model.lines_read;
        let mut child = spawn(dir.path(), round, None);
        // Some acknowledged work first, then a moment that nobody chose.
        let log = dir.path().join("log");
        let grown = || std::fs::read_to_string(&log).unwrap_or_default().lines().count() > lines + 4;
        until("the child works", grown).await;
        tokio::time::sleep(Duration::from_millis(dice.below(700))).await;
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let stderr = std::fs::read_to_string(dir.path().join("stderr")).unwrap();
        assert!(died(status) && !stderr.contains("panicked"), "round {round}: {status}\n{stderr}");
        check_after(dir.path(), round, &mut model, &format!("round {round} of TIDEGATE_SEED={seed}")).await;
    }
    delete_all(dir.path(), 13).await;
}
