//! `index.json`: how far the index can be trusted. Written with fsync and rename, so it is always whole.

use super::MetaError;
use crate::disk;
use crate::journal::sync_dir;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where the kernel tells one boot from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The places in a data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) snapshots: PathBuf,
    pub(crate) sled: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Layout {
        Layout {
            root: root.to_owned(),
            journal: root.join("journal"),
            snapshots: root.join("snapshots"),
            sled: root.join("sled"),
        }
    }

    /// Makes the folders, durably, and removes what a crash left half-made.
    pub(crate) fn prepare(&self) -> Result<(), MetaError> {
        for dir in [&self.root, &self.journal, &self.snapshots] {
            disk::create_dirs(dir).map_err(|e| MetaError::io("create", dir, &e))?;
        }
        for dir in [&self.journal, &self.snapshots] {
            for entry in std::fs::read_dir(dir).map_err(|e| MetaError::io("list", dir, &e))? {
                let path = entry.map_err(|e| MetaError::io("list", dir, &e))?.path();
                if path.extension().is_some_and(|e| e == "tmp") {
                    disk::remove(&path).map_err(|e| MetaError::io("remove", &path, &e))?;
                }
            }
        }
        // A process that died may have named a segment or a snapshot and not have synced its folder; what is done from now on counts
        // on these names.
        [&self.journal, &self.snapshots, &self.root].into_iter().try_for_each(|dir| sync_dir(dir))
    }
}

/// What the index folder is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IndexState {
    /// In use, or the process died: trusted up to the checkpoint while the machine has not restarted.
    Open,
    /// Closed and made durable: trusted.
    Clean,
    /// Being made: worthless.
    Rebuilding,
}

/// The marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) version: u32,
    pub(crate) state: IndexState,
    /// The boot during which it was written; empty when the kernel does not tell.
    pub(crate) boot_id: String,
    /// The index that it speaks of, as 32 hex digits.
    pub(crate) generation: String,
    /// Every record up to this one is in the index's files.
    pub(crate) seq: u64,
}

impl Marker {
    pub(crate) fn new(state: IndexState, generation: u128, seq: u64) -> Marker {
        Marker { version: 1, state, boot_id: boot_id(), generation: format!("{generation:032x}"), seq }
    }

    /// The generation as a number, if it is one.
    pub(crate) fn generation(&self) -> Option<u128> {
        u128::from_str_radix(&self.generation, 16).ok()
    }

    /// Reads the marker; `None` when there is none or it makes no sense (the index is then rebuilt).
    pub(crate) fn load(root: &Path) -> Result<Option<Marker>, MetaError> {
        let path = root.join("index.json");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok().filter(|m: &Marker| m.version == 1)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(MetaError::io("read", &path, &e)),
        }
    }

    /// Replaces the marker; durable on return.
    pub(crate) fn save(&self, root: &Path) -> Result<(), MetaError> {
        let path = root.join("index.json");
        let tmp = root.join("index.json.tmp");
        let text = serde_json::to_vec(self).map_err(|e| MetaError::Invalid(e.to_string()))?;
        disk::write_synced(&tmp, &text).map_err(|e| MetaError::io("write", &tmp, &e))?;
        disk::rename(&tmp, &path).map_err(|e| MetaError::io("rename", &tmp, &e))?;
        sync_dir(root)
    }
}

/// The id of this boot of the machine; empty when it cannot be read, which never equals a stored one.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).map(|s| s.trim().to_owned()).unwrap_or_default()
}
