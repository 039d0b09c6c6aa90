//! The manifest of a body: the ordered list of its chunks. It names chunks by content only, never by place, so moving
//! an object between tiers or compacting a pack changes no manifest.
//!
//! Small bodies keep the list in their record. Larger ones keep it in *nodes*: frames of kind manifest, stored in packs
//! like chunks, of which the record keeps the list. A record of 5 TiB would otherwise hold gigabytes.

use super::error::EngineError;
use crate::chunk::ChunkId;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Up to this many chunks (3 MiB of body at the default average) stay in the record: about 2.3 KB.
pub(crate) const INLINE_CHUNKS: usize = 64;

/// Chunks of one node: 147 KB, some 192 MiB of body at the default average.
pub(crate) const NODE_CHUNKS: usize = 4096;

/// One chunk of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkRef {
    pub id: ChunkId,
    /// Raw length in bytes.
    pub len: u32,
}

/// One node of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRef {
    pub id: ChunkId,
    pub chunks: u32,
    /// Bytes of body below this node.
    pub bytes: u64,
}

/// The body of a version or part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BodyRef {
    /// The chunks themselves; empty for an empty body.
    Inline(Vec<ChunkRef>),
    /// Nodes, in order.
    Nodes(Vec<NodeRef>),
}

impl BodyRef {
    /// Number of chunks (with repetitions).
    pub(crate) fn chunks(&self) -> u64 {
        match self {
            Self::Inline(chunks) => chunks.len() as u64,
            Self::Nodes(nodes) => nodes.iter().map(|n| u64::from(n.chunks)).sum(),
        }
    }
}

const NODE_VERSION: u8 = 1;
const NODE_ENTRY: usize = 36;

/// A node's bytes: version, then 36 bytes a chunk (32 of id, 4 of length, little endian).
pub(crate) fn encode_node(chunks: &[ChunkRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + chunks.len() * NODE_ENTRY);
    out.push(NODE_VERSION);
    for chunk in chunks {
        out.extend_from_slice(chunk.id.as_bytes());
        out.extend_from_slice(&chunk.len.to_le_bytes());
    }
    out
}

/// Length in bytes of a node of this many chunks.
pub(crate) fn node_len(chunks: u32) -> u64 {
    1 + u64::from(chunks) * NODE_ENTRY as u64
}

/// Reads a node.
pub(crate) fn decode_node(bytes: &[u8]) -> Result<Vec<ChunkRef>, EngineError> {
    let corrupt = |what: &str| EngineError::Corrupt(format!("a manifest node {what}"));
    let Some((&NODE_VERSION, rest)) = bytes.split_first() else { return Err(corrupt("has an unknown version")) };
    if rest.len() % NODE_ENTRY != 0 {
        return Err(corrupt("ends inside an entry"));
    }
    rest.chunks_exact(NODE_ENTRY)
        .map(|entry| {
            let (id, len) = entry.split_at(32);
            let id: [u8; 32] = id.try_into().map_err(|_| corrupt("has a short id"))?;
            let len: [u8; 4] = len.try_into().map_err(|_| corrupt("has a short length"))?;
            Ok(ChunkRef { id: ChunkId(id), len: u32::from_le_bytes(len) })
        })
        .collect()
}

/// Builds a body out of chunks and of whole nodes, writing nodes through `write_node` when the list grows too long.
pub(crate) struct BodyBuilder<W> {
    pending: Vec<ChunkRef>,
    nodes: Vec<NodeRef>,
    write_node: W,
}

impl<W: FnMut(Vec<u8>) -> Result<ChunkId, EngineError>> BodyBuilder<W> {
    pub(crate) fn new(write_node: W) -> Self {
        Self { pending: Vec::new(), nodes: Vec::new(), write_node }
    }

    pub(crate) fn chunk(&mut self, chunk: ChunkRef) -> Result<(), EngineError> {
        self.pending.push(chunk);
        if self.pending.len() >= NODE_CHUNKS { self.flush() } else { Ok(()) }
    }

    /// Appends a finished body, sharing its nodes.
    pub(crate) fn body(&mut self, body: &BodyRef) -> Result<(), EngineError> {
        match body {
            BodyRef::Inline(chunks) => chunks.iter().try_for_each(|c| self.chunk(*c)),
            BodyRef::Nodes(nodes) => {
                self.flush()?;
                self.nodes.extend_from_slice(nodes);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = self.pending.iter().map(|c| u64::from(c.len)).sum();
        let id = (self.write_node)(encode_node(&self.pending))?;
        // A node holds at most NODE_CHUNKS entries, so the count fits.
        self.nodes.push(NodeRef { id, chunks: u32::try_from(self.pending.len()).unwrap_or(u32::MAX), bytes });
        self.pending.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<BodyRef, EngineError> {
        if self.nodes.is_empty() && self.pending.len() <= INLINE_CHUNKS {
            return Ok(BodyRef::Inline(self.pending));
        }
        self.flush()?;
        Ok(BodyRef::Nodes(self.nodes))
    }
}

/// Of `items` laid end to end, those that touch `range`: index, and the part of the item that is wanted.
pub(crate) fn overlap<T: Copy>(
    items: &[T],
    range: Range<u64>,
    len: impl Fn(&T) -> u64,
) -> impl Iterator<Item = (T, Range<u64>)> {
    let mut at = 0u64;
    items.iter().filter_map(move |item| {
        let (start, end) = (at, at.saturating_add(len(item)));
        at = end;
        let from = range.start.max(start);
        let to = range.end.min(end);
        (from < to).then(|| (*item, from - start..to - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u32) -> ChunkRef {
        ChunkRef { id: ChunkId::of(&n.to_le_bytes()), len: n }
    }

    #[test]
    fn a_node_decodes_to_what_was_encoded_and_a_cut_one_is_refused() {
        let chunks: Vec<_> = (1..50).map(chunk).collect();
        let bytes = encode_node(&chunks);
        assert_eq!(decode_node(&bytes).unwrap(), chunks);
        assert!(decode_node(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode_node(&[]).is_err());
    }

    #[test]
    fn short_bodies_stay_inline_and_long_ones_become_nodes_that_keep_order_and_bytes() {
        let mut written = Vec::new();
        let mut builder = BodyBuilder::new(|node: Vec<u8>| {
            let id = ChunkId::of(&node);
            written.push(node);
            Ok(id)
        });
        let all: Vec<_> = (1..=10_000).map(chunk).collect();
        for c in &all {
            builder.chunk(*c).unwrap();
        }
        let BodyRef::Nodes(nodes) = builder.finish().unwrap() else { panic!("nodes") };
        assert_eq!(nodes.iter().map(|n| n.bytes).sum::<u64>(), (1..=10_000u64).sum::<u64>());
        let read: Vec<_> = written.iter().flat_map(|n| decode_node(n).unwrap()).collect();
        assert_eq!(read, all);
    }

    #[test]
    fn overlap_gives_exactly_the_wanted_bytes() {
        let items = [chunk(10), chunk(5), chunk(20)];
        let got: Vec<_> = overlap(&items, 8..16, |c| u64::from(c.len)).map(|(c, r)| (c.len, r)).collect();
        assert_eq!(got, vec![(10, 8..10), (5, 0..5), (20, 0..1)]);
        assert_eq!(overlap(&items, 35..40, |c| u64::from(c.len)).count(), 0);
    }
}
