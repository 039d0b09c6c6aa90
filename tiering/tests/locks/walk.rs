//! No sequence of operations takes a locked version away before its time, or changes a byte of it.

use super::common::copy_all;
use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    /// Key, days of retention in a mode, legal hold.
    Put(usize, Option<(RetentionMode, u32)>, Option<bool>),
    Copy(usize),
    Marker(usize),
    /// Which version, and whether governance is bypassed.
    Remove(usize, bool),
    Retain(usize, Option<(RetentionMode, u32)>, bool),
    Hold(usize, bool),
    Default(Option<(RetentionMode, u32)>),
    Hours(u32),
    Reclaim,
    Repair,
    Crash,
}

fn retention() -> impl Strategy<Value = Option<(RetentionMode, u32)>> {
    prop::option::of((prop_oneof![Just(Governance), Just(Compliance)], 1u32..12))
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0usize..1_000;
    prop_oneof![
        6 => (n(), retention(), prop::option::of(any::<bool>())).prop_map(|(k, r, h)| Op::Put(k, r, h)),
        1 => n().prop_map(Op::Copy),
        2 => n().prop_map(Op::Marker),
        6 => (n(), any::<bool>()).prop_map(|(n, b)| Op::Remove(n, b)),
        3 => (n(), retention(), any::<bool>()).prop_map(|(n, r, b)| Op::Retain(n, r, b)),
        2 => (n(), any::<bool>()).prop_map(|(n, h)| Op::Hold(n, h)),
        1 => retention().prop_map(Op::Default),
        5 => (1u32..100).prop_map(Op::Hours),
        1 => Just(Op::Reclaim),
        1 => Just(Op::Repair),
        1 => Just(Op::Crash),
    ]
}

/// A version as the model has it. What rules may have taken is no matter of the model, only what they must not take.
#[derive(Debug, Clone)]
struct Version {
    key: String,
    id: VersionId,
    bytes: Vec<u8>,
    retention: Option<(RetentionMode, Timestamp)>,
    hold: bool,
}

impl Version {
    fn kept(&self, now: Timestamp) -> bool {
        self.hold || self.retention.is_some_and(|(_, until)| until > now)
    }
}

struct World {
    folders: Vec<tempfile::TempDir>,
    bed: Bed,
    engine: Engine,
    versions: Vec<Version>,
    default: Option<(RetentionMode, u32)>,
    written: u64,
}

impl World {
    async fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bed = bed(dir.path());
        let engine = locked(&bed).await;
        Self { folders: vec![dir], bed, engine, versions: Vec::new(), default: None, written: 0 }
    }

    fn now(&self) -> Timestamp {
        self.bed.clock.now()
    }

    fn at(&self, asked: Option<(RetentionMode, u32)>) -> Option<(RetentionMode, Timestamp)> {
        asked.map(|(mode, days)| (mode, self.now().plus(DAY * days)))
    }

    fn pick(&self, n: usize) -> Option<usize> {
        (!self.versions.is_empty()).then(|| n % self.versions.len())
    }

    async fn put(&mut self, n: usize, asked: Option<(RetentionMode, u32)>, hold: Option<bool>) {
        self.written += 1;
        let (key, bytes) = (format!("k{}", n % 3), noise(self.written, 2_000));
        let retention = self.at(asked).map(|(mode, until)| Retention { mode, until });
        let id = put_locked(&self.engine, &key, &bytes, (retention, hold)).await.unwrap().version;
        let retention = self.at(asked.or(self.default));
        self.versions.push(Version { key, id, bytes, retention, hold: hold == Some(true) });
    }

    async fn remove(&mut self, n: usize, bypass: bool) {
        let Some(n) = self.pick(n) else { return };
        let version = self.versions[n].clone();
        let active = version.retention.filter(|(_, until)| *until > self.now());
        let stays = version.hold || active.is_some_and(|(mode, _)| mode == Compliance || !bypass);
        let outcome = remove(&self.engine, &version.key, id(version.id), bypass).await;
        assert_eq!(is_locked(&outcome), stays, "{outcome:?} {version:?}");
        if !stays {
            outcome.unwrap();
            self.versions.remove(n);
        }
    }

    async fn retain(&mut self, n: usize, asked: Option<(RetentionMode, u32)>, bypass: bool) {
        let Some(n) = self.pick(n) else { return };
        let (version, new) = (self.versions[n].clone(), self.at(asked));
        let allowed = match version.retention.filter(|(_, until)| *until > self.now()) {
            None => true,
            Some((Governance, _)) if bypass => true,
            Some((mode, until)) => new.is_some_and(|(to, later)| to == mode && later >= until),
        };
        let new_retention = new.map(|(mode, until)| Retention { mode, until });
        let set = self.engine.set_retention(("bkt", &version.key), id(version.id), new_retention, bypass).await;
        match set {
            // Only a rule can have taken it.
            Err(EngineError::NoSuchVersion { .. }) if !version.kept(self.now()) => {}
            other => {
                assert_eq!(other.is_ok(), allowed, "{other:?} {version:?} {new:?}");
                assert!(allowed || is_locked(&other), "{other:?}");
                if allowed {
                    self.versions[n].retention = new;
                }
            }
        }
    }

    async fn crash(&mut self) {
        // What is on the disk now, and nothing that a shutdown would add.
        let dir = tempfile::tempdir().unwrap();
        copy_all(&self.bed.dir, dir.path());
        self.engine.shutdown().await.unwrap();
        self.bed.dir = dir.path().to_owned();
        self.bed.settings.data_dir = dir.path().to_owned();
        self.folders.push(dir);
        self.engine = self.bed.open().await;
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(n, asked, hold) => self.put(n, asked, hold).await,
            Op::Copy(n) => {
                let Some(n) = self.pick(n) else { return };
                let from = self.versions[n].clone();
                if self.engine.open_object("bkt", &from.key).is_ok() {
                    common::copy(&self.engine, &from.key, "k0", None).await.unwrap();
                }
            }
            Op::Marker(n) => {
                let done = remove(&self.engine, &format!("k{}", n % 3), VersionRef::Current, true).await.unwrap();
                assert!(done.marker);
            }
            Op::Remove(n, bypass) => self.remove(n, bypass).await,
            Op::Retain(n, asked, bypass) => self.retain(n, asked, bypass).await,
            Op::Hold(n, hold) => {
                let Some(n) = self.pick(n) else { return };
                let version = self.versions[n].clone();
                let set = self.engine.set_legal_hold(("bkt", &version.key), id(version.id), hold).await;
                match set {
                    Err(EngineError::NoSuchVersion { .. }) if !version.kept(self.now()) => {}
                    other => {
                        other.unwrap();
                        self.versions[n].hold = hold;
                    }
                }
            }
            Op::Default(asked) => {
                let default = asked.map(|(mode, days)| DefaultRetention { mode, period: Period::Days(days) });
                self.engine.set_object_lock("bkt", BucketLock { default }).await.unwrap();
                self.default = asked;
            }
            Op::Hours(hours) => {
                self.bed.clock.advance(Duration::from_secs(3_600) * hours);
                work(&self.engine).await;
            }
            Op::Reclaim => {
                self.engine.gc(GcRequest::default()).await.unwrap();
                self.engine.evict(u64::MAX).await.unwrap();
                work(&self.engine).await;
            }
            Op::Repair => {
                let request = FsckRequest { repair: true, ..FsckRequest::default() };
                let estimate = self.engine.fsck_estimate(&request, |_| None).unwrap();
                self.engine.fsck(&request, estimate, |_| {}).await.unwrap();
            }
            Op::Crash => self.crash().await,
        }
    }

    async fn check(&self, op: &Op) {
        for version in self.versions.iter().filter(|version| version.kept(self.now())) {
            let bytes = get_version(&self.engine, &version.key, id(version.id)).await;
            assert!(matches!(&bytes, Ok(bytes) if *bytes == version.bytes), "after {op:?}: {version:?} {bytes:?}");
        }
    }
}

async fn run(ops: &[Op]) {
    let mut world = World::begin().await;
    for op in ops {
        world.step(op).await;
        world.check(op).await;
    }
    // And all goes once nothing keeps it.
    for n in 0..world.versions.len() {
        let Version { key, id: version, .. } = world.versions[n].clone();
        let _ = world.engine.set_legal_hold(("bkt", &key), id(version), false).await;
    }
    world.bed.clock.advance(DAY * 100);
    for _ in 0..4 {
        work(&world.engine).await;
        world.bed.clock.advance(DAY * 5);
    }
    let left = world.engine.list_versions(&ListVersions { bucket: "bkt".into(), max: 1_000, ..Default::default() });
    assert!(left.unwrap().entries.iter().all(|entry| entry.marker), "rules take up again what they passed over");
    world.engine.shutdown().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_takes_a_locked_version_away(ops in prop::collection::vec(op(), 1..50)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run(&ops));
    }
}
