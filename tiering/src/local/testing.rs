//! Helpers of the local store's tests.

use super::{BudgetSettings, DiskBudget, LocalSettings, LocalStore, RecoveryReport};
use crate::chunk::ChunkId;
use crate::clock::{ManualClock, Timestamp};
use crate::pack::FrameKind;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

pub const SMALL: LocalSettings = LocalSettings {
    pack_bytes: 64 << 10,
    open_packs: 2,
    max_open_files: 8,
    writeback_bytes: 16 << 10,
    zstd_level: 1,
    ghost_entries: 1_000,
};

pub fn open_limited(dir: &Path, max_bytes: u64) -> (LocalStore, RecoveryReport) {
    let budget = BudgetSettings { max_bytes, free_floor: 0, compaction_reserve: (max_bytes / 4).min(256 << 10) };
    let budget = Arc::new(DiskBudget::with_probe(budget, || Ok(u64::MAX)).unwrap());
    let clock = Arc::new(ManualClock::new(Timestamp(1_767_225_600_000)));
    LocalStore::open(dir, SMALL, budget, clock).unwrap()
}

pub fn open(dir: &Path) -> (LocalStore, RecoveryReport) {
    open_limited(dir, 1 << 40)
}

/// Chunk `n`: some compress, some do not; 100 to 8,000 bytes.
pub fn chunk(n: u64) -> (ChunkId, Bytes) {
    let mut head = [0u8; 32];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut head);
    let len = 100 + usize::from(head[0]) * 31;
    let mut body = vec![head[2]; len];
    if head[1] & 1 == 0 {
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut body);
    }
    body[..8].copy_from_slice(&n.to_le_bytes());
    (ChunkId::of(&body), Bytes::from(body))
}

pub fn put_all(store: &LocalStore, numbers: impl IntoIterator<Item = u64>) {
    let mut ingest = store.begin();
    for n in numbers {
        let (id, raw) = chunk(n);
        ingest.put(FrameKind::Chunk, id, &raw).unwrap();
    }
}

pub fn is_there(store: &LocalStore, n: u64) -> bool {
    let (id, raw) = chunk(n);
    match store.read(&id).unwrap() {
        Some(found) => {
            assert_eq!(found, raw);
            true
        }
        None => false,
    }
}

/// A copy of the folder as a crash at this moment would leave it.
pub fn crash_image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), image.path().join(entry.file_name())).unwrap();
    }
    image
}
