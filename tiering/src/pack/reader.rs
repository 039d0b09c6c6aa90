//! Reading pack files: footers of sealed packs, single frames, and the scan that recovers an open pack after a crash.

use super::format::{
    FRAME_HEADER_LEN, FRAME_MAGIC, FooterEntry, FormatError, FrameHeader, HEADER_LEN, PackClass, PackHeader, PackId,
    TRAILER_LEN, Trailer, decode_frame,
};
use crate::chunk::codec::{self, Codec};
use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};

/// Why a pack cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not what the format says.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Longest window in which the scan looks for the next frame after a damaged place.
const SCAN_WINDOW: usize = 256 << 10;

/// Reads exactly `len` bytes at `offset` into a fresh buffer that is not zeroed first.
///
/// # Errors
/// Of reading; `UnexpectedEof` when the file is shorter.
pub fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buf: Vec<u8> = Vec::with_capacity(len);
    while buf.len() < len {
        let at = offset + buf.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buf), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // The allocator may have given more room than was asked for, and the read has filled it.
    buf.truncate(len);
    Ok(Bytes::from(buf))
}

/// Reads the frame at `offset` into `out`, decompressed, if all of it is in the page cache (`RWF_NOWAIT`): none when it is
/// not, when the file system cannot tell, or when the frame is not one of `stored_len` bytes that give `out.len()`. The
/// digest is the caller's to check.
pub fn read_frame_cached(
    file: &File,
    offset: u64,
    stored_len: usize,
    codec: Codec,
    out: &mut [u8],
) -> Option<FrameHeader> {
    thread_local!(static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    let mut head = [0; FRAME_HEADER_LEN];
    let checked = |head: &[u8], raw_len: usize| {
        let header = FrameHeader::decode(head).ok()?;
        let fits = header.raw_len as usize == raw_len && header.stored_len as usize == stored_len;
        (fits && header.codec == codec).then_some(header)
    };
    if codec == Codec::Raw {
        // Header and payload by one call, the payload at its final place.
        let fits = out.len() == stored_len && read_now(file, offset, [&mut head, out]);
        return if fits { checked(&head, stored_len) } else { None };
    }
    STORED.with_borrow_mut(|stored| {
        stored.resize(stored_len, 0);
        if !read_now(file, offset, [&mut head, stored]) {
            return None;
        }
        let header = checked(&head, out.len())?;
        codec::decompress_into(stored, out).ok().map(|()| header)
    })
}

/// Fills both buffers from `offset` on without waiting for the disk; false when that is not possible.
fn read_now(file: &File, offset: u64, into: [&mut [u8]; 2]) -> bool {
    let wanted = into[0].len() + into[1].len();
    let mut parts = into.map(IoSliceMut::new);
    loop {
        match rustix::io::preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            // A short read: the rest is not in the page cache.
            read => return read.is_ok_and(|n| n == wanted),
        }
    }
}

/// Reads header and footer of the sealed pack that is `expected` here.
///
/// # Errors
/// [`ReadError`] when it is not whole; then [`scan`] finds what is left of it.
pub fn read_sealed(file: &File, expected: PackId) -> Result<(PackHeader, Vec<FooterEntry>), ReadError> {
    let len = file.metadata()?.len();
    let short = FormatError::Short { what: "sealed pack" };
    if len < (HEADER_LEN + TRAILER_LEN) as u64 {
        return Err(short.into());
    }
    let header = PackHeader::decode(&read_at(file, 0, HEADER_LEN)?)?;
    if header.id != expected {
        return Err(another_pack(&header).into());
    }
    let trailer_at = len - TRAILER_LEN as u64;
    let trailer = Trailer::decode(&read_at(file, trailer_at, TRAILER_LEN)?)?;
    if trailer.id != header.id {
        return Err(FormatError::Invalid { what: "pack trailer", detail: "names another pack".into() }.into());
    }
    let entries_len = u64::from(trailer.entries_len);
    let start = trailer_at.checked_sub(entries_len).filter(|s| *s >= HEADER_LEN as u64).ok_or(short)?;
    let entries = trailer.decode_entries(&read_at(file, start, trailer.entries_len as usize)?)?;
    let frames_end = entries.iter().map(|e| u64::from(e.offset) + e.header().frame_len()).max().unwrap_or(0);
    if frames_end > start {
        return Err(FormatError::Invalid { what: "pack footer", detail: "frames beyond the footer".into() }.into());
    }
    Ok((header, entries))
}

fn another_pack(header: &PackHeader) -> FormatError {
    FormatError::Invalid { what: "pack header", detail: format!("names pack {}", header.id) }
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// The pack's header; a made up one of class [`PackClass::Main`] when it is damaged.
    pub header: PackHeader,
    /// What is wrong with the header. Its frames name and verify themselves, so they are none the worse for it.
    pub header_damage: Option<FormatError>,
    /// Every frame that is whole: header and digest of the chunk fit.
    pub entries: Vec<FooterEntry>,
    /// Where the last whole frame ends; everything after it is torn or a footer.
    pub valid_end: u64,
    /// True when damaged bytes lie between whole frames. Such a pack is only read, never appended to.
    pub holes: bool,
}

/// Walks the frames of a pack and verifies every one, header and BLAKE3.
///
/// A torn tail is what a crash leaves. But whole frames after a damaged place are kept, too: they may have been synced,
/// and cutting at the first damaged byte, the tempting alternative, would turn one flipped bit into the loss of all
/// that follows.
///
/// # Errors
/// [`ReadError`] when reading fails, when the header names another pack, or when header and all frames are damaged.
pub fn scan(file: &File, expected: PackId) -> Result<Scan, ReadError> {
    let len = file.metadata()?.len();
    if len < HEADER_LEN as u64 {
        return Err(FormatError::Short { what: "pack header" }.into());
    }
    let (header, header_damage) = match PackHeader::decode(&read_at(file, 0, HEADER_LEN)?) {
        Ok(header) if header.id != expected => return Err(another_pack(&header).into()),
        Ok(header) => (header, None),
        Err(e) => (PackHeader { id: expected, class: PackClass::Main, created_ms: expected.begun().millis() }, Some(e)),
    };
    let mut found = Scan { header, header_damage, entries: Vec::new(), valid_end: HEADER_LEN as u64, holes: false };
    let mut at = HEADER_LEN as u64;
    while at < len {
        match whole_frame(file, at, len)? {
            Some(frame) => {
                found.holes |= at != found.valid_end;
                let offset = u32::try_from(at).map_err(|_| FormatError::Short { what: "pack beyond 4 GiB" })?;
                found.entries.push(FooterEntry::of(&frame, offset));
                at += frame.frame_len();
                found.valid_end = at;
            }
            None => match next_magic(file, at + 1, len)? {
                Some(next) => at = next,
                None => break,
            },
        }
    }
    match found.header_damage {
        Some(damage) if found.entries.is_empty() => Err(damage.into()),
        _ => Ok(found),
    }
}

fn whole_frame(file: &File, at: u64, len: u64) -> io::Result<Option<FrameHeader>> {
    if at + FRAME_HEADER_LEN as u64 > len {
        return Ok(None);
    }
    let Ok(header) = FrameHeader::decode(&read_at(file, at, FRAME_HEADER_LEN)?) else { return Ok(None) };
    if at + header.frame_len() > len {
        return Ok(None);
    }
    let bytes = read_at(file, at, FRAME_HEADER_LEN + header.stored_len as usize)?;
    let whole = decode_frame(&bytes).and_then(|(header, frame)| frame.verify(&header.id).map(|_| header));
    Ok(whole.ok())
}

fn next_magic(file: &File, from: u64, len: u64) -> io::Result<Option<u64>> {
    let mut at = from;
    while at + (FRAME_MAGIC.len() as u64) <= len {
        let take = (len - at).min(SCAN_WINDOW as u64);
        let window = read_at(file, at, usize::try_from(take).unwrap_or(SCAN_WINDOW))?;
        if let Some(n) = window.windows(FRAME_MAGIC.len()).position(|w| w == FRAME_MAGIC) {
            return Ok(Some(at + n as u64));
        }
        // Windows overlap by what a magic across their border needs.
        at += (window.len() - (FRAME_MAGIC.len() - 1)) as u64;
    }
    Ok(None)
}
