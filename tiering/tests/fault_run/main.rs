//! The proof run: 10,000 transitions and restores through the engine and the native client while a tenth of all calls to the
//! service fail, in every way that the simulator knows; writes, overwrites, deletes, reads, reclaiming, evictions, jumps of the
//! clock and restarts of the engine in between. At the end
//!
//! - the cloud holds exactly what the namespace says: no pack is missing, none is nobody's, no upload is unfinished;
//! - every object, read back from the cloud alone, has the bytes that were written;
//! - the engine's account of its requests equals the service's, by tier, operation and outcome, and the bill equals what
//!   the engine reckons from its account: to the last request, and for reads with a price to the last byte.
//!
//! `TIDEGATE_SEED=n` repeats a run as far as threads allow; the seed is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, which clippy does not know as such

#[path = "../common/account.rs"]
mod account;
#[path = "../common/mod.rs"]
mod common;
mod plan;
mod world;

use common::{DAY, seed, until};
use std::collections::BTreeMap;
use std::time::Instant;
use tidegate_tiering::engine::{DeleteRequest, GcRequest};
use world::{PLACES, World};

/// Transitions and restores that must have been committed.
const MOVES: u64 = 10_000;

/// New objects in each round of ten days.
const NEW: u64 = 120;

/// One round: what clients do in ten days, beside what the engine has to do.
async fn round(world: &mut World, number: u64) {
    for n in 0..NEW {
        let prefix = ["a", "b", "c"][world.dice.below(3) as usize];
        world.write(format!("{prefix}/{number:03}/{n:02}")).await;
    }
    world.advance(DAY * 10);
    for n in 0..90 {
        let Some(key) = world.any_key() else { return };
        match n % 15 {
            0 => world.write(key).await,
            1 => {
                assert!(
                    world.engine.delete_object("bkt", &key, DeleteRequest::default()).await.unwrap().existed,
                    "{key}"
                );
                world.objects.remove(&key);
            }
            2..6 => world.check(&key).await,
            _ => {
                let days = 1 + world.dice.below(12) as u32;
                world.ask(&key, days).await;
            }
        }
    }
    match number % 6 {
        1 => world.restart(|_| ()).await,
        3 => drop(world.engine.gc(GcRequest::default()).await.unwrap()),
        0 | 5 => drop(world.engine.evict(u64::MAX).await.unwrap()),
        _ => {}
    }
    world.settle(&format!("round {number} is done")).await;
}

/// Reclaims until nothing is left to reclaim.
async fn sweep(world: &World) {
    for _ in 0..3 {
        world.engine.gc(GcRequest::default()).await.unwrap();
        world.settle("the sweep is done").await;
    }
}

/// Brings everything back from the cloud, which is all that there is, and compares it.
async fn bring_back(world: &mut World) {
    let keys: Vec<String> = world.objects.keys().cloned().collect();
    for key in &keys {
        world.ask(key, 300).await;
    }
    world.settle("all is restored").await;
    assert!(keys.iter().all(|key| !world.archived(key)), "(TIDEGATE_SEED={})", world.seed);
}

/// Compares every byte of every object; returns how many bytes that were.
async fn compare_bytes(world: &World) -> u64 {
    let mut all = 0;
    for (key, content) in &world.objects {
        let bytes = common::get(&world.engine, key).await.unwrap();
        assert!(bytes == content.bytes(), "{key} has other bytes (TIDEGATE_SEED={})", world.seed);
        all += bytes.len() as u64;
    }
    let listed: Vec<String> = common::list_all(&world.engine, 1_000).into_iter().map(|o| o.key).collect();
    assert!(listed.iter().eq(world.objects.keys()), "the listing (TIDEGATE_SEED={})", world.seed);
    all
}

/// The two accounts, and the bill.
async fn compare_accounts(world: &World) {
    let in_flight = || -> f64 {
        let families = world.registry.gather();
        let gauges = families.iter().filter(|f| f.name() == "tidegate_tier_requests_in_flight");
        gauges.flat_map(|f| f.get_metric()).map(|m| m.get_gauge().get_value()).sum()
    };
    until("no request is on its way", || in_flight() == 0.0).await;
    let (exchanges, left_out) = world.sim.exchanges();
    assert_eq!(left_out, 0);
    let (ours, theirs) = (account::ours(&world.registry), account::theirs(&exchanges, &PLACES));
    // Where a connection is reset while a body fails that is sent over it, either side may notice first.
    let joined = |account: &account::Account| {
        let mut joined = account::Account::new();
        for ((tier, operation, outcome), count) in account {
            let sends = matches!(operation.as_str(), "PutObject" | "UploadPart");
            let unclear = sends && matches!(outcome.as_str(), "local" | "no_answer");
            let outcome = if unclear { "local or no_answer" } else { outcome };
            *joined.entry((tier.clone(), operation.clone(), outcome.to_owned())).or_default() += count;
        }
        joined
    };
    let all = ours;
    let (ours, theirs) = (joined(&all), joined(&theirs));
    let (only_ours, only_theirs): (Vec<_>, Vec<_>) = (
        ours.iter().filter(|(k, n)| theirs.get(*k) != Some(*n)).collect(),
        theirs.iter().filter(|(k, n)| ours.get(*k) != Some(*n)).collect(),
    );
    assert!(ours == theirs, "ours {only_ours:#?}\ntheirs {only_theirs:#?}\n(TIDEGATE_SEED={})", world.seed);
    let lines = world.sim.ledger();
    let reckoned = account::reckoned(&all, &exchanges, &PLACES);
    assert_eq!(reckoned, account::billed(&lines), "(TIDEGATE_SEED={})", world.seed);
    let (billed, known) = account::retrieved(&lines, &exchanges, &world.registry, PLACES[0]);
    assert_eq!(billed, known, "bytes read from IA (TIDEGATE_SEED={})", world.seed);
    print_accounts(&all, &reckoned, billed);
}

fn print_accounts(ours: &account::Account, bill: &BTreeMap<(oss_sim::Code, oss_sim::Class), u64>, read: u64) {
    let mut operations: BTreeMap<&str, u64> = BTreeMap::new();
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for ((_, operation, outcome), count) in ours {
        *operations.entry(operation).or_default() += count;
        *outcomes.entry(outcome).or_default() += count;
    }
    println!("requests by operation: {operations:?}");
    println!("requests by outcome: {outcomes:?}");
    println!("billed: {bill:?}, {read} bytes read from IA");
}

/// Peak memory of this process, simulator included, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

/// Rounds until enough has moved, then all of it down and back once more.
async fn run(world: &mut World) {
    let mut number = 0;
    while world.moves().0 + world.moves().1 + world.objects.len() as u64 <= MOVES {
        round(world, number).await;
        number += 1;
    }
    println!("{number} rounds: {:?} moves, {} objects", world.moves(), world.objects.len());
    world.all_down().await;
    bring_back(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_moves_with_a_tenth_of_the_calls_failing_lose_nothing_and_are_all_accounted_for() {
    let (seed, _) = seed();
    println!("TIDEGATE_SEED={seed}");
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), seed).await;
    run(&mut world).await;
    let (took, (transitions, restores), calls) = (started.elapsed(), world.moves(), world.requests());
    assert!(transitions + restores >= MOVES, "{transitions} + {restores} moves only (TIDEGATE_SEED={seed})");
    let hits = plan::hits(&world.sim.faults());
    let (struck, failed): (u64, u64) = (hits.values().sum(), plan::failed(&world.sim.faults()));
    assert!(hits.values().all(|n| *n > 0), "{hits:?} (TIDEGATE_SEED={seed})");
    assert!((10..14).contains(&(failed * 100 / calls)), "{failed} of {calls} calls failed (TIDEGATE_SEED={seed})");
    let strikes = plan::strikes(&world.sim.exchanges().0);
    let spared: Vec<_> = plan::EACH.iter().filter(|one| !strikes.contains_key(*one)).collect();
    assert!(spared.is_empty(), "{spared:?} (TIDEGATE_SEED={seed})");
    println!("by operation: {strikes:?}");

    world.sim.clear_faults();
    sweep(&world).await;
    let packs = world.compare_with_cloud("after the sweep");
    let bytes = compare_bytes(&world).await;
    compare_accounts(&world).await;
    println!("{transitions} transitions, {restores} restores, {calls} calls in {took:?}");
    println!("{} restarts, {} reads failed", world.restarts, world.failed_reads);
    println!(
        "left: {} objects of {bytes} bytes in {packs} packs; peak memory {} MiB",
        world.objects.len(),
        peak_memory()
    );
    println!("{struck} faults, {failed} calls failed: {hits:?}");
    world.engine.shutdown().await.unwrap();
}
