//! The end of a story: in good weather everything comes to rest, everything is there, and once all is deleted nothing is left anywhere.

use super::changes::At;
use super::plans::BUCKET;
use super::versions::Version;
use super::world::World;
use std::time::Duration;
use tidegate_tiering::engine::*;
use tidegate_tiering::tier::RestorePriority;

/// Rounds within which everything that is due must be done.
const ROUNDS: u32 = 120;

impl World {
    pub fn finale(&mut self) -> Result<(), String> {
        self.note("the end: good weather");
        self.cloud.set_weather(0);
        self.process().life.hold(true);
        self.hush();
        self.forget_lost()?;
        self.settle(true)?;
        self.at_rest = true;
        self.compare()?;
        self.at_rest = false;
        self.hush();
        self.restore_all()?;
        self.hush();
        self.leave_nothing()?;
        let engine = self.engine();
        self.process().run(async move { engine.shutdown().await }).map_err(|e| format!("it does not close: {e}"))
    }

    /// No fuse burns any more.
    fn hush(&self) {
        self.process().life.hold(true);
    }

    /// Objects without bytes can go nowhere.
    fn forget_lost(&mut self) -> Result<(), String> {
        self.remove_all(|version| version.lost)
    }

    /// Removes versions, when it is known which there are.
    fn remove_all(&mut self, goes: impl Fn(&Version) -> bool) -> Result<(), String> {
        self.compare()?;
        self.hush();
        loop {
            let found = self.model.versions().find(|(_, _, version)| goes(version));
            let Some((key, place, version)) = found else { return Ok(()) };
            let at = At { key: key.to_owned(), place, version: version.named() };
            let remove = self.remove(&at);
            self.perform(vec![remove], None, None)?;
        }
    }

    /// Lets everything that is due be done.
    fn settle(&mut self, patient: bool) -> Result<(), String> {
        let mut open = RunDueReport::default();
        for _ in 0..ROUNDS {
            let engine = self.engine();
            let turn = async move {
                let open = engine.run_due_now()?;
                engine.step(Step::Schedule).await;
                engine.step(Step::Ship).await;
                Ok::<_, EngineError>(open)
            };
            open = self.process().run(turn).map_err(|e| format!("what is due: {e}"))?;
            let jobs = self.engine().stats().map(|s| s.jobs).unwrap_or_default();
            // What is kept for earlier moments waits for their end.
            let kept: u64 = jobs.iter().filter(|j| j.kind == "delete pack").map(|j| j.count).sum();
            if open.due == 0 && open.jobs_open == if patient { kept } else { 0 } {
                return Ok(());
            }
            self.clock.advance(Duration::from_secs(1800));
        }
        let jobs = self.engine().stats().map(|s| s.jobs);
        Err(format!("it does not come to rest: {open:?} {jobs:?}"))
    }

    pub fn archived(&self) -> Vec<At> {
        let engine = self.engine();
        let is = |at: &At| engine.open_version(BUCKET, &at.key, at.version).is_ok_and(|h| h.check_readable().is_err());
        let all = self.model.versions().filter(|(_, _, version)| version.id.is_some());
        let all = all.map(|(key, place, version)| At { key: key.to_owned(), place, version: version.named() });
        all.filter(is).collect()
    }

    /// Every archived version comes back with its bytes.
    fn restore_all(&mut self) -> Result<(), String> {
        for _ in 0..6 {
            for At { key, version, .. } in self.archived() {
                let engine = self.engine();
                let (bucket, days, priority) = (BUCKET.to_owned(), 100, RestorePriority::Standard);
                let request = RestoreRequest { bucket, key: key.clone(), version, days, priority };
                match self.process().run(async move { engine.restore_object(request).await }) {
                    Ok(_) | Err(EngineError::RestoreInProgress) => {}
                    Err(e) => return Err(format!("restore {key}: {e}")),
                }
            }
            self.settle(true)?;
            self.compare()?;
            self.hush();
            if self.archived().is_empty() {
                return Ok(());
            }
        }
        Err(format!("these are archived still: {:?}", self.archived()))
    }

    fn leave_nothing(&mut self) -> Result<(), String> {
        self.remove_all(|_| true)?;
        for id in self.model.open_uploads() {
            let key = self.model.uploads[&id].key.clone();
            let engine = self.engine();
            match self.process().run(async move { engine.abort_upload(BUCKET, &key, &id).await }) {
                Ok(()) | Err(EngineError::NoSuchUpload(_)) => {}
                Err(e) => return Err(format!("abort {e}")),
            }
        }
        if self.recovered {
            self.repair()?;
        }
        let keep = self.settings.recovery.as_ref().map_or(Duration::ZERO, |r| r.keep);
        for _ in 0..2 {
            let engine = self.engine();
            let gc = async move { engine.gc(GcRequest::default()).await };
            self.process().run(gc).map_err(|e| format!("the last collection: {e}"))?;
            self.clock.advance(keep + Duration::from_secs(3600));
            self.settle(false)?;
        }
        let stats = self.engine().stats().map_err(|e| e.to_string())?;
        let left = (stats.objects, stats.uploads, stats.local.unique_chunks, stats.local.dead_bytes);
        let mut packs = self.cloud.names("packs/");
        if self.recovered && !packs.is_empty() {
            let orphans = self.orphans()?;
            packs.retain(|name| !orphans.iter().any(|orphan| name.ends_with(orphan)));
        }
        if left == (0, 0, 0, 0) && packs.is_empty() && stats.tiers.iter().all(|t| t.packs == 0) {
            return Ok(());
        }
        Err(format!("left: objects, uploads, chunks, dead bytes {left:?}; in the cloud {packs:?}; {:?}", stats.tiers))
    }

    /// Of what was written after the last shipped record some cannot be told from what is newer than this namespace: it stays, and is
    /// shown.
    fn orphans(&self) -> Result<Vec<String>, String> {
        let engine = self.engine();
        let checking = async move { engine.fsck(&FsckRequest::default(), FsckEstimate::default(), |_| {}).await };
        let report = self.process().run(checking).map_err(|e| format!("fsck: {e}"))?;
        Ok(report.findings.into_iter().filter(|f| f.kind == FindingKind::OrphanPack).map(|f| f.what).collect())
    }

    /// What the lost disk alone knew of is in the cloud and nobody's.
    fn repair(&mut self) -> Result<(), String> {
        let engine = self.engine();
        let request = FsckRequest { repair: true, ..Default::default() };
        let repairing = async move { engine.fsck(&request, FsckEstimate::default(), |_| {}).await };
        self.process().run(repairing).map(drop).map_err(|e| format!("repair: {e}"))
    }
}
