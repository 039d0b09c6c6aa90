//! Whether the pack files that the table names are there, and whether others are.

use super::packs::Pack;
use super::{LocalError, LocalStore};
use crate::chunk::ChunkId;
use crate::pack::PackId;
use crate::pack::writer::{open_path, sealed_path};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::Ordering;

/// A pack whose file is missing or too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortPack {
    /// The pack.
    pub pack: PackId,
    /// Bytes that are there; none when the file is missing.
    pub found: Option<u64>,
    /// Bytes that must be there.
    pub expected: u64,
    /// Chunks that the index places in this pack.
    pub chunks: u64,
}

/// A pack file that the store did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPack {
    /// The pack that its name says.
    pub pack: PackId,
    /// Name of the file.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// What a look at the folder of packs found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackFiles {
    /// Packs in the table.
    pub packs: u64,
    /// Those whose files are missing or too short.
    pub short: Vec<ShortPack>,
    /// Files that are in no table.
    pub unknown: Vec<UnknownPack>,
}

impl LocalStore {
    /// Compares the table of packs with the folder. No sweep may run meanwhile: it deletes files before it forgets them.
    ///
    /// # Errors
    /// [`LocalError::Io`] when the folder cannot be read.
    pub fn check_files(&self) -> Result<PackFiles, LocalError> {
        let dir = &self.inner.packs.dir;
        let packs = self.inner.packs.all();
        let mut files = PackFiles { packs: packs.len() as u64, ..PackFiles::default() };
        let mut unknown = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| LocalError::io("list", dir, e))? {
            let entry = entry.map_err(|e| LocalError::io("list", dir, e))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some((stem, "pack" | "open")) = name.rsplit_once('.') else { continue };
            let Ok(pack) = stem.parse::<PackId>() else { continue };
            // Gone since: it was renamed when it was sealed, or deleted.
            let Ok(about) = entry.metadata() else { continue };
            unknown.push(UnknownPack { pack, name, bytes: about.len() });
        }
        // Again: packs that were begun meanwhile are known now.
        let known: HashSet<PackId> = packs.iter().chain(&self.inner.packs.all()).map(|p| p.id).collect();
        unknown.retain(|file| !known.contains(&file.pack));
        files.unknown = unknown;
        for pack in packs {
            if let Some(short) = self.short(&pack)? {
                files.short.push(short);
            }
        }
        Ok(files)
    }

    fn short(&self, pack: &Pack) -> Result<Option<ShortPack>, LocalError> {
        let dir = &self.inner.packs.dir;
        let expected = pack.appended.load(Ordering::Acquire);
        let mut found = None;
        // Sealing renames it, so it may stand under either name by now.
        for path in [open_path(dir, pack.id), sealed_path(dir, pack.id), open_path(dir, pack.id)] {
            match fs::metadata(&path) {
                Ok(about) => found = found.max(Some(about.len())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(LocalError::io("look at", &path, e)),
            }
        }
        let chunks = pack.live_count.load(Ordering::Acquire);
        let is_short = found.is_none_or(|len| len < expected);
        Ok(is_short.then_some(ShortPack { pack: pack.id, found, expected, chunks }))
    }

    /// Whether the index places a chunk in one of these packs, behind the bytes that are there.
    pub(crate) fn is_beyond(&self, id: &ChunkId, packs: &HashMap<PackId, u64>) -> bool {
        let Some(place) = self.inner.index.get(id) else { return false };
        let pack = self.inner.packs.get(place.slot);
        let found = pack.and_then(|pack| packs.get(&pack.id));
        found.is_some_and(|len| u64::from(place.offset) + place.frame_len() > *len)
    }
}
