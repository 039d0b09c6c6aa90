//! Prints, for the files of a folder, what average chunk sizes cost and give: the table of `docs/performance.md`.
//!
//! `cargo run --release -p tidegate-tiering --example chunk_sizes -- DIR [DIR...]`: several folders (versions of one
//! tree, say) are read one after the other into the same set of chunks.

use bytes::Bytes;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tidegate_tiering::chunk::codec::compress_into;
use tidegate_tiering::chunk::{ChunkId, ChunkSettings, Codec, Cutter};

/// Bytes that the chunk index takes for a chunk, at most.
const INDEX_BYTES_PER_CHUNK: u64 = 48;

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

#[derive(Default)]
struct Sums {
    raw: u64,
    unique: u64,
    stored: u64,
    chunks: HashSet<ChunkId>,
    scratch: Vec<u8>,
}

impl Sums {
    fn add(&mut self, chunk: &Bytes, level: i32) {
        let length = chunk.len() as u64;
        self.raw += length;
        if self.chunks.insert(ChunkId::of(chunk)) {
            self.unique += length;
            self.stored += match compress_into(chunk, level, &mut self.scratch) {
                Codec::Raw => length,
                Codec::Zstd => self.scratch.len() as u64,
            };
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dirs: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if dirs.is_empty() {
        return Err("usage: chunk_sizes DIR [DIR...]".into());
    }
    let mut list = Vec::new();
    for dir in &dirs {
        files(dir, &mut list)?;
    }
    println!("| shortest, average, longest KiB | zstd | chunks | mean KiB | dedup | dedup + zstd | index MB | MB/s |");
    println!("|---|---|---|---|---|---|---|---|");
    let default = ChunkSettings::default();
    let sizes = [(4, 16, 64), (8, 32, 128), (8, 48, 128), (16, 64, 256), (32, 128, 512), (64, 256, 1024)];
    for (min, avg, max) in sizes {
        let settings = ChunkSettings { min: min << 10, avg: avg << 10, max: max << 10, ..default };
        row(&list, &settings)?;
    }
    for zstd_level in [1, 3, 5] {
        row(&list, &ChunkSettings { zstd_level, ..default })?;
    }
    Ok(())
}

/// Reads all files with one setting and prints what that gave.
fn row(list: &[PathBuf], settings: &ChunkSettings) -> Result<(), String> {
    settings.validate()?;
    let mut sums = Sums::default();
    let mut seconds = 0.0;
    for path in list {
        // One file at a time in memory; reading is not part of the time.
        let Ok(body) = std::fs::read(path) else { continue };
        let body = Bytes::from(body);
        let start = Instant::now();
        let mut cutter = Cutter::new(settings);
        cutter.push(body);
        while let Some(chunk) = cutter.next_chunk() {
            sums.add(&chunk, settings.zstd_level);
        }
        if let Some(chunk) = cutter.finish() {
            sums.add(&chunk, settings.zstd_level);
        }
        seconds += start.elapsed().as_secs_f64();
    }
    let (raw, chunks) = (sums.raw as f64, sums.chunks.len() as u64);
    println!(
        "| {}, {}, {} | {} | {chunks} | {:.1} | {:.3}x | {:.3}x | {:.1} | {:.0} |",
        settings.min >> 10,
        settings.avg >> 10,
        settings.max >> 10,
        settings.zstd_level,
        sums.unique as f64 / 1024.0 / chunks.max(1) as f64,
        sums.unique as f64 / raw.max(1.0),
        sums.stored as f64 / raw.max(1.0),
        (chunks * INDEX_BYTES_PER_CHUNK) as f64 / 1e6,
        raw / 1e6 / seconds.max(1e-9),
    );
    Ok(())
}
