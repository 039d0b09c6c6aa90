//! Chunks: how a body is cut ([`cut`]), named ([`id`]) and compressed ([`codec`]). Nothing here does I/O.

pub mod codec;
pub mod cut;
pub mod id;

pub use codec::{Codec, Stored};
pub use cut::{ChunkSettings, Cutter};
pub use id::ChunkId;

/// Longest chunk in bytes (2^24 - 1): lengths take 24 bits in the chunk index.
pub const MAX_CHUNK_LEN: usize = (1 << 24) - 1;
