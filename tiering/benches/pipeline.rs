//! The pipeline of a PUT, step by step and as a whole, and the chunk index.
//!
//! `cargo bench -p tidegate-tiering --bench pipeline`. With `TIDEGATE_BENCH_16M=1` the index is also filled with
//! 16 million chunks (needs 1 GB of memory). Bytes per entry are printed.

// A bench that cannot go on may stop.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tidegate_tiering::chunk::codec::compress_into;
use tidegate_tiering::chunk::{ChunkId, ChunkSettings, Codec, Cutter};
use tidegate_tiering::clock::SystemClock;
use tidegate_tiering::local::index::{ChunkIndex, Location};
use tidegate_tiering::local::{BudgetSettings, DiskBudget, LocalSettings, LocalStore};
use tidegate_tiering::pack::FrameKind;
use tidegate_tiering::pack::format::FrameHeader;

const BODY: usize = 16 << 20;

fn random(len: usize, seed: u64) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    Bytes::from(out)
}

fn chunks(body: &Bytes) -> Vec<Bytes> {
    let mut cutter = Cutter::new(&ChunkSettings::default());
    cutter.push(body.clone());
    let mut out: Vec<Bytes> = std::iter::from_fn(|| cutter.next_chunk()).collect();
    out.extend(cutter.finish());
    out
}

fn steps(c: &mut Criterion) {
    let body = random(BODY, 1);
    let text: Bytes =
        (0u64..).flat_map(|n| format!("{n} GET /path/{} 200\n", n * 7919 % 1000).into_bytes()).take(BODY).collect();
    let pieces = chunks(&body);
    let text_pieces = chunks(&text);
    let mut group = c.benchmark_group("steps");
    group.throughput(Throughput::Bytes(BODY as u64)).sample_size(20);
    group.bench_function("cut", |b| b.iter(|| chunks(black_box(&body)).len()));
    group.bench_function("hash", |b| b.iter(|| pieces.iter().map(|p| ChunkId::of(p).0[0] as u64).sum::<u64>()));
    let mut out = Vec::new();
    group.bench_function("compress random", |b| {
        b.iter(|| pieces.iter().filter(|p| compress_into(p, 1, &mut out) == Codec::Zstd).count());
    });
    group.bench_function("compress text", |b| {
        b.iter(|| text_pieces.iter().filter(|p| compress_into(p, 1, &mut out) == Codec::Zstd).count());
    });
    group.finish();
    let header =
        FrameHeader { kind: FrameKind::Chunk, codec: Codec::Raw, raw_len: 5, stored_len: 5, id: ChunkId::of(b"hello") };
    c.bench_function("frame header encode", |b| b.iter(|| black_box(&header).encode()));
}

fn open(dir: &std::path::Path) -> LocalStore {
    let settings = BudgetSettings { max_bytes: 1 << 40, free_floor: 0, compaction_reserve: 1 << 20 };
    let budget = Arc::new(DiskBudget::new(dir, settings).unwrap());
    LocalStore::open(dir, LocalSettings::default(), budget, Arc::new(SystemClock::default())).unwrap().0
}

fn store(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.sample_size(10);
    let seed = AtomicU64::new(100);
    let dir = tempfile::tempdir().unwrap();
    let local = open(dir.path());
    group.throughput(Throughput::Bytes(BODY as u64));
    group.bench_function("pipeline random, one thread, unsynced", |b| {
        b.iter_batched(
            || random(BODY, seed.fetch_add(1, Ordering::Relaxed)),
            |body| put(&local, &body),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("pipeline random, one thread, synced", |b| {
        b.iter_batched(
            || random(BODY, seed.fetch_add(1, Ordering::Relaxed)),
            |body| {
                put(&local, &body);
                local.sync().unwrap();
            },
            BatchSize::PerIteration,
        );
    });
    let body = random(BODY, 7);
    put(&local, &body);
    let ids: Vec<ChunkId> = chunks(&body).iter().map(|p| ChunkId::of(p)).collect();
    group.bench_function("read, verified", |b| {
        b.iter(|| ids.iter().map(|id| local.read(id).unwrap().map_or(0, |raw| raw.len())).sum::<usize>());
    });
    group.bench_function("put again, all duplicates", |b| b.iter(|| put(&local, &body)));
    group.throughput(Throughput::Elements(1));
    group.bench_function("append 4 KiB", |b| {
        let mut ingest = local.begin();
        b.iter_batched(
            || {
                let raw = random(4096, seed.fetch_add(1, Ordering::Relaxed));
                (ChunkId::of(&raw), raw)
            },
            |(id, raw)| ingest.put(FrameKind::Chunk, id, &raw).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn put(local: &LocalStore, body: &Bytes) {
    let mut ingest = local.begin();
    let mut cutter = Cutter::new(&ChunkSettings::default());
    cutter.push(body.clone());
    while let Some(chunk) = cutter.next_chunk() {
        ingest.put(FrameKind::Chunk, ChunkId::of(&chunk), &chunk).unwrap();
    }
    if let Some(chunk) = cutter.finish() {
        ingest.put(FrameKind::Chunk, ChunkId::of(&chunk), &chunk).unwrap();
    }
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

fn fill(entries: u64) -> ChunkIndex {
    let place = Location {
        slot: 1,
        offset: 2,
        stored_len: 3,
        kind: FrameKind::Chunk,
        codec: Codec::Raw,
        freq: 0,
        colour: false,
        cached: false,
        spared: false,
        doubted: false,
    };
    let index = ChunkIndex::new();
    let start = Instant::now();
    for n in 0..entries {
        let id = fast_id(n);
        index.lock(&id).insert(&id, place).unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = index.bytes();
    println!(
        "index of {entries} chunks: {:.2} bytes each, {} MB; {:.2} M inserts/s",
        bytes as f64 / entries as f64,
        bytes / 1_000_000,
        entries as f64 / seconds / 1e6
    );
    index
}

fn index(c: &mut Criterion) {
    let large = std::env::var_os("TIDEGATE_BENCH_16M").is_some();
    let sizes: &[u64] = if large { &[1_000_000, 16_000_000] } else { &[1_000_000] };
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(1));
    for entries in sizes.iter().copied() {
        let index = fill(entries);
        let mut n = 0u64;
        group.bench_function(format!("lookup of one in {entries}, there"), |b| {
            b.iter(|| {
                n = (n + 7_368_787) % entries;
                index.get(&fast_id(n))
            });
        });
        group.bench_function(format!("lookup of one in {entries}, not there"), |b| {
            b.iter(|| {
                n += 1;
                index.get(&fast_id(n + (1 << 40)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps, store, index);
criterion_main!(benches);
