//! Everything at once: writers, copies, deletes, readers, moves to a tier, reclaiming and eviction; in the end every live
//! object has its bytes, and after deleting all of them nothing is left.
//!
//! `TIDEGATE_SEED=n` repeats the choices (not the order of threads).
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not know as such

mod common;

use common::{Bed, DAY, Dice, copy, get, list_all, noise, put_class, seed, until};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::Tier;
use tidegate_tiering::tier::memory::MemoryTier;

const WORKERS: u64 = 6;
const TIME: Duration = Duration::from_secs(6);

/// Few different bodies: the same chunks die and come back all the time.
fn content(which: u64) -> Vec<u8> {
    let long = noise(which % 3, 300_000);
    let from = (which % 4) as usize * 40_000;
    long[from..from + [900, 20_000, 120_000][which as usize % 3]].to_vec()
}

/// Cycles of reclaiming and of eviction so far.
#[derive(Default)]
struct Turns([AtomicU64; 2]);

impl Turns {
    fn taken(&self) -> bool {
        self.0.iter().all(|cycles| cycles.load(Ordering::Relaxed) > 2)
    }

    /// Whether all go on: on a slow machine until there were some cycles.
    fn go_on(&self, ends: Instant) -> bool {
        let now = Instant::now();
        now < ends || (!self.taken() && now < ends + common::PATIENCE)
    }
}

/// Writes, copies, deletes and reads keys that nobody else writes; returns what must be there.
async fn worker(engine: Engine, number: u64, seed: u64, ends: Instant, turns: Arc<Turns>) -> BTreeMap<String, u64> {
    let mut dice = Dice(seed ^ number);
    let mut have: BTreeMap<String, u64> = BTreeMap::new();
    while turns.go_on(ends) {
        let key = format!("cold/{number}/{}", dice.below(8));
        let which = dice.below(12);
        match dice.below(10) {
            0..=3 => {
                let class = [None, None, Some("STANDARD_IA")][dice.below(3) as usize];
                put_class(&engine, &key, &content(which), class).await.unwrap();
                have.insert(key, which);
            }
            4..=5 => {
                assert_eq!(
                    engine.delete_object("bkt", &key, DeleteRequest::default()).await.unwrap().existed,
                    have.remove(&key).is_some()
                );
            }
            6..=7 => {
                let from = format!("cold/{number}/{}", dice.below(8));
                let Some(which) = have.get(&from).copied() else { continue };
                let class = [None, Some("STANDARD_IA")][dice.below(2) as usize];
                copy(&engine, &from, &key, class).await.unwrap_or_else(|e| panic!("copy {from} to {key}: {e}"));
                have.insert(key, which);
            }
            _ => {
                let Some(which) = have.get(&key) else { continue };
                let bytes = get(&engine, &key).await.unwrap_or_else(|e| panic!("{key}: {e} (seed {seed})"));
                assert!(bytes == content(*which), "{key} (seed {seed})");
            }
        }
    }
    have
}

async fn storm(recall: Recall) {
    let (seed, _) = seed();
    println!("TIDEGATE_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let tier = Arc::new(MemoryTier::new().unwrap());
    let mut bed = Bed::new(dir.path(), Arc::clone(&tier) as _);
    bed.settings.local.pack_bytes = 256 << 10;
    bed.settings.tiering.pack_bytes = 128 << 10;
    bed.settings.tiering.linger_ms = 0;
    bed.settings.tiering.workers = 3;
    bed.settings.tiering.recall = recall;
    let engine = bed.open().await;
    engine.create_bucket("bkt").await.unwrap();
    let ends = Instant::now() + TIME;
    let turns = Arc::new(Turns::default());
    let start = |n| tokio::spawn(worker(engine.clone(), n, seed, ends, Arc::clone(&turns)));
    let workers: Vec<_> = (0..WORKERS).map(start).collect();
    let keepers = [(0, 0u64), (1, u64::MAX)].map(|(which, to_free)| {
        let (engine, clock, turns) = (engine.clone(), Arc::clone(&bed.clock), Arc::clone(&turns));
        tokio::spawn(async move {
            while turns.go_on(ends) {
                match to_free {
                    0 => drop(engine.gc(GcRequest::default()).await.unwrap()),
                    bytes => drop(engine.evict(bytes).await.unwrap()),
                }
                clock.advance(DAY);
                turns.0[which].fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let mut want = BTreeMap::new();
    for worker in workers {
        want.extend(worker.await.unwrap());
    }
    for keeper in keepers {
        keeper.await.unwrap();
    }
    assert!(turns.taken(), "reclaiming took turns with the writers");
    let settled = || {
        bed.clock.advance(Duration::from_secs(5));
        let open = engine.run_due_now().unwrap();
        open.due == 0 && open.jobs_open == 0
    };
    for round in 0..2 {
        until("nothing is due", settled).await;
        let listed: Vec<String> = list_all(&engine, 1_000).into_iter().map(|o| o.key).collect();
        assert!(listed.iter().eq(want.keys()), "seed {seed}, round {round}");
        for (key, which) in &want {
            let bytes = get(&engine, key).await.unwrap_or_else(|e| panic!("{key}: {e} (seed {seed}, round {round})"));
            assert!(bytes == content(*which), "{key} (seed {seed}, round {round})");
        }
        engine.evict(u64::MAX).await.unwrap();
    }
    let keys: Vec<String> = want.into_keys().collect();
    common::delete_all(&engine, &keys).await;
    for _ in 0..2 {
        engine.gc(GcRequest::default()).await.unwrap();
        until("doomed packs are deleted", settled).await;
    }
    let local = engine.stats().unwrap().local;
    assert_eq!((local.unique_chunks, local.dead_bytes), (0, 0), "seed {seed}");
    assert!(tier.list("", None, 10).await.unwrap().is_empty(), "seed {seed}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reclaiming_takes_nothing_that_writers_copies_readers_and_moves_need() {
    storm(Recall::Promote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reclaiming_takes_nothing_when_reads_of_cold_bodies_leave_nothing_behind() {
    storm(Recall::Stream).await;
}
