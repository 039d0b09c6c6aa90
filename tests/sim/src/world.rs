//! A story: processes one after the other on disks that fail, one cloud, one clock, one model.

use super::cloud::Cloud;
use super::common::{Dice, T0};
use super::cut::{Disk, Style, as_events, other_boot, root_of, temporary, write_image};
use super::gate::{Cut, Deadly, Gate, Left, Opened};
use super::life::{Fuse, Life, SimDisk};
use super::log::{Log, SLED};
use super::model::{Held, Model};
use super::plans::{Answer, Outcome, Plan};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tidegate_tiering::clock::{Clock, ManualClock};
use tidegate_tiering::disk::{Watch, watch};
use tidegate_tiering::engine::*;
use tidegate_tiering::recovery::RecoverySettings;
use tidegate_tiering::tier::Tier;

const POLICY: &str = "
apiVersion: tidegate/v1
kind: LifecyclePolicy
metadata: { name: simulation }
tiers:
  - name: ia
  - name: archive
rules:
  - id: down
    filter: { bucket: bkt, prefix: a/ }
    transitions:
      - { to: ia, after: 10d, since: creation }
  - id: deeper
    filter: { bucket: bkt, prefix: b/ }
    transitions:
      - { to: ia, after: 10d, since: creation }
      - { to: archive, after: 40d, since: creation }
  - id: end
    filter: { bucket: bkt, prefix: c/ }
    transitions:
      - { to: archive, after: 10d, since: creation }
    expiration: { after: 60d, since: creation }
    abortIncompleteMultipartUpload: { after: 7d }
";

/// What hot bodies are in as well, in some stories, or in some lives of them.
const PROTECT: &str = "protect: [{ bucket: bkt, to: ia, status: enabled }]
";

/// What was done, by name.
pub type Stats = BTreeMap<&'static str, u64>;

/// What went wrong, and the story up to there.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub story: Vec<String>,
}

/// A process that serves. Dropped in the order of the fields.
pub struct Process {
    engine: Option<Engine>,
    runtime: Option<tokio::runtime::Runtime>,
    pub life: Arc<Life>,
}

impl Process {
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("it runs").block_on(future)
    }

    pub fn engine(&self) -> Engine {
        self.engine.clone().expect("it is open")
    }

    /// Ends it. What its threads still do ends before this returns.
    pub fn end(&mut self) {
        self.life.die();
        self.engine = None;
        self.runtime = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A disk and what is written down of it.
pub struct Hardware {
    pub disk: Arc<SimDisk>,
    _watch: Watch,
    pub root: PathBuf,
    _dir: TempDir,
}

impl Hardware {
    pub fn new(dir: TempDir, events: Vec<super::log::Event>, life: &Arc<Life>) -> Hardware {
        let root = root_of(&dir);
        let disk = SimDisk::new(Log::new(&root, events), life);
        let watch = watch(&root, Arc::clone(&disk) as _);
        Hardware { disk, _watch: watch, root, _dir: dir }
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }
}

pub struct World {
    pub dice: Dice,
    pub clock: Arc<ManualClock>,
    pub cloud: Arc<Cloud>,
    pub settings: EngineSettings,
    pub hardware: Hardware,
    process: Option<Process>,
    pub lives: u64,
    pub model: Model,
    pub joints: Vec<(String, Held)>,
    pub story: Arc<Mutex<Vec<String>>>,
    pub stats: Stats,
    /// A disk was lost once, and objects of its last days may lie about in the cloud.
    pub recovered: bool,
    /// The record at which a recovery to an earlier moment began another branch; 0 when the last one was to the latest.
    pub branch: u64,
    /// And nothing was compared since.
    pub lost_a_disk: bool,
    /// All that was due is done: what rules take must be gone.
    pub at_rest: bool,
    /// The bucket may be given versions and a lifecycle.
    pub versions: bool,
    /// Whether bodies are protected: 0 never, 1 always, 2 in every other life.
    protects: u64,
}

fn settings(dice: &mut Dice) -> EngineSettings {
    let mut settings = EngineSettings { driven: true, ..Default::default() };
    settings.chunks.min = 512;
    settings.chunks.avg = 2048;
    settings.chunks.max = 8192;
    settings.local.pack_bytes = 64 << (10 + dice.below(2));
    settings.limits.min_part_bytes = 0;
    settings.disk.free_floor = 0;
    settings.meta.segment_bytes = 4096 << dice.below(4);
    settings.meta.fill_ahead_bytes = [0, 1000, 4096][dice.below(3) as usize];
    settings.meta.index_cache_bytes = 4 << 20;
    // Mostly by command alone; sometimes also by a thread of their own, when it likes.
    if dice.below(5) == 0 {
        settings.meta.checkpoint_bytes = 16 << 10;
        settings.meta.snapshot_bytes = 32 << 10;
    }
    let tiering = &mut settings.tiering;
    tiering.gc_interval_ms = 0;
    tiering.linger_ms = 0;
    tiering.pack_bytes = 64 << 10;
    tiering.max_group = [2, 8, 4000][dice.below(3) as usize];
    tiering.recall = if dice.below(2) == 0 { Recall::Promote } else { Recall::Stream };
    tiering.coalesce_gap = dice.below(3) * 4096;
    if dice.below(4) != 0 {
        let keep = Duration::from_secs(86_400) * [0, 7][dice.below(2) as usize];
        let snapshot_after_objects = [5, 10_000][dice.below(2) as usize];
        settings.recovery = Some(RecoverySettings { keep, snapshot_after_objects, ..RecoverySettings::to("ia") });
    }
    settings
}

/// Runs the story of a seed.
///
/// # Errors
/// What the engine did that the model does not allow.
pub fn run(seed: u64, story: &Arc<Mutex<Vec<String>>>) -> Result<Stats, Failure> {
    let mut world = World::new(seed, Arc::clone(story));
    let outcome = world.tell();
    if let Some(process) = &mut world.process {
        process.end();
    }
    let (done, failed) = world.cloud.requests();
    *world.stats.entry("requests to the cloud").or_default() += done;
    *world.stats.entry("of them failed").or_default() += failed;
    match outcome {
        Ok(()) => Ok(world.stats),
        Err(what) => Err(Failure { seed, what, story: story.lock().unwrap().clone() }),
    }
}

impl World {
    fn new(seed: u64, story: Arc<Mutex<Vec<String>>>) -> World {
        let mut dice = Dice(seed);
        let clock = Arc::new(ManualClock::new(T0));
        let (life, settings) = (Life::new(0, Fuse::Never), settings(&mut dice));
        World {
            cloud: Cloud::new(&clock, seed ^ 0xc10d),
            hardware: Hardware::new(temporary(), Vec::new(), &life),
            dice,
            clock,
            settings,
            process: None,
            lives: 0,
            model: Model::default(),
            joints: Vec::new(),
            story,
            stats: Stats::new(),
            recovered: false,
            branch: 0,
            lost_a_disk: false,
            at_rest: false,
            versions: !seed.is_multiple_of(4),
            protects: seed % 3,
        }
    }

    fn policy(&self) -> String {
        match self.protects == 1 || (self.protects == 2 && self.lives % 2 == 1) {
            true => format!("{POLICY}{PROTECT}"),
            false => POLICY.to_owned(),
        }
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.story.lock().unwrap().push(what.into());
    }

    pub fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a process runs")
    }

    pub fn engine(&self) -> Engine {
        self.process().engine()
    }

    pub fn is_dead(&self) -> bool {
        self.process.as_ref().is_none_or(|p| p.life.is_dead())
    }

    /// The process that runs, which is to be ended by whoever takes it.
    pub fn take_process(&mut self) -> Option<Process> {
        self.process.take()
    }

    /// Puts another process in its place.
    pub fn replace_process(&mut self, other: Option<Process>) -> Option<Process> {
        std::mem::replace(&mut self.process, other)
    }

    /// The last durable record; with nothing shipped nobody asks.
    pub fn seq(&self) -> u64 {
        let Ok(stats) = self.engine().stats() else { return 0 };
        let applied = stats.standby.map_or(0, |s| s.applied_sequence);
        stats.recovery.map_or(applied, |r| r.shipped_sequence + r.lag_records)
    }

    /// A life that ends by itself, more often early than late, or does not.
    fn new_life(&mut self) -> Arc<Life> {
        self.lives += 1;
        let few = |dice: &mut Dice, most| {
            let bits = dice.below(most);
            1 + dice.below(1 << bits)
        };
        let fuse = match self.dice.below(8) {
            0..=3 => Fuse::Steps(few(&mut self.dice, 11)),
            4..=5 if self.settings.recovery.is_some() => Fuse::Calls(few(&mut self.dice, 8)),
            _ => Fuse::Never,
        };
        let life = Life::new(self.lives, fuse);
        self.note(format!("life {}: {fuse:?}", self.lives));
        life
    }

    pub fn components(&self, life: &Arc<Life>) -> Components {
        let policy_text = self.policy();
        let policy = tidegate_policies::parse("policy.yaml", &policy_text).expect("the policy is right");
        let classes = [("STANDARD", "hot"), ("STANDARD_IA", "ia"), ("GLACIER", "archive")];
        Components {
            clock: Arc::clone(&self.clock) as _,
            tiers: self.tiers(life),
            classes: classes.iter().map(|(c, t)| ((*c).to_owned(), (*t).to_owned())).collect(),
            policy,
            policy_text,
            registry: prometheus::Registry::new(),
        }
    }

    pub fn tiers(&self, life: &Arc<Life>) -> BTreeMap<String, Arc<dyn Tier>> {
        ["ia", "archive"].into_iter().map(|name| (name.to_owned(), self.cloud.tier(name, life))).collect()
    }

    /// Starts an engine on a directory.
    pub fn start(&self, life: &Arc<Life>, data: &Path) -> Result<Process, EngineError> {
        self.start_with(life, self.settings.clone(), data)
    }

    /// The same, with other settings than the story's.
    pub fn start_with(&self, life: &Arc<Life>, with: EngineSettings, data: &Path) -> Result<Process, EngineError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let settings = EngineSettings { data_dir: data.to_owned(), ..with };
        let opened = runtime.block_on(Engine::open(settings, self.components(life)));
        let engine = opened?;
        // What opening began beside itself ends before the story goes on.
        runtime.block_on(engine.step(Step::Ship));
        Ok(Process { engine: Some(engine), runtime: Some(runtime), life: Arc::clone(life) })
    }

    /// Opens the store in a new process, as often as it dies of it, and compares.
    pub fn open(&mut self) -> Result<(), String> {
        loop {
            let life = self.new_life();
            self.hardware.disk.reborn(&life);
            match self.start(&life, &self.hardware.data()) {
                Ok(process) => self.process = Some(process),
                Err(_) if life.is_dead() => {
                    self.note("it died while it opened");
                    self.count("crashes");
                    self.new_disk();
                    continue;
                }
                Err(e) => return Err(format!("it does not open: {e}")),
            }
            if life.is_dead() {
                // The last steps of opening were refused, and it serves all the same: so be it.
                self.crashed()?;
                continue;
            }
            if let Some(why) = self.engine().writes_refused() {
                return Err(format!("it refuses writes: {why}"));
            }
            return self.compare();
        }
    }

    /// Ends the process if there is one, and decides what is left of the disk.
    pub fn crashed(&mut self) -> Result<(), String> {
        if let Some(mut process) = self.process.take() {
            let (steps, calls) = process.life.counts();
            self.note(format!("life {} ends after {steps} steps and {calls} requests", process.life.number));
            self.model.shipped = self.model.shipped.max(shipped(&process.engine()));
            process.end();
        }
        self.count("crashes");
        if let Some(violation) = self.cloud.violations().first() {
            return Err(violation.clone());
        }
        self.new_disk();
        Ok(())
    }

    /// The process was killed, and the next finds what the system had in its cache; or the power was cut.
    fn new_disk(&mut self) {
        let log = &self.hardware.disk.log;
        let disk = Disk::after(&log.events());
        let data = self.hardware.data();
        if self.dice.below(2) == 0 {
            let index = self.dice.below(3);
            if index > 0 && data.exists() {
                // What sled had in memory, or all of it, is gone.
                let _ = std::fs::remove_dir_all(self.hardware.root.join(SLED));
                if index == 1 {
                    write_image(&self.hardware.root, &[("data".to_owned(), None)].into(), disk.index_seen());
                }
            }
            self.note(format!("killed; the index is {}", ["as it is", "as it was", "gone"][index as usize]));
            self.count("kills");
            return;
        }
        let styles = [Style::Nothing, Style::NamesOnly, Style::ContentOnly, Style::Nearly, Style::Any, Style::Any];
        let style = styles[self.dice.below(styles.len() as u64) as usize];
        // Dice of their own: how often they are thrown depends on sizes and names, which are not all the seed's.
        let mut dice = Dice(self.dice.roll());
        let mut image = disk.image(&mut dice, style);
        other_boot(&mut image);
        let sled = disk.index(&mut dice);
        let dir = temporary();
        write_image(&root_of(&dir), &image, &sled);
        let life = Life::new(0, Fuse::Never);
        let mut events = as_events(&image);
        events.push(super::log::Event::Index { durable: true, files: Arc::new(sled) });
        self.hardware = Hardware::new(dir, events, &life);
        self.note(format!("the power was cut: {style:?}"));
        self.count("power cuts");
    }

    /// Runs operations side by side, with `beside` if there is any. With `cut` they do not all end.
    pub fn perform(
        &mut self,
        plans: Vec<Plan>,
        beside: Option<BoxFuture<'static, Result<(), EngineError>>>,
        cut: Option<Cut>,
    ) -> Result<(), String> {
        let from = self.seq();
        let mut known = Vec::new();
        let mut runs = Vec::new();
        for mut plan in plans {
            let run = std::mem::replace(&mut plan.run, Box::pin(async { Ok(Answer::Refused) }));
            let told: Arc<Mutex<Option<Outcome>>> = Arc::default();
            let tell = Arc::clone(&told);
            runs.push(async move {
                let outcome = run.await;
                *tell.lock().unwrap() = Some(outcome);
            });
            known.push((plan, told));
        }
        let all = async move {
            let beside = async { if let Some(work) = beside { work.await } else { Ok(()) } };
            futures::future::join(futures::future::join_all(runs), beside).await.1
        };
        let life = Arc::clone(&self.process().life);
        let done = match cut {
            None => Some(self.process().run(all)),
            Some(Cut::Dies(nth)) => {
                let _deadly = Deadly::at(nth, &life);
                Some(self.process().run(all))
            }
            Some(Cut::Leaves(place)) => {
                let opened = Opened(Gate::at(place, 1));
                let all = Left { inner: Box::pin(all), gate: Arc::clone(&opened.0) };
                self.process().run(all)
            }
        };
        let to = self.seq();
        for (plan, told) in known {
            let outcome = told.lock().unwrap().take();
            self.take_in(&plan, outcome, (from, to))?;
        }
        self.model.marks.push((to, self.clock.now()));
        match done {
            Some(Err(e)) if !life.is_dead() => Err(format!("beside: {e}")),
            _ => Ok(()),
        }
    }

    /// What an operation came to, for the model; none when it was cut short.
    fn take_in(&mut self, plan: &Plan, outcome: Option<Outcome>, (from, to): (u64, u64)) -> Result<(), String> {
        let (dead, calm) = (self.is_dead(), self.cloud.is_calm());
        let text = &plan.text;
        match outcome {
            Some(Ok(answer)) => {
                plan.judge(&answer)?;
                let id = if let Answer::Upload(id) = &answer { Some(id.as_str()) } else { None };
                for effect in plan.changes(&answer) {
                    self.model.apply(&effect, (from, to), id);
                }
                self.note(format!("{text}: {}", brief(&answer)));
            }
            Some(Err(e)) if !dead && !plan.tolerates(&e, calm) => return Err(format!("{text}: {e}")),
            Some(Err(_)) if !dead => self.note(format!("{text}: refused by the cloud")),
            _ => {
                plan.effects.iter().for_each(|effect| self.model.doubt(effect, from));
                self.note(format!("{text}: cut short"));
            }
        }
        Ok(())
    }
}

/// The last record that a store knows to be in the cloud.
pub fn shipped(engine: &Engine) -> u64 {
    engine.stats().ok().and_then(|s| s.recovery).map_or(0, |r| r.shipped_sequence)
}

fn brief(answer: &Answer) -> String {
    match answer {
        Answer::Bytes(bytes) => format!("{} bytes", bytes.len()),
        // Ids are not the seed's, nor are ETags of what is encrypted.
        Answer::Upload(_) => "an id".to_owned(),
        Answer::Wrote(..) => "written".to_owned(),
        Answer::Marked(_) => "a delete marker".to_owned(),
        other => format!("{other:?}"),
    }
}
