//! What can go wrong in the local store.

use crate::chunk::ChunkId;
use crate::pack::PackId;
use std::io;
use std::path::{Path, PathBuf};

/// Errors of the local chunk store. Few kinds, by what the caller does about them.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No room. Evict, move objects to a cold tier, or ask the client to slow down.
    #[error("the local store is full: {reason}")]
    Full {
        /// Which limit was met, with numbers.
        reason: String,
    },
    /// A chunk's stored bytes are damaged, and set aside, or the disk cannot read them: fetch the chunk again from the cloud,
    /// or report the loss. The next put of it stores it anew.
    #[error("chunk {id} is damaged (pack {pack}, byte {offset}): {detail}")]
    Corrupt {
        /// The chunk.
        id: ChunkId,
        /// The pack that holds it.
        pack: PackId,
        /// Where its frame starts, bytes from the start of the pack.
        offset: u32,
        /// What does not fit.
        detail: String,
    },
    /// The system refused to read or write.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// A present-tense verb phrase.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A sync failed earlier: what the disk holds is no longer known, so nothing more is written. Reads go on. Reopen.
    #[error("the local store stopped writing after an I/O error, restart after mending the disk: {reason}")]
    Poisoned {
        /// The error that stopped it.
        reason: String,
    },
    /// The caller passed what cannot be stored, or a setting cannot be used.
    #[error("{0}")]
    Invalid(String),
}

impl LocalError {
    /// An [`LocalError::Io`], or [`LocalError::Full`] when the system says that the disk is full.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full { reason: format!("cannot {what} {}: {source}", path.display()) };
        }
        Self::Io { what, path: path.to_owned(), source }
    }
}
