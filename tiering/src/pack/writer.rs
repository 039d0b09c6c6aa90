//! Writing one pack file. No policy here: when to rotate, what to sync and what it all costs is the local store's.

use super::format::{FooterEntry, FrameHeader, HEADER_LEN, PackHeader, encode_footer};
use crate::disk;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of a pack that may still grow, in `dir`.
pub fn open_path(dir: &Path, id: super::PackId) -> PathBuf {
    dir.join(format!("{id}.open"))
}

/// The file of a sealed pack, in `dir`.
pub fn sealed_path(dir: &Path, id: super::PackId) -> PathBuf {
    dir.join(format!("{id}.pack"))
}

/// An open pack. Every append is one `pwritev`, so that readers of the file see whole frames as soon as it returns.
#[derive(Debug)]
pub struct PackWriter {
    file: Arc<File>,
    header: PackHeader,
    len: u64,
    entries: Vec<FooterEntry>,
    /// Up to where writeback was started.
    started: u64,
    /// Up to where the file has been written, be it with zeros.
    filled: u64,
    broken: bool,
}

impl PackWriter {
    /// Creates the file `<id>.open` in `dir` and writes the header. The directory is not synced.
    ///
    /// # Errors
    /// Of creating and writing; also when the file is there.
    pub fn create(dir: &Path, header: PackHeader) -> io::Result<Self> {
        let path = open_path(dir, header.id);
        let file = disk::create(OpenOptions::new().read(true).write(true).create_new(true), &path)?;
        disk::write_all_at(&file, [&header.encode(), &[]], 0)?;
        Ok(Self::resume(Arc::new(file), header, Vec::new(), HEADER_LEN as u64))
    }

    /// Goes on with a pack that [`super::reader::scan`] found whole up to `len`.
    pub fn resume(file: Arc<File>, header: PackHeader, entries: Vec<FooterEntry>, len: u64) -> Self {
        Self { file, header, len, entries, started: len, filled: len, broken: false }
    }

    /// Appends one frame and returns where it starts.
    ///
    /// # Errors
    /// Of writing; the frame is then cut off again. When even that fails, [`is_broken`](Self::is_broken).
    pub fn append(&mut self, header: &FrameHeader, stored: &[u8]) -> io::Result<u32> {
        let offset = u32::try_from(self.len).map_err(|_| io::Error::other("pack beyond 4 GiB"))?;
        if let Err(e) = disk::write_all_at(&self.file, [&header.encode(), stored], self.len) {
            self.broken |= disk::set_len(&self.file, self.len).is_err();
            self.filled = self.len;
            return Err(e);
        }
        self.filled = self.filled.max(self.len + header.frame_len());
        self.entries.push(FooterEntry::of(header, offset));
        self.len += header.frame_len();
        Ok(offset)
    }

    /// Writes `bytes` of zeros behind the last frame when a frame of `frame_len` would not fit into those written before.
    /// Inside written blocks an fdatasync has no size and no extent of the file to make durable, which is most of
    /// the cost of a small one. Recovery takes the zeros for a torn tail; [`write_footer`](Self::write_footer) cuts them off.
    ///
    /// # Errors
    /// Of writing; the pack is as before.
    pub fn fill_ahead(&mut self, frame_len: u64, bytes: u64) -> io::Result<()> {
        if self.len + frame_len <= self.filled || frame_len > bytes {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        disk::write_all_at(&self.file, [&zeros, &[]], self.len)?;
        self.filled = self.len + bytes;
        Ok(())
    }

    /// Appends the footer. Only sync and rename are then missing for a sealed pack.
    ///
    /// # Errors
    /// Of writing; the footer is then cut off again, as in [`append`](Self::append), and may be tried once more.
    pub fn write_footer(&mut self) -> io::Result<()> {
        let footer = encode_footer(self.header.id, &self.entries).map_err(io::Error::other)?;
        if let Err(e) = disk::write_all_at(&self.file, [&footer, &[]], self.len) {
            self.broken |= disk::set_len(&self.file, self.len).is_err();
            self.filled = self.len;
            return Err(e);
        }
        self.broken = true;
        self.len += footer.len() as u64;
        if self.filled > self.len {
            disk::set_len(&self.file, self.len)?;
        }
        self.filled = self.len;
        Ok(())
    }

    /// Starts writeback of what was appended since the last time, when that is at least `step` bytes, so that the sync
    /// that comes later finds little to do. A hint: errors are ignored, the sync will meet them.
    pub fn start_writeback(&mut self, step: u64) {
        if step > 0 && self.len - self.started >= step {
            start_writeback(&self.file, self.started, self.len - self.started);
            self.started = self.len;
        }
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True before the first frame.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True when nothing more can be appended after a failed write.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What was appended so far.
    pub fn entries(&self) -> &[FooterEntry] {
        &self.entries
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

#[allow(unsafe_code)]
fn start_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // SAFETY: the call takes no pointers, and the descriptor is open for as long as `file` is borrowed.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}
