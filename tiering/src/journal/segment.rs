//! A segment file being written. Its end is kept filled with zeros ahead of the records (figures in
//! `docs/adr/0002-journal.md`): an fdatasync inside written blocks has neither a file size nor an extent to write.

use super::record::checksum;
use crate::disk;
use crate::meta::MetaError;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// First eight bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"TGJSEG1\n";
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
const VERSION: u16 = 1;
const CHECKSUM_AT: usize = 48;
/// Zeros written by one call, in bytes.
const ZERO_CHUNK: usize = 64 * 1024;
static ZEROS: [u8; ZERO_CHUNK] = [0; ZERO_CHUNK];

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Sequence number of its first record.
    pub(crate) first_seq: u64,
    /// Epoch of the process that made it.
    pub(crate) epoch: u64,
    /// When, in milliseconds since the Unix epoch.
    pub(crate) created_ms: u64,
}

impl SegmentHeader {
    pub(crate) fn to_bytes(self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0u8; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(SEGMENT_HEADER_BYTES as u16).to_le_bytes());
        out[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        out[32..40].copy_from_slice(&self.created_ms.to_le_bytes());
        let sum = checksum(&[&out[..CHECKSUM_AT]]);
        out[CHECKSUM_AT..].copy_from_slice(&sum);
        out
    }

    pub(crate) fn parse(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader, &'static str> {
        let word = |at: usize| {
            let mut w = [0u8; 8];
            w.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(w)
        };
        if bytes[0..8] != SEGMENT_MAGIC {
            return Err("it does not begin like a journal segment");
        }
        if checksum(&[&bytes[..CHECKSUM_AT]]) != bytes[CHECKSUM_AT..] {
            return Err("the checksum of the segment's header does not fit");
        }
        if u16::from_le_bytes([bytes[8], bytes[9]]) != VERSION {
            return Err("a segment of an unknown version");
        }
        Ok(SegmentHeader { first_seq: word(16), epoch: word(24), created_ms: word(32) })
    }
}

/// The file name of the segment whose first record is `first_seq`.
pub(crate) fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), MetaError> {
    disk::sync_dir(dir).map_err(|e| MetaError::io("sync the folder", dir, &e))
}

/// The last segment, open for appending.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    path: PathBuf,
    file: File,
    /// Bytes used: where the next record goes.
    used: u64,
    /// Bytes written, zeros included.
    filled: u64,
    fill_ahead: u64,
}

impl SegmentWriter {
    /// Makes a new segment, durable with its name before it returns.
    pub(crate) fn create(dir: &Path, header: SegmentHeader, fill_ahead: u64) -> Result<SegmentWriter, MetaError> {
        SegmentWriter::draft(dir, header, fill_ahead)?.named(dir, header)
    }

    /// Makes a segment that has no name yet. An error does no harm: what there is of it is overwritten by the next one.
    pub(crate) fn draft(dir: &Path, header: SegmentHeader, fill_ahead: u64) -> Result<SegmentWriter, MetaError> {
        let tmp = dir.join(segment_name(header.first_seq)).with_extension("seg.tmp");
        let file = disk::create_empty(&tmp).map_err(|e| MetaError::io("create", &tmp, &e))?;
        disk::write_all_at(&file, [&header.to_bytes(), &[]], 0).map_err(|e| MetaError::io("write to", &tmp, &e))?;
        let used = SEGMENT_HEADER_BYTES as u64;
        let mut writer = SegmentWriter { path: tmp, file, used, filled: used, fill_ahead };
        writer.fill_to(used + fill_ahead)?;
        writer.sync()?;
        Ok(writer)
    }

    /// Gives a draft its name. After an error the name may be there or not, so nothing may be written to the segment before it:
    /// records there and an empty segment of the same number would contradict each other.
    pub(crate) fn named(mut self, dir: &Path, header: SegmentHeader) -> Result<SegmentWriter, MetaError> {
        let path = dir.join(segment_name(header.first_seq));
        disk::rename(&self.path, &path).map_err(|e| MetaError::io("rename", &self.path, &e))?;
        sync_dir(dir)?;
        super::reach::note(dir, header.first_seq)?;
        self.path = path;
        Ok(self)
    }

    /// Opens the last segment to go on at `used`. What is behind `used` is cut off (it is zeros or a torn tail: a
    /// stale record there could otherwise be taken for a new one), and the bytes from `doubtful` to `used` are written
    /// again: they may be in the page cache only, marked clean by an fdatasync that failed.
    pub(crate) fn resume(path: &Path, doubtful: u64, used: u64, fill_ahead: u64) -> Result<SegmentWriter, MetaError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| MetaError::io("open", path, &e))?;
        disk::set_len(&file, used).map_err(|e| MetaError::io("truncate", path, &e))?;
        let mut at = doubtful.min(used);
        let mut buffer = vec![0u8; ZERO_CHUNK];
        while at < used {
            let n = usize::try_from(used - at).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
            file.read_exact_at(&mut buffer[..n], at).map_err(|e| MetaError::io("read", path, &e))?;
            disk::write_all_at(&file, [&buffer[..n], &[]], at).map_err(|e| MetaError::io("write to", path, &e))?;
            at += n as u64;
        }
        let writer = SegmentWriter { path: path.to_owned(), file, used, filled: used, fill_ahead };
        disk::sync_all(&writer.file).map_err(|e| MetaError::io("sync", path, &e))?;
        Ok(writer)
    }

    /// Bytes used so far, the header included.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that `len` bytes can be appended. An error (typically no space) leaves every record as it was, so
    /// that the caller may go on later.
    pub(crate) fn reserve(&mut self, len: u64) -> Result<(), MetaError> {
        let need = self.used.saturating_add(len);
        if need <= self.filled || self.fill_ahead == 0 {
            return Ok(());
        }
        self.fill_to(need.saturating_add(self.fill_ahead))
    }

    fn fill_to(&mut self, end: u64) -> Result<(), MetaError> {
        while self.filled < end {
            let n = usize::try_from(end - self.filled).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
            disk::write_all_at(&self.file, [&ZEROS[..n], &[]], self.filled)
                .map_err(|e| MetaError::io("extend", &self.path, &e))?;
            self.filled += n as u64;
        }
        Ok(())
    }

    /// Appends whole records. After an error the end of the file is unknown.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<(), MetaError> {
        disk::write_all_at(&self.file, [records, &[]], self.used)
            .map_err(|e| MetaError::io("write to", &self.path, &e))?;
        self.used = self.used.saturating_add(records.len() as u64);
        self.filled = self.filled.max(self.used);
        Ok(())
    }

    /// fdatasync.
    pub(crate) fn sync(&self) -> Result<(), MetaError> {
        disk::sync_data(&self.file).map_err(|e| MetaError::io("fdatasync", &self.path, &e))
    }

    /// Cuts the zeros off and makes the segment durable, before the next one is begun.
    pub(crate) fn seal(&mut self) -> Result<(), MetaError> {
        disk::set_len(&self.file, self.used).map_err(|e| MetaError::io("truncate", &self.path, &e))?;
        self.filled = self.used;
        disk::sync_all(&self.file).map_err(|e| MetaError::io("sync", &self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_of_version_1_has_exactly_these_bytes() {
        let header = SegmentHeader { first_seq: 7, epoch: 3, created_ms: 1_700_000_000_000 };
        let bytes = header.to_bytes();
        assert_eq!(
            hex::encode(bytes),
            "54474a534547310a0100400000000000070000000000000003000000000000000068e5cf8b0100000000000000000000\
        0985cb4eaec6a1c0f4f3b3b5ae4dd81f"
        );
        assert_eq!(SegmentHeader::parse(&bytes), Ok(header));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&bad).is_err(), "bit {bit}");
        }
    }
}
