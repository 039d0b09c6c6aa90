//! The data directory of a standby: made from the cloud as a recovery makes one, but without a claim; set aside and made
//! anew when what it holds is not the history any more; made of a fenced primary's; and turned into a primary's.
//!
//! `standby.json` says which step it is in. Each step can be done again, so that a crash anywhere does no harm.

use super::claim::{Claimant, held_term, note_base};
use super::directory::{FETCHED, FINISHED, MISSING, UNFINISHED, place};
use super::plan::{Moment, Shipped};
use super::recover::Work;
use super::{RecoverProgress, RecoverRequest, RecoveryError, local, lost, read_json, write_file, write_json};
use crate::clock::{Clock, Timestamp};
use crate::failpoint;
use crate::journal::sync_dir;
use crate::meta::lock::DataLock;
use crate::meta::{self, MetaSettings};
use crate::tier::Tier;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file in the data directory of a standby.
pub const STANDBY: &str = "standby.json";
/// The file in one that was promoted: what came of it.
pub(crate) const PROMOTED: &str = "promoted.json";
/// The list of what is missing after a promotion, an object a line.
pub(crate) const PROMOTED_MISSING: &str = "promoted-missing.jsonl";
const VERSION: u32 = 1;

/// What the namespace of a directory is made of.
const NAMESPACE: [&str; 5] = ["index.json", "journal", "snapshots", "sled", "term.json"];
/// What else tells of a directory's past.
const PAST: [&str; 5] = [FINISHED, MISSING, PROMOTED, PROMOTED_MISSING, lost::FILE];

/// What to follow, and where.
pub struct StandbyRequest<'a> {
    /// The name of the tier that the namespace is shipped to.
    pub from: String,
    /// All configured tiers.
    pub tiers: &'a BTreeMap<String, Arc<dyn Tier>>,
    /// Which deployment, where the tier has several.
    pub deployment: Option<String>,
    /// The standby's directory: one to make, one of a standby, or one of a primary that is fenced.
    pub data_dir: PathBuf,
    /// Settings of the namespace.
    pub settings: MetaSettings,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// In which step a standby is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyPhase {
    /// What is here is not the history (any more) and is put into a folder of its own.
    SettingAside,
    /// The namespace is fetched.
    Fetching,
    /// It follows.
    Following,
    /// A promotion was asked for; the claim may have been made.
    Promoting,
    /// The claim is made and the last record decided: only a primary can come of it.
    Finishing,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub version: u32,
    pub from: String,
    pub deployment: String,
    pub phase: StandbyPhase,
    /// The folder that what was here is put into.
    pub aside: Option<String>,
    /// What was here was a primary's, whose clients may have been promised what the new history has not.
    pub rejoined: bool,
    /// The last record before those of its own, once it is decided.
    pub last: Option<u64>,
}

impl State {
    pub(crate) fn load(dir: &Path) -> Result<Option<State>, RecoveryError> {
        read_json(&dir.join(STANDBY))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), RecoveryError> {
        write_json(&dir.join(STANDBY), self)
    }

    fn enter(&mut self, dir: &Path, phase: StandbyPhase) -> Result<(), RecoveryError> {
        self.phase = phase;
        self.save(dir)
    }
}

/// A directory that is ready to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// [`StandbyPhase::Following`], [`StandbyPhase::Promoting`] or [`StandbyPhase::Finishing`].
    pub phase: StandbyPhase,
    /// What became of the primary that it was, when that happened just now.
    pub rejoined: Option<Rejoined>,
}

/// What became of a primary's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoined {
    /// Where its namespace was put.
    pub aside: PathBuf,
    /// Changes that were acknowledged there and are not in the history.
    pub lost: u64,
    /// The file that lists them.
    pub list: Option<PathBuf>,
    /// False when the old journal did not go back far enough to list all.
    pub complete: bool,
}

/// What a promotion left to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// Of this file.
    pub version: u32,
    /// The term that was claimed.
    pub term: u64,
    /// The last record that came from the primary before.
    pub last_sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What was looked at since, once that is done.
    pub examined: Option<super::Examined>,
}

impl Promoted {
    pub(crate) fn load(dir: &Path) -> Result<Option<Promoted>, RecoveryError> {
        read_json(&dir.join(PROMOTED))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), RecoveryError> {
        write_json(&dir.join(PROMOTED), self)
    }
}

/// Makes the directory one that a standby can be opened in. Blocks the thread at times.
///
/// # Errors
/// What the tier or the disk says; [`RecoveryError::Refused`] when the directory is a primary's that may still write, or
/// somebody else's, or when nothing was shipped.
pub async fn prepare(
    request: &StandbyRequest<'_>,
    progress: &mut dyn FnMut(RecoverProgress),
) -> Result<Prepared, RecoveryError> {
    let tier = request.tiers.get(&request.from).ok_or_else(|| {
        let known: Vec<&str> = request.tiers.keys().map(String::as_str).collect();
        RecoveryError::Refused(format!("there is no tier {:?}; configured: {}", request.from, known.join(", ")))
    })?;
    let as_recovery = RecoverRequest {
        from: request.from.clone(),
        tiers: request.tiers,
        deployment: request.deployment.clone(),
        data_dir: request.data_dir.clone(),
        at: None,
        dry_run: false,
        settings: request.settings.clone(),
        clock: Arc::clone(&request.clock),
    };
    let making = Making { request, tier: tier.as_ref(), work: Work { request: &as_recovery, tier: tier.as_ref() } };
    let mut state = making.begin().await?;
    making.make(&mut state, progress).await
}

/// Notes that a standby's namespace is to be set aside and fetched anew; [`prepare`] does it.
///
/// # Errors
/// A failure of the disk.
pub fn start_over(data_dir: &Path, clock: &dyn Clock) -> Result<(), RecoveryError> {
    let mut state = following(data_dir)?;
    state.aside = Some(aside_name(clock.now()));
    state.rejoined = false;
    state.enter(data_dir, StandbyPhase::SettingAside)
}

/// Makes the directory of a standby whose promotion is decided an ordinary one. The standby must be closed.
///
/// # Errors
/// A failure of the disk.
pub fn finish(data_dir: &Path, clock: &dyn Clock) -> Result<Promoted, RecoveryError> {
    let state = following(data_dir)?;
    let (StandbyPhase::Finishing, Some(last)) = (state.phase, state.last) else {
        return Err(RecoveryError::Refused("no promotion was decided here".to_owned()));
    };
    let term = held_term(data_dir)?;
    let last_sequence = note_base(data_dir, term, last)?;
    failpoint::hit("promote.after_base");
    let promoted = Promoted { version: VERSION, term, last_sequence, at: clock.now(), examined: None };
    promoted.save(data_dir)?;
    failpoint::hit("promote.before_end");
    let file = data_dir.join(STANDBY);
    std::fs::remove_file(&file).map_err(|e| local("remove", &file, &e))?;
    sync_dir(data_dir)?;
    Ok(promoted)
}

fn following(data_dir: &Path) -> Result<State, RecoveryError> {
    State::load(data_dir)?
        .ok_or_else(|| RecoveryError::Refused(format!("{} is no standby's directory", data_dir.display())))
}

fn aside_name(now: Timestamp) -> String {
    format!("aside-{:013}", now.millis())
}

struct Making<'a> {
    request: &'a StandbyRequest<'a>,
    tier: &'a dyn Tier,
    work: Work<'a>,
}

impl Making<'_> {
    /// What is there, or what is to be made of it.
    async fn begin(&self) -> Result<State, RecoveryError> {
        let dir = &self.request.data_dir;
        if let Some(mut state) = State::load(dir)? {
            let named = self.request.deployment.as_ref().unwrap_or(&state.deployment);
            if *named != state.deployment {
                return Err(RecoveryError::Refused(format!(
                    "{} follows deployment {}, not {named}: name another directory",
                    dir.display(),
                    state.deployment
                )));
            }
            state.from.clone_from(&self.request.from);
            return Ok(state);
        }
        if dir.join(UNFINISHED).exists() {
            let what = "has a recovery that is not finished: run `tidegate recover` again, or name another directory";
            return Err(RecoveryError::Refused(format!("{} {what}", dir.display())));
        }
        let used = dir.join("journal").exists() || dir.join("term.json").exists();
        let deployment = match (&self.request.deployment, used) {
            (Some(named), false) => self.work.named(named).await?,
            (None, false) => self.work.only_deployment().await?,
            (_, true) => self.fenced().await?,
        };
        std::fs::create_dir_all(dir).map_err(|e| local("create", dir, &e))?;
        let (phase, aside) = match used {
            true => (StandbyPhase::SettingAside, Some(aside_name(self.request.clock.now()))),
            false => (StandbyPhase::Fetching, None),
        };
        let from = self.request.from.clone();
        let state = State { version: VERSION, from, deployment, phase, aside, rejoined: used, last: None };
        let _lock = DataLock::take(dir, self.request.clock.as_ref())?;
        state.save(dir)?;
        failpoint::hit("standby.after_begin");
        Ok(state)
    }

    /// The deployment of a directory that was a primary's, if another store has taken its place.
    async fn fenced(&self) -> Result<String, RecoveryError> {
        let dir = &self.request.data_dir;
        let file = dir.join("deployment");
        let text = std::fs::read_to_string(&file).map_err(|e| local("read", &file, &e))?;
        let deployment = text.trim().to_owned();
        if self.request.deployment.as_ref().is_some_and(|named| *named != deployment) {
            return Err(RecoveryError::Refused(format!("{} is of deployment {deployment}", dir.display())));
        }
        let claimant = self.claimant(&deployment);
        let refused = match claimant.holds_last().await? {
            Some(false) => return Ok(deployment),
            Some(true) => {
                "is the primary's: its claim is the last one in the tier. Promote another standby first, or serve from it"
            }
            None => "has data, and nobody has claimed its deployment in that tier: it cannot follow there",
        };
        Err(RecoveryError::Refused(format!("{} {refused}", dir.display())))
    }

    fn claimant<'b>(&'b self, deployment: &'b str) -> Claimant<'b> {
        let (data_dir, clock) = (self.request.data_dir.as_path(), self.request.clock.as_ref());
        Claimant { tier: self.tier, deployment, data_dir, clock, by: "promote" }
    }

    async fn make(
        &self,
        state: &mut State,
        progress: &mut dyn FnMut(RecoverProgress),
    ) -> Result<Prepared, RecoveryError> {
        let dir = &self.request.data_dir;
        let mut rejoined = None;
        if state.phase == StandbyPhase::SettingAside {
            let _lock = DataLock::take(dir, self.request.clock.as_ref())?;
            set_aside(dir, state)?;
            state.enter(dir, StandbyPhase::Fetching)?;
        }
        if state.phase == StandbyPhase::Fetching {
            self.fetch(state, progress).await?;
            rejoined = self.old_history(state).await?;
            let gone = state.aside.take_if(|_| !state.rejoined);
            state.enter(dir, StandbyPhase::Following)?;
            // Nobody was promised anything by a standby.
            if let Some(aside) = gone.map(|name| dir.join(name)).filter(|aside| aside.exists()) {
                std::fs::remove_dir_all(&aside).map_err(|e| local("remove", &aside, &e))?;
            }
        }
        Ok(Prepared { phase: state.phase, rejoined })
    }

    async fn fetch(&self, state: &State, progress: &mut dyn FnMut(RecoverProgress)) -> Result<(), RecoveryError> {
        let dir = &self.request.data_dir;
        let fetched = dir.join(FETCHED);
        if !dir.join("journal").exists() {
            // Of an earlier attempt, which may have planned for what was history then. Snapshots come before the journal.
            for old in [&fetched, &dir.join("snapshots")] {
                if old.exists() {
                    std::fs::remove_dir_all(old).map_err(|e| local("remove", old, &e))?;
                }
            }
            let mut shipped = Shipped::read(self.tier, &state.deployment).await?;
            let (_, notes) = self.work.fetch(dir, &mut shipped, Moment::Latest, progress).await?;
            for note in notes {
                tracing::warn!("{note}");
            }
            failpoint::hit("standby.after_fetch");
            place(dir, &dir.join(FETCHED))?;
            failpoint::hit("standby.after_place");
        }
        write_file(&dir.join("deployment"), state.deployment.as_bytes())?;
        let clock = self.request.clock.as_ref();
        meta::rebuild(dir, &self.request.settings, clock, &mut |at| progress(RecoverProgress::Index(at)))?;
        Ok(())
    }

    /// What a primary that rejoins had promised and the history has not.
    async fn old_history(&self, state: &State) -> Result<Option<Rejoined>, RecoveryError> {
        let Some(aside) = state.aside.as_ref().filter(|_| state.rejoined) else { return Ok(None) };
        let dir = &self.request.data_dir;
        let aside = dir.join(aside);
        let shipped = Shipped::read(self.tier, &state.deployment).await?;
        let common = lost::common(&shipped, held_term(&aside)?);
        let clock = Arc::clone(&self.request.clock);
        let found = lost::list(dir, &aside, common, (self.request.settings.clone(), clock))?;
        let list = (found.lost > 0).then(|| dir.join(lost::FILE));
        Ok(Some(Rejoined { aside, lost: found.lost, list, complete: found.complete }))
    }
}

/// Moves what is here away. What was moved by an earlier attempt is not here any more.
fn set_aside(dir: &Path, state: &State) -> Result<(), RecoveryError> {
    let Some(name) = &state.aside else {
        return Err(RecoveryError::Damaged(format!("{} does not say where to put what is here", STANDBY)));
    };
    let aside = dir.join(name);
    std::fs::create_dir_all(&aside).map_err(|e| local("create", &aside, &e))?;
    let past = PAST.iter().filter(|_| state.rejoined);
    for name in NAMESPACE.iter().chain(past) {
        let (from, to) = (dir.join(name), aside.join(name));
        if from.exists() {
            std::fs::rename(&from, &to).map_err(|e| local("move aside", &from, &e))?;
            failpoint::hit("standby.moving_aside");
        }
    }
    sync_dir(&aside)?;
    Ok(sync_dir(dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_written_down() {
        let sample = r#"{"version":1,"from":"ia","deployment":"0123456789abcdef0123456789abcdef","phase":"following","aside":null,"rejoined":false,"last":null}"#;
        let state: State = serde_json::from_str(sample).unwrap();
        assert_eq!(state.phase, StandbyPhase::Following);
        assert_eq!(serde_json::to_string(&state).unwrap(), sample);
        let formats = include_str!("../../../docs/formats.md");
        assert!(formats.contains(sample));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), None);
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), Some(state));
        std::fs::write(dir.path().join(STANDBY), "{").unwrap();
        assert!(State::load(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
