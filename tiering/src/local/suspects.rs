//! Chunks whose frames the disk could not read (`EIO`, or the file is not there).
//!
//! Such a frame is neither good nor proven damaged: a loose cable makes every frame unreadable for a while. Setting them aside,
//! the tempting alternative, would give all of them up. So the index goes on naming the frame, but the next put of the
//! chunk stores it anew and replaces the frame, and a read looks for another copy.

use crate::chunk::ChunkId;
use std::collections::HashSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::packs::lock;

/// Most suspects (2 MiB). With more the disk is beyond what a put could mend; a further one is only reported.
const MAX_SUSPECTS: usize = 65_536;

/// The suspects. Forgotten when the store is closed: the next reads find them again.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    ids: Mutex<HashSet<ChunkId>>,
    /// Spares every put and read the lock while there is none.
    any: AtomicBool,
}

/// True when the device itself failed, as against a system that is out of descriptors or memory.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

impl Suspects {
    pub fn add(&self, id: &ChunkId) {
        let mut ids = lock(&self.ids);
        if ids.len() < MAX_SUSPECTS {
            ids.insert(*id);
            self.any.store(true, Ordering::Release);
        }
    }

    pub fn contains(&self, id: &ChunkId) -> bool {
        self.any.load(Ordering::Acquire) && lock(&self.ids).contains(id)
    }

    /// True when it was one; it is none any more.
    pub fn remove(&self, id: &ChunkId) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut ids = lock(&self.ids);
        let was = ids.remove(id);
        self.any.store(!ids.is_empty(), Ordering::Release);
        was
    }
}
