//! The index snapshot: a file that saves reading all footers at opening. Footers are the truth: a pack that the
//! snapshot does not cover is read by its footer, a snapshot that is damaged or missing is as good as none.
//!
//! Written shard by shard while writers go on. That is sound because only packs are covered that were sealed, with all
//! their frames in the index, before the first shard was written; what happens later happens in other packs.

use super::LocalError;
use super::index::Location;
use super::packs::Pack;
use super::store::{Inner, LocalStore};
use crate::chunk::ChunkId;
use crate::disk;
use crate::failpoint;
use crate::pack::PackId;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MAGIC: [u8; 8] = *b"TGINDX1\n";
const END: [u8; 8] = *b"TGIXEND\n";
const PACK_LINE: usize = 48;
const ENTRY_LINE: usize = 42;
/// Most entries of a shard that a reader believes in (22 bits, as in the index).
const MAX_SHARD: u32 = 1 << 22;

/// The snapshot's file in the folder of the packs.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("index.snap")
}

/// Deletes the snapshot, so that the next opening rebuilds the index from the packs' footers alone.
///
/// # Errors
/// Of deleting; none when there is no snapshot.
pub fn discard(dir: &Path) -> Result<(), LocalError> {
    match disk::remove(&path(dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LocalError::io("delete", &path(dir), e)),
        _ => Ok(()),
    }
}

/// What a snapshot says of a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Covered {
    pub len: u64,
    pub frames: u64,
    pub raw_total: u64,
    pub stored_total: u64,
    pub ordinal: u32,
}

impl LocalStore {
    /// Writes the index snapshot: at a clean stop, and now and then. Returns the number of chunks in it.
    ///
    /// # Errors
    /// Of writing. The previous snapshot, if any, is then still in place.
    pub fn save_index(&self) -> Result<u64, LocalError> {
        let dir = &self.inner.packs.dir;
        let (final_path, temporary) = (path(dir), dir.join("index.snap.tmp"));
        let written = self.inner.write_snapshot(&temporary).map_err(|e| LocalError::io("write", &temporary, e))?;
        failpoint::hit("index.before_rename");
        disk::rename(&temporary, &final_path).map_err(|e| LocalError::io("rename", &temporary, e))?;
        Ok(written)
    }
}

/// Writes bytes and remembers their CRC-32 since the last [`Self::seal`].
struct Summed<W> {
    inner: W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.inner.write_all(bytes)
    }

    fn seal(&mut self) -> io::Result<()> {
        let crc = std::mem::take(&mut self.crc).finalize();
        self.inner.write_all(&crc.to_le_bytes())
    }
}

impl Inner {
    fn write_snapshot(&self, to: &Path) -> io::Result<u64> {
        let covered: Vec<Arc<Pack>> =
            self.packs.all().into_iter().filter(|p| p.is_sealed() && p.pending.load(Ordering::Acquire) == 0).collect();
        let ordinals: HashMap<u32, u32> = covered.iter().zip(0u32..).map(|(p, n)| (p.slot, n)).collect();
        let file = disk::Appender::new(disk::create_empty(to)?, 0);
        let mut out = Summed { inner: BufWriter::with_capacity(1 << 20, file), crc: Default::default() };
        out.put(&MAGIC)?;
        out.put(&u32::try_from(covered.len()).map_err(io::Error::other)?.to_le_bytes())?;
        for pack in &covered {
            out.put(&pack.id.0)?;
            for number in [&pack.appended, &pack.frames, &pack.raw_total, &pack.stored_total] {
                out.put(&number.load(Ordering::Acquire).to_le_bytes())?;
            }
        }
        out.seal()?;
        let mut total = 0;
        let mut lines: Vec<u8> = Vec::new();
        for n in 0..=255u8 {
            lines.clear();
            let shard = self.index.lock_shard(n);
            for at in 0..shard.len() {
                let place = shard.location(at);
                let Some(ordinal) = ordinals.get(&place.slot) else { continue };
                lines.extend_from_slice(&shard.id(at).0[1..]);
                lines.extend_from_slice(&Location { slot: *ordinal, doubted: false, ..place }.pack_bits());
            }
            drop(shard);
            let count = lines.len() / ENTRY_LINE;
            out.put(&u32::try_from(count).map_err(io::Error::other)?.to_le_bytes())?;
            out.put(&lines)?;
            out.seal()?;
            total += count as u64;
        }
        out.inner.write_all(&END)?;
        let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        disk::sync_all(file.file())?;
        Ok(total)
    }
}

/// A snapshot that is being read.
pub(super) struct Snapshot {
    input: BufReader<File>,
    /// Length of the file: more than that no count in it can mean.
    len: u64,
    pub packs: HashMap<PackId, Covered>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("index snapshot: {what}"))
}

fn read_u32(input: &mut impl Read, crc: &mut crc32fast::Hasher) -> io::Result<u32> {
    let mut b = [0; 4];
    input.read_exact(&mut b)?;
    crc.update(&b);
    Ok(u32::from_le_bytes(b))
}

fn check_crc(input: &mut impl Read, crc: crc32fast::Hasher) -> io::Result<()> {
    let mut b = [0; 4];
    input.read_exact(&mut b)?;
    if u32::from_le_bytes(b) == crc.finalize() { Ok(()) } else { Err(damaged("checksum")) }
}

impl Snapshot {
    /// Reads the part that says which packs are covered. None when there is no snapshot.
    pub fn open(dir: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path(dir)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let len = file.metadata()?.len();
        let most = len / PACK_LINE as u64;
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("magic"));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&magic);
        let count = read_u32(&mut input, &mut crc)?;
        if u64::from(count) > most {
            return Err(damaged("pack count"));
        }
        let mut packs = HashMap::with_capacity(count as usize);
        for ordinal in 0..count {
            let mut line = [0u8; PACK_LINE];
            input.read_exact(&mut line)?;
            crc.update(&line);
            let mut id = [0; 16];
            id.copy_from_slice(&line[..16]);
            let number = |at: usize| {
                let mut b = [0; 8];
                b.copy_from_slice(&line[at..at + 8]);
                u64::from_le_bytes(b)
            };
            let covered = Covered {
                len: number(16),
                frames: number(24),
                raw_total: number(32),
                stored_total: number(40),
                ordinal,
            };
            packs.insert(PackId(id), covered);
        }
        check_crc(&mut input, crc)?;
        Ok(Some(Self { input, len, packs }))
    }

    /// Reads everything else and gives each shard's entries, with the pack's ordinal in place of its slot, to `take`.
    /// Nothing is given of a shard whose checksum does not fit.
    pub fn read_shards(
        mut self,
        mut take: impl FnMut(u8, &mut dyn Iterator<Item = (ChunkId, Location)>) -> Result<(), LocalError>,
    ) -> io::Result<()> {
        let mut lines = Vec::new();
        for n in 0..=255u8 {
            let mut crc = crc32fast::Hasher::new();
            let count = read_u32(&mut self.input, &mut crc)?;
            if count >= MAX_SHARD || u64::from(count) * ENTRY_LINE as u64 > self.len {
                return Err(damaged("entry count"));
            }
            lines.resize(count as usize * ENTRY_LINE, 0);
            self.input.read_exact(&mut lines)?;
            crc.update(&lines);
            check_crc(&mut self.input, crc)?;
            let mut entries = lines.as_chunks::<ENTRY_LINE>().0.iter().map(|line| {
                let mut id = [n; 32];
                id[1..].copy_from_slice(&line[..31]);
                let mut bits = [0; 11];
                bits.copy_from_slice(&line[31..]);
                (ChunkId(id), Location { colour: false, doubted: false, ..Location::from_bits(&bits) })
            });
            take(n, &mut entries).map_err(io::Error::other)?;
        }
        let mut end = [0; 8];
        self.input.read_exact(&mut end)?;
        if end == END { Ok(()) } else { Err(damaged("end")) }
    }
}
