//! What a job has in hand: the versions that are planned, and the pack that is being put together.

use crate::chunk::ChunkId;
use crate::engine::record::ObjectRecord;
use crate::pack::{Frame, PackId, PlannedFrame};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

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
