//! The layout of a pack whose length must be known before its first byte is sent (an upload to the cloud), so that it
//! can be streamed from local frames without a spool file.

use super::format::{
    FRAME_HEADER_LEN, FooterEntry, FormatError, FrameHeader, HEADER_LEN, PackHeader, encode_footer, footer_len,
};
use crate::chunk::{ChunkId, Codec};
use crate::pack::FrameKind;

/// A frame that shall go into a planned pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedFrame {
    /// The chunk.
    pub id: ChunkId,
    /// What the frame holds.
    pub kind: FrameKind,
    /// How it is compressed.
    pub codec: Codec,
    /// Length of the raw chunk in bytes.
    pub raw_len: u32,
    /// Length of the stored bytes.
    pub stored_len: u32,
}

/// The complete layout of a pack: header, frames in the given order without gaps, footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePackPlan {
    header: PackHeader,
    entries: Vec<FooterEntry>,
    footer: Vec<u8>,
    footer_offset: u64,
}

impl RemotePackPlan {
    /// Lays out a pack.
    ///
    /// # Errors
    /// [`FormatError`] when the frames do not fit the format's 4 GiB of offsets or 24 bits of lengths.
    pub fn new(header: PackHeader, frames: &[PlannedFrame]) -> Result<Self, FormatError> {
        let mut at = HEADER_LEN as u64;
        let mut entries = Vec::with_capacity(frames.len());
        for f in frames {
            let offset = u32::try_from(at)
                .map_err(|_| FormatError::Invalid { what: "planned pack", detail: "longer than 4 GiB".into() })?;
            let frame =
                FrameHeader { kind: f.kind, codec: f.codec, raw_len: f.raw_len, stored_len: f.stored_len, id: f.id };
            super::format::check_frame(&frame)?;
            entries.push(FooterEntry::of(&frame, offset));
            at += frame.frame_len();
        }
        let footer = encode_footer(header.id, &entries)?;
        debug_assert_eq!(footer.len() as u64, footer_len(entries.len()));
        Ok(Self { header, entries, footer, footer_offset: at })
    }

    /// Length of the whole pack in bytes.
    pub fn total_len(&self) -> u64 {
        self.footer_offset + self.footer.len() as u64
    }

    /// The pack's name.
    pub fn id(&self) -> super::PackId {
        self.header.id
    }

    /// The first bytes of the pack.
    pub fn header_bytes(&self) -> [u8; HEADER_LEN] {
        self.header.encode()
    }

    /// The header bytes of frame `n` (its stored bytes follow), or none past the last.
    pub fn frame_header_bytes(&self, n: usize) -> Option<[u8; FRAME_HEADER_LEN]> {
        self.entries.get(n).map(|e| e.header().encode())
    }

    /// Where every frame stands, in order.
    pub fn entries(&self) -> &[FooterEntry] {
        &self.entries
    }

    /// Where the footer starts, in bytes from the start of the pack.
    pub fn footer_offset(&self) -> u64 {
        self.footer_offset
    }

    /// The last bytes of the pack: footer entries and trailer. Also what `cold/*.foot` keeps locally.
    pub fn footer_bytes(&self) -> &[u8] {
        &self.footer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::format::{decode_footer, decode_frame};
    use crate::pack::{Frame, PackClass, PackId};
    use bytes::Bytes;

    #[test]
    fn a_planned_pack_is_byte_for_byte_a_readable_pack_of_the_planned_length() {
        let bodies: Vec<Bytes> = (0..20u32).map(|i| Bytes::from(vec![i as u8; (i * 37) as usize])).collect();
        let frames: Vec<PlannedFrame> = bodies
            .iter()
            .map(|b| PlannedFrame {
                id: ChunkId::of(b),
                kind: FrameKind::Chunk,
                codec: Codec::Raw,
                raw_len: b.len() as u32,
                stored_len: b.len() as u32,
            })
            .collect();
        let header = PackHeader { id: PackId::fresh(5), class: PackClass::Remote, created_ms: 5 };
        let plan = RemotePackPlan::new(header, &frames).unwrap();
        let mut pack = plan.header_bytes().to_vec();
        for (n, body) in bodies.iter().enumerate() {
            assert_eq!(pack.len() as u32, plan.entries()[n].offset);
            pack.extend_from_slice(&plan.frame_header_bytes(n).unwrap());
            pack.extend_from_slice(body);
        }
        assert_eq!(pack.len() as u64, plan.footer_offset());
        pack.extend_from_slice(plan.footer_bytes());
        assert_eq!(pack.len() as u64, plan.total_len());
        let pack = Bytes::from(pack);
        let (id, entries) = decode_footer(&pack).unwrap();
        assert_eq!(id, header.id);
        for (entry, body) in entries.iter().zip(&bodies) {
            let at = entry.offset as usize;
            let end = at + FRAME_HEADER_LEN + entry.stored_len as usize;
            let (h, frame): (_, Frame) = decode_frame(&pack.slice(at..end)).unwrap();
            assert_eq!(frame.verify(&h.id).unwrap(), body);
        }
    }
}
