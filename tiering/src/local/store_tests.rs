use super::super::gc::Doubt;
use super::super::testing::{chunk, crash_image, is_there, open, open_limited, put_all};
use super::super::{LocalError, Put, SweepGoal};
use super::*;
use crate::chunk::Codec;
use crate::pack::{FrameKind, PackClass};
use std::fs;

fn files(dir: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

#[test]
fn chunks_come_back_at_once_after_sync_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open(dir.path());
    assert_eq!(report, RecoveryReport::default());
    put_all(&store, 0..200);
    assert!((0..200).all(|n| is_there(&store, n)));
    store.sync().unwrap();
    assert!((0..200).all(|n| is_there(&store, n)));
    let usage = store.usage();
    assert_eq!((usage.chunks, usage.dead_bytes, usage.offered_chunks), (200, 0, 200));
    assert!(usage.packs > 3 && files(dir.path(), "pack").len() > 2);
    drop(store);
    let (store, report) = open(dir.path());
    assert_eq!((report.chunks, report.torn_bytes, report.damaged.len()), (200, 0, 0));
    assert!((0..200).all(|n| is_there(&store, n)));
    assert!(!is_there(&store, 201));
}

#[test]
fn a_second_put_is_a_duplicate_and_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..50);
    let before = store.usage();
    let mut ingest = store.begin();
    for n in 0..50 {
        let (id, raw) = chunk(n);
        assert_eq!(ingest.put(FrameKind::Chunk, id, &raw).unwrap(), Put::Duplicate);
    }
    let after = store.usage();
    assert_eq!(after.file_bytes, before.file_bytes);
    assert_eq!(after.duplicate_chunks, 50);
}

#[test]
fn a_sync_covers_packs_that_filled_up_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..120);
    assert!(store.inner.packs.waiting_to_seal() > 0);
    store.sync().unwrap();
    assert_eq!(store.inner.packs.waiting_to_seal(), 0);
    let image = crash_image(dir.path());
    let (again, report) = open(image.path());
    assert_eq!((report.chunks, report.torn_bytes), (120, 0));
    assert!((0..120).all(|n| is_there(&again, n)));
}

#[test]
fn an_open_pack_is_recovered_from_a_cut_at_every_byte_of_its_last_two_frames() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut ends = Vec::new();
    let mut ingest = store.begin();
    let bodies: Vec<Bytes> = (0..6u8).map(|n| Bytes::from(vec![n; 40 + n as usize])).collect();
    for raw in &bodies {
        ingest.put(FrameKind::Chunk, ChunkId::of(raw), raw).unwrap();
        ends.push(store.usage().file_bytes);
    }
    store.sync().unwrap();
    let open_file = files(dir.path(), "open").remove(0);
    let whole = fs::read(&open_file).unwrap();
    assert_eq!(whole.len() as u64, ends[5]);
    for cut in ends[3]..=ends[5] {
        for garbage in [&b""[..], &[0; 70], b"TGFR-but-not-really-a-frame-header-because-the-checksum-differs"] {
            let image = tempfile::tempdir().unwrap();
            let mut torn = whole[..cut as usize].to_vec();
            torn.extend_from_slice(garbage);
            fs::write(image.path().join(open_file.file_name().unwrap()), torn).unwrap();
            let (again, report) = open(image.path());
            let whole_frames = ends.iter().filter(|e| **e <= cut).count();
            assert_eq!(report.chunks as usize, whole_frames, "cut at {cut}");
            assert_eq!(report.torn_bytes, cut + garbage.len() as u64 - ends[whole_frames - 1]);
            for (n, raw) in bodies.iter().enumerate() {
                assert_eq!(again.read(&ChunkId::of(raw)).unwrap().is_some(), n < whole_frames);
            }
            // It goes on being written to, and is sound afterwards.
            put_all(&again, 0..3);
            again.sync().unwrap();
            let third_image = crash_image(image.path());
            let (third, report) = open(third_image.path());
            assert_eq!((report.torn_bytes, report.damaged.len()), (0, 0));
            assert!((0..3).all(|n| is_there(&third, n)));
        }
    }
}

#[test]
fn whole_frames_after_a_damaged_place_in_an_open_pack_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..8);
    store.sync().unwrap();
    let image = crash_image(dir.path());
    let file = files(image.path(), "open").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (again, report) = open(image.path());
    assert_eq!((report.chunks, report.damaged.len()), (7, 1));
    assert!(!is_there(&again, 0) && (1..8).all(|n| is_there(&again, n)));
    again.sync().unwrap();
    let (third, report) = open(image.path());
    assert_eq!((report.chunks, report.damaged.len(), report.sealed_packs), (7, 0, 1));
    assert!((1..8).all(|n| is_there(&third, n)));
}

#[test]
fn a_sealed_pack_whose_footer_is_damaged_is_read_frame_by_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..60);
    store.sync().unwrap();
    drop(store);
    let file = files(dir.path(), "pack").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (again, report) = open(dir.path());
    assert_eq!((report.chunks, report.damaged.len()), (60, 1));
    assert!((0..60).all(|n| is_there(&again, n)));
}

#[test]
fn a_damaged_chunk_is_an_error_once_and_can_then_be_stored_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..5);
    let (id, raw) = chunk(2);
    let place = store.inner.index.get(&id).unwrap();
    let pack = store.inner.packs.get(place.slot).unwrap();
    let path = pack.path(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let last = place.offset as usize + place.frame_len() as usize - 1;
    bytes[last] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let error = store.read(&id).unwrap_err();
    assert!(
        matches!(&error, LocalError::Corrupt { id: i, offset, .. } if *i == id && *offset == place.offset),
        "{error}"
    );
    assert_eq!(store.read(&id).unwrap(), None);
    let put = store.begin().put(FrameKind::Chunk, id, &raw).unwrap();
    assert!(matches!(put, Put::Stored { .. }));
    assert!(is_there(&store, 2));
}

#[test]
fn the_budget_is_never_exceeded_by_what_lies_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 1 << 20;
    let (store, _) = open_limited(dir.path(), limit);
    let mut ingest = store.begin();
    let mut refused = None;
    for n in 0..2_000 {
        let (id, raw) = chunk(n);
        if let Err(e) = ingest.put(FrameKind::Chunk, id, &raw) {
            refused = Some((n, e));
            break;
        }
        if n.is_multiple_of(20) {
            store.sync().unwrap();
        }
        let on_disk: u64 = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len().next_multiple_of(4096))
            .sum();
        assert!(on_disk <= store.budget().used() && store.budget().used() <= limit);
    }
    let (n, error) = refused.unwrap();
    assert!(matches!(&error, LocalError::Full { reason } if reason.contains("hot.max_bytes")), "{error}");
    assert!((0..n).all(|n| is_there(&store, n)));
    // Duplicates still go: they take no room.
    let (id, raw) = chunk(0);
    assert_eq!(ingest.put(FrameKind::Chunk, id, &raw).unwrap(), Put::Duplicate);
}

#[test]
fn frames_go_to_another_store_as_they_are() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = open(dir.path());
    let (second, _) = open(other.path());
    put_all(&store, 0..40);
    let mut ingest = second.begin();
    for n in 0..40 {
        let (id, raw) = chunk(n);
        let frame = store.read_frame(&id).unwrap().unwrap();
        assert_eq!(frame.raw_len as usize, raw.len());
        assert!(frame.codec == Codec::Raw || frame.stored.len() < raw.len());
        ingest.put_frame(id, &frame, PackClass::Cache).unwrap();
    }
    assert!((0..40).all(|n| is_there(&second, n)));
    let (id, _) = chunk(0);
    let frame = store.read_frame(&id).unwrap().unwrap();
    let wrong = ingest.put_frame(ChunkId([1; 32]), &frame, PackClass::Remote);
    assert!(matches!(wrong, Err(LocalError::Invalid(_))));
}

#[test]
fn a_footer_that_could_not_be_written_is_tried_again_and_its_pack_is_not_lost_to_sweeps() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..5);
    store.sync().unwrap();
    // A file that cannot grow, as on a full disk.
    let narrow = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    let narrow = Arc::new(fs::File::from(narrow));
    let lane = store.inner.lanes.all().find(|l| l.lock().unwrap().is_some()).unwrap();
    let mut lane = lane.lock().unwrap();
    let open = lane.as_mut().unwrap();
    let (length, entries) = (open.writer.len(), open.writer.entries().to_vec());
    narrow.set_len(length).unwrap();
    rustix::fs::fcntl_add_seals(&narrow, rustix::fs::SealFlags::GROW).unwrap();
    let header = crate::pack::PackHeader { id: open.pack.id, class: open.pack.class, created_ms: 0 };
    let narrow = crate::pack::writer::PackWriter::resume(narrow, header, entries, length);
    let whole = std::mem::replace(&mut open.writer, narrow);
    assert!(store.inner.complete(&mut lane).is_err());
    let open = lane.as_mut().unwrap();
    assert!(!open.writer.is_broken() && open.writer.len() == length);
    open.writer = whole;
    drop(store.inner.complete(&mut lane).unwrap().unwrap());
    drop(lane);
    store.sync().unwrap();
    assert_eq!((store.usage().packs, store.usage().open_packs), (1, 0));
    assert_eq!(store.usage().charged_bytes, store.budget().used());
    assert!((0..5).all(|n| is_there(&store, n)));
}

#[test]
fn writers_and_readers_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    std::thread::scope(|s| {
        for writer in 0..4u64 {
            let store = store.clone();
            s.spawn(move || {
                for round in 0..10 {
                    // Half of the chunks are common to all writers.
                    put_all(
                        &store,
                        (0..30u64).map(|i| {
                            if i.is_multiple_of(2) { round * 30 + i } else { writer * 10_000 + round * 30 + i }
                        }),
                    );
                    store.sync().unwrap();
                    assert!((0..30).all(|i| i % 2 == 1 || is_there(&store, round * 30 + i)));
                }
            });
        }
    });
    assert_eq!(store.usage().chunks, 150 + 4 * 150);
    drop(store);
    let (again, report) = open(dir.path());
    assert_eq!(report.chunks, 750);
    assert_eq!(again.ingests(), 0);
}

#[test]
fn more_packs_than_open_files_are_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..600);
    store.sync().unwrap();
    assert!(store.usage().packs > 12);
    for _ in 0..2 {
        assert!((0..600).all(|n| is_there(&store, n)));
    }
}

#[test]
fn a_snapshot_and_the_footers_give_the_same_index() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..150);
    store.sync().unwrap();
    assert!(store.save_index().unwrap() > 100);
    put_all(&store, 150..250);
    store.sync().unwrap();
    let usage = store.usage();
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.snapshot.unwrap().contains("covers"));
    let with = (store.usage().chunks, store.usage().live_bytes, store.usage().dead_bytes, store.usage().raw_bytes);
    assert_eq!(with, (usage.chunks, usage.live_bytes, usage.dead_bytes, usage.raw_bytes));
    assert!((0..250).all(|n| is_there(&store, n)));
    drop(store);
    super::super::snapshot::discard(dir.path()).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!((report.snapshot, report.chunks), (None, 250));
    assert_eq!(store.usage().live_bytes, usage.live_bytes);
}

#[test]
fn a_snapshot_damaged_at_any_place_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..60);
    store.sync().unwrap();
    store.save_index().unwrap();
    drop(store);
    let file = dir.path().join("index.snap");
    let good = fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&file, bad).unwrap();
        let (store, report) = open(dir.path());
        assert!(!report.snapshot.unwrap().contains("covers"), "byte {at}");
        assert!((0..60).all(|n| is_there(&store, n)), "byte {at}");
        assert_eq!(store.usage().charged_bytes, store.budget().used());
    }
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    assert!((0..60).all(|n| is_there(&open(dir.path()).0, n)));
}

#[test]
fn a_scrub_finds_damage_and_the_damage_is_remembered_across_openings() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..100);
    store.sync().unwrap();
    let (id, raw) = chunk(3);
    let place = store.inner.index.get(&id).unwrap();
    let path = store.inner.packs.get(place.slot).unwrap().path(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[place.offset as usize + 55] ^= 1;
    fs::write(&path, bytes).unwrap();
    let until = store.begin_scrub().unwrap().unwrap();
    let (mut after, mut damaged, mut chunks) = (None, Vec::new(), 0);
    while let Some(step) = store.scrub_some(after, until, 10_000).unwrap() {
        assert!(step.bytes < 20_000, "a step ends with the frame that fills it");
        after = Some(step.next);
        damaged.extend(step.damaged);
        chunks += step.chunks;
    }
    assert_eq!(damaged, [id]);
    assert!(chunks > 50);
    drop(store);
    let (store, report) = open(dir.path());
    assert_eq!(report.chunks, 99);
    assert!(matches!(store.begin().put(FrameKind::Chunk, id, &raw).unwrap(), Put::Stored { .. }));
    store.sync().unwrap();
    drop(store);
    assert!(is_there(&open(dir.path()).0, 3));
}

#[test]
fn an_open_pack_that_no_sync_ever_covered_is_removed_and_one_with_a_changed_header_is_kept() {
    for (head, left, damaged) in [(vec![], 0, 0), (vec![7; 20], 0, 0), (vec![0; 9_000], 0, 0), (vec![7; 9_000], 1, 1)] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("{}.open", PackId::fresh(1))), head).unwrap();
        let (store, report) = open(dir.path());
        assert_eq!((files(dir.path(), "open").len(), report.damaged.len()), (left, damaged));
        put_all(&store, 0..3);
        assert!((0..3).all(|n| is_there(&store, n)));
    }
}

/// The files of all packs become one whose reads fail with `EIO`, as those of a broken disk: nothing is mapped at the
/// start of a process's memory.
fn break_disk(store: &LocalStore) -> Vec<(Arc<Pack>, Arc<fs::File>)> {
    let broken = Arc::new(fs::File::open("/proc/self/mem").unwrap());
    // Seals what is open, for those files are written, too.
    store.begin_scrub().unwrap();
    let packs = store.inner.packs.all();
    let mend: Vec<_> = packs.iter().map(|p| (Arc::clone(p), store.inner.packs.file(p).unwrap().unwrap())).collect();
    mend.iter().for_each(|(pack, _)| pack.set_file(Arc::clone(&broken)));
    mend
}

#[test]
fn a_frame_that_the_disk_cannot_read_is_stored_anew_by_the_next_put_and_is_not_given_up_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..40);
    store.sync().unwrap();
    let (id, raw) = chunk(7);
    let mend = break_disk(&store);
    let error = store.read(&id).unwrap_err();
    assert!(matches!(&error, LocalError::Corrupt { detail, .. } if detail.contains("cannot read")), "{error}");
    assert!(!store.read_cached(&id, &mut vec![0; raw.len()]));
    // The scrub reports what it cannot read and gets to its end.
    let until = store.begin_scrub().unwrap().unwrap();
    let mut damaged = 0;
    let mut after = None;
    while let Some(step) = store.scrub_some(after, until, u64::MAX).unwrap() {
        damaged += step.damaged.len();
        after = Some(step.next);
    }
    assert_eq!(damaged, 40);
    assert_eq!(store.usage().chunks, 40, "nothing is given up");
    // A put of the same bytes is no duplicate now; the frame that it writes is read.
    let put = store.begin().put(FrameKind::Chunk, id, &raw).unwrap();
    assert!(matches!(put, Put::Stored { .. }), "{put:?}");
    for (pack, file) in mend {
        pack.set_file(file);
    }
    assert!((0..40).all(|n| is_there(&store, n)), "and the others come back with the disk");
    assert_eq!(store.usage().chunks, 40);
    assert_eq!(store.begin().put(FrameKind::Chunk, id, &raw).unwrap(), Put::Duplicate);
}

#[test]
fn a_sweep_passes_over_frames_that_the_disk_cannot_read_and_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..60);
    store.sync().unwrap();
    let mark = store.begin_mark().unwrap();
    assert!((0..20).all(|n| mark.live(&chunk(n).0)));
    let mend = break_disk(&store);
    let report =
        mark.sweep(SweepGoal { min_dead_fraction: 0.0, ..SweepGoal::default() }, Doubt::None, &|| false).unwrap();
    assert_eq!(report.moved_chunks, 0);
    for (pack, file) in mend {
        pack.set_file(file);
    }
    assert!((0..20).all(|n| is_there(&store, n)));
}
