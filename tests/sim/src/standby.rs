//! Another box follows what is shipped, is compared with what the model says of its last record, is killed now and then, and takes over.

use super::body::open;
use super::common::read;
use super::cut::{root_of, temporary};
use super::gate::Deadly;
use super::life::{Fuse, Life};
use super::recovery::{Missing, is_among};
use super::world::{Process, World, shipped};
use futures::FutureExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_tiering::engine::{EngineError, EngineSettings, FollowEnd, Residency, Step};
use tidegate_tiering::recovery::{
    RecoveryError, StandbyPhase, StandbyRequest, StandbySettings, finish_promotion, prepare_standby, restart_standby,
};

/// How often something is tried that a kill or the weather may prevent.
const TRIES: u64 = 100;
/// Looks until a gap in what was shipped makes a standby start over, and some more.
const LOOKS: u64 = 40;

/// What becomes of a life of a standby.
enum Came<T> {
    To(T),
    /// It was killed, or the cloud did not answer.
    Nothing,
}

impl World {
    /// A standby is made, follows for a while, and mostly becomes the primary.
    pub fn stand_by(&mut self) -> Result<(), String> {
        self.model.shipped = self.model.shipped.max(shipped(&self.engine()));
        if self.settings.recovery.is_none() || self.model.shipped <= self.branch {
            return Ok(());
        }
        let dir = temporary();
        let mut reader = None;
        for _ in 0..1 + self.dice.below(3) {
            reader = Some(self.followed(&dir, reader)?);
            if self.dice.below(2) == 0 {
                self.note("the standby is killed");
                reader = None;
            }
            self.several()?;
            if self.is_dead() {
                break;
            }
            let which = self.dice_of(&[0, 1, 1, 4]);
            let work = self.work(which);
            self.perform(Vec::new(), Some(work), None)?;
            if self.is_dead() {
                break;
            }
        }
        drop(reader);
        if self.dice.below(4) == 0 { Ok(()) } else { self.promote(dir) }
    }

    fn dice_of(&mut self, of: &[usize]) -> usize {
        of[self.dice.below(of.len() as u64) as usize]
    }

    fn standby_data(dir: &TempDir) -> std::path::PathBuf {
        root_of(dir).join("data")
    }

    /// Prepares the directory and opens it, if the process lives so long. None where only a primary can come of it.
    fn open_standby(&mut self, data: &Path, life: &Arc<Life>) -> Result<Came<(StandbyPhase, Option<Process>)>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|e| e.to_string())?;
        let tiers = self.tiers(life);
        let request = StandbyRequest {
            from: "ia".into(),
            tiers: &tiers,
            deployment: None,
            data_dir: data.to_owned(),
            settings: self.settings.meta.clone(),
            clock: Arc::clone(&self.clock) as _,
        };
        let excused = life.is_dead() || !self.cloud.is_calm();
        let prepared = match runtime.block_on(prepare_standby(&request, &mut |_| {})) {
            Ok(prepared) => prepared,
            Err(_) if life.is_dead() => return Ok(Came::Nothing),
            Err(RecoveryError::Tier(_) | RecoveryError::Packs(..) | RecoveryError::Damaged(_)) if excused => {
                return Ok(Came::Nothing);
            }
            Err(e) => return Err(format!("a standby is not prepared: {e}")),
        };
        if prepared.phase == StandbyPhase::Finishing {
            return Ok(Came::To((prepared.phase, None)));
        }
        let (poll, warn_after) = (Duration::from_secs(1), Duration::from_secs(30));
        let standby = Some(StandbySettings { from: "ia".into(), poll, warn_after });
        let settings = EngineSettings { standby, ..self.settings.clone() };
        match self.start_with(life, settings, data) {
            Ok(process) => Ok(Came::To((prepared.phase, Some(process)))),
            Err(_) if life.is_dead() => Ok(Came::Nothing),
            Err(e) => Err(format!("a standby does not open: {e}")),
        }
    }

    /// A life of a standby, which may end by itself.
    fn standby_life(&mut self, may_end: bool) -> Arc<Life> {
        self.lives += 1;
        let fuse = if may_end && self.dice.below(3) == 0 { Fuse::Calls(1 + self.dice.below(40)) } else { Fuse::Never };
        Life::new(self.lives, fuse)
    }

    /// A standby that has all that is shipped, and shows it.
    fn followed(&mut self, dir: &TempDir, mut open: Option<Process>) -> Result<Process, String> {
        self.count("looks of a standby");
        let data = Self::standby_data(dir);
        let mut looks = 0;
        for n in 0..TRIES {
            let weather = if n > TRIES / 2 { self.cloud.set_weather(0) } else { 0 };
            let reader = match open.take() {
                Some(reader) => reader,
                None => {
                    let life = self.standby_life(n < TRIES / 2);
                    match self.open_standby(&data, &life)? {
                        Came::To((_, Some(reader))) => reader,
                        Came::To((phase, None)) => return Err(format!("a standby that nobody promoted is {phase:?}")),
                        Came::Nothing => continue,
                    }
                }
            };
            let engine = reader.engine();
            while !reader.life.is_dead() && looks < LOOKS * (n + 1) {
                looks += 1;
                if reader.run(engine.step(Step::Follow)) && !reader.life.is_dead() {
                    drop(engine);
                    return self.compare_standby(reader);
                }
                if let Some(FollowEnd::StartOver(why)) = reader.run(async { engine.follow_ended().now_or_never() }) {
                    self.note(format!("the standby starts over: {why}"));
                    self.count("standbys that start over");
                    drop(engine);
                    drop(reader);
                    restart_standby(&data, self.clock.as_ref()).map_err(|e| format!("starting over: {e}"))?;
                    break;
                }
            }
            if weather != 0 {
                self.cloud.set_weather(weather);
            }
        }
        Err("a standby does not get on".to_owned())
    }

    /// It shows what there was at its last record. Bytes may be on the primary's disk alone.
    fn compare_standby(&mut self, reader: Process) -> Result<Process, String> {
        let stats = reader.engine().stats().map_err(|e| e.to_string())?;
        let applied = stats.standby.map_or(0, |s| s.applied_sequence);
        self.note(format!("the standby has record {applied}; {} was known to be shipped", self.model.shipped));
        if applied < self.model.shipped {
            return Err(format!("a standby has all that is shipped, and ends at {applied}"));
        }
        let mut model = self.model.clone();
        model.rewind(applied);
        model.lose(|_, _| true);
        std::mem::swap(&mut self.model, &mut model);
        let (recovered, lost_a_disk) = (self.recovered, self.lost_a_disk);
        (self.recovered, self.lost_a_disk) = (true, true);
        let primary = self.replace_process(Some(reader));
        let compared = self.compare();
        let reader = self.replace_process(primary);
        (self.recovered, self.lost_a_disk) = (recovered, lost_a_disk);
        std::mem::swap(&mut self.model, &mut model);
        compared.map_err(|e| format!("a standby at record {applied}: {e}"))?;
        reader.ok_or_else(|| "the standby is gone".to_owned())
    }

    /// The standby takes over, and the primary, which may be alive, must notice.
    fn promote(&mut self, dir: TempDir) -> Result<(), String> {
        let mut running = None;
        if self.is_dead() {
            self.crashed()?;
        } else {
            self.model.shipped = self.model.shipped.max(shipped(&self.engine()));
            running = self.take_process().filter(|_| self.dice.below(2) == 0);
        }
        self.count("promotions");
        let weather = self.cloud.set_weather(0);
        let last = self.promoted(&Self::standby_data(&dir))?;
        self.note(format!("the standby is promoted at record {last}; {} was known to be shipped", self.model.shipped));
        if last < self.model.shipped {
            return Err(format!("record {} was shipped, and the promotion ends at {last}", self.model.shipped));
        }
        self.model.rewind(last);
        self.model.lose(|_, _| true);
        self.branch = 0;
        (self.recovered, self.lost_a_disk) = (true, true);
        let old = self.move_to(dir);
        self.open()?;
        self.examined()?;
        let missing = self.unreadable()?;
        self.cloud.set_weather(weather);
        self.only_hot_bytes_are_lost(&missing)?;
        self.model.lose(|key, id| is_among(&missing, key, id));
        self.wake_up(old, running)
    }

    /// Until it was looked which bytes came over, restored copies of the primary are shown that are nowhere. The look may be killed.
    fn examined(&mut self) -> Result<(), String> {
        for _ in 0..TRIES {
            let path = self.hardware.data().join("promoted.json");
            let says = std::fs::read_to_string(path).map_err(|e| format!("promoted.json: {e}"))?;
            if !says.contains("\"examined\": null") {
                return Ok(());
            }
            self.note("nobody has looked yet which bytes came over");
            if self.is_dead() {
                self.crashed()?;
                self.open()?;
            } else {
                self.restart()?;
            }
        }
        Err("what came over is never looked at".to_owned())
    }

    /// Makes a closed directory a primary's, however often the process is killed over it. The record at which it begins.
    fn promoted(&mut self, data: &Path) -> Result<u64, String> {
        for n in 0..TRIES {
            let life = self.standby_life(n < TRIES / 2);
            let (phase, reader) = match self.open_standby(data, &life)? {
                Came::To(found) => found,
                Came::Nothing => {
                    self.note("the promotion does not open");
                    continue;
                }
            };
            if let Some(reader) = reader {
                let deadly = n < TRIES / 2 && self.dice.below(2) == 0;
                let nth = deadly.then(|| 1 + self.dice.below(6));
                if self.ask_to_promote(reader, phase == StandbyPhase::Promoting, nth)? {
                    restart_standby(data, self.clock.as_ref()).map_err(|e| format!("starting over: {e}"))?;
                }
                continue;
            }
            return match finish_promotion(data, self.clock.as_ref()) {
                Ok(promoted) => Ok(promoted.last_sequence),
                Err(e) => Err(format!("a promotion is not finished: {e}")),
            };
        }
        Err("a promotion does not get on".to_owned())
    }

    /// Asks a standby to take over; it may be killed at the nth named place. True when it is to start over instead.
    fn ask_to_promote(&mut self, reader: Process, resume: bool, nth: Option<u64>) -> Result<bool, String> {
        let (engine, life) = (reader.engine(), Arc::clone(&reader.life));
        let _deadly = nth.map(|nth| Deadly::at(nth, &life));
        // After a kill nobody waits for a cloud that does not answer.
        let killed = async {
            while !life.is_dead() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let asked = reader.run(async {
            tokio::select! {
                answer = engine.promote(resume) => Some(answer),
                () = killed => None,
            }
        });
        match asked {
            _ if life.is_dead() => {
                self.note(format!("the promotion is cut short: {asked:?}"));
                self.count("promotions that are cut short");
            }
            // After a kill before the claim it stays a standby, and is asked again.
            Some(Err(EngineError::InvalidArgument(e))) if resume => self.note(e),
            Some(Err(e)) => match reader.run(async { engine.follow_ended().now_or_never() }) {
                Some(FollowEnd::StartOver(why)) => {
                    self.note(format!("the standby is to start over: {why}"));
                    return Ok(true);
                }
                _ => return Err(format!("a promotion fails: {e}")),
            },
            _ => self.note("the promotion is decided"),
        }
        Ok(false)
    }

    /// Objects whose bytes are not there, or only once another object with these is restored.
    fn unreadable(&mut self) -> Result<Missing, String> {
        let weather = self.cloud.set_weather(0);
        self.process().life.hold(true);
        let engine = self.engine();
        let all = self.model.versions().map(|(key, _, version)| (key.to_owned(), version.named()));
        let all: Vec<_> = all.collect();
        let look = async {
            let mut missing = Missing::new();
            for (key, version) in all {
                let Ok(handle) = open(&engine, &key, version) else { continue };
                let info = handle.info().clone();
                let bytes = match handle.read(0..info.size).await {
                    Ok(stream) => read(stream).await,
                    Err(e) => Err(e),
                };
                let frozen = matches!(&bytes, Err(EngineError::Tier { .. })) && info.residency == Residency::Hot;
                if frozen || matches!(&bytes, Err(EngineError::Corrupt(_))) {
                    missing.insert((key, info.version.to_string()));
                }
            }
            missing
        };
        let missing = self.process().run(look);
        self.process().life.hold(false);
        self.cloud.set_weather(weather);
        Ok(missing)
    }
}
