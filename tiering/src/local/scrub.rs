//! Scrubbing: reading what nobody reads, one pack a step.

use super::packs::{Pack, lock};
use super::store::{Inner, LocalStore, check};
use super::suspects::is_unreadable;
use super::{LocalError, index::Location};
use crate::chunk::ChunkId;
use crate::pack::format::{FRAME_HEADER_LEN, FooterEntry};
use crate::pack::reader::{ReadError, read_at, read_sealed, scan};
use crate::pack::{FormatError, PackId};
use serde::Serialize;
use std::fs::File;
use std::sync::Arc;

/// What one step of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScrubStep {
    /// The pack; give it to the next step.
    pub pack: PackId,
    /// Chunks verified (those that the index places in this pack).
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Chunks that are damaged and have been set aside: fetch them again, or report the loss.
    pub damaged: Vec<ChunkId>,
    /// The footer is damaged; the frames were found one by one.
    pub footer_damaged: bool,
}

impl LocalStore {
    /// Verifies the sealed pack that follows `after` by id (the first one for none). None at the end of a round. A round
    /// begins by sealing the open packs: the latest data is no less worth a look.
    ///
    /// # Errors
    /// [`LocalError::Io`] when reading fails. Damage is not an error but a finding.
    pub fn scrub_pack(&self, after: Option<PackId>) -> Result<Option<ScrubStep>, LocalError> {
        let inner = &self.inner;
        if after.is_none() {
            inner.seal_open_packs()?;
        }
        let mut packs = inner.packs.all();
        packs.retain(|p| p.is_sealed() && after.is_none_or(|a| p.id > a));
        packs.sort_by_key(|p| p.id);
        for pack in packs {
            if let Some(file) = inner.packs.file(&pack)? {
                return inner.scrub(&pack, &file).map(Some);
            }
        }
        Ok(None)
    }
}

/// What a scrub finds of a frame.
enum Found {
    Whole,
    Damaged,
    Unreadable,
}

impl Inner {
    /// The entries of a pack's footer, or, when that is damaged, of its whole frames; and whether it is damaged.
    pub(super) fn entries_of(&self, pack: &Pack, file: &File) -> Result<(Vec<FooterEntry>, bool), LocalError> {
        let path = pack.path(&self.packs.dir);
        match read_sealed(file) {
            Ok((_, entries)) => Ok((entries, false)),
            // Nothing of the pack can be told now; what the index names in it stays.
            Err(ReadError::Io(e)) if is_unreadable(&e) => Ok((Vec::new(), true)),
            Err(ReadError::Io(e)) => Err(LocalError::io("read", &path, e)),
            Err(ReadError::Format(_)) => match scan(file, pack.id) {
                Ok(found) => Ok((found.entries, true)),
                Err(ReadError::Io(e)) if is_unreadable(&e) => Ok((Vec::new(), true)),
                Err(ReadError::Io(e)) => Err(LocalError::io("read", &path, e)),
                Err(ReadError::Format(FormatError::Short { .. } | FormatError::Invalid { .. })) => {
                    Ok((Vec::new(), true))
                }
            },
        }
    }

    fn seal_open_packs(&self) -> Result<(), LocalError> {
        for lane in self.lanes.all() {
            let mut lane = lock(lane);
            if lane.as_ref().is_some_and(|open| !open.writer.is_empty()) {
                self.complete(&mut lane)?;
            }
        }
        self.packs.sync()
    }

    fn scrub(&self, pack: &Arc<Pack>, file: &File) -> Result<ScrubStep, LocalError> {
        let (entries, footer_damaged) = self.entries_of(pack, file)?;
        let mut step = ScrubStep { pack: pack.id, chunks: 0, bytes: 0, damaged: Vec::new(), footer_damaged };
        for entry in entries {
            let Some(place) = self.index.get(&entry.id) else { continue };
            if place.slot != pack.slot || place.offset != entry.offset {
                continue;
            }
            step.chunks += 1;
            step.bytes += place.frame_len();
            match self.examine(pack, file, &entry.id, &place)? {
                Found::Whole => {
                    self.suspects.remove(&entry.id);
                    continue;
                }
                Found::Damaged => self.set_aside(&entry.id, &place, pack),
                Found::Unreadable => self.suspects.add(&entry.id),
            }
            step.damaged.push(entry.id);
        }
        Ok(step)
    }

    fn examine(&self, pack: &Pack, file: &File, id: &ChunkId, place: &Location) -> Result<Found, LocalError> {
        match read_at(file, u64::from(place.offset), FRAME_HEADER_LEN + place.stored_len as usize) {
            Ok(bytes) if check(id, &bytes).is_ok() => Ok(Found::Whole),
            Ok(_) => Ok(Found::Damaged),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Found::Damaged),
            Err(e) if is_unreadable(&e) => Ok(Found::Unreadable),
            Err(e) => Err(LocalError::io("read", &pack.path(&self.packs.dir), e)),
        }
    }
}
