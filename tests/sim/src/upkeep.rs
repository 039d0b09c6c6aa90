//! Background work, beside operations and in the middle of each other.

use super::changes::At;
use super::common::{noise, read};
use super::gate::{Gate, Opened};
use super::life::Life;
use super::plans::{BUCKET, Plan};
use super::world::World;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::engine::{EngineError, GcRequest, ScrubRequest, Step, VersionRef};

/// Where uploads go that are completed during a mark: before most other keys.
const JOINED: &str = "a/0";

impl World {
    /// A turn of the scheduler, shipping, a collection, an eviction, a snapshot.
    pub fn work(&mut self, which: usize) -> BoxFuture<'static, Result<(), EngineError>> {
        let engine = self.engine();
        let bytes = if self.dice.below(2) == 0 { u64::MAX } else { 1 + self.dice.below(100_000) };
        self.note(["a look at what is due", "shipping", "a collection", "an eviction", "a snapshot"][which]);
        self.count(["turns of the scheduler", "shippings", "marks", "marks", "snapshots"][which]);
        async move {
            match which {
                0 => {
                    engine.run_due_now()?;
                    engine.step(Step::Schedule).await;
                }
                1 => drop(engine.step(Step::Ship).await),
                2 => drop(engine.gc(GcRequest::default()).await?),
                3 => drop(engine.evict(bytes).await?),
                _ => drop(engine.snapshot().await?),
            }
            Ok(())
        }
        .boxed()
    }

    pub fn scrub(&mut self) -> Result<(), String> {
        self.note("a scrub");
        let engine = self.engine();
        // Without a limit: pacing would wait in real time.
        let request = ScrubRequest { bytes_per_second: Some(0), restart: false };
        let report = self.process().run(async move { engine.scrub(request, |_| true).await });
        match report {
            Ok(report) if report.damaged_total == 0 && report.unreadable_total == 0 => Ok(()),
            Ok(report) => Err(format!("a scrub finds damage: {report:?}")),
            Err(_) if self.is_dead() => Ok(()),
            Err(e) => Err(format!("scrub: {e}")),
        }
    }

    /// A clean end and a new beginning.
    pub fn restart(&mut self) -> Result<(), String> {
        self.note("a restart");
        let engine = self.engine();
        let closed = self.process().run(async move { engine.shutdown().await });
        if self.is_dead() {
            return Ok(());
        }
        closed.map_err(|e| format!("it does not close: {e}"))?;
        if let Some(mut process) = self.take_process() {
            self.model.shipped = self.model.shipped.max(super::world::shipped(&process.engine()));
            process.end();
        }
        if self.dice.below(3) == 0 {
            // The power goes after it has ended: nothing may rest on what was not synced.
            self.crashed()?;
        }
        self.open()
    }

    /// A mark stands still in the middle of its walk while operations come and go.
    pub fn during_gc(&mut self) -> Result<(), String> {
        let joined = if self.dice.below(2) == 0 { self.upload_of_its_own()? } else { None };
        if self.is_dead() {
            return Ok(());
        }
        let nth = 1 + self.dice.below(if joined.is_some() { 2 } else { 12 });
        self.note(format!("a collection stands still at its step {nth}"));
        self.count("marks");
        let gate = Gate::at("gc.walk", nth);
        let opened = Opened(Arc::clone(&gate));
        let (engine, life) = (self.engine(), Arc::clone(&self.process().life));
        let evict = self.dice.below(2) == 0;
        let collection = async move {
            match evict {
                true => engine.evict(u64::MAX).await,
                false => engine.gc(GcRequest::default()).await,
            }
        };
        let mut task = None;
        self.process().run(async {
            let running = task.insert(tokio::spawn(collection));
            while !gate.is_reached() && !running.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        if let Some(id) = joined {
            // Its object comes where the walk has been, and its parts go before it gets there.
            let complete = self.complete(JOINED, &id);
            self.perform(vec![complete], None, None)?;
        }
        for _ in 0..1 + self.dice.below(4) {
            if life.is_dead() {
                break;
            }
            self.beside_gc()?;
        }
        drop(opened);
        let Some(task) = task else { return Ok(()) };
        let done = self.process().run(task).map_err(|e| format!("a collection: {e}"))?;
        match done {
            Err(e) if !life.is_dead() => Err(format!("a collection: {e}")),
            _ => self.maybe_compare(&life),
        }
    }

    /// An upload with a part whose bytes nothing else has.
    fn upload_of_its_own(&mut self) -> Result<Option<String>, String> {
        let begin = self.begin_upload(JOINED);
        self.perform(vec![begin], None, None)?;
        let own = |id: &String| self.model.uploads[id].key == JOINED && self.model.uploads[id].parts.is_empty();
        let Some(id) = self.model.open_uploads().into_iter().find(own).filter(|_| !self.is_dead()) else {
            return Ok(None);
        };
        let bytes = Arc::new(noise(self.dice.roll(), 3_000));
        let part = self.part(JOINED, &id, (1, bytes));
        self.perform(vec![part], None, None)?;
        Ok(Some(id).filter(|id| !self.model.uploads[id].parts.is_empty()))
    }

    fn maybe_compare(&mut self, life: &Life) -> Result<(), String> {
        if life.is_dead() || self.dice.below(2) == 0 { Ok(()) } else { self.compare() }
    }

    /// Names move to where the walk has been, or a turn of the scheduler.
    fn beside_gc(&mut self) -> Result<(), String> {
        if self.dice.below(4) == 0 {
            let work = self.work(0);
            return self.perform(Vec::new(), Some(work), None);
        }
        let Some(from) = self.existing() else { return Ok(()) };
        let to = self.any_key();
        let copied: Option<Plan> = if from.key == to { None } else { self.copy(&from, &to) };
        let Some(copy) = copied else { return Ok(()) };
        self.perform(vec![copy], None, None)?;
        if !self.process().life.is_dead() {
            let goes = if self.dice.below(2) == 0 { self.delete(&from.key) } else { self.remove(&from) };
            self.perform(vec![goes], None, None)?;
        }
        Ok(())
    }

    /// Reads a first piece, deletes the object, collects, and reads on.
    pub fn read_through_a_collection(&mut self, key: &str, bytes: &[u8]) -> Result<(), String> {
        self.note(format!("{key} is being read"));
        let (engine, len) = (self.engine(), bytes.len() as u64);
        let opening = async move {
            let mut stream = engine.open_object(BUCKET, key)?.read(0..len).await?;
            let first = stream.next().await.transpose()?.unwrap_or_default();
            Ok::<_, EngineError>((first, stream))
        };
        let (first, stream) = match self.process().run(opening) {
            Ok(opened) => opened,
            Err(_) if self.is_dead() => return Ok(()),
            Err(e) => return Err(format!("read {key}: {e}")),
        };
        let latest = At { key: key.to_owned(), place: 0, version: VersionRef::Current };
        let remove = self.remove(&latest);
        self.perform(vec![remove], None, None)?;
        if !self.is_dead() {
            let work = self.work(3);
            self.perform(Vec::new(), Some(work), None)?;
        }
        match self.process().run(read(stream)) {
            Ok(rest) if [first.as_ref(), &rest].concat() == bytes => Ok(()),
            Ok(rest) => Err(format!("{key}: wrong bytes in a read that went on: {} and {}", first.len(), rest.len())),
            Err(_) if self.is_dead() => Ok(()),
            Err(e) => Err(format!("{key}: a read does not go on after a collection: {e}")),
        }
    }
}
