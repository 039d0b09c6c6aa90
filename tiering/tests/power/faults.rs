//! One error of the disk, anywhere: reads go on, writes go on or are refused with a reason, what was acknowledged is there after a
//! restart and after a power cut, and a restart heals.

use super::common::{Dice, seed};
use super::cut::{root_of, temporary};
use super::log::{Fault, Log, Refused};
use super::run::{Run, bed, budget};
use super::work::{BUCKET, History, Writer};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_tiering::disk::{Step, Watcher, watch};
use tidegate_tiering::engine::GcRequest;

/// What is refused where, with which error; and whether writes must be refused afterwards.
const FAULTS: &[(Refused, &str, Errno, bool)] = &[
    (Refused::Sync, "data/journal/", Errno::IO, true),
    (Refused::Sync, "data/packs/", Errno::IO, true),
    (Refused::SyncDir, "data/journal", Errno::IO, false),
    (Refused::SyncDir, "data/packs", Errno::IO, true),
    (Refused::SyncDir, "data/snapshots", Errno::IO, false),
    (Refused::Sync, "data/snapshots/", Errno::IO, false),
    (Refused::Sync, "data/index.json", Errno::IO, false),
    (Refused::Rename, "data/journal/", Errno::IO, true),
    (Refused::Rename, "data/packs/", Errno::IO, true),
    (Refused::Rename, "data/index.json", Errno::IO, false),
    (Refused::Rename, "data/snapshots/", Errno::NOSPC, false),
    (Refused::Write, "data/journal/", Errno::IO, false),
    (Refused::ShortWrite, "data/journal/", Errno::NOSPC, false),
    (Refused::Write, "data/packs/", Errno::NOSPC, false),
    (Refused::ShortWrite, "data/packs/", Errno::NOSPC, false),
    (Refused::ShortWrite, "data/packs/", Errno::IO, false),
    (Refused::ShortWrite, "data/snapshots/", Errno::NOSPC, false),
    (Refused::ShortWrite, "data/", Errno::NOSPC, false),
    (Refused::CreateFile, "data/journal/", Errno::NOSPC, false),
    (Refused::CreateFile, "data/packs/", Errno::NOSPC, false),
    (Refused::CreateFile, "data/", Errno::MFILE, false),
    (Refused::SetLen, "data/journal/", Errno::IO, true),
    (Refused::SetLen, "data/packs/", Errno::IO, false),
    (Refused::Remove, "data/journal/", Errno::IO, false),
    (Refused::Remove, "data/packs/", Errno::IO, false),
];

async fn fail(fault: Fault, refuses: bool, seed: u64) -> Result<u64, String> {
    let dir = temporary();
    let root = root_of(&dir);
    let (log, history) = (Log::new(&root, Vec::new()), Arc::new(History::default()));
    let guard = watch(&root, Arc::clone(&log) as _);
    let mut bed = bed(&root, seed);
    bed.settings.meta.segment_bytes = 4096;
    bed.settings.meta.fill_ahead_bytes = 1000;
    let engine = bed.open().await;
    engine.create_bucket(BUCKET).await.unwrap();
    let mut writer = Writer::new(0, seed, 40);
    for _ in 0..6 {
        writer.step(&engine, &log, &history).await.unwrap();
    }
    log.set_fault(Some(fault));
    for turn in 0..50 {
        let refused = engine.writes_refused();
        let before = history.acknowledged(&log.events());
        // Done, or refused with an error: the history has it.
        let _ = writer.step(&engine, &log, &history).await;
        if let Some(why) = refused.filter(|_| history.acknowledged(&log.events()) != before) {
            return Err(format!("acknowledged though writes are refused: {why}"));
        }
        if turn % 10 == 9 {
            // Upkeep meets the fault too; its errors are its own.
            let _ = engine.snapshot().await;
            let _ = engine.gc(GcRequest::default()).await;
        }
    }
    let refusals = log.refusals.load(Ordering::SeqCst);
    // A thread of the store's own may have met it just now, and is about to say so.
    let met = Instant::now();
    while refuses && refusals > 0 && engine.writes_refused().is_none() {
        if met.elapsed() > Duration::from_secs(10) {
            return Err("writes go on".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    history.allowed(&log.events()).check(&engine).await.map_err(|e| format!("before the restart: {e}"))?;
    log.set_fault(None);
    // After an error this is one, too; what counts is what is found then.
    let _ = engine.shutdown().await;
    drop(engine);
    let engine = bed.try_open().await.map_err(|e| format!("it does not open again: {e}"))?;
    let allowed = history.allowed(&log.events());
    let states = allowed.check(&engine).await.map_err(|e| format!("after the restart: {e}"))?;
    allowed.settle(&states, &log);
    let mut writer = Writer::new(1, seed, 3);
    for _ in 0..5 {
        writer.step(&engine, &log, &history).await.map_err(|e| format!("it does not go on after a restart: {e}"))?;
    }
    let deployment = std::fs::read(root.join("data/deployment")).unwrap();
    drop(guard);
    engine.shutdown().await.map_err(|e| e.to_string())?;
    let run = Run::of(seed, log.events(), history, deployment);
    let mut dice = Dice(seed);
    for point in run.points(&mut dice).into_iter().take(12) {
        run.cut(point, &mut dice, true).await?;
    }
    Ok(refusals)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_disk_loses_nothing_and_a_restart_heals_it() {
    let (first, _) = seed();
    let (started, budget) = (Instant::now(), budget(Duration::ZERO));
    let mut seed = first;
    loop {
        println!("TIDEGATE_SEED={seed}");
        Box::pin(every_fault(seed)).await;
        if started.elapsed() >= budget {
            break;
        }
        seed = seed.wrapping_add(1000);
    }
}

/// Each of the faults, once and for good, until the store has met it.
async fn every_fault(seed: u64) {
    let mut dice = Dice(seed);
    for (refused, place, error, refuses) in FAULTS {
        let (mut met, mut tries) = (0, 0);
        while met == 0 || tries < 2 {
            assert!(tries < 20, "TIDEGATE_SEED={seed}: {refused:?} in {place} is never met");
            let fault = Fault { refused: *refused, place, error: *error, after: dice.below(3), once: tries % 2 == 0 };
            let outcome = Box::pin(fail(fault, *refuses, seed.wrapping_add(tries))).await;
            met += outcome.unwrap_or_else(|e| panic!("TIDEGATE_SEED={seed}: {fault:?}: {e}"));
            tries += 1;
        }
        println!("{refused:?} in {place} with {error}: {met} refused");
    }
}

/// Panics where the keeper writes a snapshot.
struct Bomb;

impl Watcher for Bomb {
    fn before(&self, step: &Step<'_>) -> io::Result<u64> {
        let keeper = std::thread::current().name() == Some("meta-keeper");
        assert!(!(keeper && matches!(step, Step::Create(_))), "the bomb of the test");
        Ok(0)
    }

    fn after(&self, _: &Step<'_>, _: u64) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_keeper_is_not_silent() {
    let dir = temporary();
    let root = root_of(&dir);
    let mut bed = bed(&root, 1);
    bed.settings.meta.checkpoint_bytes = 4096;
    let engine = bed.open().await;
    engine.create_bucket(BUCKET).await.unwrap();
    let watching = watch(&root, Arc::new(Bomb));
    let written = tokio::time::timeout(super::common::PATIENCE, async {
        while super::common::put(&engine, "k", b"bytes").await.is_ok() {}
    });
    written.await.expect("writes are refused at last");
    assert!(engine.writes_refused().is_some_and(|why| why.contains("keeper")));
    assert_eq!(super::common::get(&engine, "k").await.unwrap(), b"bytes");
    let _ = engine.shutdown().await;
    drop(watching);
    let engine = bed.open().await;
    super::common::put(&engine, "k", b"more").await.unwrap();
    engine.shutdown().await.unwrap();
}
