//! Snapshots of the namespace for [`crate::fuzzing`].

use super::snapshot::{read, sealed};
use std::path::Path;

/// Reads a snapshot through.
pub(crate) fn read_snapshot(path: &Path) {
    let _ = read(path, &mut |_, _, _| Ok(()));
}

/// A snapshot of these blocks (number of entries, body), with all checksums right.
pub(crate) fn sealed_snapshot(blocks: &[(u32, &[u8])]) -> Vec<u8> {
    sealed(blocks)
}
