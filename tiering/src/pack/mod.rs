//! Packs: append-only files of chunk frames with a footer index; one format on local disk and in the cloud, written
//! down byte by byte in `docs/formats.md`.
//!
//! [`format`](mod@format) encodes and decodes (pure), [`writer`] appends and seals, [`reader`] opens, verifies and
//! recovers, [`plan`] lays out a pack whose length must be known before its first byte is sent.

pub mod format;
pub mod plan;
pub mod reader;
pub mod writer;

pub use format::{FooterEntry, FormatError, Frame, FrameKind, PackClass, PackHeader, PackId};
pub use plan::{PlannedFrame, RemotePackPlan};
