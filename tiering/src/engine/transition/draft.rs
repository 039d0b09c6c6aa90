//! What a job has in hand: the versions that are planned, and the pack that is being put together.

use crate::chunk::ChunkId;
use crate::engine::record::ObjectRecord;
use crate::pack::{Frame, PackId, PlannedFrame};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Bytes of changes that one commit of a job makes, without the counters of packs: half of what the journal takes in one record.
const COMMIT_BYTES: usize = 8 << 20;

/// Entries in the due index that a commit may take out and put in for a version.
const DUE_ENTRIES: usize = 6;

/// What an entry or a record takes (bytes) besides its key and its value, and by how much a key exceeds its subject.
const ENTRY_BYTES: usize = 32;

/// By how much (bytes) a record may grow when its version moves: the tier's name, the frame that tells of it, times.
const GROWTH_BYTES: usize = 512;

/// A version on its way.
pub(super) struct Member {
    pub subject: Vec<u8>,
    pub stored: Vec<u8>,
    pub record: ObjectRecord,
    /// Packs of the tier that it will refer to.
    pub packs: BTreeSet<PackId>,
    /// Some of its chunks are in the draft.
    pub in_draft: bool,
    /// The frame of the tier that tells of it.
    pub manifest: Option<ChunkId>,
}

impl Member {
    /// Bytes that a commit takes for it in the journal, at most and without events.
    fn commit_bytes(&self) -> usize {
        let keys = self.subject.len().saturating_add(ENTRY_BYTES).saturating_mul(1 + DUE_ENTRIES);
        self.stored.len().saturating_add(GROWTH_BYTES).saturating_add(keys)
    }
}

/// How many members at the front go into one commit, at least one: a record of the journal is bounded. `events` says how many bytes
/// of events come with each.
pub(super) fn fitting(members: &[Member], events: impl Fn(&Member) -> usize) -> usize {
    let mut bytes = 0usize;
    let fits = members.iter().take_while(|member| {
        bytes = bytes.saturating_add(member.commit_bytes()).saturating_add(events(member));
        bytes <= COMMIT_BYTES
    });
    fits.count().max(1).min(members.len())
}

/// The pack that is being put together.
#[derive(Default)]
pub(super) struct Draft {
    pub frames: Vec<PlannedFrame>,
    pub ids: HashSet<ChunkId>,
    pub bytes: u64,
    /// The tier that a chunk is read from when it is not local: a version's own, which is thawed when it is an archive.
    pub sources: HashMap<ChunkId, String>,
    /// The frames that tell of the versions whose last pack this is.
    pub told: HashMap<ChunkId, Arc<Frame>>,
}
