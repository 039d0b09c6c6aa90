//! The end of a pack: its footer, and before it the frames that tell of objects.

use crate::chunk::ChunkId;
use crate::pack::format::{FRAME_HEADER_LEN, FormatError, HEADER_LEN, TRAILER_LEN, Trailer, decode_frame};
use crate::pack::{FooterEntry, FrameKind, PackId};
use bytes::Bytes;

/// The longest end that is read, in bytes: far more than a pack that was written here has.
const MAX_TAIL: u64 = 256 << 20;

/// What a pack's end says.
#[derive(Debug)]
pub(super) struct Tail {
    /// The footer.
    pub entries: Vec<FooterEntry>,
    /// What the frames that tell of objects hold, each with its id.
    pub told: Vec<(ChunkId, Bytes)>,
    /// Where in the pack the first of all this begins.
    pub from: u64,
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum Read {
    Whole(Tail),
    /// It begins further in front: at this offset in the pack, or before.
    From(u64),
}

fn odd(detail: impl Into<String>) -> FormatError {
    FormatError::Invalid { what: "pack footer", detail: detail.into() }
}

/// Reads the last bytes of pack `id`, which has `size` bytes in all.
///
/// # Errors
/// [`FormatError`] when it is no whole pack, or another one.
pub(super) fn read(id: PackId, size: u64, bytes: &Bytes) -> Result<Read, FormatError> {
    let base = size.checked_sub(bytes.len() as u64).ok_or_else(|| odd("more bytes than the pack has"))?;
    let at = bytes.len().checked_sub(TRAILER_LEN).ok_or(FormatError::Short { what: "pack" })?;
    let trailer = Trailer::decode(&bytes[at..])?;
    if trailer.id != id {
        return Err(odd(format!("it is of pack {}", trailer.id)));
    }
    let before = size - TRAILER_LEN as u64;
    let start = before.checked_sub(u64::from(trailer.entries_len)).filter(|start| *start >= HEADER_LEN as u64);
    let start = start.ok_or(FormatError::Short { what: "pack" })?;
    if start < base {
        return Ok(Read::From(start));
    }
    let inside = |offset: u64| usize::try_from(offset - base).map_err(|e| odd(e.to_string()));
    let entries = trailer.decode_entries(&bytes[inside(start)?..at])?;
    let end = |entry: &FooterEntry| u64::from(entry.offset) + FRAME_HEADER_LEN as u64 + u64::from(entry.stored_len);
    if entries.iter().any(|entry| end(entry) > start || u64::from(entry.offset) < HEADER_LEN as u64) {
        return Err(odd("frames beyond the footer"));
    }
    let tell = || entries.iter().filter(|entry| entry.kind == FrameKind::Manifests);
    let first = tell().map(|entry| u64::from(entry.offset)).min().unwrap_or(start);
    if first < base {
        return if size - first <= MAX_TAIL { Ok(Read::From(first)) } else { Err(odd("longer than any pack's")) };
    }
    let mut told = Vec::new();
    for entry in tell() {
        let (header, frame) = decode_frame(&bytes.slice(inside(entry.offset.into())?..inside(end(entry))?))?;
        if header != entry.header() {
            return Err(odd("a frame is another than its entry says"));
        }
        told.push((entry.id, frame.verify(&entry.id)?));
    }
    Ok(Read::Whole(Tail { entries, told, from: first }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::codec;
    use crate::pack::{PackClass, PackHeader, PlannedFrame, RemotePackPlan};

    fn pack(kinds: &[FrameKind]) -> (PackId, Bytes) {
        let bodies: Vec<Bytes> = (0..kinds.len()).map(|n| Bytes::from(vec![n as u8; 1_000])).collect();
        let stored: Vec<_> = bodies.iter().map(|b| codec::compress(b, 3)).collect();
        let planned = |((body, stored), kind): ((&Bytes, &codec::Stored), &FrameKind)| PlannedFrame {
            id: ChunkId::of(body),
            kind: *kind,
            codec: stored.codec,
            raw_len: body.len() as u32,
            stored_len: stored.bytes.len() as u32,
        };
        let frames: Vec<_> = bodies.iter().zip(&stored).zip(kinds).map(planned).collect();
        let id = PackId::fresh(5);
        let plan = RemotePackPlan::new(PackHeader { id, class: PackClass::Remote, created_ms: 5 }, &frames).unwrap();
        let mut out = plan.header_bytes().to_vec();
        for (n, stored) in stored.iter().enumerate() {
            out.extend_from_slice(&plan.frame_header_bytes(n).unwrap());
            out.extend_from_slice(&stored.bytes);
        }
        out.extend_from_slice(plan.footer_bytes());
        (id, out.into())
    }

    /// Reads as the recovery does, beginning with the last `first` bytes.
    fn read_from(id: PackId, pack: &Bytes, first: usize) -> Result<(Tail, usize), FormatError> {
        let mut from = pack.len() - first.min(pack.len());
        for reads in 1..=3 {
            match read(id, pack.len() as u64, &pack.slice(from..))? {
                Read::Whole(tail) => return Ok((tail, reads)),
                Read::From(at) => from = at as usize,
            }
        }
        panic!("no end");
    }

    #[test]
    fn whatever_is_read_first_three_reads_give_the_footer_and_all_that_is_told() {
        use FrameKind::{Chunk, ManifestNode, Manifests};
        let (id, pack) = pack(&[Chunk, ManifestNode, Manifests, Manifests]);
        for first in [TRAILER_LEN, TRAILER_LEN + 1, 200, 300, pack.len(), pack.len() * 2] {
            let (tail, reads) = read_from(id, &pack, first).unwrap();
            assert!(reads <= 3);
            assert_eq!(tail.entries.len(), 4);
            let told: Vec<_> = tail.told.iter().map(|(_, raw)| raw[0]).collect();
            assert_eq!(told, [2, 3]);
            // What is kept is no more than what is needed.
            let kept = read(id, pack.len() as u64, &pack.slice(tail.from as usize..)).unwrap();
            assert!(matches!(kept, Read::Whole(_)) && tail.from == u64::from(tail.entries[2].offset));
        }
        assert_eq!(read_from(id, &pack, pack.len()).unwrap().1, 1);
    }

    #[test]
    fn a_pack_without_manifests_tells_nothing_and_an_empty_one_is_whole() {
        let (id, chunks) = pack(&[FrameKind::Chunk, FrameKind::ManifestNode]);
        assert!(read_from(id, &chunks, 40).unwrap().0.told.is_empty());
        let (id, empty) = pack(&[]);
        assert!(read_from(id, &empty, 40).unwrap().0.entries.is_empty());
    }

    #[test]
    fn another_pack_a_cut_one_and_every_changed_byte_of_the_end_are_noticed() {
        let (id, pack) = pack(&[FrameKind::Chunk, FrameKind::Manifests]);
        assert!(read_from(PackId([1; 16]), &pack, 100).is_err());
        assert!(read_from(id, &pack.slice(..pack.len() - 1), 100).is_err());
        let first = read_from(id, &pack, 40).unwrap().0.entries[1].offset as usize;
        for at in first..pack.len() {
            let mut bad = pack.to_vec();
            bad[at] ^= 4;
            assert!(read_from(id, &bad.into(), 40).is_err(), "byte {at}");
        }
    }
}
