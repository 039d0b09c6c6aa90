//! Bit rot: what a scrub finds, heals and names; and that no way of reading passes a flipped bit on.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, copy, frames, get, noise, put, put_parts, residency, rot, until};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_tiering::engine::*;
use tidegate_tiering::pack::format::{FRAME_HEADER_LEN, HEADER_LEN, PackHeader, encode_footer};
use tidegate_tiering::pack::reader::scan;
use tidegate_tiering::pack::{FooterEntry, FrameKind, PackClass, PackId};
use tidegate_tiering::tier::TierMetrics;
use tidegate_tiering::tier::memory::MemoryTier;
use tidegate_tiering::tier::object::{DirectorySettings, ObjectTier};

const PACK: u64 = 128 << 10;

fn bed(dir: &Path) -> Bed {
    let mut bed = Bed::new(dir, Arc::new(MemoryTier::new().unwrap()));
    bed.settings.local.pack_bytes = PACK;
    bed.settings.tiering.linger_ms = 0;
    // No collection between the steps of a test.
    bed.settings.tiering.gc_interval_ms = 86_400_000 * 365;
    bed
}

async fn scrub(engine: &Engine) -> ScrubReport {
    engine.scrub(ScrubRequest { bytes_per_second: Some(0), ..Default::default() }, |_| true).await.unwrap()
}

async fn open_with_bucket(bed: &Bed) -> Engine {
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    engine
}

fn seen(report: &ScrubReport) -> (u64, u64, u64, Vec<&str>) {
    let keys = report.lossy.iter().map(|l| l.what.as_str()).collect();
    (report.damaged_total, report.repaired, report.lost, keys)
}

async fn cool(bed: &Bed, engine: &Engine, key: &str) {
    bed.clock.advance(DAY * 31);
    until("it is cold", || matches!(residency(engine, key), Some(Residency::Cold { .. }))).await;
}

fn is_lost(read: &Result<Vec<u8>, EngineError>) -> bool {
    matches!(read, Err(EngineError::Corrupt(_)))
}

/// Everything of a folder, as a kill at this moment leaves it.
fn image(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let mut left = vec![PathBuf::new()];
    while let Some(inner) = left.pop() {
        std::fs::create_dir_all(to.path().join(&inner)).unwrap();
        for entry in std::fs::read_dir(from.join(&inner)).unwrap() {
            let entry = entry.unwrap();
            let name = inner.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => left.push(name),
                false => drop(std::fs::copy(entry.path(), to.path().join(&name))),
            }
        }
    }
    to
}

/// A sealed pack with a copy of every frame of `pack`, as a crash in the middle of a compaction leaves one.
fn duplicate(pack: &Path) {
    let id: PackId = pack.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let bytes = std::fs::read(pack).unwrap();
    let found = scan(&std::fs::File::open(pack).unwrap(), id).unwrap();
    let header = PackHeader { id: PackId::fresh(1), class: PackClass::Main, ..found.header };
    let end = found.valid_end as usize;
    let footer = encode_footer(header.id, &found.entries).unwrap();
    let copy = [&header.encode()[..], &bytes[HEADER_LEN..end], &footer].concat();
    std::fs::write(pack.with_file_name(format!("{}.pack", header.id)), copy).unwrap();
}

/// Damages the first frame that `which` names; its file.
fn rot_first(bed: &Bed, which: impl Fn(&FooterEntry) -> bool) -> PathBuf {
    let mut all = frames(&bed.dir, which);
    all.sort();
    rot(&all[0].0, all[0].1);
    all[0].0.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_without_another_copy_is_reported_by_key_and_stays_out_of_the_index_after_restarts() {
    for kind in [FrameKind::Chunk, FrameKind::ManifestNode] {
        let dir = tempfile::tempdir().unwrap();
        let bed = bed(dir.path());
        let engine = open_with_bucket(&bed).await;
        // Large enough for manifest nodes.
        let large = noise(1, 6_000_000);
        put(&engine, "large", &large).await.unwrap();
        copy(&engine, "large", "twin", None).await.unwrap();
        put_parts(&engine, "parts", &[noise(2, 5 << 20), noise(3, 100)]).await.unwrap();
        rot_first(&bed, |e| e.kind == kind && e.stored_len > 1_000);
        let mut engine = engine;
        for round in 0..3 {
            let report = scrub(&engine).await;
            let lost = u64::from(round == 0);
            let (damaged, repaired, gone, keys) = seen(&report);
            assert_eq!((damaged, repaired, gone), (lost, 0, lost), "{kind:?} {round}: {report:?}");
            let unreadable: Vec<_> = report.unreadable.iter().map(|u| u.what.as_str()).collect();
            let named = if kind == FrameKind::Chunk { keys } else { unreadable };
            assert!(["bkt / large", "bkt / twin"].iter().all(|k| named.iter().any(|n| n.contains(k))), "{report:?}");
            assert!(!report.is_clean());
            for key in ["large", "twin"] {
                assert!(is_lost(&get(&engine, key).await), "{kind:?}: {key}");
            }
            if round == 0 {
                assert_eq!(bed.metric("tidegate_scrub_lost_frames_total", None), 1.0);
                assert_eq!(bed.metric("tidegate_scrub_damaged_frames_total", None), 1.0);
            }
            engine.shutdown().await.unwrap();
            engine = bed.open().await;
        }
        put(&engine, "again", &large).await.unwrap();
        assert_eq!(get(&engine, "twin").await.unwrap(), large);
        assert!(scrub(&engine).await.is_clean());
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_is_healed_from_a_tier_also_when_only_another_object_was_moved_there() {
    for kind in [FrameKind::Chunk, FrameKind::ManifestNode] {
        let dir = tempfile::tempdir().unwrap();
        let bed = bed(dir.path());
        let engine = open_with_bucket(&bed).await;
        let large = noise(1, 6_000_000);
        put(&engine, "cold/a", &large).await.unwrap();
        put(&engine, "hot", &large).await.unwrap();
        cool(&bed, &engine, "cold/a").await;
        rot_first(&bed, |e| e.kind == kind && e.stored_len > 1_000);
        let report = scrub(&engine).await;
        assert_eq!(seen(&report), (1, 1, 0, vec![]), "{kind:?}: {report:?}");
        assert!(report.damaged[0].repaired && report.damaged[0].detail.contains("tier ia"), "{report:?}");
        assert_eq!(bed.metric("tidegate_scrub_healed_frames_total", None), 1.0);
        let status = engine.object_status("bkt", "hot").unwrap();
        assert_eq!(status.local_chunks, status.chunks, "the copy is local");
        // Durable: also on the disk that a kill right now leaves.
        let image = image(dir.path());
        engine.shutdown().await.unwrap();
        let bed = Bed { dir: image.path().to_owned(), ..bed };
        let bed = Bed { settings: EngineSettings { data_dir: bed.dir.clone(), ..bed.settings.clone() }, ..bed };
        let engine = bed.open().await;
        assert_eq!(get(&engine, "hot").await.unwrap(), large);
        assert!(scrub(&engine).await.is_clean());
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_is_healed_from_another_local_pack() {
    for found_by_read in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let bed = bed(dir.path());
        let engine = open_with_bucket(&bed).await;
        let body = noise(1, 300_000);
        put(&engine, "k", &body).await.unwrap();
        scrub(&engine).await; // seals
        engine.shutdown().await.unwrap();
        let mut all = frames(dir.path(), |_| true);
        all.sort();
        let (pack, at) = all[0].clone();
        duplicate(&pack);
        let engine = bed.open().await;
        rot(&pack, at);
        if found_by_read {
            assert!(is_lost(&get(&engine, "k").await));
        }
        let report = scrub(&engine).await;
        let damaged = u64::from(!found_by_read);
        assert_eq!(seen(&report), (damaged, 1, 0, vec![]), "{report:?}");
        assert!(report.damaged.iter().all(|d| d.repaired && d.detail.contains("another local pack")), "{report:?}");
        assert_eq!(get(&engine, "k").await.unwrap(), body);
        assert!(scrub(&engine).await.is_clean());
        engine.shutdown().await.unwrap();
    }
}

/// A place in a sealed pack to flip: in its header, its footer's entries, its trailer.
fn framing(pack: &Path) -> Vec<u64> {
    let len = std::fs::metadata(pack).unwrap().len();
    vec![3, 9, 15, HEADER_LEN as u64 - 1, len - 60, len - 40, len - 20, len - 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_with_a_damaged_header_or_footer_loses_nothing_and_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = open_with_bucket(&bed).await;
    let body = noise(1, 300_000);
    put(&engine, "k", &body).await.unwrap();
    scrub(&engine).await; // seals
    engine.shutdown().await.unwrap();
    let mut all = frames(dir.path(), |_| true);
    all.sort();
    for at in framing(&all[0].0) {
        for (running, without_snapshot) in [(true, false), (false, false), (false, true)] {
            let image = image(dir.path());
            let bed = self::bed(image.path());
            let pack = image.path().join("packs").join(all[0].0.file_name().unwrap());
            let engine = match running {
                true => {
                    let engine = bed.open().await;
                    rot(&pack, at);
                    engine
                }
                false => {
                    rot(&pack, at);
                    if without_snapshot {
                        std::fs::remove_file(image.path().join("packs/index.snap")).unwrap();
                    }
                    bed.open().await
                }
            };
            assert_eq!(get(&engine, "k").await.unwrap(), body, "byte {at}");
            let report = scrub(&engine).await;
            assert_eq!((report.rewritten, seen(&report)), (1, (0, 0, 0, vec![])), "byte {at}: {report:?}");
            assert!(!pack.exists());
            assert_eq!(get(&engine, "k").await.unwrap(), body, "byte {at}");
            assert!(scrub(&engine).await.is_clean());
            engine.shutdown().await.unwrap();
            assert_eq!(get(&bed.open().await, "k").await.unwrap(), body, "byte {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_damaged_together_with_the_footer_is_reported_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = open_with_bucket(&bed).await;
    put(&engine, "k", &noise(1, 300_000)).await.unwrap();
    let other = noise(2, 300_000);
    put(&engine, "other", &other).await.unwrap();
    scrub(&engine).await; // seals
    let pack = rot_first(&bed, |_| true);
    rot(&pack, std::fs::metadata(&pack).unwrap().len() - 1);
    let report = scrub(&engine).await;
    assert_eq!((report.rewritten, seen(&report)), (1, (1, 0, 1, vec!["bkt / k"])), "{report:?}");
    assert_eq!(get(&engine, "other").await.unwrap(), other);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_an_open_pack_is_found_now_and_after_a_kill() {
    for header in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut bed = bed(dir.path());
        bed.settings.local.pack_bytes = 8 << 20;
        let engine = open_with_bucket(&bed).await;
        let other = noise(2, 200_000);
        put(&engine, "k", &noise(1, 200_000)).await.unwrap();
        put(&engine, "other", &other).await.unwrap();
        let mut all = frames(dir.path(), |_| true);
        all.sort();
        assert!(all[0].0.extension().is_some_and(|e| e == "open"));
        let killed = image(dir.path());
        let name = all[0].0.file_name().unwrap();
        let at = if header { 20 } else { all[0].1 };
        rot(&all[0].0, at);
        rot(&killed.path().join("packs").join(name), at);
        let lossy = if header { vec![] } else { vec!["bkt / k"] };
        let lost = u64::from(!header);
        let report = scrub(&engine).await;
        assert_eq!(seen(&report), (lost, 0, lost, lossy.clone()), "{report:?}");
        assert_eq!(report.rewritten, u64::from(header));
        assert_eq!(get(&engine, "other").await.unwrap(), other);
        engine.shutdown().await.unwrap();
        // Opening reads every frame of an open pack, so the scrub finds nothing more there, but says who suffers.
        let engine = self::bed(killed.path()).open().await;
        let report = scrub(&engine).await;
        assert_eq!(seen(&report), (0, 0, 0, lossy), "{report:?}");
        assert_eq!(get(&engine, "other").await.unwrap(), other);
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_file_that_is_cut_short_or_gone_is_reported_and_the_next_put_stores_its_chunks() {
    for gone in [false, true] {
        for by_read in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let bed = bed(dir.path());
            let engine = open_with_bucket(&bed).await;
            let body = noise(1, 100_000);
            put(&engine, "k", &body).await.unwrap();
            put(&engine, "other", &noise(2, 500_000)).await.unwrap();
            scrub(&engine).await; // seals
            engine.shutdown().await.unwrap();
            let engine = bed.open().await; // no file is open yet
            let mut all = frames(dir.path(), |_| true);
            all.sort();
            match gone {
                true => std::fs::rename(&all[0].0, dir.path().join("away")).unwrap(),
                false => std::fs::File::options().write(true).open(&all[0].0).unwrap().set_len(all[0].1 + 10).unwrap(),
            }
            if by_read {
                assert!(is_lost(&get(&engine, "k").await));
            }
            let report = scrub(&engine).await;
            assert!(report.lost > 0 || by_read && !gone, "{report:?}");
            assert_eq!((report.rewritten, report.notes.len()), (u64::from(!gone), usize::from(gone)), "{report:?}");
            assert!(report.lossy.iter().any(|l| l.what == "bkt / k"), "{report:?}");
            put(&engine, "again", &body).await.unwrap();
            assert_eq!(get(&engine, "k").await.unwrap(), body);
            // A collection does not stumble over it.
            engine.gc(GcRequest::default()).await.unwrap();
            if gone {
                // What was not uploaded again comes back with the file.
                std::fs::rename(dir.path().join("away"), &all[0].0).unwrap();
                assert_eq!(get(&engine, "other").await.unwrap(), noise(2, 500_000));
                assert!(scrub(&engine).await.is_clean());
            }
            engine.shutdown().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_scrub_goes_on_where_it_was_also_after_a_kill_and_begins_anew_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    bed.settings.local.pack_bytes = 1 << 20;
    let engine = open_with_bucket(&bed).await;
    put(&engine, "k", &noise(1, 8_000_000)).await.unwrap();
    let whole = scrub(&engine).await;
    assert!(whole.complete && !whole.resumed && whole.packs >= 8, "{whole:?}");
    bed.clock.advance(DAY);
    // The first frame of the first pack: found before the kill.
    rot_first(&bed, |_| true);
    let half = engine.scrub(ScrubRequest::default(), |at| at.packs_done < 4).await.unwrap();
    assert!(!half.complete && half.packs == 4 && half.damaged_total == 1, "{half:?}");
    let stats = engine.stats().unwrap().scrub;
    assert!(stats.bytes_done > 3_000_000 && stats.bytes_done < stats.bytes_total && !stats.running, "{stats:?}");

    let killed = image(dir.path());
    for (restart, dir) in [(false, killed.path()), (true, dir.path())] {
        if restart {
            engine.shutdown().await.unwrap();
        }
        let mut bed = self::bed(dir);
        bed.settings.local.pack_bytes = 1 << 20;
        let engine = bed.open().await;
        let stats = engine.stats().unwrap().scrub;
        assert!(stats.pass_started.is_some() && stats.last_complete.is_some(), "{stats:?}");
        let (mut first, mut bytes) = (None, 0);
        let request = ScrubRequest { restart, ..Default::default() };
        let done = engine
            .scrub(request, |at| {
                first.get_or_insert(at.packs_done);
                bytes = at.bytes_done;
                true
            })
            .await
            .unwrap();
        assert!(done.complete && done.resumed != restart, "{done:?}");
        assert!(if restart { first <= Some(1) } else { first >= Some(4) }, "{first:?}");
        // The pass has each chunk once, and knows what it found before.
        assert_eq!(done.chunks, whole.chunks - u64::from(restart), "{done:?}");
        assert_eq!(done.damaged_total, u64::from(!restart), "{done:?}");
        assert!(bytes >= whole.bytes);
        let stats = engine.stats().unwrap().scrub;
        assert!(stats.pass_started.is_none() && !stats.running, "{stats:?}");
        engine.refresh_metrics().unwrap();
        assert!(bed.metric("tidegate_scrub_last_complete_timestamp_seconds", None) >= 1.8e9);
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_reads_in_small_steps_and_waits_as_long_as_its_rate_asks() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    bed.settings.local.pack_bytes = 8 << 20;
    bed.settings.scrub.bytes_per_second = 2 << 20;
    let engine = open_with_bucket(&bed).await;
    put(&engine, "k", &noise(1, 1_500_000)).await.unwrap();
    let (mut steps, mut last, mut widest) = (0, 0, 0);
    let began = std::time::Instant::now();
    let report = engine
        .scrub(ScrubRequest::default(), |at| {
            steps += 1;
            widest = widest.max(at.bytes_done - last);
            last = at.bytes_done;
            true
        })
        .await
        .unwrap();
    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
    // A quarter of a second's bytes, and a chunk.
    assert!(steps >= 3 && widest < (512 << 10) + 140_000, "{steps} steps of {widest}");
    let due = report.bytes * 1_000 / (2 << 20);
    assert!(
        report.waited_ms <= due && took + 5 >= due,
        "{report:?}: waited {} of {due}, took {took}",
        report.waited_ms
    );
    let report = scrub(&engine).await;
    assert_eq!(report.waited_ms, 0, "the request's rate is the one that counts");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_of_a_hot_object_gives_a_flipped_bit() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = open_with_bucket(&bed).await;
    let body = noise(1, 400_000);
    put(&engine, "k", &body).await.unwrap();
    // All of it is in the page cache, so this is the path that does not wait for the disk.
    assert_eq!(get(&engine, "k").await.unwrap(), body);
    let all = frames(dir.path(), |_| true);
    all.iter().for_each(|(file, at)| rot(file, *at + 1));
    let handle = engine.open_object("bkt", "k").unwrap();
    for start in (0..400_000u64).step_by(50_000) {
        let read = match handle.read(start..start + 1_000).await {
            Ok(stream) => common::read(stream).await,
            Err(e) => Err(e),
        };
        assert!(is_lost(&read), "{start}");
    }
    assert!(is_lost(&get(&engine, "k").await));
    assert!(is_lost(&get(&engine, "k").await), "and the second time");
    engine.shutdown().await.unwrap();
}

fn flip_at(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The only pack in a directory tier.
fn remote_pack(root: &Path) -> PathBuf {
    let mut left = vec![root.join("packs")];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                return path;
            }
            left.push(path);
        }
    }
    panic!("no pack below {}", root.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_recall_nor_a_heal_takes_a_flipped_bit_from_a_tier() {
    let (dir, cold) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut bed = bed(dir.path());
    let settings = DirectorySettings { path: cold.path().to_owned() };
    bed.tier = Arc::new(ObjectTier::directory("ia", &settings, TierMetrics::new("ia", None).unwrap()).unwrap());
    let engine = open_with_bucket(&bed).await;
    let body = noise(1, 100_000);
    put(&engine, "cold/a", &body).await.unwrap();
    cool(&bed, &engine, "cold/a").await;
    let pack = remote_pack(cold.path());
    let first = (HEADER_LEN + FRAME_HEADER_LEN) as u64 + 10;
    flip_at(&pack, first);
    // The local copies are good; one of them goes bad as well.
    rot_first(&bed, |_| true);
    let report = scrub(&engine).await;
    let (damaged, repaired, lost, _) = seen(&report);
    assert_eq!((damaged, lost), (1, 0), "{report:?}");
    let read = get(&engine, "cold/a").await;
    assert_eq!((repaired == 0, read.is_err()), (true, true), "{report:?}");
    flip_at(&pack, first);
    assert_eq!(get(&engine, "cold/a").await.unwrap(), body, "the tier's copy is good again");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transition_uploads_no_flipped_bit_and_moves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let bed = bed(dir.path());
    let engine = open_with_bucket(&bed).await;
    let good = noise(2, 100_000);
    put(&engine, "cold/bad", &noise(1, 100_000)).await.unwrap();
    rot_first(&bed, |_| true);
    put(&engine, "cold/good", &good).await.unwrap();
    // The first job meets the bad frame in the middle of its upload; the next one leaves that version out.
    until("the good one is cold", || {
        bed.clock.advance(DAY);
        matches!(residency(&engine, "cold/good"), Some(Residency::Cold { .. }))
    })
    .await;
    assert!(is_lost(&get(&engine, "cold/bad").await));
    assert_eq!(residency(&engine, "cold/bad"), Some(Residency::Hot));
    assert_eq!(get(&engine, "cold/good").await.unwrap(), good);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_copies_no_flipped_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = bed(dir.path());
    bed.settings.local.pack_bytes = 4 << 20;
    let engine = open_with_bucket(&bed).await;
    put(&engine, "bad", &noise(1, 100_000)).await.unwrap();
    let bad = rot_first(&bed, |_| true).with_extension("pack");
    let good = noise(2, 100_000);
    put(&engine, "good", &good).await.unwrap();
    put(&engine, "dead", &noise(3, 3_000_000)).await.unwrap();
    engine.delete_object("bkt", "dead", DeleteRequest::default()).await.unwrap();
    let report = engine.gc(GcRequest::default()).await.unwrap();
    assert!(report.notes.iter().any(|n| n.contains("damaged, its pack stays")), "{report:?}");
    assert!(bad.exists(), "the pack with the bad frame stays");
    assert!(is_lost(&get(&engine, "bad").await));
    assert_eq!(get(&engine, "good").await.unwrap(), good);
    let report = scrub(&engine).await;
    assert_eq!(seen(&report), (0, 0, 0, vec!["bkt / bad"]), "no copy of it, only whom it hit: {report:?}");
    engine.gc(GcRequest::default()).await.unwrap();
    assert!(!bad.exists(), "nothing is left in it");
    engine.shutdown().await.unwrap();
}
