//! Preconditions, group commit, observers, failing syncs, relaxed durability.

use super::*;

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
