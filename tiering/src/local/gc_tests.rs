use super::super::testing::{SMALL, chunk, crash_image, is_there, open, open_limited, put_all};
use super::super::{BudgetSettings, DiskBudget, LocalError, LocalStore, Put};
use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::pack::{FrameKind, PackClass};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

const ALL_DEAD: SweepGoal = SweepGoal { bytes_to_free: 0, dead_only: true, min_dead_fraction: 0.05 };

fn never() -> bool {
    false
}

fn sweep(store: &LocalStore, live: impl IntoIterator<Item = u64>) -> SweepReport {
    let mark = store.begin_mark().unwrap();
    for n in live {
        assert!(mark.live(&chunk(n).0), "chunk {n} is missing");
    }
    mark.sweep(ALL_DEAD, Doubt::None, &never).unwrap()
}

#[test]
fn dead_chunks_go_live_ones_stay_and_the_disk_gets_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..300);
    store.sync().unwrap();
    let before = store.usage();
    let report = sweep(&store, (0..300).filter(|n| n % 3 == 0));
    assert_eq!(report.dead_chunks, 200);
    assert!(report.freed_bytes > before.file_bytes / 2, "{report:?}");
    let after = store.usage();
    assert!(after.file_bytes < before.file_bytes / 2 && after.dead_bytes * 10 < after.live_bytes, "{after:?}");
    assert_eq!(after.charged_bytes, store.budget().used());
    assert!((0..300).all(|n| is_there(&store, n) == n.is_multiple_of(3)));
    let image = crash_image(dir.path());
    let (again, _) = open(image.path());
    assert!((0..300).filter(|n| n % 3 == 0).all(|n| is_there(&again, n)));
}

#[test]
fn a_sweep_with_nothing_live_empties_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..100);
    sweep(&store, []);
    let usage = store.usage();
    assert_eq!((usage.chunks, usage.packs, usage.charged_bytes, store.budget().used()), (0, 0, 0, 0));
}

#[test]
fn a_mark_that_is_dropped_removes_nothing_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..60);
    let mark = store.begin_mark().unwrap();
    (0..20).for_each(|n| assert!(mark.live(&chunk(n).0)));
    assert_eq!(mark.preview(Doubt::None).dead_chunks, 40);
    assert!(matches!(store.begin_mark(), Err(LocalError::Invalid(_))));
    drop(mark);
    assert!((0..60).all(|n| is_there(&store, n)));
    assert_eq!(sweep(&store, 0..30).dead_chunks, 30);
    assert!((0..60).all(|n| is_there(&store, n) == (n < 30)));
}

#[test]
fn what_a_running_writer_touched_before_or_during_a_mark_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..30);
    let mut writer = store.begin();
    for n in 0..10 {
        assert!(writer.pin_existing(&chunk(n).0));
    }
    for n in 30..40 {
        writer.put(FrameKind::Chunk, chunk(n).0, &chunk(n).1).unwrap();
    }
    let mark = store.begin_mark().unwrap();
    for n in 10..15 {
        assert_eq!(writer.put(FrameKind::Chunk, chunk(n).0, &chunk(n).1).unwrap(), Put::Duplicate);
    }
    for n in 40..45 {
        writer.put(FrameKind::Chunk, chunk(n).0, &chunk(n).1).unwrap();
    }
    // The writer ends before the sweep: what it touched stays for this cycle, its commit was observed or comes next.
    drop(writer);
    mark.sweep(ALL_DEAD, Doubt::None, &never).unwrap();
    assert!((0..15).chain(30..45).all(|n| is_there(&store, n)));
    assert!((15..30).all(|n| !is_there(&store, n)));
    // In the next cycle they must be named.
    sweep(&store, 0..5);
    assert!((0..45).all(|n| is_there(&store, n) == (n < 5)));
}

#[test]
fn eviction_takes_unread_cached_chunks_first_and_never_live_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open_limited(dir.path(), 4 << 20);
    put_all(&store, 0..300);
    store.sync().unwrap();
    for n in (0..300).filter(|n| n % 10 == 1) {
        assert!(is_there(&store, n));
    }
    let mark = store.begin_mark().unwrap();
    for n in 0..300 {
        let known = if n % 4 == 0 { mark.live(&chunk(n).0) } else { mark.cached(&chunk(n).0) };
        assert!(known);
    }
    // Said both ways, in either order: live.
    mark.live(&chunk(2).0);
    mark.cached(&chunk(4).0);
    let goal = SweepGoal { bytes_to_free: 200 << 10, dead_only: false, min_dead_fraction: 0.2 };
    let before = store.budget().used();
    let report = mark.sweep(goal, Doubt::None, &never).unwrap();
    assert!(report.freed_bytes >= goal.bytes_to_free && report.stopped.is_none(), "{report:?}");
    assert!(before - store.budget().used() >= goal.bytes_to_free);
    assert!((0..300).filter(|n| n % 4 == 0).all(|n| is_there(&store, n)) && is_there(&store, 2));
    let gone: Vec<u64> = (0..300).filter(|n| !store.contains(&chunk(*n).0)).collect();
    assert!(!gone.is_empty() && gone.iter().all(|n| n % 10 != 1), "{gone:?}");
    // A chunk that comes back soon after goes to the main queue.
    let (id, raw) = chunk(gone[0]);
    let frame = crate::pack::Frame {
        kind: FrameKind::Chunk,
        codec: crate::chunk::Codec::Raw,
        raw_len: raw.len() as u32,
        stored: raw,
    };
    store.begin().put_frame(id, &frame, PackClass::Cache).unwrap();
    let place = store.inner.index.get(&id).unwrap();
    assert_eq!(store.inner.packs.get(place.slot).unwrap().class, PackClass::Main);
}

#[test]
fn a_goal_that_cannot_be_reached_evicts_all_that_may_go_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open_limited(dir.path(), 4 << 20);
    put_all(&store, 0..200);
    let mark = store.begin_mark().unwrap();
    for n in 0..200 {
        if n < 20 {
            mark.live(&chunk(n).0)
        } else {
            mark.cached(&chunk(n).0)
        };
    }
    let goal = SweepGoal { bytes_to_free: 1 << 30, dead_only: false, min_dead_fraction: 0.2 };
    let report = mark.sweep(goal, Doubt::None, &never).unwrap();
    assert!(report.stopped.unwrap().contains("nothing more"));
    assert!((0..20).all(|n| is_there(&store, n)));
}

#[test]
fn a_full_store_can_still_be_compacted_within_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 1 << 20;
    let (store, _) = open_limited(dir.path(), limit);
    let mut n = 0;
    let mut ingest = store.begin();
    while ingest.put(FrameKind::Chunk, chunk(n).0, &chunk(n).1).is_ok() {
        n += 1;
    }
    drop(ingest);
    store.sync().unwrap();
    let peak = Mutex::new(0);
    let mark = store.begin_mark().unwrap();
    (0..n).filter(|i| i % 2 == 0).for_each(|i| assert!(mark.live(&chunk(i).0)));
    let watch = || {
        let mut peak = peak.lock().unwrap();
        *peak = store.budget().used().max(*peak);
        false
    };
    let report = mark.sweep(ALL_DEAD, Doubt::None, &watch).unwrap();
    assert!(report.packs_deleted + report.packs_compacted > 5 && report.stopped.is_none(), "{report:?}");
    assert!(*peak.lock().unwrap() <= limit && store.budget().used() < limit * 7 / 10);
    assert!((0..n).all(|i| is_there(&store, i) == i.is_multiple_of(2)));
}

#[test]
fn cached_chunks_of_packs_that_are_still_open_are_evicted_too() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open_limited(dir.path(), 4 << 20);
    put_all(&store, 0..10);
    assert_eq!((store.usage().packs, store.usage().open_packs), (1, 1));
    let mark = store.begin_mark().unwrap();
    assert!((0..10).all(|n| mark.cached(&chunk(n).0)));
    let goal = SweepGoal { bytes_to_free: 1, ..SweepGoal::default() };
    let report = mark.sweep(goal, Doubt::None, &never).unwrap();
    assert!(report.freed_bytes > 0 && report.stopped.is_none(), "{report:?}");
    assert_eq!((store.usage().packs, store.budget().used()), (0, 0));
}

#[test]
fn under_pressure_a_little_garbage_in_each_pack_goes_too_and_otherwise_it_may_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open_limited(dir.path(), 4 << 20);
    put_all(&store, 0..300);
    store.sync().unwrap();
    let sweep = |bytes_to_free| {
        let mark = store.begin_mark().unwrap();
        (0..300).filter(|n| n % 7 != 0).for_each(|n| assert!(mark.live(&chunk(n).0)));
        let goal = SweepGoal { bytes_to_free, dead_only: false, min_dead_fraction: 0.5 };
        mark.sweep(goal, Doubt::None, &never).unwrap()
    };
    assert_eq!(sweep(0).packs_compacted, 0);
    let report = sweep(1 << 30);
    assert!(report.freed_bytes > 100 << 10 && report.stopped.is_some(), "{report:?}");
    assert!((0..300).all(|n| is_there(&store, n) != n.is_multiple_of(7)));
}

#[test]
fn a_pack_without_room_for_its_copies_does_not_keep_others_from_being_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 40));
    let seen = Arc::clone(&free);
    let limits = BudgetSettings { max_bytes: 4 << 20, free_floor: 1 << 20, compaction_reserve: 1 << 18 };
    let budget = DiskBudget::with_probe(limits, move || Ok(seen.load(Ordering::Relaxed))).unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_767_225_600_000)));
    let (store, _) = LocalStore::open(dir.path(), SMALL, Arc::new(budget), clock).unwrap();
    put_all(&store, 0..300);
    store.sync().unwrap();
    let mark = store.begin_mark().unwrap();
    // Of the oldest packs a little must stay.
    for n in 0..300 {
        let known = if n < 60 && n % 9 == 0 { mark.live(&chunk(n).0) } else { mark.cached(&chunk(n).0) };
        assert!(known);
    }
    // Others have filled the file system down to the floor.
    free.store(1 << 20, Ordering::Relaxed);
    let before = store.budget().used();
    let goal = SweepGoal { bytes_to_free: 1 << 30, ..SweepGoal::default() };
    let report = mark.sweep(goal, Doubt::None, &never).unwrap();
    assert!(before - store.budget().used() > before / 2, "{report:?}");
    assert!(report.stopped.unwrap().contains("no room to compact"));
    assert!((0..60).filter(|n| n % 9 == 0).all(|n| is_there(&store, n)));
    assert_eq!(store.budget().used(), store.usage().charged_bytes);
}

#[test]
fn a_damaged_frame_keeps_its_pack_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..60);
    store.sync().unwrap();
    let place = store.inner.index.get(&chunk(1).0).unwrap();
    let pack = store.inner.packs.get(place.slot).unwrap();
    let path = pack.path(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[place.offset as usize + 60] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let report = sweep(&store, (0..60).filter(|n| n % 2 == 1));
    assert_eq!(report.damaged.len(), 1);
    assert!(path.exists());
    assert!((3..60).filter(|n| n % 2 == 1).all(|n| is_there(&store, n)));
    assert!(matches!(store.read(&chunk(1).0), Err(LocalError::Corrupt { .. })));
    assert_eq!(sweep(&store, (3..60).filter(|n| n % 2 == 1)).damaged.len(), 0);
    assert!(!path.exists());
}

#[test]
fn a_doubt_keeps_what_was_there_when_it_came_up_and_nothing_later_and_does_not_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let sweep = |store: &LocalStore, live: std::ops::Range<u64>, doubt| {
        let mark = store.begin_mark().unwrap();
        live.for_each(|n| assert!(mark.live(&chunk(n).0)));
        let expected = mark.preview(doubt);
        let report = mark.sweep(ALL_DEAD, doubt, &never).unwrap();
        assert_eq!(expected.doubted_chunks, report.doubted_chunks);
        (report.dead_chunks, report.doubted_chunks)
    };
    put_all(&store, 0..40);
    // Never told of a doubt, so this one is new, whatever the caller thinks.
    assert_eq!(sweep(&store, 0..10, Doubt::Known), (0, 30));
    put_all(&store, 40..60);
    assert_eq!(sweep(&store, 0..10, Doubt::Known), (20, 30), "what came later goes");
    // What was named then, and is no more, may be named by what cannot be read.
    assert_eq!(sweep(&store, 0..5, Doubt::Known), (0, 35));
    put_all(&store, 40..50);
    assert_eq!(sweep(&store, 0..5, Doubt::New), (0, 45), "another doubt holds all that is here now");
    assert_eq!(sweep(&store, 0..5, Doubt::Known), (0, 45));
    store.sync().unwrap();
    store.save_index().unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    put_all(&store, 50..60);
    assert_eq!(sweep(&store, 0..5, Doubt::Known), (0, 55), "nobody knows any more what came when");
    assert_eq!(sweep(&store, 0..5, Doubt::None), (55, 0));
    assert!((0..5).all(|n| is_there(&store, n)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_puts_sweeps_crashes_and_reopenings_never_lose_what_is_live(seed in any::<u64>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path()).0;
        // Objects name chunks; an object counts once it was synced.
        let mut objects: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for step in 0..40u64 {
            match random.random_range(0..10) {
                0..=4 => {
                    let chunks: Vec<u64> = (0..random.random_range(1..20)).map(|_| random.random_range(0..150)).collect();
                    put_all(&store, chunks.iter().copied());
                    store.sync().unwrap();
                    objects.insert(step, chunks);
                }
                5 => {
                    // Not synced, not named: may or may not survive.
                    put_all(&store, (0..5).map(|_| random.random_range(0..150)));
                }
                6 => {
                    let gone: Vec<u64> = objects.keys().copied().filter(|_| random.random_bool(0.4)).collect();
                    gone.iter().for_each(|k| { objects.remove(k); });
                }
                7 | 8 => {
                    let live: BTreeSet<u64> = objects.values().flatten().copied().collect();
                    let mark = store.begin_mark().unwrap();
                    for n in &live {
                        prop_assert!(mark.live(&chunk(*n).0), "seed {} step {}: {} is missing", seed, step, n);
                    }
                    let goal = SweepGoal { min_dead_fraction: random.random_range(0.0..0.6), ..ALL_DEAD };
                    let stop_after = AtomicBool::new(random.random_bool(0.2));
                    mark.sweep(goal, Doubt::None, &|| stop_after.load(Ordering::Relaxed)).unwrap();
                    prop_assert_eq!(store.usage().chunks, live.len() as u64);
                }
                _ => {
                    if random.random_bool(0.3) {
                        store.save_index().unwrap();
                    }
                    let image = crash_image(dir.path());
                    drop(store);
                    dir = image;
                    store = open(dir.path()).0;
                }
            }
            for n in objects.values().flatten() {
                prop_assert!(is_there(&store, *n), "seed {} step {}: {} is lost", seed, step, n);
            }
            prop_assert_eq!(store.budget().used(), store.usage().charged_bytes);
        }
        sweep(&store, []);
        prop_assert_eq!(store.budget().used(), 0);
    }
}

#[test]
fn writers_that_dedup_against_chunks_being_swept_never_lose_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    // Names that are committed: what a mark walks. The lock stands for the engine's commit barrier.
    let named: Mutex<BTreeMap<u64, Vec<u64>>> = Mutex::default();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let (store, named) = (&store, &named);
                s.spawn(move || {
                    let mut random = StdRng::seed_from_u64(writer);
                    for round in 0..60 {
                        let chunks: Vec<u64> = (0..12).map(|_| random.random_range(0..80)).collect();
                        let mut ingest = store.begin();
                        for n in &chunks {
                            ingest.put(FrameKind::Chunk, chunk(*n).0, &chunk(*n).1).unwrap();
                        }
                        store.sync().unwrap();
                        named.lock().unwrap().insert(writer * 1_000 + round, chunks.clone());
                        drop(ingest);
                        assert!(chunks.iter().all(|n| is_there(store, *n)), "writer {writer} round {round}");
                        if round >= 2 {
                            named.lock().unwrap().remove(&(writer * 1_000 + round - 2));
                        }
                    }
                })
            })
            .collect();
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mark = store.begin_mark().unwrap();
                let walk: Vec<u64> = named.lock().unwrap().values().flatten().copied().collect();
                for n in walk {
                    assert!(mark.live(&chunk(n).0), "chunk {n} is named and missing");
                }
                mark.sweep(ALL_DEAD, Doubt::None, &never).unwrap();
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let left: BTreeSet<u64> = named.lock().unwrap().values().flatten().copied().collect();
    assert!(left.iter().all(|n| is_there(&store, *n)));
    store.sync().unwrap();
    let image = crash_image(dir.path());
    let (again, _) = open(image.path());
    assert!(left.iter().all(|n| is_there(&again, *n)));
}

#[test]
fn spared_chunks_are_evicted_after_all_cached_ones_and_live_ones_never() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put_all(&store, 0..300);
    store.sync().unwrap();
    let mark_all = || {
        let mark = store.begin_mark().unwrap();
        for n in 0..300 {
            let id = chunk(n).0;
            match n % 3 {
                0 => mark.spare(&id),
                1 => mark.cached(&id),
                _ => mark.live(&id),
            };
        }
        // In whatever order it is said: live wins, and spared over cached.
        mark.cached(&chunk(0).0);
        assert!(
            mark.spare(&chunk(2).0) && mark.live(&chunk(3).0) && mark.cached(&chunk(6).0) && mark.spare(&chunk(6).0)
        );
        assert!(!mark.spare(&chunk(301).0), "it is not here");
        mark
    };
    let goal = |bytes| SweepGoal { bytes_to_free: bytes, ..SweepGoal::default() };
    let here = |n: u64| is_there(&store, n);
    let cached = store.usage().file_bytes / 4;
    mark_all().sweep(goal(cached), Doubt::None, &never).unwrap();
    assert!((0..300).filter(|n| n % 3 != 1).all(here), "only cached ones went");
    assert!((0..300).filter(|n| n % 3 == 1).filter(|n| here(*n)).count() < 50);
    mark_all().sweep(goal(u64::MAX), Doubt::None, &never).unwrap();
    assert!((0..300).filter(|n| n % 3 == 2 || *n == 3).all(here), "live ones stay");
    assert!((0..300).filter(|n| n % 3 != 2 && *n != 3).all(|n| !here(n)), "all others went");
}
