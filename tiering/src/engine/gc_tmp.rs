//! TEMPORARY until the store's own marks land.
#![allow(missing_docs)]
use crate::chunk::ChunkId;
use crate::local::{LocalError, LocalStore};
#[derive(Debug)]
pub struct Mark;
#[derive(Debug, Default)]
pub struct SweepGoal {
    pub bytes_to_free: u64,
}
#[derive(Debug, Default)]
pub struct Swept {
    pub packs: u64,
    pub packs_deleted: u64,
    pub packs_compacted: u64,
    pub dead_chunks: u64,
    pub dead_bytes: u64,
    pub freed_bytes: u64,
    pub kept_bytes: u64,
}
impl LocalStore {
    pub fn begin_mark(&self) -> Result<Mark, LocalError> {
        Ok(Mark)
    }
}
impl Mark {
    pub fn live(&self, _: &ChunkId) {}
    pub fn cached(&self, _: &ChunkId) {}
    pub fn preview(&self) -> Swept {
        Swept::default()
    }
    pub fn sweep(self, _: SweepGoal, _: &dyn Fn() -> bool) -> Result<Swept, LocalError> {
        Ok(Swept::default())
    }
}
