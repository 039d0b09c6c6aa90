//! Opening after a clean stop, a kill or a power cut: which packs are there, and what of the open ones is whole.

use super::LocalError;
use super::index::Location;
use super::lanes::OpenPack;
use super::packs::{FILE_SLACK, Pack};
use super::store::Inner;
use crate::pack::format::{ENTRY_LEN, FooterEntry, HEADER_LEN, TRAILER_LEN};
use crate::pack::reader::{ReadError, read_sealed, scan};
use crate::pack::writer::{PackWriter, open_path, sealed_path};
use crate::pack::{FormatError, PackId};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// Sealed packs with a good footer.
    pub sealed_packs: u64,
    /// Packs that were open and have been recovered.
    pub open_packs: u64,
    /// Bytes cut off the ends of open packs: written, but never synced.
    pub torn_bytes: u64,
    /// Chunks in the index.
    pub chunks: u64,
    /// Packs that are damaged: file names, with what was found. Their whole frames are in the index.
    pub damaged: Vec<String>,
}

impl Inner {
    /// Fills pack table, lanes and index from the folder.
    pub(super) fn recover(&self) -> Result<RecoveryReport, LocalError> {
        let mut report = RecoveryReport::default();
        let (sealed, open) = self.list_packs()?;
        for id in sealed {
            self.recover_sealed(id, &mut report)?;
        }
        for id in open {
            self.recover_open(id, &mut report)?;
        }
        report.chunks = self.index.len();
        Ok(report)
    }

    /// Ids of (sealed, open) packs, sorted.
    fn list_packs(&self) -> Result<(Vec<PackId>, Vec<PackId>), LocalError> {
        let dir = &self.packs.dir;
        let (mut sealed, mut open) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(dir).map_err(|e| LocalError::io("list", dir, e))? {
            let name = entry.map_err(|e| LocalError::io("list", dir, e))?.file_name();
            let Some((stem, extension)) = name.to_str().and_then(|n| n.rsplit_once('.')) else { continue };
            match (stem.parse::<PackId>(), extension) {
                (Ok(id), "pack") => sealed.push(id),
                (Ok(id), "open") => open.push(id),
                _ => {}
            }
        }
        sealed.sort_unstable();
        open.sort_unstable();
        Ok((sealed, open))
    }

    fn recover_sealed(&self, id: PackId, report: &mut RecoveryReport) -> Result<(), LocalError> {
        let path = sealed_path(&self.packs.dir, id);
        let file = File::open(&path).map_err(|e| LocalError::io("open", &path, e))?;
        let len = file.metadata().map_err(|e| LocalError::io("read", &path, e))?.len();
        let (header, entries) = match read_sealed(&file) {
            Ok(found) => {
                report.sealed_packs += 1;
                found
            }
            Err(ReadError::Io(e)) => return Err(LocalError::io("read", &path, e)),
            Err(ReadError::Format(e)) => {
                // The footer is only a table of contents: what it would say is found frame by frame.
                report.damaged.push(format!("{}: {e}", path.display()));
                match scan(&file, id) {
                    Ok(found) => (found.header, found.entries),
                    Err(ReadError::Io(e)) => return Err(LocalError::io("read", &path, e)),
                    Err(ReadError::Format(e)) => {
                        // Kept on disk for a human, and counted.
                        report.damaged.push(format!("{}: {e}; nothing of it can be read", path.display()));
                        self.budget.adopt(len + FILE_SLACK);
                        return Ok(());
                    }
                }
            }
        };
        let pack = self.packs.add(id, header.class)?;
        pack.set_sealed(len);
        self.adopt(&pack, len + FILE_SLACK, &entries)
    }

    fn adopt(&self, pack: &Arc<Pack>, charge: u64, entries: &[FooterEntry]) -> Result<(), LocalError> {
        pack.charged.store(charge, Ordering::Release);
        self.budget.adopt(charge);
        pack.count_entries(entries);
        for e in entries {
            let place = Location {
                slot: pack.slot,
                offset: e.offset,
                stored_len: e.stored_len,
                kind: e.kind,
                codec: e.codec,
                freq: 0,
                colour: false,
                cached: false,
            };
            self.insert_or_touch(&e.id, place, pack)?;
        }
        Ok(())
    }

    fn recover_open(&self, id: PackId, report: &mut RecoveryReport) -> Result<(), LocalError> {
        let path = open_path(&self.packs.dir, id);
        let fail = |what, e| LocalError::io(what, &path, e);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| fail("open", e))?;
        let len = file.metadata().map_err(|e| fail("read", e))?.len();
        let found = match scan(&file, id) {
            Ok(found) => found,
            Err(ReadError::Io(e)) => return Err(fail("read", e)),
            Err(ReadError::Format(FormatError::Short { .. })) => {
                // Killed before the header was written: nothing was ever in it.
                report.torn_bytes += len;
                return fs::remove_file(&path).map_err(|e| fail("delete", e));
            }
            Err(ReadError::Format(e)) => {
                // The header was written before any frame. A power cut may leave zeros there when nothing was synced;
                // otherwise it is damage. Both are kept: deleting is for those who know.
                report.damaged.push(format!("{}: {e}; nothing of it can be read", path.display()));
                self.budget.adopt(len + FILE_SLACK);
                return Ok(());
            }
        };
        report.open_packs += 1;
        report.torn_bytes += len - found.valid_end;
        if found.valid_end < len {
            file.set_len(found.valid_end).map_err(|e| fail("truncate", e))?;
        }
        if found.holes {
            report.damaged.push(format!("{}: damaged bytes between whole frames", path.display()));
        }
        let pack = self.packs.add(id, found.header.class)?;
        let file = Arc::new(file);
        self.packs.track(&pack, Arc::clone(&file), found.valid_end);
        let footer = (found.entries.len() * ENTRY_LEN + TRAILER_LEN) as u64;
        self.adopt(&pack, found.valid_end + footer + FILE_SLACK, &found.entries)?;
        let resumable = !found.holes && found.valid_end < self.settings.pack_bytes;
        debug_assert!(found.valid_end >= HEADER_LEN as u64);
        let writer = PackWriter::resume(file, found.header, found.entries, found.valid_end);
        let open = OpenPack { pack, writer };
        let left = if resumable { self.lanes.resume(open) } else { Some(open) };
        if left.is_some() {
            self.complete(&mut { left })?;
        }
        Ok(())
    }
}
