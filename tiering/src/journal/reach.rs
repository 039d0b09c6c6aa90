//! `journal/reach`: the first record of the newest segment. Without it nothing would tell that the last segment is gone: the
//! journal would simply end earlier, and what was acknowledged since would be lost in silence.
//!
//! Written after the segment has its name, so it never promises one that is not there; after a crash in between it is one behind.

use super::reader::SegmentFile;
use super::segment::segment_name;
use super::sync_dir;
use crate::disk;
use crate::meta::MetaError;
use std::io::ErrorKind;
use std::path::Path;

const FILE: &str = "reach";

/// Notes that a segment which begins with record `first_seq` is there. Durable on return.
pub(crate) fn note(dir: &Path, first_seq: u64) -> Result<(), MetaError> {
    let (path, tmp) = (dir.join(FILE), dir.join("reach.tmp"));
    disk::write_synced(&tmp, format!("{first_seq}\n").as_bytes()).map_err(|e| MetaError::io("write", &tmp, &e))?;
    disk::rename(&tmp, &path).map_err(|e| MetaError::io("rename", &tmp, &e))?;
    sync_dir(dir)
}

/// Refuses a journal whose newest segment is gone. A note that is missing or makes no sense says nothing.
pub(crate) fn check(dir: &Path, segments: &[SegmentFile], help: &str) -> Result<(), MetaError> {
    let path = dir.join(FILE);
    let noted = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u64>().ok(),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => None,
        Err(e) => return Err(MetaError::io("read", &path, &e)),
    };
    let newest = segments.last().map_or(0, |s| s.first_seq);
    match noted {
        Some(first_seq) if first_seq > newest => {
            let what = format!("this segment is gone; the last one that is here begins with record {newest}");
            Err(MetaError::corrupt(&dir.join(segment_name(first_seq)), 0, what, help))
        }
        _ => Ok(()),
    }
}
