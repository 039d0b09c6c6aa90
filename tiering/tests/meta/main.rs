//! The namespace store against a plain map, against crashes, and against damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, which clippy.toml does not cover

mod basics;
mod crash;
mod damage;
mod groups;

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
    all.retain(|path| path.extension().is_some_and(|e| e == "seg"));
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
