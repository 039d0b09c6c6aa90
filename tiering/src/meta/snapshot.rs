//! Snapshots: the whole index in one file, written while commits go on. Such a file is fuzzy; it becomes exact by replaying
//! the journal from the record at which it began. The format is written down in `docs/formats.md`.

use super::{MetaError, SledIndex, Table};
use crate::disk;
use crate::failpoint;
use crate::journal::{checksum16, decode_op, encode_op, read_up_to, sync_dir};
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// First eight bytes of a snapshot.
const MAGIC: [u8; 8] = *b"TGSNAP1\n";
const BLOCK_MAGIC: [u8; 4] = *b"TGSB";
const TRAILER_MAGIC: [u8; 4] = *b"TGSE";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const BLOCK_HEADER_BYTES: usize = 32;
/// Bytes of a trailer after its magic.
const TRAILER_REST: usize = 60;
/// Where a block is closed, in bytes.
const BLOCK_TARGET: usize = 256 * 1024;
/// The largest block a reader accepts: a target and one largest batch.
const BLOCK_MAX: usize = 32 << 20;
/// Entries read from the index at a time.
const PAGE: usize = 512;
const HELP: &str = "An older snapshot is used if there is one; restore this file from a backup otherwise";

/// A snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The file.
    pub path: PathBuf,
    /// Every record up to this one is in it; replay begins after it.
    pub start_seq: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The snapshots of `dir`, newest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<SnapshotInfo>, MetaError> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(MetaError::io("list", dir, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| MetaError::io("list", dir, &e))?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(".snap")) else { continue };
        let Ok(start_seq) = stem.parse::<u64>() else { continue };
        let path = entry.path();
        let bytes = entry.metadata().map_err(|e| MetaError::io("examine", &path, &e))?.len();
        found.push(SnapshotInfo { path, start_seq, bytes });
    }
    found.sort_by_key(|s| std::cmp::Reverse(s.start_seq));
    Ok(found)
}

/// What a snapshot begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) created_ms: u64,
}

/// What a snapshot ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) entries: u64,
    /// The journal must reach this record: the snapshot may hold its changes.
    pub(crate) end_seq: u64,
}

struct HashingWriter {
    out: BufWriter<disk::Appender>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl HashingWriter {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.out.write_all(bytes)
    }

    fn block(&mut self, body: &[u8], entries: u32) -> std::io::Result<()> {
        let mut head = [0u8; BLOCK_HEADER_BYTES];
        head[0..4].copy_from_slice(&BLOCK_MAGIC);
        head[4..8].copy_from_slice(&u32::try_from(body.len()).map_err(std::io::Error::other)?.to_le_bytes());
        head[8..12].copy_from_slice(&entries.to_le_bytes());
        let sum = checksum16(&[&head[..16], body]);
        head[16..].copy_from_slice(&sum);
        self.put(&head)?;
        self.put(body)
    }
}

/// Streams the index to `dir`. `finish` is called when every entry is written: it returns the latest applied record
/// after making it durable, because the file may hold its changes. Durable, with its name, on return.
pub(crate) fn write(
    dir: &Path,
    index: &SledIndex,
    start: Start,
    finish: impl FnOnce() -> Result<u64, MetaError>,
) -> Result<SnapshotInfo, MetaError> {
    let path = dir.join(format!("{:020}.snap", start.seq));
    let tmp = path.with_extension("snap.tmp");
    write_to(&tmp, &path, index, start, finish).inspect_err(|_| {
        // Half a snapshot must not take the room for whose want it is only half. The error that counts is the first.
        let _ = disk::remove(&tmp);
    })
}

fn write_to(
    tmp: &Path,
    path: &Path,
    index: &SledIndex,
    start: Start,
    finish: impl FnOnce() -> Result<u64, MetaError>,
) -> Result<SnapshotInfo, MetaError> {
    let fail = |e: std::io::Error| MetaError::io("write", tmp, &e);
    let file = disk::create_empty(tmp).map_err(fail)?;
    let mut out = HashingWriter {
        out: BufWriter::with_capacity(1 << 20, disk::Appender::new(file, 0)),
        hasher: blake3::Hasher::new(),
        bytes: 0,
    };
    let mut head = [0u8; HEADER_BYTES];
    head[0..8].copy_from_slice(&MAGIC);
    head[8..10].copy_from_slice(&VERSION.to_le_bytes());
    head[10..12].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
    head[16..24].copy_from_slice(&start.seq.to_le_bytes());
    head[24..32].copy_from_slice(&start.epoch.to_le_bytes());
    head[32..40].copy_from_slice(&start.created_ms.to_le_bytes());
    let sum = checksum16(&[&head[..48]]);
    head[48..].copy_from_slice(&sum);
    out.put(&head).map_err(fail)?;
    let entries = write_blocks(&mut out, index).map_err(|e| match e {
        Failure::Meta(e) => e,
        Failure::Io(e) => fail(e),
    })?;
    let end_seq = finish()?;
    let mut tail = [0u8; 4 + TRAILER_REST];
    tail[0..4].copy_from_slice(&TRAILER_MAGIC);
    tail[8..16].copy_from_slice(&entries.to_le_bytes());
    tail[16..24].copy_from_slice(&end_seq.to_le_bytes());
    tail[24..32].copy_from_slice(&out.bytes.to_le_bytes());
    out.hasher.update(&tail[..32]);
    tail[32..].copy_from_slice(out.hasher.finalize().as_bytes());
    let bytes = out.bytes.saturating_add(tail.len() as u64);
    out.out.write_all(&tail).map_err(fail)?;
    let file = out.out.into_inner().map_err(|e| fail(e.into_error()))?;
    disk::sync_all(file.file()).map_err(fail)?;
    failpoint::hit("snapshot.before_rename");
    disk::rename(tmp, path).map_err(fail)?;
    sync_dir(path.parent().unwrap_or(path))?;
    failpoint::hit("snapshot.after_rename");
    Ok(SnapshotInfo { path: path.to_owned(), start_seq: start.seq, bytes })
}

enum Failure {
    Meta(MetaError),
    Io(std::io::Error),
}

fn write_blocks(out: &mut HashingWriter, index: &SledIndex) -> Result<u64, Failure> {
    let (mut body, mut in_block, mut total) = (Vec::new(), 0u32, 0u64);
    for table in Table::ALL {
        let mut from = Bound::Unbounded;
        loop {
            let page = index.scan(table, (from, Bound::Unbounded), PAGE, false).map_err(Failure::Meta)?;
            let Some((last, _)) = page.last() else { break };
            from = Bound::Excluded(last.clone());
            for (key, value) in &page {
                encode_op(&mut body, table, key, Some(value)).map_err(|e| Failure::Meta(MetaError::Invalid(e)))?;
                in_block += 1;
                total = total.saturating_add(1);
                if body.len() >= BLOCK_TARGET {
                    out.block(&body, in_block).map_err(Failure::Io)?;
                    body.clear();
                    in_block = 0;
                }
            }
        }
    }
    if in_block > 0 {
        out.block(&body, in_block).map_err(Failure::Io)?;
    }
    Ok(total)
}

/// A snapshot of any blocks (number of entries, body) with the right checksums.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn sealed(blocks: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = vec![0u8; HEADER_BYTES];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    let sum = checksum16(&[&out[..48]]);
    out[48..].copy_from_slice(&sum);
    for (count, body) in blocks {
        let mut head = [0u8; BLOCK_HEADER_BYTES];
        head[0..4].copy_from_slice(&BLOCK_MAGIC);
        head[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[8..12].copy_from_slice(&count.to_le_bytes());
        let sum = checksum16(&[&head[..16], body]);
        head[16..].copy_from_slice(&sum);
        out.extend_from_slice(&head);
        out.extend_from_slice(body);
    }
    let at = out.len() as u64;
    let entries = blocks.iter().map(|(count, _)| u64::from(*count)).sum::<u64>();
    out.extend_from_slice(&TRAILER_MAGIC);
    out.extend_from_slice(&[0; 4]);
    for word in [entries, 0, at] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let digest = blake3::hash(&out);
    out.extend_from_slice(digest.as_bytes());
    out
}

/// A visitor of entries.
pub(crate) type VisitEntry<'a> = dyn FnMut(Table, &[u8], &[u8]) -> Result<(), MetaError> + 'a;

/// Reads a snapshot through. Every entry is visited after its block's checksum was found right, but only the return
/// value says that the file is whole: what was visited before an error must be thrown away.
pub(crate) fn read(path: &Path, visit: &mut VisitEntry<'_>) -> Result<(Start, End), MetaError> {
    let file = File::open(path).map_err(|e| MetaError::io("open", path, &e))?;
    let mut reader =
        Reader { path, input: BufReader::with_capacity(1 << 20, file), hasher: blake3::Hasher::new(), at: 0 };
    let start = reader.header()?;
    let mut body = Vec::new();
    let mut entries = 0u64;
    loop {
        let magic: [u8; 4] = reader.take()?;
        if magic == TRAILER_MAGIC {
            break;
        }
        if magic != BLOCK_MAGIC {
            return Err(reader.damaged("neither a block nor the trailer begins here"));
        }
        entries = entries.saturating_add(u64::from(reader.block(&mut body, visit)?));
    }
    let end = reader.trailer()?;
    if end.entries != entries {
        return Err(reader.damaged("the trailer counts other entries than there are"));
    }
    Ok((start, end))
}

struct Reader<'a> {
    path: &'a Path,
    input: BufReader<File>,
    hasher: blake3::Hasher,
    at: u64,
}

impl Reader<'_> {
    fn damaged(&self, what: &str) -> MetaError {
        MetaError::corrupt(self.path, self.at, what, HELP)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), MetaError> {
        let got = read_up_to(&mut self.input, buffer).map_err(|e| MetaError::io("read", self.path, &e))?;
        if got < buffer.len() {
            return Err(self.damaged("the file ends too early"));
        }
        self.at = self.at.saturating_add(buffer.len() as u64);
        Ok(())
    }

    /// The next `N` bytes, taken into the file's digest.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let mut bytes = [0u8; N];
        self.fill(&mut bytes)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn header(&mut self) -> Result<Start, MetaError> {
        let head: [u8; HEADER_BYTES] = self.take()?;
        if head[0..8] != MAGIC || checksum16(&[&head[..48]]) != head[48..] {
            return Err(self.damaged("it does not begin like a snapshot"));
        }
        if u16::from_le_bytes([head[8], head[9]]) != VERSION {
            return Err(self.damaged("a snapshot of an unknown version"));
        }
        Ok(Start { seq: word(&head, 16), epoch: word(&head, 24), created_ms: word(&head, 32) })
    }

    /// A block after its magic; returns how many entries it had.
    fn block(&mut self, body: &mut Vec<u8>, visit: &mut VisitEntry<'_>) -> Result<u32, MetaError> {
        let head: [u8; BLOCK_HEADER_BYTES - 4] = self.take()?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len > BLOCK_MAX {
            return Err(self.damaged("a block's length is beyond the limit"));
        }
        body.resize(len, 0);
        self.fill(body)?;
        self.hasher.update(body);
        if checksum16(&[&BLOCK_MAGIC, &head[..12], body]) != head[12..] {
            return Err(self.damaged("the checksum of the block before does not fit"));
        }
        let mut rest = &body[..];
        for _ in 0..count {
            let (op, after) = decode_op(rest).map_err(|what| self.damaged(&what))?;
            let value = op.value.ok_or_else(|| self.damaged("a removal in a snapshot"))?;
            visit(op.table, op.key, value)?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(self.damaged("bytes after the last entry of a block"));
        }
        Ok(count)
    }

    /// The trailer after its magic.
    fn trailer(&mut self) -> Result<End, MetaError> {
        let before = self.at.saturating_sub(4);
        let fields: [u8; 28] = self.take()?;
        let mut digest = [0u8; 32];
        self.fill(&mut digest)?;
        if *self.hasher.finalize().as_bytes() != digest || word(&fields, 20) != before {
            return Err(self.damaged("the digest of the file does not fit"));
        }
        match read_up_to(&mut self.input, &mut [0]).map_err(|e| MetaError::io("read", self.path, &e))? {
            0 => Ok(End { entries: word(&fields, 4), end_seq: word(&fields, 12) }),
            _ => Err(self.damaged("bytes after the trailer")),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dir: &Path) -> SnapshotInfo {
        let index = SledIndex::create(&dir.join("sled"), 0, 1).unwrap();
        index.apply(Table::Bucket, b"b", Some(b"x")).unwrap();
        index.apply(Table::Object, b"b/k", Some(b"v1")).unwrap();
        write(dir, &index, Start { seq: 7, epoch: 3, created_ms: 1_700_000_000_000 }, || Ok(8)).unwrap()
    }

    #[test]
    fn a_snapshot_of_version_1_has_exactly_these_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let info = sample(dir.path());
        assert_eq!(
            hex::encode(std::fs::read(&info.path).unwrap()),
            "5447534e4150310a0100400000000000070000000000000003000000000000000068e5cf8b0100000000000000000000\
        681eb74cff34756acfca5709ae6e4398544753421700000002000000000000006e1c2cb946516832cd4b37074470a8d3\
        020101000100000062780301030002000000622f6b763154475345000000000200000000000000080000000000000077\
        000000000000009c422db36e406922baa716ed096a45d012a229f3654b7c56be15f62a7096cf5c"
        );
        let mut entries = Vec::new();
        let (start, end) = read(&info.path, &mut |table, key, value| {
            entries.push((table, key.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!((start.seq, start.epoch, end.entries, end.end_seq), (7, 3, 2, 8));
        assert_eq!(entries[1], (Table::Object, b"b/k".to_vec(), b"v1".to_vec()));
    }

    #[test]
    fn a_snapshot_that_fails_leaves_nothing_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let index = SledIndex::create(&dir.path().join("sled"), 0, 1).unwrap();
        let to = tempfile::tempdir().unwrap();
        let start = Start { seq: 7, epoch: 3, created_ms: 0 };
        write(to.path(), &index, start, || Err(MetaError::Closed)).unwrap_err();
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_of_a_snapshot_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let info = sample(dir.path());
        let good = std::fs::read(&info.path).unwrap();
        let check = |bytes: &[u8]| {
            std::fs::write(&info.path, bytes).unwrap();
            read(&info.path, &mut |_, _, _| Ok(())).is_err()
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(check(&bad), "byte {at}");
            assert!(check(&good[..at]), "cut at {at}");
        }
        assert!(check(&[&good[..], b"x"].concat()));
        assert!(!check(&good));
    }
}
