//! Scrub: reads every frame, verifies it, and brings damaged chunks back from a tier where one has them.

use super::body::ChunkRef;
use super::report::{DamagedChunk, ScrubProgress, ScrubReport};
use super::{Engine, EngineError};
use crate::chunk::ChunkId;
use std::sync::Arc;

impl Engine {
    /// Verifies all local packs, one per step; `progress` hears of each.
    ///
    /// # Errors
    /// A failure to read at all; damage is in the report, and so is a failure to find out who suffers from it.
    pub async fn scrub(&self, mut progress: impl FnMut(ScrubProgress) + Send) -> Result<ScrubReport, EngineError> {
        if self.core.follow.is_some() {
            let what = "a standby writes nothing into local packs, so it repairs nothing: scrub once it is promoted";
            return Err(EngineError::InvalidRequest(what.to_owned()));
        }
        let mut report = ScrubReport::default();
        let usage = self.core.local.usage();
        let mut seen = ScrubProgress { packs_total: usage.packs, bytes_total: usage.file_bytes, ..Default::default() };
        let mut cursor = None;
        loop {
            let core = Arc::clone(&self.core);
            let step = tokio::task::spawn_blocking(move || core.local.scrub_pack(cursor));
            let step = step.await.map_err(|e| EngineError::Internal(format!("scrub: {e}")))??;
            let Some(step) = step else { break };
            cursor = Some(step.pack);
            report.packs += 1;
            report.chunks += step.chunks;
            report.bytes += step.bytes;
            seen.packs_done += 1;
            seen.bytes_done += step.bytes;
            for id in step.damaged {
                let repaired = self.repair(&id).await;
                report.repaired += u64::from(repaired.is_ok());
                report.lost += u64::from(repaired.is_err() && self.core.remote.tiers_with(&id).is_empty());
                report.damaged.push(DamagedChunk {
                    chunk: id.to_string(),
                    pack: step.pack.to_string(),
                    repaired: repaired.is_ok(),
                    detail: repaired.map_or_else(|e| e.to_string(), str::to_owned),
                });
            }
            progress(seen);
        }
        // Who suffers: a walk over all names, which also finds what earlier damage took. It removes nothing.
        // What was found must not be lost with it when it fails: reading all packs may have taken hours.
        match self.core.collect_garbage(true, 0).await {
            Ok(walk) => {
                (report.lossy, report.lossy_total) = (walk.lossy, walk.lossy_total);
                (report.unreadable, report.unreadable_total) = (walk.unreadable, walk.unreadable_total);
                report.notes = walk.notes;
            }
            Err(e) => report.notes.push(format!("which objects suffer is not known, scrub again: {e}")),
        }
        Ok(report)
    }

    /// Brings a chunk back to the local packs; says how.
    async fn repair(&self, id: &ChunkId) -> Result<&'static str, EngineError> {
        let local = &self.core.local;
        if local.contains(id) {
            return Ok("another good copy has taken its place");
        }
        let frames = self.core.recall_frames(&[ChunkRef { id: *id, len: 0 }], None, true).await?;
        if !frames.contains_key(id) {
            return Err(EngineError::Corrupt(format!("chunk {id} is lost")));
        }
        // The request may have been a reader's, who keeps nothing.
        if !local.contains(id) {
            self.core.keep_frames(&frames).await;
        }
        if local.contains(id) {
            return Ok("fetched again");
        }
        Err(EngineError::Corrupt("a tier has it, but it could not be kept locally: is there room?".into()))
    }
}
