//! The pack format: pure functions on slices. All numbers are little endian. `docs/formats.md` has the same by byte.

use crate::chunk::{ChunkId, Codec, MAX_CHUNK_LEN, codec};
use crate::clock::Timestamp;
use bytes::Bytes;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};

/// First bytes of a pack.
pub const PACK_MAGIC: [u8; 8] = *b"TGPACK1\n";
/// First bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"TGFR";
/// Last bytes of a sealed pack.
pub const TRAILER_MAGIC: [u8; 8] = *b"TGPKEND\n";
/// The newest version of the format that this code reads. Which one is written follows from the [class](PackClass).
pub const FORMAT_VERSION: u16 = 2;
/// Length of the pack header in bytes.
pub const HEADER_LEN: usize = 40;
/// Length of a frame's header in bytes; the stored chunk follows it.
pub const FRAME_HEADER_LEN: usize = 52;
/// Length of a footer entry in bytes.
pub const ENTRY_LEN: usize = 48;
/// Length of the trailer, the last bytes of a sealed pack.
pub const TRAILER_LEN: usize = 40;

/// Why bytes are not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fewer bytes than the structure takes.
    #[error("{what}: cut short")]
    Short {
        /// The structure.
        what: &'static str,
    },
    /// Magic or checksum do not fit, or a field has a value that the format does not know.
    #[error("{what}: {detail}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

fn invalid(what: &'static str, detail: impl Into<String>) -> FormatError {
    FormatError::Invalid { what, detail: detail.into() }
}

/// The name of a pack: 48 bits of milliseconds, 16 bits of a process-wide counter, 64 random bits, all big endian, so
/// that ids sort by creation. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackId(pub [u8; 16]);

impl PackId {
    /// A fresh id for a pack that is created at `now_ms` (milliseconds since the Unix epoch).
    pub fn fresh(now_ms: u64) -> Self {
        static COUNTER: AtomicU16 = AtomicU16::new(0);
        let mut id = [0u8; 16];
        id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
        id[6..8].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        id[8..].copy_from_slice(&rand::rng().random::<u64>().to_be_bytes());
        Self(id)
    }

    /// When the pack was begun.
    pub(crate) fn begun(&self) -> Timestamp {
        let mut millis = [0u8; 8];
        millis[2..].copy_from_slice(&self.0[..6]);
        Timestamp(u64::from_be_bytes(millis))
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

impl FromStr for PackId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0u8; 16];
        hex::decode_to_slice(text, &mut id)
            .map_err(|e| format!("pack id `{text}`: {e} (32 hexadecimal digits are needed)"))?;
        Ok(Self(id))
    }
}

/// Which queue a pack belongs to. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum PackClass {
    /// Chunks as clients sent them.
    Hot = 0,
    /// Chunks recalled from the cloud.
    Cache = 1,
    /// Survivors of compaction and eviction, and recalled chunks that were missed soon after they had been dropped.
    Main = 2,
    /// A pack in the cloud.
    Remote = 3,
}

impl PackClass {
    const fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Hot),
            1 => Some(Self::Cache),
            2 => Some(Self::Main),
            3 => Some(Self::Remote),
            _ => None,
        }
    }

    /// The version of the format that packs of this class are written in: 2 where there may be frames of manifests.
    const fn version(self) -> u16 {
        match self {
            Self::Hot | Self::Cache | Self::Main => 1,
            Self::Remote => 2,
        }
    }
}

/// What a frame holds. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum FrameKind {
    /// A piece of a body.
    Chunk = 1,
    /// A node of a manifest (a list of chunks).
    ManifestNode = 2,
    /// What the namespace says about objects in packs of a tier. No read of an object needs it.
    Manifests = 3,
}

impl FrameKind {
    /// The kind of a stored number.
    pub const fn from_u8(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Chunk),
            2 => Some(Self::ManifestNode),
            3 => Some(Self::Manifests),
            _ => None,
        }
    }
}

/// The header of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// The pack's name, as in its file name.
    pub id: PackId,
    /// The queue that it belongs to.
    pub class: PackClass,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl PackHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        out[..8].copy_from_slice(&PACK_MAGIC);
        out[8..10].copy_from_slice(&self.class.version().to_le_bytes());
        out[10] = self.class as u8;
        out[12..28].copy_from_slice(&self.id.0);
        out[28..36].copy_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc32fast::hash(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`FormatError`] when it is short, damaged, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "pack header";
        let b: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(FormatError::Short { what: WHAT })?;
        if b[..8] != PACK_MAGIC {
            return Err(invalid(WHAT, "no pack (magic)"));
        }
        if u32_at(b, 36) != crc32fast::hash(&b[..36]) {
            return Err(invalid(WHAT, "checksum"));
        }
        let version = u16::from_le_bytes([b[8], b[9]]);
        if !(1..=FORMAT_VERSION).contains(&version) {
            let text = format!("format version {version}, this program reads up to {FORMAT_VERSION}");
            return Err(invalid(WHAT, text));
        }
        let class = PackClass::from_u8(b[10]).ok_or_else(|| invalid(WHAT, format!("class {}", b[10])))?;
        let mut id = [0; 16];
        id.copy_from_slice(&b[12..28]);
        Ok(Self { id: PackId(id), class, created_ms: u64_at(b, 28) })
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// How it is compressed.
    pub codec: Codec,
    /// Length of the chunk in bytes.
    pub raw_len: u32,
    /// Length of the stored bytes that follow the header.
    pub stored_len: u32,
    /// BLAKE3 of the raw chunk.
    pub id: ChunkId,
}

impl FrameHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0u8; FRAME_HEADER_LEN];
        out[..4].copy_from_slice(&FRAME_MAGIC);
        out[4] = self.kind as u8;
        out[5] = self.codec as u8;
        out[8..12].copy_from_slice(&self.raw_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.stored_len.to_le_bytes());
        out[16..48].copy_from_slice(&self.id.0);
        let crc = crc32fast::hash(&out[..48]);
        out[48..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`FormatError`] when it is short or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "frame header";
        let b: &[u8; FRAME_HEADER_LEN] = bytes.first_chunk().ok_or(FormatError::Short { what: WHAT })?;
        if b[..4] != FRAME_MAGIC {
            return Err(invalid(WHAT, "no frame (magic)"));
        }
        if u32_at(b, 48) != crc32fast::hash(&b[..48]) {
            return Err(invalid(WHAT, "checksum"));
        }
        let kind = FrameKind::from_u8(b[4]).ok_or_else(|| invalid(WHAT, format!("kind {}", b[4])))?;
        let codec = Codec::from_u8(b[5]).ok_or_else(|| invalid(WHAT, format!("codec {}", b[5])))?;
        if b[6] != 0 || b[7] != 0 {
            return Err(invalid(WHAT, format!("flags {:#06x}", u16::from_le_bytes([b[6], b[7]]))));
        }
        let (raw_len, stored_len) = (u32_at(b, 8), u32_at(b, 12));
        check_lengths(WHAT, raw_len, stored_len)?;
        Ok(Self { kind, codec, raw_len, stored_len, id: id_at(b, 16) })
    }

    /// Length of the whole frame in bytes.
    pub const fn frame_len(&self) -> u64 {
        FRAME_HEADER_LEN as u64 + self.stored_len as u64
    }
}

/// A frame with its stored bytes, as it goes between packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// How it is compressed.
    pub codec: Codec,
    /// Length of the chunk in bytes.
    pub raw_len: u32,
    /// The stored bytes.
    pub stored: Bytes,
}

impl Frame {
    /// The header of this frame as chunk `id`.
    ///
    /// # Errors
    /// [`FormatError`] when a length is beyond the format's 24 bits.
    pub fn header(&self, id: ChunkId) -> Result<FrameHeader, FormatError> {
        let stored_len = u32::try_from(self.stored.len()).unwrap_or(u32::MAX);
        check_lengths("frame", self.raw_len, stored_len)?;
        Ok(FrameHeader { kind: self.kind, codec: self.codec, raw_len: self.raw_len, stored_len, id })
    }

    /// The raw chunk, when it is the one that `id` names.
    ///
    /// # Errors
    /// [`FormatError`] when the bytes do not decompress to exactly the announced length, or their digest is another.
    pub fn verify(&self, id: &ChunkId) -> Result<Bytes, FormatError> {
        let raw = codec::decompress(self.codec, &self.stored, self.raw_len as usize)
            .map_err(|e| invalid("frame payload", e.to_string()))?;
        if ChunkId::of(&raw) != *id {
            return Err(invalid("frame payload", "BLAKE3 digest differs"));
        }
        Ok(raw)
    }
}

/// Splits a whole frame (header and stored bytes) into its parts without copying. The payload is not verified:
/// [`Frame::verify`] does that.
///
/// # Errors
/// [`FormatError`] when the header is damaged or `bytes` is not exactly one frame.
pub fn decode_frame(bytes: &Bytes) -> Result<(FrameHeader, Frame), FormatError> {
    let header = FrameHeader::decode(bytes)?;
    if header.frame_len() != bytes.len() as u64 {
        return Err(invalid("frame", format!("{} bytes where {} were announced", bytes.len(), header.frame_len())));
    }
    let stored = bytes.slice(FRAME_HEADER_LEN..);
    Ok((header, Frame { kind: header.kind, codec: header.codec, raw_len: header.raw_len, stored }))
}

/// One line of a footer: where a chunk's frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterEntry {
    /// The chunk.
    pub id: ChunkId,
    /// Where its frame (the header) starts, in bytes from the start of the pack.
    pub offset: u32,
    /// Length of the stored bytes.
    pub stored_len: u32,
    /// Length of the raw chunk.
    pub raw_len: u32,
    /// What the frame holds.
    pub kind: FrameKind,
    /// How it is compressed.
    pub codec: Codec,
}

impl FooterEntry {
    /// The entry of a frame at `offset`.
    pub const fn of(header: &FrameHeader, offset: u32) -> Self {
        Self {
            id: header.id,
            offset,
            stored_len: header.stored_len,
            raw_len: header.raw_len,
            kind: header.kind,
            codec: header.codec,
        }
    }

    /// The header of the frame that this entry describes.
    pub const fn header(&self) -> FrameHeader {
        FrameHeader {
            kind: self.kind,
            codec: self.codec,
            raw_len: self.raw_len,
            stored_len: self.stored_len,
            id: self.id,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, self.codec as u8, 0, 0]);
    }

    fn decode(b: &[u8; ENTRY_LEN]) -> Result<Self, FormatError> {
        const WHAT: &str = "footer entry";
        let kind = FrameKind::from_u8(b[44]).ok_or_else(|| invalid(WHAT, format!("kind {}", b[44])))?;
        let codec = Codec::from_u8(b[45]).ok_or_else(|| invalid(WHAT, format!("codec {}", b[45])))?;
        let (stored_len, raw_len) = (u32_at(b, 36), u32_at(b, 40));
        check_lengths(WHAT, raw_len, stored_len)?;
        Ok(Self { id: id_at(b, 0), offset: u32_at(b, 32), stored_len, raw_len, kind, codec })
    }
}

/// Length in bytes of the footer (entries and trailer) of a pack of `entries` frames.
pub const fn footer_len(entries: usize) -> u64 {
    entries as u64 * ENTRY_LEN as u64 + TRAILER_LEN as u64
}

/// The footer: entries and trailer, the last bytes of a sealed pack.
///
/// # Errors
/// [`FormatError`] with more entries than 32 bits count.
pub fn encode_footer(id: PackId, entries: &[FooterEntry]) -> Result<Vec<u8>, FormatError> {
    let too_many = || invalid("footer", "too many entries");
    let count = u32::try_from(entries.len()).map_err(|_| too_many())?;
    let length = count.checked_mul(ENTRY_LEN as u32).ok_or_else(too_many)?;
    let mut out = Vec::with_capacity(length as usize + TRAILER_LEN);
    for entry in entries {
        entry.encode(&mut out);
    }
    let entries_crc = crc32fast::hash(&out);
    let start = out.len();
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&entries_crc.to_le_bytes());
    out.extend_from_slice(&id.0);
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&TRAILER_MAGIC);
    Ok(out)
}

/// The trailer: what the last [`TRAILER_LEN`] bytes of a sealed pack say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Number of footer entries.
    pub count: u32,
    /// Length of the entries in bytes; they stand right before the trailer.
    pub entries_len: u32,
    entries_crc: u32,
    /// The pack's id, once more.
    pub id: PackId,
}

impl Trailer {
    /// Reads a trailer that is exactly `bytes`.
    ///
    /// # Errors
    /// [`FormatError`] when it is short or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "pack trailer";
        let b: &[u8; TRAILER_LEN] = bytes.try_into().map_err(|_| FormatError::Short { what: WHAT })?;
        if b[32..] != TRAILER_MAGIC {
            return Err(invalid(WHAT, "not sealed (magic)"));
        }
        if u32_at(b, 28) != crc32fast::hash(&b[..28]) {
            return Err(invalid(WHAT, "checksum"));
        }
        let mut id = [0; 16];
        id.copy_from_slice(&b[12..28]);
        let trailer =
            Self { count: u32_at(b, 0), entries_len: u32_at(b, 4), entries_crc: u32_at(b, 8), id: PackId(id) };
        if u64::from(trailer.count) * ENTRY_LEN as u64 != u64::from(trailer.entries_len) {
            return Err(invalid(WHAT, "entry count and length do not fit"));
        }
        Ok(trailer)
    }

    /// Reads the entries, which are exactly `bytes`.
    ///
    /// # Errors
    /// [`FormatError`] when they are not what the trailer announces.
    pub fn decode_entries(&self, bytes: &[u8]) -> Result<Vec<FooterEntry>, FormatError> {
        const WHAT: &str = "pack footer";
        if bytes.len() != self.entries_len as usize {
            return Err(FormatError::Short { what: WHAT });
        }
        if crc32fast::hash(bytes) != self.entries_crc {
            return Err(invalid(WHAT, "checksum"));
        }
        bytes.as_chunks::<ENTRY_LEN>().0.iter().map(FooterEntry::decode).collect()
    }
}

/// Reads the whole footer at the end of `bytes`, which may be a whole pack or any suffix that holds the footer.
///
/// # Errors
/// [`FormatError`] when it is short or damaged.
pub fn decode_footer(bytes: &[u8]) -> Result<(PackId, Vec<FooterEntry>), FormatError> {
    let short = FormatError::Short { what: "pack footer" };
    let at = bytes.len().checked_sub(TRAILER_LEN).ok_or_else(|| short.clone())?;
    let trailer = Trailer::decode(&bytes[at..])?;
    let start = at.checked_sub(trailer.entries_len as usize).ok_or(short)?;
    Ok((trailer.id, trailer.decode_entries(&bytes[start..at])?))
}

/// Checks the lengths of a frame against the format's 24 bits.
pub(crate) fn check_frame(header: &FrameHeader) -> Result<(), FormatError> {
    check_lengths("frame", header.raw_len, header.stored_len)
}

fn check_lengths(what: &'static str, raw_len: u32, stored_len: u32) -> Result<(), FormatError> {
    if raw_len as usize > MAX_CHUNK_LEN || stored_len as usize > MAX_CHUNK_LEN {
        return Err(invalid(what, format!("lengths {raw_len} and {stored_len}: at most {MAX_CHUNK_LEN}")));
    }
    Ok(())
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

fn id_at(b: &[u8], at: usize) -> ChunkId {
    let mut id = [0; 32];
    id.copy_from_slice(&b[at..at + 32]);
    ChunkId(id)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
