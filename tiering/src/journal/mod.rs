//! The journal: an append-only sequence of checksummed records in segment files. It is the database; all else about the
//! namespace can be computed from it and the newest snapshot. The format is written down in `docs/formats.md`.

pub(crate) mod append;
pub(crate) mod committer;
pub(crate) mod follow;
pub(crate) mod queue;
pub(crate) mod reach;
mod reader;
mod record;
mod segment;

pub(crate) use reader::{Tail, list_segments, read_from, read_up_to};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use record::sealed_record;
pub(crate) use record::{OpView, checksum as checksum16, decode_op, encode_op, parse_ops};
pub use record::{RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader};
pub use segment::{SEGMENT_HEADER_BYTES, SEGMENT_MAGIC};
pub(crate) use segment::{SegmentHeader, SegmentWriter, segment_name, sync_dir};
