//! Scrub: reads every frame, verifies it, and brings damaged chunks back, from a tier or from another local copy.
//!
//! A pass goes through the sealed packs in the order of their ids, a step of a few megabytes at a time, no faster than its rate.
//! Where it is stands in a file ([`position`]), so that an interrupted pass goes on. What is found damaged is set aside
//! at once (out of the index, and on the list that keeps it out at the next opening), then fetched from the tiers. At
//! the end, what no tier has is looked for in the footers of all packs, and a walk over the namespace names who suffers.

mod pace;
mod position;
mod report;

use super::body::ChunkRef;
use super::walk::Gone;
use super::{Core, Engine, EngineError};
use crate::chunk::ChunkId;
use crate::local::ScrubStep;
use pace::Pace;
use position::Pass;
pub(crate) use position::ScrubState;
pub use report::{DamagedChunk, ScrubProgress, ScrubReport, ScrubRequest, ScrubStats};
use std::sync::Arc;
use std::time::Instant;

/// Damaged chunks that a report names, and that are looked for in other packs at the end.
const MAX_NAMED: usize = 1_000;

/// A scrub at work.
struct Scrub<'a> {
    core: &'a Arc<Core>,
    pass: Pass,
    report: ScrubReport,
    /// Chunks that no tier has.
    missing: Vec<ChunkId>,
}

/// Says that none runs any more, however it ends.
struct Running<'a>(&'a ScrubState);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set_running(false);
    }
}

impl Engine {
    /// Verifies all local packs. Goes on where an earlier scrub was interrupted, unless the request says otherwise. `progress`
    /// hears of each step; when it answers false the scrub ends there, and the next one goes on. A second scrub waits for the first.
    ///
    /// # Errors
    /// A failure to read at all; damage is in the report, and so is a failure to find out who suffers from it.
    pub async fn scrub(
        &self,
        request: ScrubRequest,
        mut progress: impl FnMut(ScrubProgress) -> bool + Send,
    ) -> Result<ScrubReport, EngineError> {
        let core = &self.core;
        if core.follow.is_some() {
            let what = "a standby writes nothing into local packs, so it repairs nothing: scrub once it is promoted";
            return Err(EngineError::InvalidRequest(what.to_owned()));
        }
        let _one = core.scrub.one.lock().await;
        core.scrub.set_running(true);
        let _running = Running(&core.scrub);
        let mut pace = Pace::new(request.bytes_per_second.unwrap_or(core.settings.scrub.bytes_per_second));
        let Some(mut scrub) = Scrub::begin(core, request.restart).await? else {
            core.scrub.complete(&Pass::default(), core.clock.now());
            return Scrub::new(core, Pass::default()).who_suffers().await;
        };
        let mut wanted = true;
        while wanted && !core.stop.is_cancelled() {
            let began = Instant::now();
            let Some(bytes) = scrub.step(pace.step_bytes(), &mut |at| wanted = progress(at)).await? else { break };
            let wait = pace.wait(bytes, began.elapsed());
            if wanted && !wait.is_zero() {
                tokio::select! {
                    () = core.stop.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
        scrub.report.waited_ms = pace.waited_ms();
        if !wanted {
            return Ok(scrub.interrupted());
        }
        if core.stop.is_cancelled() {
            scrub.report.notes.push("the server stops; scrub again to go on".into());
        } else {
            scrub.look_for_copies().await;
            core.scrub.complete(&scrub.pass, core.clock.now());
            core.metrics.scrub_lost.inc_by(scrub.pass.lost);
            scrub.report.complete = true;
        }
        scrub.who_suffers().await
    }
}

/// A piece of work on a blocking thread.
async fn blocking<T: Send + 'static>(
    core: &Arc<Core>,
    work: impl FnOnce(&Core) -> Result<T, crate::local::LocalError> + Send + 'static,
) -> Result<T, EngineError> {
    let core = Arc::clone(core);
    let task = tokio::task::spawn_blocking(move || work(&core));
    Ok(task.await.map_err(|e| EngineError::Internal(format!("scrub: {e}")))??)
}

impl<'a> Scrub<'a> {
    fn new(core: &'a Arc<Core>, pass: Pass) -> Self {
        let report = ScrubReport { started: pass.started, complete: true, ..ScrubReport::default() };
        Self { core, pass, report, missing: Vec::new() }
    }

    /// The interrupted pass, or a new one. None when there is no pack.
    async fn begin(core: &'a Arc<Core>, restart: bool) -> Result<Option<Self>, EngineError> {
        let interrupted = if restart { None } else { core.scrub.interrupted() };
        let resumed = interrupted.is_some();
        let pass = match interrupted {
            Some(pass) => pass,
            None => {
                let Some(until) = blocking(core, |core| core.local.begin_scrub()).await? else { return Ok(None) };
                Pass::new(core.clock.now(), until)
            }
        };
        let mut scrub = Self::new(core, pass);
        (scrub.report.resumed, scrub.report.complete) = (resumed, false);
        Ok(Some(scrub))
    }

    /// Verifies up to `most` bytes, heals what is damaged, and notes the position. Answers the bytes read; none at the end.
    async fn step(
        &mut self,
        most: u64,
        progress: &mut (dyn FnMut(ScrubProgress) + Send),
    ) -> Result<Option<u64>, EngineError> {
        let (from, until) = (self.pass.cursor(), self.pass.until());
        let Some(until) = until else { return Ok(None) };
        let step = blocking(self.core, move |core| core.local.scrub_some(from, until, most)).await?;
        let Some(step) = step else { return Ok(None) };
        self.pass.chunks += step.chunks;
        self.pass.bytes += step.bytes;
        self.pass.passed += step.passed;
        self.pass.packs += u64::from(step.next.offset == crate::local::ScrubCursor::END);
        self.core.metrics.scrub_bytes.inc_by(step.bytes);
        self.pass.go_to(step.next);
        let found = !step.damaged.is_empty() || step.framing_damaged || step.file_missing;
        if found {
            // Before the position says that this is done.
            self.treat(&step).await?;
        }
        let cursor = Some(step.next);
        let (packs, bytes) = blocking(self.core, move |core| Ok(core.local.scrub_left(cursor, until))).await?;
        let total = self.pass.passed + bytes;
        if !self.core.stop.is_cancelled() {
            self.core.scrub.step(&self.pass, total, found);
        }
        progress(ScrubProgress {
            packs_done: self.pass.packs,
            packs_total: self.pass.packs + packs,
            bytes_done: self.pass.passed,
            bytes_total: total,
            damaged: self.pass.damaged,
            repaired: self.pass.repaired,
        });
        Ok(Some(step.bytes))
    }

    /// Heals what a step found, durably.
    async fn treat(&mut self, step: &ScrubStep) -> Result<(), EngineError> {
        blocking(self.core, |core| core.local.sync_damage()).await?;
        for id in &step.damaged {
            let healed = self.core.heal(id).await;
            let in_tier = !self.core.remote.tiers_with(id).is_empty();
            self.pass.damaged += 1;
            self.core.metrics.scrub_damaged.inc();
            match &healed {
                Ok(_) => self.count_healed(1),
                Err(_) if in_tier => {}
                Err(_) => {
                    self.pass.lost += 1;
                    if self.missing.len() < MAX_NAMED {
                        self.missing.push(*id);
                    }
                }
            }
            let (repaired, detail) = (healed.is_ok(), healed.unwrap_or_else(|e| e.to_string()));
            tracing::error!(chunk = %id, pack = %step.next.pack, repaired, detail, "a scrub found a damaged frame");
            if self.report.damaged.len() < MAX_NAMED {
                let (chunk, pack) = (id.to_string(), step.next.pack.to_string());
                self.report.damaged.push(DamagedChunk { chunk, pack, repaired, detail });
            }
        }
        if step.framing_damaged {
            self.rewrite(step).await?;
        }
        if step.file_missing {
            self.report.notes.push(format!(
                "pack {}: its file is gone: put it back, or upload what is listed as damaged again",
                step.next.pack
            ));
        }
        if self.core.local.writes_refused().is_none() {
            blocking(self.core, |core| core.local.sync()).await?;
        }
        Ok(())
    }

    fn count_healed(&mut self, count: u64) {
        self.pass.repaired += count;
        self.core.metrics.scrub_healed.inc_by(count);
    }

    /// Copies a pack whose header or footer is damaged: the next opening would have to search it frame by frame.
    async fn rewrite(&mut self, step: &ScrubStep) -> Result<(), EngineError> {
        let pack = step.next.pack;
        let _no_sweep = Arc::clone(&self.core.gc_running).lock_owned().await;
        match blocking(self.core, move |core| core.local.rewrite_pack(pack)).await {
            Ok(true) => self.pass.rewritten += 1,
            Ok(false) => self.report.notes.push(format!(
                "pack {pack}: header or footer is damaged, and it stays: not all of it could be copied to another one"
            )),
            Err(e) => self.report.notes.push(format!("pack {pack}: header or footer is damaged, and it stays: {e}")),
        }
        Ok(())
    }

    /// What no tier has may be in another local pack.
    async fn look_for_copies(&mut self) {
        let wanted = self.missing.clone();
        let found = {
            let _no_sweep = Arc::clone(&self.core.gc_running).lock_owned().await;
            let look = move |core: &Core| {
                let healed = core.local.heal_from_copies(&wanted)?;
                if !healed.is_empty() {
                    core.local.sync()?;
                }
                Ok(healed)
            };
            blocking(self.core, look).await
        };
        let healed = match found {
            Ok(healed) => healed,
            Err(e) => return self.report.notes.push(format!("no second copies were looked for: {e}")),
        };
        for id in &healed {
            tracing::info!(chunk = %id, "a damaged chunk was copied from another local pack");
        }
        self.count_healed(healed.len() as u64);
        let ours = self.missing.iter().filter(|id| healed.contains(*id)).count() as u64;
        self.pass.lost = self.pass.lost.saturating_sub(ours);
        for line in &mut self.report.damaged {
            if healed.iter().any(|id| id.to_string() == line.chunk) {
                (line.repaired, line.detail) = (true, "copied from another local pack".into());
            }
        }
    }

    fn count(&mut self) {
        let Pass { packs, chunks, bytes, damaged, repaired, lost, rewritten, .. } = self.pass;
        let r = &mut self.report;
        (r.packs, r.chunks, r.bytes, r.rewritten) = (packs, chunks, bytes, rewritten);
        (r.damaged_total, r.repaired, r.lost) = (damaged, repaired, lost);
    }

    fn interrupted(mut self) -> ScrubReport {
        self.count();
        self.report
    }

    /// Who suffers: a walk over all names, which also finds what earlier damage took. It removes nothing.
    /// What was found must not be lost with it when it fails: reading all packs may have taken hours.
    async fn who_suffers(mut self) -> Result<ScrubReport, EngineError> {
        self.count();
        let mut report = self.report;
        match self.core.examine(Gone { suspects: true, ..Gone::default() }).await {
            Ok((walk, _)) => {
                (report.lossy, report.lossy_total) = (walk.lossy, walk.lossy_total);
                (report.unreadable, report.unreadable_total) = (walk.unreadable, walk.unreadable_total);
                report.notes.extend(walk.notes);
            }
            Err(e) => report.notes.push(format!("which objects suffer is not known, scrub again: {e}")),
        }
        Ok(report)
    }
}

impl Core {
    /// Brings a chunk back to the local packs, from any tier that has it; says how.
    async fn heal(self: &Arc<Self>, id: &ChunkId) -> Result<String, EngineError> {
        let local = &self.local;
        if local.contains(id) && !local.is_suspect(id) {
            return Ok("another good copy has taken its place".into());
        }
        let mut last = EngineError::Corrupt(format!("chunk {id} is in no tier"));
        for tier in self.tiers_to_ask(id) {
            let frames = match self.recall_frames(&[ChunkRef { id: *id, len: 0 }], Some(&tier), true).await {
                Ok(frames) => frames,
                Err(e) => {
                    last = e;
                    continue;
                }
            };
            // The request may have been a reader's, who keeps nothing.
            if !local.contains(id) || local.is_suspect(id) {
                self.keep_frames(&frames).await;
            }
            if local.contains(id) && !local.is_suspect(id) {
                return Ok(format!("fetched again from tier {tier}"));
            }
            last =
                EngineError::Corrupt(format!("tier {tier} has it, but it could not be kept locally: is there room?"));
        }
        Err(last)
    }
}
