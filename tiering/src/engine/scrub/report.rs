//! What is asked of a scrub, and what it says.

use super::super::report::{LossyBody, Unreadable};
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Asks for a scrub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubRequest {
    /// Bytes to read in a second at most, in place of the setting; 0: no limit.
    pub bytes_per_second: Option<u64>,
    /// Begin anew, although a pass was interrupted.
    pub restart: bool,
}

/// How far a scrub has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubProgress {
    /// Packs that are done.
    pub packs_done: u64,
    /// Packs of the whole pass.
    pub packs_total: u64,
    /// Bytes of packs that are done.
    pub bytes_done: u64,
    /// Bytes of the whole pass.
    pub bytes_total: u64,
    /// Frames found damaged.
    pub damaged: u64,
    /// Of those, replaced.
    pub repaired: u64,
}

/// What a scrub found. Numbers are those of the whole pass, what was done of it before an interruption included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubReport {
    /// The pass has come to its end; else the next scrub goes on with it.
    pub complete: bool,
    /// When the pass was begun.
    pub started: Timestamp,
    /// It was begun by an earlier scrub, which was interrupted.
    pub resumed: bool,
    /// Packs read.
    pub packs: u64,
    /// Chunks whose digest was computed.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Time that this scrub waited to keep to its rate, in milliseconds.
    pub waited_ms: u64,
    /// Chunks that failed, and what became of them: the first thousand of this scrub.
    pub damaged: Vec<DamagedChunk>,
    /// How many failed.
    pub damaged_total: u64,
    /// How many of them were replaced, from a tier or from another local copy.
    pub repaired: u64,
    /// How many of them are nowhere else. What is neither repaired nor lost is in a tier, and could not be brought back now.
    pub lost: u64,
    /// Packs that were copied because their header or footer was damaged.
    pub rewritten: u64,
    /// Bodies that cannot be read in full, by this damage or by earlier damage: the first hundred. Uploading the same bytes
    /// anywhere mends all of them.
    pub lossy: Vec<LossyBody>,
    /// How many such bodies there are.
    pub lossy_total: u64,
    /// Records and manifests that could not be read, which may hide more such bodies: the first hundred.
    pub unreadable: Vec<Unreadable>,
    /// How many there are.
    pub unreadable_total: u64,
    /// What else is to be said, such as why it is not known who suffers.
    pub notes: Vec<String>,
}

impl ScrubReport {
    /// Nothing is wrong, and nothing is unknown.
    pub fn is_clean(&self) -> bool {
        self.complete
            && self.damaged_total + self.lossy_total + self.unreadable_total + self.rewritten == 0
            && self.notes.is_empty()
    }
}

/// A chunk that failed its digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DamagedChunk {
    /// Chunk id in hex.
    pub chunk: String,
    /// Local pack id.
    pub pack: String,
    /// Whether it was replaced.
    pub repaired: bool,
    /// Where the good copy came from, or why there is none.
    pub detail: String,
}

/// Scrubbing, for `stats` and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubStats {
    /// One runs.
    pub running: bool,
    /// When the pass was begun that runs or was interrupted.
    pub pass_started: Option<Timestamp>,
    /// Bytes of packs that this pass has behind it.
    pub bytes_done: u64,
    /// Bytes of the whole pass, as of its last step.
    pub bytes_total: u64,
    /// Frames that this pass has found damaged.
    pub damaged: u64,
    /// Of those, replaced.
    pub repaired: u64,
    /// When a pass came to its end the last time.
    pub last_complete: Option<Timestamp>,
    /// Frames that that pass found damaged.
    pub last_damaged: u64,
    /// Of those, the ones that are nowhere else.
    pub last_lost: u64,
}
