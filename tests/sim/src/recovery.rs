//! The disk is gone: what the cloud has makes a new one. And the old one wakes up, and must not write.

use super::cloud::weather;
use super::cut::{Image, as_events, root_of, temporary};
use super::life::{Dropped, Fuse, Life};
use super::log::{Event, Files};
use super::plans::BUCKET;
use super::world::{Hardware, Process, World, shipped};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_tiering::clock::{Clock, Timestamp};
use tidegate_tiering::engine::{Residency, Step, VersionId};
use tidegate_tiering::recovery::{RecoverReport, RecoverRequest, RecoveryError, recover};

/// How often a recovery is tried in bad weather.
const TRIES: u64 = 200;

/// Everything in a directory: what a recovery made is durable. sled's files apart.
fn whole(root: &Path) -> (Image, Files) {
    fn add(dir: &Path, below: &str, image: &mut Image) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                image.insert(name.clone(), None);
                add(&entry.path(), &format!("{name}/"), image);
            } else if !name.ends_with("/lock") {
                image.insert(name, std::fs::read(entry.path()).ok());
            }
        }
    }
    let mut image = Image::new();
    add(root, "", &mut image);
    let sled = image.extract_if("data/sled".to_owned().., |name, _| name.starts_with("data/sled"));
    let files = sled.filter_map(|(name, bytes)| Some((name.strip_prefix("data/sled/")?.to_owned(), Arc::new(bytes?))));
    let files = files.collect();
    (image, files)
}

/// Key and id of versions whose bytes are gone.
pub type Missing = BTreeSet<(String, String)>;

/// Whether a version is one of them; one whose id is not known may be any of its key.
pub fn is_among(missing: &Missing, key: &str, id: Option<VersionId>) -> bool {
    match id {
        Some(id) => missing.contains(&(key.to_owned(), id.to_string())),
        None => missing.iter().any(|(its, _)| its == key),
    }
}

impl World {
    /// Another box takes over while the old one still runs.
    pub fn lose_disk_of_a_running_store(&mut self) -> Result<(), String> {
        self.model.shipped = self.model.shipped.max(shipped(&self.engine()));
        if self.settings.recovery.is_none() || self.model.shipped <= self.branch {
            return Ok(());
        }
        let old = self.take_process();
        self.lose_disk(old)
    }

    /// Recovers into a new directory, opens it, compares, and wakes the old one up.
    pub fn lose_disk(&mut self, running: Option<Process>) -> Result<(), String> {
        self.count("recoveries");
        let keep = self.settings.recovery.as_ref().map_or(Duration::ZERO, |r| r.keep);
        let at = (!keep.is_zero() && self.dice.below(3) == 0).then(|| self.some_moment(keep)).flatten();
        self.note(format!("the disk is lost; what was shipped up to {at:?} comes back"));
        let dir = temporary();
        let (report, missing) = self.recover_into(&root_of(&dir).join("data"), at)?;
        self.note(format!(
            "record {} is the last, {} was known to be shipped",
            report.last_sequence, self.model.shipped
        ));
        self.check_position(&report, at)?;
        self.model.rewind(report.last_sequence);
        self.model.lose(|key, id| is_among(&missing, key, id));
        // Until the new branch has shipped something, the old one is the latest there is.
        self.branch = if at.is_some() { report.last_sequence } else { 0 };
        (self.recovered, self.lost_a_disk) = (true, true);
        let old = self.move_to(dir);
        self.open()?;
        self.only_hot_bytes_are_lost(&missing)?;
        self.wake_up(old, running)
    }

    /// Another box with what was made there, which is durable; the old one is returned.
    pub fn move_to(&mut self, dir: TempDir) -> Hardware {
        let (image, sled) = whole(&root_of(&dir));
        let mut events = as_events(&image);
        events.push(Event::Index { durable: true, files: Arc::new(sled) });
        let life = Life::new(0, Fuse::Never);
        std::mem::replace(&mut self.hardware, Hardware::new(dir, events, &life))
    }

    /// What was in a tier comes back, restored copies included.
    pub fn only_hot_bytes_are_lost(&self, missing: &Missing) -> Result<(), String> {
        for (key, _, version) in self.model.versions() {
            if !version.id.is_some_and(|id| is_among(missing, key, Some(id))) {
                continue;
            }
            let Ok(handle) = self.engine().open_version(BUCKET, key, version.named()) else { continue };
            if handle.info().residency != Residency::Hot {
                return Err(format!("{key} was in a tier and is missing: {:?}", handle.info().residency));
            }
        }
        Ok(())
    }

    /// A moment that can be recovered.
    fn some_moment(&mut self, keep: Duration) -> Option<Timestamp> {
        let earliest = Timestamp(self.clock.now().millis().saturating_sub(keep.as_millis() as u64));
        let shipped = self.model.shipped;
        let marks: Vec<_> =
            self.model.marks.iter().filter(|(seq, at)| *seq <= shipped && *seq > 0 && *at > earliest).collect();
        marks.get(self.dice.below(marks.len() as u64) as usize).map(|(_, at)| *at)
    }

    fn recover_into(&mut self, to: &Path, at: Option<Timestamp>) -> Result<(RecoverReport, Missing), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|e| e.to_string())?;
        self.lives += 1;
        let life = Life::new(self.lives, Fuse::Never);
        let tiers = self.tiers(&life);
        let request = RecoverRequest {
            from: "ia".into(),
            tiers: &tiers,
            deployment: None,
            data_dir: to.to_owned(),
            at,
            dry_run: false,
            settings: self.settings.meta.clone(),
            clock: Arc::clone(&self.clock) as _,
        };
        // Half of them in bad weather, or cut short and begun again.
        let bad = self.dice.below(2) == 0;
        let before = self.cloud.set_weather(if bad { weather(60, 0) } else { 0 });
        for n in 0..TRIES {
            let mut missing = Missing::new();
            let mut told = |object: &tidegate_tiering::recovery::MissingObject| {
                missing.insert((object.key.clone(), object.version.clone()));
            };
            let mut silent = |_| {};
            let left = (bad && self.dice.below(2) == 0).then(|| self.dice.below(60));
            let work = Dropped { inner: Box::pin(recover(&request, &mut silent, &mut told)), left };
            match runtime.block_on(work) {
                Some(Ok(report)) => {
                    self.cloud.set_weather(before);
                    return Ok((report, missing));
                }
                None => {}
                Some(Err(RecoveryError::Tier(_) | RecoveryError::Packs(..) | RecoveryError::Damaged(_))) if bad => {}
                Some(Err(e)) => {
                    let there = self.cloud.names("meta/");
                    return Err(format!("a recovery fails in try {n}: {e}; there is {there:#?}"));
                }
            }
            if n == TRIES / 2 {
                self.cloud.set_weather(0);
            }
        }
        Err("a recovery does not get on".to_owned())
    }

    /// Not less than was known to be shipped, and not more than was asked for.
    fn check_position(&self, report: &RecoverReport, at: Option<Timestamp>) -> Result<(), String> {
        let (last, shipped) = (report.last_sequence, self.model.shipped);
        let marks = || self.model.marks.iter().filter(|(seq, _)| *seq > 0);
        let least = match at {
            None => shipped,
            Some(at) => marks().filter(|(seq, t)| *t <= at && *seq <= shipped).map(|(seq, _)| *seq).max().unwrap_or(0),
        };
        if last < least {
            return Err(format!("record {least} was shipped, and the recovery ends at {last}"));
        }
        Ok(())
    }

    /// Whoever was replaced writes nothing to the cloud any more, whether it still runs or is started again.
    pub fn wake_up(&mut self, old: Hardware, running: Option<Process>) -> Result<(), String> {
        let weather = self.cloud.set_weather(0);
        let owner = self.cloud.owner();
        let process = match running {
            Some(process) => process,
            None => {
                self.lives += 1;
                let life = Life::new(self.lives, Fuse::Never);
                old.disk.reborn(&life);
                match self.start(&life, &old.data()) {
                    Ok(process) => process,
                    // After a power cut in its first moments it may be no store yet.
                    Err(e) => return Err(format!("the old store does not open: {e}")),
                }
            }
        };
        process.life.hold(true);
        let was_dead = process.life.is_dead();
        let engine = process.engine();
        process.run(async {
            // It may still take it; it is lost then.
            let _ = super::common::put(&engine, "late", b"late").await;
            for step in [Step::Schedule, Step::Ship, Step::Schedule] {
                engine.step(step).await;
            }
        });
        let fenced = engine.writes_refused();
        drop(engine);
        drop(process);
        drop(old);
        self.cloud.set_weather(weather);
        if fenced.is_none() && !was_dead {
            return Err("the store that was replaced does not know it".to_owned());
        }
        if self.cloud.owner() != owner {
            return Err("the store that was replaced has claimed the next term".to_owned());
        }
        self.cloud.violations().first().map_or(Ok(()), |violation| Err(violation.clone()))
    }
}
