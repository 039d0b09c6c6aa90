//! The namespace store against a plain map, against crashes, and against damage.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_tiering::clock::{Clock, ManualClock, Timestamp};
use tidegate_tiering::meta::{
    AppliedOp, Batch, CommitObserver, DataSync, Durability, Expect, GroupStats, JournaledStore, MetaError,
    MetaSettings, MetaStore, NoData, OpenReport, Reason, Recovery, Table, dump, prefix_range, rebuild,
};

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)))
}

/// Small segments, so that tests cross many of them.
fn small() -> MetaSettings {
    MetaSettings {
        segment_bytes: 16 << 10,
        fill_ahead_bytes: 4 << 10,
        index_cache_bytes: 8 << 20,
        checkpoint_bytes: 24 << 10,
        snapshot_bytes: 1 << 40,
        ..MetaSettings::default()
    }
}

fn open(dir: &Path) -> (JournaledStore, OpenReport) {
    open_with(dir, small())
}

fn open_with(dir: &Path, settings: MetaSettings) -> (JournaledStore, OpenReport) {
    JournaledStore::open(dir, settings, Arc::new(NoData), Vec::new(), clock()).unwrap()
}

fn open_error(dir: &Path) -> MetaError {
    JournaledStore::open(dir, small(), Arc::new(NoData), Vec::new(), clock()).unwrap_err()
}

fn put(key: &str, value: &str) -> Batch {
    Batch::new(Reason::PutObject).put(Table::Object, key, value)
}

fn value(store: &JournaledStore, key: &str) -> Option<String> {
    store.get(Table::Object, key.as_bytes()).unwrap().map(|v| String::from_utf8_lossy(&v).into_owned())
}

fn contents(store: &JournaledStore) -> Model {
    let mut all = Model::new();
    for table in Table::ALL {
        let range = (Bound::Unbounded, Bound::Unbounded);
        let mut visit = |key: &[u8], value: &tidegate_tiering::meta::Value| {
            assert!(all.insert((table, key.to_vec()), value.to_vec()).is_none(), "a key was visited twice");
            ControlFlow::Continue(())
        };
        store.scan_each(table, range, &mut visit).unwrap();
    }
    all
}

fn apply(model: &mut Model, batch: &Batch) {
    for op in &batch.ops {
        match &op.value {
            Some(v) => drop(model.insert((op.table, op.key.clone()), v.clone())),
            None => drop(model.remove(&(op.table, op.key.clone()))),
        }
    }
}

fn random_batch(rng: &mut StdRng) -> Batch {
    let mut batch = Batch::new(Reason::from_code(rng.random_range(2..24)));
    for _ in 0..rng.random_range(1..6) {
        let table = Table::ALL[rng.random_range(0..Table::ALL.len())];
        let key = format!("k{:03}", rng.random_range(0..200)).into_bytes();
        if rng.random_bool(0.3) {
            batch = batch.delete(table, key);
        } else {
            batch = batch.put(table, key, vec![rng.random::<u8>(); rng.random_range(0..300)]);
        }
    }
    batch
}

fn seed() -> u64 {
    let seed = std::env::var("TIDEGATE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("TIDEGATE_TEST_SEED={seed}");
    seed
}

/// Copies a directory as a crash would leave it; `cut` may shorten a file.
fn image(from: &Path, to: &Path, cut: &dyn Fn(&Path) -> Option<u64>) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            image(&entry.path(), &target, cut);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            if let Some(len) = cut(&entry.path()) {
                std::fs::File::options().write(true).open(&target).unwrap().set_len(len).unwrap();
            }
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir.join("journal")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir.join("snapshots")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn random_batches_with_reopenings_match_a_plain_map() {
    let mut rng = StdRng::seed_from_u64(seed());
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for round in 0..8 {
        let (store, report) = open(dir.path());
        if round > 0 {
            assert!(matches!(report.recovery, Recovery::Clean | Recovery::Rebuilt { .. }), "{report:?}");
        }
        assert_eq!(report.epoch, round + 1);
        assert_eq!(contents(&store), model);
        for step in 0..150 {
            let batch = random_batch(&mut rng);
            apply(&mut model, &batch);
            store.commit_blocking(batch).unwrap();
            if step == 70 && round % 3 == 1 {
                store.snapshot_now().unwrap();
            }
        }
        assert_eq!(contents(&store), model);
        store.close().unwrap();
        match round % 4 {
            1 => std::fs::remove_dir_all(dir.path().join("sled")).unwrap(),
            2 => drop(rebuild(dir.path(), &small(), clock().as_ref(), &mut |_| {}).unwrap()),
            _ => {}
        }
    }
}

#[test]
fn a_clean_reopening_has_nothing_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open(dir.path());
    assert_eq!(report.recovery, Recovery::Created);
    store.commit_blocking(put("a", "1")).unwrap();
    store.close().unwrap();
    assert!(matches!(store.get(Table::Object, b"a"), Err(MetaError::Closed)));
    assert!(matches!(store.commit_blocking(put("b", "2")), Err(MetaError::Closed)));
    let (store, report) = open(dir.path());
    assert_eq!(report.recovery, Recovery::Clean);
    assert_eq!((report.epoch, report.last_seq), (2, 3));
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
}

#[test]
fn scans_honour_bounds_limits_and_direction() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut batch = Batch::new(Reason::PutObject).put(Table::Bucket, "z", "").put(Table::Upload, "a", "");
    for i in 0..20 {
        batch = batch.put(Table::Object, format!("k{i:02}"), format!("{i}"));
    }
    store.commit_blocking(batch).unwrap();
    let keys = |range, limit, reverse| -> Vec<String> {
        let page = store.scan(Table::Object, range, limit, reverse).unwrap();
        page.into_iter().map(|(k, _)| String::from_utf8(k).unwrap()).collect()
    };
    let all = || (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(keys(all(), 3, false), ["k00", "k01", "k02"]);
    assert_eq!(keys(all(), 2, true), ["k19", "k18"]);
    assert_eq!(keys((Bound::Excluded(b"k03".to_vec()), Bound::Excluded(b"k06".to_vec())), 9, false), ["k04", "k05"]);
    assert_eq!(keys((Bound::Included(b"k03".to_vec()), Bound::Included(b"k04".to_vec())), 9, true), ["k04", "k03"]);
    assert_eq!(keys((Bound::Included(b"k09".to_vec()), Bound::Included(b"k03".to_vec())), 9, false), [""; 0]);
    assert_eq!(keys(prefix_range(b"k1"), 100, false).len(), 10);
    assert_eq!(prefix_range(&[7, 255]), (Bound::Included(vec![7, 255]), Bound::Excluded(vec![8])));
    assert_eq!(prefix_range(&[255]), (Bound::Included(vec![255]), Bound::Unbounded));
}

#[test]
fn every_truncation_of_the_last_segment_leaves_a_whole_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) =
        open_with(dir.path(), MetaSettings { checkpoint_bytes: 1 << 40, segment_bytes: 1 << 20, ..small() });
    let mut states = BTreeMap::from([(0, Model::new()), (store.last_seq(), Model::new())]);
    let mut model = Model::new();
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..40 {
        let batch = random_batch(&mut rng);
        apply(&mut model, &batch);
        let seq = store.commit_blocking(batch).unwrap().seq;
        states.insert(seq, model.clone());
    }
    let last = segments(dir.path()).pop().unwrap();
    let len = std::fs::metadata(&last).unwrap().len();
    let mut seen = std::collections::BTreeSet::new();
    for cut in (64..len).step_by(307) {
        let copy = tempfile::tempdir().unwrap();
        image(dir.path(), copy.path(), &|p| (p == last).then_some(cut));
        // The index of the image knows records that the cut removed, which no crash does: it starts without.
        std::fs::remove_dir_all(copy.path().join("sled")).unwrap();
        let (cut_store, report) = open(copy.path());
        assert!(matches!(report.recovery, Recovery::Rebuilt { .. }), "{report:?}");
        let reached = report.last_seq - 1;
        assert_eq!(contents(&cut_store), states[&reached], "cut at {cut}");
        seen.insert(reached);
        // It goes on from there, and what it commits survives the next opening.
        cut_store.commit_blocking(put("after", "cut")).unwrap();
        cut_store.close().unwrap();
        assert_eq!(value(&open(copy.path()).0, "after").as_deref(), Some("cut"));
    }
    assert!(seen.len() > 20, "the cuts reached {seen:?}");
}

#[test]
fn garbage_after_the_last_record_is_cut_off_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit_blocking(put("a", "1")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    image(dir.path(), copy.path(), &|_| None);
    let segment = segments(copy.path()).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap().next_multiple_of(8);
    bytes[end..end + 4].copy_from_slice(b"TGJ1");
    bytes[end + 4] = 1;
    std::fs::write(&segment, &bytes).unwrap();
    let (store, report) = open(copy.path());
    let torn = report.torn_tail.expect("the torn tail is reported");
    assert_eq!((torn.file, torn.offset), (segment, end as u64));
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_damaged_record_that_was_durable_is_refused_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for i in 0..10 {
        store.commit_blocking(put(&format!("k{i}"), "v")).unwrap();
    }
    store.close().unwrap();
    // The last segment: the record at 64 is the opening one, the next at 128.
    let segment = segments(dir.path()).pop().unwrap();
    flip(&segment, 128 + 70);
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    match open_error(dir.path()) {
        MetaError::Corrupt { file, offset, help, .. } => {
            assert_eq!((file, offset), (segment, 128));
            assert!(help.contains("index rebuild"), "{help}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_or_missing_earlier_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for i in 0..200 {
        store.commit_blocking(put(&format!("k{i}"), &"v".repeat(200))).unwrap();
    }
    store.close().unwrap();
    let all = segments(dir.path());
    assert!(all.len() > 3, "{all:?}");
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let damaged = tempfile::tempdir().unwrap();
    image(dir.path(), damaged.path(), &|_| None);
    flip(&segments(damaged.path())[1], 300);
    assert!(matches!(open_error(damaged.path()), MetaError::Corrupt { .. }));
    let missing = tempfile::tempdir().unwrap();
    image(dir.path(), missing.path(), &|_| None);
    std::fs::remove_file(&segments(missing.path())[1]).unwrap();
    assert!(matches!(open_error(missing.path()), MetaError::Corrupt { .. }));
    // The last one missing: acknowledged changes are gone, which is said, not smoothed over.
    let short = tempfile::tempdir().unwrap();
    image(dir.path(), short.path(), &|_| None);
    std::fs::remove_file(segments(short.path()).pop().unwrap()).unwrap();
    let error = open_error(short.path()).to_string();
    assert!(error.contains("had been committed"), "{error}");
    let report = rebuild(short.path(), &small(), clock().as_ref(), &mut |_| {}).unwrap();
    assert!(report.records > 50);
    assert_eq!(value(&open(short.path()).0, "k0").map(|v| v.len()), Some(200));
}

#[test]
fn a_restarted_machine_means_a_new_index() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit_blocking(put("a", "1")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    image(dir.path(), copy.path(), &|_| None);
    let marker = copy.path().join("index.json");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = std::fs::read_to_string(&marker).unwrap();
    assert!(text.contains(boot.trim()));
    std::fs::write(&marker, text.replace(boot.trim(), "another-boot")).unwrap();
    let (store, report) = open(copy.path());
    match report.recovery {
        Recovery::Rebuilt { reason, .. } => assert!(reason.contains("machine restarted"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_damaged_snapshot_gives_way_to_an_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for (i, key) in ["a", "b", "c"].iter().enumerate() {
        for j in 0..100 {
            store.commit_blocking(put(&format!("{key}{j}"), &"x".repeat(100))).unwrap();
        }
        store.snapshot_now().unwrap();
        assert_eq!(snapshots(dir.path()).len(), (i + 1).min(2));
    }
    store.commit_blocking(put("last", "one")).unwrap();
    let all = contents(&store);
    assert!(!segments(dir.path())[0].ends_with("00000000000000000001.seg"), "nothing was retired");
    store.close().unwrap();
    let kept = snapshots(dir.path());
    flip(&kept[1], 5000);
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let (store, report) = open(dir.path());
    let older: u64 = kept[0].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(matches!(report.recovery, Recovery::Rebuilt { snapshot: Some(s), .. } if s == older), "{report:?}");
    assert_eq!(contents(&store), all);
    store.close().unwrap();
    // With both damaged and the beginning of the journal retired, nothing is guessed.
    flip(&kept[0], 5000);
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    assert!(matches!(open_error(dir.path()), MetaError::Corrupt { .. }));
}

#[test]
fn snapshots_taken_while_commits_go_on_rebuild_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (store, stop) = (Arc::new(store), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..3)
        .map(|w| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut rng = StdRng::seed_from_u64(w);
                while !stop.load(Ordering::Relaxed) {
                    store.commit_blocking(random_batch(&mut rng)).unwrap();
                }
            })
        })
        .collect();
    for _ in 0..5 {
        store.snapshot_now().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|w| w.join().unwrap());
    let all = contents(&store);
    store.close().unwrap();
    let mut loaded = 0;
    let report = rebuild(dir.path(), &small(), clock().as_ref(), &mut |_| loaded += 1).unwrap();
    assert!(report.snapshot.is_some());
    assert!(loaded > 0);
    assert_eq!(contents(&open(dir.path()).0), all);
}

#[test]
fn preconditions_see_the_batches_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let at = |key: &str| (Table::Object, key.as_bytes().to_vec());
    let commit = |batch| store.commit_blocking(batch);
    let (t, k) = at("a");
    commit(put("a", "1").expect(Expect::Absent(t, k.clone()))).unwrap();
    match commit(put("a", "2").put(Table::Object, "b", "2").expect(Expect::Absent(t, k.clone()))) {
        Err(MetaError::Conflict { table, key }) => assert_eq!((table, key), (Table::Object, b"a".to_vec())),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(&store, "b"), None);
    commit(put("a", "2").expect(Expect::Equals(t, k.clone(), b"1".to_vec()))).unwrap();
    assert!(commit(put("a", "3").expect(Expect::Equals(t, k.clone(), b"1".to_vec()))).is_err());
    commit(put("a", "3").expect(Expect::EqualsDigest(t, k.clone(), *blake3::hash(b"2").as_bytes()))).unwrap();
    assert!(commit(put("c", "1").expect(Expect::Present(t, b"c".to_vec()))).is_err());
    assert!(commit(put("c", "1").expect(Expect::EmptyPrefix(t, Vec::new()))).is_err());
    commit(put("c", "1").expect(Expect::EmptyPrefix(t, b"x".to_vec()))).unwrap();
    // No operations: the preconditions are the answer.
    commit(Batch::new(Reason::System).expect(Expect::Present(t, k))).unwrap();
    assert_eq!(value(&store, "a").as_deref(), Some("3"));
}

/// Holds the first data sync back until `release`, so that later commits pile up behind it.
#[derive(Default)]
struct Gate {
    entered: AtomicUsize,
    open: AtomicBool,
    fail: AtomicBool,
}

impl DataSync for Gate {
    fn sync(&self) -> std::io::Result<()> {
        self.entered.fetch_add(1, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        match self.fail.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("injected")),
            false => Ok(()),
        }
    }
}

#[derive(Default)]
struct Watch {
    groups: Mutex<Vec<GroupStats>>,
    seqs: Mutex<Vec<u64>>,
    olds: Mutex<Vec<Option<Vec<u8>>>>,
}

impl CommitObserver for Watch {
    fn applied(&self, seq: u64, ops: &[AppliedOp]) {
        self.seqs.lock().unwrap().push(seq);
        self.olds.lock().unwrap().extend(ops.iter().map(|op| op.old.as_ref().map(|v| v.to_vec())));
    }

    fn group(&self, stats: &GroupStats) {
        self.groups.lock().unwrap().push(*stats);
    }
}

fn gated() -> (tempfile::TempDir, Arc<Gate>, Arc<Watch>, Arc<JournaledStore>) {
    let dir = tempfile::tempdir().unwrap();
    let (gate, watch) = (Arc::new(Gate::default()), Arc::new(Watch::default()));
    let observers: Vec<Arc<dyn CommitObserver>> = vec![watch.clone()];
    let (store, _) = JournaledStore::open(dir.path(), small(), gate.clone(), observers, clock()).unwrap();
    (dir, gate, watch, Arc::new(store))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_commits_share_one_group_and_conflicts_are_decided_within_it() {
    let (_dir, gate, watch, store) = gated();
    macro_rules! start {
        ($batch:expr) => {{
            let (store, batch) = (Arc::clone(&store), $batch);
            let mut task = Box::pin(async move { store.commit(batch).await });
            // Polled once, the batch is in the queue: the order of the group is the order of these lines.
            assert!(futures::poll!(&mut task).is_pending());
            task
        }};
    }
    let first = start!(put("first", "1").with_data());
    while gate.entered.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let key = || (Table::Object, b"k".to_vec());
    let (t, k) = key();
    let absent = || Expect::Absent(key().0, key().1);
    let winner = start!(put("k", "winner").expect(absent()));
    let loser = start!(put("k", "loser").expect(absent()));
    let swap = start!(put("k", "swapped").expect(Expect::Equals(t, k.clone(), b"winner".to_vec())));
    let empty = start!(put("e", "1").expect(Expect::EmptyPrefix(t, k.clone())));
    let clear = start!(Batch::new(Reason::DeleteObject).delete(t, k.clone()));
    let now_empty = start!(put("e", "2").expect(Expect::EmptyPrefix(t, k)));
    gate.open.store(true, Ordering::SeqCst);
    first.await.unwrap();
    winner.await.unwrap();
    assert!(matches!(loser.await, Err(MetaError::Conflict { .. })));
    swap.await.unwrap();
    assert!(matches!(empty.await, Err(MetaError::Conflict { .. })));
    clear.await.unwrap();
    now_empty.await.unwrap();
    while watch.groups.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let groups = watch.groups.lock().unwrap().clone();
    assert_eq!((groups[0].records, groups[0].conflicts), (1, 0));
    assert_eq!((groups[1].records, groups[1].conflicts), (4, 2));
    assert_eq!(gate.entered.load(Ordering::SeqCst), 1, "only the group with bodies syncs them");
    assert_eq!(*watch.seqs.lock().unwrap(), [2, 3, 4, 5, 6]);
    let olds = watch.olds.lock().unwrap().clone();
    assert_eq!(olds[1..4], [None, Some(b"winner".to_vec()), Some(b"swapped".to_vec())]);
    assert_eq!(value(&store, "e").as_deref(), Some("2"));
}

#[test]
fn a_failed_sync_poisons_writes_but_not_reads_until_reopened() {
    let (dir, gate, _watch, store) = gated();
    gate.open.store(true, Ordering::SeqCst);
    store.commit_blocking(put("a", "1").with_data()).unwrap();
    gate.fail.store(true, Ordering::SeqCst);
    let lost = store.commit_blocking(put("b", "1").with_data());
    assert!(matches!(lost, Err(MetaError::Poisoned { .. })), "{lost:?}");
    gate.fail.store(false, Ordering::SeqCst);
    let after = store.commit_blocking(put("c", "1")).unwrap_err();
    assert!(after.to_string().contains("injected"), "{after}");
    assert!(!after.is_retryable());
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
    assert!(store.close().is_err());
    let (store, report) = open(dir.path());
    assert!(matches!(report.recovery, Recovery::Replayed { .. }), "{report:?}");
    assert_eq!((value(&store, "a").as_deref(), value(&store, "b")), (Some("1"), None));
    store.commit_blocking(put("c", "1")).unwrap();
}

#[test]
fn a_second_opener_is_told_who_has_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = open(dir.path());
    match open_error(dir.path()) {
        MetaError::Locked { pid, since, .. } => {
            assert_eq!(pid, std::process::id().to_string());
            assert_eq!(since, "2023-11-14T22:13:20.000Z");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn unacceptable_batches_and_settings_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let bad = MetaSettings { segment_bytes: 10, ..small() };
    let error = JournaledStore::open(dir.path(), bad, Arc::new(NoData), Vec::new(), clock()).unwrap_err();
    assert!(error.to_string().contains("segment_bytes"), "{error}");
    let (store, _) = open(dir.path());
    assert!(matches!(store.commit_blocking(put(&"k".repeat(9000), "v")), Err(MetaError::Invalid(_))));
    let huge = Batch::new(Reason::PutObject).put(Table::Object, "k", vec![0u8; 17 << 20]);
    assert!(matches!(store.commit_blocking(huge), Err(MetaError::Invalid(_))));
    // Larger than a segment is fine.
    let large = Batch::new(Reason::PutObject).put(Table::Object, "large", vec![1u8; 100 << 10]);
    store.commit_blocking(large).unwrap();
    store.commit_blocking(put("small", "v")).unwrap();
    store.close().unwrap();
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let (store, _) = open(dir.path());
    assert_eq!(store.get(Table::Object, b"large").unwrap().map(|v| v.len()), Some(100 << 10));
    assert_eq!(value(&store, "small").as_deref(), Some("v"));
}

#[test]
fn relaxed_commits_become_durable_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Arc::new(Watch::default());
    let relaxed = Durability::Relaxed { sync_every: Duration::from_millis(5) };
    let settings = MetaSettings { durability: relaxed, ..small() };
    let (gate, observers) = (Arc::new(Gate::default()), vec![watch.clone() as Arc<dyn CommitObserver>]);
    gate.open.store(true, Ordering::SeqCst);
    let (store, _) = JournaledStore::open(dir.path(), settings, gate.clone(), observers, clock()).unwrap();
    store.commit_blocking(put("a", "1").with_data()).unwrap();
    while watch.groups.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(watch.groups.lock().unwrap()[0].journal_sync, Duration::ZERO);
    while gate.entered.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    store.commit_blocking(put("b", "1").with_data()).unwrap();
    store.sync().unwrap();
    assert!(gate.entered.load(Ordering::SeqCst) >= 2);
    store.close().unwrap();
    assert_eq!(value(&open(dir.path()).0, "b").as_deref(), Some("1"));
}

#[test]
fn the_dump_tells_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit_blocking(put("a", "1").delete(Table::Due, "d")).unwrap();
    store.close().unwrap();
    let mut records = Vec::new();
    dump(dir.path(), 0, &mut |r| records.push(r)).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].seq, records[0].reason, records[0].ops.len()), (1, Reason::Opened, 0));
    assert_eq!((records[1].seq, records[1].epoch, records[1].reason), (2, 1, Reason::PutObject));
    assert_eq!(records[1].time, Timestamp(1_700_000_000_000));
    assert_eq!(records[1].ops, put("a", "1").delete(Table::Due, "d").ops);
    let mut later = 0;
    dump(dir.path(), 2, &mut |_| later += 1).unwrap();
    assert_eq!(later, 1);
}

const CHILD_DIR: &str = "TIDEGATE_TEST_META_CHILD";
const CHILD_FAILPOINT: &str = "TIDEGATE_TEST_META_FAILPOINT";

/// Not a test of its own: the process that the next test kills.
#[test]
fn child_commits_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (store, _) = open(Path::new(&dir));
    let store = Arc::new(store);
    if let Ok(failpoint) = std::env::var(CHILD_FAILPOINT) {
        let (name, nth) = failpoint.split_once(':').unwrap();
        tidegate_tiering::failpoint::set(name, nth.parse().unwrap());
        let store = Arc::clone(&store);
        std::thread::spawn(move || while store.snapshot_now().is_ok() {});
    }
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                for i in 0.. {
                    let batch = put(&format!("w{w}-{i:06}"), "v").put(Table::Due, format!("w{w}-{i:06}"), "d");
                    store.commit_blocking(batch).unwrap();
                    println!("ack w{w}-{i:06}");
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
}

/// Runs the child on `dir` until it ends or has acknowledged `until` commits; returns what it acknowledged.
fn run_child(dir: &Path, failpoint: Option<&str>, until: usize) -> Vec<String> {
    use std::io::{BufRead, BufReader};
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["child_commits_until_killed", "--exact", "--nocapture"]).env(CHILD_DIR, dir);
    if let Some(failpoint) = failpoint {
        command.env(CHILD_FAILPOINT, failpoint);
    }
    let (out, null) = (std::process::Stdio::piped(), std::process::Stdio::null());
    let mut child = command.stdout(out).stderr(null).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acks: Vec<String> = Vec::new();
    for line in lines {
        // The last line may be cut short.
        acks.extend(line.split("ack ").nth(1).filter(|k| k.len() == 9).map(str::to_owned));
        if acks.len() == until {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acks
}

/// Opens what the child left and compares.
fn check_after_crash(dir: &Path, acks: &[String]) -> OpenReport {
    let (store, report) = open(dir);
    assert!(matches!(report.recovery, Recovery::Replayed { .. } | Recovery::Rebuilt { .. }), "{report:?}");
    for key in acks {
        assert_eq!(value(&store, key).as_deref(), Some("v"), "{key} was acknowledged");
    }
    let all = contents(&store);
    for (table, key) in all.keys() {
        let other = if *table == Table::Object { Table::Due } else { Table::Object };
        assert!(all.contains_key(&(other, key.clone())), "half of a batch: {table:?} {key:?}");
    }
    store.close().unwrap();
    // The journal alone must say the same as the index that was brought up to date.
    rebuild(dir, &small(), clock().as_ref(), &mut |_| {}).unwrap();
    let (store, _) = open(dir);
    assert_eq!(contents(&store), all);
    store.close().unwrap();
    report
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_and_no_batch_is_halved() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let acks = run_child(dir.path(), None, 700 + 300 * round);
        let report = check_after_crash(dir.path(), &acks);
        println!("round {round}: {} acknowledged, {:?}", acks.len(), report.recovery);
    }
}

#[test]
fn a_crash_after_each_durable_step_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let commits = ["journal.before_write", "journal.after_write", "journal.after_sync", "meta.after_apply"];
    let snapshots = ["snapshot.before_rename", "snapshot.after_rename", "snapshot.after_retire"];
    let cases = commits.iter().map(|name| (name, 150)).chain(snapshots.iter().map(|name| (name, 4)));
    for (name, nth) in cases {
        let acks = run_child(dir.path(), Some(&format!("{name}:{nth}")), usize::MAX);
        let report = check_after_crash(dir.path(), &acks);
        println!("{name}: {} acknowledged, {:?}", acks.len(), report.recovery);
    }
}
