//! The index over the journal. The only file that names sled.
//!
//! Nothing here is trusted to be durable or atomic: sled's `flush` is `sync_file_range`, not fsync, and databases
//! that do not open after a kill have been reported. Changes are single inserts, because sled's `apply_batch` rolls
//! its log buffer twice for each batch (figures in `docs/adr/0002-journal.md`) and its atomicity is not needed: after a
//! kill, replay begins at the last checkpoint, not at sled's own position.

use super::{Entry, KeyRange, MetaError, Table};
use crate::disk;
use std::fs::File;
use std::ops::{Bound, Deref};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

/// Keys of the index itself begin with this byte; tables begin at 1.
const INTERNAL: u8 = 0;
const GENERATION_KEY: [u8; 2] = [INTERNAL, b'g'];
const POSITION_KEY: [u8; 2] = [INTERNAL, b'p'];
/// sled takes no cache smaller than 256 bytes; a few MiB is the least that makes sense.
const MIN_CACHE_BYTES: u64 = 4 << 20;
const HELP: &str = "The index holds nothing of its own: run `tidegate index rebuild`";

/// A value as read from the store. Derefs to its bytes; cloning shares them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(sled::IVec);

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value(sled::IVec::from(bytes))
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

/// A handle to the index; clones share it.
#[derive(Clone)]
pub(crate) struct SledIndex {
    db: sled::Db,
    dir: PathBuf,
}

impl SledIndex {
    /// Opens the index of generation `generation`, or says in words why it cannot be used.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, generation: u128) -> Result<SledIndex, String> {
        if !dir.join("db").is_file() {
            return Err("the index folder is missing".to_owned());
        }
        let index = open_db(dir, cache_bytes)?;
        match index.db.get(GENERATION_KEY) {
            Ok(Some(found)) if *found == generation.to_le_bytes()[..] => Ok(index),
            Ok(_) => Err("the index belongs to another state of the store".to_owned()),
            Err(e) => Err(format!("the index cannot be read: {e}")),
        }
    }

    /// Throws away what is in `dir` and makes an empty index.
    pub(crate) fn create(dir: &Path, cache_bytes: u64, generation: u128) -> Result<SledIndex, MetaError> {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(MetaError::io("remove the old index", dir, &e));
            }
            _ => {}
        }
        std::fs::create_dir_all(dir).map_err(|e| MetaError::io("create", dir, &e))?;
        let index = open_db(dir, cache_bytes).map_err(|what| MetaError::corrupt(dir, 0, what, HELP))?;
        index.insert(&GENERATION_KEY, &generation.to_le_bytes())?;
        Ok(index)
    }

    fn error(&self, e: &sled::Error) -> MetaError {
        match e {
            sled::Error::Io(e) => MetaError::io("use the index in", &self.dir, e),
            other => MetaError::corrupt(&self.dir, 0, other.to_string(), HELP),
        }
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), MetaError> {
        self.db.insert(key, value).map(drop).map_err(|e| self.error(&e))
    }

    /// Applies one change; returns what it replaced.
    pub(crate) fn apply(&self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<Option<Value>, MetaError> {
        let full = full_key(table, key);
        let old = match value {
            Some(value) => self.db.insert(full, value),
            None => self.db.remove(full),
        };
        old.map(|old| old.map(Value)).map_err(|e| self.error(&e))
    }

    /// Notes that everything up to `seq` is applied. A later insert than the changes it speaks of, so that sled, whose
    /// log is recovered in order, never knows the position without them.
    pub(crate) fn set_position(&self, epoch: u64, seq: u64) -> Result<(), MetaError> {
        let mut value = [0u8; 16];
        value[..8].copy_from_slice(&epoch.to_le_bytes());
        value[8..].copy_from_slice(&seq.to_le_bytes());
        self.insert(&POSITION_KEY, &value)
    }

    /// The sequence number last noted by [`SledIndex::set_position`]; 0 when none was.
    pub(crate) fn position(&self) -> Result<u64, MetaError> {
        let value = self.db.get(POSITION_KEY).map_err(|e| self.error(&e))?;
        let seq = value.as_deref().and_then(|v| v.get(8..16)).and_then(|v| v.try_into().ok());
        Ok(seq.map_or(0, u64::from_le_bytes))
    }

    /// The value at a key.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, MetaError> {
        let value = self.db.get(full_key(table, key)).map_err(|e| self.error(&e))?;
        Ok(value.map(Value))
    }

    /// Up to `limit` entries of a table's range.
    pub(crate) fn scan(
        &self,
        table: Table,
        range: KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Entry>, MetaError> {
        let mut found = Vec::new();
        let Some(range) = full_range(table, range) else { return Ok(found) };
        let mut entries = self.db.range::<Vec<u8>, _>(range);
        while found.len() < limit {
            let next = if reverse { entries.next_back() } else { entries.next() };
            let Some(entry) = next else { break };
            let (key, value) = entry.map_err(|e| self.error(&e))?;
            found.push((key.get(1..).unwrap_or_default().to_vec(), Value(value)));
        }
        Ok(found)
    }

    /// Writes everything that sled holds back to its files, so that it survives a kill (not a power loss).
    pub(crate) fn flush(&self) -> Result<(), MetaError> {
        self.db.flush().map(drop).map_err(|e| self.error(&e))
    }

    /// Flushes, closes (when this is the last handle) and makes every file durable.
    pub(crate) fn close(self) -> Result<(), MetaError> {
        self.flush()?;
        let dir = self.dir.clone();
        drop(self);
        sync_tree(&dir)
    }

    /// Bytes on disk.
    pub(crate) fn size_on_disk(&self) -> Result<u64, MetaError> {
        self.db.size_on_disk().map_err(|e| self.error(&e))
    }
}

/// sled panics on some damage; that is no reason to go down with it.
fn open_db(dir: &Path, cache_bytes: u64) -> Result<SledIndex, String> {
    let config = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(cache_bytes.max(MIN_CACHE_BYTES))
        .flush_every_ms(None);
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(SledIndex { db, dir: dir.to_owned() }),
        Ok(Err(e)) => Err(format!("the index does not open: {e}")),
        Err(_) => Err("the index does not open: sled panicked".to_owned()),
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(table.code());
    full.extend_from_slice(key);
    full
}

/// A table's range as a range of the tree; `None` when it is empty by its bounds.
fn full_range(table: Table, (from, to): KeyRange) -> Option<KeyRange> {
    let from = match from {
        Bound::Included(k) => Bound::Included(full_key(table, &k)),
        Bound::Excluded(k) => Bound::Excluded(full_key(table, &k)),
        Bound::Unbounded => Bound::Included(vec![table.code()]),
    };
    let to = match to {
        Bound::Included(k) => Bound::Included(full_key(table, &k)),
        Bound::Excluded(k) => Bound::Excluded(full_key(table, &k)),
        Bound::Unbounded => Bound::Excluded(vec![table.code() + 1]),
    };
    let empty = match (&from, &to) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
        _ => false,
    };
    (!empty).then_some((from, to))
}

/// fsync of every file and folder below `dir`, and of the folder that holds it.
fn sync_tree(dir: &Path) -> Result<(), MetaError> {
    let fail = |e: std::io::Error| MetaError::io("sync the index in", dir, &e);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path()).and_then(|f| disk::sync_all(&f)).map_err(fail)?;
        }
    }
    disk::sync_dir(dir).map_err(fail)
}
