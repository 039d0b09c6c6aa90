//! Torn tails, damaged files, missing files, snapshots.

use super::*;

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

/// A store with one object as a killed process leaves it: its folder, the last segment, and that one's bytes.
fn left_by_a_kill() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.commit_blocking(put("a", "1")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    image(dir.path(), copy.path(), &|_| None);
    let segment = segments(copy.path()).pop().unwrap();
    let bytes = std::fs::read(&segment).unwrap();
    (copy, segment, bytes)
}

#[test]
fn garbage_after_the_last_record_is_cut_off_and_reported() {
    let (copy, segment, mut bytes) = left_by_a_kill();
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
fn a_record_of_a_later_version_is_refused_and_not_cut_off() {
    let (copy, segment, mut bytes) = left_by_a_kill();
    // The opening record is at 64; the one at 128 is the last.
    assert_eq!(&bytes[128..133], b"TGJ1\x01");
    bytes[132] = 2;
    std::fs::write(&segment, &bytes).unwrap();
    let refused = open_error(copy.path()).to_string();
    for part in [&*segment.to_string_lossy(), "byte 128", "version 2", "newer server"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "nothing was cut off");
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
    assert!(error.contains("this segment is gone"), "{error}");
    std::fs::remove_file(short.path().join("journal/reach")).unwrap();
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
