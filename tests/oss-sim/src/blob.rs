//! Bodies: in memory, or one file each. A stored body is a list of pieces of such blobs, so that Complete, Append and
//! Copy move no bytes. A blob goes when its last user goes: a reader that holds it can finish after a delete.

use crate::error::OssError;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use md5::{Digest, Md5};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How much of a stored body is read at once.
pub const READ_CHUNK: u64 = 256 * 1024;
/// How long a client may leave an announced body unsent (real time) before 400 RequestTimeout.
const BODY_IDLE: Duration = Duration::from_secs(20);
/// Largest memory that is reserved on the word of a Content-Length.
const RESERVE: u64 = 8 << 20;

/// One stored sequence of bytes.
#[derive(Debug)]
pub enum Blob {
    /// In memory.
    Memory(Bytes),
    /// A file of the data directory.
    File {
        /// Its number.
        id: u64,
        /// Where it is.
        path: PathBuf,
        /// Set when the simulator stops: files then stay.
        keep: Arc<AtomicBool>,
    },
    /// Read from the log, not yet resolved to a file.
    Named(u64),
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Blob::File { path, keep, .. } = self
            && !keep.load(Ordering::SeqCst)
        {
            // A file that cannot be removed is an orphan, which the next start removes.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A piece of a blob.
#[derive(Debug, Clone)]
pub struct Segment {
    blob: Arc<Blob>,
    start: u64,
    len: u64,
}

impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = match &*self.blob {
            Blob::File { id, .. } | Blob::Named(id) => *id,
            Blob::Memory(_) => 0,
        };
        (id, self.start, self.len).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Segment, D::Error> {
        let (id, start, len) = <(u64, u64, u64)>::deserialize(deserializer)?;
        Ok(Segment { blob: Arc::new(Blob::Named(id)), start, len })
    }
}

/// A range of bytes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// A body: pieces in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Body(Vec<Segment>);

impl Body {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|s| s.len).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts another body behind this one.
    pub fn extend(&mut self, other: &Body) {
        self.0.extend(other.0.iter().cloned());
    }

    /// The part of this body that `span` names; shares the bytes.
    pub fn slice(&self, span: Span) -> Body {
        let (mut skip, mut left, mut out) = (span.start, span.len, Vec::new());
        for segment in &self.0 {
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            let len = (segment.len - skip).min(left);
            if len == 0 {
                break;
            }
            out.push(Segment { blob: Arc::clone(&segment.blob), start: segment.start + skip, len });
            left -= len;
            skip = 0;
        }
        Body(out)
    }

    /// Reads up to [`READ_CHUNK`] bytes at `at`; empty at the end.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read_at(&self, at: u64) -> io::Result<Bytes> {
        let mut skip = at;
        for segment in &self.0 {
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            let len = (segment.len - skip).min(READ_CHUNK);
            return segment.read(skip, len);
        }
        Ok(Bytes::new())
    }

    /// Replaces names from the log by files. `known` holds one blob per file, since files may be shared.
    pub(crate) fn resolve(&mut self, blobs: &Blobs, known: &mut HashMap<u64, Arc<Blob>>) {
        for segment in &mut self.0 {
            if let Blob::Named(id) = *segment.blob {
                segment.blob = Arc::clone(known.entry(id).or_insert_with(|| Arc::new(blobs.file(id))));
            }
        }
    }
}

impl Segment {
    fn read(&self, skip: u64, len: u64) -> io::Result<Bytes> {
        let start = self.start + skip;
        match &*self.blob {
            Blob::Memory(bytes) => {
                let range = usize_of(start)?..usize_of(start + len)?;
                if range.end > bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(bytes.slice(range))
            }
            Blob::File { path, .. } => {
                let mut buffer = vec![0; usize_of(len)?];
                File::open(path)?.read_exact_at(&mut buffer, start)?;
                Ok(Bytes::from(buffer))
            }
            Blob::Named(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn usize_of(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Where blobs are kept.
#[derive(Debug)]
pub struct Blobs {
    dir: Option<PathBuf>,
    next: AtomicU64,
    keep: Arc<AtomicBool>,
}

impl Blobs {
    /// Blobs in memory (`None`) or under `dir`, in 256 folders.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn open(dir: Option<&Path>) -> io::Result<Blobs> {
        if let Some(dir) = dir {
            for n in 0..256u32 {
                std::fs::create_dir_all(dir.join(format!("{n:02x}")))?;
            }
        }
        Ok(Blobs { dir: dir.map(Path::to_path_buf), next: AtomicU64::new(1), keep: Arc::new(AtomicBool::new(false)) })
    }

    fn path(&self, id: u64) -> PathBuf {
        let dir = self.dir.clone().unwrap_or_default();
        dir.join(format!("{:02x}", id & 0xff)).join(format!("{id:016x}"))
    }

    fn file(&self, id: u64) -> Blob {
        Blob::File { id, path: self.path(id), keep: Arc::clone(&self.keep) }
    }

    /// From now on files stay when their blobs go: the simulator stops.
    pub fn keep_files(&self) {
        self.keep.store(true, Ordering::SeqCst);
    }

    /// Removes files that nothing names and sets the next number. Returns how many were removed.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn sweep(&self, known: &HashMap<u64, Arc<Blob>>) -> io::Result<usize> {
        let mut removed = 0;
        let mut last = known.keys().copied().max().unwrap_or(0);
        for folder in self.dir.iter().flat_map(|d| (0..256u32).map(move |n| d.join(format!("{n:02x}")))) {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
                match id {
                    Some(id) if known.contains_key(&id) => last = last.max(id),
                    _ => {
                        std::fs::remove_file(entry.path())?;
                        removed += 1;
                    }
                }
            }
        }
        self.next.store(last + 1, Ordering::SeqCst);
        Ok(removed)
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn writer(&self, announced: u64) -> io::Result<BlobWriter> {
        if self.dir.is_none() {
            let reserve = usize_of(announced.min(RESERVE))?;
            return Ok(BlobWriter::Memory(Vec::with_capacity(reserve)));
        }
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let blob = self.file(id);
        Ok(BlobWriter::File(File::create_new(self.path(id))?, blob))
    }
}

/// A blob being written; dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub enum BlobWriter {
    /// Into memory.
    Memory(Vec<u8>),
    /// Into a file.
    File(File, Blob),
}

impl BlobWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            BlobWriter::Memory(buffer) => {
                buffer.extend_from_slice(data);
                Ok(())
            }
            BlobWriter::File(file, _) => file.write_all(data),
        }
    }

    fn finish(self, len: u64) -> Body {
        if len == 0 {
            return Body::default();
        }
        let blob = match self {
            BlobWriter::Memory(mut buffer) => {
                buffer.shrink_to_fit();
                Blob::Memory(Bytes::from(buffer))
            }
            BlobWriter::File(_, blob) => blob,
        };
        Body(vec![Segment { blob: Arc::new(blob), start: 0, len }])
    }
}

/// A received body and its digests.
#[derive(Debug)]
pub struct Received {
    /// The bytes.
    pub body: Body,
    /// How many.
    pub size: u64,
    /// MD5.
    pub md5: [u8; 16],
    /// CRC-64/XZ.
    pub crc64: u64,
}

/// CRC-64 as OSS computes it (ECMA-182, reflected, all ones in and out).
pub fn crc64(data: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Xz, data)
}

/// CRC-64 of two pieces one behind the other.
pub fn crc64_combine(first: u64, second: u64, second_len: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Xz, first, second, second_len)
}

/// Receives a body into a blob, digesting it on the way. `announced` is the Content-Length, if any; the byte at
/// `damaged_at` is inverted as if it had come so.
///
/// # Errors
/// 400 RequestTimeout when the client stops before the announced end, 400 EntityTooLarge above `limit`.
pub async fn receive(
    mut incoming: Incoming,
    blobs: &Blobs,
    announced: Option<u64>,
    limit: u64,
    damaged_at: Option<u64>,
) -> Result<Received, OssError> {
    let too_large = || {
        OssError::new(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.")
            .with("MaxSizeAllowed", limit.to_string())
    };
    if announced.is_some_and(|n| n > limit) {
        return Err(too_large());
    }
    let mut writer = blobs.writer(announced.unwrap_or(0))?;
    let (mut md5, mut crc, mut size) = (Md5::new(), Crc::new(CrcAlgorithm::Crc64Xz), 0u64);
    loop {
        let frame = match tokio::time::timeout(BODY_IDLE, incoming.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) | Err(_) => return Err(request_timeout()),
        };
        let Ok(mut data) = frame.into_data() else { continue };
        if let Some(at) =
            damaged_at.and_then(|at| usize::try_from(at.checked_sub(size)?).ok()).filter(|at| *at < data.len())
        {
            data = flipped(&data, at);
        }
        size += data.len() as u64;
        if size > limit {
            return Err(too_large());
        }
        md5.update(&data);
        crc.update(&data);
        writer.write(&data)?;
    }
    if announced.is_some_and(|n| n != size) {
        return Err(request_timeout());
    }
    Ok(Received { body: writer.finish(size), size, md5: md5.finalize().into(), crc64: crc.finalize() })
}

/// A copy with one bit of byte `at` inverted.
pub fn flipped(data: &[u8], at: usize) -> Bytes {
    let mut copy = data.to_vec();
    copy[at] ^= 0x20;
    Bytes::from(copy)
}

fn request_timeout() -> OssError {
    OssError::new(
        400,
        "RequestTimeout",
        "Your socket connection to the server was not read from or written to within the timeout period.",
    )
    .header("connection", "close")
}

/// Receives a small document.
///
/// # Errors
/// 400 MalformedXML above `limit` bytes, 400 RequestTimeout when it does not arrive.
pub async fn receive_document(mut incoming: Incoming, limit: usize) -> Result<Vec<u8>, OssError> {
    let mut out = Vec::new();
    loop {
        match tokio::time::timeout(BODY_IDLE, incoming.frame()).await {
            Ok(None) => return Ok(out),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    out.extend_from_slice(&data);
                }
            }
            Ok(Some(Err(_))) | Err(_) => return Err(request_timeout()),
        }
        if out.len() > limit {
            return Err(OssError::malformed_xml(&format!("the document is longer than {limit} bytes")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(text: &str) -> Body {
        let blob = Arc::new(Blob::Memory(Bytes::copy_from_slice(text.as_bytes())));
        Body(vec![Segment { blob, start: 0, len: text.len() as u64 }])
    }

    #[test]
    fn slices_and_joins_share_bytes_and_read_right() {
        let mut body = memory("hello ");
        body.extend(&memory("cold "));
        body.extend(&memory("world"));
        assert_eq!(body.len(), 16);
        let part = body.slice(Span { start: 4, len: 9 });
        let mut text = Vec::new();
        while (text.len() as u64) < part.len() {
            text.extend_from_slice(&part.read_at(text.len() as u64).unwrap());
        }
        assert_eq!(text, b"o cold wo");
        assert!(body.slice(Span { start: 16, len: 4 }).is_empty());
    }

    #[test]
    fn combining_crcs_equals_the_crc_of_the_whole() {
        assert_eq!(crc64_combine(crc64(b"1234"), crc64(b"56789"), 5), 11_051_210_869_376_104_954);
    }
}
