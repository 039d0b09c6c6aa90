//! What the store does when nothing goes wrong, and what it refuses.

use super::*;

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
