//! What can go wrong with the namespace store, each with what the caller should do.

use super::Table;
use std::path::{Path, PathBuf};

/// An error of the namespace store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// A precondition of the batch did not hold; nothing of it was done. Read again and decide anew.
    #[error("precondition failed on table {table:?}, key {}", display_key(key))]
    Conflict {
        /// The table of the failed precondition.
        table: Table,
        /// Its key or prefix.
        key: Vec<u8>,
    },
    /// An earlier I/O error left the durable state unknown, so that writes are refused until the store is
    /// opened again; reads go on. A batch answered with this may or may not be there afterwards.
    #[error("the store refuses writes since an I/O error ({cause}); fix the disk, then restart")]
    Poisoned {
        /// The error that started it.
        cause: String,
    },
    /// Another store has taken this one's place: what is written here would be lost. Reads go on.
    #[error("the store refuses writes: {cause}")]
    Fenced {
        /// Who took over, and when.
        cause: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A file does not hold what it must.
    #[error("{file} is damaged at byte {offset}: {what}. {help}", file = file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage was found, in bytes from the start.
        offset: u64,
        /// What is wrong.
        what: String,
        /// The way out.
        help: String,
    },
    /// Another process has the store open.
    #[error("{} is in use by process {pid} since {since}; stop it first, or talk to its admin socket", dir.display())]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The holder's process id, or `?` when it could not be read.
        pid: String,
        /// When the holder took it (RFC 3339), or `?`.
        since: String,
    },
    /// An operation of the operating system failed; nothing was changed.
    #[error("cannot {what} {}: {message}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The kind of the error, for decisions (out of space is `StorageFull`).
        kind: std::io::ErrorKind,
        /// The system's message.
        message: String,
    },
    /// The request itself is not acceptable (a key or a batch too large, a setting out of range).
    #[error("{0}")]
    Invalid(String),
}

impl MetaError {
    /// Wraps an error of the operating system.
    pub fn io(what: &'static str, path: &Path, source: &std::io::Error) -> MetaError {
        MetaError::Io { what, path: path.to_owned(), kind: source.kind(), message: source.to_string() }
    }

    /// Names damage.
    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>, help: &str) -> MetaError {
        MetaError::Corrupt { file: file.to_owned(), offset, what: what.into(), help: help.to_owned() }
    }

    /// Whether the same call may succeed later without anybody's doing. The only retry question.
    pub fn is_retryable(&self) -> bool {
        match self {
            MetaError::Io { kind, .. } => {
                matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::Interrupted)
            }
            _ => false,
        }
    }
}

/// A key for people: printable ASCII as it is, the rest as `\xNN`, at most 200 bytes.
fn display_key(key: &[u8]) -> String {
    key.get(..200).unwrap_or(key).escape_ascii().to_string()
}
