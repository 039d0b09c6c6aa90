//! One walk: a workload in two lives of a process, recorded; and the cuts of it.

use super::common::{Bed, Dice};
use super::cut::{Disk, Style, as_events, other_boot, root_of, temporary, write_image};
use super::log::{Event, Log};
use super::work::{Allowed, BUCKET, History, State, Writer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_tiering::disk::watch;
use tidegate_tiering::engine::{Engine, GcRequest};
use tidegate_tiering::tier::memory::MemoryTier;

/// How long to go on: `TIDEGATE_POWER_SECONDS`, or `default`.
pub fn budget(default: Duration) -> Duration {
    match std::env::var("TIDEGATE_POWER_SECONDS") {
        Ok(text) => Duration::from_secs(text.parse().unwrap_or_else(|e| panic!("TIDEGATE_POWER_SECONDS={text}: {e}"))),
        Err(_) => default,
    }
}

/// Small packs, segments and steps, so that a short walk has many of each.
pub fn bed(root: &Path, seed: u64) -> Bed {
    let mut dice = Dice(seed);
    let mut bed = Bed::new(&root.join("data"), Arc::new(MemoryTier::new().unwrap()));
    let settings = &mut bed.settings;
    settings.chunks.min = 512;
    settings.chunks.avg = 2048;
    settings.chunks.max = 8192;
    settings.local.pack_bytes = 64 << (10 + dice.below(2));
    settings.limits.min_part_bytes = 0;
    settings.meta.segment_bytes = 4096 << dice.below(3);
    settings.meta.fill_ahead_bytes = [0, 1000, 4096][dice.below(3) as usize];
    settings.meta.checkpoint_bytes = 8 << 10;
    settings.meta.snapshot_bytes = 16 << 10;
    settings.meta.index_cache_bytes = 4 << 20;
    bed
}

pub struct Run {
    pub seed: u64,
    pub events: Vec<Event>,
    pub history: Arc<History>,
    /// Where the second life began; and how much of the log only says what it found there.
    second: usize,
    given: usize,
    deployment: Vec<u8>,
}

/// Writers and upkeep side by side, some turns of it, with clean restarts in between.
async fn live(root: &Path, seed: u64, turns: u64, writers: &mut Vec<Writer>, log: &Arc<Log>, history: &Arc<History>) {
    let bed = bed(root, seed);
    bed.clock.advance(Duration::from_secs(log.len() as u64));
    let mut dice = Dice(seed ^ log.len() as u64);
    let mut engine = bed.open().await;
    if engine.bucket(BUCKET).is_err() {
        engine.create_bucket(BUCKET).await.unwrap();
    }
    let at_start = history.allowed(&log.events());
    let states = at_start.check(&engine).await.unwrap_or_else(|e| panic!("TIDEGATE_SEED={seed}, after a kill: {e}"));
    at_start.settle(&states, log);
    writers.iter_mut().for_each(|w| w.found(&states));
    for turn in 0..turns {
        let working = writers.drain(..).map(|mut writer| {
            let (engine, log, history) = (engine.clone(), Arc::clone(log), Arc::clone(history));
            tokio::spawn(async move {
                for _ in 0..5 {
                    writer.step(&engine, &log, &history).await.unwrap();
                }
                writer
            })
        });
        let working: Vec<_> = working.collect();
        bed.clock.advance(Duration::from_secs(60));
        match dice.below(3) {
            0 => drop(engine.snapshot().await.unwrap()),
            1 => drop(engine.gc(GcRequest::default()).await.unwrap()),
            _ => {}
        }
        for one in working {
            writers.push(one.await.unwrap());
        }
        engine.gc(GcRequest::default()).await.unwrap();
        if turn % 2 == 1 {
            engine.shutdown().await.unwrap();
            drop(engine);
            engine = bed.open().await;
        }
    }
    engine.shutdown().await.unwrap();
}

impl Run {
    /// Records two lives. The first ends at some moment: the process is killed, and the second goes on from what the system had in
    /// its cache; or the power is cut, and the second goes on from what that left.
    pub async fn record(seed: u64) -> Run {
        let mut dice = Dice(!seed);
        let history = Arc::new(History::default());
        let serial = dice.below(2) == 0;
        let mut writers: Vec<Writer> = (0..if serial { 1 } else { 3 }).map(|n| Writer::new(n, seed, 3)).collect();
        let turns = if serial { 6 } else { 3 };
        let first = temporary();
        let log = Log::new(&root_of(&first), Vec::new());
        {
            let _watch = watch(&root_of(&first), Arc::clone(&log) as _);
            live(&root_of(&first), seed, turns, &mut writers, &log, &history).await;
        }
        let mut events = log.events();
        let deployment = std::fs::read(first.path().join("data/deployment")).unwrap();
        let killed = dice.below(3) != 0;
        events.truncate(end_of_life(&events, &mut dice));
        let disk = Disk::after(&events);
        let style = if killed { Style::Killed } else { Style::Any };
        let mut image = disk.image(&mut dice, style);
        let root = temporary();
        let sled = match killed {
            true if dice.below(2) == 0 => BTreeMap::new(),
            true => disk.index_seen().clone(),
            false => disk.index(&mut dice),
        };
        if !killed {
            other_boot(&mut image);
            events.retain(|e| matches!(e, Event::OpBegins(_) | Event::OpEnds(_) | Event::OpGone(_)));
            events.extend(as_events(&image));
        }
        write_image(&root_of(&root), &image, &sled);
        let second = events.len();
        let log = Log::new(&root_of(&root), events);
        {
            let _watch = watch(&root_of(&root), Arc::clone(&log) as _);
            live(&root_of(&root), seed, turns / 2, &mut writers, &log, &history).await;
        }
        Run { seed, events: log.events(), history, second, given: if killed { 0 } else { second }, deployment }
    }

    /// A run that was recorded elsewhere, in one life.
    pub fn of(seed: u64, events: Vec<Event>, history: Arc<History>, deployment: Vec<u8>) -> Run {
        Run { seed, second: events.len(), events, history, given: 0, deployment }
    }

    /// The same with another log of what was done.
    pub fn mutant(&self, mutate: impl Fn(&[Event]) -> Vec<Event>) -> Run {
        let mut events = self.events[..self.given].to_vec();
        events.extend(mutate(&self.events[self.given..]));
        let (history, deployment) = (Arc::clone(&self.history), self.deployment.clone());
        Run { events, history, deployment, ..*self }
    }

    /// Places in the log: around every end of a sync, and some in between; in random order.
    pub fn points(&self, dice: &mut Dice) -> Vec<usize> {
        let mut points = Vec::new();
        for (n, event) in self.events.iter().enumerate().skip(self.given) {
            match event {
                Event::SyncEnds(..) | Event::Rename(..) | Event::Remove(_) | Event::OpEnds(_) => {
                    points.extend([n, n + 1])
                }
                _ if dice.below(8) == 0 => points.push(n),
                _ => {}
            }
        }
        points.dedup();
        for n in (1..points.len()).rev() {
            points.swap(n, dice.below(n as u64 + 1) as usize);
        }
        points
    }

    /// Cuts the power after `point` events, opens what is left and compares. What fails is kept on the disk if asked for.
    pub async fn cut(&self, point: usize, dice: &mut Dice, keep: bool) -> Result<(), String> {
        let styles = [Style::Nothing, Style::NamesOnly, Style::ContentOnly, Style::Nearly, Style::Any, Style::Any];
        let style = styles[dice.below(styles.len() as u64) as usize];
        let disk = Disk::after(&self.events[..point]);
        let mut image = disk.image(dice, style);
        other_boot(&mut image);
        let sled = disk.index(dice);
        let dir = temporary();
        write_image(&root_of(&dir), &image, &sled);
        let thorough = dice.below(6) == 0;
        let outcome = self.open(&root_of(&dir), point, thorough).await;
        outcome.map_err(|e| {
            let last = self.events[..point].iter().rev().take(4).map(short).collect::<Vec<_>>();
            let mut text = format!(
                "{style:?} at {point} of {} (killed at {}), after {last:?}: {e}",
                self.events.len(),
                self.second
            );
            if keep {
                let kept = temporary();
                write_image(&root_of(&kept), &image, &sled);
                text = format!("{text}\nthe image is kept in {}", kept.keep().display());
            }
            text
        })
    }

    async fn open(&self, root: &Path, point: usize, thorough: bool) -> Result<(), String> {
        let allowed = self.history.allowed(&self.events[..point]);
        let bed = bed(root, self.seed);
        bed.clock.advance(Duration::from_secs(3600));
        let engine = bed.try_open().await.map_err(|e| format!("it does not open: {e}"))?;
        let outcome = self.compare(root, &bed, &engine, &allowed, thorough).await;
        // Ends its threads, if they have not ended yet.
        let closed = engine.shutdown().await.map_err(|e| format!("it does not close: {e}"));
        outcome.and(closed)
    }

    async fn compare(
        &self,
        root: &Path,
        bed: &Bed,
        engine: &Engine,
        allowed: &Allowed,
        thorough: bool,
    ) -> Result<(), String> {
        let acknowledged = allowed.0.values().any(|(state, _)| *state != State::default());
        if acknowledged && std::fs::read(root.join("data/deployment")).unwrap_or_default() != self.deployment {
            return Err("the deployment has another id".to_owned());
        }
        let states = allowed.check(engine).await?;
        if thorough { self.go_on(bed, engine, states).await } else { Ok(()) }
    }

    /// Works on with what was found: what is there stays, and what is written is there after a restart.
    async fn go_on(&self, bed: &Bed, engine: &Engine, states: BTreeMap<String, State>) -> Result<(), String> {
        let log = Log::new(Path::new("/"), Vec::new());
        let mut allowed = Allowed(states.into_iter().map(|(key, state)| (key, (state, None))).collect());
        let fail = |e: tidegate_tiering::engine::EngineError| format!("it does not go on: {e}");
        if engine.bucket(BUCKET).is_err() {
            engine.create_bucket(BUCKET).await.map_err(fail)?;
        }
        let (history, mut writer) = (History::default(), Writer::new(9, self.seed, 3));
        for _ in 0..3 {
            writer.step(engine, &log, &history).await.map_err(fail)?;
        }
        engine.gc(GcRequest::default()).await.map_err(fail)?;
        engine.snapshot().await.map_err(fail)?;
        allowed.0.extend(history.allowed(&log.events()).0);
        allowed.check(engine).await?;
        engine.shutdown().await.map_err(fail)?;
        let engine = bed.try_open().await.map_err(|e| format!("it does not open again: {e}"))?;
        let outcome = allowed.check(&engine).await.map(drop);
        engine.shutdown().await.map_err(fail)?;
        outcome
    }
}

/// Where the first life ends: anywhere in its second half, more often just after a name changed.
fn end_of_life(events: &[Event], dice: &mut Dice) -> usize {
    let half = events.len() / 2;
    let renamed: Vec<usize> = (half..events.len()).filter(|n| matches!(events[*n], Event::Rename(..))).collect();
    match dice.below(3) {
        0 => half + dice.below(half as u64) as usize,
        _ => renamed.get(dice.below(renamed.len() as u64) as usize).map_or(half, |n| n + 1),
    }
}

/// An event without its bytes, for people.
fn short(event: &Event) -> String {
    match event {
        Event::Write(name, at, bytes) => format!("{} bytes to {name} at {at}", bytes.len()),
        Event::Index { durable, files } => format!("sled has {} files, durable {durable}", files.len()),
        other => format!("{other:?}"),
    }
}
