//! The list of frames that were found damaged. Without it the next opening would read their footers and take them for
//! good copies, and a put of the same chunk would be answered with "duplicate": the one chance to mend it, missed.

use crate::disk;
use crate::pack::PackId;
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Pack id, offset, CRC-32 of the 20 bytes before.
const LINE: usize = 24;

fn path(dir: &Path) -> PathBuf {
    dir.join("damaged.list")
}

fn line(pack: PackId, offset: u32) -> [u8; LINE] {
    let mut out = [0; LINE];
    out[..16].copy_from_slice(&pack.0);
    out[16..20].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32fast::hash(&out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Adds a frame. Not synced ([`sync`] does that): losing the line means finding the damage again.
pub(super) fn remember(dir: &Path, pack: PackId, offset: u32) -> io::Result<()> {
    let path = path(dir);
    let append = || OpenOptions::new().append(true).open(&path);
    let file = match append() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            match disk::create(OpenOptions::new().append(true).create_new(true), &path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => append()?,
                made => made?,
            }
        }
        there => there?,
    };
    // Opened to append, it is written at its end whatever the offset says: two threads do not write over each other.
    let len = file.metadata()?.len();
    disk::write_all_at(&file, [&line(pack, offset), &[]], len)
}

/// Makes the list durable, its name included.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path(dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        file => disk::sync_data(&file?).and_then(|()| disk::sync_dir(dir)),
    }
}

/// The frames on the list. Lines that are torn are left out.
pub(super) fn load(dir: &Path) -> io::Result<HashSet<(PackId, u32)>> {
    let bytes = match fs::read(path(dir)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(e) => return Err(e),
    };
    let read = |l: &[u8; LINE]| {
        let mut id = [0; 16];
        id.copy_from_slice(&l[..16]);
        let offset = u32::from_le_bytes([l[16], l[17], l[18], l[19]]);
        (*l == line(PackId(id), offset)).then_some((PackId(id), offset))
    };
    Ok(bytes.as_chunks::<LINE>().0.iter().filter_map(read).collect())
}

/// Rewrites the list with the frames of packs that still exist.
pub(super) fn keep(dir: &Path, frames: impl Iterator<Item = (PackId, u32)>) -> io::Result<()> {
    let lines: Vec<u8> = frames.flat_map(|(pack, offset)| line(pack, offset)).collect();
    if lines.is_empty() {
        return match disk::remove(&path(dir)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    }
    let temporary = dir.join("damaged.list.tmp");
    disk::write_synced(&temporary, &lines)?;
    disk::rename(&temporary, &path(dir))
}
