//! What durability costs: ways to lay out a journal file under fdatasync, and commits through the whole store.
//! Not a criterion bench: the disk decides, so it prints distributions of many single calls instead of fitted means.
//!
//! `cargo bench -p tidegate-tiering --bench journal [-- DIR]` (DIR: a folder on the disk to measure).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::meta::{
    AppliedOp, Batch, CommitObserver, DataSync, Durability, GroupStats, JournaledStore, MetaSettings, MetaStore,
    NoData, Reason, Table,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SEGMENT: u64 = 64 << 20;
const RECORD: usize = 700;
const SYNCS: u64 = 2000;
const RUN_FOR: Duration = Duration::from_secs(2);

fn main() -> Outcome<()> {
    let argument = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    let base = argument.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    layouts(dir.path())?;
    println!();
    println!(
        "commits of 600 bytes: callers, durability, bodies | commits/s, latency p50 p99 (us), group, CPU us/commit"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let relaxed = Durability::Relaxed { sync_every: Duration::from_millis(200) };
    for (callers, durability, slow) in [
        (1, Durability::Strict, None),
        (16, Durability::Strict, None),
        (64, Durability::Strict, None),
        (1, Durability::Strict, Some(Duration::from_micros(900))),
        (16, Durability::Strict, Some(Duration::from_micros(900))),
        (64, Durability::Strict, Some(Duration::from_micros(900))),
        (16, relaxed, None),
    ] {
        let name = format!("store-{callers}-{durability:?}-{slow:?}").replace([' ', '{', '}', ':'], "");
        runtime.block_on(commits(&dir.path().join(name), callers, durability, slow))?;
    }
    Ok(())
}

/// fdatasync after each of many small writes, for each way to prepare the file.
fn layouts(dir: &Path) -> Outcome<()> {
    println!("{SYNCS} writes of {RECORD} bytes, each with fdatasync (us) | mean p50 p99 max");
    for name in ["plain append", "fallocate 64 MiB", "zeros 64 MiB", "recycled 64 MiB", "zeros 1 MiB ahead"] {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("layout"))?;
        match name {
            "fallocate 64 MiB" => rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT)?,
            "zeros 64 MiB" => fill(&file, 0, SEGMENT, 0)?,
            "recycled 64 MiB" => fill(&file, 0, SEGMENT, 0xa5)?,
            _ => {}
        }
        file.sync_all()?;
        let (mut at, mut filled) = (0u64, 0u64);
        let mut took = Vec::new();
        for _ in 0..SYNCS {
            let began = Instant::now();
            if name == "zeros 1 MiB ahead" && at + RECORD as u64 > filled {
                fill(&file, filled, filled + (1 << 20), 0)?;
                filled += 1 << 20;
            }
            file.write_all_at(&[7u8; RECORD], at)?;
            rustix::fs::fdatasync(&file)?;
            took.push(began.elapsed());
            at += RECORD as u64;
        }
        let mean = took.iter().sum::<Duration>() / u32::try_from(took.len())?;
        took.sort();
        let max = took.last().map_or(0, Duration::as_micros);
        println!("  {name:18} {:6} {:6} {:6} {max:6}", mean.as_micros(), quantile(&took, 50), quantile(&took, 99));
    }
    Ok(())
}

fn fill(file: &File, from: u64, to: u64, byte: u8) -> std::io::Result<()> {
    let chunk = vec![byte; 64 << 10];
    (from..to).step_by(64 << 10).try_for_each(|at| file.write_all_at(&chunk, at))
}

fn quantile(sorted: &[Duration], percent: usize) -> u128 {
    sorted.get(sorted.len() * percent / 100).map_or(0, Duration::as_micros)
}

/// Bodies on a disk whose sync takes this long: with the journal's own, a slow disk.
struct SlowDisk(Duration);

impl DataSync for SlowDisk {
    fn sync(&self) -> std::io::Result<()> {
        std::thread::sleep(self.0);
        Ok(())
    }
}

#[derive(Default)]
struct Groups {
    groups: AtomicU64,
    records: AtomicU64,
}

impl CommitObserver for Groups {
    fn applied(&self, _seq: u64, _ops: &[AppliedOp]) {}

    fn group(&self, stats: &GroupStats) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(stats.records as u64, Ordering::Relaxed);
    }
}

async fn commits(dir: &Path, callers: u64, durability: Durability, slow: Option<Duration>) -> Outcome<()> {
    let settings = MetaSettings { durability, ..MetaSettings::default() };
    let data: Arc<dyn DataSync> = match slow {
        Some(time) => Arc::new(SlowDisk(time)),
        None => Arc::new(NoData),
    };
    let groups = Arc::new(Groups::default());
    let clock = Arc::new(SystemClock::default());
    let (store, _) = JournaledStore::open(dir, settings, data, vec![groups.clone()], clock)?;
    let store = Arc::new(store);
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let (began, cpu) = (Instant::now(), cpu_ticks()?);
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let (store, latencies) = (Arc::clone(&store), Arc::clone(&latencies));
        tasks.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            let mut n = caller.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            while began.elapsed() < RUN_FOR {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = format!("bucket/{n:016x}");
                let due = format!("{n:016x}");
                let mut batch =
                    Batch::new(Reason::PutObject).put(Table::Object, key, vec![7u8; 540]).put(Table::Due, due, "o");
                batch.wrote_data = slow.is_some();
                let start = Instant::now();
                store.commit(batch).await?;
                mine.push(start.elapsed());
            }
            latencies.lock().map(|mut all| all.extend(mine)).ok();
            Ok::<_, tidegate_tiering::meta::MetaError>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let (elapsed, ticks) = (began.elapsed(), cpu_ticks()? - cpu);
    let mut took = latencies.lock().map(|l| l.clone()).unwrap_or_default();
    took.sort();
    let count = took.len().max(1) as f64;
    let group = groups.records.load(Ordering::Relaxed) as f64 / groups.groups.load(Ordering::Relaxed).max(1) as f64;
    // The kernel counts CPU time in hundredths of a second here.
    let cpu_us = ticks as f64 * 10_000.0 / count;
    let kind = if durability == Durability::Strict { "strict" } else { "relaxed" };
    let bodies = slow.map_or("none".to_owned(), |s| format!("{} us", s.as_micros()));
    println!(
        "  {callers:3} {kind:8} {bodies:7} | {:7.0} {:6} {:6} {group:6.1} {cpu_us:6.1}",
        count / elapsed.as_secs_f64(),
        quantile(&took, 50),
        quantile(&took, 99)
    );
    let closing = Instant::now();
    store.close()?;
    println!("      closed in {} ms", closing.elapsed().as_millis());
    Ok(())
}

/// User and system time of this process, in clock ticks.
fn cpu_ticks() -> Outcome<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Ok(field(11) + field(12))
}
