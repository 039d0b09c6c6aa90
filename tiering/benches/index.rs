//! The chunk index of a large store: how long opening takes with a snapshot and without, how much memory it takes, and
//! how many chunks can be looked up in a second. Not a criterion bench: one opening of many seconds is what is measured.
//!
//! `cargo bench -p tidegate-tiering --bench index [-- MILLIONS [DIR]]` (default: 1 million chunks of 32 KiB; 16 need 1 GB of
//! memory and 2 GB of disk in DIR). Packs are sparse files with real headers and footers: opening reads nothing else. They
//! are dropped from the page cache before each opening.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_tiering::chunk::{ChunkId, Codec};
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::local::{BudgetSettings, DiskBudget, LocalSettings, LocalStore, RecoveryReport, snapshot};
use tidegate_tiering::pack::format::{FRAME_HEADER_LEN, HEADER_LEN, encode_footer};
use tidegate_tiering::pack::writer::sealed_path;
use tidegate_tiering::pack::{FooterEntry, FrameKind, PackClass, PackHeader, PackId};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Frames of one pack: 64 MiB at 32 KiB each.
const FRAMES: u64 = 2_048;
const STORED: u32 = (32 << 10) - FRAME_HEADER_LEN as u32;
const LOOKUPS: u64 = 4_000_000;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let millions: u64 = arguments.first().map_or(Ok(1), |text| text.parse())?;
    let base = arguments.get(1).map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let packs = (millions * 1_000_000).div_ceil(FRAMES);
    for n in 0..packs {
        write_pack(dir.path(), n)?;
    }
    forget_pages(dir.path())?;
    let (store, took, report) = open(dir.path())?;
    let chunks = store.usage().chunks;
    println!("{chunks} chunks in {packs} packs");
    println!("opened from footers: {:.2} s ({} packs)", took.as_secs_f64(), report.sealed_packs);
    let began = Instant::now();
    store.save_index()?;
    println!("snapshot written: {:.2} s", began.elapsed().as_secs_f64());
    drop(store);
    forget_pages(dir.path())?;
    let (store, took, report) = open(dir.path())?;
    println!("opened from the snapshot: {:.2} s ({})", took.as_secs_f64(), report.snapshot.unwrap_or_default());
    let bytes = store.usage().index_bytes;
    println!(
        "memory: {:.2} bytes a chunk, {} MB; process {} MB",
        bytes as f64 / chunks as f64,
        bytes / 1_000_000,
        resident()?
    );
    for threads in [1, 2, 4] {
        let there = lookups(&store, threads, chunks, 0);
        let absent = lookups(&store, threads, chunks, 1 << 40);
        println!("lookups with {threads} threads: {there:.2} M/s of chunks that are there, {absent:.2} M/s of others");
    }
    snapshot::discard(dir.path())?;
    Ok(())
}

fn open(dir: &Path) -> Outcome<(LocalStore, Duration, RecoveryReport)> {
    let settings = BudgetSettings { max_bytes: 1 << 50, free_floor: 0, compaction_reserve: 1 << 20 };
    let budget = Arc::new(DiskBudget::new(dir, settings)?);
    let began = Instant::now();
    let (store, report) = LocalStore::open(dir, LocalSettings::default(), budget, Arc::new(SystemClock::default()))?;
    Ok((store, began.elapsed(), report))
}

fn write_pack(dir: &Path, n: u64) -> Outcome<()> {
    let header = PackHeader { id: PackId::fresh(1_800_000_000_000 + n), class: PackClass::Hot, created_ms: n };
    let mut offset = HEADER_LEN as u64;
    let mut entries = Vec::new();
    for m in n * FRAMES..(n + 1) * FRAMES {
        let at = u32::try_from(offset)?;
        let (kind, codec) = (FrameKind::Chunk, Codec::Raw);
        entries.push(FooterEntry { id: fast_id(m), offset: at, raw_len: STORED, stored_len: STORED, kind, codec });
        offset += FRAME_HEADER_LEN as u64 + u64::from(STORED);
    }
    let file = File::create(sealed_path(dir, header.id))?;
    file.write_all_at(&header.encode(), 0)?;
    file.write_all_at(&encode_footer(header.id, &entries)?, offset)?;
    Ok(())
}

/// Writes everything back and drops it from the page cache.
fn forget_pages(dir: &Path) -> Outcome<()> {
    rustix::fs::sync();
    for entry in std::fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Millions a second.
fn lookups(store: &LocalStore, threads: u64, chunks: u64, beyond: u64) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut n = thread * 7_919;
                let mut found = 0u64;
                for _ in 0..LOOKUPS / threads {
                    n = (n + 7_368_787) % chunks;
                    found += u64::from(store.contains(&fast_id(n + beyond)));
                }
                black_box(found)
            });
        }
    });
    LOOKUPS as f64 / began.elapsed().as_secs_f64() / 1e6
}

/// Megabytes of memory that the process has.
fn resident() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024 / 1_000_000)
}

/// Uniform like a digest, a hundred times quicker.
fn fast_id(n: u64) -> ChunkId {
    let mut id = [0; 32];
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for word in id.as_chunks_mut::<8>().0 {
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        *word = x.to_le_bytes();
    }
    ChunkId(id)
}
