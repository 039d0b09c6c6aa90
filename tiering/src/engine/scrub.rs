//! Scrub: reads every frame, verifies it, and brings damaged chunks back from a tier where one has them.

use super::body::ChunkRef;
use super::report::{DamagedChunk, ScrubProgress, ScrubReport};
use super::{Engine, EngineError};
use std::sync::Arc;

impl Engine {
    /// Verifies all local packs, one per step; `progress` hears of each.
    ///
    /// # Errors
    /// A failure to read at all; damage is in the report.
    pub async fn scrub(&self, mut progress: impl FnMut(ScrubProgress) + Send) -> Result<ScrubReport, EngineError> {
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
                report.lost += u64::from(repaired.is_err());
                report.damaged.push(DamagedChunk {
                    chunk: id.to_string(),
                    pack: step.pack.to_string(),
                    repaired: repaired.is_ok(),
                    detail: repaired.err().map_or_else(|| "fetched again".into(), |e| e.to_string()),
                });
            }
            progress(seen);
        }
        // Who suffers: a walk over all names, which also finds what earlier damage took. It removes nothing.
        let walk = self.core.collect_garbage(true, 0).await?;
        (report.lossy, report.lossy_total) = (walk.lossy, walk.lossy_total);
        Ok(report)
    }

    async fn repair(&self, id: &crate::chunk::ChunkId) -> Result<(), EngineError> {
        if self.core.local.contains(id) {
            // Another good copy has taken its place.
            return Ok(());
        }
        let frames = self.core.recall_frames(&[ChunkRef { id: *id, len: 0 }], None, true).await?;
        frames.contains_key(id).then_some(()).ok_or_else(|| EngineError::Corrupt(format!("chunk {id} is lost")))
    }
}
